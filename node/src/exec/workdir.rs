//! Directories that tasks work in: `work/<job>-<submitter>/...`, one subdirectory a run, all of them
//! gone when the job is.
//!
//! Names are made of ids only, never of anything a peer chose.

use std::io;
use std::path::{Path, PathBuf};

use p2pnode_protocol::AttemptKey;

use crate::core::io::{HostedJob, RunKey};

/// A directory that could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct WorkDirError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The directory of all work directories.
#[derive(Debug, Clone)]
pub struct WorkDirs {
    root: PathBuf,
}

impl WorkDirs {
    /// Uses `root`, which must exist and belong to this node alone.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where all of a hosted job's directories are.
    #[must_use]
    pub fn of_job(&self, hosted: &HostedJob) -> PathBuf {
        // The whole peer id, so that no submitter can reach another's directory by a like name.
        self.root
            .join(format!("{}-{}", hosted.job, hosted.submitter))
    }

    /// Where the program and other things common to the job's tasks are kept.
    #[must_use]
    pub fn common(&self, hosted: &HostedJob) -> PathBuf {
        self.of_job(hosted).join("common")
    }

    fn of_run(&self, run: &RunKey) -> PathBuf {
        let AttemptKey { task, attempt } = run.attempt;
        let hosted = HostedJob {
            submitter: run.submitter,
            job: task.job,
        };
        self.of_job(&hosted)
            .join(format!("{}.{}.{attempt}", task.step, task.index))
    }

    /// Makes the directory for what a job's tasks share.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make_common(&self, hosted: &HostedJob) -> Result<PathBuf, WorkDirError> {
        make(self.common(hosted))
    }

    /// Makes a run's own, empty directory.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make(&self, run: &RunKey) -> Result<PathBuf, WorkDirError> {
        make(self.of_run(run))
    }

    /// Removes a run's directory with all in it.
    pub fn remove(&self, run: &RunKey) {
        remove(&self.of_run(run));
    }

    /// Removes all directories of a hosted job.
    pub fn remove_job(&self, hosted: &HostedJob) {
        remove(&self.of_job(hosted));
    }
}

fn make(path: PathBuf) -> Result<PathBuf, WorkDirError> {
    let made = std::fs::create_dir(&path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => std::fs::create_dir_all(&path),
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    match made {
        Ok(()) => Ok(path),
        Err(source) => Err(WorkDirError {
            action: "make",
            path,
            source,
        }),
    }
}

fn remove(path: &Path) {
    // `remove_dir` first: the directory of a task without files is the common case.
    let removed = std::fs::remove_dir(path).or_else(|_| std::fs::remove_dir_all(path));
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a work directory stays behind");
    }
}
