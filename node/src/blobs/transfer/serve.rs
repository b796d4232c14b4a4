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
use crate::blobs::store::{BlobStore, StoreError};

/// Objects are read in lots of some so many bytes (1 MiB): one is on its way out while the next is
/// read, which bounds the memory of a stream to 2 MiB and two of the largest objects.
const LOT_BYTES: usize = 1 << 20;

/// The most objects of one lot: 5 ms of reading when each is tiny.
const LOT_OBJECTS: usize = 1_024;

/// Objects shorter than this are copied together with their heads and go out as one write (16 KiB, a
/// quarter of what the transport encrypts at a time).
const JOINED_BYTES: usize = 16 << 10;

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
    while let Some(want) = next_want(&mut stream).await? {
        let allowed: Vec<Option<Digest>> = want
            .digests
            .into_iter()
            .map(|digest| authorize(want.job, &digest).then_some(digest))
            .collect();
        let before = served.bytes;
        answer(&mut stream, store, allowed, &mut served).await?;
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

/// One object as it is answered.
enum Answer {
    Here(Vec<u8>),
    Absent,
    Refused,
}

/// Reads the next lot; returns what is left as well.
fn read_lot(
    store: &BlobStore,
    mut wanted: std::vec::IntoIter<Option<Digest>>,
) -> Result<(Vec<Answer>, std::vec::IntoIter<Option<Digest>>), StoreError> {
    let mut lot = Vec::new();
    let mut bytes = 0;
    while bytes < LOT_BYTES && lot.len() < LOT_OBJECTS {
        let Some(next) = wanted.next() else { break };
        lot.push(match next {
            None => Answer::Refused,
            Some(digest) => match store.read(&digest)? {
                None => Answer::Absent,
                Some(object) => {
                    bytes += object.len();
                    Answer::Here(object)
                }
            },
        });
    }
    Ok((lot, wanted))
}

async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut Patient<S>,
    store: &Arc<BlobStore>,
    wanted: Vec<Option<Digest>>,
    served: &mut Served,
) -> Result<(), ServeError> {
    let start = |wanted| {
        let store = Arc::clone(store);
        tokio::task::spawn_blocking(move || read_lot(&store, wanted))
    };
    let mut next = Some(start(wanted.into_iter()));
    while let Some(reading) = next {
        let (lot, rest) = reading.await.map_err(io::Error::other)??;
        // Read ahead while this lot goes out.
        next = (rest.len() > 0).then(|| start(rest));
        send_lot(stream, lot, served).await?;
    }
    Ok(stream.flush().await?)
}

async fn send_lot<S: AsyncWrite + Unpin>(
    stream: &mut Patient<S>,
    lot: Vec<Answer>,
    served: &mut Served,
) -> Result<(), ServeError> {
    let mut joined = Vec::with_capacity(2 * JOINED_BYTES);
    for answer in lot {
        let object = match answer {
            Answer::Here(object) => {
                served.objects += 1;
                served.bytes += object.len() as u64;
                Some(object)
            }
            Answer::Absent => {
                served.absent += 1;
                None
            }
            Answer::Refused => {
                served.refused += 1;
                None
            }
        };
        let reply = BlobReply {
            // No object is longer than 4 GiB: each came in with a length of 32 bits.
            bytes: object.as_ref().map(|object| object.len() as u32),
        };
        frame::append(&mut joined, &reply, MAX_FRAME_BYTES).map_err(ServeError::Protocol)?;
        let Some(object) = object else { continue };
        if object.len() < JOINED_BYTES {
            joined.extend_from_slice(&object);
        } else {
            stream.write_full(&joined).await?;
            joined.clear();
            stream.write_full(&object).await?;
        }
        if joined.len() >= JOINED_BYTES {
            stream.write_full(&joined).await?;
            joined.clear();
        }
    }
    Ok(stream.write_full(&joined).await?)
}
