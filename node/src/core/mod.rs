//! Placeholder.

pub mod io;

use p2pnode_protocol::api::{JobInfo, TaskInfo};
use p2pnode_protocol::{JobId, PeerId};
use std::ops::Range;

/// Placeholder of the decisions.
pub struct Core;
impl Core {
    /// placeholder
    pub fn job_ids(&self) -> Vec<JobId> {
        vec![]
    }
    /// placeholder
    pub fn jobs(&self) -> Vec<JobInfo> {
        vec![]
    }
    /// placeholder
    pub fn job(&self, _: JobId) -> Option<JobInfo> {
        None
    }
    /// placeholder
    pub fn tasks(&self, _: JobId, _: Range<u32>) -> Vec<TaskInfo> {
        vec![]
    }
    /// placeholder
    pub fn allowed_peers(&self) -> Vec<PeerId> {
        vec![]
    }
}
