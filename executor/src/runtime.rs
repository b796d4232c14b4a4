//! The wall between the node and what executes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_protocol::task::{Failure, NetworkMode, RuntimeKind, Stream, Usage};
use p2pnode_protocol::{AttemptKey, Gpu, PeerId, Resources};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A program as it stands on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramFile {
    /// A WASM module in a file that only the node can write.
    Wasm {
        /// Where.
        path: PathBuf,
    },
    /// A container image by reference.
    Image {
        /// Its reference.
        reference: String,
    },
}

/// Whether a runtime can run tasks now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeReport {
    /// Its version, or why it cannot run tasks, with the mend.
    pub version: Result<String, String>,
    /// Container images at hand, newest first, at most 64; empty for runtimes without images.
    pub images: Vec<String>,
}

/// How far the preparation of an environment is, in bytes or parts; 0 when not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Done.
    pub done: u64,
    /// Of how much.
    pub total: u64,
}

/// One task to run, all blanks filled in.
#[derive(Debug, Clone)]
pub struct TaskRun {
    /// Who wants it; becomes a label.
    pub submitter: PeerId,
    /// Which attempt; becomes labels and names.
    pub attempt: AttemptKey,
    /// Command and arguments; empty: the program's own.
    pub command: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// The task's own directory on the host: inputs stand in it, outputs are looked for in it. It
    /// exists, belongs to this task alone, and is the only host path that the task may see. Its path
    /// is absolute. What stands in it when the task starts does not count towards its disk limit.
    /// Afterwards it may belong to another user and hold anything, links to anywhere included.
    pub work_dir: PathBuf,
    /// Limits, enforced by the runtime.
    pub resources: Resources,
    /// GPUs given to it.
    pub gpus: Vec<Gpu>,
    /// Longest run; zero: none.
    pub timeout: Duration,
    /// Longest time without output and CPU use; zero: none.
    pub stall: Duration,
    /// What it may reach.
    pub network: NetworkMode,
    /// Whether it runs as root inside its container (already permitted by the owner).
    pub root: bool,
}

/// Bytes that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// On which stream.
    pub stream: Stream,
    /// What, at most 64 KiB.
    pub bytes: Vec<u8>,
}

/// Where a task's output goes while it runs. Bounded: a task that writes faster than its submitter
/// reads is slowed down, never buffered without end.
pub type LogSink = mpsc::Sender<LogChunk>;

/// How a task ended. When this is returned no process of the task is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEnd {
    /// Exit code 0, or why not.
    pub result: Result<(), Failure>,
    /// What it used.
    pub usage: Usage,
}

/// Something that can run tasks.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Which runtime this is.
    fn kind(&self) -> RuntimeKind;

    /// Whether it can run tasks now. Cheap enough to be asked every few seconds.
    async fn probe(&self) -> RuntimeReport;

    /// Makes ready whatever all tasks of a step share: pulls the image, compiles the module.
    /// `progress` may be filled and lag behind; a full channel is not waited for.
    ///
    /// # Errors
    /// A failure whose kind says whether another provider may do better.
    async fn prepare(
        &self,
        program: ProgramFile,
        progress: mpsc::Sender<PrepareProgress>,
    ) -> Result<Arc<dyn Environment>, Failure>;

    /// Removes what an earlier life of this node left behind (containers by label).
    async fn remove_leftovers(&self);

    /// Ends everything: no process, container or temporary file of this runtime is left after it.
    async fn shutdown(&self);
}

/// A prepared environment. Dropping the last handle frees what it holds.
#[async_trait]
pub trait Environment: Send + Sync {
    /// Runs one task to its end. Output goes to `log` as it comes; `cancel` kills the task at once.
    /// Never fails as a call: whatever goes wrong is the task's [`TaskEnd`].
    async fn run(&self, task: TaskRun, log: LogSink, cancel: CancellationToken) -> TaskEnd;
}
