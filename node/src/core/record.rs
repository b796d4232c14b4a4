//! What a node remembers: the records that the core asks to store, and the snapshot that they add up
//! to.
//!
//! [`super::snapshot`] says what each record means; the store does the same over its tables.

use std::sync::Arc;

use p2pnode_protocol::api::JobState;
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{ReportEvent, TaskRef};
use p2pnode_protocol::offer::Grant;
use p2pnode_protocol::task::{Outcome, TaskTemplate, Usage};
use p2pnode_protocol::{JobId, PeerId};

use super::io::{HostedJob, Millis, OfferTerms, Requested, RunKey};

/// A change of state to be stored. Each is idempotent: storing it twice is storing it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A job of this node's own.
    Job {
        /// Its id.
        job: JobId,
        /// All about it.
        plan: Arc<JobPlan>,
        /// Its outputs' folder.
        out: Option<String>,
        /// When it was submitted.
        created_ms: Millis,
    },
    /// Tasks went to a peer, or may have.
    Dispatched {
        /// Of this job.
        job: JobId,
        /// To whom.
        peer: PeerId,
        /// Which.
        tasks: Vec<TaskRef>,
    },
    /// An attempt ended and was accepted; `collected` says whether its outputs are here.
    TaskEnded {
        /// Of this job.
        job: JobId,
        /// Which.
        task: TaskRef,
        /// Where.
        peer: PeerId,
        /// How.
        outcome: Outcome,
        /// What it used.
        usage: Usage,
        /// Its outputs.
        outputs: Option<BlobRef>,
        /// Length of its whole log, in bytes.
        log_bytes: u64,
        /// Whether everything of it is here.
        collected: bool,
        /// Whether the task is done for good (otherwise it is tried again).
        last: bool,
    },
    /// A job ended.
    JobEnded {
        /// Which.
        job: JobId,
        /// How.
        state: JobState,
        /// When.
        finished_ms: Millis,
        /// Why.
        notes: Vec<String>,
    },

    /// A step of a peer's job is hosted here.
    Hosted {
        /// Whose job.
        hosted: HostedJob,
        /// All about the step.
        template: Arc<TaskTemplate>,
    },
    /// An event that the submitter has not acknowledged.
    Outbox {
        /// Whose job.
        hosted: HostedJob,
        /// The event's number.
        number: u64,
        /// The event.
        event: ReportEvent,
    },
    /// The submitter has stored everything up to this number.
    Acknowledged {
        /// Whose job.
        hosted: HostedJob,
        /// The last number that is stored there.
        through: u64,
    },
    /// The outputs of an attempt are no longer needed here.
    OutputsDropped(RunKey),
    /// A hosted job is over.
    Unhosted(HostedJob),

    /// What is offered.
    Offer(OfferTerms),
    /// Whether the node finishes what it has and takes nothing new.
    Draining(bool),
    /// Who may run tasks here.
    Allowed {
        /// Who.
        peer: PeerId,
        /// How much; `None`: not at all.
        grant: Option<Grant>,
    },
    /// A peer asked and was not allowed.
    Requested {
        /// Who.
        peer: PeerId,
        /// What for; `None`: its request is answered, or given up.
        request: Option<Requested>,
    },
}

/// Everything that was stored, as a node that starts finds it. Lists are in the order of storing.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Own jobs that are not over, and of those that are the newest 1,000.
    pub jobs: Vec<StoredJob>,
    /// Hosted jobs.
    pub hosted: Vec<StoredHosted>,
    /// What was offered last.
    pub offer: Option<OfferTerms>,
    /// Whether the node drains.
    pub draining: bool,
    /// Who may run tasks here, and how much.
    pub allowed: Vec<(PeerId, Grant)>,
    /// Who asked and was not allowed.
    pub requests: Vec<(PeerId, Requested)>,
}

/// One of this node's own jobs.
#[derive(Debug, Clone)]
pub struct StoredJob {
    /// Its id.
    pub job: JobId,
    /// All about it.
    pub plan: Arc<JobPlan>,
    /// Its outputs' folder.
    pub out: Option<String>,
    /// When it was submitted.
    pub created_ms: Millis,
    /// Its end, when it is over: state, time, notes.
    pub ended: Option<(JobState, Millis, Vec<String>)>,
    /// [`Record::Dispatched`] as peer and tasks.
    pub dispatched: Vec<(PeerId, Vec<TaskRef>)>,
    /// [`Record::TaskEnded`]s.
    pub ends: Vec<StoredEnd>,
}

/// A stored [`Record::TaskEnded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnd {
    /// Which attempt.
    pub task: TaskRef,
    /// Where.
    pub peer: PeerId,
    /// How.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// Its outputs.
    pub outputs: Option<BlobRef>,
    /// Length of its whole log, in bytes.
    pub log_bytes: u64,
    /// Whether everything of it is here.
    pub collected: bool,
    /// Whether the task is done for good.
    pub last: bool,
}

/// A hosted job with what its submitter has not acknowledged.
#[derive(Debug, Clone)]
pub struct StoredHosted {
    /// Whose.
    pub hosted: HostedJob,
    /// Its steps' templates.
    pub templates: Vec<Arc<TaskTemplate>>,
    /// The last acknowledged event.
    pub acknowledged: u64,
    /// Events after it, with their numbers, in order.
    pub outbox: Vec<(u64, ReportEvent)>,
    /// Attempts that ended well with outputs that have not been dropped, and those outputs.
    pub kept: Vec<(RunKey, BlobRef)>,
}
