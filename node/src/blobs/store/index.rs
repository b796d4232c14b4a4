//! What the store holds, where, and what may go first.
//!
//! Owns the accounts: every object's place and pins, every pack's live and dead bytes, the order of
//! last use, and the total against the quota. It does no I/O and decides what is to be removed; the
//! store removes it. Used by [`super::BlobStore`] alone, behind its lock.

use std::collections::{BTreeMap, HashMap};

use p2pnode_protocol::Digest;

use super::packs::record_bytes;

/// A pack is rewritten in need when at least one part in so many of it is dead.
const WORTH_COMPACTING: u64 = 8;

/// Names a pack: they are numbered from 0 and no number is used twice.
pub(super) type PackId = u32;

/// Where an object's bytes are. In the order of places, objects that were stored together are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// In which pack.
    pub pack: PackId,
    /// Where its record begins, in bytes.
    pub offset: u32,
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
    /// Something of it was read in this life of the node.
    used: bool,
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

    /// Notes that the digest of an object was checked; returns its pack when that is the first of it
    /// to be used in this life of the node.
    pub(super) fn mark_verified(&mut self, digest: &Digest) -> Option<PackId> {
        let held = self.entries.get_mut(digest)?.held.as_mut()?;
        held.verified = true;
        let id = held.place.pack;
        let pack = self.packs.get_mut(&id)?;
        (!std::mem::replace(&mut pack.used, true)).then_some(id)
    }

    /// Has the digest of an object checked when it is read next.
    pub(super) fn doubt(&mut self, digest: &Digest) {
        if let Some(held) = self
            .entries
            .get_mut(digest)
            .and_then(|entry| entry.held.as_mut())
        {
            held.verified = false;
        }
    }

    /// Enters an object whose bytes are on disk. `false` when it was here already: the bytes at
    /// `place` are then counted dead.
    pub(super) fn insert(
        &mut self,
        digest: Digest,
        bytes: u32,
        place: Place,
        verified: bool,
    ) -> bool {
        let size = record_bytes(bytes);
        let pack = self.packs.entry(place.pack).or_default();
        pack.total += size;
        self.used += size;
        let entry = self.entries.entry(digest).or_default();
        if entry.held.is_some() {
            return false;
        }
        pack.live += size;
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
        let Some(held) = self
            .entries
            .get_mut(digest)
            .and_then(|entry| entry.held.as_mut())
        else {
            return false;
        };
        let size = record_bytes(held.bytes);
        let target = self.packs.entry(to.pack).or_default();
        target.total += size;
        self.used += size;
        if held.place != from {
            return false;
        }
        held.place = to;
        target.live += size;
        if let Some(pack) = self.packs.get_mut(&from.pack) {
            pack.live -= size;
        }
        true
    }

    /// Forgets an object that is here. Its pins stay. A pack that is to be removed from disk at once,
    /// because nothing in it is live any more, is returned.
    pub(super) fn forget(&mut self, digest: &Digest) -> Option<PackId> {
        let entry = self.entries.get_mut(digest)?;
        let held = entry.held.take()?;
        let size = record_bytes(held.bytes);
        self.objects -= 1;
        if entry.pins > 0 {
            self.pinned -= size;
        } else {
            self.idle.remove(&held.tick);
            self.entries.remove(digest);
        }
        self.packs.get_mut(&held.place.pack)?.live -= size;
        self.drop_if_dead(held.place.pack)
    }

    fn drop_if_dead(&mut self, pack: PackId) -> Option<PackId> {
        let accounts = self.packs.get(&pack)?;
        if !accounts.sealed || accounts.live > 0 {
            return None;
        }
        self.used -= accounts.total;
        self.packs.remove(&pack);
        Some(pack)
    }

    /// Notes that nothing is appended to a pack any more.
    pub(super) fn seal(&mut self, pack: PackId) -> Option<PackId> {
        self.packs.entry(pack).or_default().sealed = true;
        self.drop_if_dead(pack)
    }

    /// Seals every pack there is; returns those in which nothing is live.
    pub(super) fn seal_all(&mut self) -> Vec<PackId> {
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
                .filter(|(_, entry)| entry.held.is_some_and(|held| held.place.pack == pack))
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

    /// Reserves `bytes` within `quota`, least recently used objects going first. Packs that are to be
    /// removed from disk are added to `removals`, whatever the answer.
    pub(super) fn make_room(&mut self, bytes: u64, quota: u64, removals: &mut Vec<PackId>) -> Room {
        loop {
            if self.used.saturating_add(bytes) <= quota {
                self.used += bytes;
                return Room::Made;
            }
            let Some((_, digest)) = self.idle.pop_first() else {
                break;
            };
            let pack = self.get(&digest).map(|held| held.place.pack);
            removals.extend(self.forget(&digest));
            if let Some(pack) = pack
                && let Some(accounts) = self.packs.get(&pack)
                && accounts.sealed
                && accounts.live * 2 < accounts.total
                // The rest of what was stored together is next in line to go: rewriting it would be
                // in vain.
                && self.next_idle_pack() != Some(pack)
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

    /// The pack of the least recently used object.
    fn next_idle_pack(&self) -> Option<PackId> {
        let (_, digest) = self.idle.first_key_value()?;
        self.get(digest).map(|held| held.place.pack)
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
            self.pinned += record_bytes(held.bytes);
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
        self.pinned -= record_bytes(held.bytes);
        self.idle.insert(self.tick, *digest);
    }
}
