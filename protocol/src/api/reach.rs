//! How nodes reach one another: this node's own reachability, and its ways to a peer.

use serde::{Deserialize, Serialize};

use super::peers::PeerInfo;

/// Whether and how others can reach a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReachState {
    /// Nobody has said yet; on a LAN nobody ever does.
    #[default]
    Unknown,
    /// The whole Internet can.
    Public,
    /// Behind NAT; peers come through relays and punch holes from there.
    Relayed,
    /// Behind NAT, and no relay has a place for it.
    Hidden,
}

/// A node's reachability. Part of `GET /api/v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReachStatus {
    /// In one word.
    pub state: ReachState,
    /// Peers at which it has a place, through which others reach it.
    pub relays: Vec<String>,
    /// How much it relays for others once it is public: `on`, `limit` or `off`.
    pub relay: String,
    /// Whether it does so at the moment.
    pub relaying: bool,
    /// Nodes that have a place here.
    pub clients: u32,
    /// Connections between others that go through here.
    pub circuits: u32,
    /// What is wrong, with its mend.
    pub problem: Option<String>,
}

/// One round trip to a peer. Answers `POST /api/v1/peers/{peer}/ping`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerEcho {
    /// The peer.
    pub peer: String,
    /// The round trip, in milliseconds; absent when nothing came back within 6 s.
    pub rtt_ms: Option<f64>,
    /// Whether it went through a relay.
    pub relayed: bool,
}

/// Where the DHT says that a peer is. Answers `GET /api/v1/peers/{peer}/find`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerWhereabouts {
    /// The peer.
    pub peer: String,
    /// Addresses that the DHT told just now.
    pub found: Vec<String>,
    /// Addresses that were known here before.
    pub known: Vec<String>,
    /// Whether a connection is open.
    pub connected: bool,
}

/// The open connections to a peer. Answers `GET /api/v1/peers/{peer}/path`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerPath {
    /// The peer.
    pub peer: String,
    /// Each connection; none when it is not connected.
    pub links: Vec<PeerLink>,
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerLink {
    /// The network that it belongs to.
    #[serde(default)]
    pub network: String,
    /// The other end's address, or that of the relay's circuit.
    pub address: String,
    /// `tcp`, `quic`, or what else carries it; of a relayed one, what carries it to the relay.
    pub transport: String,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// The relay, where it is known.
    pub relay: Option<String>,
    /// Whether this node opened it.
    pub outbound: bool,
    /// How long it has stood, in milliseconds.
    pub age_ms: u64,
    /// The last measured round trip, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes of inputs, outputs and logs sent on it.
    pub sent: u64,
    /// Bytes of inputs, outputs and logs received on it.
    pub received: u64,
    /// Whether new data would go this way.
    pub chosen: bool,
}

/// Who offers capacity, found through the DHT just now. Answers `POST /api/v1/find`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FoundOffers {
    /// Those that offer at least what was asked for, whether or not it is free.
    pub peers: Vec<PeerInfo>,
}

/// What is looked for. Body of `POST /api/v1/find`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FindOffers {
    /// CPUs, in thousandths.
    #[serde(default)]
    pub cpus_milli: u32,
    /// GPUs.
    #[serde(default)]
    pub gpus: u32,
}
