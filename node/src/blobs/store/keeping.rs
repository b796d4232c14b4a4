//! Pinning: what must not go, for whom, and who may therefore read it.

use p2pnode_protocol::Digest;
use p2pnode_protocol::manifest::{BlobRef, Manifest};

use super::{BlobStore, PinOwner, PinScope, StoreError, lock};

impl BlobStore {
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
