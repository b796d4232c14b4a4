//! What the owner of a provider asks about the tasks of others that run here.

use p2pnode_protocol::api::{
    DrainStatus, HistoryPage, HostedDone, HostedTasks, UsageBy, UsageReport,
};

use super::Answer;
use crate::core::io::Meant;
pub use crate::store::history::Query as PastQuery;

/// See the module.
pub enum OwnerCommand {
    /// What runs and waits here.
    Hosted {
        /// It.
        answer: Answer<HostedTasks>,
    },
    /// Kill tasks, and send those back that wait.
    Kill {
        /// Which.
        meant: Meant,
        /// Why, for their submitters; may be empty.
        reason: String,
        /// Which were there.
        answer: Answer<HostedDone>,
    },
    /// Freeze tasks, or let them go on.
    Pause {
        /// Which.
        meant: Meant,
        /// Whether they are to be frozen.
        on: bool,
        /// Which could be.
        answer: Answer<HostedDone>,
    },
    /// Finish what is here and take nothing new, or no longer.
    Drain {
        /// Whether.
        on: bool,
        /// How far that is.
        answer: Answer<DrainStatus>,
    },
    /// A page of what ran here.
    History {
        /// Which rows.
        query: PastQuery,
        /// The page.
        answer: Answer<HistoryPage>,
    },
    /// What was used of this machine.
    Usage {
        /// What there is a row for each of.
        by: UsageBy,
        /// Of which attempts.
        query: PastQuery,
        /// The report.
        answer: Answer<UsageReport>,
    },
}
