//! What can go wrong with the network, by operation.

use std::io;

use libp2p::Multiaddr;
use p2pnode_protocol::codec::CodecError;

/// The network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Not a name that can stand in a protocol id.
    #[error("`{0}` is not a network name: use 1 to 64 of a-z, 0-9, `-`, `_` and `.`")]
    NetworkName(String),
    /// Another program listens there.
    #[error(
        "cannot listen on {address}: the port is in use by another program; stop that program, or \
         choose another address with --listen"
    )]
    PortInUse {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system said.
        source: io::Error,
    },
    /// No transport serves such an address.
    #[error(
        "cannot listen on {0}: write it like /ip4/0.0.0.0/tcp/4001 or \
         /ip4/0.0.0.0/udp/4001/quic-v1 (a private network speaks TCP only)"
    )]
    ListenUnsupported(Multiaddr),
    /// The listener did not come up in time.
    #[error("listening on {0} did not begin within {seconds} s", seconds = super::listen::LISTEN_TIMEOUT.as_secs())]
    ListenTimeout(Multiaddr),
    /// None of the addresses can be listened on.
    #[error("none of the listen addresses works; give one with --listen")]
    NoListener,
    /// The encryption keys could not be made from the identity.
    #[error("the node's key cannot be used for encryption")]
    Noise(#[from] libp2p::noise::Error),
    /// The system's DNS configuration could not be read.
    #[error("the DNS configuration of this machine cannot be read")]
    Dns(#[source] io::Error),
    /// Gossip could not be configured.
    #[error("gossip: {0}")]
    GossipConfig(#[from] libp2p::gossipsub::ConfigBuilderError),
    /// Gossip could not be set up.
    #[error("gossip: {0}")]
    Gossip(String),
}

/// Why a call had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer could not be reached, or the connection closed.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// No answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The peer does not speak the protocol, or broke it.
    #[error("the peer does not speak this version of the task protocol, or broke it")]
    Protocol,
    /// Too many calls to this peer are under way.
    #[error("too many requests to this peer are under way")]
    TooMany,
    /// The message is larger than the protocol allows.
    #[error("the message is too large to be sent")]
    TooLarge,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Stopped,
}

impl From<CodecError> for CallError {
    fn from(_: CodecError) -> Self {
        Self::TooLarge
    }
}

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer could not be reached, or the connection closed.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// The peer has too many streams already, or is too busy to look at one more.
    #[error("the peer takes no more streams at the moment")]
    Refused,
    /// The peer does not speak this protocol.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// No answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// Too many streams to this peer are open here.
    #[error("too many streams to this peer are open")]
    TooMany,
    /// The network has been shut down.
    #[error("the network is shut down")]
    Stopped,
}
