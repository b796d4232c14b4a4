//! Moves chunks between two nodes over one stream.
//!
//! Owns both sides of `blob/1`: [`serve`] answers digests for as long as the peer asks, [`fetch`] asks
//! for what is missing. The stream may be anything that reads and writes; who opened it, to whom and
//! with what permission is the driver's business.
//!
//! A fetch is three steps that can be used apart, so that later several sources can share the work:
//! what a blob is ([`fetch_manifests`]), what of it is missing ([`super::BlobStore::missing`]), and
//! asking one peer for a list of objects ([`ask`]).
//!
//! Everything that arrives is checked and stored at once, so a transfer that is cut resumes where it
//! was: fetch again, over a new stream, from the same peer or another. Two fetches of the same chunk at
//! the same time both bring it; the driver fetches a job's inputs once.

mod ask;
mod fetch;
mod frame;
mod lot;
mod serve;

pub use ask::{AskOutcome, ask};
pub use fetch::{FetchItem, fetch, fetch_manifests, fetch_many};
pub use serve::{ServeError, Served, serve};

use std::io;
use std::time::Duration;

use p2pnode_protocol::Digest;
use p2pnode_protocol::codec::CodecError;

use super::store::{ManifestFault, StoreError};

/// A transfer ends when nothing moves for so long (30 s): three times what the node's heartbeat needs to
/// find a peer lost, so this only ends transfers with a peer that is alive and does not answer.
pub const STALL: Duration = Duration::from_secs(30);

/// Why a blob could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The stream ended or broke: fetch again over a new one.
    #[error("the transfer was cut: {0}")]
    Cut(#[from] io::Error),
    /// Nothing came for [`STALL`].
    #[error("the peer sent nothing for {} s", STALL.as_secs())]
    Stalled,
    /// The peer does not have it, or will not give it to us.
    #[error("the peer does not have {0}")]
    NotThere(Digest),
    /// Bytes with another digest than was asked for.
    #[error("the peer sent other bytes than {0}")]
    WrongChunk(Digest),
    /// A length that cannot be right, found out before anything is read.
    #[error("the peer sent {found} bytes for {digest}, which has {expected}")]
    WrongLength {
        /// Of which.
        digest: Digest,
        /// As it should be, in bytes.
        expected: u32,
        /// As the peer says, in bytes.
        found: u32,
    },
    /// A manifest larger than any may be.
    #[error("a list of files of {0} bytes is refused")]
    ManifestTooLarge(u64),
    /// A manifest that must not be used.
    #[error("the list of files {digest} is refused: {source}")]
    BadManifest {
        /// Which.
        digest: Digest,
        /// Why.
        source: ManifestFault,
    },
    /// Bytes that are no frame.
    #[error("the peer broke the protocol: {0}")]
    Protocol(CodecError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FetchError {
    /// Whether whoever made the blob or served it did what no honest node does.
    #[must_use]
    pub const fn is_misbehaviour(&self) -> bool {
        match self {
            Self::WrongChunk(_)
            | Self::WrongLength { .. }
            | Self::ManifestTooLarge(_)
            | Self::BadManifest { .. }
            | Self::Protocol(_) => true,
            Self::Cut(_) | Self::Stalled | Self::NotThere(_) | Self::Store(_) => false,
        }
    }

    /// Whether another try, over a new stream, may go on where this one ended.
    #[must_use]
    pub const fn may_resume(&self) -> bool {
        matches!(self, Self::Cut(_) | Self::Stalled)
    }
}

/// Runs blocking work of the store away from the async threads.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, io::Error> {
    // It fails only when the work panicked or the runtime ends.
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}
