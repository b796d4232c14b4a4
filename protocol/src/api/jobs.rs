//! Jobs: what is asked for, how far they are, what their tasks do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{Decider, Failure, Usage};

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
    /// Only these peers, in place of the file's: ids, or what selects one.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Absolute folder for the outputs.
    pub out: Option<String>,
    /// When `out` is absent: absolute folder in which the outputs get a folder `<name>-<job>`. When
    /// both are absent, outputs stay in the node's own job folder.
    pub out_parent: Option<String>,
    /// How long to wait for a peer that fits, in milliseconds; absent: what the file says, else
    /// what the node's settings say.
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
    /// Energy of the tasks whose providers could tell it, in millijoules; absent when none could.
    #[serde(default)]
    pub energy_mj: Option<u64>,
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
    /// Whose doing that was.
    #[serde(default)]
    pub decided_by: Option<Decider>,
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
