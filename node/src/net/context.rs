//! What the handlers work with, and what they may ask for.
//!
//! Handlers never see the swarm: they get its behaviours, the table of peers and the ways out, and
//! leave [`Action`]s for what only the swarm as a whole can do. The actor makes a [`Context`] for each
//! event and performs the actions after it.

use std::time::Instant;

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, Swarm};

use super::addresses;
use super::behaviour::Behaviour;
use super::capacity::Capacity;
use super::conduct::{Conduct, Misdeed};
use super::discovery::Discovery;
use super::events::EventSink;
use super::exchange::Exchange;
use super::guard::Guard;
use super::liveness::Liveness;
use super::metrics::NetMetrics;
use super::peers::PeerTable;
use super::protocols::Protocols;
use super::quiet::Quiet;
use super::reach::Reach;
use super::tasks::Tasks;

/// Something that a handler wants done with the swarm as a whole.
#[derive(Debug)]
pub(super) enum Action {
    /// Dial.
    Dial(DialOpts),
    /// Write down what a peer did, and shut it out if that was one too many.
    Report(PeerId, Misdeed),
    /// Close one connection.
    Close(ConnectionId),
    /// Reserve a place at this relay by listening there.
    Reserve(PeerId, Multiaddr),
    /// The Internet reaches this node at this address.
    Confirm(Multiaddr),
    /// It does not any more.
    Withdraw(Multiaddr),
}

/// What handlers work with while they handle something.
pub(super) struct Context<'a> {
    pub behaviour: &'a mut Behaviour,
    pub peers: &'a mut PeerTable,
    pub guard: &'a Guard,
    pub actions: &'a mut Vec<Action>,
    pub events: &'a EventSink,
    pub metrics: &'a NetMetrics,
    pub protocols: &'a Protocols,
    pub local: PeerId,
    /// Whether the node is known to be reachable from the whole Internet.
    pub public: bool,
    /// Where this machine listens itself, and at no relay.
    pub own: &'a [Multiaddr],
    pub now: Instant,
}

/// The handlers, one for each concern.
pub(super) struct Handlers {
    pub tasks: Tasks,
    pub capacity: Capacity,
    pub exchange: Exchange,
    pub discovery: Discovery,
    pub reach: Reach,
    pub liveness: Liveness,
    pub conduct: Conduct,
}

/// What the handlers share.
pub(super) struct Common {
    pub peers: PeerTable,
    pub guard: Guard,
    pub actions: Vec<Action>,
    pub events: EventSink,
    pub metrics: NetMetrics,
    pub protocols: Protocols,
    pub public: bool,
    pub own: Vec<Multiaddr>,
}

impl Common {
    pub(super) fn context<'a>(&'a mut self, swarm: &'a mut Swarm<Quiet<Behaviour>>) -> Context<'a> {
        let local = *swarm.local_peer_id();
        Context {
            behaviour: &mut swarm.behaviour_mut().0,
            peers: &mut self.peers,
            guard: &self.guard,
            actions: &mut self.actions,
            events: &self.events,
            metrics: &self.metrics,
            protocols: &self.protocols,
            local,
            public: self.public,
            own: &self.own,
            now: Instant::now(),
        }
    }
}

impl Context<'_> {
    /// Has `peer` dialled at these addresses and at those that the behaviours know.
    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        self.actions.push(Action::Dial(options));
    }

    /// The addresses of `peer` that are dialled first.
    pub(super) fn preferred(&self, peer: &PeerId) -> Vec<Multiaddr> {
        addresses::preferred(&self.peers.addresses(peer))
    }

    /// Somebody said that `peer` is at these addresses. Keeps those that may be dialled: another one is not
    /// worth keeping, and once remembered, would speak for itself.
    pub(super) fn hinted(&mut self, peer: PeerId, mut hints: Vec<Multiaddr>) -> Vec<Multiaddr> {
        hints.retain(|address| {
            let named = address.clone().with_p2p(peer);
            named.is_ok_and(|address| self.guard.permits(&address).is_ok())
        });
        self.peers.hinted(peer, hints.iter().cloned());
        hints
    }

    /// Writes down what a peer did.
    pub(super) fn report(&mut self, peer: PeerId, misdeed: Misdeed) {
        self.actions.push(Action::Report(peer, misdeed));
    }
}
