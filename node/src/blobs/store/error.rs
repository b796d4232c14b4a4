//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

use p2pnode_protocol::codec::CodecError;
use p2pnode_protocol::manifest::ManifestError;
use p2pnode_protocol::{Bytes, Digest};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("cannot {doing} in {}: {source}", dir.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The store's folder.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The quota is used up by what is needed.
    #[error(
        "{needed} more do not fit: {pinned} of the {quota} for blobs are in use by jobs; wait for \
         them to end, or raise the quota"
    )]
    Full {
        /// What was to be stored.
        needed: Bytes,
        /// What jobs need.
        pinned: Bytes,
        /// The limit.
        quota: Bytes,
    },
    /// One submitter's jobs would take more than its share of the quota.
    #[error(
        "{needed} more of this submitter's do not fit: its jobs have {taken} here, and one submitter may \
         have {share}, a quarter of the quota for blobs; wait for them to end, or raise the quota"
    )]
    Share {
        /// What was to be kept.
        needed: Bytes,
        /// What its jobs need.
        taken: Bytes,
        /// The limit.
        share: Bytes,
    },
    /// A manifest over the limit.
    #[error("the list of files is too long to send; pack them into an archive: {0}")]
    ManifestTooLarge(CodecError),
    /// A stored manifest that is not one, or must not be used.
    #[error("the manifest {digest} cannot be used: {source}")]
    BadManifest {
        /// Which.
        digest: Digest,
        /// Why.
        source: ManifestFault,
    },
}

/// What is wrong with a manifest's bytes.
#[derive(Debug, thiserror::Error)]
pub enum ManifestFault {
    /// They do not decode.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// What they say is not allowed.
    #[error(transparent)]
    Unsafe(#[from] ManifestError),
    /// Their length or their content's is not what was promised.
    #[error("{what} is {found} bytes, not {promised}")]
    Length {
        /// Of what.
        what: &'static str,
        /// As promised, in bytes.
        promised: u64,
        /// As found, in bytes.
        found: u64,
    },
}
