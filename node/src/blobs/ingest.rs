//! Takes a file or folder of the owner's into the store.
//!
//! Owns the walk over what the owner names as an input. The path itself is the owner's own word, so
//! links on the way to it are followed; inside the tree a link stays a link, and what cannot stand in
//! another machine's work directory (a link out of the tree, a device, a socket) is an error that names
//! it, found before anything is stored. Called by the driver for each input of a job being submitted.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use p2pnode_protocol::Bytes;
use p2pnode_protocol::manifest::{
    BlobRef, Entry, EntryKind, MAX_DEPTH, MAX_PATH_BYTES, Manifest, depth, link_stays_inside,
};
use rustix::fs::{FileType, OFlags};

use super::cursor::Cursor;
use super::cut::{CutError, Cutting, Limits, OnProgress, Source, cut_files};
use super::folder::{Folder, join};
use super::gather::{gather, is_executable, unread_file};
use super::store::{BlobStore, PinOwner, StoreError};

/// Why an input cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Nothing there, no permission, a broken disk.
    #[error("cannot read the input `{}`: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A device, a socket, a pipe.
    #[error(
        "the input `{}` is {kind}; only files, folders and links can be sent: remove it or leave its \
         folder out", path.display()
    )]
    Special {
        /// What.
        path: PathBuf,
        /// Of which kind.
        kind: &'static str,
    },
    /// A link that another machine could not follow.
    #[error(
        "the link `{}` points out of the input's folder, to `{}`; put the file itself in its place, \
         or list it as an input of its own", path.display(), target.display()
    )]
    LinkEscapes {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// Too long or too deep a path.
    #[error(
        "`{}` is too long or too deep: paths may have {MAX_PATH_BYTES} bytes and {MAX_DEPTH} folders",
        path.display()
    )]
    TooDeep {
        /// Which.
        path: PathBuf,
    },
    /// More files than allowed.
    #[error("`{}` holds more than {limit} files and folders; pack them into an archive", path.display())]
    TooManyEntries {
        /// The input.
        path: PathBuf,
        /// How many are allowed.
        limit: usize,
    },
    /// More content than allowed.
    #[error("`{}` holds more than {limit}", path.display())]
    TooLarge {
        /// The input.
        path: PathBuf,
        /// How much is allowed.
        limit: Bytes,
    },
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller's progress function said so.
    #[error("stopped")]
    Stopped,
}

/// Stores the file or folder at `path`, pinned for `owner`. On an error what was stored so far stays
/// pinned: unpin the owner.
///
/// # Errors
/// [`IngestError`], naming the path to blame.
pub fn ingest_path(
    store: &BlobStore,
    owner: PinOwner,
    path: &Path,
    limits: Limits,
    progress: OnProgress<'_>,
) -> Result<(BlobRef, Manifest), IngestError> {
    ingest_without(store, owner, path, limits, &|_, _| false, progress)
}

/// Says of a path within a folder, and whether it is a folder, that it is left out.
pub type LeftOut<'a> = &'a dyn Fn(&[u8], bool) -> bool;

/// The same as [`ingest_path`] without what `left_out` names; of a folder, without all that is in it.
///
/// # Errors
/// As [`ingest_path`].
pub fn ingest_without(
    store: &BlobStore,
    owner: PinOwner,
    path: &Path,
    limits: Limits,
    left_out: LeftOut<'_>,
    progress: OnProgress<'_>,
) -> Result<(BlobRef, Manifest), IngestError> {
    let unreadable = |source| IngestError::Read {
        path: path.to_path_buf(),
        source,
    };
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    let manifest = if metadata.is_dir() {
        let root = Folder::open(path).map_err(unreadable)?;
        Walk::over(path, &root, limits, left_out)?.store(store, owner, root, progress)?
    } else if metadata.is_file() {
        single_file(store, owner, path, limits, progress)?
    } else {
        return Err(IngestError::Special {
            path: path.to_path_buf(),
            kind: special_kind(FileType::from_raw_mode(metadata.permissions().mode())),
        });
    };
    let blob = store.put_manifest(owner, &manifest)?;
    Ok((blob, manifest))
}

fn single_file(
    store: &BlobStore,
    owner: PinOwner,
    path: &Path,
    limits: Limits,
    progress: OnProgress<'_>,
) -> Result<Manifest, IngestError> {
    let unreadable = |source| IngestError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let cutting = Cutting {
        store,
        owner,
        progress,
        total: metadata.len(),
        limit: limits.bytes,
    };
    let mut source = Some(Source {
        file,
        bytes: metadata.len(),
    });
    let files = cut_files(&cutting, 1, |_| {
        // Asked for once: there is one file.
        source.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    })
    .map_err(|failure| failed(path, path.to_path_buf(), limits, failure.error))?;
    let entries = files.into_iter().map(|chunks| Entry {
        path: Vec::new(),
        kind: EntryKind::File {
            executable: is_executable(&metadata),
            chunks,
        },
    });
    Ok(Manifest {
        entries: entries.collect(),
    })
}

fn failed(root: &Path, file: PathBuf, limits: Limits, error: CutError) -> IngestError {
    match error {
        CutError::Read(source) => IngestError::Read { path: file, source },
        CutError::TooLarge => IngestError::TooLarge {
            path: root.to_path_buf(),
            limit: Bytes(limits.bytes),
        },
        CutError::Store(error) => IngestError::Store(error),
        CutError::Stopped => IngestError::Stopped,
    }
}

/// A name for what is neither file nor folder nor link.
pub(super) const fn special_kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "neither file nor folder",
    }
}

/// What was found in a folder.
struct Walk<'a> {
    path: &'a Path,
    limits: Limits,
    left_out: LeftOut<'a>,
    entries: Vec<Entry>,
    /// Length of all files as listed, in bytes.
    total: u64,
}

impl<'a> Walk<'a> {
    fn over(
        path: &'a Path,
        root: &Folder,
        limits: Limits,
        left_out: LeftOut<'a>,
    ) -> Result<Self, IngestError> {
        let mut walk = Self {
            path,
            limits,
            left_out,
            entries: Vec::new(),
            total: 0,
        };
        let mut cursor =
            Cursor::new(Folder::of(root).map_err(|source| walk.unreadable(b"", source))?);
        let mut waiting = vec![Vec::new()];
        while let Some(inner) = waiting.pop() {
            let folder = cursor
                .enter(&inner, |_, _| Ok(()))
                .map_err(|stuck| walk.unreadable(&stuck.at, stuck.source))?;
            waiting.extend(walk.folder(&inner, folder)?);
        }
        walk.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(walk)
    }

    /// Notes everything in one folder; returns the folders in it.
    fn folder(&mut self, inner: &[u8], folder: &Folder) -> Result<Vec<Vec<u8>>, IngestError> {
        let mut folders = Vec::new();
        let room = self.limits.entries - self.entries.len();
        let listed = folder
            .list(room)
            .map_err(|source| self.unreadable(inner, source))?
            .ok_or_else(|| IngestError::TooManyEntries {
                path: self.path.to_path_buf(),
                limit: self.limits.entries,
            })?;
        for named in listed {
            let path = join(inner, &named.name);
            if (self.left_out)(&path, named.kind == FileType::Directory) {
                continue;
            }
            if path.len() > MAX_PATH_BYTES || depth(&path) > MAX_DEPTH {
                return Err(IngestError::TooDeep {
                    path: self.outer(&path),
                });
            }
            let kind = match named.kind {
                FileType::Directory => {
                    folders.push(path.clone());
                    EntryKind::Folder
                }
                FileType::RegularFile => {
                    let (_, bytes) = folder
                        .look(&named.name)
                        .map_err(|source| self.unreadable(&path, source))?;
                    self.total = self.total.saturating_add(bytes);
                    unread_file()
                }
                FileType::Symlink => EntryKind::Symlink {
                    target: self.link(&path, &named.name, folder)?,
                },
                special => {
                    return Err(IngestError::Special {
                        path: self.outer(&path),
                        kind: special_kind(special),
                    });
                }
            };
            self.entries.push(Entry { path, kind });
        }
        Ok(folders)
    }

    fn link(&self, path: &[u8], name: &[u8], folder: &Folder) -> Result<Vec<u8>, IngestError> {
        let target = folder
            .link_target(name)
            .map_err(|source| self.unreadable(path, source))?;
        if link_stays_inside(path, &target) {
            return Ok(target);
        }
        Err(IngestError::LinkEscapes {
            path: self.outer(path),
            target: PathBuf::from(OsStr::from_bytes(&target)),
        })
    }

    /// Reads and stores the files.
    fn store(
        mut self,
        store: &BlobStore,
        owner: PinOwner,
        root: Folder,
        progress: OnProgress<'_>,
    ) -> Result<Manifest, IngestError> {
        if self.total > self.limits.bytes {
            return Err(IngestError::TooLarge {
                path: self.path.to_path_buf(),
                limit: Bytes(self.limits.bytes),
            });
        }
        let mut entries = std::mem::take(&mut self.entries);
        let cutting = Cutting {
            store,
            owner,
            progress,
            total: self.total,
            limit: self.limits.bytes,
        };
        gather(&cutting, &mut Cursor::new(root), &mut entries).map_err(|failure| {
            let file = self.outer(&failure.path.unwrap_or_default());
            failed(self.path, file, self.limits, failure.error)
        })?;
        Ok(Manifest { entries })
    }

    fn outer(&self, inner: &[u8]) -> PathBuf {
        if inner.is_empty() {
            return self.path.to_path_buf();
        }
        self.path.join(OsStr::from_bytes(inner))
    }

    fn unreadable(&self, inner: &[u8], source: io::Error) -> IngestError {
        IngestError::Read {
            path: self.outer(inner),
            source,
        }
    }
}
