//! Places for transfers: so many at a time, and of one peer so many, so that a slow one leaves room for
//! others. Used by [`super::fetching`].
//!
//! Several slow peers together could still hold all places for hours. So as long as somebody waits who has
//! had no place yet, a transfer that hardly moves makes way: the chunks that arrived stay, and it stands in line
//! again, behind those who waited, without driving anybody out itself.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use p2pnode_protocol::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Blobs that are fetched at the same time; more streams on one connection do not help.
const MAX_FETCHES: usize = 32;

/// Of these, from one peer, so that a slow one leaves room for others.
const MAX_FETCHES_OF_PEER: usize = 8;

/// How long a transfer has its place whoever waits (30 s): as long as one that stands still is waited for.
const TURN: Duration = Duration::from_secs(30);

/// What must arrive in each [`TURN`] while others wait, in bytes: 512 KiB, 16 KiB/s. The slowest lines in
/// use bring it, and it is eight times what keeps a place that nobody else wants.
const LEAST: u64 = 512 << 10;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Slots {
    peers: Arc<Mutex<HashMap<PeerId, Arc<Semaphore>>>>,
    all: Arc<Semaphore>,
    /// Who waits for a place that is not their peer's to give, and has had none yet.
    newcomers: Arc<AtomicUsize>,
    /// [`TURN`].
    turn: Duration,
}

/// A place; given back when it is dropped.
pub(super) struct Slot {
    _of_peer: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            peers: Arc::default(),
            all: Arc::new(Semaphore::new(MAX_FETCHES)),
            newcomers: Arc::default(),
            turn: TURN,
        }
    }
}

impl Slots {
    /// Waits for a place for a transfer from `peer`. `newcomer` is whether it has had none yet.
    pub(super) async fn take(&self, peer: PeerId, newcomer: bool) -> Slot {
        // Never closed, so both come. The peer's own first: who waits for it holds nothing of the rest.
        let of_peer = self.of_peer(peer).acquire_owned().await.ok();
        let _waiting = newcomer.then(|| Waiting::new(&self.newcomers));
        let of_all = self.all.clone().acquire_owned().await.ok();
        Slot {
            _of_peer: of_peer,
            _of_all: of_all,
        }
    }

    /// Waits until a transfer, of which `moved` counts the bytes, is too slow to keep its place from others.
    pub(super) async fn make_way(&self, moved: &AtomicU64) {
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(self.turn).await;
            let now = moved.load(Ordering::Relaxed);
            let is_slow = now.saturating_sub(before) < LEAST;
            if is_slow && self.newcomers.load(Ordering::Relaxed) > 0 {
                return;
            }
            before = now;
        }
    }

    /// The peer's own places: the same for as long as any of them is taken or waited for, however often
    /// its connection is lost meanwhile.
    fn of_peer(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits hold their semaphore, so what nobody else has is whole.
        peers.retain(|_, places| Arc::strong_count(places) > 1);
        let fresh = || Arc::new(Semaphore::new(MAX_FETCHES_OF_PEER));
        peers.entry(peer).or_insert_with(fresh).clone()
    }
}

/// One who waits, counted until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that counts what arrives on it, in bytes.
pub(super) struct Counted<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) arrived: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<std::io::Result<usize>> {
        let read = Pin::new(&mut *self.stream).poll_read(cx, into);
        if let Poll::Ready(Ok(bytes)) = &read {
            self.arrived.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::{AsyncReadExt, FutureExt};

    use super::*;

    /// Far more than any of this takes.
    const LIMIT: Duration = Duration::from_secs(20);

    fn quick() -> Slots {
        Slots {
            turn: Duration::from_millis(20),
            ..Slots::default()
        }
    }

    #[tokio::test]
    async fn a_peer_has_no_more_places_however_often_it_comes_and_goes() {
        let slots = Slots::default();
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut held = Vec::new();
        for _ in 0..MAX_FETCHES_OF_PEER {
            held.push(slots.take(one, true).now_or_never().unwrap());
            // Whoever looks tidies up what nobody holds.
            drop(slots.take(other, true).now_or_never().unwrap());
        }
        assert!(slots.take(one, true).now_or_never().is_none());
        assert!(slots.take(other, true).now_or_never().is_some());
        held.pop();
        assert!(slots.take(one, true).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_slow_transfer_makes_way_for_a_newcomer_and_for_nobody_else() {
        let slots = quick();
        let peers: Vec<PeerId> = (0..5).map(|_| PeerId::random()).collect();
        let (slow, fast) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut held = Vec::new();
        for number in 0..MAX_FETCHES {
            held.push(slots.take(peers[number % 4], true).await);
        }
        let patient = slots.take(peers[4], false);
        let mut patient = std::pin::pin!(patient);
        assert!(patient.as_mut().now_or_never().is_none());
        let stays = tokio::time::timeout(4 * slots.turn, slots.make_way(&slow)).await;
        assert!(stays.is_err(), "who had a place drives nobody out");

        let newcomer = slots.take(peers[4], true);
        let mut newcomer = std::pin::pin!(newcomer);
        assert!(newcomer.as_mut().now_or_never().is_none());
        let moving = async {
            loop {
                fast.fetch_add(LEAST, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let going = async {
            tokio::select! {
                () = slots.make_way(&slow) => "slow",
                () = slots.make_way(&fast) => "fast",
                () = moving => "never",
            }
        };
        assert_eq!(tokio::time::timeout(LIMIT, going).await, Ok("slow"));
        held.truncate(MAX_FETCHES - 2);
        patient.await;
        newcomer.await;
        assert_eq!(slots.newcomers.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_arrives_is_counted() {
        let arrived = AtomicU64::new(0);
        let mut bytes: &[u8] = &[7; 100];
        let mut stream = Counted {
            stream: &mut bytes,
            arrived: &arrived,
        };
        let mut read = [0; 60];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(arrived.load(Ordering::Relaxed), 60);
    }
}
