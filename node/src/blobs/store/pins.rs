//! Who needs which digests.
//!
//! Owns the lists of digests by owner, and their union by scope, which is what a peer may read. Pins
//! name digests, not chunks: what is pinned before it arrives is safe from the moment it does. They
//! live in memory only; the driver, whose records say what is needed, makes them again at each start.
//!
//! Used by [`super::BlobStore`] alone, which tells the index what became pinned or free.

use std::collections::{BTreeMap, HashMap, HashSet};

use p2pnode_protocol::manifest::ChunkRef;
use p2pnode_protocol::{AttemptKey, Digest, JobId, PeerId};

/// The job that a pin serves, which is also what permits a peer to read what is pinned for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinScope {
    /// A job of this node's own.
    Own(JobId),
    /// A job of this peer's, hosted here. Job ids are the submitter's own, so both are needed.
    Hosted(PeerId, JobId),
}

/// Whoever needs digests kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PinOwner {
    /// For which job.
    pub scope: PinScope,
    /// For one attempt's outputs, or for the job as a whole.
    pub attempt: Option<AttemptKey>,
}

impl PinOwner {
    /// The job as a whole: its inputs and program.
    #[must_use]
    pub const fn job(scope: PinScope) -> Self {
        Self {
            scope,
            attempt: None,
        }
    }

    /// The outputs of one attempt.
    #[must_use]
    pub const fn attempt(scope: PinScope, attempt: AttemptKey) -> Self {
        Self {
            scope,
            attempt: Some(attempt),
        }
    }
}

/// All pins.
#[derive(Debug, Default)]
pub(super) struct Pins {
    owners: BTreeMap<PinOwner, HashSet<Digest>>,
    /// How many owners of a scope name each digest.
    scopes: HashMap<PinScope, HashMap<Digest, u32>>,
    /// What jobs of each peer hold here.
    peers: HashMap<PeerId, Share>,
}

/// What all jobs of one peer need together.
#[derive(Debug, Default)]
struct Share {
    /// How many of its jobs name each digest, and how long that is.
    digests: HashMap<Digest, (u32, u32)>,
    /// Their sum, in bytes.
    bytes: u64,
}

impl Share {
    fn add(&mut self, chunk: ChunkRef) {
        let entry = self.digests.entry(chunk.digest).or_insert_with(|| {
            self.bytes += u64::from(chunk.bytes);
            (0, chunk.bytes)
        });
        entry.0 += 1;
    }

    fn remove(&mut self, digest: &Digest) {
        let Some((jobs, bytes)) = self.digests.get_mut(digest) else {
            return;
        };
        *jobs -= 1;
        if *jobs == 0 {
            self.bytes -= u64::from(*bytes);
            self.digests.remove(digest);
        }
    }
}

impl PinScope {
    /// Whose job it is, when it is another's.
    const fn submitter(&self) -> Option<&PeerId> {
        match self {
            Self::Own(_) => None,
            Self::Hosted(peer, _) => Some(peer),
        }
    }
}

impl Pins {
    /// Whether anyone of this scope has pinned `digest`.
    pub(super) fn permits(&self, scope: PinScope, digest: &Digest) -> bool {
        self.scopes
            .get(&scope)
            .is_some_and(|digests| digests.contains_key(digest))
    }

    /// What jobs of the scope's submitter hold, in bytes, and what `chunks` would add to that.
    pub(super) fn share(
        &self,
        scope: PinScope,
        chunks: impl IntoIterator<Item = ChunkRef>,
    ) -> (u64, u64) {
        let share = scope.submitter().and_then(|peer| self.peers.get(peer));
        let mut seen = HashSet::new();
        let fresh = chunks.into_iter().filter(|chunk| {
            share.is_none_or(|share| !share.digests.contains_key(&chunk.digest))
                && seen.insert(chunk.digest)
        });
        let fresh = fresh.map(|chunk| u64::from(chunk.bytes)).sum();
        (share.map_or(0, |share| share.bytes), fresh)
    }

    /// Adds a pin; returns whether the digest is new to its scope.
    pub(super) fn add(&mut self, owner: PinOwner, chunk: ChunkRef) -> bool {
        let digest = chunk.digest;
        // A manifest may name a digest a million times.
        if !self.owners.entry(owner).or_default().insert(digest) {
            return false;
        }
        let count = self
            .scopes
            .entry(owner.scope)
            .or_default()
            .entry(digest)
            .or_insert(0);
        *count += 1;
        let fresh = *count == 1;
        if let Some(peer) = owner.scope.submitter()
            && fresh
        {
            self.peers.entry(*peer).or_default().add(chunk);
        }
        fresh
    }

    /// Digests that a scope no longer holds.
    fn give_back(&mut self, scope: PinScope, freed: &[Digest]) {
        let Some(peer) = scope.submitter() else {
            return;
        };
        if let Some(share) = self.peers.get_mut(peer) {
            freed.iter().for_each(|digest| share.remove(digest));
            if share.digests.is_empty() {
                self.peers.remove(peer);
            }
        }
    }

    /// Removes all pins of an owner; returns the digests that its scope no longer holds.
    pub(super) fn remove(&mut self, owner: PinOwner) -> Vec<Digest> {
        let named = self.owners.remove(&owner).unwrap_or_default();
        let mut freed: Vec<Digest> = named.into_iter().collect();
        let Some(scope) = self.scopes.get_mut(&owner.scope) else {
            return freed;
        };
        freed.retain(|digest| {
            let Some(count) = scope.get_mut(digest) else {
                return false;
            };
            *count -= 1;
            if *count == 0 {
                scope.remove(digest);
                return true;
            }
            false
        });
        if scope.is_empty() {
            self.scopes.remove(&owner.scope);
        }
        self.give_back(owner.scope, &freed);
        freed
    }

    /// Removes all pins of a scope; returns its digests.
    pub(super) fn remove_scope(&mut self, scope: PinScope) -> Vec<Digest> {
        let owners: Vec<PinOwner> = self
            .owners
            .range(PinOwner::job(scope)..)
            .take_while(|(owner, _)| owner.scope == scope)
            .map(|(owner, _)| *owner)
            .collect();
        for owner in owners {
            self.owners.remove(&owner);
        }
        let digests = self.scopes.remove(&scope).unwrap_or_default();
        let freed: Vec<Digest> = digests.into_keys().collect();
        self.give_back(scope, &freed);
        freed
    }
}
