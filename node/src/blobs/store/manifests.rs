//! Manifests: stored like chunks, checked whenever they are decoded.

use std::collections::HashSet;

use p2pnode_protocol::codec;
use p2pnode_protocol::manifest::{BlobRef, ChunkRef, MAX_MANIFEST_BYTES, Manifest};

use super::{BlobStore, ManifestFault, PinOwner, StoreError, lock};

impl BlobStore {
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

    /// Reads every chunk of a manifest and checks its digest, checked before or not. Those that are gone
    /// or damaged are forgotten, so that one fetch brings them all again.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn recheck(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        let mut seen = HashSet::new();
        // Each once: a manifest may name one a million times.
        for chunk in manifest.chunks().filter(|chunk| seen.insert(*chunk)) {
            lock(&self.index).doubt(&chunk.digest);
            self.read_into(&chunk.digest, &mut buffer)?;
        }
        Ok(())
    }

    /// The chunks of a manifest that are not here, each once, in the order of their first use. One that
    /// is here with another length than the manifest says counts as missing: no peer can send it.
    #[must_use]
    pub fn missing(&self, manifest: &Manifest) -> Vec<ChunkRef> {
        let index = lock(&self.index);
        let mut seen = HashSet::new();
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
}

/// Decodes a manifest and checks it against the reference it was asked for by.
pub(in crate::blobs) fn decode_manifest(
    blob: &BlobRef,
    encoded: &[u8],
) -> Result<Manifest, ManifestFault> {
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
    manifest.check()?;
    same("the content", blob.content_bytes, manifest.content_bytes())?;
    Ok(manifest)
}
