//! What the owner asks about ways to peers.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{PeerEcho, PeerPath, PeerWhereabouts};

use super::Answer;

/// See the module.
pub enum ReachCommand {
    /// One round trip; the peer is dialled when it is not connected.
    Ping {
        /// To whom.
        peer: PeerId,
        /// How it went; an error when there is no way.
        answer: Answer<PeerEcho>,
    },
    /// Ask the DHT where a peer is.
    Find {
        /// Which.
        peer: PeerId,
        /// What it says.
        answer: Answer<PeerWhereabouts>,
    },
    /// The connections to a peer; it is dialled when there is none.
    Path {
        /// Which.
        peer: PeerId,
        /// They.
        answer: Answer<PeerPath>,
    },
    /// Ask the DHT who offers capacity; the adverts follow by themselves.
    FindProviders {
        /// Asked.
        answer: Answer<()>,
    },
}
