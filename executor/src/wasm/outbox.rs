//! Messages that wait to be written to a pipe.
//!
//! Whoever has something to say puts it here and never waits; one writer takes all that is there and
//! writes it at once, which is what makes batches under load and costs nothing without. The bound is
//! not here: the node's window of runs and each task's window of output limit what can be waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Locks `mutex`. A panic elsewhere is no reason to stop: no invariant here spans two statements.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages that wait for one writer.
#[derive(Debug)]
pub struct Outbox<M> {
    queue: Mutex<Queue<M>>,
    ready: Notify,
}

#[derive(Debug)]
struct Queue<M> {
    messages: Vec<M>,
    closed: bool,
}

impl<M> Default for Outbox<M> {
    fn default() -> Self {
        Self {
            queue: Mutex::new(Queue {
                messages: Vec::new(),
                closed: false,
            }),
            ready: Notify::new(),
        }
    }
}

impl<M> Outbox<M> {
    /// Adds messages in one piece: nothing comes between them, and the writer sees all or none.
    /// After [`Outbox::close`] they are dropped.
    pub fn push(&self, messages: impl IntoIterator<Item = M>) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return;
        }
        queue.messages.extend(messages);
        drop(queue);
        self.ready.notify_one();
    }

    /// Everything that waits, as soon as there is something; `None` when closed. For one caller at a
    /// time.
    pub async fn take(&self) -> Option<Vec<M>> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if queue.closed {
                    return None;
                }
                if !queue.messages.is_empty() {
                    return Some(std::mem::take(&mut queue.messages));
                }
            }
            self.ready.notified().await;
        }
    }

    /// Ends it: what waits is dropped, and the writer is told.
    pub fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.messages = Vec::new();
        drop(queue);
        self.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_writer_gets_all_that_waits_in_order() {
        let outbox = Outbox::default();
        outbox.push([1, 2]);
        outbox.push([3]);
        assert_eq!(outbox.take().await, Some(vec![1, 2, 3]));
        let (taken, ()) = tokio::join!(outbox.take(), async { outbox.push([4]) });
        assert_eq!(taken, Some(vec![4]));
    }

    #[tokio::test]
    async fn a_closed_outbox_lets_the_writer_go() {
        let outbox = Outbox::default();
        let (taken, ()) = tokio::join!(outbox.take(), async { outbox.close() });
        assert_eq!(taken, None);
        outbox.push([1]);
        assert_eq!(outbox.take().await, None);
    }
}
