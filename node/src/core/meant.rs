//! What the owner means by a task, a job or a peer.
//!
//! A value and two questions; [`super::host`] and the driver ask them, so that both mean the same.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::id::{StepIndex, TaskIndex};
use p2pnode_protocol::message::TaskRef;

use super::io::HostedJob;

/// Tasks of others (or of this node's own jobs) that are here, as the owner means them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meant {
    /// This task of a job, whichever attempt of it is here.
    Task(HostedJob, StepIndex, TaskIndex),
    /// All of a job.
    Job(HostedJob),
    /// All of a submitter's.
    Peer(PeerId),
    /// All.
    All,
}

impl Meant {
    /// Whether tasks of `hosted` are meant, or some of them.
    #[must_use]
    pub fn has(&self, hosted: &HostedJob) -> bool {
        match self {
            Self::Task(job, ..) | Self::Job(job) => job == hosted,
            Self::Peer(peer) => hosted.submitter == *peer,
            Self::All => true,
        }
    }

    /// Whether `task` of `hosted` is meant.
    #[must_use]
    pub fn has_task(&self, hosted: &HostedJob, task: TaskRef) -> bool {
        let is_task = match self {
            Self::Task(_, step, index) => task.step == *step && task.index == *index,
            Self::Job(_) | Self::Peer(_) | Self::All => true,
        };
        is_task && self.has(hosted)
    }
}
