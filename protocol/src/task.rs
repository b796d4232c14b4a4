//! What a provider must know to run tasks, and what came of them.

mod outcome;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::{AttemptNumber, StepIndex, TaskIndex};
use crate::manifest::BlobRef;
use crate::message::Phase;
use crate::resources::Resources;

pub use outcome::{Decider, Failure, FailureKind, MAX_MESSAGE_BYTES, OUTCOME_WORDS, Outcome};

/// The program of a task, and with it the runtime that can run it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Program {
    /// A WASI preview 1 module; the blob is a single file.
    Wasm {
        /// The module.
        module: BlobRef,
    },
    /// A container image that the provider's engine has or can pull.
    Image {
        /// Its reference, such as `blender:4` or `name@sha256:...`.
        reference: String,
    },
    /// A container image that travels: an archive as `docker save` writes it, or an OCI layout in a
    /// tar file; the blob is a single file.
    Archive {
        /// The archive.
        archive: BlobRef,
    },
    /// A container image that the provider builds.
    Build {
        /// The build's context: a folder.
        context: BlobRef,
        /// Path of the Dockerfile within it.
        dockerfile: String,
    },
}

/// Which runtime a program needs, and which ones a node has.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Any engine that speaks Docker's API.
    Docker,
    /// The embedded WASM runtime.
    Wasm,
}

impl std::fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Wasm => "wasm",
        })
    }
}

impl Program {
    /// What its provider does before the first task can run.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Wasm { .. } => Phase::Environment,
            Self::Image { .. } => Phase::Pulling,
            Self::Archive { .. } => Phase::Loading,
            Self::Build { .. } => Phase::Building,
        }
    }

    /// The runtime it needs.
    #[must_use]
    pub const fn runtime(&self) -> RuntimeKind {
        match self {
            Self::Wasm { .. } => RuntimeKind::Wasm,
            Self::Image { .. } | Self::Archive { .. } | Self::Build { .. } => RuntimeKind::Docker,
        }
    }
}

/// What a task may reach over the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub enum NetworkMode {
    /// Nothing: not even the host.
    #[default]
    None,
    /// These names, over TLS or plain HTTP, through the node's own proxy; nothing else.
    Egress {
        /// Domain names; `*.example.org` stands for every name below `example.org`.
        domains: Vec<String>,
    },
}

/// How much tasks of one job share at a provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum Isolation {
    /// Nothing: every task has a fresh container.
    #[default]
    Task,
    /// Tasks of the same job and submitter follow one another in a warm container, each with a work
    /// directory and a scratch of its own. A permission: where that cannot be, each has a fresh one.
    Job,
}

/// Something that stands in the work directory before the task starts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InputBinding {
    /// Where, relative to the work directory; may hold `{key}`.
    pub path: String,
    /// What.
    pub source: InputSource,
}

/// Where an input's content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum InputSource {
    /// The same for all tasks of the step.
    Shared(BlobRef),
    /// The blob at this position of [`Assignment::inputs`].
    PerTask(u16),
}

/// Everything that the tasks of one step have in common. It travels once per provider.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TaskTemplate {
    /// The job's name, for people.
    pub name: String,
    /// The step.
    pub step: StepIndex,
    /// What runs.
    pub program: Program,
    /// Its arguments, the first being the command; may hold `{key}`. Empty: the image's own.
    pub command: Vec<String>,
    /// Environment, values may hold `{key}`.
    pub env: Vec<(String, String)>,
    /// Names of the array's keys, in the order of [`Assignment::values`].
    pub keys: Vec<String>,
    /// What each task needs.
    pub resources: Resources,
    /// What stands in the work directory.
    pub inputs: Vec<InputBinding>,
    /// Patterns of what goes back; may hold `{key}`.
    pub outputs: Vec<String>,
    /// Whether a task whose patterns match nothing succeeds all the same.
    pub allow_empty_outputs: bool,
    /// Longest run of one task, in milliseconds; 0 is no limit of the job's.
    pub timeout_ms: u64,
    /// Longest time without output and CPU use, in milliseconds; 0 is no limit.
    pub stall_ms: u64,
    /// Longest preparation of the environment, in milliseconds.
    pub prepare_timeout_ms: u64,
    /// How long the provider keeps finished outputs when the submitter is gone, in milliseconds.
    pub keep_ms: u64,
    /// What it may reach.
    pub network: NetworkMode,
    /// Whether the job asks for root inside the container.
    pub root: bool,
    /// How much its tasks share.
    pub isolation: Isolation,
    /// The OCI runtime (`runsc`, `kata`) that the job insists on; absent: whichever the owner chose.
    pub sandbox: Option<String>,
    /// Whether its submitter attends to it: the first command that comes in through a tunnel is the
    /// task's own, and the task ends with it.
    pub attended: bool,
}

/// One task handed out: the template's blanks filled in.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Assignment {
    /// Which task.
    pub index: TaskIndex,
    /// Which try.
    pub attempt: AttemptNumber,
    /// For each key its values: one, or a whole chunk's when the task is a chunk.
    pub values: Vec<Vec<String>>,
    /// Blobs of [`InputSource::PerTask`] inputs.
    pub inputs: Vec<BlobRef>,
}

/// What a task used, as far as its runtime can tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// From start to end, in microseconds.
    pub wall_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Highest memory use, in bytes; 0 when not known.
    pub memory_peak: u64,
    /// Bytes that went through the node's proxy, both ways.
    pub network_bytes: u64,
    /// Energy, in millijoules: the task's share of what the machine's meters counted meanwhile.
    /// Absent where the machine cannot tell.
    pub energy_mj: Option<u64>,
}

/// A stream that a task writes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
