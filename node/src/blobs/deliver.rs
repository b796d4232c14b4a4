//! Puts outputs into the submitter's folder.
//!
//! Owns the last step of a result: files of the owner's own, in a folder in which other things may
//! stand. Each file is written whole under a temporary name beside its own and then renamed, so that
//! nobody ever sees half of one. Nothing outside the output folder is touched: a link that stands where
//! a folder should be is an error, and one that stands where a file should be is replaced itself.
//!
//! The driver calls [`write_outputs`] for each accepted attempt and acknowledges it to the provider only
//! when everything is durable: at once with [`Durability::Each`], or after one [`sync_outputs`] for many
//! small attempts together, which costs one flush of the disk and not one per file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use p2pnode_protocol::Digest;
use p2pnode_protocol::manifest::{ChunkRef, EntryKind, Manifest, ManifestError, shown};
use rustix::fs::FileType;
use rustix::process::{Pid, test_kill_process};

use super::cursor::Cursor;
use super::folder::{Folder, join, sync_filesystem};
use super::store::{BlobStore, StoreError};

/// Permissions before the owner's umask, as for any file that a program of theirs makes.
const FILE_MODE: u32 = 0o666;

/// The same for folders and executable files.
const FOLDER_MODE: u32 = 0o777;

/// How a temporary name begins. No task can have an output file of such a name.
const TEMPORARY: &[u8] = b".p2pnode-part-";

/// Up to so many files and folders are synced one by one (some milliseconds each on a disk, whatever
/// else is being written); for more, flushing the whole filesystem once is the lesser cost.
const SYNC_EACH: usize = 16;

/// The most folders that a sweep looks into: outputs of a million tasks lie in a few thousand at most.
const MAX_SWEPT: usize = 100_000;

/// When outputs are safe from a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the call returns.
    Each,
    /// After the next [`sync_outputs`]. Until then a loss of power may leave empty files: the attempt
    /// must not have been acknowledged, and is collected again.
    Later,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Files and links.
    pub files: u64,
    /// Their length, in bytes.
    pub bytes: u64,
}

/// Why outputs cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The manifest breaks a rule: the provider misbehaves.
    #[error("the outputs are refused: {0}")]
    Unsafe(#[from] ManifestError),
    /// An output without a name of its own, or with one of ours.
    #[error("the outputs are refused: `{0}` cannot be the name of an output")]
    Name(String),
    /// A chunk is not in the store, or damaged: fetch the blob again. All others were checked again, so
    /// that one fetch brings everything that is lost.
    #[error("the chunk {digest} of the output `{path}` is not here")]
    Missing {
        /// Of which file.
        path: String,
        /// Which.
        digest: Digest,
    },
    /// A folder stands where a file is to be.
    #[error("cannot write the output `{}`: a folder stands there; move it away", path.display())]
    FolderInTheWay {
        /// Where.
        path: PathBuf,
    },
    /// A file or a link stands where a folder is to be.
    #[error(
        "cannot write outputs below `{}`: it is not a folder but a file or a link, and links in the \
         output folder are not followed; move it away or choose another output folder", path.display()
    )]
    NotAFolder {
        /// Where.
        path: PathBuf,
    },
    /// The disk said no.
    #[error("cannot write the output `{}`: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DeliverError {
    /// Whether the provider sent what no honest node sends.
    #[must_use]
    pub const fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Unsafe(_) | Self::Name(_))
    }
}

/// Writes a blob of outputs into `out_dir`, which the owner chose and which is made when it is not
/// there. Files that are there are replaced. On an error some files may be written, each of them whole.
///
/// # Errors
/// [`DeliverError`], naming the path to blame.
pub fn write_outputs(
    store: &BlobStore,
    manifest: &Manifest,
    out_dir: &Path,
    durability: Durability,
) -> Result<Delivered, DeliverError> {
    manifest.check()?;
    for entry in &manifest.entries {
        let ours = |name: &[u8]| name.starts_with(TEMPORARY);
        if entry.path.is_empty() || entry.path.split(|byte| *byte == b'/').any(ours) {
            return Err(DeliverError::Name(shown(&entry.path)));
        }
    }
    let cannot_open = |source| DeliverError::Write {
        path: out_dir.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(out_dir).map_err(cannot_open)?;
    let root = Folder::open(out_dir).map_err(cannot_open)?;
    let mut delivery = Delivery {
        store,
        out_dir,
        cursor: Cursor::new(root),
        sync_each: durability == Durability::Each && manifest.entries.len() <= SYNC_EACH,
        buffer: Vec::new(),
        delivered: Delivered::default(),
    };
    let put = delivery.put_all(manifest);
    if matches!(put, Err(DeliverError::Missing { .. })) {
        // What damaged one chunk may have damaged others: the next fetch is to bring all of them.
        store.recheck(manifest)?;
    }
    put?;
    if delivery.sync_each {
        delivery.sync_folders(manifest)?;
    } else if durability == Durability::Each {
        sync_outputs(out_dir).map_err(cannot_open)?;
    }
    Ok(delivery.delivered)
}

/// Makes everything durable that was written with [`Durability::Later`] to the filesystem of `out_dir`.
///
/// # Errors
/// As the system says.
pub fn sync_outputs(out_dir: &Path) -> io::Result<()> {
    sync_filesystem(Folder::open(out_dir)?)
}

/// Removes temporary files of processes that are no more from an output folder. The driver calls it
/// for the jobs that it finds unfinished at start.
///
/// # Errors
/// As the system says.
pub fn sweep_leftovers(out_dir: &Path) -> io::Result<()> {
    let root = match Folder::open(out_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut cursor = Cursor::new(root);
    let mut waiting = vec![Vec::new()];
    for _ in 0..MAX_SWEPT {
        let Some(path) = waiting.pop() else { break };
        let folder = cursor
            .enter(&path, |_, _| Ok(()))
            .map_err(|stuck| stuck.source)?;
        for named in folder.list(usize::MAX)?.unwrap_or_default() {
            if named.kind == FileType::Directory {
                waiting.push(join(&path, &named.name));
            } else if is_leftover(&named.name) {
                folder.remove(&named.name)?;
            }
        }
    }
    Ok(())
}

/// Whether a name is one of [`temporary_name`]'s, made by a process that is no more: another node may be
/// writing into the same folder.
fn is_leftover(name: &[u8]) -> bool {
    let maker = name
        .strip_prefix(TEMPORARY)
        .and_then(|rest| rest.split(|byte| *byte == b'-').next())
        .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok())
        .and_then(Pid::from_raw);
    maker.is_some_and(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}

/// What went wrong with one file.
enum Fault {
    Io(io::Error),
    Missing(Digest),
    Store(StoreError),
}

struct Delivery<'a> {
    store: &'a BlobStore,
    out_dir: &'a Path,
    cursor: Cursor,
    sync_each: bool,
    /// One chunk.
    buffer: Vec<u8>,
    delivered: Delivered,
}

/// Makes temporary names differ within a process; its number makes them differ between processes.
static COUNTER: AtomicU64 = AtomicU64::new(0);

fn temporary_name() -> Vec<u8> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = TEMPORARY.to_vec();
    name.extend_from_slice(format!("{}-{number}", process::id()).as_bytes());
    name
}

impl Delivery<'_> {
    fn put_all(&mut self, manifest: &Manifest) -> Result<(), DeliverError> {
        manifest
            .entries
            .iter()
            .try_for_each(|entry| match &entry.kind {
                EntryKind::Folder => self.folder(&entry.path),
                kind => self.put(&entry.path, kind),
            })
    }

    fn folder(&mut self, path: &[u8]) -> Result<(), DeliverError> {
        let made = |above: &Folder, name: &[u8]| match above.make_folder(name, FOLDER_MODE) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        };
        let entered = self.cursor.enter(path, made).map(drop);
        entered.map_err(|stuck| not_entered(self.out_dir, &stuck.at, stuck.source))
    }

    /// Makes a file or link under a temporary name, and then gives it its own.
    fn put(&mut self, path: &[u8], kind: &EntryKind) -> Result<(), DeliverError> {
        let out_dir = self.out_dir;
        let (folder, name) = self
            .cursor
            .parent_of(path)
            .map_err(|stuck| not_entered(out_dir, &stuck.at, stuck.source))?;
        let new = temporary_name();
        let made = match kind {
            EntryKind::Symlink { target } => folder.new_link(&new, target).map_err(Fault::Io),
            EntryKind::Folder => Ok(()),
            EntryKind::File { executable, chunks } => {
                let mode = if *executable { FOLDER_MODE } else { FILE_MODE };
                folder
                    .new_file(&new, mode)
                    .map_err(Fault::Io)
                    .and_then(|file| {
                        write(self.store, file, chunks, &mut self.buffer, self.sync_each)
                    })
            }
        };
        let named = made.and_then(|()| folder.rename(&new, name).map_err(Fault::Io));
        if let Err(fault) = named {
            // It may not even have been made; what cannot be removed is swept at the next start.
            let _ = folder.remove(&new);
            return Err(blame(self.out_dir, path, fault));
        }
        self.delivered.files += 1;
        if let EntryKind::File { chunks, .. } = kind {
            let lengths = chunks.iter().map(|chunk| u64::from(chunk.bytes));
            self.delivered.bytes += lengths.sum::<u64>();
        }
        Ok(())
    }

    /// Makes the names durable, of folders too.
    fn sync_folders(&mut self, manifest: &Manifest) -> Result<(), DeliverError> {
        let folders = manifest
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Folder)
            .map(|entry| entry.path.as_slice());
        for path in std::iter::once(&b""[..]).chain(folders) {
            let folder = self.cursor.enter(path, |_, _| Ok(()));
            folder
                .map_err(|stuck| stuck.source)
                .and_then(Folder::sync)
                .map_err(|source| DeliverError::Write {
                    path: outer(self.out_dir, path),
                    source,
                })?;
        }
        Ok(())
    }
}

/// Writes a new file's content.
fn write(
    store: &BlobStore,
    mut file: File,
    chunks: &[ChunkRef],
    buffer: &mut Vec<u8>,
    sync: bool,
) -> Result<(), Fault> {
    for chunk in chunks {
        let here = store
            .read_into(&chunk.digest, buffer)
            .map_err(Fault::Store)?;
        if !here || buffer.len() != chunk.bytes as usize {
            return Err(Fault::Missing(chunk.digest));
        }
        file.write_all(buffer).map_err(Fault::Io)?;
    }
    if sync {
        file.sync_all().map_err(Fault::Io)?;
    }
    Ok(())
}

fn outer(out_dir: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        return out_dir.to_path_buf();
    }
    out_dir.join(OsStr::from_bytes(path))
}

fn not_entered(out_dir: &Path, at: &[u8], source: io::Error) -> DeliverError {
    let path = outer(out_dir, at);
    match source.kind() {
        io::ErrorKind::NotADirectory => DeliverError::NotAFolder { path },
        _ => DeliverError::Write { path, source },
    }
}

fn blame(out_dir: &Path, path: &[u8], fault: Fault) -> DeliverError {
    match fault {
        Fault::Io(source) if source.kind() == io::ErrorKind::IsADirectory => {
            DeliverError::FolderInTheWay {
                path: outer(out_dir, path),
            }
        }
        Fault::Io(source) => DeliverError::Write {
            path: outer(out_dir, path),
            source,
        },
        Fault::Missing(digest) => DeliverError::Missing {
            path: shown(path),
            digest,
        },
        Fault::Store(error) => DeliverError::Store(error),
    }
}
