//! What people are told of a node's reachability.

use libp2p::{Multiaddr, PeerId};

/// Whether and how others can reach this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReachState {
    /// Nobody has said yet; on a LAN nobody ever does.
    #[default]
    Unknown,
    /// The whole Internet can.
    Public,
    /// Behind NAT; peers come through relays and punch holes from there.
    Relayed,
    /// Behind NAT, and no relay has a place for this node.
    Hidden,
}

/// What a node knows of its own reachability, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reachability {
    /// In one word.
    pub state: ReachState,
    /// The relays at which this node has a place.
    pub relays: Vec<PeerId>,
    /// Whether this node relays for others at the moment.
    pub relaying: bool,
    /// Nodes that have a place here.
    pub clients: u32,
    /// Connections between others that go through here.
    pub circuits: u32,
    /// What is wrong, with its mend.
    pub trouble: Option<String>,
    /// The bootstrap nodes, each with why it was not reached when that was last tried.
    pub bootstrap: Vec<(Multiaddr, Option<String>)>,
}
