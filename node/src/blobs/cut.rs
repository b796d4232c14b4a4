//! Cuts files into content-defined chunks and stores them, on several threads when it pays.
//!
//! Owns the shape of chunks: FastCDC v2020, so that a change in the middle of a file leaves the chunks
//! before and after it as they were, and a second version of a large input sends only what is new. Used
//! by [`super::ingest`] and [`super::outputs`], which find the files; it must never open one itself.
//!
//! One thread reads and cuts (some 1.5 GB/s); the others hash and write. Blocks are read once and
//! shared, so bytes are copied only from the page cache and back into it.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use fastcdc::v2020::FastCDC;
use p2pnode_protocol::manifest::{ChunkRef, MAX_ENTRIES};

use super::store::{BlobStore, PinOwner, StoreError};

/// No piece but the last of a file is shorter, in bytes (64 KiB).
pub(super) const MIN_CHUNK_BYTES: usize = 64 << 10;

/// The length that pieces have on average, in bytes (256 KiB): a 100 GiB input has 400,000 chunks, a
/// manifest of 15 MB and an index of 25 MB, while a changed byte costs a quarter of a megabyte.
const AVERAGE_CHUNK_BYTES: usize = 256 << 10;

/// No piece is longer, in bytes (1 MiB); below the wire's limit of 4 MiB.
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// How much of a file is read at once, in bytes (4 MiB): 16 average pieces.
const BLOCK_BYTES: usize = 4 << 20;

/// Below this total, in bytes (4 MiB), threads cost more than they save: some 3 ms of work.
const PARALLEL_BYTES: u64 = 4 << 20;

/// The most threads that hash and write: a disk is not made faster by more, and tasks want CPUs too.
const MAX_WORKERS: usize = 4;

/// Pieces that wait for each worker. With one in work per worker this bounds the memory held to
/// `MAX_WORKERS * (1 + QUEUE)` blocks.
const QUEUE: usize = 2;

/// How far an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What a tree may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most files and folders that are looked at.
    pub entries: usize,
    /// The most content, in bytes.
    pub bytes: u64,
}

impl Default for Limits {
    /// What a manifest can hold, and no limit of bytes but the store's quota.
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            bytes: u64::MAX,
        }
    }
}

/// Why cutting stopped.
#[derive(Debug)]
pub(super) enum CutError {
    /// The file cannot be read.
    Read(io::Error),
    /// More bytes than allowed: the file grew, or is larger than it said.
    TooLarge,
    /// A chunk cannot be stored.
    Store(StoreError),
    /// The caller's progress function said so.
    Stopped,
}

/// Called with every change; [`ControlFlow::Break`] ends the operation.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// A piece on its way to a worker.
struct Piece {
    file: usize,
    number: usize,
    block: Arc<Vec<u8>>,
    range: Range<usize>,
}

/// A piece that is stored.
struct Stored {
    file: usize,
    number: usize,
    chunk: ChunkRef,
}

/// What all threads share.
struct Shared<'a> {
    cutting: &'a Cutting<'a>,
    done: AtomicU64,
}

impl Shared<'_> {
    fn store(&self, piece: &Piece) -> Result<Stored, CutError> {
        let Cutting {
            store,
            owner,
            progress,
            total,
            ..
        } = *self.cutting;
        let bytes = &piece.block[piece.range.clone()];
        let digest = store.put(owner, bytes).map_err(CutError::Store)?;
        let length = bytes.len() as u64;
        let done = self.done.fetch_add(length, Ordering::Relaxed) + length;
        let now = Progress {
            done,
            total: total.max(done),
        };
        if progress(now).is_break() {
            return Err(CutError::Stopped);
        }
        Ok(Stored {
            file: piece.file,
            number: piece.number,
            chunk: ChunkRef {
                digest,
                bytes: bytes.len() as u32,
            },
        })
    }
}

/// Where pieces go as they are cut.
enum Pieces<'a> {
    /// Stored at once, by this thread.
    Here {
        shared: &'a Shared<'a>,
        stored: &'a mut Vec<Stored>,
    },
    /// Handed to workers.
    There(SyncSender<Piece>),
}

impl Pieces<'_> {
    fn add(&mut self, piece: Piece) -> Result<(), CutError> {
        match self {
            Self::Here { shared, stored } => {
                stored.push(shared.store(&piece)?);
                Ok(())
            }
            // The workers are gone only when one failed, and its error is what counts.
            Self::There(pieces) => pieces.send(piece).map_err(|_| CutError::Stopped),
        }
    }
}

/// One file to be cut.
pub(super) struct Source {
    /// Open for reading.
    pub file: File,
    /// Its length as last seen, in bytes.
    pub bytes: u64,
}

/// What the cutting of many files has in common.
pub(super) struct Cutting<'a> {
    /// Where chunks go.
    pub store: &'a BlobStore,
    /// Who keeps them.
    pub owner: PinOwner,
    /// Who wants to know.
    pub progress: OnProgress<'a>,
    /// The length that the files have together as far as known, in bytes.
    pub total: u64,
    /// The most that is read, in bytes.
    pub limit: u64,
}

/// What stopped the cutting, and in which file when one is to blame.
#[derive(Debug)]
pub(super) struct CutFailure {
    pub file: Option<usize>,
    pub error: CutError,
}

impl From<CutError> for CutFailure {
    fn from(error: CutError) -> Self {
        Self { file: None, error }
    }
}

/// Cuts and stores `count` files, each opened by `open` when its turn comes. Returns their chunks.
pub(super) fn cut_files(
    cutting: &Cutting<'_>,
    count: usize,
    mut open: impl FnMut(usize) -> io::Result<Source>,
) -> Result<Vec<Vec<ChunkRef>>, CutFailure> {
    let shared = Shared {
        cutting,
        done: AtomicU64::new(0),
    };
    let mut cut_all = |pieces: &mut Pieces<'_>| -> Result<(), CutFailure> {
        let mut left = cutting.limit;
        for file in 0..count {
            open(file)
                .map_err(CutError::Read)
                .and_then(|source| cut_file(file, source, &mut left, pieces))
                .map_err(|error| CutFailure {
                    file: Some(file),
                    error,
                })?;
        }
        Ok(())
    };
    let mut stored = if cutting.total < PARALLEL_BYTES {
        let mut stored = Vec::new();
        cut_all(&mut Pieces::Here {
            shared: &shared,
            stored: &mut stored,
        })?;
        stored
    } else {
        with_workers(&shared, cut_all)?
    };
    stored.sort_unstable_by_key(|stored| (stored.file, stored.number));
    let mut files = vec![Vec::new(); count];
    for stored in stored {
        files[stored.file].push(stored.chunk);
    }
    Ok(files)
}

fn with_workers(
    shared: &Shared<'_>,
    cut_all: impl FnOnce(&mut Pieces<'_>) -> Result<(), CutFailure>,
) -> Result<Vec<Stored>, CutFailure> {
    let workers = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_WORKERS);
    let (sender, receiver) = mpsc::sync_channel(workers * QUEUE);
    let receiver = Mutex::new(Some(receiver));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| scope.spawn(|| work(shared, &receiver)))
            .collect();
        let mut pieces = Pieces::There(sender);
        let cut = cut_all(&mut pieces);
        // Closes the channel, which is how the workers know that there is no more.
        drop(pieces);
        let mut stored = Vec::new();
        let mut failed = None;
        for thread in threads {
            match thread.join() {
                Ok(Ok(part)) => stored.extend(part),
                Ok(Err(error)) => failed = Some(error),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        // A worker's failure is why the cutter stopped, not the other way round.
        if let Some(error) = failed {
            return Err(error.into());
        }
        cut?;
        Ok(stored)
    })
}

/// Stores pieces until there are no more, or one fails: then the channel is closed for all.
fn work(
    shared: &Shared<'_>,
    pieces: &Mutex<Option<Receiver<Piece>>>,
) -> Result<Vec<Stored>, CutError> {
    let mut stored = Vec::new();
    loop {
        let piece = {
            let receiver = pieces.lock().unwrap_or_else(PoisonError::into_inner);
            receiver.as_ref().and_then(|receiver| receiver.recv().ok())
        };
        let Some(piece) = piece else {
            return Ok(stored);
        };
        match shared.store(&piece) {
            Ok(piece) => stored.push(piece),
            Err(error) => {
                *pieces.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Err(error);
            }
        }
    }
}

fn cut_file(
    file: usize,
    mut source: Source,
    left: &mut u64,
    pieces: &mut Pieces<'_>,
) -> Result<(), CutError> {
    let mut number = 0;
    let mut rest: Vec<u8> = Vec::new();
    // One byte more than is expected, so that the end of a small file is seen at once.
    let mut room = usize::try_from(source.bytes.saturating_add(1))
        .unwrap_or(usize::MAX)
        .min(BLOCK_BYTES);
    loop {
        let mut block = Vec::with_capacity(rest.len() + room);
        block.append(&mut rest);
        let carried = block.len();
        let read = (&mut source.file)
            .take(room as u64)
            .read_to_end(&mut block)
            .map_err(CutError::Read)? as u64;
        *left = left.checked_sub(read).ok_or(CutError::TooLarge)?;
        let ended = block.len() - carried < room;
        let block = Arc::new(block);
        let mut start = 0;
        let cuts = FastCDC::new(
            &block,
            MIN_CHUNK_BYTES,
            AVERAGE_CHUNK_BYTES,
            MAX_CHUNK_BYTES,
        );
        while start < block.len() {
            let (_, end) = cuts.cut(start, block.len() - start);
            // Without the whole of what the cutter may look at, the cut could be another one.
            if !ended && block.len() - start < MAX_CHUNK_BYTES {
                break;
            }
            pieces.add(Piece {
                file,
                number,
                block: Arc::clone(&block),
                range: start..end,
            })?;
            number += 1;
            start = end;
        }
        if ended {
            return Ok(());
        }
        rest = block[start..].to_vec();
        room = BLOCK_BYTES;
    }
}
