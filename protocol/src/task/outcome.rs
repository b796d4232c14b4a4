//! How attempts end, and whose doing that was.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Exit code 0, outputs collected.
    Succeeded,
    /// Anything else.
    Failed(Failure),
}

/// Why an attempt failed, in words for a person and a kind for the policy.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Failure {
    /// What sort of failure.
    pub kind: FailureKind,
    /// One sentence: what happened, and what to do about it. At most [`MAX_MESSAGE_BYTES`].
    pub message: String,
}

/// The longest message in a failure or refusal, in bytes: a few lines of text.
pub const MAX_MESSAGE_BYTES: usize = 2_048;

/// Sorts of failure. The first group is the task's own doing and counts as a try; the second is the
/// provider's, and the task moves elsewhere without a try being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Ended with this exit code (128 + n for signal n).
    Exit(i32),
    /// Ran longer than its time.
    Timeout,
    /// Neither output nor CPU use for too long.
    Stalled,
    /// Went over its memory.
    OutOfMemory,
    /// Went over its disk.
    DiskFull,
    /// None of its output patterns matched.
    NoOutputs,
    /// An output that must not travel (a device, a link out of the folder), or a path that another
    /// task brought already.
    BadOutput,
    /// The program cannot be run anywhere: not a module, a broken template, a missing command.
    BadProgram,

    /// The image is not at hand and cannot be had.
    ImageUnavailable,
    /// An input did not arrive.
    InputUnavailable,
    /// The provider's owner stopped it.
    KilledByOwner,
    /// The submitter cancelled it.
    Cancelled,
    /// The provider is shutting down.
    ProviderStopping,
    /// The provider was lost.
    ProviderLost,
    /// The runtime or the host failed.
    Host,
}

impl FailureKind {
    /// Whether the task itself is to blame, so that the failure counts as one of its tries.
    #[must_use]
    pub const fn is_tasks_fault(self) -> bool {
        match self {
            Self::Exit(_)
            | Self::Timeout
            | Self::Stalled
            | Self::OutOfMemory
            | Self::DiskFull
            | Self::NoOutputs
            | Self::BadOutput
            | Self::BadProgram => true,
            Self::ImageUnavailable
            | Self::InputUnavailable
            | Self::KilledByOwner
            | Self::Cancelled
            | Self::ProviderStopping
            | Self::ProviderLost
            | Self::Host => false,
        }
    }
}

/// Who decided that an attempt ended, or that an offer was not taken: so that nobody has to guess
/// whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// The task: its program, or what its job asks for.
    Task,
    /// Whoever submitted it.
    Submitter,
    /// The owner of the provider.
    Owner,
    /// The provider's machine or what runs on it.
    Host,
    /// The network between the two.
    Network,
}

impl std::fmt::Display for Decider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Task => "the task itself",
            Self::Submitter => "its submitter",
            Self::Owner => "the provider's owner",
            Self::Host => "the provider's machine",
            Self::Network => "the network",
        })
    }
}

impl FailureKind {
    /// Whose doing it was.
    #[must_use]
    pub const fn decider(self) -> Decider {
        match self {
            Self::Cancelled => Decider::Submitter,
            Self::KilledByOwner | Self::ProviderStopping => Decider::Owner,
            Self::ProviderLost | Self::InputUnavailable => Decider::Network,
            Self::ImageUnavailable | Self::Host => Decider::Host,
            Self::Exit(_)
            | Self::Timeout
            | Self::Stalled
            | Self::OutOfMemory
            | Self::DiskFull
            | Self::NoOutputs
            | Self::BadOutput
            | Self::BadProgram => Decider::Task,
        }
    }

    /// The kind in one word, as it is counted and shown.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Exit(_) => "failed",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::OutOfMemory => "out_of_memory",
            Self::DiskFull => "disk_full",
            Self::NoOutputs => "no_outputs",
            Self::BadOutput => "bad_output",
            Self::BadProgram => "bad_program",
            Self::ImageUnavailable => "no_image",
            Self::InputUnavailable => "no_input",
            Self::KilledByOwner => "killed",
            Self::Cancelled => "cancelled",
            Self::ProviderStopping => "stopped",
            Self::ProviderLost => "lost",
            Self::Host => "host",
        }
    }
}

/// The words of all outcomes: of [`Outcome::Succeeded`], and of each [`FailureKind`].
pub const OUTCOME_WORDS: [&str; 16] = [
    "succeeded",
    "failed",
    "timeout",
    "stalled",
    "out_of_memory",
    "disk_full",
    "no_outputs",
    "bad_output",
    "bad_program",
    "no_image",
    "no_input",
    "killed",
    "cancelled",
    "stopped",
    "lost",
    "host",
];

impl Outcome {
    /// The outcome in one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(failure) => failure.kind.word(),
        }
    }
}

impl Failure {
    /// A failure with its message cut to [`MAX_MESSAGE_BYTES`].
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        }
        Self { kind, message }
    }
}
