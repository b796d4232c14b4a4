//! The one thread that writes the database.
//!
//! Batches come in over a bounded channel, each with something of its caller's to be handed on once
//! its records are stored (the driver sends the effects that must not happen before). The thread
//! takes whatever waits, writes all of it in one transaction, commits, and only then hands on, in
//! order. So a busy node pays for one commit per group and an idle one waits for nobody, and
//! everything that leaves by [`Committed`] rests on stored state.
//!
//! On the first error it hands on the error and ends: nothing later may be acknowledged. It must
//! never reorder batches, and never hand on a batch whose records are not committed.

use std::path::PathBuf;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

use super::error::{StoreError, is_damage};
use super::history::{self, Past};
use super::peers::{self, RememberedPeer};
use super::record::{RecordError, Statements, is_owners_decision};
use crate::core::io::Record;

/// Batches that may wait on either side of the thread. A group of this many at some 20 µs a batch
/// is stored in 5 ms, so a full queue means a stuck disk, not a busy node.
pub const QUEUE: usize = 256;

/// What comes in.
enum Command<T> {
    Commit { records: Vec<Record>, then: T },
    Remember(Vec<RememberedPeer>),
    Past(Vec<Past>),
}

/// The sending side. Cheap to clone; when the last one is dropped the thread stores what waits,
/// closes the database and ends.
#[derive(Debug)]
pub struct Writer<T> {
    commands: mpsc::Sender<Command<T>>,
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Self {
            commands: self.commands.clone(),
        }
    }
}

/// Why a batch was not taken. Nothing of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// [`QUEUE`] batches wait. Ask [`Writer::room`] before making a batch.
    #[error("the database is behind by {QUEUE} batches")]
    Full,
    /// The thread ended; [`Committed::recv`] says why.
    #[error("the database is closed")]
    Closed,
}

impl<T> Writer<T> {
    /// Stores `records` in order, then hands `then` on through [`Committed`]; without records it is
    /// handed on in its turn all the same. Waits while [`QUEUE`] batches wait.
    ///
    /// A task that also receives from [`Committed`] must not await this (both queues full would
    /// stop it for ever): it takes new work only while [`Writer::room`] is not 0, and uses
    /// [`Writer::try_commit`].
    ///
    /// # Errors
    /// [`CommitError::Closed`].
    pub async fn commit(&self, records: Vec<Record>, then: T) -> Result<(), CommitError> {
        self.commands
            .send(Command::Commit { records, then })
            .await
            .map_err(|_| CommitError::Closed)
    }

    /// [`Writer::commit`] without waiting.
    ///
    /// # Errors
    /// [`CommitError::Full`] or [`CommitError::Closed`].
    pub fn try_commit(&self, records: Vec<Record>, then: T) -> Result<(), CommitError> {
        self.commands
            .try_send(Command::Commit { records, then })
            .map_err(|refused| match refused {
                mpsc::error::TrySendError::Full(_) => CommitError::Full,
                mpsc::error::TrySendError::Closed(_) => CommitError::Closed,
            })
    }

    /// How many batches can be taken now, 0 to [`QUEUE`]. When one task
    /// alone holds the writer this is a promise to its [`Writer::try_commit`].
    #[must_use]
    pub fn room(&self) -> usize {
        self.commands.capacity()
    }

    /// Stores what ended here, in the transaction of the batches beside it, before those that are
    /// sent later. Given back when [`QUEUE`] batches wait or the thread ended.
    ///
    /// # Errors
    /// What was not taken.
    pub fn note_past(&self, past: Vec<Past>) -> Result<(), Vec<Past>> {
        self.commands
            .try_send(Command::Past(past))
            .map_err(|refused| match refused.into_inner() {
                Command::Past(past) => past,
                Command::Commit { .. } | Command::Remember(_) => Vec::new(),
            })
    }

    /// Stores peers for the next start. They are worth little: when the queue is full, or the
    /// database fails, they are dropped with a line in the log.
    pub fn remember_peers(&self, peers: Vec<RememberedPeer>) {
        if self.commands.try_send(Command::Remember(peers)).is_err() {
            debug!("the database is busy or closed, peers are not remembered this time");
        }
    }
}

/// The receiving side: what may happen now, in the order of sending.
#[derive(Debug)]
pub struct Committed<T> {
    done: mpsc::Receiver<Result<T, StoreError>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Committed<T> {
    /// The next batch's `then`, its records stored. `None` when every [`Writer`] was dropped and
    /// the database is closed. Cancel safe.
    ///
    /// # Errors
    /// The database failed; nothing after the last `Ok` is stored, and the node must stop.
    pub async fn recv(&mut self) -> Option<Result<T, StoreError>> {
        match self.done.recv().await {
            Some(done) => Some(done),
            // The thread closes the channel as its last act, so this waits for nothing.
            None => match self.thread.take()?.join() {
                Ok(()) => None,
                Err(_) => Some(Err(StoreError::WriterDied)),
            },
        }
    }
}

/// Starts the thread on an open database.
pub(super) fn start<T: Send + 'static>(
    connection: Connection,
    path: PathBuf,
) -> Result<(Writer<T>, Committed<T>), StoreError> {
    let (commands, waiting) = mpsc::channel(QUEUE);
    let (finished, done) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new()
        .name("store".into())
        .spawn(move || {
            run(&connection, path, waiting, &finished);
            if let Err((_, error)) = connection.close() {
                warn!(%error, "the database was not closed cleanly; it mends itself when opened");
            }
            drop(finished);
        })
        .map_err(StoreError::Thread)?;
    let thread = Some(thread);
    Ok((Writer { commands }, Committed { done, thread }))
}

fn run<T>(
    connection: &Connection,
    path: PathBuf,
    mut waiting: mpsc::Receiver<Command<T>>,
    finished: &mpsc::Sender<Result<T, StoreError>>,
) {
    let mut group = Vec::with_capacity(QUEUE);
    let failed = |error: RecordError| {
        let error = store_error(error, path.clone());
        error!(%error, "the database failed");
        // Nobody left to tell is fine: then nothing is acknowledged either.
        let _ = finished.blocking_send(Err(error));
    };
    let prepared = Statements::prepare(connection)
        .and_then(|statements| Ok((statements, history::Writing::prepare(connection)?)));
    let mut statements = match prepared {
        Ok(statements) => statements,
        Err(error) => return failed(error.into()),
    };
    while waiting.blocking_recv_many(&mut group, QUEUE) > 0 {
        if let Err(error) = store(connection, &mut statements, &group) {
            return failed(error);
        }
        for command in group.drain(..) {
            if let Command::Commit { then, .. } = command {
                // Records are stored even when nobody waits for the rest any more.
                let _ = finished.blocking_send(Ok(then));
            }
        }
    }
}

/// Stores a group in one transaction; a group without records costs nothing.
fn store<T>(
    connection: &Connection,
    (statements, history): &mut (Statements<'_>, history::Writing<'_>),
    group: &[Command<T>],
) -> Result<(), RecordError> {
    let records = || {
        group.iter().flat_map(|command| match command {
            Command::Commit { records, .. } => records.as_slice(),
            Command::Remember(_) | Command::Past(_) => &[],
        })
    };
    let past = || {
        group.iter().flat_map(|command| match command {
            Command::Past(past) => past.as_slice(),
            Command::Remember(_) | Command::Commit { .. } => &[],
        })
    };
    if records().next().is_some() || past().next().is_some() {
        let durable = records().any(is_owners_decision);
        if durable {
            connection.pragma_update(None, "synchronous", "FULL")?;
        }
        let transaction = connection.unchecked_transaction()?;
        for record in records() {
            statements.write(record)?;
        }
        history.write(past())?;
        transaction.commit()?;
        if durable {
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
    }
    for command in group {
        if let Command::Remember(peers) = command
            && let Err(error) = remember(connection, peers)
        {
            warn!(%error, "peers are not remembered");
        }
    }
    Ok(())
}

/// Stores peers in a transaction of their own, so that their failure is nobody else's.
pub(super) fn remember(connection: &Connection, peers: &[RememberedPeer]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    peers::remember(connection, peers)?;
    transaction.commit()
}

fn store_error(error: RecordError, path: PathBuf) -> StoreError {
    match error {
        RecordError::TooLarge(what, source) => StoreError::TooLarge { what, source },
        RecordError::Sqlite(source) if is_damage(&source) => StoreError::Corrupt {
            path,
            source: source.into(),
        },
        RecordError::Sqlite(source) => StoreError::Write { path, source },
    }
}
