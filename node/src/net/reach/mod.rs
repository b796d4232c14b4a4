//! Ways to and from nodes behind NAT: relays, hole punching, AutoNAT, UPnP.
//!
//! Owns what this node knows about its own reachability, its places at relays ([`relays`]), what it does as
//! a relay ([`policy`]), and the list of relayed connections that a direct one has made needless. Called by
//! the actor. Kademlia's mode follows from here and from nowhere else: server, until this node is found to
//! be behind NAT. A relay's circuit is an address, but never makes a server.
//!
//! A node takes itself to be behind NAT as soon as peers on the Internet see it at an address that this
//! machine does not have; AutoNAT, which asks peers to dial back, takes longer to say the same. A
//! forwarded port or AutoNAT's success overrules that. No single peer's word is enough for either, where
//! there are two to ask ([`voices`]).

mod again;
mod external;
mod needless;
mod outside;
mod policy;
mod refusal;
mod reined;
mod relays;
mod serving;
mod sight;
mod state;
mod verdict;
mod voices;

use std::collections::HashSet;
use std::time::Instant;

use libp2p::core::transport::ListenerId;
use libp2p::{Multiaddr, PeerId, kad, relay, upnp};

use super::context::Context;
use again::Again;
use external::External;
use needless::Needless;
use relays::Relays;
use serving::Serving;
use sight::Sight;
use verdict::Votes;

pub(super) use policy::server as relay_server;
pub use policy::{RelayLimits, RelayPolicy};
pub(super) use reined::{Reined, autonat, dcutr};
pub use state::{ReachState, Reachability};

/// How this node can be reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// A confirmed address leads here from the whole Internet.
    public: bool,
    /// Peers see us at another address than ours, over IPv4 and over IPv6.
    behind_nat: [bool; 2],
    /// AutoNAT says that others cannot reach us.
    unreachable: bool,
    external: External,
    sight: Sight,
    votes: Votes,
    /// Peers that answer whether they can reach us.
    servers: HashSet<PeerId>,
    relays: Relays,
    serving: Serving,
    needless: Needless,
    again: Again,
}

impl Reach {
    /// `external` are the addresses that the settings name.
    pub(super) fn new(external: Vec<Multiaddr>) -> Self {
        Self {
            external: External::new(external),
            ..Self::default()
        }
    }

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
            bootstrap: Vec::new(),
        }
    }

    const fn is_hidden(&self) -> bool {
        let behind_nat = self.behind_nat[0] || self.behind_nat[1];
        (behind_nat || self.unreachable) && !self.public
    }

    /// Whether the connection to `peer` is needed: it is our relay, or we are its.
    pub(super) fn needs(&self, peer: &PeerId) -> bool {
        self.relays.uses(peer) || self.serving.has(peer)
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
            // Not at once: whoever was public for a moment would have none to return to.
            self.relays.spare(cx.now);
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

    /// A connection opened. Once a direct one stands, relayed ones to the same peer are needless.
    pub(super) fn on_connected(&mut self, cx: &Context<'_>, peer: PeerId) {
        self.needless.on_connected(cx, peer);
        self.again.on_connected(cx, peer);
    }

    /// The router says something.
    pub(super) fn on_upnp(&mut self, cx: &mut Context<'_>, event: &upnp::Event) {
        self.external.on_upnp(cx, event);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [
            self.needless.deadline(),
            self.again.deadline(),
            self.relays.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due; returns whether the DHT has to be searched for relays.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        self.needless.on_deadline(cx);
        self.again.on_deadline(cx);
        self.relays.on_deadline(cx)
    }
}

#[cfg(test)]
impl Reach {
    /// Makes this node one behind NAT, whose relays may take so long to give a place.
    pub(super) fn hide(&mut self, patience: std::time::Duration) {
        self.behind_nat = [true; 2];
        self.relays.be_patient_for(patience);
    }

    /// Tries to punch holes again after this time.
    pub(super) fn retry_after(&mut self, pause: std::time::Duration) {
        self.again.retry_after(pause);
    }

    /// Lets needless connections stand so long.
    pub(super) fn linger_for(&mut self, lingers: std::time::Duration) {
        self.needless.linger_for(lingers);
    }
}

/// What came of an attempt to punch a hole. Returns the peer to which there is none.
pub(super) fn on_dcutr(event: &libp2p::dcutr::Event) -> Option<PeerId> {
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
