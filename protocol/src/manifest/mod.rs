//! What a file or folder is made of.
//!
//! A blob is a manifest: a list of entries whose files are lists of chunks, each named by its BLAKE3
//! digest. Manifests travel as encoded bytes, themselves named by digest, so that a job refers to any
//! input or output by one [`BlobRef`].
//!
//! Paths are bytes (Unix names need not be UTF-8), relative, and checked by [`Manifest::check`]
//! before anything is written: whoever sends a manifest may be hostile.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::Digest;

mod paths;

#[cfg(test)]
mod tests;

pub use paths::{depth, is_inner_path, link_stays_inside, shown};

/// The most entries in one manifest: 1,000,000 files or folders, so that the largest still fits into
/// some 256 MiB of memory while it is checked.
pub const MAX_ENTRIES: usize = 1_000_000;

/// The longest relative path, in bytes: Linux's `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4_096;

/// How deep folders may nest. Walking holds one handle per level open, and a process has 1,024 by
/// default; trees of source code and packages stay below 40.
pub const MAX_DEPTH: usize = 100;

/// The largest encoded manifest that is accepted, in bytes (64 MiB).
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// The largest chunk, in bytes (4 MiB): the receiver allocates no more than this at a time.
pub const MAX_CHUNK_BYTES: u32 = 4 << 20;

/// Names a manifest: its digest and encoded length.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct BlobRef {
    /// BLAKE3 of the encoded manifest.
    pub digest: Digest,
    /// Length of the encoded manifest, in bytes.
    pub manifest_bytes: u64,
    /// Length of all its files together, in bytes; what a person calls the size.
    pub content_bytes: u64,
}

impl BlobRef {
    /// The manifest itself, as a piece that is kept and asked for like any other. One over
    /// [`MAX_MANIFEST_BYTES`], which is refused, is shown at most as long as a length can be.
    #[must_use]
    pub fn object(&self) -> ChunkRef {
        ChunkRef {
            digest: self.digest,
            bytes: u32::try_from(self.manifest_bytes).unwrap_or(u32::MAX),
        }
    }
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChunkRef {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes, 1 to [`MAX_CHUNK_BYTES`].
    pub bytes: u32,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A file, the chunks in order.
    File {
        /// Whether its owner may execute it. No other permission travels.
        executable: bool,
        /// Its content.
        chunks: Vec<ChunkRef>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, relative to its own folder: any number of `..` that leaves it in the tree, and
        /// then only names ([`link_stays_inside`]).
        target: Vec<u8>,
    },
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Relative path, `/` between names. Empty only when the blob is a single file: then the blob has
    /// this one entry, and stands wherever it is put.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

/// A file or a tree of files. Entries are sorted by path and unique; parents come before children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// A manifest that must not be written out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_ENTRIES`].
    #[error("{0} entries are more than a manifest may have ({MAX_ENTRIES})")]
    TooManyEntries(usize),
    /// Absolute, with `..`, `.`, an empty name or a NUL byte, or too long.
    #[error("`{0}` is not a path inside the folder")]
    Path(String),
    /// Entries not sorted, or two of one path.
    #[error("`{0}` stands twice or out of order")]
    Order(String),
    /// Something lies below what is not a folder of this manifest.
    #[error("`{0}` lies below something that is not a folder")]
    NotInFolder(String),
    /// Folders in folders, over [`MAX_DEPTH`].
    #[error("`{0}` lies more than {MAX_DEPTH} folders deep; flatten the tree or pack it")]
    TooDeep(String),
    /// A link that leads out of the tree, or might through another link.
    #[error(
        "the link `{link}` to `{target}` may lead out of the folder; links must be relative, stay \
         inside, and have `..` only at the head"
    )]
    LinkEscapes {
        /// The link.
        link: String,
        /// What it says.
        target: String,
    },
    /// A chunk of length 0 or over the limit.
    #[error("a chunk of `{path}` has {bytes} bytes; 1 to {MAX_CHUNK_BYTES} are allowed")]
    ChunkSize {
        /// The file.
        path: String,
        /// The length, in bytes.
        bytes: u32,
    },
}

impl Manifest {
    /// Checks everything that can be told without touching the disk: whoever makes a manifest calls it, so
    /// that a submitter learns of a fault before a peer does, and so does whoever is about to write one.
    ///
    /// Paths are compared as bytes. Where a disk takes `a` and `A` for one name, that shows when the second
    /// is made.
    ///
    /// # Errors
    /// The first entry that breaks a rule.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooManyEntries(self.entries.len()));
        }
        let single_file = matches!(
            self.entries.as_slice(),
            [Entry { path, kind: EntryKind::File { .. } }] if path.is_empty()
        );
        let mut folders: BTreeSet<&[u8]> = BTreeSet::new();
        let mut previous: Option<&[u8]> = None;
        for entry in &self.entries {
            let path = entry.path.as_slice();
            if !single_file && !is_inner_path(path) {
                return Err(ManifestError::Path(shown(path)));
            }
            if previous.is_some_and(|before| before >= path) {
                return Err(ManifestError::Order(shown(path)));
            }
            previous = Some(path);
            if depth(path) > MAX_DEPTH {
                return Err(ManifestError::TooDeep(shown(path)));
            }
            if let Some(slash) = path.iter().rposition(|byte| *byte == b'/')
                && !folders.contains(&path[..slash])
            {
                return Err(ManifestError::NotInFolder(shown(path)));
            }
            match &entry.kind {
                EntryKind::Folder => {
                    folders.insert(path);
                }
                EntryKind::File { chunks, .. } => check_chunks(path, chunks)?,
                EntryKind::Symlink { target } => {
                    if !link_stays_inside(path, target) {
                        return Err(ManifestError::LinkEscapes {
                            link: shown(path),
                            target: shown(target),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Every chunk of every file, in order, repeats included.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        self.entries
            .iter()
            .flat_map(|entry| match &entry.kind {
                EntryKind::File { chunks, .. } => chunks.as_slice(),
                EntryKind::Folder | EntryKind::Symlink { .. } => &[],
            })
            .copied()
    }

    /// Length of all files together, in bytes.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.chunks()
            .fold(0u64, |sum, chunk| sum.saturating_add(chunk.bytes.into()))
    }
}

fn check_chunks(path: &[u8], chunks: &[ChunkRef]) -> Result<(), ManifestError> {
    match chunks
        .iter()
        .find(|chunk| chunk.bytes == 0 || chunk.bytes > MAX_CHUNK_BYTES)
    {
        Some(chunk) => Err(ManifestError::ChunkSize {
            path: shown(path),
            bytes: chunk.bytes,
        }),
        None => Ok(()),
    }
}
