//! Labels on containers: whose they are and what for.
//!
//! The reaper, a restarted node and `docker ps --filter label=p2pnode.node` all find containers by
//! them, so a label's name and the form of its value may only change together with those readers.

use std::collections::HashMap;

use p2pnode_protocol::PeerId;

use crate::TaskRun;

/// `<peer id>:<incarnation>` of the node that runs the container.
pub const NODE: &str = "p2pnode.node";
/// The job's id.
pub const JOB: &str = "p2pnode.job";
/// The task, as `JOB/INDEX`.
pub const TASK: &str = "p2pnode.task";
/// The attempt's number.
pub const ATTEMPT: &str = "p2pnode.attempt";
/// The peer that submitted the job.
pub const SUBMITTER: &str = "p2pnode.submitter";

/// One life of one node: what tells its containers from those of other nodes on the same engine, and
/// from those of its own earlier lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: PeerId,
    /// Random, new with every start of the node.
    pub incarnation: String,
}

impl Owner {
    /// The value of the label [`NODE`].
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", self.node, self.incarnation)
    }

    /// Whether `label` is of an earlier life of the same node.
    #[must_use]
    pub fn is_earlier_life(&self, label: &str) -> bool {
        label
            .split_once(':')
            .is_some_and(|(node, life)| node == self.node.to_string() && life != self.incarnation)
    }
}

/// What the names of all containers of a life begin with, before a dash and a number. `label` is the
/// value of [`NODE`]. They are for people, for removing what the engine did not acknowledge, and for
/// telling ours from those that only have our label: a container inherits its image's labels, and an
/// image may say anything.
pub(super) fn name_prefix(label: &str) -> String {
    let (node, life) = label.split_once(':').unwrap_or((label, ""));
    let at = node.len().saturating_sub(8);
    let node = node.get(at..).unwrap_or_default();
    let life: String = life
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(16)
        .collect();
    format!("p2pnode-{node}-{life}")
}

/// Whether a container of this name is one of those that the life named by `label` made.
pub(super) fn is_name_of(label: &str, name: &str) -> bool {
    let serial = name
        .trim_start_matches('/')
        .strip_prefix(&name_prefix(label))
        .and_then(|rest| rest.strip_prefix('-'));
    serial.is_some_and(|serial| {
        !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// All labels of a task's container.
pub(super) fn of_task(owner: &str, task: &TaskRun) -> HashMap<String, String> {
    let key = task.attempt.task;
    [
        (NODE, owner.to_owned()),
        (JOB, key.job.to_string()),
        (TASK, key.to_string()),
        (ATTEMPT, task.attempt.attempt.to_string()),
        (SUBMITTER, task.submitter.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The labels of a container in which tasks of one job run one after another.
pub(super) fn of_job(owner: &str, task: &TaskRun) -> HashMap<String, String> {
    let mut labels = of_task(owner, task);
    labels.remove(TASK);
    labels.remove(ATTEMPT);
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_lives_of_this_node_are_earlier_lives() {
        let owner = Owner {
            node: PeerId::random(),
            incarnation: "b".into(),
        };
        assert!(!owner.is_earlier_life(&owner.label()));
        assert!(owner.is_earlier_life(&format!("{}:a", owner.node)));
        assert!(!owner.is_earlier_life(&format!("{}:a", PeerId::random())));
        assert!(!owner.is_earlier_life(&owner.node.to_string()));
    }
}
