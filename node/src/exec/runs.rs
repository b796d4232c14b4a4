//! Runs under way, so that each can be seen, frozen, and killed with a reason.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use p2pnode_executor::{Hold, LiveUsage};
use p2pnode_protocol::Gpu;
use p2pnode_protocol::task::{Failure, RuntimeKind, TaskTemplate};
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

    /// Whether it runs in a container: outside this process and its children.
    fn is_contained(&self) -> bool {
        self.about.template.program.runtime() == RuntimeKind::Docker
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
    /// CPU time of containers that ended.
    ended_cpu_us: u64,
}

impl Runs {
    /// Adds a run.
    pub fn add(&mut self, run: RunKey, about: RunAbout) -> RunControl {
        let (pause, paused) = watch::channel(false);
        // Made once for each of many tiny tasks, so nothing is made to be thrown away.
        let control = RunControl {
            cancel: CancellationToken::new(),
            hold: Hold {
                pause: paused,
                usage: Arc::new(watch::channel(LiveUsage::default()).0),
                inside: Arc::new(watch::channel(None).0),
            },
            why: Arc::default(),
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
        let held = self.table.remove(run)?;
        if held.is_contained() {
            self.ended_cpu_us = self.ended_cpu_us.saturating_add(held.usage().cpu_us);
        }
        Some(held)
    }

    /// CPU time of all containers since the start, those that ended included, in microseconds, as far
    /// as their runtime told. It never falls.
    #[must_use]
    pub fn contained_cpu_us(&self) -> u64 {
        let live = self.table.values().filter(|held| held.is_contained());
        let live = live.map(|held| held.usage().cpu_us);
        live.fold(self.ended_cpu_us, u64::saturating_add)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&RunKey, &HeldRun)> {
        self.table.iter()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::task::{FailureKind, Isolation, NetworkMode, Program};
    use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};

    use super::*;

    fn about() -> RunAbout {
        let template = TaskTemplate {
            name: "test".into(),
            step: 0,
            program: Program::Image {
                reference: "busybox:1".into(),
            },
            command: Vec::new(),
            env: Vec::new(),
            keys: Vec::new(),
            resources: Resources::default(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            allow_empty_outputs: false,
            timeout_ms: 0,
            stall_ms: 0,
            prepare_timeout_ms: 0,
            keep_ms: 0,
            network: NetworkMode::None,
            root: false,
            isolation: Isolation::Task,
            sandbox: None,
            attended: false,
        };
        RunAbout {
            template: Arc::new(template),
            gpus: Vec::new(),
            since_ms: 7,
        }
    }

    #[tokio::test]
    async fn the_owner_holds_a_run_and_sees_what_its_runtime_tells() {
        let run = RunKey {
            submitter: PeerId::random(),
            attempt: AttemptKey {
                task: TaskKey {
                    job: JobId([7; 8]),
                    step: 0,
                    index: 0,
                },
                attempt: 1,
            },
        };
        let mut runs = Runs::default();
        let mut control = runs.add(run, about());
        let held = |runs: &Runs| {
            let (_, held) = runs.iter().next().unwrap();
            (held.started, held.is_paused(), held.usage().cpu_us)
        };
        assert_eq!(held(&runs), (false, false, 0));
        runs.on_started(&run);
        runs.pause(&run, true);
        control.hold.pause.changed().await.unwrap();
        assert!(*control.hold.pause.borrow_and_update());
        let told = LiveUsage {
            cpu_us: 9,
            ..LiveUsage::default()
        };
        control.hold.usage.send_replace(told);
        assert_eq!(held(&runs), (true, true, 9));
        runs.pause(&run, false);
        control.hold.pause.changed().await.unwrap();
        assert!(!*control.hold.pause.borrow_and_update());
        // The first reason stands.
        for why in ["first", "second"] {
            runs.kill(&run, Failure::new(FailureKind::KilledByOwner, why));
        }
        assert!(control.cancel.is_cancelled());
        assert_eq!(control.why().unwrap().message, "first");
        assert_eq!(runs.remove(&run).unwrap().about.since_ms, 7);
        assert!(runs.remove(&run).is_none());
    }
}
