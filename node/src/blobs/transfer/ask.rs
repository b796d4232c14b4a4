//! Asks one peer for a list of objects and stores what comes.
//!
//! Owns the asking side's pipeline: several requests are under way at once, so that a long way to the
//! peer does not stall it, and arrived bytes are hashed and written on other threads while the next
//! come in. Both are bounded. Knows nothing of manifests; [`super::fetch`] does.

use std::io;
use std::sync::Arc;

use futures::future::try_join;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use p2pnode_protocol::manifest::ChunkRef;
use p2pnode_protocol::stream::{BlobReply, BlobWant, MAX_FRAME_BYTES, MAX_WANT};
use p2pnode_protocol::{Digest, JobId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::frame::{self, Patient, StreamError};
use super::lot::Lot;
use super::{FetchError, STALL, off_thread};
use crate::blobs::store::BlobStore;

/// Bytes asked for and not arrived, at most (16 MiB): 1 Gbit/s over a way of 128 ms.
const WINDOW_BYTES: u32 = 16 << 20;

/// One request asks for some so many bytes (4 MiB), so that a window is several requests, and a request
/// several of the lots that the other side reads ahead.
const REQUEST_BYTES: u32 = 4 << 20;

/// What an object counts at least against the window, in bytes: a window is at most 65,536 objects.
const LEAST_COST: u32 = 256;

/// Arrived bytes are handed to a thread in lots of some so many (1 MiB), small objects many at a time.
const LOT_BYTES: usize = 1 << 20;

/// The most objects of one lot: 10 ms of work when each is tiny.
const LOT_OBJECTS: usize = 1_024;

/// Lots being hashed and written at once. With the one being filled this bounds the memory of a
/// transfer to 4 MiB and a few of the largest objects.
const LOTS: usize = 3;

/// Buffer of the reading side, in bytes (64 KiB), for the sake of small objects.
const READ_BUFFER: usize = 64 << 10;

/// The largest encoded [`BlobReply`], in bytes: one for the option, five for the number.
const MAX_REPLY_BYTES: usize = 6;

/// What came of an [`ask`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AskOutcome {
    /// Bytes that came and were stored.
    pub bytes: u64,
    /// What the peer does not have, or does not give.
    pub absent: Vec<Digest>,
}

/// Asks the peer behind `stream` for `objects`, each a digest and its length, and stores what comes.
/// `arrived` is told the length of each. After an error, or when the future is dropped before its end,
/// the stream is of no more use; what had arrived by then is stored.
///
/// # Errors
/// [`FetchError`]; that something is absent is not one.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: JobId,
    objects: &[ChunkRef],
    store: &Arc<BlobStore>,
    arrived: &(dyn Fn(u64) + Sync),
) -> Result<AskOutcome, FetchError> {
    let (reader, writer) = stream.split();
    let window = Semaphore::new(WINDOW_BYTES as usize);
    let asking = send_wants(writer, job, objects, &window);
    let mut receiver = Receiver {
        reader: Patient::new(BufReader::with_capacity(READ_BUFFER, reader), STALL),
        window: &window,
        arrived,
        lots: Lots::new(store),
        outcome: AskOutcome::default(),
    };
    let receiving = receiver.run(objects);
    try_join(asking, receiving).await?;
    Ok(receiver.outcome)
}

impl From<StreamError> for FetchError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => Self::Cut(error),
            StreamError::Stalled => Self::Stalled,
            StreamError::Codec(error) => Self::Protocol(error),
        }
    }
}

/// What an object takes of the window: never so much that a request, which may end in a large one, would
/// wait for more than the whole of it.
fn cost(object: &ChunkRef) -> u32 {
    object.bytes.clamp(LEAST_COST, WINDOW_BYTES - REQUEST_BYTES)
}

async fn send_wants<W: AsyncWrite + Unpin>(
    mut writer: W,
    job: JobId,
    objects: &[ChunkRef],
    window: &Semaphore,
) -> Result<(), FetchError> {
    let mut rest = objects;
    while !rest.is_empty() {
        let mut bytes = 0u32;
        let count = rest
            .iter()
            .take(MAX_WANT)
            .take_while(|object| {
                let more = bytes < REQUEST_BYTES;
                bytes = bytes.saturating_add(cost(object));
                more
            })
            .count();
        let (now, later) = rest.split_at(count);
        rest = later;
        for object in now {
            // The window is never closed, so this cannot fail; it is given back as replies come.
            if let Ok(permit) = window.acquire_many(cost(object)).await {
                permit.forget();
            }
        }
        let want = BlobWant {
            job,
            digests: now.iter().map(|object| object.digest).collect(),
        };
        let mut frame = Vec::new();
        frame::append(&mut frame, &want, MAX_FRAME_BYTES).map_err(FetchError::Protocol)?;
        // Without a time limit: the peer reads on when it has sent, and that is what is watched.
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
    Ok(())
}

struct Receiver<'a, R> {
    reader: Patient<BufReader<R>>,
    window: &'a Semaphore,
    arrived: &'a (dyn Fn(u64) + Sync),
    lots: Lots<'a>,
    outcome: AskOutcome,
}

impl<R: AsyncRead + Unpin> Receiver<'_, R> {
    async fn run(&mut self, objects: &[ChunkRef]) -> Result<(), FetchError> {
        for object in objects {
            match self.receive(object).await {
                Ok(true) => {
                    self.outcome.bytes += u64::from(object.bytes);
                    (self.arrived)(object.bytes.into());
                    self.lots.added(object).await?;
                }
                Ok(false) => self.outcome.absent.push(object.digest),
                Err(error) => {
                    // What came before the cut is kept.
                    self.lots.finish().await?;
                    return Err(error);
                }
            }
            self.window.add_permits(cost(object) as usize);
        }
        self.lots.finish().await
    }

    /// Reads one reply; `false` when the peer does not have the object.
    async fn receive(&mut self, object: &ChunkRef) -> Result<bool, FetchError> {
        let reply: BlobReply = self
            .reader
            .read_frame(MAX_REPLY_BYTES)
            .await?
            .ok_or_else(|| FetchError::Cut(io::ErrorKind::UnexpectedEof.into()))?;
        let Some(found) = reply.bytes else {
            return Ok(false);
        };
        if found != object.bytes {
            return Err(FetchError::WrongLength {
                digest: object.digest,
                expected: object.bytes,
                found,
            });
        }
        self.reader.read_full(self.lots.room(found)).await?;
        Ok(true)
    }
}

/// Objects on their way into the store.
struct Lots<'a> {
    store: &'a Arc<BlobStore>,
    filling: Arrived,
    storing: JoinSet<Result<Stored, io::Error>>,
    /// Memory of lots that are stored.
    spare: Vec<Lot>,
}

/// What arrived, one object after the other.
#[derive(Default)]
struct Arrived {
    lot: Lot,
    objects: Vec<ChunkRef>,
}

/// A lot that was stored as far as it could be.
struct Stored {
    lot: Lot,
    result: Result<(), FetchError>,
}

impl<'a> Lots<'a> {
    fn new(store: &'a Arc<BlobStore>) -> Self {
        Self {
            store,
            filling: Arrived::default(),
            storing: JoinSet::new(),
            spare: Vec::new(),
        }
    }

    /// Room for the bytes of the next object.
    fn room(&mut self, bytes: u32) -> &mut [u8] {
        self.filling.lot.more(bytes as usize)
    }

    /// Notes that the room is filled.
    async fn added(&mut self, object: &ChunkRef) -> Result<(), FetchError> {
        self.filling.objects.push(*object);
        if self.filling.lot.len() >= LOT_BYTES || self.filling.objects.len() >= LOT_OBJECTS {
            self.send();
        }
        while self.storing.len() > LOTS {
            self.next().await?;
        }
        Ok(())
    }

    fn send(&mut self) {
        let next = Arrived {
            lot: self.spare.pop().unwrap_or_default(),
            objects: Vec::new(),
        };
        let arrived = std::mem::replace(&mut self.filling, next);
        if arrived.objects.is_empty() {
            return;
        }
        let store = Arc::clone(self.store);
        self.storing
            .spawn(off_thread(move || store_lot(&store, arrived)));
    }

    async fn next(&mut self) -> Result<(), FetchError> {
        let Some(joined) = self.storing.join_next().await else {
            return Ok(());
        };
        let Stored { lot, result } = joined.map_err(io::Error::other)??;
        self.spare.push(lot.emptied());
        result
    }

    async fn finish(&mut self) -> Result<(), FetchError> {
        self.send();
        while !self.storing.is_empty() {
            self.next().await?;
        }
        Ok(())
    }
}

/// Checks and stores a lot. One wrong object does not cost the others.
fn store_lot(store: &BlobStore, arrived: Arrived) -> Stored {
    let mut rest = arrived.lot.filled();
    let mut result = Ok(());
    for object in &arrived.objects {
        // What follows the last whole object belongs to one that was cut short.
        let Some((bytes, after)) = rest.split_at_checked(object.bytes as usize) else {
            break;
        };
        rest = after;
        if Digest::of(bytes) != object.digest {
            result = Err(FetchError::WrongChunk(object.digest));
        } else if let Err(error) = store.insert(object.digest, bytes) {
            result = Err(error.into());
            break;
        }
    }
    Stored {
        lot: arrived.lot,
        result,
    }
}
