//! What can go wrong with the database, each with its mend.

use std::path::PathBuf;

use p2pnode_protocol::codec::CodecError;
use rusqlite::ErrorCode;

/// The database cannot be used. All of these end the node: a node that cannot store what it accepts
/// must not go on accepting.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be made or opened.
    #[error(
        "cannot open the database `{path}`; check that its folder exists, belongs to this user and \
         is on a disk with free space"
    )]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file cannot be made.
    #[error(
        "cannot create the database `{path}`; check that its folder exists and belongs to this user"
    )]
    Create {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A later version of this program has written it.
    #[error(
        "the database `{path}` has format {found}, and this program knows formats up to {known}: \
         a newer p2pnode has used it; install that version again, or give this one another \
         --data-dir"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// Not a database, or damaged.
    #[error(
        "the database `{path}` is damaged; move it (and the files `-wal` and `-shm` beside it) \
         away and start again: the list of jobs, what is offered and who is allowed will be empty, \
         the identity stays"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was noticed.
        #[source]
        source: Damage,
    },
    /// Rows cannot be read.
    #[error("cannot read the database `{path}`; check the disk it is on")]
    Read {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Rows cannot be written.
    #[error(
        "cannot write to the database `{path}`, so the node stops before it promises anything that \
         is not stored; free some disk space or mend the disk, and start it again"
    )]
    Write {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A value is larger than the database may hold.
    #[error("{what} is too large to be stored")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        #[source]
        source: CodecError,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the thread that writes the database")]
    Thread(#[source] std::io::Error),
    /// The writer's thread panicked.
    #[error(
        "the thread that writes the database failed; this is a fault in p2pnode, please report it"
    )]
    WriterDied,
}

/// How damage showed.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// SQLite noticed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A value is not what its column should hold.
    #[error("a stored {what} cannot be read")]
    Value {
        /// What should have been there.
        what: &'static str,
        /// Why it is not.
        #[source]
        source: Option<CodecError>,
    },
}

/// Whether SQLite says that the file itself is at fault.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    ) || matches!(
        error,
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::IntegralValueOutOfRange(..)
    )
}
