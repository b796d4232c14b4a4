//! What this node knows about other nodes: addresses, connections, round trips.
//!
//! Owned by the actor, filled by the protocol handlers, read by the API and by the driver (which
//! stores the addresses for the next start). Bounded: peers that are not connected are forgotten,
//! those first that nobody vouches for but themselves and the DHT, and of these the ones seen longest ago. It
//! never dials.

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
            .min_by_key(|(_, entry)| (entry.trust(), entry.last_seen_ms))
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
mod tests;
