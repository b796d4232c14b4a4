//! Answers a peer that asks for chunks.
//!
//! Owns the serving side's pipeline: while one lot of objects goes out, the next is read from disk. It
//! gives away nothing that `authorize` does not permit, and does not say whether it has the rest. Called
//! by the driver for each stream that a peer opens; the network bounds how many those are.

use std::io;
use std::sync::Arc;

use futures::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use p2pnode_protocol::codec::CodecError;
use p2pnode_protocol::stream::{BlobReply, BlobWant, MAX_FRAME_BYTES, MAX_WANT};
use p2pnode_protocol::{Digest, JobId};

use super::STALL;
use super::frame::{self, Patient, StreamError};
use super::lot::Lot;
use crate::blobs::store::{BlobStore, StoreError};

/// Objects are read in lots of some so many bytes (1 MiB): one is on its way out while the next is
/// read, which bounds the memory of a stream to 2 MiB and two of the largest objects.
const LOT_BYTES: usize = 1 << 20;

/// The most objects of one lot: 5 ms of reading when each is tiny.
const LOT_OBJECTS: usize = 1_024;

/// What was served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Objects sent.
    pub objects: u64,
    /// Their length, in bytes.
    pub bytes: u64,
    /// Objects asked for that are not here.
    pub absent: u64,
    /// Objects asked for that are not for this peer.
    pub refused: u64,
}

impl Served {
    const fn add(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
        self.absent += more.absent;
        self.refused += more.refused;
    }
}

/// Why serving ended before the peer did.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The stream broke.
    #[error("the transfer was cut: {0}")]
    Cut(#[from] io::Error),
    /// The peer took or asked nothing for [`STALL`].
    #[error("the peer took nothing for {} s", STALL.as_secs())]
    Stalled,
    /// Bytes that are no frame.
    #[error("the peer broke the protocol: {0}")]
    Protocol(CodecError),
    /// More digests than one request may hold.
    #[error("the peer asked for {0} chunks at once; {MAX_WANT} are allowed")]
    TooMany(usize),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ServeError {
    /// Whether the peer did what no honest node does.
    #[must_use]
    pub const fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Protocol(_) | Self::TooMany(_))
    }
}

impl From<StreamError> for ServeError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Io(error) => Self::Cut(error),
            StreamError::Stalled => Self::Stalled,
            StreamError::Codec(error) => Self::Protocol(error),
        }
    }
}

/// Answers requests until the peer closes its side. `authorize` is asked for every digest, with the job
/// that the peer names: it knows the peer, and [`BlobStore::permits`] what is pinned for a job. `sent`
/// hears of each answered request: for which job, and how many bytes of objects.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<S, A, T>(
    stream: &mut S,
    store: &Arc<BlobStore>,
    authorize: A,
    sent: T,
) -> Result<Served, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(JobId, &Digest) -> bool,
    T: Fn(JobId, u64),
{
    let mut stream = Patient::new(stream, STALL);
    let mut served = Served::default();
    let mut spare = Lot::default();
    while let Some(want) = next_want(&mut stream).await? {
        let allowed: Vec<Option<Digest>> = want
            .digests
            .into_iter()
            .map(|digest| authorize(want.job, &digest).then_some(digest))
            .collect();
        stream.start_over();
        let before = served.bytes;
        answer(&mut stream, store, allowed, &mut served, &mut spare).await?;
        sent(want.job, served.bytes - before);
    }
    stream.stream().close().await?;
    Ok(served)
}

async fn next_want<S: AsyncRead + Unpin>(
    stream: &mut Patient<S>,
) -> Result<Option<BlobWant>, ServeError> {
    match stream.read_frame::<BlobWant>(MAX_FRAME_BYTES).await? {
        Some(want) if want.digests.len() > MAX_WANT => Err(ServeError::TooMany(want.digests.len())),
        want => Ok(want),
    }
}

/// Reads the next lot, as it goes over the wire; returns what is left to be read as well.
fn read_lot(
    store: &BlobStore,
    mut wanted: std::vec::IntoIter<Option<Digest>>,
    mut lot: Lot,
) -> Result<(Lot, Served, std::vec::IntoIter<Option<Digest>>), ServeError> {
    let mut served = Served::default();
    let mut answers = 0;
    while lot.len() < LOT_BYTES && answers < LOT_OBJECTS {
        let Some(next) = wanted.next() else { break };
        answers += 1;
        match next {
            None => {
                served.refused += 1;
                push_reply(&mut lot, None)?;
            }
            Some(digest) => match read_object(store, &digest, &mut lot)? {
                Some(bytes) => {
                    served.objects += 1;
                    served.bytes += u64::from(bytes);
                }
                None => {
                    served.absent += 1;
                    push_reply(&mut lot, None)?;
                }
            },
        }
    }
    Ok((lot, served, wanted))
}

fn push_reply(lot: &mut Lot, bytes: Option<u32>) -> Result<(), ServeError> {
    let mut head = Vec::new();
    frame::append(&mut head, &BlobReply { bytes }, MAX_FRAME_BYTES)
        .map_err(ServeError::Protocol)?;
    lot.push(&head);
    Ok(())
}

/// Appends an object and its head; returns its length, or nothing when it is not here.
fn read_object(
    store: &BlobStore,
    digest: &Digest,
    lot: &mut Lot,
) -> Result<Option<u32>, ServeError> {
    let Some(bytes) = store.length(digest) else {
        return Ok(None);
    };
    let before = lot.len();
    push_reply(lot, Some(bytes))?;
    if store.read_whole(digest, lot.more(bytes as usize))? {
        return Ok(Some(bytes));
    }
    lot.cut(before);
    Ok(None)
}

async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut Patient<S>,
    store: &Arc<BlobStore>,
    wanted: Vec<Option<Digest>>,
    served: &mut Served,
    spare: &mut Lot,
) -> Result<(), ServeError> {
    let start = |wanted, lot| {
        let store = Arc::clone(store);
        tokio::task::spawn_blocking(move || read_lot(&store, wanted, lot))
    };
    let mut next = Some(start(wanted.into_iter(), std::mem::take(spare)));
    while let Some(reading) = next {
        let (lot, counts, rest) = reading.await.map_err(io::Error::other)??;
        // Read ahead while this lot goes out.
        next = (rest.len() > 0).then(|| start(rest, std::mem::take(spare)));
        served.add(counts);
        stream.write_full(lot.filled()).await?;
        *spare = lot.emptied();
    }
    Ok(stream.flush().await?)
}
