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
//! memory: the driver pins everything its records name before it starts anything else.
//!
//! Locks, always taken in this order and none held over another's wait: `packs` (while a small object
//! is appended), `pins`, `index`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::codec::{self, CodecError};
use p2pnode_protocol::manifest::{BlobRef, ChunkRef, MAX_MANIFEST_BYTES, Manifest};
use p2pnode_protocol::{Bytes, Digest};

mod files;
mod index;
mod packs;
mod pins;

use files::Files;
use index::{Held, Index, Place, Removal, Room};
use packs::Packs;
use pins::Pins;
pub use pins::{PinOwner, PinScope};

use super::check::{UnsafeManifest, check};

/// How often a read starts over because the pack it was about to open was rewritten. Once is rare.
const READ_ATTEMPTS: usize = 3;

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
    Unsafe(#[from] UnsafeManifest),
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
    files: Files,
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
        let files = Files::open(dir).map_err(error)?;
        let pack_dir = dir.join("packs");
        std::fs::create_dir_all(&pack_dir).map_err(error)?;

        let mut index = Index::default();
        let mut last = None;
        let packs = Packs::open(pack_dir.clone(), quota.0, |pack, record| {
            let place = Place::Pack {
                pack,
                offset: record.offset,
            };
            index.insert(record.digest, record.bytes, place, false);
            last = Some(pack);
        })
        .map_err(error)?;
        let mut found = files.scan().map_err(error)?;
        found.sort_by_key(|file| file.used);
        for file in found {
            index.insert(file.digest, file.bytes, Place::File, false);
        }
        let store = Self {
            dir: dir.to_path_buf(),
            pack_dir,
            quota: quota.0,
            files,
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
        self.pin(owner, [digest]);
        self.insert(digest, bytes)?;
        Ok(digest)
    }

    /// Stores `bytes`, whose digest the caller has just computed.
    pub(super) fn insert(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.contains(&digest) {
            return Ok(());
        }
        if bytes.len() < packs::SMALL_BYTES {
            self.insert_small(digest, bytes)
        } else {
            self.insert_file(digest, bytes)
        }
    }

    fn insert_small(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let length = bytes.len() as u32;
        let reserved = packs::record_bytes(length);
        self.make_room(reserved)?;
        let mut packs = lock(&self.packs);
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
            .map_err(self.error("append to a pack"))
            .map(drop)
    }

    fn insert_file(&self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let length = u32::try_from(bytes.len())
            .map_err(|_| self.error("write a chunk")(io::ErrorKind::FileTooLarge.into()))?;
        let reserved = index::cost(Place::File, length);
        self.make_room(reserved)?;
        let written = self.files.write_new(bytes);
        let mut index = lock(&self.index);
        index.release(reserved);
        // Named under the lock: the name and the entry come and go together.
        let named = written.and_then(|new| {
            self.files
                .name(&new, &digest)
                .inspect_err(|_| self.files.discard(&new))
        });
        if named.is_ok() {
            index.insert(digest, length, Place::File, true);
        }
        drop(index);
        named.map_err(self.error("write a chunk"))
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
    fn compact(&self, pack: index::PackId) -> io::Result<()> {
        let mut packs = lock(&self.packs);
        if !lock(&self.index).has_pack(pack) {
            return Ok(());
        }
        let records = packs.whole(pack).unwrap_or_else(|error| {
            tracing::warn!(pack, %error, "cannot read a pack; what it held is forgotten");
            Vec::new()
        });
        for (record, bytes) in records {
            let from = Place::Pack {
                pack,
                offset: record.offset,
            };
            let held = lock(&self.index).get(&record.digest);
            if held.is_none_or(|held| held.place != from) {
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
        self.remove([Removal::Pack(pack)]);
        Ok(())
    }

    /// Removes from disk what the index has given up. What cannot be removed is found again at the
    /// next start.
    fn remove(&self, removals: impl IntoIterator<Item = Removal>) {
        for removal in removals {
            let removed = match removal {
                Removal::File(digest) => self.files.remove(&digest),
                Removal::Pack(pack) => packs::remove(&self.pack_dir, pack),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(?removal, %error, "cannot remove from the blob store");
                }
                _ => {}
            }
        }
    }

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
        for _ in 0..READ_ATTEMPTS {
            let held = {
                let mut index = lock(&self.index);
                index.touch(digest);
                index.get(digest)
            };
            let Some(held) = held else { return Ok(false) };
            into.resize(held.bytes as usize, 0);
            let read = match held.place {
                Place::File => self.files.read(digest, into),
                Place::Pack { pack, offset } => packs::read(&self.pack_dir, pack, offset, into),
            };
            match read {
                Ok(()) if held.verified => return Ok(true),
                Ok(()) if Digest::of(into) == *digest => {
                    self.verified(digest, held);
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

    fn verified(&self, digest: &Digest, held: Held) {
        lock(&self.index).mark_verified(digest);
        if held.place == Place::File
            && let Err(error) = self.files.note_use(digest)
        {
            tracing::debug!(%error, "cannot note the use of a chunk");
        }
    }

    /// Forgets an object that is not what it should be, unless it was moved meanwhile.
    fn lose(&self, digest: &Digest, held: Held, why: &str) {
        let mut index = lock(&self.index);
        if index.get(digest).is_some_and(|now| now.place == held.place) {
            tracing::warn!(%digest, why, "a stored chunk is damaged and forgotten");
            let removal = index.forget(digest);
            self.remove(removal);
        }
    }

    /// Stores a manifest and pins it for `owner`, who has its chunks pinned already.
    ///
    /// # Errors
    /// [`StoreError::ManifestTooLarge`], [`StoreError::Io`] or [`StoreError::Full`].
    pub fn put_manifest(
        &self,
        owner: PinOwner,
        manifest: &Manifest,
    ) -> Result<BlobRef, StoreError> {
        let encoded = codec::encode(manifest, MAX_MANIFEST_BYTES as usize)
            .map_err(StoreError::ManifestTooLarge)?;
        Ok(BlobRef {
            digest: self.put(owner, &encoded)?,
            manifest_bytes: encoded.len() as u64,
            content_bytes: manifest.content_bytes(),
        })
    }

    /// Reads a manifest that is here, checked.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::BadManifest`].
    pub fn manifest(&self, blob: &BlobRef) -> Result<Option<Manifest>, StoreError> {
        let Some(encoded) = self.read(&blob.digest)? else {
            return Ok(None);
        };
        decode_manifest(blob, &encoded)
            .map(Some)
            .map_err(|source| StoreError::BadManifest {
                digest: blob.digest,
                source,
            })
    }

    /// The chunks of a manifest that are not here, each once, in the order of their first use. One that
    /// is here with another length than the manifest says counts as missing: no peer can send it.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest) -> Vec<ChunkRef> {
        let index = lock(&self.index);
        let mut seen = std::collections::HashSet::new();
        manifest
            .chunks()
            .filter(|chunk| {
                index
                    .get(&chunk.digest)
                    .is_none_or(|held| held.bytes != chunk.bytes)
                    && seen.insert((chunk.digest, chunk.bytes))
            })
            .collect()
    }

    /// Keeps these digests, here or yet to come, until `owner` is unpinned. Pinning again adds.
    pub fn pin(&self, owner: PinOwner, digests: impl IntoIterator<Item = Digest>) {
        let mut pins = lock(&self.pins);
        let mut index = lock(&self.index);
        for digest in digests {
            if pins.add(owner, digest) {
                index.pin(digest);
            }
        }
    }

    /// Keeps a manifest and all its chunks until `owner` is unpinned.
    pub fn pin_blob(&self, owner: PinOwner, blob: &BlobRef, manifest: &Manifest) {
        self.pin(owner, [blob.digest]);
        self.pin(owner, manifest.chunks().map(|chunk| chunk.digest));
    }

    /// At start: pins a blob that the records name, by the manifest that is here. Returns whether all
    /// of it is here.
    ///
    /// # Errors
    /// As [`BlobStore::manifest`].
    pub fn pin_stored(&self, owner: PinOwner, blob: &BlobRef) -> Result<bool, StoreError> {
        self.pin(owner, [blob.digest]);
        let Some(manifest) = self.manifest(blob)? else {
            return Ok(false);
        };
        self.pin_blob(owner, blob, &manifest);
        Ok(self.missing(&manifest).is_empty())
    }

    /// Ends all pins of one owner.
    pub fn unpin(&self, owner: PinOwner) {
        let mut pins = lock(&self.pins);
        let freed = pins.remove(owner);
        self.free(&freed);
    }

    /// Ends all pins of a job, its attempts' included.
    pub fn unpin_scope(&self, scope: PinScope) {
        let mut pins = lock(&self.pins);
        let freed = pins.remove_scope(scope);
        self.free(&freed);
    }

    fn free(&self, digests: &[Digest]) {
        let mut index = lock(&self.index);
        for digest in digests {
            index.unpin(digest);
        }
    }

    /// Whether `digest` is pinned for this job: what a peer that takes part in the job may read. Two
    /// look-ups; never waits for the disk for long, so it may be asked from async code.
    #[must_use]
    pub fn permits(&self, scope: PinScope, digest: &Digest) -> bool {
        lock(&self.pins).permits(scope, digest)
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

/// Decodes a manifest and checks it against the reference it was asked for by.
pub(super) fn decode_manifest(blob: &BlobRef, encoded: &[u8]) -> Result<Manifest, ManifestFault> {
    let same = |what, promised, found| {
        (promised == found)
            .then_some(())
            .ok_or(ManifestFault::Length {
                what,
                promised,
                found,
            })
    };
    same("the manifest", blob.manifest_bytes, encoded.len() as u64)?;
    let manifest: Manifest = codec::decode(encoded, MAX_MANIFEST_BYTES as usize)?;
    check(&manifest)?;
    same("the content", blob.content_bytes, manifest.content_bytes())?;
    Ok(manifest)
}
