//! Runs under way, so that each can be killed with a reason.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use p2pnode_protocol::task::Failure;
use tokio_util::sync::CancellationToken;

use crate::core::io::RunKey;

/// The handle that a run keeps to learn that, and why, it is to end.
#[derive(Debug, Clone, Default)]
pub struct RunControl {
    /// Cancelled when the run is to end at once.
    pub cancel: CancellationToken,
    why: Arc<OnceLock<Failure>>,
}

impl RunControl {
    /// Why the run was killed, when it was.
    #[must_use]
    pub fn why(&self) -> Option<Failure> {
        self.why.get().cloned()
    }
}

/// All runs under way. Its owner adds and removes; the core bounds how many there are.
#[derive(Debug, Default)]
pub struct Runs {
    table: HashMap<RunKey, RunControl>,
}

impl Runs {
    /// Adds a run.
    pub fn add(&mut self, run: RunKey) -> RunControl {
        let control = RunControl::default();
        self.table.insert(run, control.clone());
        control
    }

    /// Kills a run, which still ends by itself. The first reason stands.
    pub fn kill(&self, run: &RunKey, why: Failure) {
        if let Some(control) = self.table.get(run) {
            // A second reason changes nothing.
            let _first_stands = control.why.set(why);
            control.cancel.cancel();
        }
    }

    /// Forgets a run that ended.
    pub fn remove(&mut self, run: &RunKey) {
        self.table.remove(run);
    }
}
