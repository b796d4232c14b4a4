//! Large objects, each in a file of its own.
//!
//! Owns the folders `chunks/ab/<digest>` (256 of them, so that 100,000 objects are 400 names each) and
//! `new/`, where files are written before they get their name: a name in `chunks` always stands for
//! everything that was written. Used by [`super::BlobStore`] alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use p2pnode_protocol::Digest;

/// The folders of files.
pub(super) struct Files {
    chunks: PathBuf,
    new: PathBuf,
    counter: AtomicU64,
}

/// A file that was found at start.
#[derive(Debug)]
pub(super) struct Found {
    pub digest: Digest,
    pub bytes: u32,
    /// When it was written, or first used in an earlier life of the node.
    pub used: SystemTime,
}

impl Files {
    /// Opens the folders below `dir`, making them when needed, and removes what an earlier life was
    /// writing when it ended.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let chunks = dir.join("chunks");
        let new = dir.join("new");
        std::fs::create_dir_all(&chunks)?;
        std::fs::create_dir_all(&new)?;
        for entry in std::fs::read_dir(&new)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(Self {
            chunks,
            new,
            counter: AtomicU64::new(0),
        })
    }

    /// Everything here, in no order. What is not an object of the store is left where it is.
    pub(super) fn scan(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for shard in std::fs::read_dir(&self.chunks)? {
            let shard = shard?;
            if !shard.file_type()?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(shard.path())? {
                let entry = entry?;
                let digest = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
                let Some(digest) = digest else { continue };
                let metadata = entry.metadata()?;
                match u32::try_from(metadata.len()) {
                    // Lost its content together with the power, or is none of ours.
                    Ok(0) | Err(_) => std::fs::remove_file(entry.path())?,
                    Ok(bytes) => found.push(Found {
                        digest,
                        bytes,
                        used: metadata.modified()?,
                    }),
                }
            }
        }
        Ok(found)
    }

    /// Writes a file that has no name yet.
    pub(super) fn write_new(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.new.join(number.to_string());
        let written = File::create_new(&path).and_then(|mut file| file.write_all(bytes));
        if let Err(error) = written {
            self.discard(&path);
            return Err(error);
        }
        Ok(path)
    }

    /// Gives a written file its name.
    pub(super) fn name(&self, new: &Path, digest: &Digest) -> io::Result<()> {
        let path = self.path(digest);
        match std::fs::rename(new, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(shard) = path.parent() {
                    std::fs::create_dir_all(shard)?;
                }
                std::fs::rename(new, &path)
            }
            done => done,
        }
    }

    /// Removes a file that did not get its name.
    pub(super) fn discard(&self, new: &Path) {
        // Left over, it goes at the next start.
        if let Err(error) = std::fs::remove_file(new) {
            tracing::debug!(%error, "cannot remove a temporary file");
        }
    }

    /// Reads a file of exactly `into.len()` bytes.
    pub(super) fn read(&self, digest: &Digest, into: &mut [u8]) -> io::Result<()> {
        let mut file = File::open(self.path(digest))?;
        if file.metadata()?.len() != into.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.read_exact(into)
    }

    /// Notes on disk that a file is in use, for the order of eviction in the next life.
    pub(super) fn note_use(&self, digest: &Digest) -> io::Result<()> {
        File::open(self.path(digest))?.set_modified(SystemTime::now())
    }

    /// Removes a file.
    pub(super) fn remove(&self, digest: &Digest) -> io::Result<()> {
        std::fs::remove_file(self.path(digest))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.chunks.join(&hex[..2]).join(&hex)
    }
}
