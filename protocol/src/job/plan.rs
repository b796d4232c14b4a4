//! A job once its file was checked and its inputs were named: what the submitting node follows and
//! stores.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use crate::id::PeerId;
use crate::id::{AttemptNumber, TaskIndex};
use crate::job::array::Array;
use crate::manifest::BlobRef;
use crate::task::{Assignment, TaskTemplate};

/// Where tasks may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Placement {
    /// Only these peers; empty: any that fits.
    #[bincode(with_serde)]
    pub peers: Vec<PeerId>,
    /// Labels that a peer must have.
    pub labels: BTreeMap<String, String>,
}

/// What the submitter wants done when things go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Policy {
    /// How often a task is tried again after a failure that was its own doing.
    pub retries: u32,
    /// How long the job waits for a first peer that fits, in milliseconds, before it fails.
    pub wait_for_peers_ms: u64,
    /// Indices handed out together; `None` measures.
    pub hand_out: Option<u32>,
}

/// One step of a job: tasks of one template.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StepPlan {
    /// What its tasks have in common.
    pub template: TaskTemplate,
    /// Its tasks.
    pub array: Array,
    /// Blobs of per-task inputs: `per_task_inputs[i][task]` for [`crate::task::InputSource::PerTask`]`(i)`.
    pub per_task_inputs: Vec<Vec<BlobRef>>,
    /// Steps that must have succeeded before this one starts.
    pub needs: Vec<u16>,
    /// Where the credentials for its image are, when the registry wants some.
    pub login: Option<Login>,
}

/// Where credentials for a registry are found on the submitter's machine. They themselves are stored
/// nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Login {
    /// Where `docker login` keeps them.
    Docker,
    /// A user, and an absolute path of a file that holds the password or token.
    File {
        /// The user.
        username: String,
        /// The file.
        path: String,
    },
}

/// A whole job.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobPlan {
    /// Its name, for people.
    pub name: String,
    /// Its steps, at least one.
    pub steps: Vec<StepPlan>,
    /// Where it may run.
    pub placement: Placement,
    /// What to do when things go wrong.
    pub policy: Policy,
}

impl StepPlan {
    /// Fills in the blanks of one task; `None` when there is no such task.
    #[must_use]
    pub fn assignment(&self, index: TaskIndex, attempt: AttemptNumber) -> Option<Assignment> {
        let values = self.array.values(index.into())?;
        let inputs = self
            .per_task_inputs
            .iter()
            .map(|blobs| blobs.get(index as usize).copied())
            .collect::<Option<Vec<_>>>()?;
        Some(Assignment {
            index,
            attempt,
            values,
            inputs,
        })
    }
}
