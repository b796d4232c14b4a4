//! Counts open streams, so that there are never more than allowed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use libp2p::PeerId;

/// A number of places. Places are taken on connection tasks and given back wherever a stream is
/// dropped, hence atomics; nothing else is ordered by them.
#[derive(Debug, Default)]
struct Places(AtomicUsize);

impl Places {
    fn take(self: &Arc<Self>, limit: usize) -> Option<Place> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .ok()
            .map(|_| Place(Arc::clone(self)))
    }
}

/// One place, given back when dropped.
#[derive(Debug)]
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to have one stream open.
#[derive(Debug)]
pub(super) struct Slot {
    _of_peer: Place,
    _of_all: Option<Place>,
}

/// The streams of one peer, on all its connections.
#[derive(Debug)]
pub(super) struct PeerSlots {
    inbound: Arc<Places>,
    outbound: Arc<Places>,
    all_inbound: Arc<Places>,
    limits: SlotLimits,
}

impl PeerSlots {
    /// A slot for a stream that the peer opens.
    pub(super) fn inbound(&self) -> Option<Slot> {
        Some(Slot {
            _of_peer: self.inbound.take(self.limits.per_peer)?,
            _of_all: Some(self.all_inbound.take(self.limits.all)?),
        })
    }

    /// A slot for a stream that we open.
    pub(super) fn outbound(&self) -> Option<Slot> {
        Some(Slot {
            _of_peer: self.outbound.take(self.limits.per_peer)?,
            _of_all: None,
        })
    }
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotLimits {
    /// Of one peer, in each direction.
    pub per_peer: usize,
    /// Inbound ones of all peers.
    pub all: usize,
}

/// The slots of all peers.
#[derive(Debug)]
pub(super) struct Slots {
    limits: SlotLimits,
    all_inbound: Arc<Places>,
    peers: HashMap<PeerId, Weak<PeerSlots>>,
}

impl Slots {
    pub(super) fn new(limits: SlotLimits) -> Self {
        Self {
            limits,
            all_inbound: Arc::default(),
            peers: HashMap::new(),
        }
    }

    /// Those of one peer; the same ones for as long as anybody holds them.
    pub(super) fn of(&mut self, peer: PeerId) -> Arc<PeerSlots> {
        if let Some(slots) = self.peers.get(&peer).and_then(Weak::upgrade) {
            return slots;
        }
        self.peers.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(PeerSlots {
            inbound: Arc::default(),
            outbound: Arc::default(),
            all_inbound: Arc::clone(&self.all_inbound),
            limits: self.limits,
        });
        self.peers.insert(peer, Arc::downgrade(&slots));
        slots
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_come_back_and_limits_hold() {
        let mut slots = Slots::new(SlotLimits {
            per_peer: 2,
            all: 3,
        });
        let (a, b) = (slots.of(PeerId::random()), slots.of(PeerId::random()));
        let held = [a.inbound().unwrap(), a.inbound().unwrap()];
        assert!(a.inbound().is_none(), "a has its share");
        let one = b.inbound().unwrap();
        assert!(b.inbound().is_none(), "all together are at the limit");
        assert!(b.outbound().is_some(), "the other direction is free");
        drop(held);
        assert!(b.inbound().is_some());
        drop(one);
        assert_eq!(slots.all_inbound.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_peer_that_comes_back_meets_its_old_streams() {
        let mut slots = Slots::new(SlotLimits {
            per_peer: 1,
            all: 10,
        });
        let peer = PeerId::random();
        let first = slots.of(peer);
        let held = first.inbound().unwrap();
        assert!(slots.of(peer).inbound().is_none());
        drop(held);
        drop(first);
        assert!(slots.of(peer).inbound().is_some());
        slots.of(PeerId::random());
        assert_eq!(slots.peers.len(), 1, "entries that nobody holds are gone");
    }
}
