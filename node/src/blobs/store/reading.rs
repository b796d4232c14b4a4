//! Reading objects, and what happens to those that turn out to be damaged.

use std::io;

use p2pnode_protocol::Digest;

use super::index::Held;
use super::{BlobStore, StoreError, lock, packs};

/// How often a read starts over because the pack it was about to open was rewritten. Once is rare.
const READ_ATTEMPTS: usize = 3;

impl BlobStore {
    /// Whether an object is here.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        lock(&self.index).get(digest).is_some()
    }

    /// The length of an object that is here, in bytes.
    #[must_use]
    pub fn length(&self, digest: &Digest) -> Option<u32> {
        lock(&self.index).get(digest).map(|held| held.bytes)
    }

    /// Reads an object; `None` when it is not here, or was and turns out to be damaged.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let mut bytes = Vec::new();
        Ok(self.read_into(digest, &mut bytes)?.then_some(bytes))
    }

    /// [`BlobStore::read`] into a buffer, which is replaced. `false` when there is nothing to read.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read_into(&self, digest: &Digest, into: &mut Vec<u8>) -> Result<bool, StoreError> {
        let Some(bytes) = self.length(digest) else {
            return Ok(false);
        };
        into.resize(bytes as usize, 0);
        self.read_whole(digest, into)
    }

    /// [`BlobStore::read`] of an object that is exactly as long as `into`. `false` when there is no such:
    /// then what is in `into` is of no meaning.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read_whole(&self, digest: &Digest, into: &mut [u8]) -> Result<bool, StoreError> {
        for _ in 0..READ_ATTEMPTS {
            let held = {
                let mut index = lock(&self.index);
                index.touch(digest);
                index.get(digest)
            };
            let Some(held) = held.filter(|held| held.bytes as usize == into.len()) else {
                return Ok(false);
            };
            match packs::read(&self.pack_dir, held.place, into) {
                Ok(()) if held.verified => return Ok(true),
                Ok(()) if Digest::of(into) == *digest => {
                    self.verified(digest);
                    return Ok(true);
                }
                Ok(()) => self.lose(digest, held, "its bytes changed"),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.lose(digest, held, "it was cut short");
                }
                // Evicted or moved between the look and the read; else someone removed the file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.lose(digest, held, "its file is gone");
                }
                Err(error) => return Err(self.error("read a chunk")(error)),
            }
        }
        Ok(false)
    }

    fn verified(&self, digest: &Digest) {
        let first = lock(&self.index).mark_verified(digest);
        if let Some(pack) = first
            && let Err(error) = packs::note_use(&self.pack_dir, pack)
        {
            tracing::debug!(%error, "cannot note the use of a pack");
        }
    }

    /// Forgets an object that is not what it should be, unless it was moved meanwhile. Nothing more is
    /// written to its pack: the file may be gone from its folder while it is still open.
    fn lose(&self, digest: &Digest, held: Held, why: &str) {
        let mut packs = lock(&self.packs);
        let mut index = lock(&self.index);
        if index.get(digest).is_some_and(|now| now.place == held.place) {
            tracing::warn!(%digest, why, "a stored chunk is damaged and forgotten");
            let dead = index.forget(digest);
            let sealed = packs.give_up(held.place.pack);
            let dead_too = sealed.and_then(|pack| index.seal(pack));
            self.remove(dead.into_iter().chain(dead_too));
        }
    }
}
