//! Runs whose inputs do not come, or are too large.

#![allow(clippy::unwrap_used)]

use p2pnode_protocol::manifest::{Entry, EntryKind, Manifest};
use p2pnode_protocol::task::{InputBinding, InputSource, Isolation, NetworkMode, Program};
use p2pnode_protocol::{AttemptKey, Bytes, Digest, JobId, PeerId, Resources, TaskKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::actor::Internal;
use super::super::fetching::Fetcher;
use super::super::loghub::LogHub;
use super::super::logpipe::LogTarget;
use super::super::preparing::fit;
use super::readying::{Writing, prepare};
use super::*;
use crate::blobs::BlobStore;
use crate::exec::{Exec, WorkDirs};
use crate::net::{self, NetConfig};
use crate::networks::{NetworkEvents, Networks};

const JOB: JobId = JobId([7; 8]);

const BLOB: BlobRef = BlobRef {
    digest: Digest([1; 32]),
    manifest_bytes: 100,
    content_bytes: 100,
};

/// Longer than any of these takes, shorter than a stream that stands still is waited for.
const LIMIT: Duration = Duration::from_secs(20);

fn template(prepare_timeout_ms: u64) -> TaskTemplate {
    TaskTemplate {
        name: "test".into(),
        step: 0,
        program: Program::Image {
            reference: "none".into(),
        },
        command: vec!["true".into()],
        env: Vec::new(),
        keys: Vec::new(),
        resources: Resources::default(),
        inputs: vec![InputBinding {
            path: "in".into(),
            source: InputSource::PerTask(0),
        }],
        outputs: Vec::new(),
        allow_empty_outputs: false,
        timeout_ms: 0,
        stall_ms: 0,
        prepare_timeout_ms,
        keep_ms: 0,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    }
}

async fn node(bootstrap: &[libp2p::Multiaddr]) -> (Networks, NetworkEvents) {
    let key = libp2p::identity::Keypair::generate_ed25519();
    let config = NetConfig {
        bootstrap: bootstrap.to_vec(),
        ..NetConfig::in_memory(key, "test")
    };
    Networks::one(net::start(config).await.unwrap())
}

/// A provider and a submitter that is there and never answers.
struct Rig {
    context: HostContext,
    submitter: PeerId,
    folder: tempfile::TempDir,
    _held: (
        Networks,
        NetworkEvents,
        NetworkEvents,
        tokio::sync::mpsc::Receiver<Internal>,
    ),
}

impl Rig {
    async fn new() -> Self {
        let (submitter, silent) = node(&[]).await;
        let (net, events) = node(&submitter.members()[0].net().listen_addresses()).await;
        while !net.peers().await.iter().any(|(_, peer)| peer.connected) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(BlobStore::open(&folder.path().join("blobs"), Bytes::gib(1)).unwrap());
        let logs = crate::store::JobLogs::open(&folder.path().join("logs")).unwrap();
        let (internal, said) = tokio::sync::mpsc::channel(8);
        let context = HostContext {
            meter: super::super::meter::Meter::new(),
            exec: Exec::new(Vec::new()),
            dirs: WorkDirs::new(folder.path().join("work")),
            blobs: blobs.clone(),
            fetcher: Fetcher::new(net.clone(), blobs),
            disk: super::super::diskroom::DiskRoom::default(),
            log_target: LogTarget {
                me: net.local_peer_id(),
                net,
                hub: LogHub::new(logs, tokio::sync::broadcast::channel(1).0),
            },
            doors: crate::tunnels::Doors::default(),
            internal,
        };
        Self {
            context,
            submitter: submitter.local_peer_id(),
            folder,
            _held: (submitter, events, silent, said),
        }
    }

    fn key(&self) -> RunKey {
        let task = TaskKey {
            job: JOB,
            step: 0,
            index: 0,
        };
        RunKey {
            submitter: self.submitter,
            attempt: AttemptKey { task, attempt: 1 },
        }
    }

    /// Prepares a run until `control` or the time limit ends it.
    async fn prepare(&self, prepare_timeout_ms: u64, control: RunControl) -> Failure {
        let template = Arc::new(template(prepare_timeout_ms));
        let assignment = Assignment {
            index: 0,
            attempt: 1,
            values: Vec::new(),
            inputs: vec![BLOB],
        };
        let form = p2pnode_protocol::job::TaskForm::new(&template).unwrap();
        let rendered = form.render(&assignment, JOB).unwrap();
        let dirs = self.context.dirs.of_job(&self.key().hosted());
        let step = Step::new(dirs, 1, TaskTracker::new());
        let run = Run {
            key: self.key(),
            template,
            assignment,
            gpus: Vec::new(),
            limits: RunLimits::default(),
            step: None,
            log: None,
            control,
        };
        let preparing = prepare(&self.context, &run, &step, &rendered);
        let prepared = tokio::time::timeout(LIMIT, preparing).await;
        prepared.expect("it waits for ever").unwrap_err()
    }
}

#[tokio::test]
async fn a_run_that_waits_for_its_inputs_can_be_killed() {
    let rig = Rig::new().await;
    let mut runs = crate::exec::Runs::default();
    let key = rig.key();
    let about = crate::exec::RunAbout {
        template: Arc::new(template(0)),
        gpus: Vec::new(),
        since_ms: 0,
    };
    let control = runs.add(key, about);
    let why = Failure::new(FailureKind::Cancelled, "not wanted");
    let killing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        runs.kill(&key, why.clone());
    };
    let (failure, ()) = tokio::join!(rig.prepare(0, control), killing);
    assert_eq!(failure, why);
}

#[tokio::test]
async fn inputs_that_do_not_come_in_time_end_the_run() {
    let rig = Rig::new().await;
    let failure = rig.prepare(200, RunControl::default()).await;
    assert!(
        failure.message.contains("policy.prepare_timeout"),
        "{failure:?}"
    );
    assert!(!rig.folder.path().join("work").exists());
}

#[test]
fn inputs_count_together_towards_the_disk() {
    let gigabyte = BlobRef {
        content_bytes: 1 << 30,
        ..BLOB
    };
    assert_eq!(fit([gigabyte], Bytes::gib(1)), Ok(()));
    let failure = fit([gigabyte, gigabyte], Bytes::gib(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("2 GiB"), "{}", failure.message);
}

#[test]
fn a_list_that_is_named_often_counts_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(BlobStore::open(&folder.path().join("blobs"), Bytes::gib(1)).unwrap());
    let empty = |number: u32| Entry {
        path: number.to_string().into_bytes(),
        kind: EntryKind::Folder,
    };
    let manifest = Manifest {
        entries: (1..5).map(empty).collect(),
    };
    let owner = blobs::PinOwner::job(blobs::PinScope::Own(JOB));
    let blob = store.put_manifest(owner, &manifest).unwrap();
    let write = |count: u32, max_entries| {
        let work = tempfile::tempdir_in(&folder).unwrap();
        let writing = Writing {
            store: store.clone(),
            disk: super::super::diskroom::DiskRoom::default(),
            inputs: (0..count)
                .map(|number| (number.to_string().into_bytes(), blob))
                .collect(),
            max_bytes: 0,
            max_entries,
            stop: CancellationToken::new(),
        };
        let written = writing.run(work.path()).map_err(|error| error.failure);
        written.map(|()| std::fs::read_dir(&work).unwrap().count())
    };
    assert_eq!(write(3, 12), Ok(3));
    // Four folders each time, and no bytes at all.
    let failure = write(3, 11).unwrap_err();
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("11 files"), "{failure:?}");
}

#[test]
fn an_input_that_is_gone_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = BlobStore::open(&folder.path().join("blobs"), Bytes::gib(1)).unwrap();
    let writing = Writing {
        store: Arc::new(store),
        disk: super::super::diskroom::DiskRoom::default(),
        inputs: vec![(b"in".to_vec(), BLOB)],
        max_bytes: 1_000,
        max_entries: 10,
        stop: CancellationToken::new(),
    };
    let missing = writing.run(folder.path()).map_err(|error| error.missing);
    assert_eq!(missing, Err(Some(0)));
}
