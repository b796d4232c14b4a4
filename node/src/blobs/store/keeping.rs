//! Pinning: what must not go, for whom, and who may therefore read it.

use p2pnode_protocol::manifest::{BlobRef, ChunkRef, Manifest};
use p2pnode_protocol::{Bytes, Digest};

use super::pins::Pins;
use super::{BlobStore, PinOwner, PinScope, StoreError, lock};

/// Submitters that fit into the quota, each with its share.
const SUBMITTERS: u64 = 4;

impl BlobStore {
    /// Keeps these chunks, here or yet to come, until `owner` is unpinned. Pinning again adds.
    pub fn pin(&self, owner: PinOwner, chunks: impl IntoIterator<Item = ChunkRef>) {
        let mut pins = lock(&self.pins);
        self.add(&mut pins, owner, chunks);
    }

    fn add(&self, pins: &mut Pins, owner: PinOwner, chunks: impl IntoIterator<Item = ChunkRef>) {
        let mut index = lock(&self.index);
        for chunk in chunks {
            if pins.add(owner, chunk) {
                index.pin(chunk.digest);
            }
        }
    }

    /// As [`BlobStore::pin`], unless the submitter whom `owner` serves would have more than its share
    /// then: a quarter of the quota, so that four can use this node and none can shut out the others.
    ///
    /// # Errors
    /// [`StoreError::Share`]; nothing is pinned then.
    pub fn pin_within_share<I: IntoIterator<Item = ChunkRef>>(
        &self,
        owner: PinOwner,
        chunks: impl Fn() -> I,
    ) -> Result<(), StoreError> {
        let mut pins = lock(&self.pins);
        let (taken, needed) = pins.share(owner.scope, chunks());
        let share = self.quota / SUBMITTERS;
        let is_others = matches!(owner.scope, PinScope::Hosted(..));
        if is_others && needed > 0 && taken.saturating_add(needed) > share {
            return Err(StoreError::Share {
                needed: Bytes(needed),
                taken: Bytes(taken),
                share: Bytes(share),
            });
        }
        self.add(&mut pins, owner, chunks());
        Ok(())
    }

    /// Keeps a manifest and all its chunks until `owner` is unpinned.
    pub fn pin_blob(&self, owner: PinOwner, blob: &BlobRef, manifest: &Manifest) {
        self.pin(owner, [blob.object()]);
        self.pin(owner, manifest.chunks());
    }

    /// At start: pins a blob that the records name, by the manifest that is here. Returns whether all
    /// of it is here.
    ///
    /// # Errors
    /// As [`BlobStore::manifest`].
    pub fn pin_stored(&self, owner: PinOwner, blob: &BlobRef) -> Result<bool, StoreError> {
        self.pin(owner, [blob.object()]);
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
        let mut digests: Vec<_> = digests
            .iter()
            .map(|digest| (index.get(digest).map(|held| held.place), digest))
            .collect();
        // What was stored together goes together, so that whole packs become free.
        digests.sort_unstable();
        for (_, digest) in digests {
            index.unpin(digest);
        }
    }

    /// Whether `digest` is pinned for this job: what a peer that takes part in the job may read. Two
    /// look-ups; never waits for the disk for long, so it may be asked from async code.
    #[must_use]
    pub fn permits(&self, scope: PinScope, digest: &Digest) -> bool {
        lock(&self.pins).permits(scope, digest)
    }
}
