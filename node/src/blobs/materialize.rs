//! Puts inputs into a provider's own folders.
//!
//! Owns the writing of a manifest below a folder that belongs to this node and in which nothing of a
//! stranger's runs yet: a step's folder of inputs, and each task's work directory. Files are made, never
//! opened or replaced; a link that an earlier input put in the way is met as an obstacle.
//!
//! The driver calls [`materialize`] once per job, which reads chunks, and [`clone_tree`] for each task,
//! which shares the blocks of the job's copy where the filesystem can (btrfs, XFS, bcachefs) and lets
//! the kernel copy where it cannot: a large input costs a job one copy, and a task nothing or a copy at
//! the speed of memory. A job of one task may be materialized straight into its work directory.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use p2pnode_protocol::manifest::{
    ChunkRef, Entry, EntryKind, MAX_DEPTH, MAX_PATH_BYTES, Manifest, ManifestError, depth,
    is_inner_path, shown,
};
use p2pnode_protocol::{Bytes, Digest};

use super::cursor::{Cursor, NoEntry};
use super::folder::{Folder, Owner, join, set_mode, split};
use super::store::{BlobStore, StoreError};

/// Everyone may read what stands in a work directory, its owner may change it; the folder above it
/// keeps others out.
const FILE_MODE: u32 = 0o644;

/// The same for folders and executable files.
const FOLDER_MODE: u32 = 0o755;

/// Why an input cannot be put in its place.
#[derive(Debug, thiserror::Error)]
pub enum MaterializeError {
    /// The manifest breaks a rule.
    #[error("the input is refused: {0}")]
    Unsafe(#[from] ManifestError),
    /// Where it is to stand is no path inside the folder.
    #[error("`{0}` is not a path inside the work directory")]
    Place(String),
    /// More content than allowed: a manifest may name one chunk a million times.
    #[error("the inputs are {content}, more than the {limit} that the task may use")]
    TooLarge {
        /// How much it is.
        content: Bytes,
        /// How much is allowed.
        limit: Bytes,
    },
    /// Two inputs at one path, or one below the other's file or link.
    #[error("two inputs want to stand at `{path}`; give one of them another path in the job file")]
    Collision {
        /// Where.
        path: String,
    },
    /// A chunk is not in the store, or damaged: fetch the blob again. All others were checked again, so
    /// that one fetch brings everything that is lost.
    #[error("the chunk {digest} of `{path}` is not here")]
    Missing {
        /// Of which file.
        path: String,
        /// Which.
        digest: Digest,
    },
    /// The disk said no.
    #[error("cannot write the input `{path}`: {source}")]
    Write {
        /// What.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MaterializeError {
    /// Whether fetching the blob again may help.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// How inputs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaterializeOptions {
    /// The most content, in bytes: the disk that the task was given.
    pub max_bytes: u64,
    /// Whom everything is given to, when not this process's own user.
    pub owner: Option<Owner>,
}

/// Where the content of files comes from.
enum From<'a> {
    /// Chunks.
    Store(&'a BlobStore),
    /// A copy of the same tree, its root at this path.
    Copy { cursor: Cursor, at: &'a [u8] },
}

/// Writes a blob at exactly the relative path `at` below `root` (a `cap_std::fs::Dir` will do), from the
/// store. Folders on the way are made; folders that are there are added to. On an error what was
/// written stays: remove the folder.
///
/// # Errors
/// [`MaterializeError`], naming the path to blame.
pub fn materialize(
    store: &BlobStore,
    manifest: &Manifest,
    root: impl AsFd,
    at: &[u8],
    options: MaterializeOptions,
) -> Result<(), MaterializeError> {
    let written = Writing::new(From::Store(store), root, at, manifest, options)?.run(manifest);
    if matches!(written, Err(MaterializeError::Missing { .. })) {
        // What damaged one chunk may have damaged others: the next fetch is to bring all of them.
        store.recheck(manifest)?;
    }
    written
}

/// Does what [`materialize`] does, from what it wrote before at `from_at` below `from`.
///
/// # Errors
/// [`MaterializeError`], naming the path to blame.
pub fn clone_tree(
    manifest: &Manifest,
    from: impl AsFd,
    from_at: &[u8],
    root: impl AsFd,
    at: &[u8],
    options: MaterializeOptions,
) -> Result<(), MaterializeError> {
    let cursor = Cursor::new(Folder::of(from).map_err(|source| failed(from_at, source))?);
    let from = From::Copy {
        cursor,
        at: from_at,
    };
    Writing::new(from, root, at, manifest, options)?.run(manifest)
}

fn failed(path: &[u8], source: io::Error) -> MaterializeError {
    let path = shown(path);
    match source.kind() {
        // Something that is no folder is in the way, be it a link.
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            MaterializeError::Collision { path }
        }
        _ => MaterializeError::Write { path, source },
    }
}

fn no_entry(stuck: NoEntry) -> MaterializeError {
    failed(&stuck.at, stuck.source)
}

struct Writing<'a> {
    from: From<'a>,
    to: Cursor,
    at: &'a [u8],
    owner: Option<Owner>,
    /// One chunk.
    buffer: Vec<u8>,
}

impl<'a> Writing<'a> {
    /// Checks everything that can be checked before the first byte is written.
    fn new(
        from: From<'a>,
        root: impl AsFd,
        at: &'a [u8],
        manifest: &Manifest,
        options: MaterializeOptions,
    ) -> Result<Self, MaterializeError> {
        manifest.check()?;
        let deepest = manifest
            .entries
            .iter()
            .map(|entry| join(at, &entry.path))
            .all(|path| path.len() <= MAX_PATH_BYTES && depth(&path) <= MAX_DEPTH * 2);
        if !is_inner_path(at) || !deepest {
            return Err(MaterializeError::Place(shown(at)));
        }
        let content = manifest.content_bytes();
        if content > options.max_bytes {
            return Err(MaterializeError::TooLarge {
                content: Bytes(content),
                limit: Bytes(options.max_bytes),
            });
        }
        let root = Folder::of(root).map_err(|source| failed(at, source))?;
        Ok(Self {
            from,
            to: Cursor::new(root),
            at,
            owner: options.owner,
            buffer: Vec::new(),
        })
    }

    fn run(mut self, manifest: &Manifest) -> Result<(), MaterializeError> {
        let single_file = matches!(manifest.entries.as_slice(), [entry] if entry.path.is_empty());
        let top = if single_file {
            split(self.at).0
        } else {
            self.at
        };
        self.make_folders(top)?;
        for entry in &manifest.entries {
            let path = join(self.at, &entry.path);
            match &entry.kind {
                EntryKind::Folder => self.make_folders(&path)?,
                EntryKind::Symlink { target } => self.make_link(&path, target)?,
                EntryKind::File { executable, chunks } => {
                    self.make_file(entry, &path, *executable, chunks)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the folder at `path` and those above it, unless they are there.
    fn make_folders(&mut self, path: &[u8]) -> Result<(), MaterializeError> {
        let owner = self.owner;
        let made = |above: &Folder, name: &[u8]| match above.make_folder(name, FOLDER_MODE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let folder = above.folder(name)?;
                set_mode(&folder, FOLDER_MODE)?;
                owner.map_or(Ok(()), |owner| owner.take(&folder))
            }
        };
        self.to.enter(path, made).map(drop).map_err(no_entry)
    }

    fn make_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), MaterializeError> {
        let (folder, name) = self.to.parent_of(path).map_err(no_entry)?;
        folder
            .new_link(name, target)
            .and_then(|()| self.owner.map_or(Ok(()), |owner| folder.give(name, owner)))
            .map_err(|source| failed(path, source))
    }

    fn make_file(
        &mut self,
        entry: &Entry,
        path: &[u8],
        executable: bool,
        chunks: &[ChunkRef],
    ) -> Result<(), MaterializeError> {
        let failed = |source| failed(path, source);
        let (folder, name) = self.to.parent_of(path).map_err(no_entry)?;
        let mode = if executable { FOLDER_MODE } else { FILE_MODE };
        let mut file = folder.new_file(name, mode).map_err(failed)?;
        match &mut self.from {
            From::Store(store) => {
                for chunk in chunks {
                    read_chunk(store, chunk, path, &mut self.buffer)?;
                    file.write_all(&self.buffer).map_err(failed)?;
                }
            }
            From::Copy { cursor, at } => {
                let source = join(at, &entry.path);
                let (folder, name) = cursor.parent_of(&source).map_err(no_entry)?;
                copy_file(folder.file(name).map_err(failed)?, &mut file).map_err(failed)?;
            }
        }
        set_mode(&file, mode).map_err(failed)?;
        self.owner
            .map_or(Ok(()), |owner| owner.take(&file))
            .map_err(failed)
    }
}

/// Reads a chunk that a manifest promises.
fn read_chunk(
    store: &BlobStore,
    chunk: &ChunkRef,
    path: &[u8],
    into: &mut Vec<u8>,
) -> Result<(), MaterializeError> {
    if store.read_into(&chunk.digest, into)? && into.len() == chunk.bytes as usize {
        return Ok(());
    }
    Err(MaterializeError::Missing {
        path: shown(path),
        digest: chunk.digest,
    })
}

/// Makes `to`, which is empty, a copy of `from`: by sharing its blocks where the filesystem can.
fn copy_file(mut from: File, to: &mut File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(&*to, &from).is_ok() {
        return Ok(());
    }
    // On Linux this is copy_file_range, or sendfile, or a loop, whichever the two files allow.
    io::copy(&mut from, to).map(drop)
}
