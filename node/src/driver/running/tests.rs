//! Runs whose inputs do not come, or are too large.

#![allow(clippy::unwrap_used)]

use p2pnode_protocol::manifest::{Entry, EntryKind, Manifest};
use p2pnode_protocol::task::{InputBinding, InputSource, Isolation, NetworkMode, Program};
use p2pnode_protocol::{AttemptKey, Bytes, Digest, JobId, PeerId, Resources, TaskKey};
use tokio_util::task::TaskTracker;

use super::super::actor::Internal;
use super::super::fetching::Fetcher;
use super::super::loghub::LogHub;
use super::super::logpipe::LogTarget;
use super::super::preparing::fit;
use super::readying::prepare;
use super::*;
use crate::blobs::BlobStore;
use crate::exec::{Exec, WorkDirs};
use crate::net::{self, NetConfig, NetEvents, NetHandle};

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

async fn node(bootstrap: &[libp2p::Multiaddr]) -> (NetHandle, NetEvents) {
    let key = libp2p::identity::Keypair::generate_ed25519();
    let config = NetConfig {
        bootstrap: bootstrap.to_vec(),
        ..NetConfig::in_memory(key, "test")
    };
    net::start(config).await.unwrap()
}

/// A provider and a submitter that is there and never answers.
struct Rig {
    context: HostContext,
    submitter: PeerId,
    folder: tempfile::TempDir,
    _held: (
        NetHandle,
        NetEvents,
        NetEvents,
        tokio::sync::mpsc::Receiver<Internal>,
    ),
}

impl Rig {
    async fn new() -> Self {
        let (submitter, silent) = node(&[]).await;
        let (net, events) = node(&submitter.listen_addresses()).await;
        while !net.peers().await.iter().any(|peer| peer.connected) {
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

/// A run of this node's own whose input `paths` are all the same folder of `count` empty ones.
async fn with_folders(count: usize, paths: usize) -> Result<PathBuf, Failure> {
    let mut rig = Rig::new().await;
    rig.submitter = rig.context.log_target.me;
    let folder = |number| Entry {
        path: format!("{number:06}").into_bytes(),
        kind: EntryKind::Folder,
    };
    let manifest = Manifest {
        entries: (0..count).map(folder).collect(),
    };
    let owner = blobs::PinOwner::job(rig.key().hosted().scope());
    let blob = rig.context.blobs.put_manifest(owner, &manifest).unwrap();
    let mut template = template(0);
    template.inputs = (0..paths)
        .map(|number| InputBinding {
            path: format!("in-{number}"),
            source: InputSource::PerTask(0),
        })
        .collect();
    let assignment = Assignment {
        index: 0,
        attempt: 1,
        values: Vec::new(),
        inputs: vec![blob],
    };
    let form = p2pnode_protocol::job::TaskForm::new(&template).unwrap();
    let rendered = form.render(&assignment, JOB).unwrap();
    let dirs = rig.context.dirs.of_job(&rig.key().hosted());
    let step = Step::new(dirs, 1, TaskTracker::new());
    let run = Run {
        key: rig.key(),
        template: Arc::new(template),
        assignment,
        gpus: Vec::new(),
        limits: RunLimits::default(),
        step: None,
        log: None,
        control: RunControl::default(),
    };
    let made = prepare(&rig.context, &run, &step, &rendered).await?;
    assert_eq!(std::fs::read_dir(&made).unwrap().count(), paths);
    Ok(made)
}

#[tokio::test]
async fn a_list_that_is_named_often_counts_each_time() {
    with_folders(10, 3).await.unwrap();
    // One more than a million, of no bytes at all.
    let failure = with_folders(250_001, 4).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("1000000 files"), "{failure:?}");
}
