//! What a node must find again after it ended in any way: SQLite for state, files for logs.
//!
//! [`Store::open`] gives everything that was stored as a [`Snapshot`]; [`Store::start`] gives the two
//! ends of the one writer. Only the driver calls them: it persists what the core says before it does
//! what the core says next. [`JobLogs`] keeps what tasks wrote, one file a job.
//!
//! This module decides nothing and never reads the database while the node runs: the core's memory
//! is the truth, the database is its echo. Asked while the node runs are [`Claims`], and the owner's
//! [`History`], which the core never needs.
//!
//! **How safe.** The journal is a write-ahead log with `synchronous = NORMAL`: a commit is a write
//! to the log without waiting for the disk. Whatever ends the *process* (SIGKILL, a crash) loses
//! nothing that was committed. A *power cut* or a crash of the system can lose the last moments, and
//! never damages the database: a submitter then runs the lost moments' tasks again, a provider finds
//! less than it promised and its submitters hand those tasks out again. Waiting for the disk at every
//! commit would cost milliseconds for each small task. The owner's decisions about who may use the
//! machine are few and must hold, so their transactions do wait.

mod claims;
mod error;
pub mod history;
mod load;
pub mod logs;
mod migrate;
mod peers;
mod record;
mod rows;
mod writer;

#[cfg(test)]
mod tests;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2pnode_protocol::job::JobPlan;
use rusqlite::{Connection, OpenFlags};

use crate::core::io::Snapshot;
pub use claims::{Claims, Clash};
pub use error::{Damage, StoreError};
pub use history::{History, Past};
pub use logs::{JobLogs, LogPage, LogPosition, LogsError, MAX_JOB_LOG_BYTES, TaskFilter};
pub use peers::{KEPT_ADDRESSES, KEPT_PEERS, RememberedPeer};
pub use record::KEPT_JOBS;
pub use rows::MAX_VALUE_BYTES;
pub use writer::{CommitError, Committed, QUEUE, Writer};

/// How long to wait for another program (a person with the `sqlite3` shell) that has the database
/// locked before giving up.
const BUSY: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this size after a burst, in bytes (16 MiB: four times what it
/// reaches between automatic checkpoints).
const JOURNAL_LIMIT: i64 = 16 << 20;

/// Whether a job's plan is small enough to be stored. Asked before a job is accepted: later it would
/// be an error of the database, which ends the node.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub fn check_plan(plan: &JobPlan) -> Result<(), StoreError> {
    let too_large = |source| StoreError::TooLarge {
        what: "the job's plan (the values of its array and its list of inputs)",
        source,
    };
    rows::to_blob(plan).map(drop).map_err(too_large)
}

/// An open database, before its writer starts.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database at `path`, or makes it with mode 0600, brings it to this program's format
    /// and reads all of it. Blocks; the caller holds the data directory's lock.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or was written by a later version.
    pub fn open(path: &Path) -> Result<(Self, Snapshot), StoreError> {
        create(path)?;
        let mut connection = connect(path).map_err(|source| {
            let path = path.to_owned();
            if error::is_damage(&source) {
                let source = source.into();
                StoreError::Corrupt { path, source }
            } else {
                StoreError::Open { path, source }
            }
        })?;
        migrate::migrate(&mut connection, path)?;
        let snapshot = load::load(&connection).map_err(|damage| reading(path, damage))?;
        let path = path.to_owned();
        Ok((Self { connection, path }, snapshot))
    }

    /// What ran here, to be asked while the node runs.
    #[must_use]
    pub fn history(&self) -> History {
        History::new(self.path.clone())
    }

    /// Peers of earlier lives, the last seen first, at most [`KEPT_PEERS`].
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn known_peers(&self) -> Result<Vec<RememberedPeer>, StoreError> {
        peers::known(&self.connection).map_err(|damage| reading(&self.path, damage))
    }

    /// Stores peers before the writer runs; later it is [`Writer::remember_peers`].
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn remember_peers(&mut self, peers: &[RememberedPeer]) -> Result<(), StoreError> {
        writer::remember(&self.connection, peers).map_err(|source| StoreError::Write {
            path: self.path.clone(),
            source,
        })
    }

    /// Starts the writer's thread. `T` is what callers want back once their records are stored.
    ///
    /// # Errors
    /// [`StoreError::Thread`].
    pub fn start<T: Send + 'static>(self) -> Result<(Writer<T>, Committed<T>), StoreError> {
        writer::start(self.connection, self.path)
    }
}

/// Makes the file when there is none. SQLite gives its journals the mode of the database, so it is
/// set before SQLite sees it.
fn create(path: &Path) -> Result<(), StoreError> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| StoreError::Create {
            path: path.to_owned(),
            source,
        })
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // One thread at a time has the connection, so SQLite need not guard it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_LIMIT, |_| Ok(()))?;
    Ok(connection)
}

fn reading(path: &Path, damage: Damage) -> StoreError {
    let path = path.to_owned();
    match damage {
        Damage::Sqlite(source) if !error::is_damage(&source) => StoreError::Read { path, source },
        source => StoreError::Corrupt { path, source },
    }
}
