//! The names that a network's protocols go by.
//!
//! Every id carries the network's name and a version, so that two networks on one LAN never mix and
//! a change of meaning is a new version. Made once at the start, read by every other module here.

use libp2p::gossipsub::IdentTopic;
use libp2p::kad::RecordKey;
use libp2p::{PeerId, StreamProtocol};

use super::error::NetError;

/// The longest name of a network, in bytes: names stand in every protocol id, and those are sent for
/// each stream.
pub const MAX_NETWORK_NAME_BYTES: usize = 64;

/// What a byte stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// Chunks and manifests: `blob/1`.
    Blob,
    /// What tasks write to stdout and stderr: `log/1`.
    Log,
    /// What a job's owner does inside its tasks: `tunnel/2`.
    Tunnel,
}

impl StreamKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blob, Self::Log, Self::Tunnel];

    /// Whether so much goes through such a stream that it is worth a wait for the better connection.
    pub(super) const fn is_bulk(self) -> bool {
        matches!(self, Self::Blob)
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Blob => "blob/1",
            Self::Log => "log/1",
            Self::Tunnel => "tunnel/2",
        }
    }
}

/// The protocol ids of one network.
#[derive(Debug, Clone)]
pub struct Protocols {
    /// The network's name.
    pub network: String,
    /// The distributed hash table.
    pub kad: StreamProtocol,
    /// Task messages.
    pub task: StreamProtocol,
    /// Direct exchange of capacity adverts.
    pub advert: StreamProtocol,
    /// What identify says this node speaks; peers that say something else are of another network.
    pub identify: String,
    /// Gossip of capacity adverts.
    pub topic: IdentTopic,
    /// Round trips on one connection.
    pub echo: StreamProtocol,
    /// DHT key under which nodes that offer capacity can be found.
    pub providers: RecordKey,
    /// DHT key under which nodes that relay can be found.
    pub relays: RecordKey,
    blob: StreamProtocol,
    log: StreamProtocol,
    tunnel: StreamProtocol,
}

impl Protocols {
    /// The ids of the network `name`.
    ///
    /// # Errors
    /// [`NetError::NetworkName`] when the name is empty, too long, or has other characters than
    /// `a-z`, `0-9`, `-`, `_` and `.`.
    pub fn new(name: &str) -> Result<Self, NetError> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        let refused = || NetError::NetworkName(name.chars().take(MAX_NETWORK_NAME_BYTES).collect());
        if name.is_empty() || name.len() > MAX_NETWORK_NAME_BYTES || !name.bytes().all(allowed) {
            return Err(refused());
        }
        let prefix = format!("/p2pnode/{name}");
        let id = |suffix: &str| {
            StreamProtocol::try_from_owned(format!("{prefix}/{suffix}")).map_err(|_| refused())
        };
        Ok(Self {
            network: name.to_owned(),
            kad: id("kad/1")?,
            task: id("task/1")?,
            advert: id("advert/1")?,
            echo: id("echo/1")?,
            identify: format!("{prefix}/1"),
            topic: IdentTopic::new(format!("{prefix}/capacity/1")),
            providers: RecordKey::new(&format!("{prefix}/provider")),
            relays: RecordKey::new(&format!("{prefix}/relay")),
            blob: id(StreamKind::Blob.suffix())?,
            log: id(StreamKind::Log.suffix())?,
            tunnel: id(StreamKind::Tunnel.suffix())?,
        })
    }

    /// The id of streams of this kind.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> StreamProtocol {
        match kind {
            StreamKind::Blob => self.blob.clone(),
            StreamKind::Log => self.log.clone(),
            StreamKind::Tunnel => self.tunnel.clone(),
        }
    }

    /// DHT key under which `peer`, and nobody else, says where it can be reached. Nodes behind NAT are no
    /// part of the DHT, so a search for their ids finds nothing.
    #[must_use]
    pub fn whereabouts(&self, peer: &PeerId) -> RecordKey {
        RecordKey::new(&format!("/p2pnode/{}/at/{peer}", self.network))
    }

    /// Whether `protocol` is the task protocol of this network in a version that is not ours.
    #[must_use]
    pub fn is_other_version(&self, protocol: &StreamProtocol) -> bool {
        let ours = self.task.as_ref();
        let family = &ours[..ours.len() - 1];
        protocol.as_ref().starts_with(family) && *protocol != self.task
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ids_carry_network_and_version() {
        let protocols = Protocols::new("lab-1").unwrap();
        assert_eq!(protocols.task.as_ref(), "/p2pnode/lab-1/task/1");
        assert_eq!(
            protocols.stream(StreamKind::Blob).as_ref(),
            "/p2pnode/lab-1/blob/1"
        );
        let later = StreamProtocol::new("/p2pnode/lab-1/task/2");
        assert!(protocols.is_other_version(&later));
        assert!(!protocols.is_other_version(&protocols.task));
        assert!(!protocols.is_other_version(&StreamProtocol::new("/p2pnode/other/task/2")));
    }

    #[test]
    fn strange_names_are_refused() {
        for name in ["", "a/b", "Upper", "ä", &"x".repeat(65)] {
            let error = Protocols::new(name).unwrap_err();
            assert!(matches!(error, NetError::NetworkName(_)), "{name}");
        }
        assert!(Protocols::new(&"x".repeat(64)).is_ok());
    }
}
