//! One job's log file and what is known of it.
//!
//! Writes go to a known end with `pwrite`, so an entry that was written in part (disk full) is
//! overwritten by the next. Reads share the file with writes: what lies before the known end never
//! changes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::stream::{LogFrame, MAX_LOG_BYTES};
use tracing::warn;

use super::coverage::Coverage;
use super::format::{HEADER_BYTES, Header, Kind, MAGIC};
use super::reading::{Entries, Next, Reading};
use super::{LogPosition, LogsError, TaskFilter};

/// An open log.
#[derive(Debug)]
pub(super) struct JobFile {
    file: Arc<File>,
    path: PathBuf,
    /// Where the next entry goes.
    end: u64,
    /// Whether [`Kind::Full`] was written.
    full: bool,
    /// What has come of each attempt, and where its first entry stands.
    attempts: BTreeMap<TaskRef, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    coverage: Coverage,
    first: u64,
}

impl JobFile {
    /// Opens the log at `path`, or makes it, and learns what is in it. What follows the last whole
    /// entry is cut off.
    pub(super) fn open(path: PathBuf, create: bool) -> Result<Option<Self>, LogsError> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = match opened {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => return Ok(None),
            Err(source) => return Err(LogsError::Open { path, source }),
        };
        let mut log = Self {
            file,
            path,
            end: MAGIC.len() as u64,
            full: false,
            attempts: BTreeMap::new(),
        };
        log.scan()?;
        Ok(Some(log))
    }

    fn scan(&mut self) -> Result<(), LogsError> {
        let length = self.file.metadata().map_err(|e| self.failed(e))?.len();
        let mut magic = [0; MAGIC.len()];
        if length < MAGIC.len() as u64 {
            // New, or its making was cut short.
            let made = self.file.write_all_at(MAGIC, 0);
            return made.map_err(|e| self.failed(e));
        }
        let read = self.file.read_exact_at(&mut magic, 0);
        read.map_err(|e| self.failed(e))?;
        if magic != *MAGIC {
            return Err(LogsError::NotALog {
                path: self.path.clone(),
            });
        }
        let mut entries = Entries::new(Arc::clone(&self.file), self.end, length);
        loop {
            let at = entries.at;
            match entries.next_header().map_err(|e| self.failed(e))? {
                Next::Header(header) => self.note(&header, at),
                Next::End => break,
                Next::Broken => {
                    warn!(path = %self.path.display(), lost = length - at, "the end of a log was not written whole and is cut off");
                    let cut = self.file.set_len(at);
                    cut.map_err(|e| self.failed(e))?;
                    break;
                }
            }
            entries.skip_payload();
            self.end = entries.at;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> LogsError {
        LogsError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn note(&mut self, header: &Header, at: u64) {
        match header.kind {
            Kind::Full => self.full = true,
            Kind::Output(_) => {
                let attempt = self.attempts.entry(header.task).or_insert_with(|| Attempt {
                    coverage: Coverage::default(),
                    first: at,
                });
                let part = header.offset..header.offset.saturating_add(header.length.into());
                for part in attempt.coverage.missing(part) {
                    attempt.coverage.add(part);
                }
            }
        }
    }

    /// Appends what of `frame` is new and returns it; see [`super::JobLogs::append`].
    pub(super) fn append(
        &mut self,
        frame: LogFrame,
        limit: u64,
    ) -> Result<Vec<LogFrame>, LogsError> {
        let length = frame.bytes.len();
        let span = frame.offset.checked_add(length as u64);
        let Some(until) = span.filter(|_| length <= MAX_LOG_BYTES) else {
            return Err(LogsError::BadFrame {
                offset: frame.offset,
                length,
            });
        };
        if self.full {
            return Ok(Vec::new());
        }
        let nothing = Coverage::default();
        let known = self.attempts.get(&task_of(&frame));
        let coverage = known.map_or(&nothing, |attempt| &attempt.coverage);
        let missing = coverage.missing(frame.offset..until);
        let mut new = cut(frame, missing);
        for (written, piece) in new.iter().enumerate() {
            if self.end + (HEADER_BYTES + piece.bytes.len()) as u64 > limit {
                self.write(&Header::FULL, &[])?;
                warn!(path = %self.path.display(), limit, "a job's log is full, the rest is dropped");
                new.truncate(written);
                break;
            }
            self.write(&header_of(piece), &piece.bytes)?;
        }
        Ok(new)
    }

    fn write(&mut self, header: &Header, payload: &[u8]) -> Result<(), LogsError> {
        let mut entry = Vec::with_capacity(HEADER_BYTES + payload.len());
        header.encode(&mut entry);
        entry.extend_from_slice(payload);
        let at = self.end;
        let written = self.file.write_all_at(&entry, at);
        written.map_err(|e| self.failed(e))?;
        self.end = at + entry.len() as u64;
        self.note(header, at);
        Ok(())
    }

    /// See [`super::JobLogs::received`].
    pub(super) fn received(&self, task: TaskRef) -> u64 {
        if self.full {
            return u64::MAX;
        }
        let attempt = self.attempts.get(&task);
        attempt.map_or(0, |attempt| attempt.coverage.received())
    }

    /// Where a reader that wants `filter` from `from` on has to look.
    pub(super) fn reading(&self, filter: Option<TaskFilter>, from: LogPosition) -> Reading {
        let first = match filter {
            None => Some(MAGIC.len() as u64),
            Some(filter) => {
                let attempts = TaskRef {
                    step: filter.step,
                    index: filter.index,
                    attempt: 0,
                }..=TaskRef {
                    step: filter.step,
                    index: filter.index,
                    attempt: u32::MAX,
                };
                let attempts = self.attempts.range(attempts);
                attempts.map(|(_, attempt)| attempt.first).min()
            }
        };
        Reading {
            file: Arc::clone(&self.file),
            path: self.path.clone(),
            from: first.unwrap_or(self.end).max(from.0),
            end: self.end,
            full: self.full,
        }
    }
}

const fn task_of(frame: &LogFrame) -> TaskRef {
    TaskRef {
        step: frame.step,
        index: frame.index,
        attempt: frame.attempt,
    }
}

fn header_of(frame: &LogFrame) -> Header {
    Header {
        task: task_of(frame),
        kind: Kind::Output(frame.stream),
        offset: frame.offset,
        length: frame.bytes.len() as u32,
    }
}

/// The parts of a frame.
fn cut(frame: LogFrame, parts: Vec<Range<u64>>) -> Vec<LogFrame> {
    let length = frame.bytes.len() as u64;
    if parts.len() == 1 && parts[0].end - parts[0].start == length {
        return vec![frame];
    }
    let start = frame.offset;
    let piece = |part: Range<u64>| LogFrame {
        offset: part.start,
        bytes: frame.bytes[(part.start - start) as usize..(part.end - start) as usize].to_vec(),
        ..frame
    };
    parts.into_iter().map(piece).collect()
}
