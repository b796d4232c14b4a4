//! What the local API says, in JSON. The command line, the web page and every other client speak
//! only these.
//!
//! Times are milliseconds since the Unix epoch, durations are milliseconds, sizes are bytes, CPUs
//! are thousandths; peers and jobs are text. Clients must ignore fields that they do not know.

mod errors;
mod events;
mod forwards;
mod history;
mod hosted;
mod jobs;
mod logs;
mod node;
mod offer;
mod peers;
mod reach;

pub use errors::{ApiError, ErrorCode};
pub use events::Event;
pub use forwards::{CreateForward, ForwardInfo};
pub use history::{HistoryPage, HistoryRow, HostUsage, UsageBy, UsageReport, UsageRow, UsageSum};
pub use hosted::{
    DrainRequest, DrainStatus, HostedDone, HostedGpu, HostedName, HostedRequest, HostedState,
    HostedTask, HostedTasks, HostedUnable, HostedUse, HostedWaiting,
};
pub use jobs::{
    CreateJob, JobCreated, JobInfo, JobState, JobUsage, TaskCounts, TaskInfo, TaskState,
};
pub use logs::{LogEntries, LogEntry};
pub use node::{AdvertTimes, NetworkStatus, NodeStatus, PeerWay, RuntimeStatus, Unreached};
pub use offer::{AccessRequest, OfferRequest, OfferStatus};
pub use peers::{PeerAccess, PeerFit, PeerInfo};
pub use reach::{
    FindOffers, FoundOffers, PeerEcho, PeerLink, PeerPath, PeerWhereabouts, ReachState, ReachStatus,
};
