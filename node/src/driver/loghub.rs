//! Logs of this node's own jobs: stored, told to watchers, and counted for those who wait for the end.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::api::{Event, LogEntry};
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::{AttemptKey, JobId, PeerId};
use tokio::sync::{Notify, broadcast};

use super::holders::{Holders, Verdict};
use crate::command;
use crate::store::{JobLogs, LogPosition, LogsError, TaskFilter};

/// The most log bytes in one answer (1 MiB), a hundredth of a second on loopback.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// The longest text of one event, in bytes: events wait for slow watchers, so that their number times
/// this is what a watcher who stands still can hold (see [`super::assembly`]).
const MAX_EVENT_TEXT: usize = 2 << 10;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogHub {
    logs: Arc<JobLogs>,
    events: broadcast::Sender<Arc<Event>>,
    arrived: Arc<Notify>,
    holders: Holders,
}

impl LogHub {
    pub(super) fn new(logs: JobLogs, events: broadcast::Sender<Arc<Event>>) -> Self {
        Self {
            logs: Arc::new(logs),
            events,
            arrived: Arc::new(Notify::new()),
            holders: Holders::default(),
        }
    }

    /// Who may write.
    pub(super) const fn holders(&self) -> &Holders {
        &self.holders
    }

    /// Does with a peer's frame what it deserves. Returns whether the peer may go on.
    ///
    /// # Errors
    /// When the frame breaks the rules, which is its sender's doing.
    pub(super) fn take_from(
        &self,
        peer: &PeerId,
        job: JobId,
        frame: LogFrame,
    ) -> Result<bool, LogsError> {
        match self.holders.judge(job, peer, &frame) {
            Verdict::Gone => return Ok(false),
            // Whoever waits for it may wait in vain from now on.
            Verdict::Drop => self.arrived.notify_waiters(),
            Verdict::Take => self.take(job, frame)?,
        }
        Ok(true)
    }

    /// Stores a frame of a job of this node's own and shows what of it is new.
    ///
    /// # Errors
    /// When the frame breaks the rules, which is its sender's doing.
    pub(super) fn take(&self, job: JobId, frame: LogFrame) -> Result<(), LogsError> {
        let fresh = match self.logs.append(job, frame) {
            Err(error @ LogsError::BadFrame { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%job, %error, "a log line could not be stored");
                return Ok(());
            }
            Ok(fresh) => fresh,
        };
        for frame in fresh {
            let LogEntry {
                task,
                attempt,
                stream,
                text,
            } = LogEntry::of(job, &frame);
            for text in pieces(&text) {
                let event = Event::Log {
                    job: job.to_string(),
                    task: task.clone(),
                    attempt,
                    stream,
                    text: text.to_owned(),
                };
                // Nobody may be watching.
                let _watchers = self.events.send(Arc::new(event));
            }
        }
        self.arrived.notify_waiters();
        Ok(())
    }

    /// Waits until `bytes` of the output of an attempt at `peer` are here, or no more of it will be
    /// taken, at most `limit`.
    pub(super) async fn wait_for(
        &self,
        peer: &PeerId,
        attempt: AttemptKey,
        bytes: u64,
        limit: Duration,
    ) {
        let AttemptKey {
            task,
            attempt: number,
        } = attempt;
        let wanted = TaskRef {
            step: task.step,
            index: task.index,
            attempt: number,
        };
        let complete = async {
            loop {
                let arrived = self.arrived.notified();
                let mut arrived = std::pin::pin!(arrived);
                // Registered before looking, so that no arrival falls between.
                arrived.as_mut().enable();
                if self.holders.is_spent(task.job, peer) {
                    return;
                }
                match self.logs.received(task.job, wanted) {
                    Ok(received) if received < bytes => arrived.await,
                    Ok(_) => return,
                    Err(error) => {
                        tracing::warn!(%attempt, %error, "its log cannot be read");
                        return;
                    }
                }
            }
        };
        if tokio::time::timeout(limit, complete).await.is_err() {
            tracing::info!(%attempt, "its log is not complete");
        }
    }

    /// A page of a job's log.
    pub(super) fn page(
        &self,
        job: JobId,
        task: Option<u32>,
        from: u64,
    ) -> Result<command::LogPage, LogsError> {
        let filter = task.map(|index| TaskFilter { step: 0, index });
        let page = self
            .logs
            .read(job, filter, LogPosition(from), MAX_PAGE_BYTES)?;
        Ok(command::LogPage {
            frames: page.frames,
            next: page.next.0,
        })
    }
}

/// `text` in pieces of at most [`MAX_EVENT_TEXT`], cut between characters.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(rest.floor_char_boundary(MAX_EVENT_TEXT));
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(pieces("").count(), 0);
        assert_eq!(pieces("short").collect::<Vec<_>>(), ["short"]);
        let long = "ä€".repeat(3_000);
        let cut: Vec<&str> = pieces(&long).collect();
        assert!(cut.iter().all(|piece| piece.len() <= MAX_EVENT_TEXT));
        assert_eq!(cut.len(), long.len().div_ceil(MAX_EVENT_TEXT));
        assert_eq!(cut.concat(), long);
    }
}
