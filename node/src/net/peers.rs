//! What this node knows about other nodes: addresses, connections, round trips.
//!
//! Owned by the actor, filled by the protocol handlers, read by the API and by the driver (which
//! stores the addresses for the next start). Bounded: peers that are not connected are forgotten,
//! those seen longest ago first. It never dials.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::addresses;
use super::peer::{Entry, Link, MAX_ADDRESSES, PeerSnapshot, Trust};

/// The most peers that are remembered: 4,096 with 8 addresses each are some 3 MiB.
const MAX_PEERS: usize = 4_096;

/// The table of peers.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    entries: HashMap<PeerId, Entry>,
    connected: usize,
}

impl PeerTable {
    /// How many peers are connected.
    pub(super) fn connected_count(&self) -> usize {
        self.connected
    }

    /// The connected peers.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&PeerId, &Entry)> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.links.is_empty())
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.get(peer).is_some_and(|entry| !entry.links.is_empty())
    }

    pub(super) fn get(&self, peer: &PeerId) -> Option<&Entry> {
        self.entries.get(peer)
    }

    fn entry(&mut self, peer: PeerId) -> &mut Entry {
        if !self.entries.contains_key(&peer) && self.entries.len() >= MAX_PEERS {
            self.forget_oldest();
        }
        self.entries.entry(peer).or_default()
    }

    fn forget_oldest(&mut self) {
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.links.is_empty())
            .min_by_key(|(_, entry)| entry.last_seen_ms)
            .map(|(peer, _)| *peer);
        if let Some(peer) = oldest {
            self.entries.remove(&peer);
        }
    }

    /// A connection opened; true when it is the peer's first.
    pub(super) fn connected_now(&mut self, peer: PeerId, link: Link) -> bool {
        let entry = self.entry(peer);
        let first = entry.links.is_empty();
        entry.last_seen_ms = unix_ms();
        entry.redials = 0;
        if link.dialled
            && let Some(address) = addresses::without_peer(&link.remote, peer)
        {
            entry.learn(address, Trust::Proven);
        }
        entry.links.push(link);
        self.connected += usize::from(first);
        first
    }

    /// A connection closed; true when it was the peer's last.
    pub(super) fn disconnected_now(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else {
            return false;
        };
        let before = entry.links.len();
        entry.links.retain(|link| link.id != id);
        let last = before > 0 && entry.links.is_empty();
        if last {
            entry.last_seen_ms = unix_ms();
            entry.rtt = None;
            self.connected -= 1;
        }
        last
    }

    /// The peer says that it listens there. Keeps what can be true, and returns it.
    pub(super) fn claimed(&mut self, peer: PeerId, claimed: &[Multiaddr]) -> Vec<Multiaddr> {
        let Some(entry) = self.entries.get_mut(&peer) else {
            return Vec::new();
        };
        let Some(seen) = entry.seen() else {
            return Vec::new();
        };
        let relays = entry.seen_through();
        let believed: Vec<Multiaddr> = claimed
            .iter()
            .filter_map(|address| addresses::without_peer(address, peer))
            .filter(|address| addresses::is_believable(address, seen, relays))
            .take(MAX_ADDRESSES)
            .collect();
        entry.keep_circuits(&believed);
        for address in &believed {
            entry.learn(address.clone(), Trust::Named);
        }
        believed
    }

    /// Somebody trustworthy enough to be dialled says so: mDNS, the DHT.
    pub(super) fn hinted(&mut self, peer: PeerId, hints: impl IntoIterator<Item = Multiaddr>) {
        self.told(peer, hints, Trust::Named);
    }

    /// The peer was there in an earlier life.
    pub(super) fn remembered(&mut self, peer: PeerId, known: impl IntoIterator<Item = Multiaddr>) {
        self.told(peer, known, Trust::Remembered);
    }

    fn told(&mut self, peer: PeerId, hints: impl IntoIterator<Item = Multiaddr>, trust: Trust) {
        let entry = self.entry(peer);
        for address in hints.into_iter().take(MAX_ADDRESSES) {
            if addresses::scope(&address).is_some()
                && let Some(address) = addresses::without_peer(&address, peer)
            {
                entry.learn(address, trust);
            }
        }
    }

    /// An address could not be dialled. That says something about it only while others can be: who is
    /// alone has lost the network, and needs all that is known to come back.
    pub(super) fn failed(&mut self, peer: &PeerId, address: &Multiaddr, now: Instant) {
        if self.connected == 0 {
            return;
        }
        let Some(entry) = self.entries.get_mut(peer) else {
            return;
        };
        let Some(address) = addresses::without_peer(address, *peer) else {
            return;
        };
        entry.failed(&address, now);
    }

    /// Somebody else answers at this address.
    pub(super) fn mistaken(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(entry) = self.entries.get_mut(peer)
            && let Some(address) = addresses::without_peer(address, *peer)
        {
            entry.mistaken(&address);
        }
    }

    /// The peer says who it is. Whether that is looked at; not when it says so all the time.
    pub(super) fn introduces(&mut self, peer: &PeerId, now: Instant) -> bool {
        let entry = self.entries.get_mut(peer);
        entry.is_none_or(|entry| entry.introduces(now))
    }

    pub(super) fn identified(&mut self, peer: PeerId, agent: &str) {
        /// Agents are shown to people; what is longer is not meant for them.
        const MAX_AGENT_CHARS: usize = 80;
        if let Some(entry) = self.entries.get_mut(&peer) {
            entry.agent = agent
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_AGENT_CHARS)
                .collect();
        }
    }

    pub(super) fn measured(&mut self, peer: &PeerId, link: ConnectionId, rtt: Duration) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.rtt = Some(rtt);
            entry.last_seen_ms = unix_ms();
            let mut links = entry.links.iter_mut();
            if let Some(link) = links.find(|known| known.id == link) {
                link.rtt = Some(rtt);
            }
        }
    }

    /// A request or a stream went to or came from the peer.
    pub(super) fn used(&mut self, peer: &PeerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.last_used = Some(now);
        }
    }

    /// Every address of the peer.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.get(peer).map(Entry::addresses).unwrap_or_default()
    }

    /// The next `most` peers to be dialled because they were there once: those that are not connected,
    /// have addresses and were dialled least often, of them those seen last.
    pub(super) fn next_remembered(&mut self, most: usize) -> Vec<PeerId> {
        let mut peers: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.links.is_empty() && entry.has_address())
            .map(|(peer, entry)| (entry.redials, Reverse(entry.last_seen_ms), *peer))
            .collect();
        peers.sort_unstable();
        peers.truncate(most);
        let peers: Vec<PeerId> = peers.into_iter().map(|(_, _, peer)| peer).collect();
        for peer in &peers {
            let redials = &mut self.entry(*peer).redials;
            *redials = redials.saturating_add(1);
        }
        peers
    }

    /// All that is known, for people.
    pub(super) fn snapshot(&self) -> Vec<PeerSnapshot> {
        self.entries
            .iter()
            .map(|(peer, entry)| PeerSnapshot {
                peer: *peer,
                addresses: entry.addresses(),
                connected: !entry.links.is_empty(),
                relayed: entry.is_relayed(),
                rtt: entry.rtt,
                agent: entry.agent.clone(),
                last_seen_ms: entry.last_seen_ms,
            })
            .collect()
    }
}

/// Milliseconds since the Unix epoch; 0 before it.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::peer::{MAX_FAILURES, PATIENCE};
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn link(id: usize, remote: &str, dialled: bool) -> Link {
        Link {
            id: ConnectionId::new_unchecked(id),
            remote: address(remote),
            dialled,
            relayed: false,
            circuit: None,
            since: Instant::now(),
            rtt: None,
        }
    }

    #[test]
    fn first_and_last_connection() {
        let mut peers = PeerTable::default();
        let peer = PeerId::random();
        assert!(peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true)));
        assert!(!peers.connected_now(peer, link(2, "/ip4/127.0.0.1/tcp/2", false)));
        assert_eq!(peers.connected_count(), 1);
        assert!(!peers.disconnected_now(&peer, ConnectionId::new_unchecked(1)));
        assert!(peers.disconnected_now(&peer, ConnectionId::new_unchecked(2)));
        assert!(!peers.disconnected_now(&peer, ConnectionId::new_unchecked(2)));
        assert_eq!(peers.connected_count(), 0);
        // Only the dialled end is an address that it listens on.
        assert_eq!(peers.addresses(&peer), [address("/ip4/127.0.0.1/tcp/1")]);
    }

    #[test]
    fn claims_are_believed_as_far_as_the_connection_reaches() {
        let mut peers = PeerTable::default();
        let peer = PeerId::random();
        let claims = [
            address("/ip4/127.0.0.1/tcp/1"),
            address("/ip4/10.0.0.1/tcp/1"),
            address("/ip4/8.8.8.8/tcp/1"),
        ];
        assert!(peers.claimed(peer, &claims).is_empty(), "not connected");
        peers.connected_now(peer, link(1, "/ip4/9.9.9.9/tcp/5", false));
        assert_eq!(peers.claimed(peer, &claims), claims[2..]);
        peers.connected_now(peer, link(2, "/ip4/10.0.0.1/tcp/1", true));
        assert_eq!(peers.claimed(peer, &claims), claims[1..]);
        assert_eq!(
            peers.addresses(&peer)[0],
            claims[1],
            "the proven address comes first"
        );
    }

    #[test]
    fn dead_addresses_are_forgotten_and_claims_bounded() {
        let mut peers = PeerTable::default();
        let peer = PeerId::random();
        peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true));
        let many: Vec<_> = (1..1_000)
            .map(|port| address(&format!("/ip4/127.0.0.1/tcp/{port}")))
            .collect();
        peers.claimed(peer, &many);
        peers.hinted(peer, many.iter().rev().cloned());
        let known = peers.addresses(&peer);
        assert_eq!(known.len(), MAX_ADDRESSES);
        assert_eq!(known[0], many[0]);
        let now = Instant::now();
        for _ in 0..MAX_FAILURES {
            peers.failed(&peer, &known[1], now);
            peers.failed(&peer, &many[0], now);
        }
        assert!(!peers.addresses(&peer).contains(&known[1]));
        assert!(peers.addresses(&peer).contains(&many[0]), "it worked");
        peers.failed(&peer, &many[0], now + PATIENCE);
        assert!(!peers.addresses(&peer).contains(&many[0]));
    }

    #[test]
    fn who_is_alone_forgets_nobody() {
        let mut peers = PeerTable::default();
        let (met, remembered, named) = (PeerId::random(), PeerId::random(), PeerId::random());
        let at = address("/ip4/127.0.0.1/tcp/1");
        peers.connected_now(met, link(1, "/ip4/127.0.0.1/tcp/1", true));
        peers.disconnected_now(&met, ConnectionId::new_unchecked(1));
        peers.remembered(remembered, [at.clone()]);
        peers.hinted(named, [at.clone()]);
        let mut now = Instant::now();
        for _ in 0..100 {
            for peer in [met, remembered, named] {
                peers.failed(&peer, &at, now);
                assert_eq!(peers.addresses(&peer), std::slice::from_ref(&at));
            }
            now += PATIENCE;
        }
    }

    #[test]
    fn every_remembered_peer_has_its_turn() {
        let mut peers = PeerTable::default();
        for _ in 0..40 {
            peers.remembered(PeerId::random(), [address("/ip4/127.0.0.1/tcp/1")]);
        }
        let mut dialled = std::collections::HashSet::new();
        for _ in 0..3 {
            dialled.extend(peers.next_remembered(16));
        }
        assert_eq!(dialled.len(), 40);
    }

    #[test]
    fn who_says_all_the_time_who_it_is_is_not_heard() {
        let mut peers = PeerTable::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true));
        let heard = (0..1_000).filter(|_| peers.introduces(&peer, now)).count();
        assert_eq!(heard, 30);
        assert!(peers.introduces(&peer, now + Duration::from_secs(60)));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut peers = PeerTable::default();
        let kept = PeerId::random();
        peers.connected_now(kept, link(1, "/ip4/127.0.0.1/tcp/1", true));
        for _ in 0..MAX_PEERS + 10 {
            peers.hinted(PeerId::random(), [address("/ip4/127.0.0.1/tcp/9")]);
        }
        assert_eq!(peers.entries.len(), MAX_PEERS);
        assert!(peers.is_connected(&kept));
    }
}
