//! Outputs that are not what the task was to bring.

#![allow(clippy::unwrap_used)]

use p2pnode_protocol::job::array::Array;
use p2pnode_protocol::job::{Placement, Policy, StepPlan};
use p2pnode_protocol::manifest::{ChunkRef, Entry};
use p2pnode_protocol::task::{Isolation, NetworkMode, Program, TaskTemplate};
use p2pnode_protocol::{Bytes, Resources};
use tokio::sync::broadcast;

use super::*;
use crate::net::{self, NetConfig};
use crate::networks::{NetworkEvents, Networks};
use crate::store::JobLogs;

const JOB: JobId = JobId([7; 8]);

/// A task's disk, in bytes.
const DISK: u64 = 1 << 20;

fn plan() -> Arc<JobPlan> {
    let template = TaskTemplate {
        name: "test".into(),
        step: 0,
        program: Program::Image {
            reference: "none".into(),
        },
        command: vec!["true".into()],
        env: Vec::new(),
        keys: Vec::new(),
        resources: Resources {
            disk: Bytes(DISK),
            ..Resources::default()
        },
        inputs: Vec::new(),
        outputs: vec!["out/**".into()],
        allow_empty_outputs: false,
        timeout_ms: 0,
        stall_ms: 0,
        prepare_timeout_ms: 0,
        keep_ms: 0,
        network: NetworkMode::None,
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
    };
    let step = StepPlan {
        template,
        array: Array {
            keys: Vec::new(),
            chunk: None,
        },
        per_task_inputs: Vec::new(),
        needs: Vec::new(),
        login: None,
    };
    Arc::new(JobPlan {
        name: "test".into(),
        steps: vec![step],
        placement: Placement::default(),
        policy: Policy {
            retries: 0,
            wait_for_peers_ms: 0,
            hand_out: None,
        },
    })
}

/// A node that is its own provider.
struct Rig {
    collecting: Collecting,
    folder: tempfile::TempDir,
    _held: (NetworkEvents, mpsc::Receiver<Internal>),
}

impl Rig {
    async fn new() -> Self {
        let key = libp2p::identity::Keypair::generate_ed25519();
        let started = net::start(NetConfig::in_memory(key, "test")).await;
        let (net, events) = Networks::one(started.unwrap());
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        let blobs = Arc::new(BlobStore::open(&inside("blobs"), Bytes::gib(1)).unwrap());
        let logs = JobLogs::open(&inside("logs")).unwrap();
        let (internal, said) = mpsc::channel(8);
        let collecting = Collecting {
            turns: Turns::default(),
            fetcher: Fetcher::new(net.clone(), blobs.clone()),
            net,
            claims: Arc::new(Claims::open(&inside("claims.db"), &[]).unwrap()),
            blobs,
            hub: LogHub::new(logs, broadcast::channel(8).0),
            internal,
        };
        Self {
            collecting,
            folder,
            _held: (events, said),
        }
    }

    /// Brings outputs that hold `content` at `path` and say that they are `says` bytes.
    async fn bring(&self, path: &str, content: &[u8], says: u64) -> Result<u64, CollectFailure> {
        let task = TaskKey {
            job: JOB,
            step: 0,
            index: 0,
        };
        let attempt = AttemptKey { task, attempt: 1 };
        let store = &self.collecting.blobs;
        let digest = store.put(owner(attempt), content).unwrap();
        let chunks = vec![ChunkRef {
            digest,
            bytes: content.len() as u32,
        }];
        let parts: Vec<&str> = path.split('/').collect();
        let folders = (1..parts.len()).map(|depth| Entry {
            path: parts[..depth].join("/").into_bytes(),
            kind: EntryKind::Folder,
        });
        let file = Entry {
            path: path.as_bytes().to_vec(),
            kind: EntryKind::File {
                executable: false,
                chunks,
            },
        };
        let entries = folders.chain([file]).collect();
        let blob = store
            .put_manifest(owner(attempt), &Manifest { entries })
            .unwrap();
        let errand = Errand {
            peer: self.collecting.net.local_peer_id(),
            attempt,
            outputs: Some(BlobRef {
                content_bytes: says,
                ..blob
            }),
            log_bytes: 0,
            plan: plan(),
            out: Some(self.out()),
        };
        let turn = self.collecting.turns.take(attempt);
        self.collecting.bring(errand, &turn).await
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }
}

#[tokio::test]
async fn what_the_task_was_to_bring_is_written() {
    let rig = Rig::new().await;
    assert_eq!(rig.bring("out/a/file", b"mine", 4).await, Ok(4));
    assert_eq!(
        std::fs::read(rig.out().join("out/a/file")).unwrap(),
        b"mine"
    );
}

#[tokio::test]
async fn what_no_pattern_selects_is_refused_and_not_written() {
    for path in ["else/file", "outside", ".bashrc", "out"] {
        let rig = Rig::new().await;
        let refused = rig.bring(path, b"evil", 4).await.unwrap_err();
        let CollectFailure::Lost(why) = &refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains("no output pattern selects"), "{path}: {why}");
        assert!(!rig.out().exists(), "{path}");
    }
}

#[tokio::test]
async fn outputs_larger_than_the_tasks_disk_are_refused_unseen() {
    let rig = Rig::new().await;
    let refused = rig.bring("out/file", b"evil", DISK + 1).await.unwrap_err();
    let CollectFailure::Lost(why) = &refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("more than the task's disk"), "{why}");
    // And one that says less than it is.
    let large = vec![7; DISK as usize + 1];
    let refused = rig.bring("out/file", &large, 1).await.unwrap_err();
    assert!(matches!(refused, CollectFailure::Lost(_)), "{refused:?}");
    assert!(!rig.out().exists());
}
