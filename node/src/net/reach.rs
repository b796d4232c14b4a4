//! Ways to and from nodes behind NAT: relays, hole punching, AutoNAT, UPnP.
//!
//! Owns what this node knows about its own reachability, its reservations with relays, and the list
//! of relayed connections that a direct one has made needless. Called by the actor. Kademlia's mode
//! follows from here and from nowhere else: server, until other nodes say that they cannot reach us.
//! A relay's circuit is an address, but never makes a server.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, StreamProtocol, autonat, dcutr, kad, relay, upnp};

use super::context::{Action, Context};
use super::peer::Link;

/// How many relays a node behind NAT has: one may fail.
const RELAYS: usize = 2;

/// The most relays that are remembered as such.
const MAX_CANDIDATES: usize = 16;

/// How long a relayed connection stays beside a direct one, so that answers under way still arrive.
const RELAYED_LINGERS: Duration = Duration::from_secs(10);

/// Bytes that one circuit may carry (16 GiB), and how long it may stand (12 hours). The defaults of
/// 128 KiB and 2 minutes are made for hole punching alone; a job whose nodes cannot connect
/// otherwise must still get its inputs.
const CIRCUIT_BYTES: u64 = 16 << 30;
const CIRCUIT_DURATION: Duration = Duration::from_secs(12 * 3_600);

/// Circuits through this node at a time, and those of one peer among them.
const CIRCUITS: usize = 64;
const CIRCUITS_PER_PEER: usize = 8;

/// Reservations with this node at a time.
const RESERVATIONS: usize = 256;

/// Circuits that one peer, and all peers of one address, may open in a minute. (The defaults allow 30
/// in an hour and a half, fewer than a submitter needs that meets its providers through one relay.)
const CIRCUITS_PER_MINUTE: u32 = 60;

/// First wait before reachability is asked for (5 s), so that there are peers to ask.
const FIRST_PROBE: Duration = Duration::from_secs(5);

/// Makes the relay server.
pub(super) fn relay_server(local: PeerId) -> relay::Behaviour {
    let minute = Duration::from_secs(60);
    let mut config = relay::Config {
        max_reservations: RESERVATIONS,
        max_circuits: CIRCUITS,
        max_circuits_per_peer: CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT_DURATION,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    };
    if let Some(limit) = NonZeroU32::new(CIRCUITS_PER_MINUTE) {
        config = config
            .circuit_src_per_peer(limit, minute)
            .circuit_src_per_ip(limit, minute);
    }
    let mut behaviour = relay::Behaviour::new(local, config);
    // Only when we are found reachable.
    behaviour.set_status(Some(relay::Status::Disable));
    behaviour
}

/// Makes the behaviour that asks and answers whether a node can be reached.
pub(super) fn autonat(local: PeerId) -> autonat::Behaviour {
    let config = autonat::Config {
        boot_delay: FIRST_PROBE,
        ..autonat::Config::default()
    };
    autonat::Behaviour::new(local, config)
}

/// How this node can be reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Others say that they cannot reach us.
    hidden: bool,
    /// Peers that relay for others, and where.
    candidates: HashMap<PeerId, Multiaddr>,
    reservations: HashMap<ListenerId, PeerId>,
    needless: Vec<(Instant, PeerId, ConnectionId)>,
}

impl Reach {
    pub(super) fn on_autonat(&mut self, cx: &mut Context<'_>, event: &autonat::Event) {
        let autonat::Event::StatusChanged { new, .. } = event else {
            tracing::trace!(?event, "autonat");
            return;
        };
        tracing::info!(reachable = ?new, "reachability from outside changed");
        self.hidden = matches!(new, autonat::NatStatus::Private);
        let mode = if self.hidden {
            kad::Mode::Client
        } else {
            kad::Mode::Server
        };
        cx.behaviour.kad.set_mode(Some(mode));
        self.reserve(cx);
    }

    /// The confirmed external addresses changed; `public` when one of them is no relay's.
    pub(super) fn on_external(&mut self, cx: &mut Context<'_>, public: bool) {
        let status = if public {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        };
        if let Some(relay) = cx.behaviour.relay_server.as_mut() {
            relay.set_status(Some(status));
        }
    }

    /// A peer said what it speaks.
    pub(super) fn on_identified(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        speaks: &[StreamProtocol],
    ) {
        if !speaks.contains(&relay::HOP_PROTOCOL_NAME) {
            self.candidates.remove(&peer);
            return;
        }
        let direct = cx.peers.get(&peer).and_then(|entry| {
            entry
                .links
                .iter()
                .find(|link| link.dialled && !link.is_relayed())
        });
        let Some(link) = direct else {
            return;
        };
        if self.candidates.len() < MAX_CANDIDATES {
            self.candidates.insert(peer, link.remote.clone());
        }
        self.reserve(cx);
    }

    fn reserve(&mut self, cx: &mut Context<'_>) {
        if !self.hidden {
            return;
        }
        let missing = RELAYS.saturating_sub(self.reservations.len());
        let unused = self
            .candidates
            .iter()
            .filter(|(peer, _)| !self.reservations.values().any(|used| used == *peer));
        for (peer, address) in unused.take(missing) {
            let mut circuit = address.clone();
            if !matches!(circuit.iter().last(), Some(Protocol::P2p(_))) {
                circuit.push(Protocol::P2p(*peer));
            }
            circuit.push(Protocol::P2pCircuit);
            cx.actions.push(Action::Reserve(*peer, circuit));
        }
    }

    /// A reservation was asked for.
    pub(super) fn on_reserving(&mut self, listener: ListenerId, relay: PeerId) {
        self.reservations.insert(listener, relay);
    }

    /// A listener ended; perhaps a relay is gone.
    pub(super) fn on_listener_closed(&mut self, cx: &mut Context<'_>, listener: ListenerId) {
        if let Some(peer) = self.reservations.remove(&listener) {
            tracing::info!(relay = %peer, "the reservation with this relay ended");
            self.candidates.remove(&peer);
            self.reserve(cx);
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
        self.needless.iter().map(|(at, _, _)| *at).min()
    }

    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
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
    }
}

pub(super) fn on_relay_server(event: &relay::Event) {
    tracing::debug!(?event, "relay");
}

pub(super) fn on_relay_client(event: &relay::client::Event) {
    match event {
        relay::client::Event::ReservationReqAccepted {
            relay_peer_id,
            renewal: false,
            ..
        } => tracing::info!(relay = %relay_peer_id, "reachable through a relay"),
        event => tracing::debug!(?event, "relay client"),
    }
}

pub(super) fn on_dcutr(event: &dcutr::Event) {
    match &event.result {
        Ok(_) => tracing::info!(peer = %event.remote_peer_id, "hole punched: connected directly"),
        Err(error) => {
            tracing::debug!(peer = %event.remote_peer_id, %error, "hole punching failed");
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
