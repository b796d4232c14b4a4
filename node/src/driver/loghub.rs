//! Logs of this node's own jobs: stored, told to watchers, and counted for those who wait for the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use p2pnode_protocol::api::{Event, LogEntry};
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::{AttemptKey, JobId};
use tokio::sync::{Notify, broadcast};

use crate::command::LogPage;
use crate::store::JobLogs;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogHub {
    logs: Arc<Mutex<JobLogs>>,
    events: broadcast::Sender<Arc<Event>>,
    arrived: Arc<Notify>,
}

impl LogHub {
    pub(super) fn new(logs: JobLogs, events: broadcast::Sender<Arc<Event>>) -> Self {
        Self { logs: Arc::new(Mutex::new(logs)), events, arrived: Arc::new(Notify::new()) }
    }

    fn logs(&self) -> std::sync::MutexGuard<'_, JobLogs> {
        // The table is consistent between calls, so a panic elsewhere does not spoil it.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a frame of a job of this node's own; repeats change nothing.
    pub(super) fn take(&self, job: JobId, frame: LogFrame) {
        let stored = self.logs().append(job, &frame);
        match stored {
            Ok(true) => {
                let LogEntry { task, attempt, stream, text } = LogEntry::of(job, &frame);
                let event = Event::Log { job: job.to_string(), task, attempt, stream, text };
                // Nobody may be watching.
                let _watchers = self.events.send(Arc::new(event));
                self.arrived.notify_waiters();
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%job, %error, "a log line could not be stored"),
        }
    }

    /// Waits until `bytes` of an attempt's output are here, at most `limit`.
    pub(super) async fn wait_for(&self, attempt: AttemptKey, bytes: u64, limit: Duration) {
        let complete = async {
            loop {
                let arrived = self.arrived.notified();
                let mut arrived = std::pin::pin!(arrived);
                // Registered before looking, so that no arrival falls between.
                arrived.as_mut().enable();
                if self.logs().received(&attempt) >= bytes {
                    return;
                }
                arrived.await;
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
    ) -> Result<LogPage, crate::store::LogError> {
        self.logs().read(job, task, from)
    }
}
