//! The wall between the node and what executes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_protocol::task::{Failure, Isolation, NetworkMode, RuntimeKind, Stream, Usage};
use p2pnode_protocol::{AttemptKey, Gpu, PeerId, Resources};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::inside::Inside;

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
        /// What the registry is shown when it has to be pulled.
        credentials: Option<Credentials>,
        /// Whether it may come from a registry on this machine or its network: when the node's owner
        /// has named it, or asks himself. Others' images come from public registries, or a job could
        /// knock at every door behind the owner's firewall.
        local_registry: bool,
    },
    /// A container image in an archive, as `docker save` writes it or as an OCI layout in a tar file.
    Archive {
        /// The archive, which only the node can write.
        path: PathBuf,
        /// Its content's digest in hex: names it in the image cache.
        digest: String,
    },
    /// A container image to be built.
    Build {
        /// The folder of the build's context, which only the node can write and which holds anything.
        context: PathBuf,
        /// Path of the Dockerfile within it.
        dockerfile: String,
        /// The context's digest in hex: names the image in the image cache.
        digest: String,
        /// Limits of every step of the build.
        resources: Resources,
        /// As for an image by reference: of what the build names.
        local_registry: bool,
    },
}

/// What a registry is shown for a private image. Never written anywhere, nor shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// Whether a runtime can run tasks now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeReport {
    /// Its version, or why it cannot run tasks, with the mend.
    pub version: Result<String, String>,
    /// Container images at hand, newest first, at most 64; empty for runtimes without images.
    pub images: Vec<String>,
    /// What it can do beyond the least.
    pub features: Features,
}

/// What a runtime can do on this machine beyond running a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Names of the OCI runtimes that a job can insist on.
    pub sandboxes: Vec<String>,
    /// Whether a task's disk limit is one that it cannot go over even for a moment.
    pub hard_disk: bool,
    /// Whether tasks can have a way out through the node's proxy, or why not, with the mend.
    pub egress: Option<Result<(), String>>,
    /// Whether it can freeze tasks.
    pub pause: bool,
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
    /// Whether it may follow other tasks of its job in a warm container.
    pub isolation: Isolation,
    /// The OCI runtime that it must run under; absent: the runtime's own choice.
    pub sandbox: Option<String>,
    /// Whether somebody attends to it: nothing is started but what keeps its sandbox, until the first
    /// [`Inside::exec`]; the task ends as that command ends. With an empty command that is the task's
    /// own. A task that nobody attends to within a minute fails.
    pub attended: bool,
    /// The owner's hold on it.
    pub hold: Hold,
}

/// What a task uses at the moment. Zero what is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveUsage {
    /// CPU time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Highest memory so far, in bytes.
    pub memory_peak: u64,
    /// What it has written to its work directory, in bytes.
    pub disk: u64,
    /// Bytes through the node's proxy so far, both ways.
    pub network_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Whether it is frozen.
    pub paused: bool,
}

/// The owner's hold on a running task: to freeze it, to see what it uses, and the way in.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Whether it is to be frozen. Its time-outs do not run meanwhile.
    pub pause: watch::Receiver<bool>,
    /// What it uses, told now and then by a runtime that can tell.
    pub usage: Arc<watch::Sender<LiveUsage>>,
    /// The way in while its process runs, for a runtime whose sandbox can be entered.
    pub inside: Arc<watch::Sender<Option<Arc<dyn Inside>>>>,
}

impl Default for Hold {
    /// Nobody holds it.
    fn default() -> Self {
        Self {
            pause: watch::channel(false).1,
            usage: Arc::new(watch::channel(LiveUsage::default()).0),
            inside: Arc::new(watch::channel(None).0),
        }
    }
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

    /// What a task that succeeded wrote has been read: frees what still holds it. To be called for its
    /// work directory after every run, before the directory is removed.
    async fn release(&self, _work_dir: &Path) {}
}
