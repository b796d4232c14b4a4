//! What a stream knows of the connection that it runs on.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tokio_util::sync::CancellationToken;

use super::super::addresses;

/// How good a connection is for bulk data, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quality {
    /// Direct, over TCP (or within the process).
    Direct,
    /// Direct, over QUIC, which moves two thirds as much.
    Quic,
    /// Through a relay, which limits it and pays for it.
    Relayed,
}

impl Quality {
    /// That of a connection whose other end is at `remote`; `local` is this end's address where a peer
    /// connected to us, which is how an incoming circuit shows.
    pub(super) fn of(remote: &Multiaddr, local: Option<&Multiaddr>) -> Self {
        if addresses::is_relayed(remote) || local.is_some_and(addresses::is_relayed) {
            Self::Relayed
        } else if addresses::is_quic(remote) {
            Self::Quic
        } else {
            Self::Direct
        }
    }
}

/// One connection, shared by all streams on it. Its counters are touched on the tasks of those who read
/// and write; nothing else is ordered by them.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) quality: Quality,
    sent: AtomicU64,
    received: AtomicU64,
    /// When it was made, and how many milliseconds after that the last bytes were moved.
    made: Instant,
    moved_ms: AtomicU64,
    /// Open streams.
    streams: AtomicUsize,
    /// Cancelled when this is a relayed connection and a direct one to the same peer stands.
    better: CancellationToken,
    /// Cancelled when it is closed.
    closed: CancellationToken,
}

impl Path {
    pub(super) fn new(quality: Quality) -> Self {
        Self {
            quality,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            made: Instant::now(),
            moved_ms: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            better: CancellationToken::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.quality == Quality::Relayed
    }

    /// Whether a stream is open on it.
    pub(super) fn is_used(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moves(bytes);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moves(bytes);
    }

    fn moves(&self, bytes: usize) {
        if bytes > 0 {
            let now_ms = self.made.elapsed().as_millis() as u64;
            self.moved_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// When a stream last moved bytes on it, in either direction; `None` when none ever did.
    pub(super) fn moved(&self) -> Option<Instant> {
        let (sent, received) = self.bytes();
        let after = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        (sent + received > 0).then(|| self.made + after)
    }

    /// Bytes sent and received.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        )
    }

    /// A direct connection stands.
    pub(super) fn is_outdone(&self) {
        self.better.cancel();
    }

    pub(super) const fn better(&self) -> &CancellationToken {
        &self.better
    }

    /// The connection is closed, whoever did that: its streams end.
    pub(super) fn end(&self) {
        self.closed.cancel();
    }

    pub(super) const fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

#[cfg(test)]
impl Path {
    /// One on which a byte was sent at this time.
    pub(super) fn moved_at(made: Instant) -> Self {
        Self {
            made,
            sent: AtomicU64::new(1),
            ..Self::new(Quality::Direct)
        }
    }
}

/// A connection, as one of its open streams holds it.
#[derive(Debug)]
pub(super) struct Way(Arc<Path>);

impl Way {
    pub(super) fn new(path: Arc<Path>) -> Self {
        path.streams.fetch_add(1, Ordering::Relaxed);
        Self(path)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Deref for Way {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}
