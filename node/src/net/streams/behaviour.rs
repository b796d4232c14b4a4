//! Chooses the connection for each stream, and keeps those that wait for a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::super::config::NetLimits;
use super::super::error::OpenError;
use super::super::events::EventSink;
use super::super::metrics::NetMetrics;
use super::super::protocols::{Protocols, StreamKind};
use super::handler::{Handler, Shared, StreamReply, Wish};
use super::path::{Path, Quality};
use super::slots::{SlotLimits, Slots};
use super::upgrade::Accept;

/// How long a stream for bulk data waits for a direct connection beside a relayed one that was just opened
/// (5 s): a hole is punched within some round trips through the relay, or within the 10 s that a dial may
/// take; what is asked for meanwhile would go through somebody else's line.
const DIRECT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    path: Arc<Path>,
    /// Until when bulk data waits for a better one.
    patient_until: Option<Instant>,
}

/// The behaviour.
#[derive(Debug)]
pub(in super::super) struct Behaviour {
    shared: Arc<Shared>,
    slots: Slots,
    connections: HashMap<PeerId, Vec<Connection>>,
    /// Connections whose handlers are made and which are not told of yet.
    fresh: HashMap<ConnectionId, Weak<Path>>,
    /// Streams to peers that are being dialled; bounded by each peer's slots.
    waiting: HashMap<PeerId, Vec<Wish>>,
    /// Streams that wait for a direct connection while a relayed one stands, each until when; bounded so too.
    patient: Vec<(Instant, PeerId, Wish)>,
    /// How long they wait; no time at all where nothing is done for a direct connection.
    patience: Duration,
    orders: VecDeque<(PeerId, ConnectionId, Wish)>,
}

impl Behaviour {
    pub(in super::super) fn new(
        protocols: &Protocols,
        limits: &NetLimits,
        events: EventSink,
        metrics: NetMetrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                accept: Accept::new(protocols),
                events,
                metrics,
            }),
            slots: Slots::new(SlotLimits {
                per_peer: limits.streams_per_peer,
                all: limits.streams,
            }),
            connections: HashMap::new(),
            fresh: HashMap::new(),
            waiting: HashMap::new(),
            patient: Vec::new(),
            patience: DIRECT_PATIENCE,
            orders: VecDeque::new(),
        }
    }

    /// Nothing is done here for direct connections beside relayed ones, so nobody waits for them.
    pub(in super::super) fn without_patience(mut self) -> Self {
        self.patience = Duration::ZERO;
        self
    }

    /// Opens a stream to `peer`. Returns whether the peer has to be dialled first, which is up to the
    /// caller.
    pub(in super::super) fn open(
        &mut self,
        peer: PeerId,
        kind: StreamKind,
        reply: StreamReply,
    ) -> bool {
        let Some(slot) = self.slots.of(peer).outbound() else {
            let _ = reply.send(Err(OpenError::TooMany));
            return false;
        };
        self.send(peer, Wish { kind, reply, slot })
    }

    /// Sends a wish on its way; returns whether the peer has to be dialled.
    fn send(&mut self, peer: PeerId, wish: Wish) -> bool {
        let Some(best) = self.best_of(&peer) else {
            self.waiting.entry(peer).or_default().push(wish);
            return true;
        };
        match best.patient_until.filter(|_| wish.kind.is_bulk()) {
            Some(until) if until > Instant::now() => self.patient.push((until, peer, wish)),
            _ => self.orders.push_back((peer, best.id, wish)),
        }
        false
    }

    fn best_of(&self, peer: &PeerId) -> Option<&Connection> {
        // Of two equally good ones the younger: the older may be about to be noticed as dead.
        self.connections
            .get(peer)?
            .iter()
            .min_by_key(|connection| (connection.path.quality, std::cmp::Reverse(connection.id)))
    }

    /// The connection that a stream to `peer` would take.
    pub(in super::super) fn best(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.best_of(peer).map(|best| best.id)
    }

    /// Bytes that streams sent and received on this connection.
    pub(in super::super) fn bytes(&self, peer: &PeerId, id: ConnectionId) -> (u64, u64) {
        let mut connections = self.connections.get(peer).into_iter().flatten();
        connections
            .find(|connection| connection.id == id)
            .map_or((0, 0), |connection| connection.path.bytes())
    }

    /// Whether a stream is open on this connection, by whichever side.
    pub(in super::super) fn carries(&self, peer: &PeerId, id: ConnectionId) -> bool {
        let mut connections = self.connections.get(peer).into_iter().flatten();
        connections.any(|connection| connection.id == id && connection.path.is_used())
    }

    /// When a stream on this connection last moved bytes; `None` when none ever did.
    pub(in super::super) fn moved(&self, peer: &PeerId, id: ConnectionId) -> Option<Instant> {
        let mut connections = self.connections.get(peer).into_iter().flatten();
        let connection = connections.find(|connection| connection.id == id)?;
        connection.path.moved()
    }

    /// When a stream has waited long enough for a direct connection.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        self.patient.iter().map(|(until, _, _)| *until).min()
    }

    /// Lets those streams go that have waited long enough.
    pub(in super::super) fn on_deadline(&mut self, now: Instant) {
        let due: Vec<_> = self
            .patient
            .extract_if(.., |(until, _, _)| *until <= now)
            .collect();
        self.resend(due);
    }

    /// There will be no direct connection to `peer`, as far as is known.
    pub(in super::super) fn expect_no_direct(&mut self, peer: PeerId) {
        for connection in self.connections.get_mut(&peer).into_iter().flatten() {
            connection.patient_until = None;
        }
        self.recall(peer);
    }

    /// Looks again where the streams should go that wait for a direct connection to `peer`.
    fn recall(&mut self, peer: PeerId) {
        let recalled: Vec<_> = self
            .patient
            .extract_if(.., |(_, whom, _)| *whom == peer)
            .collect();
        self.resend(recalled);
    }

    fn resend(&mut self, wishes: Vec<(Instant, PeerId, Wish)>) {
        for (_, peer, wish) in wishes {
            if self.connections.contains_key(&peer) {
                self.send(peer, wish);
            } else {
                wish.fail(OpenError::Unreachable);
            }
        }
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, quality: Quality) {
        let path = self.fresh.remove(&id).and_then(|path| path.upgrade());
        let path = path.unwrap_or_else(|| Arc::new(Path::new(quality)));
        let connections = self.connections.entry(peer).or_default();
        if path.is_relayed() {
            if connections.iter().any(|other| !other.path.is_relayed()) {
                path.is_outdone();
            }
        } else {
            for other in connections.iter().filter(|other| other.path.is_relayed()) {
                other.path.is_outdone();
            }
        }
        // A second circuit is no reason to wait anew.
        let first = connections.iter().all(|other| !other.path.is_relayed());
        let patient = path.is_relayed() && first && !self.patience.is_zero();
        connections.push(Connection {
            id,
            path,
            patient_until: patient.then(|| Instant::now() + self.patience),
        });
        for wish in self.waiting.remove(&peer).unwrap_or_default() {
            self.send(peer, wish);
        }
        self.recall(peer);
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|connection| connection.id != id);
            if connections.is_empty() {
                self.connections.remove(&peer);
            }
        }
        self.recall(peer);
    }

    fn on_dial_failure(&mut self, peer: PeerId) {
        for wish in self.waiting.remove(&peer).unwrap_or_default() {
            wish.fail(OpenError::Unreachable);
        }
    }

    fn handler(&mut self, peer: PeerId, id: ConnectionId, quality: Quality) -> Handler {
        let path = Arc::new(Path::new(quality));
        // Those that another behaviour refused after all.
        self.fresh.retain(|_, path| path.strong_count() > 0);
        self.fresh.insert(id, Arc::downgrade(&path));
        Handler::new(peer, Arc::clone(&self.shared), self.slots.of(peer), path)
    }
}

#[cfg(test)]
impl Behaviour {
    /// There is a connection on which a stream moved bytes at this time.
    pub(in super::super) fn pretend_moved(&mut self, peer: PeerId, id: ConnectionId, at: Instant) {
        let path = Arc::new(Path::moved_at(at));
        let connection = Connection {
            id,
            path,
            patient_until: None,
        };
        self.connections.entry(peer).or_default().push(connection);
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, id, Quality::of(remote, Some(local))))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, id, Quality::of(remote, None)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let local = match endpoint {
                    ConnectedPoint::Listener { local_addr, .. } => Some(local_addr),
                    ConnectedPoint::Dialer { .. } => None,
                };
                let quality = Quality::of(endpoint.get_remote_address(), local);
                self.on_established(peer_id, connection_id, quality);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                ..
            }) => self.on_closed(peer_id, connection_id),
            // Not dialling because a dial is under way is no failure: that one will end too.
            FromSwarm::DialFailure(DialFailure {
                error: DialError::DialPeerConditionFalse(_),
                ..
            }) => {}
            FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                ..
            }) => self.on_dial_failure(peer),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Orders are only added between polls, by the owner of the swarm, who polls again after.
        match self.orders.pop_front() {
            Some((peer_id, connection, event)) => Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event,
            }),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
