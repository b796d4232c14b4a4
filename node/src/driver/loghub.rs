//! Logs of this node's own jobs: stored, told to watchers, and counted for those who wait for the end.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::api::{Event, LogEntry};
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::{AttemptKey, JobId, PeerId};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::holders::{Holders, Verdict};
use crate::command;
use crate::store::{JobLogs, LogPosition, LogsError, TaskFilter};

/// The most log bytes in one answer (1 MiB), a hundredth of a second on loopback.
const MAX_PAGE_BYTES: usize = 1 << 20;

/// The longest text of one event, in bytes: events wait for slow watchers, so that their number times
/// this is what a watcher who stands still can hold (see [`super::assembly`]).
const MAX_EVENT_TEXT: usize = 2 << 10;

/// How long the end of a log may take however steadily it comes (10 min): what may be unacknowledged of a
/// chatty task, 16 MiB, over a line of 256 kbit/s. Who lets it drip keeps a job from ending no longer.
const MOST_PATIENCE: Duration = Duration::from_secs(600);

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
    /// taken. Returns whether that is so: `false` when none of it came for as long as `patience`, or the rest
    /// did not come within [`MOST_PATIENCE`].
    pub(super) async fn wait_for(
        &self,
        peer: &PeerId,
        attempt: AttemptKey,
        bytes: u64,
        patience: Duration,
    ) -> bool {
        let AttemptKey {
            task,
            attempt: number,
        } = attempt;
        let wanted = TaskRef {
            step: task.step,
            index: task.index,
            attempt: number,
        };
        let most = Instant::now() + MOST_PATIENCE;
        let (mut here, mut until) = (0, most.min(Instant::now() + patience));
        loop {
            let arrived = self.arrived.notified();
            let mut arrived = std::pin::pin!(arrived);
            // Registered before looking, so that no arrival falls between.
            arrived.as_mut().enable();
            if self.holders.is_spent(task.job, peer) {
                return true;
            }
            match self.logs.received(task.job, wanted) {
                Ok(received) if received >= bytes => return true,
                Ok(received) if received > here => {
                    here = received;
                    until = most.min(Instant::now() + patience);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%attempt, %error, "its log cannot be read");
                    return true;
                }
            }
            if tokio::time::timeout_at(until, arrived).await.is_err() {
                return false;
            }
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
    use p2pnode_protocol::TaskKey;
    use p2pnode_protocol::task::Stream;

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_log_is_waited_for_while_it_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let logs = JobLogs::open(folder.path()).expect("logs");
        let hub = LogHub::new(logs, broadcast::channel(1).0);
        let task = TaskKey {
            job: JobId([7; 8]),
            step: 0,
            index: 0,
        };
        let attempt = AttemptKey { task, attempt: 1 };
        let (patience, frames) = (Duration::from_secs(1), 4);
        let coming = async {
            for number in 0..frames {
                tokio::time::sleep(patience / 2).await;
                let frame = LogFrame {
                    step: 0,
                    index: 0,
                    attempt: 1,
                    stream: Stream::Stdout,
                    offset: number * 2,
                    bytes: b"y\n".to_vec(),
                };
                hub.take(task.job, frame).expect("a good frame");
            }
        };
        let peer = PeerId::random();
        let waiting = hub.wait_for(&peer, attempt, 2 * frames, patience);
        let (complete, ()) = tokio::join!(waiting, coming);
        assert!(complete, "longer than its patience, and never without news");
        let more = hub.wait_for(&peer, attempt, 2 * frames + 1, patience / 10);
        assert!(!more.await, "nothing comes any more");
    }

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
