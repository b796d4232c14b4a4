//! Directories that tasks work in: `work/<job>-<submitter>-<number>/...`, one subdirectory a run, all
//! of them gone when the job is.
//!
//! Names are made of ids only, never of anything a peer chose. The number is another each time that a
//! job comes, so that what is left of it and what it makes anew never meet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::AttemptKey;

use crate::core::io::{HostedJob, RunKey};
use crate::home;

/// A directory that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {}: {source}", path.display())]
pub struct WorkDirError {
    path: PathBuf,
    source: io::Error,
}

/// The directory of all work directories.
#[derive(Debug, Clone)]
pub struct WorkDirs {
    root: PathBuf,
    next: Arc<AtomicU64>,
}

impl WorkDirs {
    /// Uses `root`, which must exist and belong to this node alone.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            next: Arc::default(),
        }
    }

    /// The directories of a hosted job from now on. Nothing is made yet.
    #[must_use]
    pub fn of_job(&self, hosted: &HostedJob) -> JobDirs {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // The whole peer id, so that no submitter can reach another's directory by a like name.
        let name = format!("{}-{}-{number}", hosted.job, hosted.submitter);
        JobDirs {
            root: self.root.join(name),
            spare: Arc::default(),
        }
    }
}

/// Where everything of a hosted job stands.
#[derive(Debug, Clone)]
pub struct JobDirs {
    root: PathBuf,
    spare: Arc<Mutex<Spare>>,
}

/// Empty directories that wait for a run.
#[derive(Debug, Default)]
struct Spare {
    paths: Vec<PathBuf>,
    made: u64,
}

/// Empty directories that are kept for a job, at most: as many as run at once on a large machine.
const MAX_SPARE: usize = 256;

impl JobDirs {
    fn of_run(&self, run: &RunKey) -> PathBuf {
        let AttemptKey { task, attempt } = run.attempt;
        self.root
            .join(format!("{}.{}.{attempt}", task.step, task.index))
    }

    /// Makes the directory for what the job's tasks share, such as the program.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make_common(&self) -> Result<PathBuf, WorkDirError> {
        make(self.root.join("common"))
    }

    /// Makes a run's own, empty directory.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make(&self, run: &RunKey) -> Result<PathBuf, WorkDirError> {
        make(self.of_run(run))
    }

    /// An empty directory for a run that finds nothing in it and of which nothing is looked at; may have
    /// served another run of the job before. ext4 takes 30 µs to make a directory where many were
    /// removed just now, which is more than such a run takes itself.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn borrow(&self) -> Result<PathBuf, WorkDirError> {
        let name = {
            let mut spare = self.spare();
            if let Some(path) = spare.paths.pop() {
                return Ok(path);
            }
            spare.made += 1;
            format!("bare.{}", spare.made)
        };
        make(self.root.join(name))
    }

    /// Takes a borrowed directory back. Not when anything was left in it; it has to be removed then,
    /// see [`JobDirs::remove_borrowed`].
    #[must_use]
    pub fn give_back(&self, path: PathBuf) -> bool {
        let is_empty = std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
        let mut spare = self.spare();
        let kept = is_empty && spare.paths.len() < MAX_SPARE;
        if kept {
            spare.paths.push(path);
        }
        kept
    }

    /// Removes a borrowed directory with all in it. The task has ended.
    pub fn remove_borrowed(path: &Path) {
        remove(path);
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a run's directory if it is empty, which takes no time. Returns whether it is gone.
    #[must_use]
    pub fn remove_empty(&self, run: &RunKey) -> bool {
        match std::fs::remove_dir(self.of_run(run)) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes a run's directory with all in it. The task has ended.
    pub fn remove(&self, run: &RunKey) {
        remove(&self.of_run(run));
    }

    /// Removes all directories of the job, whose tasks have ended.
    pub fn remove_all(&self) {
        remove(&self.root);
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
        Err(source) => Err(WorkDirError { path, source }),
    }
}

fn remove(path: &Path) {
    if let Err(error) = home::remove_tree(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        // Its disk is given to others all the same, so the owner has to know.
        tracing::error!(
            path = %path.display(),
            %error,
            "a work directory stays behind and takes more disk than is offered; remove it by hand"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::{JobId, PeerId, TaskKey};

    use super::*;

    fn run() -> RunKey {
        RunKey {
            submitter: PeerId::random(),
            attempt: AttemptKey {
                task: TaskKey {
                    job: JobId([7; 8]),
                    step: 0,
                    index: 3,
                },
                attempt: 1,
            },
        }
    }

    #[test]
    fn only_an_empty_directory_goes_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let run = run();
        let dirs = WorkDirs::new(folder.path().to_owned()).of_job(&run.hosted());
        assert!(dirs.remove_empty(&run), "never made");
        let made = dirs.make(&run).unwrap();
        assert!(dirs.remove_empty(&run));
        assert!(!made.exists());
        dirs.make(&run).unwrap();
        std::fs::write(made.join("file"), "x").unwrap();
        assert!(!dirs.remove_empty(&run));
        assert!(made.join("file").exists());
        dirs.remove(&run);
        assert!(!made.exists());
    }

    #[test]
    fn an_empty_directory_serves_again_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = WorkDirs::new(folder.path().to_owned()).of_job(&run().hosted());
        let first = dirs.borrow().unwrap();
        let second = dirs.borrow().unwrap();
        assert_ne!(first, second);
        assert!(dirs.give_back(first.clone()));
        std::fs::write(second.join("file"), "x").unwrap();
        assert!(!dirs.give_back(second.clone()), "a task left something");
        JobDirs::remove_borrowed(&second);
        assert_eq!(dirs.borrow().unwrap(), first);
        assert_ne!(dirs.borrow().unwrap(), second);
        dirs.remove_all();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_job_that_comes_again_gets_other_directories() {
        let folder = tempfile::tempdir().unwrap();
        let work = WorkDirs::new(folder.path().to_owned());
        let hosted = run().hosted();
        let (first, second) = (work.of_job(&hosted), work.of_job(&hosted));
        let module = second.make_common().unwrap().join("step-0.wasm");
        std::fs::write(&module, "x").unwrap();
        first.make_common().unwrap();
        first.remove_all();
        assert!(module.exists());
        second.remove_all();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
