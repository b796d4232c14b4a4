//! What happens, as it happens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::jobs::{JobInfo, JobState, JobUsage, TaskCounts, TaskState};
use crate::message::{Phase, Refusal};
use crate::task::{Decider, Failure, Stream, Usage};

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
        /// Whose doing that was.
        #[serde(default)]
        decided_by: Option<Decider>,
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
        /// What became of it, in a sentence.
        #[serde(default)]
        why: String,
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
