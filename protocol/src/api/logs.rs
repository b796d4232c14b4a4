//! What tasks wrote.

use serde::{Deserialize, Serialize};

use crate::id::{JobId, TaskKey};
use crate::stream::LogFrame;
use crate::task::Stream;

/// Part of a log. `GET /api/v1/jobs/{job}/logs?task=&from=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntries {
    /// In order of arrival.
    pub entries: Vec<LogEntry>,
    /// Where to go on reading; the same as `from` when nothing new is there.
    pub next: u64,
}

/// Something a task wrote. Bytes that are not UTF-8 are replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogEntry {
    /// The task, `JOB/INDEX`.
    pub task: String,
    /// The try.
    pub attempt: u32,
    /// Which stream.
    pub stream: Stream,
    /// What.
    pub text: String,
}

impl LogEntry {
    /// A frame as the API shows it.
    #[must_use]
    pub fn of(job: JobId, frame: &LogFrame) -> Self {
        let task = TaskKey {
            job,
            step: frame.step,
            index: frame.index,
        };
        Self {
            task: task.to_string(),
            attempt: frame.attempt,
            stream: frame.stream,
            text: String::from_utf8_lossy(&frame.bytes).into_owned(),
        }
    }
}
