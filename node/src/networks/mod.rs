//! The networks that a node is in: a swarm for each, and one hand on all of them.
//!
//! A private network's connections are locked with its key, so no swarm can serve two networks; a node
//! that is in several runs [`crate::net`] once for each, with one identity. [`Networks`] is what the rest
//! of the node asks things of, and [`NetworkEvents`] is where it learns what happens; which network a
//! peer is spoken to in is decided here and nowhere else:
//!
//! - in the first, in the order of the settings, in which it is connected; for a stream, in the first in
//!   which that connection is direct;
//! - else in the one in which it is known, and where it is known in several or in none, in the first in
//!   which a connection comes about.
//!
//! An answer goes where its request came from.

mod events;
mod presence;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use libp2p::Multiaddr;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

pub use self::events::{AskId, NetworkEvent, NetworkEvents};
use self::presence::Presence;
use crate::net::{
    CallError, Echoed, LinkSnapshot, Misdeed, NetHandle, NetMetrics, NetStream, OpenError,
    PeerSnapshot, StreamKind,
};
use crate::net::{NetConfig, NetError, NetEvents, start};

/// How long a peer that may be in any of several networks may take to be connected in one of them (20 s,
/// what a call in one network may take).
const SEARCH: Duration = Duration::from_secs(20);

/// One of the networks.
#[derive(Debug)]
pub struct Member {
    net: NetHandle,
    private: bool,
}

impl Member {
    /// This network alone.
    #[must_use]
    pub const fn net(&self) -> &NetHandle {
        &self.net
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.net.network()
    }

    /// Whether only those can be in it who have its key.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        self.private
    }
}

/// The node's hand on all of its networks. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Networks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: PeerId,
    /// In the order of the settings; at least one.
    members: Vec<Member>,
    presence: Presence,
}

/// Starts every network; when one of them cannot start, none is left running.
///
/// `configs` is not empty, and all of them have the same identity.
///
/// # Errors
/// As [`crate::net::start`].
pub async fn start_all(configs: Vec<NetConfig>) -> Result<(Networks, NetworkEvents), NetError> {
    let mut members = Vec::new();
    let mut events = Vec::new();
    let presence = Presence::default();
    for (place, config) in configs.into_iter().enumerate() {
        for (peer, _) in &config.known_peers {
            presence.heard(*peer, place);
        }
        let private = config.psk.is_some();
        let (net, of_net) = start(config).await?;
        members.push(Member { net, private });
        events.push(of_net);
    }
    Ok(Networks::of(members, events, presence))
}

impl Networks {
    fn of(
        members: Vec<Member>,
        events: Vec<NetEvents>,
        presence: Presence,
    ) -> (Self, NetworkEvents) {
        let shared = Arc::new(Shared {
            me: members[0].net.local_peer_id(),
            members,
            presence,
        });
        let networks = Self { shared };
        (networks.clone(), NetworkEvents::new(networks, events))
    }

    /// One network that is started already.
    #[cfg(test)]
    pub(crate) fn one((net, events): (NetHandle, NetEvents)) -> (Self, NetworkEvents) {
        let member = Member {
            net,
            private: false,
        };
        Self::of(vec![member], vec![events], Presence::default())
    }

    /// This node's id.
    #[must_use]
    pub fn local_peer_id(&self) -> PeerId {
        self.shared.me
    }

    /// Each network by itself, in the order of the settings.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.shared.members
    }

    /// Counters, of all networks together.
    #[must_use]
    pub fn metrics(&self) -> &NetMetrics {
        self.shared.members[0].net.metrics()
    }

    /// The networks in which a peer is connected, known, or else may be.
    fn candidates(&self, peer: PeerId) -> Vec<&NetHandle> {
        let places = self.shared.presence.places(&peer);
        let all = self.shared.members.iter().map(Member::net);
        if places.is_empty() {
            return all.collect();
        }
        all.enumerate()
            .filter(|(place, _)| places.contains(place))
            .map(|(_, net)| net)
            .collect()
    }

    /// The network in which `peer` is to be spoken to; see the module.
    async fn way(&self, peer: PeerId) -> &NetHandle {
        let (members, presence) = (&self.shared.members, &self.shared.presence);
        let candidates = self.candidates(peer);
        if let [only] = candidates[..] {
            return only;
        }
        if !presence.is_connected(&peer) {
            join_all(candidates.iter().map(|net| net.connect(peer))).await;
            // Without an answer the first says what is wrong.
            let _late = tokio::time::timeout(SEARCH, presence.connected(peer)).await;
        }
        let connected = presence.first_connected(&peer);
        connected.map_or(candidates[0], |place| &members[place].net)
    }

    /// The network for a stream: one with a direct connection goes before one with a relayed one.
    async fn way_for_streams(&self, peer: PeerId) -> &NetHandle {
        let candidates = self.candidates(peer);
        if candidates.len() > 1 && self.shared.presence.is_connected(&peer) {
            for net in candidates {
                if net.links(peer).await.iter().any(|link| !link.relayed) {
                    return net;
                }
            }
        }
        self.way(peer).await
    }

    /// As [`NetHandle::request`].
    ///
    /// # Errors
    /// As [`NetHandle::request`].
    pub async fn request(
        &self,
        peer: PeerId,
        request: &TaskRequest,
    ) -> Result<TaskResponse, CallError> {
        self.way(peer).await.request(peer, request).await
    }

    /// As [`NetHandle::respond`], in the network that the request came from.
    ///
    /// # Errors
    /// As [`NetHandle::respond`].
    pub async fn respond(&self, id: AskId, response: &TaskResponse) -> Result<(), CallError> {
        let net = &self.shared.members[id.place].net;
        net.respond(id.id, response).await
    }

    /// As [`NetHandle::open_stream`].
    ///
    /// # Errors
    /// As [`NetHandle::open_stream`].
    pub async fn open_stream(
        &self,
        peer: PeerId,
        kind: StreamKind,
    ) -> Result<NetStream, OpenError> {
        let net = self.way_for_streams(peer).await;
        net.open_stream(peer, kind).await
    }

    /// Connects to `peer` in every network in which it may be; see [`NetHandle::connect`].
    pub async fn connect(&self, peer: PeerId) {
        join_all(self.candidates(peer).iter().map(|net| net.connect(peer))).await;
    }

    /// Whether `peer` is connected, as far as the node has been told.
    #[must_use]
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.shared.presence.is_connected(peer)
    }

    /// Waits until the node has been told that `peer` is connected. Does not dial.
    pub async fn connected(&self, peer: PeerId) {
        self.shared.presence.connected(peer).await;
    }

    /// As [`NetHandle::find_providers`], in every network.
    pub async fn find_providers(&self) {
        join_all(self.nets().map(NetHandle::find_providers)).await;
    }

    /// As [`NetHandle::ping`].
    pub async fn ping(&self, peer: PeerId) -> Option<Echoed> {
        self.way(peer).await.ping(peer).await
    }

    /// As [`NetHandle::find`], in every network.
    pub async fn find(&self, peer: PeerId) -> Vec<Multiaddr> {
        join_all(self.nets().map(|net| net.find(peer)))
            .await
            .concat()
    }

    /// The open connections to `peer`, each with its network's name. Only in the network that a new
    /// stream would take is one of them chosen.
    pub async fn links(&self, peer: PeerId) -> Vec<(&str, LinkSnapshot)> {
        let all = join_all(self.nets().map(|net| net.links(peer))).await;
        let mut links = Vec::new();
        let mut chosen = None;
        if all.iter().filter(|of_net| !of_net.is_empty()).count() > 1 {
            chosen = Some(self.way_for_streams(peer).await.network());
        }
        for (net, of_net) in self.nets().zip(all) {
            let name = net.network();
            links.extend(of_net.into_iter().map(|mut link| {
                link.chosen &= chosen.is_none_or(|chosen| chosen == name);
                (name, link)
            }));
        }
        links
    }

    /// Why `peer` could not be reached, in each network in which that was tried in vain.
    pub async fn troubles(&self, peer: PeerId) -> Vec<String> {
        let all = join_all(self.nets().map(|net| net.trouble(peer))).await;
        all.into_iter().flatten().collect()
    }

    /// As [`NetHandle::tcp_address`]. `None` for a peer that is in a private network, too: what belongs there
    /// is locked with its key on the way, and nobody has to ask which network it went by.
    pub async fn tcp_address(&self, peer: PeerId) -> Option<SocketAddr> {
        let members = &self.shared.members;
        let places = self.shared.presence.places(&peer);
        if places.iter().any(|place| members[*place].private) {
            return None;
        }
        for place in places {
            if let Some(address) = members[place].net.tcp_address(peer).await {
                return Some(address);
            }
        }
        None
    }

    /// As [`NetHandle::peers`], each with its network's name. A peer that is in several stands there once
    /// for each.
    pub async fn peers(&self) -> Vec<(&str, PeerSnapshot)> {
        let all = join_all(self.nets().map(NetHandle::peers)).await;
        let named = self.nets().zip(all);
        named
            .flat_map(|(net, peers)| peers.into_iter().map(|peer| (net.network(), peer)))
            .collect()
    }

    /// As [`NetHandle::report_misbehaviour`], in every network.
    pub async fn report_misbehaviour(&self, peer: PeerId, misdeed: Misdeed) {
        let nets = self.nets();
        join_all(nets.map(|net| net.report_misbehaviour(peer, misdeed))).await;
    }

    /// Ends every network, within half a second.
    pub async fn shutdown(&self) {
        join_all(self.nets().map(NetHandle::shutdown)).await;
    }

    fn nets(&self) -> impl Iterator<Item = &NetHandle> {
        self.shared.members.iter().map(Member::net)
    }
}
