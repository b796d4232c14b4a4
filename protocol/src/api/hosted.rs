//! Tasks of others that run here, and what the owner does to them.

use serde::{Deserialize, Serialize};

use crate::message::Phase;
use crate::task::RuntimeKind;

/// What runs and waits on this machine. `GET /api/v1/hosted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedTasks {
    /// Whether the node finishes what it has and takes nothing new.
    pub draining: bool,
    /// Tasks that run or are about to, the oldest first; at most as many as may run at once (1,024).
    pub tasks: Vec<HostedTask>,
    /// Jobs with tasks that wait for a slot.
    pub waiting: Vec<HostedWaiting>,
}

/// One task that has a slot here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedTask {
    /// Its id, `JOB/INDEX`, as its submitter has it.
    pub task: String,
    /// Which try.
    pub attempt: u32,
    /// Who submitted it.
    pub peer: String,
    /// What that peer calls itself; empty when it is not known.
    pub peer_name: String,
    /// The job.
    pub job: String,
    /// What its submitter calls the job.
    pub job_name: String,
    /// What runs it.
    pub runtime: RuntimeKind,
    /// What runs: the image's reference, or what stands in its place.
    pub program: String,
    /// What it does.
    pub state: HostedState,
    /// Since when it has its slot.
    pub since_ms: u64,
    /// CPUs given to it, in thousandths.
    pub cpus_milli: u32,
    /// Memory given to it, in bytes.
    pub memory: u64,
    /// Disk given to it, in bytes.
    pub disk: u64,
    /// GPUs given to it.
    pub gpus: Vec<HostedGpu>,
    /// What it may reach: `none`, or the names.
    pub network: String,
    /// What it uses, as far as its runtime tells; absent when it tells nothing.
    pub now: Option<HostedUse>,
}

/// What a task with a slot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HostedState {
    /// Its inputs are made ready.
    Preparing,
    /// It runs.
    Running,
    /// The owner froze it.
    Paused,
}

/// A GPU, or a share of one, that a task has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedGpu {
    /// The driver's UUID.
    pub uuid: String,
    /// The product's name.
    pub model: String,
    /// How much of it, in thousandths.
    pub milli: u16,
}

/// What a task uses at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedUse {
    /// CPU time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Highest memory so far, in bytes.
    pub memory_peak: u64,
    /// What it has written, in bytes.
    pub disk: u64,
    /// Bytes through the node's proxy, both ways.
    pub network_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
}

/// Tasks of a job that wait for a slot here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedWaiting {
    /// Who submitted it.
    pub peer: String,
    /// What that peer calls itself; empty when it is not known.
    pub peer_name: String,
    /// The job.
    pub job: String,
    /// What its submitter calls the job.
    pub job_name: String,
    /// How many tasks.
    pub tasks: u32,
    /// What is done to make their environment, when that is what they wait for.
    #[serde(default)]
    pub preparing: Option<Phase>,
}

/// Which tasks the owner means. `POST /api/v1/hosted/kill`, `.../pause`, `.../resume`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedRequest {
    /// A task `JOB/INDEX`, a job (the beginning of its id), or a peer (its id, a long part of
    /// it, or the name of one that was allowed). Absent: all, which only `pause` and `resume` take.
    pub target: Option<String>,
    /// Only tasks of this peer's: for when two submitters' jobs have ids that begin alike.
    #[serde(default)]
    pub peer: Option<String>,
    /// Why, in the owner's words; the submitter reads it. Only with `kill`.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What was done to which tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedDone {
    /// What was meant: `task`, `job`, `peer` or `all`.
    pub meant: String,
    /// The peer, when another peer was meant.
    pub peer: Option<String>,
    /// Running tasks that it was done to.
    pub tasks: Vec<HostedName>,
    /// Waiting tasks that were sent back with it.
    pub waiting: u32,
    /// Running tasks that it could not be done to.
    pub unable: Vec<HostedUnable>,
}

/// Names a task here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedName {
    /// The task, `JOB/INDEX`.
    pub task: String,
    /// Who submitted it.
    pub peer: String,
}

/// A task that something could not be done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostedUnable {
    /// The task, `JOB/INDEX`.
    pub task: String,
    /// Who submitted it.
    pub peer: String,
    /// Why not.
    pub why: String,
}

/// Whether the node is to finish what it has and take nothing new. `PUT /api/v1/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainRequest {
    /// Whether.
    pub on: bool,
}

/// How far a drain is. Answers `PUT` and `GET /api/v1/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainStatus {
    /// Whether the node drains.
    pub draining: bool,
    /// Tasks that still run.
    pub running: u32,
    /// Tasks that wait for a slot; none while the node drains.
    pub waiting: u32,
}
