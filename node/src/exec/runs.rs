//! Runs under way, so that each can be seen, frozen, and killed with a reason.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use p2pnode_executor::{Hold, LiveUsage};
use p2pnode_protocol::Gpu;
use p2pnode_protocol::task::{Failure, TaskTemplate};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::core::io::{Millis, RunKey};

/// The handle that a run keeps to learn that, and why, it is to end.
#[derive(Debug, Clone, Default)]
pub struct RunControl {
    /// Cancelled when the run is to end at once.
    pub cancel: CancellationToken,
    /// The owner's hold on it, for its runtime.
    pub hold: Hold,
    why: Arc<OnceLock<Failure>>,
}

impl RunControl {
    /// Why the run was killed, when it was.
    #[must_use]
    pub fn why(&self) -> Option<Failure> {
        self.why.get().cloned()
    }
}

/// What is known of a run.
#[derive(Debug, Clone)]
pub struct RunAbout {
    /// All about its step.
    pub template: Arc<TaskTemplate>,
    /// GPUs given to it.
    pub gpus: Vec<Gpu>,
    /// Since when it has its slot, in milliseconds since the Unix epoch.
    pub since_ms: Millis,
}

/// A run under way.
#[derive(Debug)]
pub struct HeldRun {
    /// What is known of it.
    pub about: RunAbout,
    /// Whether its process has started.
    pub started: bool,
    control: RunControl,
    pause: watch::Sender<bool>,
}

impl HeldRun {
    /// What it uses, as far as its runtime tells.
    #[must_use]
    pub fn usage(&self) -> LiveUsage {
        *self.control.hold.usage.borrow()
    }

    /// Whether it is to be frozen.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        *self.pause.borrow()
    }
}

/// All runs under way. Its owner adds and removes; the core bounds how many there are.
#[derive(Debug, Default)]
pub struct Runs {
    table: HashMap<RunKey, HeldRun>,
}

impl Runs {
    /// Adds a run.
    pub fn add(&mut self, run: RunKey, about: RunAbout) -> RunControl {
        let (pause, paused) = watch::channel(false);
        let control = RunControl {
            hold: Hold {
                pause: paused,
                ..Hold::default()
            },
            ..RunControl::default()
        };
        let held = HeldRun {
            about,
            started: false,
            control: control.clone(),
            pause,
        };
        self.table.insert(run, held);
        control
    }

    /// Its process started.
    pub fn on_started(&mut self, run: &RunKey) {
        if let Some(held) = self.table.get_mut(run) {
            held.started = true;
        }
    }

    /// Asks its runtime to freeze it, or to let it go on. The runtime must be one that can.
    pub fn pause(&self, run: &RunKey, on: bool) {
        if let Some(held) = self.table.get(run) {
            // A run that is ending has let go of its side.
            held.pause.send_replace(on);
        }
    }

    /// Kills a run, which still ends by itself. The first reason stands.
    pub fn kill(&self, run: &RunKey, why: Failure) {
        if let Some(held) = self.table.get(run) {
            // A second reason changes nothing.
            let _first_stands = held.control.why.set(why);
            held.control.cancel.cancel();
        }
    }

    /// Forgets a run that ended, and returns what was known of it.
    pub fn remove(&mut self, run: &RunKey) -> Option<HeldRun> {
        self.table.remove(run)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&RunKey, &HeldRun)> {
        self.table.iter()
    }
}
