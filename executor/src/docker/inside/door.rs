//! The door of one task's sandbox: open while its process runs, then shut for ever.
//!
//! Whoever does something inside holds a pass meanwhile. So a task's end can wait until nothing is
//! done any more: a warm container must not be given to the next task while a command for the last one
//! is still being started, and outputs must not be read while somebody writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Entry;
use crate::Hold;

/// How long the end of a task waits for what is being done inside. All of it is short, but for an
/// engine that is slow to start a command.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// The leave to do one thing inside.
pub(super) type Pass = TaskTrackerToken;

/// The door.
#[derive(Debug, Clone, Default)]
pub(in crate::docker) struct Door {
    shut: CancellationToken,
    passes: TaskTracker,
    sockets: Arc<AtomicBool>,
}

impl Door {
    /// `None` once the task has ended.
    pub(super) fn pass(&self) -> Option<Pass> {
        let pass = self.passes.token();
        // Asked afterwards: whoever shuts the door first sees this pass, or is seen here.
        (!self.is_shut()).then_some(pass)
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.is_cancelled()
    }

    /// Waits until the task has ended.
    pub(super) async fn shut(&self) {
        self.shut.cancelled().await;
    }

    /// Somebody is given a socket of the container's network, which nobody can take away.
    pub(super) fn leaves_sockets(&self) {
        self.sockets.store(true, Ordering::Release);
    }

    /// Whether sockets of the container's network may still be held outside.
    pub(in crate::docker) fn has_left_sockets(&self) -> bool {
        self.sockets.load(Ordering::Acquire)
    }

    /// Lets nobody in any more, and waits until nothing is done inside. False when something still is
    /// after [`LAST_CALLS`].
    pub(in crate::docker) async fn close(&self) -> bool {
        self.close_within(LAST_CALLS).await
    }

    async fn close_within(&self, limit: Duration) -> bool {
        self.shut.cancel();
        self.passes.close();
        timeout(limit, self.passes.wait()).await.is_ok()
    }
}

/// Shows the way in to whoever holds the task, for as long as this lives.
#[derive(Debug)]
pub(in crate::docker) struct Presence<'a> {
    hold: &'a Hold,
    door: Door,
}

impl<'a> Presence<'a> {
    /// The task's process runs.
    pub(super) fn begin(hold: &'a Hold, entry: Entry) -> Self {
        let door = entry.door().clone();
        hold.inside.send_replace(Some(Arc::new(entry)));
        Self { hold, door }
    }
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.hold.inside.send_replace(None);
        self.door.shut.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_waits_for_whoever_is_inside_and_lets_nobody_in_again() {
        let door = Door::default();
        let pass = door.pass().unwrap();
        let closing = tokio::spawn({
            let door = door.clone();
            async move { door.close().await }
        });
        door.shut().await;
        assert!(door.pass().is_none());
        assert!(!closing.is_finished());
        drop(pass);
        assert!(closing.await.unwrap());
    }

    #[tokio::test]
    async fn a_door_does_not_wait_for_ever() {
        let door = Door::default();
        let _pass = door.pass().unwrap();
        assert!(!door.close_within(Duration::from_millis(20)).await);
    }
}
