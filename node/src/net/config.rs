//! What the network is started with.

use libp2p::identity::Keypair;
use libp2p::pnet::PreSharedKey;
use libp2p::{Multiaddr, PeerId};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::metrics::NetMetrics;
use super::reach::RelayPolicy;

/// Which transports a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportKind {
    /// TCP (noise, yamux) and QUIC, with names resolved by DNS. TCP alone when there is a pre-shared
    /// key.
    #[default]
    Internet,
    /// Channels within this process: `/memory/N` addresses. For tests and for many nodes in one
    /// process.
    Memory,
}

/// Bounds on what peers may take of this node.
#[derive(Debug, Clone)]
pub struct NetLimits {
    /// The most connections that peers opened to us. 1,024: a bootstrap node of a large network is
    /// asked by every newcomer, and an idle connection costs some 50 KiB.
    pub inbound_connections: u32,
    /// The most connections that we opened.
    pub outbound_connections: u32,
    /// The most connections with one peer: TCP and QUIC, dialled from both sides, and one relayed.
    pub connections_per_peer: u32,
    /// Above this many connected peers, idle ones are let go.
    pub crowd: usize,
    /// How many connected peers remain after that.
    pub comfortable: usize,
    /// Memory of this process above which no new connection is made, in bytes; `None` for no limit.
    pub process_memory: Option<usize>,
    /// The most streams that one peer may have opened to us at a time, and we to it.
    pub streams_per_peer: usize,
    /// The most streams that all peers together may have opened to us at a time.
    pub streams: usize,
    /// The most task requests of one peer that wait for an answer from us, and of ours that wait for
    /// an answer from it.
    pub requests_per_peer: usize,
    /// The most requests that wait to be taken from [`super::NetEvents`]; more are answered *busy*.
    pub waiting_requests: usize,
    /// The most streams that wait to be taken from [`super::NetEvents`]; more are refused.
    pub waiting_streams: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            inbound_connections: 1_024,
            outbound_connections: 512,
            connections_per_peer: 6,
            crowd: 96,
            comfortable: 64,
            process_memory: Some(2 << 30),
            streams_per_peer: 256,
            streams: 4_096,
            requests_per_peer: 128,
            waiting_requests: 1_024,
            waiting_streams: 256,
        }
    }
}

/// How a node behind NAT reaches out, and what it does for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachConfig {
    /// Ask the router to forward our ports.
    pub upnp: bool,
    /// Ask peers whether they can reach us, and answer the same question.
    pub autonat: bool,
    /// How much to relay for others while the whole Internet can reach us.
    pub relay: RelayPolicy,
    /// Upgrade relayed connections to direct ones.
    pub hole_punching: bool,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self {
            upnp: true,
            autonat: true,
            relay: RelayPolicy::default(),
            hole_punching: true,
        }
    }
}

impl ReachConfig {
    /// Nothing of it: for networks that need no way through NAT, such as tests on one machine.
    #[must_use]
    pub fn none() -> Self {
        Self {
            upnp: false,
            autonat: false,
            relay: RelayPolicy::Off,
            hole_punching: false,
        }
    }
}

/// Everything that [`super::start`] needs to know.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's identity.
    pub keypair: Keypair,
    /// The network's name; see [`super::protocols::Protocols::new`] for what it may consist of.
    pub network: String,
    /// Where to listen. IPv6 wildcards are left out with a warning on machines without IPv6; anything
    /// else that does not work is an error.
    pub listen: Vec<Multiaddr>,
    /// Addresses that are known to be reachable from outside (a forwarded port).
    pub external: Vec<Multiaddr>,
    /// Addresses of nodes that are asked first, with or without `/p2p/<peer>` at the end.
    pub bootstrap: Vec<Multiaddr>,
    /// Peers remembered from an earlier run.
    pub known_peers: Vec<(PeerId, Vec<Multiaddr>)>,
    /// Whether to find peers on the LAN by multicast.
    pub mdns: bool,
    /// The key of a private network; its nodes speak TCP only.
    pub psk: Option<PreSharedKey>,
    /// Which transports to speak.
    pub transport: TransportKind,
    /// Ways through NAT.
    pub reach: ReachConfig,
    /// Bounds.
    pub limits: NetLimits,
    /// Where TCP connections go that begin with the greeting of a shortcut and are none of libp2p's. Not
    /// in a private network, where nobody is heard who has not shown that it knows the key.
    pub shortcuts: Option<mpsc::Sender<TcpStream>>,
    /// Name and version of the program, as peers see it.
    pub agent: String,
    /// Counters.
    pub metrics: NetMetrics,
}

impl NetConfig {
    /// A node of the network `network` that listens on every interface, on ports that the system
    /// chooses, and knows nobody.
    #[must_use]
    pub fn new(keypair: Keypair, network: impl Into<String>) -> Self {
        Self {
            keypair,
            network: network.into(),
            listen: default_listen(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            known_peers: Vec::new(),
            mdns: true,
            psk: None,
            transport: TransportKind::default(),
            reach: ReachConfig::default(),
            limits: NetLimits::default(),
            shortcuts: None,
            agent: concat!("p2pnode/", env!("CARGO_PKG_VERSION")).to_owned(),
            metrics: NetMetrics::default(),
        }
    }

    /// A node that speaks only within this process. It asks nobody outside of it, and has no limit on
    /// memory, which all nodes of the process share.
    #[must_use]
    pub fn in_memory(keypair: Keypair, network: impl Into<String>) -> Self {
        Self {
            listen: vec![Multiaddr::empty().with(libp2p::multiaddr::Protocol::Memory(0))],
            mdns: false,
            transport: TransportKind::Memory,
            reach: ReachConfig::none(),
            limits: NetLimits {
                process_memory: None,
                ..NetLimits::default()
            },
            ..Self::new(keypair, network)
        }
    }
}

/// Every interface, IPv4 and IPv6, TCP and QUIC, ports of the system's choice.
#[must_use]
pub fn default_listen() -> Vec<Multiaddr> {
    [
        "/ip4/0.0.0.0/tcp/0",
        "/ip4/0.0.0.0/udp/0/quic-v1",
        "/ip6/::/tcp/0",
        "/ip6/::/udp/0/quic-v1",
    ]
    .iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_addresses_are_all_there() {
        assert_eq!(default_listen().len(), 4);
    }
}
