//! Brings a database to the format of this program.
//!
//! The format's number is SQLite's `user_version`. Each migration is a file of SQL that is never
//! edited after a release; a new format is a new file at the end of the list. Blobs are bincode
//! without field names, so a change of any type stored as one (see [`super::rows`]) is a new
//! migration too.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::error::{StoreError, is_damage};

/// All migrations; the first makes format 1 from an empty file.
const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_rules.sql"),
    include_str!("migrations/0003_owner.sql"),
    include_str!("migrations/0004_networks.sql"),
];

/// The format that this program reads and writes.
pub(super) const FORMAT: i64 = MIGRATIONS.len() as i64;

/// Runs the migrations that `connection` has not seen, all in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source: rusqlite::Error| {
        let path = path.to_owned();
        if is_damage(&source) {
            let source = source.into();
            StoreError::Corrupt { path, source }
        } else {
            StoreError::Open { path, source }
        }
    };
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let found: i64 = transaction
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    let done = usize::try_from(found)
        .ok()
        .filter(|done| *done <= MIGRATIONS.len())
        .ok_or_else(|| StoreError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        })?;
    for sql in &MIGRATIONS[done..] {
        transaction.execute_batch(sql).map_err(failed)?;
    }
    transaction
        .pragma_update(None, "user_version", FORMAT)
        .map_err(failed)?;
    transaction.commit().map_err(failed)
}
