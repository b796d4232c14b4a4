//! Fetches whole blobs from one peer.
//!
//! Owns the order of a fetch: manifests first, checked, then what is missing of all of them together.
//! Called by the driver, for a job's inputs and for finished attempts' outputs, many at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::io::{AsyncRead, AsyncWrite};
use p2pnode_protocol::manifest::{BlobRef, ChunkRef, MAX_MANIFEST_BYTES, Manifest};
use p2pnode_protocol::{Digest, JobId};

use super::ask::ask;
use super::{FetchError, off_thread};
use crate::blobs::cut::Progress;
use crate::blobs::store::{BlobStore, PinOwner, decode_manifest};

/// A blob to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchItem {
    /// Which.
    pub blob: BlobRef,
    /// Who keeps it.
    pub owner: PinOwner,
}

/// Fetches one blob, all of it, and pins it for `owner`; what is here already is not asked for.
///
/// # Errors
/// [`FetchError`]. What arrived stays, pinned: fetch again, or unpin the owner.
pub async fn fetch<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: JobId,
    item: FetchItem,
    store: &Arc<BlobStore>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Manifest, FetchError> {
    let mut fetched = fetch_many(stream, job, &[item], store, progress).await?;
    fetched
        .pop()
        .flatten()
        .ok_or(FetchError::NotThere(item.blob.digest))
}

/// Fetches many blobs in two rounds, whatever their number. `None` stands for a blob of which the peer
/// lacks a part. The stream may be used again afterwards.
///
/// # Errors
/// [`FetchError`]. What arrived stays, pinned.
pub async fn fetch_many<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: JobId,
    items: &[FetchItem],
    store: &Arc<BlobStore>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Option<Manifest>>, FetchError> {
    let mut manifests = fetch_manifests(stream, job, items, store).await?;
    let mut seen = HashSet::new();
    let missing: Vec<ChunkRef> = manifests
        .iter()
        .flatten()
        .flat_map(|manifest| store.missing(manifest))
        .filter(|chunk| seen.insert(*chunk))
        .collect();
    let total = missing.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    store.check_room(total)?;
    progress(Progress { done: 0, total });
    let done = AtomicU64::new(0);
    let outcome = ask(stream, job, &missing, store, &|bytes| {
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress(Progress { done, total });
    })
    .await?;
    let absent: HashSet<Digest> = outcome.absent.into_iter().collect();
    if !absent.is_empty() {
        for manifest in &mut manifests {
            let lacks = |manifest: &Manifest| {
                manifest
                    .chunks()
                    .any(|chunk| absent.contains(&chunk.digest))
            };
            if manifest.as_ref().is_some_and(lacks) {
                *manifest = None;
            }
        }
    }
    Ok(manifests)
}

/// Fetches the manifests of blobs, unless they are here, and pins everything they name. `None` stands
/// for one that the peer does not have.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch_manifests<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    job: JobId,
    items: &[FetchItem],
    store: &Arc<BlobStore>,
) -> Result<Vec<Option<Manifest>>, FetchError> {
    let mut seen = HashSet::new();
    let mut missing = Vec::new();
    for FetchItem { blob, owner } in items {
        if blob.manifest_bytes > MAX_MANIFEST_BYTES {
            return Err(FetchError::ManifestTooLarge(blob.manifest_bytes));
        }
        let object = blob.object();
        store.pin_within_share(*owner, || [object])?;
        if store.length(&blob.digest) != Some(object.bytes) && seen.insert(object) {
            missing.push(object);
        }
    }
    store.check_room(missing.iter().map(|object| u64::from(object.bytes)).sum())?;
    ask(stream, job, &missing, store, &|_| ()).await?;
    let store = Arc::clone(store);
    let items = items.to_vec();
    off_thread(move || {
        items
            .iter()
            .map(|item| pin_manifest(&store, item))
            .collect()
    })
    .await?
}

fn pin_manifest(store: &BlobStore, item: &FetchItem) -> Result<Option<Manifest>, FetchError> {
    let Some(encoded) = store.read(&item.blob.digest)? else {
        return Ok(None);
    };
    let manifest =
        decode_manifest(&item.blob, &encoded).map_err(|source| FetchError::BadManifest {
            digest: item.blob.digest,
            source,
        })?;
    store.pin_within_share(item.owner, || manifest.chunks())?;
    Ok(Some(manifest))
}
