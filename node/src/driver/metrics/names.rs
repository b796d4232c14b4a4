//! Names for labels, from small fixed sets. What is not in them is `other`, so that no peer and no
//! later version can make a label.

use p2pnode_protocol::api::{JobState, TaskState};
use p2pnode_protocol::message::Refusal;
use p2pnode_protocol::task::{FailureKind, Outcome};

/// How an attempt ended.
pub(super) const fn of_outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed(failure) => match failure.kind {
            FailureKind::Exit(_) => "exit",
            FailureKind::Timeout => "timeout",
            FailureKind::Stalled => "stalled",
            FailureKind::OutOfMemory => "out_of_memory",
            FailureKind::DiskFull => "disk_full",
            FailureKind::NoOutputs => "no_outputs",
            FailureKind::BadOutput => "bad_output",
            FailureKind::BadProgram => "bad_program",
            FailureKind::ImageUnavailable => "image_unavailable",
            FailureKind::InputUnavailable => "input_unavailable",
            FailureKind::KilledByOwner => "killed_by_owner",
            FailureKind::Cancelled => "cancelled",
            FailureKind::ProviderStopping => "provider_stopping",
            FailureKind::ProviderLost => "provider_lost",
            FailureKind::Host => "host",
        },
    }
}

/// Why tasks were not taken.
pub(super) const fn of_refusal(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotAllowed { .. } => "not_allowed",
        Refusal::NotOffering => "not_offering",
        Refusal::TooSmall { .. } => "too_small",
        Refusal::Full => "full",
        Refusal::NoRuntime { .. } => "no_runtime",
        Refusal::TemplateNeeded => "template_needed",
        Refusal::NotPermitted { .. } => "not_permitted",
        Refusal::Invalid { .. } => "invalid",
        Refusal::Stopping => "stopping",
        Refusal::Closed { .. } => "closed",
        Refusal::Draining => "draining",
    }
}

/// Where a job is.
pub(super) const fn of_job(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// What became of a task whose attempt ended.
pub(super) const fn of_end(state: TaskState) -> &'static str {
    match state {
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::Pending => "tried_again",
        _ => "other",
    }
}
