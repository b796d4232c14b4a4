//! Which task brought which path of its job's outputs.
//!
//! Tasks of a job share one output folder. Where patterns have wildcards, only the files that come
//! tell whether two tasks write one path, and the second one must not replace the first one's result
//! in silence. A claim outlives the node, as the job does; it is dropped with the job.
//!
//! In a file of its own, beside the database and without its guarantees: paths are many, are looked
//! up while the node runs, and one that a power cut forgot costs only a check.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use p2pnode_protocol::{JobId, TaskKey};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::StoreError;

/// The only table. `PRIMARY KEY` without row ids: the path is the place.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS claim (
    job BLOB NOT NULL, path BLOB NOT NULL, step INTEGER NOT NULL, task INTEGER NOT NULL,
    PRIMARY KEY (job, path)
) WITHOUT ROWID";

/// A path that another task brought before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The path, relative to the output folder.
    pub path: Vec<u8>,
    /// Whose it is.
    pub owner: TaskKey,
}

/// See the module. Calls block.
#[derive(Debug)]
pub struct Claims {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl Claims {
    /// Opens the file at `path`, or makes it, and drops what it holds of jobs other than `keep`. A
    /// file that cannot be read is made anew: no result hangs on it.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(path: &Path, keep: &[JobId]) -> Result<Self, StoreError> {
        let opened = open(path).or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "the list of outputs is made anew");
            std::fs::remove_file(path).ok();
            open(path)
        });
        let claims = Self {
            connection: Mutex::new(opened?),
            path: path.to_owned(),
        };
        for job in claims.jobs()?.into_iter().filter(|job| !keep.contains(job)) {
            claims.forget(job)?;
        }
        Ok(claims)
    }

    /// Claims all of `paths` for a task, or none when another task has one of them. A task may claim
    /// its own again: it was tried again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn claim<'p>(
        &self,
        task: TaskKey,
        paths: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<Result<(), Clash>, StoreError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            let job = &task.job.0[..];
            {
                let mut look = transaction
                    .prepare("SELECT step, task FROM claim WHERE job = ?1 AND path = ?2")?;
                let mut put = transaction
                    .prepare("INSERT INTO claim (job, path, step, task) VALUES (?1, ?2, ?3, ?4)")?;
                for path in paths {
                    let owner = look
                        .query_row(params![job, path], |row| {
                            Ok(TaskKey {
                                job: task.job,
                                step: row.get(0)?,
                                index: row.get(1)?,
                            })
                        })
                        .optional()?;
                    match owner {
                        Some(owner) if owner != task => {
                            let path = path.to_vec();
                            return Ok(Err(Clash { path, owner }));
                        }
                        Some(_) => {}
                        None => {
                            put.execute(params![job, path, task.step, task.index])?;
                        }
                    }
                }
            }
            transaction.commit()?;
            Ok(Ok(()))
        })
    }

    /// Drops the claims of a job that is over.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget(&self, job: JobId) -> Result<(), StoreError> {
        self.with(|connection| {
            connection
                .prepare("DELETE FROM claim WHERE job = ?1")?
                .execute([&job.0[..]])
                .map(drop)
        })
    }

    fn jobs(&self) -> Result<Vec<JobId>, StoreError> {
        self.with(|connection| {
            let mut select = connection.prepare("SELECT DISTINCT job FROM claim")?;
            let jobs = select.query_map([], |row| Ok(JobId(row.get(0)?)))?;
            jobs.collect()
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut connection).map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    super::create(path)?;
    let set_up = || {
        let connection = super::connect(path)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute(TABLE, [])?;
        Ok(connection)
    };
    set_up().map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(job: u8, index: u32) -> TaskKey {
        TaskKey {
            job: JobId([job; 8]),
            step: 0,
            index,
        }
    }

    #[test]
    fn a_path_has_one_task_until_its_job_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("claims.db");
        let claims = Claims::open(&file, &[]).unwrap();
        let claim = |claims: &Claims, task, paths: &[&str]| {
            let paths = paths.iter().map(|path| path.as_bytes());
            claims.claim(task, paths).unwrap()
        };
        assert_eq!(claim(&claims, task(1, 0), &["a", "b"]), Ok(()));
        assert_eq!(claim(&claims, task(1, 0), &["b", "c"]), Ok(()), "its own");
        assert_eq!(claim(&claims, task(2, 7), &["a"]), Ok(()), "another job");
        let clash = Clash {
            path: b"c".to_vec(),
            owner: task(1, 0),
        };
        assert_eq!(claim(&claims, task(1, 1), &["d", "c"]), Err(clash.clone()));
        assert_eq!(claim(&claims, task(1, 2), &["d"]), Ok(()), "all or none");
        drop(claims);

        let claims = Claims::open(&file, &[JobId([1; 8])]).unwrap();
        assert_eq!(claim(&claims, task(1, 1), &["c"]), Err(clash), "kept");
        assert_eq!(claim(&claims, task(2, 8), &["a"]), Ok(()), "dropped");
        claims.forget(JobId([1; 8])).unwrap();
        assert_eq!(claim(&claims, task(1, 1), &["c"]), Ok(()));
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("claims.db");
        std::fs::write(&file, vec![b'x'; 9_000]).unwrap();
        let claims = Claims::open(&file, &[]).unwrap();
        assert_eq!(claims.claim(task(1, 0), [&b"a"[..]]).unwrap(), Ok(()));
    }
}
