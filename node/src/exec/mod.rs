//! What can run tasks on this machine: the runtimes, and the directories that tasks work in.
//!
//! Called by the driver only. It starts what it is told to start and knows neither peers nor jobs
//! beyond their names; it must never decide whether something may run.

mod runs;
mod workdir;

use std::collections::BTreeMap;
use std::sync::Arc;

use p2pnode_executor::{Environment, PrepareProgress, ProgramFile, Runtime, RuntimeReport};
use p2pnode_protocol::task::{Failure, FailureKind, RuntimeKind};
use tokio::sync::mpsc;

pub use runs::{HeldRun, RunAbout, RunControl, Runs};
pub use workdir::{JobDirs, WorkDirError, WorkDirs};

/// The runtimes of this node.
#[derive(Clone)]
pub struct Exec {
    runtimes: Arc<BTreeMap<RuntimeKind, Arc<dyn Runtime>>>,
}

impl Exec {
    /// A registry of these runtimes, one a kind.
    #[must_use]
    pub fn new(runtimes: Vec<Arc<dyn Runtime>>) -> Self {
        let runtimes = runtimes
            .into_iter()
            .map(|runtime| (runtime.kind(), runtime))
            .collect();
        Self {
            runtimes: Arc::new(runtimes),
        }
    }

    /// Asks every runtime whether it can run tasks now.
    pub async fn probe(&self) -> Vec<(RuntimeKind, RuntimeReport)> {
        let mut reports = Vec::with_capacity(self.runtimes.len());
        for (kind, runtime) in self.runtimes.iter() {
            reports.push((*kind, runtime.probe().await));
        }
        reports
    }

    /// Makes `program`'s environment ready; see [`Runtime::prepare`].
    ///
    /// # Errors
    /// Why it cannot be made.
    pub async fn prepare(
        &self,
        kind: RuntimeKind,
        program: ProgramFile,
        progress: mpsc::Sender<PrepareProgress>,
    ) -> Result<Arc<dyn Environment>, Failure> {
        match self.runtimes.get(&kind) {
            Some(runtime) => runtime.prepare(program, progress).await,
            None => Err(Failure::new(
                FailureKind::Host,
                format!("this node has no {kind} runtime"),
            )),
        }
    }

    /// Removes what an earlier life of this node left behind.
    pub async fn remove_leftovers(&self) {
        for runtime in self.runtimes.values() {
            runtime.remove_leftovers().await;
        }
    }

    /// Ends everything that runs.
    pub async fn shutdown(&self) {
        for runtime in self.runtimes.values() {
            runtime.shutdown().await;
        }
    }
}
