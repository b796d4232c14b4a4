//! The node itself: its status and its runtimes.

use serde::{Deserialize, Serialize};

use super::offer::OfferStatus;
use super::reach::ReachStatus;
use crate::task::RuntimeKind;

/// Who this node is and what it does. `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeStatus {
    /// Its peer id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The networks it is in, in the order of its settings; at least one.
    pub networks: Vec<NetworkStatus>,
    /// Since when it runs.
    pub started_ms: u64,
    /// Its data directory.
    pub data_dir: String,
    /// Peers with an open connection, in whichever network.
    pub peers_connected: u32,
    /// Peers whose adverts are known.
    pub peers_known: u32,
    /// What it offers; absent when it offers nothing.
    pub offer: Option<OfferStatus>,
    /// Tasks of its own jobs that are not done.
    pub own_tasks_open: u64,
    /// Whether it finishes what it has and takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Adverts of others since the start, by how their time fitted this node's clock.
    #[serde(default)]
    pub adverts: AdvertTimes,
    /// Resident memory of the node's process, in bytes; 0 where the system does not tell.
    pub memory: u64,
}

impl NodeStatus {
    /// How it is in the network `name`; `None` when it is not in it.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&NetworkStatus> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// The addresses that it listens on, in all networks.
    pub fn listen(&self) -> impl Iterator<Item = &String> {
        self.networks.iter().flat_map(|network| &network.listen)
    }

    /// The addresses that others have seen or that are confirmed, in all networks.
    pub fn external(&self) -> impl Iterator<Item = &String> {
        self.networks.iter().flat_map(|network| &network.external)
    }

    /// The names of those of its networks that only those can be in who have the key.
    pub fn private_networks(&self) -> impl Iterator<Item = &str> {
        let private = self.networks.iter().filter(|network| network.private);
        private.map(|network| network.name.as_str())
    }
}

/// A node in one of its networks. Part of `GET /api/v1/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkStatus {
    /// The network's name.
    pub name: String,
    /// Whether only those can be in it who have its key.
    pub private: bool,
    /// Addresses it listens on, each with `/p2p/<peer>` at the end: what others join with.
    pub listen: Vec<String>,
    /// Addresses that others have seen or that are confirmed.
    pub external: Vec<String>,
    /// Whether and how others can reach it.
    pub reach: ReachStatus,
    /// Peers of this network with an open connection, and the way to each: direct ones first.
    #[serde(default)]
    pub peers: Vec<PeerWay>,
    /// Bootstrap nodes that were not reached when that was last tried. They are tried again.
    #[serde(default)]
    pub unreached: Vec<Unreached>,
}

/// A bootstrap node that is not reached. Part of `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unreached {
    /// Its address, as it was given.
    pub address: String,
    /// Why, in words.
    pub why: String,
}

/// A connected peer, and how it is reached. Part of `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerWay {
    /// Its peer id.
    pub peer: String,
    /// Whether all connections to it go through relays.
    pub relayed: bool,
}

/// Adverts of others by how their time fitted this node's clock. Many that do not fit are the sign of
/// a clock that is wrong, here or there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdvertTimes {
    /// New ones that were taken.
    pub accepted: u64,
    /// Refused: made more than 2 minutes ahead of this node's clock.
    pub future: u64,
    /// Refused: over for more than 2 minutes by this node's clock.
    pub expired: u64,
}

/// One runtime of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuntimeStatus {
    /// Which.
    pub runtime: RuntimeKind,
    /// Its version; absent when it is not there.
    pub version: Option<String>,
    /// Why it is not there.
    pub problem: Option<String>,
}
