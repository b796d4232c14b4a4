//! Ways to and from nodes behind NAT: relays, hole punching, AutoNAT, UPnP.
//!
//! Owns what this node knows about its own reachability, its places at relays ([`relays`]), what it does as
//! a relay ([`policy`]), and the list of relayed connections that a direct one has made needless. Called by
//! the actor. Kademlia's mode follows from here and from nowhere else: server, until this node is found to
//! be behind NAT. A relay's circuit is an address, but never makes a server.
//!
//! A node takes itself to be behind NAT as soon as a peer on the Internet sees it at an address that this
//! machine does not have; AutoNAT, which asks peers to dial back, takes minutes to say the same. A
//! forwarded port or AutoNAT's success overrules that.

mod policy;
mod refusal;
mod relays;
mod serving;
mod state;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::swarm::behaviour::NewExternalAddrCandidate;
use libp2p::swarm::{ConnectionId, DialError, FromSwarm, NetworkBehaviour};
use libp2p::{Multiaddr, PeerId, autonat, dcutr, identify, kad, relay, upnp};

use super::addresses::{self, Scope};
use super::context::{Action, Context};
use super::peer::Link;
use relays::Relays;
use serving::Serving;

pub(super) use policy::server as relay_server;
pub use policy::{RelayLimits, RelayPolicy};
pub use state::{ReachState, Reachability};

/// How long a relayed connection stays beside a direct one, so that answers under way still arrive.
const RELAYED_LINGERS: Duration = Duration::from_secs(10);

/// First wait before reachability is asked for (5 s), so that there are peers to ask.
const FIRST_PROBE: Duration = Duration::from_secs(5);

/// The most addresses that are dialled for a peer that asks whether it can be reached, one after the other
/// and each for up to 10 s: TCP and QUIC, IPv4 and IPv6.
const PROBED_ADDRESSES: usize = 4;

/// How long we wait for the answer (60 s): libp2p's 30 s end before another node has tried all addresses,
/// and a node behind NAT then never learns that it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// A refusal of the same relay is told to the log this often at the most (1 minute).
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Relays whose refusals are remembered for that.
const MAX_REFUSALS: usize = 64;

/// Makes the behaviour that asks and answers whether a node can be reached.
pub(super) fn autonat(local: PeerId) -> autonat::Behaviour {
    let config = autonat::Config {
        boot_delay: FIRST_PROBE,
        timeout: PROBE_TIMEOUT,
        max_peer_addresses: PROBED_ADDRESSES,
        ..autonat::Config::default()
    };
    autonat::Behaviour::new(local, config)
}

/// How this node can be reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// A confirmed address leads here from the whole Internet.
    public: bool,
    /// A peer sees us at another address than ours.
    behind_nat: bool,
    /// AutoNAT says that others cannot reach us.
    unreachable: bool,
    relays: Relays,
    serving: Serving,
    needless: Vec<(Instant, PeerId, ConnectionId)>,
    refusals: HashMap<PeerId, Instant>,
}

impl Reach {
    /// What is known, for people.
    pub(super) fn snapshot(&self) -> Reachability {
        let relays = self.relays.held();
        let state = match (self.public, self.is_hidden()) {
            (true, _) => ReachState::Public,
            (false, true) if relays.is_empty() => ReachState::Hidden,
            (false, true) => ReachState::Relayed,
            (false, false) => ReachState::Unknown,
        };
        Reachability {
            state,
            relays,
            relaying: self.serving.on,
            clients: self.serving.clients(),
            circuits: self.serving.circuits(),
            trouble: self.relays.trouble().map(str::to_owned),
        }
    }

    const fn is_hidden(&self) -> bool {
        (self.behind_nat || self.unreachable) && !self.public
    }

    /// Whether the connection to `peer` is needed: it is our relay, or we are its.
    pub(super) fn needs(&self, peer: &PeerId) -> bool {
        self.relays.uses(peer) || self.serving.has(peer)
    }

    pub(super) fn on_autonat(&mut self, cx: &mut Context<'_>, event: &autonat::Event) {
        let autonat::Event::StatusChanged { new, .. } = event else {
            tracing::trace!(?event, "autonat");
            return;
        };
        tracing::debug!(reachable = ?new, "AutoNAT's verdict changed");
        match new {
            autonat::NatStatus::Private => self.unreachable = true,
            // Where this is so, an address is confirmed as well.
            autonat::NatStatus::Public(_) => self.unreachable = false,
            autonat::NatStatus::Unknown => {}
        }
        self.settle(cx);
    }

    /// The confirmed external addresses changed; `public` when one of them is no relay's.
    pub(super) fn on_external(&mut self, cx: &mut Context<'_>, public: bool) {
        if public != self.public {
            tracing::info!(public, "reachability from the Internet changed");
            self.public = public;
            self.settle(cx);
        }
        let status = if public {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        };
        if let Some(relay) = cx.behaviour.relay_server.as_mut() {
            relay.set_status(Some(status));
            self.serving.on = public;
        }
    }

    /// Whether the DHT has to say that this node relays.
    pub(super) const fn is_relaying(&self) -> bool {
        self.serving.on
    }

    /// Draws the consequences of what is known.
    fn settle(&mut self, cx: &mut Context<'_>) {
        let hidden = self.is_hidden();
        let mode = if hidden {
            kad::Mode::Client
        } else {
            kad::Mode::Server
        };
        cx.behaviour.kad.set_mode(Some(mode));
        if hidden {
            self.relays.fill(cx);
        } else {
            self.relays.give_up(cx);
        }
    }

    /// A peer said what it speaks and where it sees us, on the connection `id`.
    pub(super) fn on_identified(
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
        if let Some(link) = dialled.iter().find(|link| link.id == id) {
            let far = matches!(
                addresses::scope(&link.remote),
                Some(Scope::Global | Scope::Name)
            );
            if far {
                self.on_observed(cx, &info.observed_addr);
            }
        }
        if !info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.relays.no_candidate(&peer);
            return;
        }
        let links = cx.peers.get(&peer).map(|entry| entry.links.iter());
        let mut direct = links
            .into_iter()
            .flatten()
            .filter(|link| link.dialled && !link.is_relayed());
        if let Some(link) = direct.next() {
            self.relays.candidate(peer, &link.remote);
        }
        if self.is_hidden() {
            self.relays.fill(cx);
        }
    }

    /// An address of this machine is gone: what peers see may be another from now on.
    pub(super) const fn on_moved(&mut self) {
        self.behind_nat = false;
    }

    /// A peer on the Internet, which this node dialled, sees it at `observed`.
    fn on_observed(&mut self, cx: &mut Context<'_>, observed: &Multiaddr) {
        if addresses::scope(observed) != Some(Scope::Global) {
            return;
        }
        let Some(ip) = addresses::ip(observed) else {
            return;
        };
        // A hole may be where NAT keeps our ports, over TCP and QUIC, whichever of them the peer sees; and
        // where it makes others of them, at what the peer sees. That comes last, as the surest.
        let near = |own: &&Multiaddr| addresses::scope(own) != Some(Scope::Loopback);
        let mut holes: Vec<Multiaddr> = cx
            .own
            .iter()
            .filter(near)
            .filter_map(|own| addresses::with_ip(own, ip))
            .collect();
        holes.push(observed.clone());
        if let Some(dcutr) = cx.behaviour.dcutr.as_mut() {
            for addr in &holes {
                dcutr.on_swarm_event(FromSwarm::NewExternalAddrCandidate(
                    NewExternalAddrCandidate { addr },
                ));
            }
        }
        let ours = cx.own.iter().any(|own| addresses::ip(own) == Some(ip));
        if !ours && !self.behind_nat && cx.behaviour.autonat.is_enabled() {
            tracing::info!(seen_as = %observed, "behind NAT: peers see another address than this machine's");
            self.behind_nat = true;
            self.settle(cx);
        }
    }

    /// A place at a relay was asked for; `None` when that failed at once.
    pub(super) fn on_reserving(
        &mut self,
        cx: &mut Context<'_>,
        relay: PeerId,
        listener: Option<ListenerId>,
    ) {
        self.relays.on_listening(cx.now, relay, listener);
        if listener.is_none() {
            self.settle(cx);
        }
    }

    /// A listener ended; perhaps a relay is gone.
    pub(super) fn on_listener_closed(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
        reason: &Result<(), std::io::Error>,
    ) {
        let refusal = reason
            .as_ref()
            .err()
            .and_then(|error| refusal::of_place(error));
        if self.relays.on_closed(cx.now, listener, refusal) {
            self.settle(cx);
        }
    }

    /// A relay says something to its client.
    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, .. } => {
                if self.relays.on_given(*relay_peer_id) {
                    tracing::info!(relay = %relay_peer_id, "reachable through a relay");
                }
            }
            event => tracing::debug!(?event, "relay client"),
        }
    }

    /// A relay says something to those that it serves.
    pub(super) fn on_relay_server(&mut self, cx: &Context<'_>, event: &relay::Event) {
        self.serving.on_event(cx, event);
    }

    /// A dial failed. A relay's refusal is the owner's business.
    pub(super) fn on_dial_error(&mut self, now: Instant, peer: Option<PeerId>, error: &DialError) {
        let DialError::Transport(failures) = error else {
            return;
        };
        for (address, error) in failures {
            let Some(relay) = addresses::relay_of(address) else {
                continue;
            };
            let Some(why) = refusal::of_circuit(error) else {
                continue;
            };
            let said = self.refusals.get(&relay);
            if said.is_some_and(|at| now.saturating_duration_since(*at) < REFUSAL_INTERVAL) {
                continue;
            }
            if self.refusals.len() >= MAX_REFUSALS {
                self.refusals.clear();
            }
            self.refusals.insert(relay, now);
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(%relay, peer, "no connection through a relay: {why}");
        }
    }

    /// A connection opened. Once a direct one stands, relayed ones to the same peer are needless, and
    /// requests must not go through them by chance.
    pub(super) fn on_connected(&mut self, cx: &Context<'_>, peer: PeerId) {
        let Some(entry) = cx.peers.get(&peer) else {
            return;
        };
        if entry.links.iter().all(Link::is_relayed) {
            return;
        }
        for link in entry.links.iter().filter(|link| link.is_relayed()) {
            if !self.needless.iter().any(|(_, _, id)| *id == link.id) {
                self.needless
                    .push((cx.now + RELAYED_LINGERS, peer, link.id));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let needless = self.needless.iter().map(|(at, _, _)| *at).min();
        [needless, self.relays.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; returns whether the DHT has to be searched for relays.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let now = cx.now;
        let due: Vec<_> = self
            .needless
            .extract_if(.., |(at, _, _)| *at <= now)
            .collect();
        for (_, peer, id) in due {
            let direct = cx
                .peers
                .get(&peer)
                .is_some_and(|entry| entry.links.iter().any(|link| !link.is_relayed()));
            if direct {
                cx.actions.push(Action::Close(id));
            }
        }
        self.relays.on_deadline(cx)
    }
}

#[cfg(test)]
impl Reach {
    /// Makes this node one behind NAT, whose relays may take so long to give a place.
    pub(super) fn hide(&mut self, patience: Duration) {
        self.behind_nat = true;
        self.relays.be_patient_for(patience);
    }
}

/// What came of an attempt to punch a hole. Returns the peer to which there is none.
pub(super) fn on_dcutr(event: &dcutr::Event) -> Option<PeerId> {
    match &event.result {
        Ok(_) => {
            tracing::info!(peer = %event.remote_peer_id, "hole punched: connected directly");
            None
        }
        Err(error) => {
            tracing::info!(peer = %event.remote_peer_id, %error, "no hole could be punched: the relay stays");
            Some(event.remote_peer_id)
        }
    }
}

pub(super) fn on_upnp(event: &upnp::Event) {
    match event {
        upnp::Event::NewExternalAddr { external_addr, .. } => {
            tracing::info!(address = %external_addr, "the router forwards a port to this node");
        }
        event => tracing::debug!(?event, "upnp"),
    }
}
