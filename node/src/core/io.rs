//! What goes into the core and what comes out: the whole of its contact with the world.
//!
//! Times are milliseconds since the Unix epoch; the driver sees to it that they never run backwards.

use std::sync::Arc;

use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{Phase, TaskRef, TaskRequest, TaskResponse};
use p2pnode_protocol::offer::{Grant, OfferRules};
use p2pnode_protocol::task::{Assignment, Failure, Outcome, RuntimeKind, TaskTemplate, Usage};
use p2pnode_protocol::{AttemptKey, Capacity, Gpu, JobId, PeerId};

pub use p2pnode_protocol::offer::Requested;

pub use super::meant::Meant;
pub use super::record::{Record, Snapshot, StoredEnd, StoredHosted, StoredJob};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// Names a request that came in, so that its answer finds the way back. Made by the driver.
pub type RequestToken = u64;

/// Names a request that went out, so that its answer is recognised. Made by the core.
pub type CallId = u64;

/// A job as one provider knows it: ids are the submitter's own, so both parts are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostedJob {
    /// Who submitted it.
    pub submitter: PeerId,
    /// Its id.
    pub job: JobId,
}

/// One attempt as its provider knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Who submitted it.
    pub submitter: PeerId,
    /// Which attempt.
    pub attempt: AttemptKey,
}

/// Why a call had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// The peer could not be reached or the connection closed.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The peer does not speak the protocol, or broke it.
    Protocol,
}

/// What the owner permits of a preparation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leave {
    /// How long it may take, in milliseconds.
    pub max_ms: Option<u64>,
    /// Whether the image may come from a registry of this machine or its network.
    pub local_registry: bool,
}

/// What the owner offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferTerms {
    /// Everything offered.
    pub total: Capacity,
    /// Whether anyone may run tasks here.
    pub allow_any: bool,
    /// Under which rules.
    pub rules: OfferRules,
}

/// What an offer's rules depend on, as the machine tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// Minutes since Monday 00:00, by local time.
    pub minute_of_week: u16,
    /// How long nobody has used keyboard, mouse or terminal, in milliseconds.
    pub user_idle_ms: Option<u64>,
    /// CPU that is used by anything but this node and its tasks, in percent of the machine's.
    pub foreign_percent: Option<u64>,
    /// Whether it runs on battery.
    pub on_battery: Option<bool>,
    /// The hottest CPU sensor, in degrees Celsius.
    pub cpu_c: Option<i32>,
    /// The hottest GPU that is offered, in degrees Celsius.
    pub gpu_c: Option<i32>,
}

/// What the owner says about a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunLimits {
    /// How long it may run, in milliseconds.
    pub max_ms: Option<u64>,
    /// The OCI runtime of its container, when its job names none.
    pub sandbox: Option<String>,
}

/// What a working runtime can do on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeFeatures {
    /// OCI runtimes that a job can insist on.
    pub sandboxes: Vec<String>,
    /// Whether disk limits cannot be overrun.
    pub hard_disk: bool,
    /// Whether tasks can have a way out, or why not; absent: never.
    pub egress: Option<Result<(), String>>,
}

/// A runtime's features, or why it cannot run tasks.
pub type RuntimeState = Result<RuntimeFeatures, String>;

/// How a run ended at this provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// How.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// Outputs, already stored as blobs here.
    pub outputs: Option<BlobRef>,
    /// Bytes written to stdout and stderr.
    pub log_bytes: u64,
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A first connection to this peer opened.
    Connected(PeerId),
    /// The last connection to this peer closed.
    Disconnected(PeerId),
    /// This peer holds the key of a private network that this node is in.
    Member(PeerId),
    /// A checked advert, newer than the last one of its peer.
    Advert {
        /// Whose.
        peer: PeerId,
        /// What it says.
        advert: Box<Advert>,
    },
    /// A peer asks. Answered by exactly one [`Effect::Respond`].
    Request {
        /// Who.
        peer: PeerId,
        /// How to answer.
        token: RequestToken,
        /// What.
        request: TaskRequest,
    },
    /// A call was answered, or had no answer.
    Response {
        /// Who.
        peer: PeerId,
        /// Which call.
        call: CallId,
        /// What.
        response: Result<TaskResponse, CallFailure>,
    },

    /// The owner submits a job; its inputs are stored.
    Submit {
        /// Its id, fresh.
        job: JobId,
        /// All about it.
        plan: Arc<JobPlan>,
        /// Absolute folder for its outputs.
        out: Option<String>,
    },
    /// The owner cancels a job of this node's.
    Cancel(JobId),
    /// The owner offers from now on.
    Offer(OfferTerms),
    /// The owner allows (or no longer allows) a peer to run tasks here.
    Allow {
        /// Whom.
        peer: PeerId,
        /// How much; `None`: no longer.
        grant: Option<Grant>,
    },
    /// The owner kills tasks here, and sends those back that wait.
    Kill {
        /// Which.
        meant: Meant,
        /// Why, in the owner's words; may be empty.
        reason: String,
    },
    /// The owner wants what is here finished and nothing new taken, or no longer.
    Drain(bool),
    /// What the offer's rules depend on was measured.
    Conditions(Conditions),
    /// The runtimes that work here changed.
    Runtimes(Vec<(RuntimeKind, RuntimeState)>),
    /// The node is to stop: say goodbye, kill everything.
    Stop,

    /// The environment of a hosted step is being made.
    Preparing {
        /// Whose job.
        hosted: HostedJob,
        /// Which step.
        step: u16,
        /// What is done.
        phase: Phase,
        /// How much of it.
        done: u64,
        /// Of how much.
        total: u64,
    },
    /// The environment of a hosted step is ready, or cannot be had.
    Prepared {
        /// Whose job.
        hosted: HostedJob,
        /// Which step.
        step: u16,
        /// Which time, as [`Effect::Prepare`] said.
        making: u32,
        /// Whether.
        result: Result<(), Failure>,
    },
    /// A run's process started.
    Started(RunKey),
    /// A run ended; no process of it is left and its outputs are stored.
    Ended {
        /// Which.
        run: RunKey,
        /// How.
        end: RunEnd,
    },

    /// [`Effect::Collect`] is done: outputs stand in their folder, the log is complete.
    Collected {
        /// Which attempt.
        attempt: AttemptKey,
        /// Bytes received, or why the outputs cannot be had.
        result: Result<u64, CollectFailure>,
    },

    /// Blobs of a job of this node's went out to one of its providers.
    Served {
        /// Which job.
        job: JobId,
        /// How many bytes.
        bytes: u64,
    },

    /// Time passed; see [`super::Core::next_deadline`].
    Tick,
}

/// Why outputs could not be collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectFailure {
    /// The peer was not reached, or the transfer broke and nothing of it moved for a while: the peer may
    /// still have them, so they are asked for again.
    Away(String),
    /// The peer does not have them, or sent what is refused: the task runs again elsewhere.
    Lost(String),
    /// Another task brought one of their paths already: the task fails with this message, for
    /// every try would bring the same paths.
    Clash(String),
    /// They cannot be written here (disk full, no permission): the job fails with this message.
    Local(String),
}

/// What a peer did that no honest one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// Sent a list that is longer than the protocol allows.
    TooLong,
    /// Sent what makes no sense from it, such as the result of a task that it was never given.
    OutOfPlace,
}

/// Something to be done. Effects of one call are performed in order, and everything that a
/// [`Effect::Persist`] says is on disk before any later effect leaves the process.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Store this.
    Persist(Record),
    /// Ask a peer (may be this node itself). Answered by one [`Input::Response`].
    Call {
        /// Whom.
        peer: PeerId,
        /// Named.
        call: CallId,
        /// What.
        request: TaskRequest,
    },
    /// Answer a request.
    Respond {
        /// Which.
        token: RequestToken,
        /// What.
        response: TaskResponse,
    },
    /// Open a connection to this peer; success shows as [`Input::Connected`].
    Connect(PeerId),
    /// Look in the DHT for peers that offer capacity.
    FindProviders,
    /// What is free changed: publish a new advert soon (the driver debounces and asks
    /// [`super::Core::capacity`]).
    Advertise,

    /// Make the environment of a hosted step; ends with [`Input::Prepared`].
    Prepare {
        /// Whose job.
        hosted: HostedJob,
        /// All about it.
        template: Arc<TaskTemplate>,
        /// Names this time among all that it is made for the step.
        making: u32,
        /// What the owner permits of it.
        leave: Leave,
    },
    /// Nobody waits for the environment of a step that is being made: stop, and say nothing.
    StopPreparing {
        /// Whose job.
        hosted: HostedJob,
        /// Which step.
        step: u16,
    },
    /// Run a task in its prepared environment; ends with [`Input::Ended`].
    Run {
        /// Which.
        run: RunKey,
        /// All about its step.
        template: Arc<TaskTemplate>,
        /// The blanks.
        assignment: Assignment,
        /// GPUs given to it.
        gpus: Vec<Gpu>,
        /// What the owner says about it.
        limits: RunLimits,
    },
    /// Kill a run; it still ends with [`Input::Ended`].
    Kill {
        /// Which.
        run: RunKey,
        /// Why; becomes its outcome.
        why: Failure,
    },
    /// Attempts ended here that never ran; for the owner's history.
    Unrun {
        /// Whose job.
        hosted: HostedJob,
        /// All about their step.
        template: Arc<TaskTemplate>,
        /// Which.
        tasks: Vec<TaskRef>,
        /// How.
        failure: Failure,
    },
    /// Drop the stored outputs of an attempt, the submitter has them.
    DropOutputs(RunKey),
    /// Drop everything of a hosted job: environments, directories, blobs, log streams.
    Unhost(HostedJob),

    /// Bring an attempt's outputs and the rest of its log here; ends with [`Input::Collected`].
    Collect {
        /// From whom (may be this node itself).
        peer: PeerId,
        /// Which attempt.
        attempt: AttemptKey,
        /// The outputs.
        outputs: Option<BlobRef>,
        /// Length of its whole log, in bytes.
        log_bytes: u64,
        /// All about the job: says what the attempt may bring.
        plan: Arc<JobPlan>,
        /// Absolute folder for the outputs.
        out: Option<String>,
    },
    /// An attempt that is being collected is not wanted any more: nothing of it may be written from
    /// now on, and no [`Input::Collected`] is due.
    Forsake(AttemptKey),
    /// A job is over: unpin its blobs.
    JobOver(JobId),
    /// Count this against a peer; one that goes on is shut out.
    Blame(PeerId, Breach),
    /// Tell whoever watches.
    Emit(Event),
    /// Everything was said and killed: the node may end.
    Stopped,
}
