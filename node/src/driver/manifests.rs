//! Memory for lists of files while they are decoded: a few bytes that a peer sends can take forty times as
//! many, and it may name many such lists.
//!
//! Nothing keeps a decoded list beyond the fetch or the writing that needs it, and whoever decodes takes
//! room here first. Who takes room takes it once, for the largest list that it holds at a time, and waits
//! for nothing else before giving it back; so nobody waits for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pnode_protocol::PeerId;
use p2pnode_protocol::codec;
use p2pnode_protocol::manifest::BlobRef;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Lists of one peer's, in KiB of memory (256 MiB): one of the largest, see [`codec::budget`].
const MAX_OF_PEER_KIB: u32 = 256 << 10;

/// Lists of all peers, in KiB of memory (1 GiB): four of the largest, so that it takes four peers that
/// send theirs as slowly as they can to keep a fifth waiting, as with the slots for fetching.
const MAX_KIB: u32 = 4 * MAX_OF_PEER_KIB;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct ManifestRoom {
    peers: Arc<Mutex<HashMap<PeerId, Arc<Semaphore>>>>,
    all: Arc<Semaphore>,
}

/// Room that was taken; given back when it is dropped.
pub(super) struct Taken {
    _of_peer: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for ManifestRoom {
    fn default() -> Self {
        Self {
            peers: Arc::default(),
            all: Arc::new(Semaphore::new(MAX_KIB as usize)),
        }
    }
}

impl ManifestRoom {
    /// Takes room for the largest list of `blobs`, which are of `peer`; waits until there is some.
    pub(super) async fn take(
        &self,
        peer: PeerId,
        blobs: impl IntoIterator<Item = BlobRef>,
    ) -> Taken {
        let kib = blobs.into_iter().map(|blob| kib(&blob)).max().unwrap_or(0);
        // Never closed, so both come. The peer's own first: who waits for it holds nothing of the rest.
        let of_peer = self.of_peer(peer).acquire_many_owned(kib).await;
        let of_all = self.all.clone().acquire_many_owned(kib).await;
        Taken {
            _of_peer: of_peer.ok(),
            _of_all: of_all.ok(),
        }
    }

    fn of_peer(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits hold their semaphore, so what nobody else has is whole.
        peers.retain(|_, room| Arc::strong_count(room) > 1);
        let fresh = || Arc::new(Semaphore::new(MAX_OF_PEER_KIB as usize));
        peers.entry(peer).or_insert_with(fresh).clone()
    }
}

/// What decoding a blob's list takes, in KiB.
fn kib(blob: &BlobRef) -> u32 {
    let bytes = usize::try_from(blob.manifest_bytes).unwrap_or(usize::MAX);
    let kib = codec::budget(bytes).div_ceil(1 << 10);
    u32::try_from(kib).map_or(MAX_OF_PEER_KIB, |kib| kib.min(MAX_OF_PEER_KIB))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use p2pnode_protocol::Digest;

    use super::*;

    fn blob(manifest_bytes: u64) -> BlobRef {
        BlobRef {
            digest: Digest([1; 32]),
            manifest_bytes,
            content_bytes: 0,
        }
    }

    async fn comes(room: &ManifestRoom, peer: PeerId, bytes: u64) -> Option<Taken> {
        let taking = room.take(peer, [blob(bytes), blob(1)]);
        tokio::time::timeout(Duration::from_millis(50), taking)
            .await
            .ok()
    }

    #[tokio::test]
    async fn one_peer_decodes_one_of_the_largest_lists_at_a_time_and_all_together_four() {
        let room = ManifestRoom::default();
        let [one, other] = [PeerId::random(), PeerId::random()];
        let first = comes(&room, one, 64 << 20).await;
        assert!(first.is_some());
        assert!(comes(&room, one, 64 << 20).await.is_none());
        assert!(comes(&room, one, u64::MAX).await.is_none());
        let mut others = Vec::new();
        for _ in 0..3 {
            // Ten megabytes of list are as bad.
            let taken = comes(&room, PeerId::random(), 10 << 20).await;
            others.push(taken.expect("there is room for four"));
        }
        assert!(comes(&room, other, 1 << 20).await.is_none());
        drop(first);
        assert!(comes(&room, other, 1 << 20).await.is_some());
        drop(others);
        room.of_peer(other);
        let kept = room.peers.lock().map(|peers| peers.len());
        assert_eq!(kept.ok(), Some(1), "those who have nothing are forgotten");
    }
}
