//! Chunks and manifests on disk, named by digest, within a quota.
//!
//! Owns the folder `blobs/` of a data directory, which no other process touches meanwhile. The driver
//! opens it once and shares it; everything else in this module reads and writes through it.
//!
//! **What is checked.** An object enters with its digest computed over the bytes in hand. One that an
//! earlier life of the node left is checked when it is first read in this one, so that neither a loss
//! of power nor a bad disk gets any further; after that its length is enough.
//!
//! **What is durable.** Nothing is synced here, on purpose: the store is a cache. A process that is
//! killed loses nothing; a loss of power may cost the last seconds' objects, which are then fetched
//! again, or the task is run again. The two places where more was promised say so themselves: a
//! submitter whose inputs must outlive a power cut calls [`BlobStore::sync`] before it acknowledges
//! the job, and outputs are synced where they are delivered ([`crate::blobs::deliver`]).
//!
//! **What goes first.** The least recently used of what no one has pinned ([`PinOwner`]). Pins are in
//! memory: the driver pins everything its records name before it starts anything else. Neighbours in a
//! pack were stored together and mostly go together.
//!
//! Locks, always taken in this order and none held over another's wait: `packs` (while an object is
//! appended or given up), `pins`, `index`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::manifest::ChunkRef;
use p2pnode_protocol::{Bytes, Digest};

mod error;
mod index;
mod keeping;
mod manifests;
mod packs;
mod pins;
mod reading;

pub use error::{ManifestFault, StoreError};
use index::{Index, PackId, Place, Room};
pub(super) use manifests::decode_manifest;
use packs::Packs;
use pins::Pins;
pub use pins::{PinOwner, PinScope};

/// How full the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes on disk.
    pub used: Bytes,
    /// Of these, bytes that jobs need.
    pub pinned: Bytes,
    /// The limit.
    pub quota: Bytes,
    /// Chunks and manifests.
    pub objects: u64,
}

/// The store. See the module.
pub struct BlobStore {
    dir: PathBuf,
    pack_dir: PathBuf,
    quota: u64,
    packs: Mutex<Packs>,
    pins: Mutex<Pins>,
    index: Mutex<Index>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No invariant spans a panic: accounts may be off by one object at worst.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BlobStore {
    /// Opens the store in `dir`, which is made when it is not there, and removes what an earlier life
    /// left half-written. Reads names and indexes only: some 0.2 s for 100,000 objects.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: &Path, quota: Bytes) -> Result<Self, StoreError> {
        let error = |source| StoreError::Io {
            doing: "open the store of inputs and outputs",
            dir: dir.to_path_buf(),
            source,
        };
        let pack_dir = dir.join("packs");
        std::fs::create_dir_all(&pack_dir).map_err(error)?;
        let mut index = Index::default();
        let packs = Packs::open(pack_dir.clone(), quota.0, |pack, record| {
            let offset = record.offset;
            index.insert(record.digest, record.bytes, Place { pack, offset }, false);
        })
        .map_err(error)?;
        let store = Self {
            dir: dir.to_path_buf(),
            pack_dir,
            quota: quota.0,
            packs: Mutex::new(packs),
            pins: Mutex::default(),
            index: Mutex::default(),
        };
        let dead = index.seal_all();
        *lock(&store.index) = index;
        store.remove(dead);
        Ok(store)
    }

    fn error(&self, doing: &'static str) -> impl FnOnce(io::Error) -> StoreError + '_ {
        move |source| StoreError::Io {
            doing,
            dir: self.dir.clone(),
            source,
        }
    }

    /// Stores `bytes` and pins them for `owner`.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Full`].
    pub fn put(&self, owner: PinOwner, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        // One that is too long for a chunk is refused below.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let chunk = ChunkRef {
            digest,
            bytes: length,
        };
        self.pin(owner, [chunk]);
        self.insert(digest, bytes)?;
        Ok(digest)
    }

    /// Stores `bytes`, whose digest the caller has just computed.
    pub(super) fn insert(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.contains(&digest) {
            return Ok(());
        }
        let length = u32::try_from(bytes.len())
            .map_err(|_| self.error("write a chunk")(io::ErrorKind::FileTooLarge.into()))?;
        let reserved = packs::record_bytes(length);
        self.make_room(reserved)?;
        let mut packs = lock(&self.packs);
        // Another thread may have stored it while room was made.
        if self.contains(&digest) {
            lock(&self.index).release(reserved);
            return Ok(());
        }
        let appended = packs.append(&digest, bytes);
        let mut index = lock(&self.index);
        index.release(reserved);
        let mut dead = None;
        if let Ok(place) = &appended.place {
            index.insert(digest, length, *place, true);
        }
        if let Some(pack) = appended.sealed {
            dead = index.seal(pack);
        }
        self.remove(dead);
        appended
            .place
            .map_err(self.error("write a chunk"))
            .map(drop)
    }

    /// Reserves `bytes` of the quota, evicting and compacting as needed.
    fn make_room(&self, bytes: u64) -> Result<(), StoreError> {
        loop {
            let mut removals = Vec::new();
            let mut index = lock(&self.index);
            let room = index.make_room(bytes, self.quota, &mut removals);
            let pinned = index.pinned;
            // Under the lock, or a chunk that is stored again meanwhile would lose its file.
            self.remove(removals);
            drop(index);
            match room {
                Room::Made => return Ok(()),
                Room::Compact(pack) => {
                    self.compact(pack).map_err(self.error("rewrite a pack"))?;
                }
                Room::Full => {
                    return Err(StoreError::Full {
                        needed: Bytes(bytes),
                        pinned: Bytes(pinned),
                        quota: Bytes(self.quota),
                    });
                }
            }
        }
    }

    /// Rewrites what is live of a pack into the current one and removes it. The store may be over its
    /// quota by half a pack meanwhile.
    fn compact(&self, pack: PackId) -> io::Result<()> {
        let mut packs = lock(&self.packs);
        if !lock(&self.index).has_pack(pack) {
            return Ok(());
        }
        let records = packs.records(pack).unwrap_or_else(|error| {
            tracing::warn!(pack, %error, "cannot read a pack; what it held is forgotten");
            Vec::new()
        });
        let mut bytes = Vec::new();
        for record in records {
            let from = Place {
                pack,
                offset: record.offset,
            };
            let held = lock(&self.index).get(&record.digest);
            if held.is_none_or(|held| held.place != from) {
                continue;
            }
            bytes.resize(record.bytes as usize, 0);
            if let Err(error) = packs::read(&self.pack_dir, from, &mut bytes) {
                tracing::warn!(pack, %error, "cannot read a pack; part of it is forgotten");
                continue;
            }
            let appended = packs.append(&record.digest, &bytes);
            let mut index = lock(&self.index);
            if let Ok(to) = appended.place {
                index.moved(&record.digest, from, to);
            }
            let dead = appended.sealed.and_then(|sealed| index.seal(sealed));
            self.remove(dead);
            // The rest stays where it is.
            appended.place?;
        }
        let mut index = lock(&self.index);
        index.drop_pack(pack);
        self.remove([pack]);
        Ok(())
    }

    /// Removes packs from disk that the index has given up. What cannot be removed is found again at
    /// the next start.
    fn remove(&self, removals: impl IntoIterator<Item = PackId>) {
        for pack in removals {
            match packs::remove(&self.pack_dir, pack) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(pack, %error, "cannot remove from the blob store");
                }
                _ => {}
            }
        }
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> StoreUsage {
        let index = lock(&self.index);
        StoreUsage {
            used: Bytes(index.used),
            pinned: Bytes(index.pinned),
            quota: Bytes(self.quota),
            objects: index.objects,
        }
    }

    /// Fails at once when `more` bytes, all of them to be pinned, cannot fit.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn check_room(&self, more: u64) -> Result<(), StoreError> {
        let pinned = lock(&self.index).pinned;
        if pinned.saturating_add(more) <= self.quota {
            return Ok(());
        }
        Err(StoreError::Full {
            needed: Bytes(more),
            pinned: Bytes(pinned),
            quota: Bytes(self.quota),
        })
    }

    /// Makes everything that was stored so far survive a loss of power. Takes as long as the disk
    /// takes to write what it still holds back, of other programs too.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sync(&self) -> Result<(), StoreError> {
        std::fs::File::open(&self.dir)
            .and_then(super::folder::sync_filesystem)
            .map_err(self.error("save the store of inputs and outputs"))
    }
}
