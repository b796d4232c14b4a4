//! What the owner asks about ways to peers, answered by the network alone: the core knows nothing of them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{
    ErrorCode, NetworkStatus, PeerEcho, PeerInfo, PeerLink, PeerPath, PeerWay, PeerWhereabouts,
    ReachState, ReachStatus, Unreached,
};

use super::owner::give;
use crate::command::{CommandError, ReachCommand};
use crate::net::{self, LinkSnapshot, PeerSnapshot, Reachability, RelayPolicy};
use crate::networks::{Member, Networks};

/// How long a peer may take to be connected to (20 s): a search in the DHT, a dial, and one through a relay
/// after it.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Time between two looks whether it is connected.
const LOOK: Duration = Duration::from_millis(50);

/// Does what the owner asks, on a task of its own.
pub(super) fn on_command(command: ReachCommand, net: &Networks) {
    let net = net.clone();
    tokio::spawn(async move {
        match command {
            ReachCommand::Ping { peer, answer } => give(answer, ping(&net, peer).await),
            ReachCommand::Find { peer, answer } => give(answer, Ok(find(&net, peer).await)),
            ReachCommand::Path { peer, answer } => give(answer, path(&net, peer).await),
            ReachCommand::FindProviders { answer } => {
                net.find_providers().await;
                give(answer, Ok(()));
            }
        }
    });
}

/// Connects to `peer` unless there is a connection; returns the connections.
async fn connected(
    net: &Networks,
    peer: PeerId,
) -> Result<Vec<(&str, LinkSnapshot)>, CommandError> {
    if peer == net.local_peer_id() {
        return Err(CommandError::new(
            ErrorCode::Invalid,
            "this is the node itself: name another peer, as `p2pnode peers` lists them",
        ));
    }
    let began = Instant::now();
    loop {
        let links = net.links(peer).await;
        if !links.is_empty() {
            return Ok(links);
        }
        if began.elapsed() > CONNECT_LIMIT {
            return Err(CommandError::new(
                ErrorCode::NoPeer,
                no_way(peer, &net.troubles(peer).await),
            ));
        }
        net.connect(peer).await;
        tokio::time::sleep(LOOK).await;
    }
}

/// Says that a peer is not reached: why, as far as the network knows, and how to find out more.
fn no_way(peer: PeerId, troubles: &[String]) -> String {
    let why = match troubles {
        [] => "it may be off, or behind NAT without a relay".to_owned(),
        troubles => troubles.join("; "),
    };
    format!(
        "there is no way to {peer}: {why}; `p2pnode find {peer}` says what the DHT knows, and `p2pnode status` there how it can be reached"
    )
}

async fn ping(net: &Networks, peer: PeerId) -> Result<PeerEcho, CommandError> {
    connected(net, peer).await?;
    let echoed = net.ping(peer).await;
    Ok(PeerEcho {
        peer: peer.to_string(),
        rtt_ms: echoed.and_then(|echoed| echoed.rtt).map(milliseconds),
        relayed: echoed.is_some_and(|echoed| echoed.relayed),
    })
}

async fn find(net: &Networks, peer: PeerId) -> PeerWhereabouts {
    let all = net.peers().await.into_iter().map(|(_, seen)| seen);
    let known: Vec<_> = all.filter(|seen| seen.peer == peer).collect();
    let texts = |addresses: Vec<Multiaddr>| -> Vec<String> {
        let texts = addresses.iter().map(ToString::to_string);
        texts.collect()
    };
    let found = net.find(peer).await;
    PeerWhereabouts {
        peer: peer.to_string(),
        found: texts(found),
        connected: known.iter().any(|seen| seen.connected),
        known: texts(known.into_iter().flat_map(|seen| seen.addresses).collect()),
    }
}

async fn path(net: &Networks, peer: PeerId) -> Result<PeerPath, CommandError> {
    let links = connected(net, peer).await?;
    Ok(PeerPath {
        peer: peer.to_string(),
        links: links.into_iter().map(link).collect(),
    })
}

fn link((network, link): (&str, LinkSnapshot)) -> PeerLink {
    PeerLink {
        network: network.to_owned(),
        transport: transport(&link.remote).to_owned(),
        address: link.remote.to_string(),
        relayed: link.relayed,
        relay: link.relay.map(|relay| relay.to_string()),
        outbound: link.dialled,
        age_ms: link.age.as_millis() as u64,
        rtt_ms: link.rtt.map(milliseconds),
        sent: link.sent,
        received: link.received,
        chosen: link.chosen,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// What carries a connection, up to the relay where there is one.
fn transport(address: &Multiaddr) -> &'static str {
    let mut found = "unknown";
    for part in address {
        match part {
            Protocol::Tcp(_) => found = "tcp",
            Protocol::Quic | Protocol::QuicV1 => found = "quic",
            Protocol::Memory(_) => found = "memory",
            Protocol::P2pCircuit => return found,
            _ => {}
        }
    }
    found
}

/// An address that ends with the peer id that `end` is, as others join with it.
fn with_end(address: &Multiaddr, end: &Protocol<'_>) -> String {
    let mut address = address.clone();
    if address.iter().last().as_ref() != Some(end) {
        address.push(end.clone());
    }
    address.to_string()
}

/// How this node is in its networks.
pub(super) async fn network_status(members: &[Member], relay: RelayPolicy) -> Vec<NetworkStatus> {
    let asked = members.iter().map(|member| member.net().reachability());
    let reach = join_all(asked).await;
    let mut all = Vec::new();
    for (member, of_network) in members.iter().zip(&reach) {
        let unreached = unreached(of_network, &reach);
        let reach = reach_status(of_network.clone(), relay);
        all.push(in_network(member, reach, unreached).await);
    }
    all
}

/// Bootstrap nodes that one network does not reach, and no other either: each network tries those that
/// the owner names, whichever they belong to.
fn unreached(of_network: &Reachability, all: &[Reachability]) -> Vec<Unreached> {
    let elsewhere = |address: &Multiaddr| {
        let known = all.iter().flat_map(|network| &network.bootstrap);
        known
            .filter(|(which, _)| which == address)
            .any(|(_, why)| why.is_none())
    };
    let troubled = of_network.bootstrap.iter().filter_map(|(address, why)| {
        let why = why.clone()?;
        (!elsewhere(address)).then(|| Unreached {
            address: address.to_string(),
            why,
        })
    });
    troubled.collect()
}

/// How it is in one of them.
async fn in_network(
    member: &Member,
    reach: ReachStatus,
    unreached: Vec<Unreached>,
) -> NetworkStatus {
    let net = member.net();
    let own_end = Protocol::P2p(net.local_peer_id());
    let (listen, external) = (net.listen_addresses(), net.external_addresses());
    let connected = net.peers().await.into_iter().filter(|peer| peer.connected);
    let mut ways: Vec<PeerWay> = connected
        .map(|peer| PeerWay {
            peer: peer.peer.to_string(),
            relayed: peer.relayed,
        })
        .collect();
    ways.sort_by(|a, b| (a.relayed, &a.peer).cmp(&(b.relayed, &b.peer)));
    NetworkStatus {
        name: member.name().to_owned(),
        private: member.is_private(),
        listen: listen
            .iter()
            .map(|address| with_end(address, &own_end))
            .collect(),
        external: external.iter().map(ToString::to_string).collect(),
        reach,
        peers: ways,
        unreached,
    }
}

/// Adds to what is shown of a peer how one more network sees it.
pub(super) fn add_seen(info: &mut PeerInfo, network: &str, seen: &PeerSnapshot) {
    if info.networks.is_empty() {
        // The networks know it better than who heard it from them.
        info.connected = false;
    }
    info.networks.push(network.to_owned());
    let addresses = seen.addresses.iter().map(ToString::to_string);
    info.addresses.extend(addresses);
    info.last_seen_ms = info.last_seen_ms.max(seen.last_seen_ms);
    if seen.connected {
        info.relayed = seen.relayed && (info.relayed || !info.connected);
        info.connected = true;
        let rtt_ms = seen.rtt.map(milliseconds);
        info.rtt_ms = [info.rtt_ms, rtt_ms].into_iter().flatten().reduce(f64::min);
    }
}

/// A node's reachability as the API shows it.
fn reach_status(reach: Reachability, relay: RelayPolicy) -> ReachStatus {
    ReachStatus {
        state: match reach.state {
            net::ReachState::Unknown => ReachState::Unknown,
            net::ReachState::Public => ReachState::Public,
            net::ReachState::Relayed => ReachState::Relayed,
            net::ReachState::Hidden => ReachState::Hidden,
        },
        relays: reach.relays.iter().map(ToString::to_string).collect(),
        relay: relay.name().to_owned(),
        relaying: reach.relaying,
        clients: reach.clients,
        circuits: reach.circuits,
        problem: reach.trouble,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_bootstrap_node_of_one_network_is_missed_in_none() {
        let address = |port: u16| -> Multiaddr { format!("/memory/{port}").parse().unwrap() };
        let network = |troubles: [Option<&str>; 2]| Reachability {
            bootstrap: (1..)
                .zip(troubles)
                .map(|(port, why)| (address(port), why.map(str::to_owned)))
                .collect(),
            ..Reachability::default()
        };
        let all = [
            network([Some("another key"), Some("nobody listens")]),
            network([None, Some("nobody listens")]),
        ];
        let expected = Unreached {
            address: address(2).to_string(),
            why: "nobody listens".to_owned(),
        };
        for of_network in &all {
            assert_eq!(unreached(of_network, &all), std::slice::from_ref(&expected));
        }
    }

    #[test]
    fn what_carries_a_connection_is_read_off_its_address() {
        let relay = PeerId::random();
        for (address, expected) in [
            ("/ip4/8.8.8.8/tcp/1".to_owned(), "tcp"),
            ("/ip4/8.8.8.8/udp/1/quic-v1".to_owned(), "quic"),
            (
                format!("/ip4/8.8.8.8/udp/1/quic-v1/p2p/{relay}/p2p-circuit"),
                "quic",
            ),
            ("/memory/7".to_owned(), "memory"),
            (format!("/p2p/{relay}"), "unknown"),
        ] {
            assert_eq!(transport(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
