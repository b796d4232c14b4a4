//! What the local API says, in JSON. The command line, the web page and every other client speak
//! only these.
//!
//! Times are milliseconds since the Unix epoch, durations are milliseconds, sizes are bytes, CPUs
//! are thousandths; peers and jobs are text. Clients must ignore fields that they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{JobId, TaskKey};
use crate::message::{Phase, Refusal};
use crate::resources::Capacity;
use crate::stream::LogFrame;
use crate::task::{Failure, RuntimeKind, Stream, Usage};

/// Who this node is and what it does. `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Its peer id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The network it is in.
    pub network: String,
    /// Addresses it listens on.
    pub listen: Vec<String>,
    /// Addresses that others have seen or that are confirmed.
    pub external: Vec<String>,
    /// Since when it runs.
    pub started_ms: u64,
    /// Its data directory.
    pub data_dir: String,
    /// Peers with an open connection.
    pub peers_connected: u32,
    /// Peers whose adverts are known.
    pub peers_known: u32,
    /// What it offers; absent when it offers nothing.
    pub offer: Option<OfferStatus>,
    /// Tasks of its own jobs that are not done.
    pub own_tasks_open: u64,
    /// Resident memory of the node's process, in bytes; 0 where the system does not tell.
    pub memory: u64,
}

/// What a node offers and what of it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferStatus {
    /// Everything offered.
    pub total: Capacity,
    /// What is free.
    pub free: Capacity,
    /// Whether anyone may run tasks here.
    pub allow_any: bool,
    /// Runtimes and why one is missing.
    pub runtimes: Vec<RuntimeStatus>,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that wait for a slot.
    pub queued: u32,
}

/// One runtime of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuntimeStatus {
    /// Which.
    pub runtime: RuntimeKind,
    /// Its version; absent when it is not there.
    pub version: Option<String>,
    /// Why it is not there.
    pub problem: Option<String>,
}

/// What is to be offered from now on. `PUT /api/v1/offer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OfferRequest {
    /// CPUs in thousandths; absent: all but one.
    pub cpus_milli: Option<u32>,
    /// Memory in bytes; absent: three quarters.
    pub memory: Option<u64>,
    /// Disk in bytes; absent: half of what is free.
    pub disk: Option<u64>,
    /// How many GPUs; absent: none.
    pub gpus: Option<u16>,
    /// Peers to allow from now on.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether anyone may run tasks here.
    #[serde(default)]
    pub allow_any: bool,
}

/// A peer as this node knows it. `GET /api/v1/peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerInfo {
    /// Its id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Addresses known for it.
    pub addresses: Vec<String>,
    /// What it offers; absent until an advert came.
    pub capacity: Option<Capacity>,
    /// What is free of it.
    pub free: Option<Capacity>,
    /// Runtimes that it says it has.
    pub executors: Vec<RuntimeKind>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Round trip, in milliseconds; absent when not connected or not yet measured.
    pub rtt_ms: Option<f64>,
    /// Whether it may run tasks here.
    pub allowed: bool,
    /// Whether a connection is open.
    pub connected: bool,
    /// When it was last heard of.
    pub last_seen_ms: u64,
}

/// A job to be run. `POST /api/v1/jobs`; with `Accept: text/event-stream` the answer is the job's
/// events from the first on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateJob {
    /// The text of `job.toml`.
    pub toml: String,
    /// Absolute folder that the file's paths are relative to.
    pub folder: String,
    /// The file's name, for messages.
    pub file: String,
    /// Only these peers, in place of the file's.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Absolute folder for the outputs.
    pub out: Option<String>,
    /// When `out` is absent: absolute folder in which the outputs get a folder `<name>-<job>`. When
    /// both are absent, outputs stay in the node's own job folder.
    pub out_parent: Option<String>,
    /// How long to wait for a peer that fits, in milliseconds; absent: 15 seconds.
    pub wait_for_peers_ms: Option<u64>,
}

/// What came of [`CreateJob`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobCreated {
    /// Its id.
    pub job: String,
}

/// How far a job is. `GET /api/v1/jobs`, `GET /api/v1/jobs/{job}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobInfo {
    /// Its id.
    pub job: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: JobState,
    /// Since when.
    pub created_ms: u64,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// Its tasks.
    pub tasks: TaskCounts,
    /// Tasks succeeded by peer.
    pub peers: BTreeMap<String, u64>,
    /// Where outputs go.
    pub out: Option<String>,
    /// What its tasks used together.
    pub usage: JobUsage,
    /// Why it failed, or why it waits: one line for each peer or failed task, at most 20.
    pub notes: Vec<String>,
    /// Whether it failed because no peer fitted.
    pub no_peer: bool,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// No peer has taken a task yet.
    Waiting,
    /// Tasks are out.
    Running,
    /// All tasks succeeded.
    Succeeded,
    /// At least one task failed for good, or no peer fitted.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// Tasks by state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Default, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskCounts {
    /// All.
    pub total: u64,
    /// Not handed out.
    pub pending: u64,
    /// Handed out, not known to run.
    pub queued: u64,
    /// Running.
    pub running: u64,
    /// Done, outputs here.
    pub succeeded: u64,
    /// Failed for good.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// How often a task was moved to another peer.
    pub moved: u64,
}

/// What a job used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobUsage {
    /// CPU time of all tasks, in milliseconds.
    pub cpu_ms: u64,
    /// Run time of all tasks together, in milliseconds.
    pub task_ms: u64,
    /// Bytes of inputs sent.
    pub bytes_sent: u64,
    /// Bytes of outputs received.
    pub bytes_received: u64,
}

/// One task. `GET /api/v1/jobs/{job}/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskInfo {
    /// Its id, `JOB/INDEX`.
    pub task: String,
    /// Where it is.
    pub state: TaskState,
    /// The last try, counted from 1; 0 when it was never handed out.
    pub attempt: u32,
    /// Who has it or had it.
    pub peer: Option<String>,
    /// Values of the array's keys.
    pub values: BTreeMap<String, String>,
    /// Why its last try failed.
    pub failure: Option<Failure>,
    /// What its last try used.
    pub usage: Option<Usage>,
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Not handed out.
    Pending,
    /// Handed out.
    Queued,
    /// Running.
    Running,
    /// Ended well at the provider; its outputs are on the way.
    Collecting,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// Why a request failed. Sent with a 4xx or 5xx status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence for people.
    pub message: String,
    /// One line for each fault.
    #[serde(default)]
    pub details: Vec<String>,
}

/// Sorts of error; the command line's exit code follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request or the job file is wrong.
    Invalid,
    /// No such job, task or peer.
    NotFound,
    /// A selector fits several.
    Ambiguous,
    /// The token is missing or wrong.
    Unauthorized,
    /// No peer fits.
    NoPeer,
    /// The node is stopping or too busy.
    Unavailable,
    /// A fault of the node's own.
    Internal,
}

/// Something that happened. `GET /api/v1/events`, `GET /api/v1/jobs/{job}/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A job was stored; the first event of a job's stream.
    JobCreated {
        /// The job.
        job: String,
        /// Its name.
        name: String,
        /// Its tasks.
        tasks: u64,
        /// Where outputs go.
        out: Option<String>,
    },
    /// How far a running job is: the first event of a stream that is opened later.
    JobProgress {
        /// The job.
        info: Box<JobInfo>,
    },
    /// A peer took or refused tasks.
    PeerAnswered {
        /// The job.
        job: String,
        /// The peer.
        peer: String,
        /// How many it took.
        accepted: u32,
        /// Why not all.
        refusal: Option<Refusal>,
        /// The same in words.
        message: Option<String>,
    },
    /// Input chunks went to a peer, or the peer makes the environment.
    Preparing {
        /// The job.
        job: String,
        /// The peer.
        peer: String,
        /// What it does.
        phase: Phase,
        /// Done, in bytes or parts; 0 when not known.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// A task runs.
    TaskStarted {
        /// The job.
        job: String,
        /// The task, `JOB/INDEX`.
        task: String,
        /// The try.
        attempt: u32,
        /// Where.
        peer: String,
    },
    /// An attempt ended. `state` is `succeeded`, `failed`, `cancelled`, or `pending` when it is tried again.
    TaskFinished {
        /// The job.
        job: String,
        /// The task, `JOB/INDEX`.
        task: String,
        /// The try.
        attempt: u32,
        /// Where.
        peer: String,
        /// Where the task is now.
        state: TaskState,
        /// Why it failed.
        failure: Option<Failure>,
        /// What it used.
        usage: Usage,
    },
    /// A task left a lost or refusing peer and waits for another.
    TaskMoved {
        /// The job.
        job: String,
        /// The task, `JOB/INDEX`.
        task: String,
        /// Whence.
        peer: String,
    },
    /// Something a task wrote. Bytes that are not UTF-8 are replaced.
    Log {
        /// The job.
        job: String,
        /// The task, `JOB/INDEX`.
        task: String,
        /// The try.
        attempt: u32,
        /// Which stream.
        stream: Stream,
        /// What.
        text: String,
    },
    /// A peer that had tasks of the job is gone.
    PeerLost {
        /// The job.
        job: String,
        /// The peer.
        peer: String,
        /// How many tasks move.
        tasks: u32,
    },
    /// A peer that fits was seen for the first time, or again.
    PeerFound {
        /// The peer.
        peer: String,
        /// Its name.
        name: String,
    },
    /// The job waits, and why each known peer does not fit.
    JobWaiting {
        /// The job.
        job: String,
        /// One line a peer.
        reasons: Vec<String>,
    },
    /// The last event of a job.
    JobFinished {
        /// The job.
        job: String,
        /// `succeeded`, `failed` or `cancelled`.
        state: JobState,
        /// Its tasks.
        tasks: TaskCounts,
        /// Tasks succeeded by peer.
        peers: BTreeMap<String, u64>,
        /// What they used.
        usage: JobUsage,
        /// From submit to now, in milliseconds.
        wall_ms: u64,
        /// Where the outputs are.
        out: Option<String>,
        /// Why it failed.
        notes: Vec<String>,
        /// Whether no peer fitted, the reason of exit code 3.
        no_peer: bool,
    },
    /// This client read too slowly and so many events are missing.
    Missed {
        /// How many.
        events: u64,
    },
}

/// Whether a peer could run a job. `POST /api/v1/fit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerFit {
    /// The peer.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// How many tasks it could run at the same time, as its last advert says.
    pub slots: u32,
    /// Why none.
    pub reason: Option<String>,
}

/// Part of a log. `GET /api/v1/jobs/{job}/logs?task=&from=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntries {
    /// In order of arrival.
    pub entries: Vec<LogEntry>,
    /// Where to go on reading; the same as `from` when nothing new is there.
    pub next: u64,
}

/// Something a task wrote. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// The task, `JOB/INDEX`.
    pub task: String,
    /// The try.
    pub attempt: u32,
    /// Which stream.
    pub stream: Stream,
    /// What.
    pub text: String,
}

impl LogEntry {
    /// A frame as the API shows it.
    #[must_use]
    pub fn of(job: JobId, frame: &LogFrame) -> Self {
        let task = TaskKey {
            job,
            step: frame.step,
            index: frame.index,
        };
        Self {
            task: task.to_string(),
            attempt: frame.attempt,
            stream: frame.stream,
            text: String::from_utf8_lossy(&frame.bytes).into_owned(),
        }
    }
}

impl Event {
    /// The job it belongs to.
    #[must_use]
    pub fn job(&self) -> Option<&str> {
        match self {
            Self::JobCreated { job, .. }
            | Self::PeerAnswered { job, .. }
            | Self::Preparing { job, .. }
            | Self::TaskStarted { job, .. }
            | Self::TaskFinished { job, .. }
            | Self::TaskMoved { job, .. }
            | Self::Log { job, .. }
            | Self::PeerLost { job, .. }
            | Self::JobWaiting { job, .. }
            | Self::JobFinished { job, .. } => Some(job),
            Self::JobProgress { info } => Some(&info.job),
            Self::PeerFound { .. } | Self::Missed { .. } => None,
        }
    }
}
