//! In which networks a peer is.
//!
//! Written by [`super::NetworkEvents`] as it hands events out, so it never runs ahead of what the node
//! has been told; read by [`super::Networks`] to find the way to a peer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::PeerId;
use tokio::sync::Notify;

/// Peers that are known and not connected, at most: as many as have adverts that the node remembers.
const MAX_HEARD: usize = 4_096;

/// Networks as bits, the first of the settings the lowest.
type Places = u32;

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// In which it is connected.
    connected: Places,
    /// From which an advert of it came, or in which it was connected once.
    heard: Places,
}

#[derive(Debug, Default)]
pub(super) struct Presence {
    peers: Mutex<HashMap<PeerId, Seen>>,
    changed: Notify,
}

impl Presence {
    /// The table. A panic while it is locked would leave it as consistent as any other moment.
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Seen>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An advert came, or the peer is remembered.
    pub(super) fn heard(&self, peer: PeerId, place: usize) {
        let mut peers = self.lock();
        peers.entry(peer).or_default().heard |= 1 << place;
        forget(&mut peers, &peer);
    }

    /// It is connected in this network; whether it was in none before.
    pub(super) fn connect(&self, peer: PeerId, place: usize) -> bool {
        let mut peers = self.lock();
        let seen = peers.entry(peer).or_default();
        let was_away = seen.connected == 0;
        seen.connected |= 1 << place;
        seen.heard |= 1 << place;
        drop(peers);
        self.changed.notify_waiters();
        was_away
    }

    /// It is no longer connected in this network; whether it still is in another.
    pub(super) fn disconnect(&self, peer: PeerId, place: usize) -> bool {
        let mut peers = self.lock();
        let seen = peers.entry(peer).or_default();
        seen.connected &= !(1 << place);
        let stays = seen.connected != 0;
        forget(&mut peers, &peer);
        stays
    }

    /// Where it is connected; where it is known when it is connected nowhere; nothing when it is unknown.
    pub(super) fn places(&self, peer: &PeerId) -> Vec<usize> {
        let seen = self.lock().get(peer).copied().unwrap_or_default();
        match seen.connected {
            0 => each(seen.heard).collect(),
            connected => each(connected).collect(),
        }
    }

    pub(super) fn first_connected(&self, peer: &PeerId) -> Option<usize> {
        let seen = self.lock().get(peer).copied()?;
        each(seen.connected).next()
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.first_connected(peer).is_some()
    }

    /// Waits until it is connected in some network.
    pub(super) async fn connected(&self, peer: PeerId) {
        loop {
            let changed = self.changed.notified();
            if self.is_connected(&peer) {
                return;
            }
            changed.await;
        }
    }
}

fn each(places: Places) -> impl Iterator<Item = usize> {
    (0..Places::BITS as usize).filter(move |place| places >> place & 1 == 1)
}

/// Keeps the table within its bound: one that is connected nowhere goes, and is known again by its next
/// advert.
fn forget(peers: &mut HashMap<PeerId, Seen>, newest: &PeerId) {
    if peers.len() <= MAX_HEARD {
        return;
    }
    let mut away = peers.iter().filter(|(_, seen)| seen.connected == 0);
    if let Some((peer, _)) = away.find(|(peer, _)| *peer != newest) {
        let peer = *peer;
        peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_where_it_is_connected_else_where_it_is_known() {
        let presence = Presence::default();
        let peer = PeerId::random();
        assert!(presence.places(&peer).is_empty());
        presence.heard(peer, 2);
        presence.heard(peer, 0);
        assert_eq!(presence.places(&peer), [0, 2]);
        assert!(presence.connect(peer, 2));
        assert!(!presence.connect(peer, 1));
        assert_eq!(presence.places(&peer), [1, 2]);
        assert_eq!(presence.first_connected(&peer), Some(1));
        assert!(presence.disconnect(peer, 1));
        assert!(!presence.disconnect(peer, 2));
        assert_eq!(presence.places(&peer), [0, 1, 2]);
        assert!(!presence.is_connected(&peer));
    }

    #[test]
    fn only_connected_peers_are_kept_without_a_bound() {
        let presence = Presence::default();
        let connected: Vec<PeerId> = (0..64).map(|_| PeerId::random()).collect();
        for peer in &connected {
            presence.connect(*peer, 0);
        }
        for _ in 0..MAX_HEARD + 100 {
            presence.heard(PeerId::random(), 1);
        }
        assert_eq!(presence.lock().len(), MAX_HEARD);
        assert!(connected.iter().all(|peer| presence.is_connected(peer)));
    }
}
