//! What tasks wrote: one append-only file a job.
//!
//! Called by the driver's log tasks (frames that arrive) and by the API's (someone reads or
//! follows). Calls block on the disk for as long as a write to the page cache takes; reads of long
//! logs belong on a blocking thread.
//!
//! Frames may come twice: after a reconnection the provider sends again what it does not know to
//! have arrived. Each byte of an attempt's output is kept once. Whether a frame's sender may write
//! to that attempt is for the caller to tell, before.
//!
//! One file a job and not one a task: ten thousand tasks with a line each are ten thousand small
//! writes into one file, not ten thousand files. Nothing is synced: what a crash of the system cuts
//! off is noticed and dropped when the file is next opened.

mod coverage;
mod file;
mod format;
mod reading;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::JobId;
use p2pnode_protocol::id::{StepIndex, TaskIndex};
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::stream::LogFrame;

use file::JobFile;

/// The largest log of one job, in bytes (1 GiB): a thousand times what a person reads, and a small
/// part of any disk that jobs' outputs fit on.
pub const MAX_JOB_LOG_BYTES: u64 = 1 << 30;

/// Logs that are open at a time, handle and index together: far under the usual limit of 1,024
/// handles a process.
const MAX_OPEN: usize = 64;

/// The end of a log file's name.
const SUFFIX: &str = ".log";

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The folder cannot be made or listed.
    #[error("cannot use `{path}` for logs; check that it is a folder of this user's")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be opened.
    #[error("cannot open the log `{path}`")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read or written.
    #[error("cannot read or write the log `{path}`; check the disk's free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is something else, or of a later version.
    #[error("`{path}` is not a log that this version can read; move it away")]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The sender broke the protocol's rules.
    #[error("a log frame of {length} bytes at {offset} is not valid")]
    BadFrame {
        /// Its position.
        offset: u64,
        /// Its length, in bytes.
        length: usize,
    },
    /// No page of this log ended there.
    #[error("{} is not a position in this log; start again from 0", .0.0)]
    BadPosition(LogPosition),
}

/// A place in a job's log: 0 is its beginning, any other comes from [`LogPage::next`]. Opaque, and
/// good until the log is removed, across restarts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(pub u64);

/// One task, whatever the try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskFilter {
    /// The step.
    pub step: StepIndex,
    /// The task.
    pub index: TaskIndex,
}

impl TaskFilter {
    fn fits(self, task: TaskRef) -> bool {
        (self.step, self.index) == (task.step, task.index)
    }
}

/// Part of a log, in the order in which it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPage {
    /// What was written.
    pub frames: Vec<LogFrame>,
    /// Where to read on.
    pub next: LogPosition,
    /// Whether nothing more is there at the moment.
    pub at_end: bool,
    /// Whether this is the end of a log that became full, so that what came later is lost.
    pub truncated: bool,
}

/// All logs of this node's own jobs.
#[derive(Debug)]
pub struct JobLogs {
    folder: PathBuf,
    limit: u64,
    open: Mutex<Open>,
}

/// A job's log; `None` until somebody uses it, and while there is none.
type Slot = Arc<Mutex<Option<JobFile>>>;

#[derive(Debug, Default)]
struct Open {
    /// By job: when it was last used, and the log.
    logs: BTreeMap<JobId, (u64, Slot)>,
    /// Counts uses; the log with the smallest number was used longest ago.
    uses: u64,
}

/// A poisoned lock is taken all the same: a log's end is moved only after its bytes are written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JobLogs {
    /// Uses `folder`, and makes it when it is absent.
    ///
    /// # Errors
    /// [`LogsError::Folder`].
    pub fn open(folder: &Path) -> Result<Self, LogsError> {
        Self::with_limit(folder, MAX_JOB_LOG_BYTES)
    }

    /// [`JobLogs::open`] with another limit than [`MAX_JOB_LOG_BYTES`] for one job's log.
    ///
    /// # Errors
    /// [`LogsError::Folder`].
    pub fn with_limit(folder: &Path, limit: u64) -> Result<Self, LogsError> {
        fs::create_dir_all(folder).map_err(|source| LogsError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            limit,
            open: Mutex::default(),
        })
    }

    /// Appends a frame and returns what of it is new, ready to be shown: nothing when all of it has
    /// come before or the log is full, usually the frame itself, and pieces of it when parts had
    /// come. Once this returns, the bytes survive the process.
    ///
    /// # Errors
    /// [`LogsError::BadFrame`] is the sender's fault, the others are the disk's.
    pub fn append(&self, job: JobId, frame: LogFrame) -> Result<Vec<LogFrame>, LogsError> {
        let slot = self.slot(job);
        match self.opened(job, true, &mut lock(&slot))? {
            Some(log) => log.append(frame, self.limit),
            None => Ok(Vec::new()),
        }
    }

    /// How many bytes of an attempt's output have come, each counted once; `u64::MAX` once the
    /// job's log is full, since nothing more is waited for then.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn received(&self, job: JobId, task: TaskRef) -> Result<u64, LogsError> {
        let slot = self.slot(job);
        let mut slot = lock(&slot);
        let log = self.opened(job, false, &mut slot)?;
        Ok(log.map_or(0, |log| log.received(task)))
    }

    /// Reads on from a position, of one task or all: whole frames until `max_bytes` of them are
    /// collected, at least one when there is one. A job without a log has an empty one.
    ///
    /// # Errors
    /// The log cannot be read, or `from` is not one of its positions.
    pub fn read(
        &self,
        job: JobId,
        filter: Option<TaskFilter>,
        from: LogPosition,
        max_bytes: usize,
    ) -> Result<LogPage, LogsError> {
        let slot = self.slot(job);
        let reading = match self.opened(job, false, &mut lock(&slot))? {
            Some(log) => log.reading(filter, from),
            None => {
                return Ok(LogPage {
                    at_end: true,
                    ..LogPage::default()
                });
            }
        };
        reading.page(filter, max_bytes.max(1))
    }

    /// Removes a job's log. One that is not there is removed already.
    ///
    /// # Errors
    /// [`LogsError::Io`].
    pub fn remove(&self, job: JobId) -> Result<(), LogsError> {
        let mut open = lock(&self.open);
        open.logs.remove(&job);
        let path = self.path(job);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LogsError::Io { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the logs of all jobs but these; for a node that starts, whose database has forgotten
    /// old jobs.
    ///
    /// # Errors
    /// [`LogsError::Folder`] or [`LogsError::Io`].
    pub fn keep_only(&self, jobs: &BTreeSet<JobId>) -> Result<(), LogsError> {
        let failed = |source| LogsError::Folder {
            path: self.folder.clone(),
            source,
        };
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let job = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(job) = job.and_then(|id| id.parse::<JobId>().ok())
                && !jobs.contains(&job)
            {
                self.remove(job)?;
            }
        }
        Ok(())
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.folder.join(format!("{job}{SUFFIX}"))
    }

    /// Where the job's log is or will be. One slot a job at a time, so that no two handles ever
    /// believe in different ends of a file.
    fn slot(&self, job: JobId) -> Slot {
        let mut open = lock(&self.open);
        open.uses += 1;
        let uses = open.uses;
        if !open.logs.contains_key(&job) {
            open.close_idle();
        }
        let (used, slot) = open.logs.entry(job).or_default();
        *used = uses;
        Arc::clone(slot)
    }

    /// The log in a slot, opened when it is not; `None` when it is absent and not to be made. A long
    /// log takes a while to be scanned: under its own lock, not under everybody's.
    fn opened<'s>(
        &self,
        job: JobId,
        create: bool,
        slot: &'s mut Option<JobFile>,
    ) -> Result<Option<&'s mut JobFile>, LogsError> {
        if slot.is_none() {
            *slot = JobFile::open(self.path(job), create)?;
        }
        Ok(slot.as_mut())
    }
}

impl Open {
    /// Closes the log used longest ago when too many are open. One in use stays: a second handle
    /// beside it would not see its writes.
    fn close_idle(&mut self) {
        if self.logs.len() < MAX_OPEN {
            return;
        }
        let idle = self
            .logs
            .iter()
            .filter(|(_, (_, log))| Arc::strong_count(log) == 1);
        let oldest = idle.min_by_key(|(_, (used, _))| *used).map(|(job, _)| *job);
        if let Some(job) = oldest {
            self.logs.remove(&job);
        }
    }
}
