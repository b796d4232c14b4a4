//! Freezes a container, for whoever has a reason to.
//!
//! There are two: output that nobody reads (`output`), and the owner's hold on the task. They come
//! and go by themselves, so neither asks the engine directly: the container is frozen while at least
//! one reason stands. Owned by `run`; it must never end a task, nor thaw one that the other holds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

use super::freeze;
use super::output::Valve;
use super::watch::Pulse;
use crate::Hold;

/// When an engine that has not done what the owner's hold says is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// Why a container is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Its output waits for a reader.
    Output,
    /// Its owner said so.
    Owner,
}

/// Which reasons stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reasons {
    output: bool,
    owner: bool,
}

impl Reasons {
    fn set(&mut self, reason: Reason, stands: bool) {
        match reason {
            Reason::Output => self.output = stands,
            Reason::Owner => self.owner = stands,
        }
    }

    const fn any(self) -> bool {
        self.output || self.owner
    }
}

/// Keeps a container's freezing and the starting of processes in it apart. A container that is frozen
/// while a process is being started in it can't be thawed: with control groups of the first version
/// the engine waits for that process, and nobody gets at the container any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Apart(Arc<RwLock<()>>);

impl Apart {
    /// To be held while a process is being started in the container.
    pub(super) async fn starting(&self) -> OwnedRwLockReadGuard<()> {
        self.0.clone().read_owned().await
    }
}

/// A container, frozen and thawed by its engine.
#[derive(Debug)]
pub(super) struct Freezer<'a> {
    docker: &'a Docker,
    id: &'a str,
    apart: Apart,
    reasons: Mutex<Reasons>,
}

impl<'a> Freezer<'a> {
    pub(super) fn new(docker: &'a Docker, id: &'a str, apart: Apart) -> Self {
        Self {
            docker,
            id,
            apart,
            reasons: Mutex::default(),
        }
    }

    /// Does what the owner's hold says, for as long as it is polled. The task's time does not run
    /// while it is held; whoever drops the other end of a hold lets the task go on.
    pub(super) async fn follow(&self, hold: &Hold, pulse: &Pulse) -> Infallible {
        let mut wanted = hold.pause.clone();
        let (mut heard, mut warned) = (true, false);
        loop {
            // Nobody's hold is none.
            let held = heard && *wanted.borrow_and_update();
            let done = self.hold(held, hold, pulse).await;
            if !done && !std::mem::replace(&mut warned, true) {
                let (container, wanted) = (self.id, if held { "held" } else { "let go" });
                tracing::warn!(
                    container,
                    wanted,
                    "the engine does not do it; it is asked again"
                );
            }
            tokio::select! {
                changed = wanted.changed(), if heard => heard = changed.is_ok(),
                () = tokio::time::sleep(AGAIN), if !done => {}
                // Nothing is left to be done.
                else => std::future::pending().await,
            }
        }
    }

    /// Whether it stands as it is wanted.
    async fn hold(&self, held: bool, hold: &Hold, pulse: &Pulse) -> bool {
        if held == pulse.is_held() {
            return true;
        }
        let done = self.set(Reason::Owner, held).await;
        if done {
            pulse.set_held(held);
            hold.usage.send_modify(|usage| usage.paused = held);
        }
        done
    }

    /// Lets it go on whatever the reasons are: it has been killed, and a frozen process can't die.
    /// Returns whether there were any.
    pub(super) async fn give_up(&self) -> bool {
        let any = std::mem::take(&mut *self.reasons.lock().await).any();
        if any {
            self.unpause().await;
        }
        any
    }

    /// False when the engine doesn't do it; then all is as before.
    async fn set(&self, reason: Reason, stands: bool) -> bool {
        let mut reasons = self.reasons.lock().await;
        let before = *reasons;
        let mut after = before;
        after.set(reason, stands);
        // Whoever drops this midway leaves a container that may be frozen, and is taken for it.
        reasons.set(reason, true);
        let done = match (before.any(), after.any()) {
            (false, true) => self.pause().await,
            (true, false) => self.unpause().await,
            _ => true,
        };
        *reasons = if done { after } else { before };
        done
    }

    async fn pause(&self) -> bool {
        let _nothing_starts = self.apart.0.write().await;
        match freeze::turn(self.docker, self.id, true).await {
            Ok(()) => true,
            // Somebody else has frozen it, besides this node.
            Err(freeze::Refusal::Already) => true,
            Err(freeze::Refusal::Failed(why)) => {
                tracing::debug!(error = why, "the engine cannot pause containers");
                false
            }
        }
    }

    async fn unpause(&self) -> bool {
        let done = freeze::turn(self.docker, self.id, false).await;
        if let Err(refusal) = &done {
            let container = self.id;
            tracing::warn!(container, ?refusal, "the engine does not let it go on");
        }
        done.is_ok()
    }
}

impl Valve for Freezer<'_> {
    async fn freeze(&self) -> bool {
        self.set(Reason::Output, true).await
    }

    async fn thaw(&self) -> bool {
        self.set(Reason::Output, false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_enough_and_neither_lifts_the_other() {
        let mut reasons = Reasons::default();
        assert!(!reasons.any());
        for (reason, stands, any) in [
            (Reason::Owner, true, true),
            (Reason::Output, true, true),
            (Reason::Owner, false, true),
            (Reason::Owner, true, true),
            (Reason::Output, false, true),
            (Reason::Owner, false, false),
        ] {
            reasons.set(reason, stands);
            assert_eq!(reasons.any(), any, "{reason:?} {stands}");
        }
    }
}
