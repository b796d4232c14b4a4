//! The runtime under measurement, and one run of a task in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pnode_executor::docker::{DockerConfig, DockerRuntime, ReaperCommand};
use p2pnode_executor::{Environment, Hold, ProgramFile, Runtime, TaskRun};
use p2pnode_protocol::task::{Isolation, NetworkMode};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What everything runs.
pub const IMAGE: &str = "p2pnode-test:1";

/// Pieces of output that wait to be read; a task here says a few lines.
const OUTPUT: usize = 64;

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A runtime with the image ready.
pub struct Rig {
    runtime: DockerRuntime,
    environment: Arc<dyn Environment>,
    /// One for all: only tasks of one submitter share a container.
    submitter: PeerId,
    dir: TempDir,
}

/// When a task began to speak and when it said its last, from its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spoken {
    pub first: Option<Duration>,
    pub last: Option<Duration>,
}

impl Rig {
    pub async fn new() -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let runtime = DockerRuntime::new(DockerConfig {
            node: PeerId::random(),
            incarnation: format!("bench{:08}", std::process::id()),
            reaper: ReaperCommand::this_program("reaper")?,
            dir: dir.path().join("engine"),
            socket: None,
            sandbox: None,
            hard_disk: false,
            image_cache: None,
        });
        let (progress, _) = mpsc::channel(1);
        let program = ProgramFile::Image {
            reference: IMAGE.to_owned(),
            credentials: None,
            local_registry: true,
        };
        let prepared = runtime.prepare(program, progress).await;
        Ok(Self {
            environment: prepared.map_err(|failure| failure.message)?,
            runtime,
            submitter: PeerId::random(),
            dir,
        })
    }

    /// OCI runtimes beside the engine's default.
    pub async fn sandboxes(&self) -> Vec<String> {
        self.runtime.probe().await.features.sandboxes
    }

    /// A work directory of a task's own.
    pub fn work_dir(&self) -> Result<TempDir, Error> {
        Ok(tempfile::tempdir_in(self.dir.path())?)
    }

    /// A task with this command and one CPU.
    pub fn task(&self, command: &[&str], work_dir: &Path, index: u32) -> TaskRun {
        TaskRun {
            submitter: self.submitter,
            attempt: AttemptKey {
                task: TaskKey {
                    job: JobId([0; 8]),
                    step: 0,
                    index,
                },
                attempt: 1,
            },
            command: command.iter().map(|&word| word.into()).collect(),
            env: Vec::new(),
            work_dir: work_dir.to_path_buf(),
            resources: Resources::default(),
            gpus: Vec::new(),
            timeout: Duration::from_secs(600),
            stall: Duration::ZERO,
            network: NetworkMode::None,
            root: false,
            isolation: Isolation::Task,
            sandbox: None,
            attended: false,
            hold: Hold::default(),
        }
    }

    /// Runs a task that must succeed.
    pub async fn run(&self, task: TaskRun) -> Result<Spoken, Error> {
        let (log, mut pieces) = mpsc::channel(OUTPUT);
        let start = Instant::now();
        let listen = async {
            let mut spoken = Spoken::default();
            while pieces.recv().await.is_some() {
                spoken.first.get_or_insert_with(|| start.elapsed());
                spoken.last = Some(start.elapsed());
            }
            spoken
        };
        let run = self.environment.run(task, log, CancellationToken::new());
        let (end, spoken) = tokio::join!(run, listen);
        end.result
            .map(|()| spoken)
            .map_err(|failure| failure.message.into())
    }

    /// Removes all containers.
    pub async fn close(self) {
        drop(self.environment);
        self.runtime.shutdown().await;
    }
}
