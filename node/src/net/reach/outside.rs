//! What peers outside say about this node, weighed: where they see it, and whether they can reach it.
//!
//! The part of [`Reach`] that listens to identify and AutoNAT. What follows is drawn by [`Reach::settle`].

use libp2p::autonat::{
    DEFAULT_PROTOCOL_NAME, Event, OutboundProbeError, OutboundProbeEvent, ResponseError,
};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, identify, relay};

use super::super::addresses::{self, Scope};
use super::super::context::Context;
use super::super::peer::Link;
use super::voices::{Part, Voice};
use super::{Reach, verdict};

/// Peers that are remembered as such that can be asked; of more, the answer needs no more voices.
const MAX_SERVERS: usize = 256;

impl Reach {
    /// AutoNAT says something.
    pub(in super::super) fn on_autonat(&mut self, cx: &mut Context<'_>, event: Event) {
        match event {
            Event::OutboundProbe(OutboundProbeEvent::Response { peer, address, .. }) => {
                let reached = addresses::without_peer(&address, cx.local);
                match reached.filter(|address| verdict::is_plausible(address, cx.own)) {
                    Some(address) => self.vote(cx, peer, Some(address)),
                    None => tracing::debug!(%peer, %address, "reached us where we are not"),
                }
            }
            Event::OutboundProbe(OutboundProbeEvent::Error {
                peer: Some(peer),
                error: OutboundProbeError::Response(ResponseError::DialError),
                ..
            }) => self.vote(cx, peer, None),
            // Its own verdict may be the first peer's word.
            event => tracing::trace!(?event, "autonat"),
        }
    }

    /// `server` tried to reach this node.
    fn vote(&mut self, cx: &mut Context<'_>, server: PeerId, reached: Option<Multiaddr>) {
        let there = self.servers(cx);
        let Some(voice) = there.iter().find(|(peer, _)| *peer == server).cloned() else {
            return;
        };
        self.votes.cast(cx.now, voice, reached);
        let denied = self.votes.denied(&there);
        let confirmed = self.votes.confirmed(&there, self.external.confirmed());
        if !confirmed.is_empty() {
            self.unreachable = false;
        } else if denied && !self.unreachable {
            tracing::debug!("AutoNAT: nobody reaches this node");
            self.unreachable = true;
        }
        self.external.set(cx, confirmed);
        self.settle(cx);
    }

    /// The peers on the Internet that can be asked whether they reach this node.
    fn servers(&mut self, cx: &Context<'_>) -> Vec<Voice> {
        self.servers.retain(|peer| cx.peers.is_connected(peer));
        let far = |link: &&Link| !link.is_relayed() && is_far(&link.remote);
        let place = |peer: &PeerId| {
            let link = cx.peers.get(peer)?.links.iter().find(far)?;
            Some((*peer, Part::of(&link.remote)?))
        };
        self.servers.iter().filter_map(place).collect()
    }

    /// A peer said what it speaks and where it sees us, on the connection `id`.
    pub(in super::super) fn on_identified(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        id: ConnectionId,
        info: &identify::Info,
    ) {
        let links = cx.peers.get(&peer).map(|entry| entry.links.iter());
        let dialled: Vec<&Link> = links
            .into_iter()
            .flatten()
            .filter(|link| link.dialled && !link.is_relayed())
            .collect();
        let direct = dialled.first().map(|link| link.remote.clone());
        let far = dialled.iter().find(|link| link.id == id);
        let far = far.filter(|link| is_far(&link.remote));
        let observer = far.and_then(|link| Part::of(&link.remote));
        if let Some(part) = observer {
            self.on_observed(cx, peer, part, &info.observed_addr);
        }
        if info.protocols.contains(&DEFAULT_PROTOCOL_NAME) {
            if self.servers.len() >= MAX_SERVERS {
                self.servers.retain(|peer| cx.peers.is_connected(peer));
            }
            if self.servers.len() < MAX_SERVERS {
                self.servers.insert(peer);
            }
        } else {
            self.servers.remove(&peer);
        }
        if !info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.relays.no_candidate(&peer);
            return;
        }
        if let Some(address) = direct {
            self.relays.candidate(cx.now, peer, &address);
        }
        if self.is_hidden() {
            self.relays.fill(cx);
        }
    }

    /// An address of this machine is gone: what peers saw and confirmed was perhaps elsewhere. Whether this
    /// node is behind NAT stays as it is until they say what they see now.
    pub(in super::super) fn on_moved(&mut self, cx: &mut Context<'_>) {
        self.sight.clear();
        self.votes.clear();
        self.external.set(cx, Vec::new());
        self.again.on_moved(cx.now);
        if let Some(autonat) = cx.behaviour.autonat.as_mut() {
            autonat.forget();
        }
    }

    /// A peer on the Internet, which this node dialled, sees it at `observed`.
    fn on_observed(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        part: Part,
        observed: &Multiaddr,
    ) {
        if addresses::scope(observed) != Some(Scope::Global) {
            return;
        }
        let Some(ip) = addresses::ip(observed) else {
            return;
        };
        self.sight.keep(|peer| cx.peers.is_connected(peer));
        self.sight.note(peer, part, ip);
        if self.sight.agrees(ip) {
            offer_holes(cx, observed);
        }
        let own = verdict::ips(cx.own);
        let behind = self.sight.is_behind_nat(&own, ip.is_ipv6());
        let believed = &mut self.behind_nat[usize::from(ip.is_ipv6())];
        match behind {
            Some(true) if !*believed && cx.behaviour.autonat.is_enabled() => {
                tracing::info!(seen_as = %observed, "behind NAT: peers see another address than this machine's");
                *believed = true;
                self.settle(cx);
            }
            Some(false) if *believed => {
                tracing::info!(seen_as = %observed, "not behind NAT any more: peers see this machine's address");
                *believed = false;
                self.settle(cx);
            }
            _ => {}
        }
    }
}

/// Whether a peer at `address` is on the Internet, as far as can be told.
fn is_far(address: &Multiaddr) -> bool {
    matches!(addresses::scope(address), Some(Scope::Global | Scope::Name))
}

/// Offers for punching what follows from being seen at `observed`. A hole may be where NAT keeps our ports,
/// over TCP and QUIC, whichever of them the peer sees; and where it makes others of them, at what the peer
/// sees. That comes last, as the surest.
fn offer_holes(cx: &mut Context<'_>, observed: &Multiaddr) {
    let Some((ip, dcutr)) = addresses::ip(observed).zip(cx.behaviour.dcutr.as_mut()) else {
        return;
    };
    let near = |own: &&Multiaddr| addresses::scope(own) != Some(Scope::Loopback);
    let kept = cx.own.iter().filter(near);
    for address in kept.filter_map(|own| addresses::with_ip(own, ip)) {
        dcutr.offer(&address);
    }
    dcutr.offer(observed);
}

#[cfg(test)]
impl Reach {
    /// `peer` can be asked whether it reaches this node.
    pub(in super::super) fn has_server(&mut self, peer: PeerId) {
        self.servers.insert(peer);
    }

    /// `server` says that it reached this node at `reached`, or not at all.
    pub(in super::super) fn hear(
        &mut self,
        cx: &mut Context<'_>,
        server: PeerId,
        reached: Option<Multiaddr>,
    ) {
        self.vote(cx, server, reached);
    }
}
