//! Takes what a task wrote into the store.
//!
//! Owns the walk over a work directory in which a stranger's program ran. The driver calls it after
//! every process of the task is gone, and never before: what is checked here must not change between
//! the look and the read. It must follow no link, open nothing but regular files, and read no more than
//! it was told to; what breaks a rule is an error that names the path and becomes the task's failure.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;

use p2pnode_protocol::Bytes;
use p2pnode_protocol::manifest::{
    BlobRef, Entry, EntryKind, MAX_DEPTH, MAX_PATH_BYTES, Manifest, depth, link_stays_inside, shown,
};
use rustix::fs::FileType;

use super::cursor::Cursor;
use super::cut::{CutError, Cutting, Limits};
use super::folder::{Folder, join, split};
use super::gather::{gather, unread_file};
use super::ingest::special_kind;
use super::patterns::OutputPatterns;
use super::store::{BlobStore, PinOwner, StoreError};

/// Why outputs cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A device, a socket, a pipe.
    #[error(
        "the output `{path}` is {kind}; only files, folders and links can be sent: have the task \
         remove it, or narrow the output patterns"
    )]
    Special {
        /// Relative to the work directory.
        path: String,
        /// Of which kind.
        kind: &'static str,
    },
    /// A link that would lead elsewhere at the submitter.
    #[error(
        "the output `{path}` is a link to `{target}`, out of the work directory; have the task write \
         the file itself, or a relative link that stays inside"
    )]
    LinkEscapes {
        /// Relative to the work directory.
        path: String,
        /// Where it points.
        target: String,
    },
    /// Too long or too deep a path.
    #[error(
        "the output `{path}` is too long or too deep: paths may have {MAX_PATH_BYTES} bytes and \
         {MAX_DEPTH} folders"
    )]
    TooDeep {
        /// Relative to the work directory.
        path: String,
    },
    /// More files than allowed.
    #[error(
        "the work directory holds more than {limit} files and folders where outputs are looked for; \
         have the task pack them into an archive, or narrow the output patterns"
    )]
    TooManyEntries {
        /// How many are allowed.
        limit: usize,
    },
    /// More content than allowed.
    #[error(
        "the outputs are more than {limit}; raise `disk` in the job's resources, or write less"
    )]
    TooLarge {
        /// How much is allowed.
        limit: Bytes,
    },
    /// The task left a file that this node may not read, or the disk is broken.
    #[error("cannot read the output `{path}`: {source}")]
    Read {
        /// Relative to the work directory.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The store cannot take it: the provider's doing, not the task's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OutputError {
    /// Whether the task is to blame, rather than the node it ran on.
    #[must_use]
    pub fn is_tasks_fault(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::ManifestTooLarge(_)),
            Self::Read { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => true,
        }
    }
}

/// Stores what `patterns` select in the work directory `dir` (a `cap_std::fs::Dir` will do), with the
/// folders it lies in, pinned for `owner`. `None` when nothing is selected. On an error what was stored
/// so far stays pinned: unpin the owner.
///
/// # Errors
/// [`OutputError`], naming the path to blame.
pub fn ingest_outputs(
    store: &BlobStore,
    owner: PinOwner,
    dir: impl AsFd,
    patterns: &OutputPatterns,
    limits: Limits,
) -> Result<Option<(BlobRef, Manifest)>, OutputError> {
    let unreadable = |source| OutputError::Read {
        path: String::new(),
        source,
    };
    let root = Folder::of(&dir).map_err(unreadable)?;
    let mut cursor = Cursor::new(root);
    let mut search = Search {
        patterns,
        limits,
        looked_at: 0,
        total: 0,
        entries: Vec::new(),
    };
    search.run(&mut cursor)?;
    if search.entries.is_empty() {
        return Ok(None);
    }
    let manifest = search.store(store, owner, &mut cursor)?;
    let blob = store.put_manifest(owner, &manifest)?;
    Ok(Some((blob, manifest)))
}

/// A folder to be read.
struct Waiting {
    path: Vec<u8>,
    /// Whether all in it is selected.
    whole: bool,
}

struct Search<'a> {
    patterns: &'a OutputPatterns,
    limits: Limits,
    looked_at: usize,
    /// Length of all files selected, in bytes.
    total: u64,
    entries: Vec<Entry>,
}

impl Search<'_> {
    /// Finds what is selected.
    fn run(&mut self, cursor: &mut Cursor) -> Result<(), OutputError> {
        let mut waiting = vec![Waiting {
            path: Vec::new(),
            whole: false,
        }];
        while let Some(next) = waiting.pop() {
            let folder = cursor
                .enter(&next.path, |_, _| Ok(()))
                .map_err(|stuck| unreadable(&stuck.at, stuck.source))?;
            waiting.extend(self.folder(&next, folder)?);
        }
        self.add_parents();
        self.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(())
    }

    fn folder(&mut self, at: &Waiting, folder: &Folder) -> Result<Vec<Waiting>, OutputError> {
        let listed = folder
            .list(self.limits.entries.saturating_sub(self.looked_at))
            .map_err(|source| unreadable(&at.path, source))?
            .ok_or(OutputError::TooManyEntries {
                limit: self.limits.entries,
            })?;
        self.looked_at += listed.len();
        let mut folders = Vec::new();
        for named in listed {
            let path = join(&at.path, &named.name);
            let selected = at.whole || self.patterns.matches(&path);
            let is_folder = named.kind == FileType::Directory;
            let enter = is_folder && (selected || self.patterns.may_match_below(&path));
            if (selected || enter) && (path.len() > MAX_PATH_BYTES || depth(&path) > MAX_DEPTH) {
                return Err(OutputError::TooDeep { path: shown(&path) });
            }
            if selected {
                let kind = self.select(&path, &named.name, named.kind, folder)?;
                self.entries.push(Entry {
                    path: path.clone(),
                    kind,
                });
            }
            if enter {
                folders.push(Waiting {
                    path,
                    whole: selected,
                });
            }
        }
        Ok(folders)
    }

    fn select(
        &mut self,
        path: &[u8],
        name: &[u8],
        kind: FileType,
        folder: &Folder,
    ) -> Result<EntryKind, OutputError> {
        match kind {
            FileType::Directory => Ok(EntryKind::Folder),
            FileType::RegularFile => {
                let (_, bytes) = folder
                    .look(name)
                    .map_err(|source| unreadable(path, source))?;
                self.total = self.total.saturating_add(bytes);
                if self.total > self.limits.bytes {
                    return Err(OutputError::TooLarge {
                        limit: Bytes(self.limits.bytes),
                    });
                }
                Ok(unread_file())
            }
            FileType::Symlink => {
                let target = folder
                    .link_target(name)
                    .map_err(|source| unreadable(path, source))?;
                if link_stays_inside(path, &target) {
                    return Ok(EntryKind::Symlink { target });
                }
                Err(OutputError::LinkEscapes {
                    path: shown(path),
                    target: shown(&target),
                })
            }
            special => Err(OutputError::Special {
                path: shown(path),
                kind: special_kind(special),
            }),
        }
    }

    /// Adds the folders that selected things lie in and that were not selected themselves.
    fn add_parents(&mut self) {
        let mut known: BTreeSet<Vec<u8>> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Folder)
            .map(|entry| entry.path.clone())
            .collect();
        let mut parents = Vec::new();
        for entry in &self.entries {
            let mut above = split(&entry.path).0;
            while !above.is_empty() && !known.contains(above) {
                known.insert(above.to_vec());
                parents.push(Entry {
                    path: above.to_vec(),
                    kind: EntryKind::Folder,
                });
                above = split(above).0;
            }
        }
        self.entries.append(&mut parents);
    }

    /// Reads and stores the files.
    fn store(
        self,
        store: &BlobStore,
        owner: PinOwner,
        cursor: &mut Cursor,
    ) -> Result<Manifest, OutputError> {
        let mut entries = self.entries;
        let cutting = Cutting {
            store,
            owner,
            progress: &|_| ControlFlow::Continue(()),
            total: self.total,
            limit: self.limits.bytes,
        };
        gather(&cutting, cursor, &mut entries).map_err(|failure| {
            let path = failure.path.unwrap_or_default();
            match failure.error {
                CutError::Read(source) => unreadable(&path, source),
                CutError::TooLarge => OutputError::TooLarge {
                    limit: Bytes(self.limits.bytes),
                },
                CutError::Store(error) => OutputError::Store(error),
                CutError::Stopped => unreadable(&path, io::ErrorKind::Interrupted.into()),
            }
        })?;
        Ok(Manifest { entries })
    }
}

fn unreadable(path: &[u8], source: io::Error) -> OutputError {
    OutputError::Read {
        path: shown(path),
        source,
    }
}
