//! What the store holds, where, and what may go first.
//!
//! Owns the accounts: every object's place and pins, every pack's live and dead bytes, the order of
//! last use, and the total against the quota. It does no I/O and decides what is to be removed; the
//! store removes it. Used by [`super::BlobStore`] alone, behind its lock.

use std::collections::{BTreeMap, HashMap};

use p2pnode_protocol::Digest;

/// What a file takes on disk is rounded up to this many bytes: the block size of ext4, XFS and btrfs.
const BLOCK: u64 = 4_096;

/// A pack is rewritten in need when at least one part in so many of it is dead.
const WORTH_COMPACTING: u64 = 8;

/// Names a pack: they are numbered from 0 and no number is used twice.
pub(super) type PackId = u32;

/// Where an object's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of its own.
    File,
    /// In a pack.
    Pack {
        /// Which.
        pack: PackId,
        /// Where its record begins, in bytes.
        offset: u32,
    },
}

/// An object that is here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Its length, in bytes.
    pub bytes: u32,
    /// Where.
    pub place: Place,
    /// Whether this process has checked its digest.
    pub verified: bool,
    /// When it was last used, on the store's own count.
    tick: u64,
}

/// An object that is here, or is pinned, or both.
#[derive(Debug, Default)]
struct Entry {
    held: Option<Held>,
    /// How many scopes pin it.
    pins: u32,
}

/// One pack's accounts, in bytes of whole records.
#[derive(Debug, Clone, Copy, Default)]
struct Pack {
    total: u64,
    live: u64,
    /// Nothing is appended any more.
    sealed: bool,
}

/// Something that is to be removed from the disk at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// An object's own file.
    File(Digest),
    /// A pack in which nothing is live.
    Pack(PackId),
}

/// What [`Index::make_room`] asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The bytes are reserved.
    Made,
    /// Rewrite this pack without its dead records, then ask again.
    Compact(PackId),
    /// Everything that could go is gone.
    Full,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Digest, Entry>,
    packs: BTreeMap<PackId, Pack>,
    /// Objects that are here and not pinned, by last use.
    idle: BTreeMap<u64, Digest>,
    tick: u64,
    /// Bytes on disk, reserved ones included.
    pub used: u64,
    /// Bytes of pinned objects that are here.
    pub pinned: u64,
    /// Objects that are here.
    pub objects: u64,
}

/// Bytes that an object takes on disk.
pub(super) fn cost(place: Place, bytes: u32) -> u64 {
    match place {
        Place::File => u64::from(bytes).next_multiple_of(BLOCK),
        Place::Pack { .. } => super::packs::record_bytes(bytes),
    }
}

impl Index {
    /// What is here of `digest`.
    pub(super) fn get(&self, digest: &Digest) -> Option<Held> {
        self.entries.get(digest)?.held
    }

    /// Notes that `digest` is used now.
    pub(super) fn touch(&mut self, digest: &Digest) {
        self.tick += 1;
        if let Some(Entry {
            held: Some(held),
            pins: 0,
        }) = self.entries.get_mut(digest)
        {
            self.idle.remove(&held.tick);
            held.tick = self.tick;
            self.idle.insert(self.tick, *digest);
        }
    }

    /// Notes that the digest of what is at `place` was checked.
    pub(super) fn mark_verified(&mut self, digest: &Digest) {
        if let Some(held) = self
            .entries
            .get_mut(digest)
            .and_then(|entry| entry.held.as_mut())
        {
            held.verified = true;
        }
    }

    /// Enters an object whose bytes are on disk. `false` when it was here already: the bytes at
    /// `place` are then nobody's (and counted dead when that is a pack).
    pub(super) fn insert(
        &mut self,
        digest: Digest,
        bytes: u32,
        place: Place,
        verified: bool,
    ) -> bool {
        let size = cost(place, bytes);
        if let Place::Pack { pack, .. } = place {
            self.packs.entry(pack).or_default().total += size;
            self.used += size;
        }
        let entry = self.entries.entry(digest).or_default();
        if entry.held.is_some() {
            return false;
        }
        match place {
            Place::Pack { pack, .. } => self.packs.entry(pack).or_default().live += size,
            Place::File => self.used += size,
        }
        self.tick += 1;
        let tick = self.tick;
        entry.held = Some(Held {
            bytes,
            place,
            verified,
            tick,
        });
        self.objects += 1;
        if entry.pins > 0 {
            self.pinned += size;
        } else {
            self.idle.insert(tick, digest);
        }
        true
    }

    /// Moves an object from one pack to the next; `false` when it is no longer at `from`, and the new
    /// record is dead.
    pub(super) fn moved(&mut self, digest: &Digest, from: Place, to: Place) -> bool {
        let (Place::Pack { pack: old, .. }, Place::Pack { pack: new, .. }) = (from, to) else {
            return false;
        };
        let Some(held) = self
            .entries
            .get_mut(digest)
            .and_then(|entry| entry.held.as_mut())
        else {
            return false;
        };
        let size = cost(to, held.bytes);
        let target = self.packs.entry(new).or_default();
        target.total += size;
        self.used += size;
        if held.place != from {
            return false;
        }
        held.place = to;
        target.live += size;
        if let Some(pack) = self.packs.get_mut(&old) {
            pack.live -= size;
        }
        true
    }

    /// Forgets an object that is here. Its pins stay. What is to be removed from disk is returned.
    pub(super) fn forget(&mut self, digest: &Digest) -> Option<Removal> {
        let entry = self.entries.get_mut(digest)?;
        let held = entry.held.take()?;
        let size = cost(held.place, held.bytes);
        self.objects -= 1;
        if entry.pins > 0 {
            self.pinned -= size;
        } else {
            self.idle.remove(&held.tick);
            self.entries.remove(digest);
        }
        match held.place {
            Place::File => {
                self.used -= size;
                Some(Removal::File(*digest))
            }
            Place::Pack { pack, .. } => {
                let accounts = self.packs.get_mut(&pack)?;
                accounts.live -= size;
                self.drop_if_dead(pack)
            }
        }
    }

    fn drop_if_dead(&mut self, pack: PackId) -> Option<Removal> {
        let accounts = self.packs.get(&pack)?;
        if !accounts.sealed || accounts.live > 0 {
            return None;
        }
        self.used -= accounts.total;
        self.packs.remove(&pack);
        Some(Removal::Pack(pack))
    }

    /// Notes that nothing is appended to a pack any more.
    pub(super) fn seal(&mut self, pack: PackId) -> Option<Removal> {
        self.packs.entry(pack).or_default().sealed = true;
        self.drop_if_dead(pack)
    }

    /// Seals every pack there is; returns those in which nothing is live.
    pub(super) fn seal_all(&mut self) -> Vec<Removal> {
        let ids: Vec<PackId> = self.packs.keys().copied().collect();
        ids.into_iter().filter_map(|pack| self.seal(pack)).collect()
    }

    /// Whether a pack is known.
    pub(super) fn has_pack(&self, pack: PackId) -> bool {
        self.packs.contains_key(&pack)
    }

    /// Forgets a pack that was compacted, and whatever still claims to be in it: it could not be read.
    pub(super) fn drop_pack(&mut self, pack: PackId) {
        if self.packs.get(&pack).is_some_and(|pack| pack.live > 0) {
            let lost: Vec<Digest> = self
                .entries
                .iter()
                .filter(|(_, entry)| {
                    entry.held.is_some_and(
                        |held| matches!(held.place, Place::Pack { pack: at, .. } if at == pack),
                    )
                })
                .map(|(digest, _)| *digest)
                .collect();
            for digest in lost {
                // The last one removes the pack's accounts.
                self.forget(&digest);
            }
        }
        if let Some(accounts) = self.packs.remove(&pack) {
            self.used -= accounts.total;
        }
    }

    /// Reserves `bytes` within `quota`, least recently used objects going first. What is to be removed
    /// from disk is added to `removals`, whatever the answer.
    pub(super) fn make_room(
        &mut self,
        bytes: u64,
        quota: u64,
        removals: &mut Vec<Removal>,
    ) -> Room {
        loop {
            if self.used.saturating_add(bytes) <= quota {
                self.used += bytes;
                return Room::Made;
            }
            let Some((_, digest)) = self.idle.pop_first() else {
                break;
            };
            let place = self.get(&digest).map(|held| held.place);
            removals.extend(self.forget(&digest));
            if let Some(Place::Pack { pack, .. }) = place
                && let Some(accounts) = self.packs.get(&pack)
                && accounts.sealed
                && accounts.live * 2 < accounts.total
            {
                return Room::Compact(pack);
            }
        }
        // Nothing is idle: dead records are all that is left to gain. A pack that is nearly all live
        // is left alone, or a full store would rewrite it for every small object.
        self.packs
            .iter()
            .filter(|(_, pack)| {
                pack.sealed && (pack.total - pack.live) * WORTH_COMPACTING >= pack.total
            })
            .max_by_key(|(_, pack)| pack.total - pack.live)
            .map_or(Room::Full, |(id, _)| Room::Compact(*id))
    }

    /// Gives back what [`Index::make_room`] reserved.
    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
    }

    /// Pins a digest once more.
    pub(super) fn pin(&mut self, digest: Digest) {
        let entry = self.entries.entry(digest).or_default();
        entry.pins += 1;
        if entry.pins == 1
            && let Some(held) = entry.held
        {
            self.idle.remove(&held.tick);
            self.pinned += cost(held.place, held.bytes);
        }
    }

    /// Takes one pin off a digest. What is then free counts as used now: results are often asked for
    /// again soon.
    pub(super) fn unpin(&mut self, digest: &Digest) {
        let Some(entry) = self.entries.get_mut(digest) else {
            return;
        };
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins > 0 {
            return;
        }
        let Some(held) = entry.held.as_mut() else {
            self.entries.remove(digest);
            return;
        };
        self.tick += 1;
        held.tick = self.tick;
        self.pinned -= cost(held.place, held.bytes);
        self.idle.insert(self.tick, *digest);
    }
}
