//! How many connections there may be, and which to let go when there are more than needed.
//!
//! Two means: behaviours that refuse connections beyond hard limits, and a policy that closes idle
//! connections when a node is connected to more peers than does it good. A walk through a large
//! network leaves hundreds of connections behind, and the node that everybody joins through would
//! fill up. Called by the actor; never closes a connection that is in use.

use std::time::{Duration, Instant};

use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, connection_limits, memory_connection_limits};

use super::config::NetLimits;
use super::peers::PeerTable;

/// How many handshakes may be under way in each direction: half a thousand newcomers at once is a
/// whole laboratory switched on by one button.
const PENDING_CONNECTIONS: u32 = 512;

/// A connection younger than this is never let go (1 minute): it was opened for something.
const SETTLING: Duration = Duration::from_secs(60);

/// A connection that carried a request or a stream within this time is in use (10 minutes, the longest
/// life of an advert: until then the peer may still choose us).
const IN_USE: Duration = Duration::from_secs(600);

/// Hard limits on connections.
pub(super) fn connections(limits: &NetLimits) -> connection_limits::Behaviour {
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING_CONNECTIONS))
            .with_max_pending_outgoing(Some(PENDING_CONNECTIONS))
            .with_max_established_incoming(Some(limits.inbound_connections))
            .with_max_established_outgoing(Some(limits.outbound_connections))
            .with_max_established_per_peer(Some(limits.connections_per_peer)),
    )
}

/// The limit on memory.
pub(super) fn memory(limits: &NetLimits) -> Toggle<memory_connection_limits::Behaviour> {
    limits
        .process_memory
        .map(memory_connection_limits::Behaviour::with_max_bytes)
        .into()
}

/// The peers to let go: none below the crowd's size, otherwise so many of the idle ones that a
/// comfortable number remains, those first that were idle longest. `keep` says who is needed for
/// something that the table does not know of.
pub(super) fn surplus(
    peers: &PeerTable,
    limits: &NetLimits,
    now: Instant,
    keep: impl Fn(&PeerId) -> bool,
) -> Vec<PeerId> {
    let connected = peers.connected_count();
    if connected <= limits.crowd {
        return Vec::new();
    }
    let mut idle: Vec<(Instant, PeerId)> = peers
        .connected()
        .filter(|(peer, entry)| {
            let settled = entry
                .connected_since()
                .is_some_and(|since| now.saturating_duration_since(since) >= SETTLING);
            let used = entry
                .last_used
                .is_some_and(|used| now.saturating_duration_since(used) < IN_USE);
            settled && !used && !keep(peer)
        })
        .map(|(peer, entry)| {
            (
                entry.last_used.or(entry.connected_since()).unwrap_or(now),
                *peer,
            )
        })
        .collect();
    idle.sort_unstable();
    idle.truncate(connected.saturating_sub(limits.comfortable));
    idle.into_iter().map(|(_, peer)| peer).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::peer::Link;
    use super::*;
    use libp2p::swarm::ConnectionId;

    fn table(count: usize, since: Instant) -> (PeerTable, Vec<PeerId>) {
        let mut peers = PeerTable::default();
        let ids: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        for (index, peer) in ids.iter().enumerate() {
            let link = Link {
                id: ConnectionId::new_unchecked(index),
                remote: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
                dialled: true,
                relayed: false,
                circuit: None,
                since,
                rtt: None,
            };
            peers.connected_now(*peer, link);
        }
        (peers, ids)
    }

    #[test]
    fn a_crowd_shrinks_to_a_comfortable_number_of_peers() {
        let limits = NetLimits {
            crowd: 10,
            comfortable: 5,
            ..NetLimits::default()
        };
        let start = Instant::now();
        let later = start + SETTLING;
        let (peers, _) = table(10, start);
        assert!(surplus(&peers, &limits, later, |_| false).is_empty());

        let (mut peers, ids) = table(12, start);
        assert!(
            surplus(&peers, &limits, start, |_| false).is_empty(),
            "too young"
        );
        peers.used(&ids[0], later);
        let gone = surplus(&peers, &limits, later, |peer| *peer == ids[1]);
        assert_eq!(gone.len(), 7);
        assert!(!gone.contains(&ids[0]), "in use");
        assert!(!gone.contains(&ids[1]), "needed");
    }
}
