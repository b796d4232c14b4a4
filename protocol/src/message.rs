//! Messages of the task protocol, `/p2pnode/<network>/task/1`.
//!
//! One request-response protocol serves both directions: submitters send offers, heartbeats, cancels
//! and releases; providers send reports. Which of the two a message makes its sender is part of its
//! meaning. Every request may arrive twice (the sender repeats it when no answer came), so every
//! handler must be idempotent.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{AttemptNumber, JobId, StepIndex, TaskIndex};
use crate::manifest::BlobRef;
use crate::task::{Assignment, Decider, Outcome, TaskTemplate, Usage};

/// The largest encoded message, in bytes (4 MiB): 2,000 tasks with a kilobyte of values each and a
/// template fit twice over.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The most tasks in one offer, and the most events in one report.
pub const MAX_BATCH: usize = 2_048;

/// Asks the other side something.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum TaskRequest {
    /// Submitter to provider: run these.
    Offer(Offer),
    /// Submitter to provider: I am alive and still want these jobs; also sent when there is nothing
    /// else to say, at the heartbeat's interval.
    Heartbeat {
        /// Jobs whose lease is renewed, at most [`MAX_BATCH`].
        jobs: Vec<Renewal>,
    },
    /// Submitter to provider: stop these attempts, or the whole job.
    Cancel {
        /// The job.
        job: JobId,
        /// Which attempts; `None` is all of them, and the job is forgotten.
        tasks: Option<Vec<TaskRef>>,
    },
    /// Submitter to provider: these attempts' outputs are safe here, drop them there.
    Collected {
        /// The job.
        job: JobId,
        /// The attempts.
        tasks: Vec<TaskRef>,
    },
    /// Submitter to provider: the job is over, forget all of it.
    Release {
        /// The job.
        job: JobId,
    },
    /// Provider to submitter: what happened.
    Report(Report),
    /// This node stops. To its submitters: its unfinished tasks have to go elsewhere. To its
    /// providers: unless it is back soon, its jobs need not be run on.
    Goodbye,
}

/// A job whose lease is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Renewal {
    /// The job.
    pub job: JobId,
    /// The [`OfferReply::epoch`] under which its tasks were taken there; 0 when the submitter
    /// believes none of its tasks there.
    pub epoch: u64,
}

/// One attempt of a task within a job that the message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TaskRef {
    /// The step.
    pub step: StepIndex,
    /// The task.
    pub index: TaskIndex,
    /// The try.
    pub attempt: AttemptNumber,
}

/// Tasks offered to a provider.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Offer {
    /// The job.
    pub job: JobId,
    /// The step.
    pub step: StepIndex,
    /// The step's template; absent when this provider has already answered an offer of this step.
    pub template: Option<Box<TaskTemplate>>,
    /// The tasks, at most [`MAX_BATCH`].
    pub tasks: Vec<Assignment>,
    /// What the registry of the step's image is to be shown. It comes with every offer, is kept in
    /// memory only, and goes with the job.
    pub login: Option<RegistryLogin>,
}

/// The longest user name or password for a registry, in bytes (16 KiB): cloud registries hand out
/// tokens of some 2 KiB.
pub const MAX_LOGIN_BYTES: usize = 16 << 10;

/// Credentials for a registry. Its text never appears in a log.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RegistryLogin {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl RegistryLogin {
    /// Whether it is short enough to be kept.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.username.len() <= MAX_LOGIN_BYTES && self.password.len() <= MAX_LOGIN_BYTES
    }
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryLogin(..)")
    }
}

/// Events of one job. The numbers serve the acknowledgement; which task and attempt an event is about
/// stands in the event, so that a repeated one is recognised whatever its number.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// Number of the first event, from 1; the others follow without gaps. A number that was not
    /// acknowledged may stand for another event after the provider was restarted.
    pub first: u64,
    /// The events in order, at most [`MAX_BATCH`].
    pub events: Vec<ReportEvent>,
    /// How many tasks of this job the provider can run at the same time now.
    pub slots: u32,
}

/// Something that happened to a task or a step at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ReportEvent {
    /// The step's environment is being prepared.
    Preparing {
        /// The step.
        step: StepIndex,
        /// What is being done.
        phase: Phase,
        /// How much of it is done, in bytes or parts; 0 when not known.
        done: u64,
        /// How much there is, in the same unit; 0 when not known.
        total: u64,
    },
    /// The attempt runs. Left out when its end is in the same report.
    Started(TaskRef),
    /// The attempt ended.
    Finished {
        /// Which.
        task: TaskRef,
        /// How.
        outcome: Outcome,
        /// What it used.
        usage: Usage,
        /// Its outputs; absent when the job wants none, none matched, or it failed.
        outputs: Option<BlobRef>,
        /// How many bytes it wrote to stdout and stderr, so that the submitter knows when its log is
        /// complete.
        log_bytes: u64,
    },
}

/// What a provider does before a job's first task can run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Chunks of inputs arrive.
    Fetching,
    /// The module is compiled.
    Environment,
    /// The image is pulled, when it is not at hand.
    Pulling,
    /// The image is loaded from its archive.
    Loading,
    /// The image is built.
    Building,
    /// Ready: tasks run.
    Ready,
}

/// Answers a [`TaskRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum TaskResponse {
    /// To an offer.
    Offer(OfferReply),
    /// To a heartbeat.
    Heartbeat {
        /// Those of the jobs that this provider does not know, or holds under another epoch: it was
        /// restarted or gave them up, and no task is there but what was reported.
        unknown: Vec<JobId>,
    },
    /// To a report: everything up to this event is stored here.
    Reported {
        /// Number of the last event that is stored.
        through: u64,
    },
    /// To a report of a job that this node does not coordinate: forget it.
    UnknownJob,
    /// To anything else: done.
    Done,
    /// To anything: too much to do, try again.
    Busy,
}

/// What a provider says to an offer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct OfferReply {
    /// How many of the offered tasks were taken, from the first on.
    pub accepted: u32,
    /// Why the others were not.
    pub refusal: Option<Refusal>,
    /// How many tasks of this job can run there at the same time now.
    pub slots: u32,
    /// Names the stretch of time through which this provider has kept every task of this job that
    /// it took, above 0. Another epoch than before tells that earlier tasks are gone unless they
    /// were reported.
    pub epoch: u64,
}

/// Why a provider does not take a task, said so that a person can act on it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Refusal {
    /// The owner has not allowed this submitter.
    #[error(
        "its owner has not allowed this node, and finds the request with `p2pnode requests`; on that \
         machine run: p2pnode allow {submitter}"
    )]
    NotAllowed {
        /// The submitter, as the provider sees it.
        submitter: String,
    },
    /// Nothing is offered there.
    #[error("it offers nothing; on that machine run: p2pnode offer")]
    NotOffering,
    /// The machine can never run such a task.
    #[error("too small: {message}")]
    TooSmall {
        /// What is short.
        message: String,
    },
    /// All slots are taken; some will be free later.
    #[error("full at the moment")]
    Full,
    /// No runtime for this program.
    #[error("it cannot run {runtime} tasks: {message}")]
    NoRuntime {
        /// The runtime that is missing.
        runtime: String,
        /// Why it is missing.
        message: String,
    },
    /// The template is absent and not known there, so the offer must be sent again with it.
    #[error("it does not know the job's template")]
    TemplateNeeded,
    /// The owner does not permit what the job asks for.
    #[error("not permitted there: {message}")]
    NotPermitted {
        /// What is not permitted.
        message: String,
    },
    /// The offer breaks the protocol's rules.
    #[error("the offer is not valid: {message}")]
    Invalid {
        /// Which rule.
        message: String,
    },
    /// What is offered there is not open at the moment, by a rule of its owner's.
    #[error("its offer is closed at the moment: {message}")]
    Closed {
        /// Which rule, and when it opens again if that is known.
        message: String,
    },
    /// The node is stopping.
    #[error("its owner stops it")]
    Stopping,
    /// The node finishes what it has and takes nothing new.
    #[error(
        "its owner drains it: it finishes what it has and takes nothing new; on that machine run: p2pnode drain --off"
    )]
    Draining,
}

impl Refusal {
    /// Whether asking again later, with nothing changed by a person, can succeed.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Full | Self::TemplateNeeded)
    }

    /// Whose doing it is.
    #[must_use]
    pub const fn decider(&self) -> Decider {
        match self {
            Self::NotAllowed { .. }
            | Self::NotOffering
            | Self::NotPermitted { .. }
            | Self::Stopping
            | Self::Closed { .. }
            | Self::Draining => Decider::Owner,
            Self::TooSmall { .. } | Self::Full | Self::NoRuntime { .. } => Decider::Host,
            Self::TemplateNeeded | Self::Invalid { .. } => Decider::Submitter,
        }
    }
}
