//! What this node knows about one other node.
//!
//! Kept in the table of [`super::peers`]. The addresses of a peer are bounded, and each says whether
//! it ever worked.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::addresses::{self, Scope};

/// The most addresses of one peer: TCP and QUIC, IPv4 and IPv6, on three networks and a relay.
pub(super) const MAX_ADDRESSES: usize = 16;

/// An address that could not be dialled this often in a row is forgotten.
pub(super) const MAX_FAILURES: u8 = 3;

/// But not before it has failed for so long (30 minutes, a long reboot) when it is known to have
/// worked: networks come back.
pub(super) const PATIENCE: Duration = Duration::from_secs(1_800);

/// How often in a minute a peer may say who it is (30): once on each of its connections, and whenever its
/// addresses change. Each time costs a look at all of them.
const MAX_INTRODUCTIONS: u32 = 30;

/// A minute, for that.
const INTRODUCTIONS_PER: Duration = Duration::from_secs(60);

/// A peer as the node knows it.
#[derive(Debug, Clone)]
pub struct PeerSnapshot {
    /// Who.
    pub peer: PeerId,
    /// Addresses it can be dialled at, those that worked first.
    pub addresses: Vec<Multiaddr>,
    /// Whether a connection is open.
    pub connected: bool,
    /// Whether all open connections go through relays.
    pub relayed: bool,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Name and version of its program, as it says.
    pub agent: String,
    /// When it was last connected, in milliseconds since the Unix epoch.
    pub last_seen_ms: u64,
}

/// An open connection, as the node knows it.
#[derive(Debug, Clone)]
pub struct LinkSnapshot {
    /// The other end's address, or that of the relay's circuit.
    pub remote: Multiaddr,
    /// The relay that it goes through, unless it is direct.
    pub relay: Option<PeerId>,
    /// Whether it goes through a relay, known or not.
    pub relayed: bool,
    /// Whether this node opened it.
    pub dialled: bool,
    /// How long it has stood.
    pub age: Duration,
    /// The last measured round trip on it.
    pub rtt: Option<Duration>,
    /// Bytes of data streams sent on it. Messages about tasks are not counted here.
    pub sent: u64,
    /// Bytes of data streams received on it.
    pub received: u64,
    /// Whether a new data stream would go this way.
    pub chosen: bool,
}

/// An open connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub id: ConnectionId,
    /// The other end's address; dialled ones are addresses it listens on.
    pub remote: Multiaddr,
    pub dialled: bool,
    /// Goes through a relay. The address of an incoming circuit does not say so.
    pub relayed: bool,
    /// The relay's address, of an incoming circuit.
    pub circuit: Option<Multiaddr>,
    pub since: Instant,
    pub rtt: Option<Duration>,
}

impl Link {
    pub(super) const fn is_relayed(&self) -> bool {
        self.relayed
    }

    /// The relay that it goes through.
    pub(super) fn relay(&self) -> Option<PeerId> {
        let circuit = self.circuit.as_ref().unwrap_or(&self.remote);
        self.relayed.then(|| addresses::relay_of(circuit)).flatten()
    }
}

/// How much is known of an address; what stands later is worth more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trust {
    /// Somebody named it.
    Named,
    /// It was of use in an earlier life.
    Remembered,
    /// A dial to it succeeded.
    Proven,
}

#[derive(Debug, Clone)]
struct Known {
    address: Multiaddr,
    trust: Trust,
    /// Failed dials in a row, and when the first was.
    failures: u8,
    failing: Option<Instant>,
}

impl Known {
    fn is_dead(&self, now: Instant) -> bool {
        let patience = match self.trust {
            Trust::Named => Duration::ZERO,
            Trust::Remembered | Trust::Proven => PATIENCE,
        };
        let long = |since| now.saturating_duration_since(since) >= patience;
        self.failures >= MAX_FAILURES && self.failing.is_some_and(long)
    }
}

/// Everything about one peer.
#[derive(Debug, Default)]
pub(super) struct Entry {
    known: Vec<Known>,
    pub links: Vec<Link>,
    pub rtt: Option<Duration>,
    pub agent: String,
    pub last_seen_ms: u64,
    /// When a request or a stream of ours or theirs was last carried.
    pub last_used: Option<Instant>,
    /// How often it was dialled since it was last connected, as one of those remembered.
    pub redials: u32,
    /// Since when it is counted how often the peer said who it is, and how often.
    introduced: Option<(Instant, u32)>,
}

impl Entry {
    /// The peer says who it is. Whether that is looked at.
    pub(super) fn introduces(&mut self, now: Instant) -> bool {
        let over = |since| now.saturating_duration_since(since) >= INTRODUCTIONS_PER;
        let counted = self.introduced.filter(|(since, _)| !over(*since));
        let (since, count) = counted.unwrap_or((now, 0));
        self.introduced = Some((since, count.saturating_add(1)));
        count < MAX_INTRODUCTIONS
    }

    /// Since when it has been connected.
    pub(super) fn connected_since(&self) -> Option<Instant> {
        self.links.iter().map(|link| link.since).min()
    }

    /// The scope in which the peer was seen: that of its nearest direct connection.
    pub(super) fn seen(&self) -> Option<Scope> {
        self.links
            .iter()
            .filter_map(|link| match link.relayed {
                true => Some(Scope::Relayed),
                false => addresses::scope(&link.remote),
            })
            .min()
    }

    /// The nearest scope of the relays through which the peer is connected.
    pub(super) fn seen_through(&self) -> Option<Scope> {
        let relayed = self.links.iter().filter(|link| link.relayed);
        relayed
            .filter_map(|link| {
                addresses::relay_scope(link.circuit.as_ref().unwrap_or(&link.remote))
            })
            .min()
    }

    /// Where a TCP connection to the peer is likely to come about: where one that was dialled stands, or at
    /// an address that it names, on a machine with which a direct connection stands.
    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        let direct = || self.links.iter().filter(|link| !link.relayed);
        let mut dialled = direct().filter(|link| link.dialled);
        let stands = dialled.find_map(|link| addresses::tcp(&link.remote));
        let met: Vec<IpAddr> = direct()
            .filter_map(|link| addresses::ip(&link.remote))
            .collect();
        let known = self.known.iter().filter(|known| known.failures == 0);
        let mut named = known.filter_map(|known| addresses::tcp(&known.address));
        stands.or_else(|| named.find(|address| met.contains(&address.ip())))
    }

    pub(super) fn is_relayed(&self) -> bool {
        !self.links.is_empty() && self.links.iter().all(Link::is_relayed)
    }

    /// All addresses, proven ones first.
    pub(super) fn addresses(&self) -> Vec<Multiaddr> {
        let (proven, other): (Vec<_>, Vec<_>) = self
            .known
            .iter()
            .partition(|known| known.trust == Trust::Proven);
        proven
            .into_iter()
            .chain(other)
            .map(|known| known.address.clone())
            .collect()
    }

    pub(super) fn learn(&mut self, address: Multiaddr, trust: Trust) {
        if let Some(known) = self.known.iter_mut().find(|known| known.address == address) {
            known.trust = known.trust.max(trust);
            if trust == Trust::Proven {
                known.failures = 0;
                known.failing = None;
            }
            return;
        }
        if self.known.len() >= MAX_ADDRESSES {
            let least = (0..self.known.len()).min_by_key(|place| self.known[*place].trust);
            let Some(place) = least.filter(|place| self.known[*place].trust < Trust::Proven) else {
                return;
            };
            self.known.remove(place);
        }
        self.known.push(Known {
            address,
            trust,
            failures: 0,
            failing: None,
        });
    }

    /// Forgets places at relays that are not among `claimed`: the peer says that it has them no more.
    pub(super) fn keep_circuits(&mut self, claimed: &[Multiaddr]) {
        self.known.retain(|known| {
            !addresses::is_relayed(&known.address) || claimed.contains(&known.address)
        });
    }

    /// How much is known of its best address.
    pub(super) fn trust(&self) -> Option<Trust> {
        self.known.iter().map(|known| known.trust).max()
    }

    /// Whether there is anything to dial.
    pub(super) fn has_address(&self) -> bool {
        !self.known.is_empty()
    }

    /// A dial to `address` failed, while other peers can be reached.
    pub(super) fn failed(&mut self, address: &Multiaddr, now: Instant) {
        for known in &mut self.known {
            if known.address == *address {
                known.failures = known.failures.saturating_add(1);
                known.failing.get_or_insert(now);
            }
        }
        self.known.retain(|known| !known.is_dead(now));
    }

    /// Somebody else answers at `address`.
    pub(super) fn mistaken(&mut self, address: &Multiaddr) {
        self.known.retain(|known| known.address != *address);
    }
}
