//! Chooses the connection for each stream, and keeps those that wait for a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::super::addresses;
use super::super::config::NetLimits;
use super::super::error::OpenError;
use super::super::events::EventSink;
use super::super::metrics::NetMetrics;
use super::super::protocols::{Protocols, StreamKind};
use super::handler::{Handler, Shared, StreamReply, Wish};
use super::slots::{SlotLimits, Slots};
use super::upgrade::Accept;

/// How good a connection is for bulk data, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Quality {
    /// Direct, over TCP (or within the process).
    Direct,
    /// Direct, over QUIC, which moves two thirds as much.
    Quic,
    /// Through a relay, which limits it and pays for it.
    Relayed,
}

impl Quality {
    fn of(remote: &Multiaddr) -> Self {
        if addresses::is_relayed(remote) {
            Self::Relayed
        } else if addresses::is_quic(remote) {
            Self::Quic
        } else {
            Self::Direct
        }
    }
}

/// The behaviour.
#[derive(Debug)]
pub(in super::super) struct Behaviour {
    shared: Arc<Shared>,
    slots: Slots,
    connections: HashMap<PeerId, Vec<(Quality, ConnectionId)>>,
    /// Streams to peers that are being dialled; bounded by each peer's slots.
    waiting: HashMap<PeerId, Vec<Wish>>,
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
            waiting: HashMap::new(),
            orders: VecDeque::new(),
        }
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
        let wish = Wish { kind, reply, slot };
        match self.best(&peer) {
            Some(connection) => {
                self.orders.push_back((peer, connection, wish));
                false
            }
            None => {
                self.waiting.entry(peer).or_default().push(wish);
                true
            }
        }
    }

    fn best(&self, peer: &PeerId) -> Option<ConnectionId> {
        let connections = self.connections.get(peer)?;
        // Of two equally good ones the younger: the older may be about to be noticed as dead.
        connections
            .iter()
            .min_by_key(|(quality, id)| (*quality, std::cmp::Reverse(*id)))
            .map(|(_, id)| *id)
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, remote: &Multiaddr) {
        self.connections
            .entry(peer)
            .or_default()
            .push((Quality::of(remote), id));
        for wish in self.waiting.remove(&peer).unwrap_or_default() {
            self.orders.push_back((peer, id, wish));
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|(_, other)| *other != id);
            if connections.is_empty() {
                self.connections.remove(&peer);
            }
        }
    }

    fn on_dial_failure(&mut self, peer: PeerId) {
        for wish in self.waiting.remove(&peer).unwrap_or_default() {
            wish.fail(OpenError::Unreachable);
        }
    }

    fn handler(&mut self, peer: PeerId) -> Handler {
        Handler::new(peer, Arc::clone(&self.shared), self.slots.of(peer))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => self.on_established(peer_id, connection_id, endpoint.get_remote_address()),
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use libp2p::Swarm;
    use libp2p_swarm_test::SwarmExt;
    use tokio::sync::oneshot;

    use super::super::super::events::{self, NetEvent, NetEvents};
    use super::super::NetStream;
    use super::*;

    fn behaviour(limits: &NetLimits) -> (Behaviour, NetEvents) {
        let protocols = Protocols::new("test").unwrap();
        let (sink, events) = events::channel(limits);
        let metrics = NetMetrics::default();
        (Behaviour::new(&protocols, limits, sink, metrics), events)
    }

    fn swarm(limits: &NetLimits) -> (Swarm<Behaviour>, NetEvents) {
        let (behaviour, events) = behaviour(limits);
        (Swarm::new_ephemeral_tokio(|_| behaviour), events)
    }

    type Opened = oneshot::Receiver<Result<NetStream, OpenError>>;

    fn open(swarm: &mut Swarm<Behaviour>, peer: PeerId) -> (bool, Opened) {
        let (reply, opened) = oneshot::channel();
        let dial = swarm.behaviour_mut().open(peer, StreamKind::Log, reply);
        (dial, opened)
    }

    #[tokio::test]
    async fn a_stream_waits_for_the_connection() {
        let limits = NetLimits::default();
        let ((mut a, _), (mut b, mut events)) = (swarm(&limits), swarm(&limits));
        let (from, to) = (*a.local_peer_id(), *b.local_peer_id());
        let (dial, opened) = open(&mut a, to);
        assert!(dial);
        b.listen().with_memory_addr_external().await;
        a.connect(&mut b).await;
        tokio::spawn(a.loop_on_next());
        tokio::spawn(b.loop_on_next());
        assert_eq!(opened.await.unwrap().unwrap().peer(), to);
        match events.recv().await {
            Some(NetEvent::Stream { peer, kind, .. }) => {
                assert_eq!((peer, kind), (from, StreamKind::Log));
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_failed_dial_fails_the_streams_that_wait() {
        let (mut a, _events) = swarm(&NetLimits::default());
        let peer = PeerId::random();
        let (dial, opened) = open(&mut a, peer);
        assert!(dial);
        assert!(a.dial(peer).is_err(), "no address");
        assert!(matches!(opened.await.unwrap(), Err(OpenError::Unreachable)));
        assert!(a.behaviour().waiting.is_empty());
    }

    #[tokio::test]
    async fn who_does_not_speak_it_says_so() {
        let (mut a, _events) = swarm(&NetLimits::default());
        let mut other = Swarm::new_ephemeral_tokio(|_| libp2p::ping::Behaviour::default());
        other.listen().with_memory_addr_external().await;
        a.connect(&mut other).await;
        let (_, opened) = open(&mut a, *other.local_peer_id());
        tokio::spawn(a.loop_on_next());
        tokio::spawn(other.loop_on_next());
        assert!(matches!(opened.await.unwrap(), Err(OpenError::Unsupported)));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_forgets_nothing() {
        let limits = NetLimits {
            waiting_streams: 3,
            ..NetLimits::default()
        };
        let ((mut a, _), (mut b, mut events)) = (swarm(&limits), swarm(&limits));
        b.listen().with_memory_addr_external().await;
        a.connect(&mut b).await;
        let to = *b.local_peer_id();
        let opening: Vec<_> = (0..10).map(|_| open(&mut a, to).1).collect();
        let refused = b.behaviour().shared.metrics.streams_refused.clone();
        tokio::spawn(a.loop_on_next());
        tokio::spawn(b.loop_on_next());
        let mut held = Vec::new();
        for opened in opening {
            match opened.await.unwrap() {
                Ok(stream) => held.push(stream),
                Err(error) => assert_eq!(error, OpenError::Refused),
            }
        }
        assert_eq!(held.len(), 3);
        assert_eq!(refused.get(), 7);
        for _ in 0..3 {
            assert!(matches!(events.recv().await, Some(NetEvent::Stream { .. })));
        }
    }

    #[test]
    fn the_best_connection_carries_the_stream() {
        let (mut behaviour, _events) = behaviour(&NetLimits::default());
        let peer = PeerId::random();
        let relay = PeerId::random();
        let id = ConnectionId::new_unchecked;
        assert_eq!(behaviour.best(&peer), None);
        let relayed = format!("/ip4/8.8.8.8/tcp/1/p2p/{relay}/p2p-circuit");
        for (number, address) in [
            (1, relayed.as_str()),
            (2, "/ip4/8.8.8.8/udp/1/quic-v1"),
            (3, "/ip4/8.8.8.8/tcp/1"),
            (4, "/ip4/8.8.8.8/udp/2/quic-v1"),
            (5, relayed.as_str()),
        ] {
            behaviour.on_established(peer, id(number), &address.parse().unwrap());
        }
        for (closed, next) in [
            (3, Some(4)),
            (4, Some(2)),
            (2, Some(5)),
            (5, Some(1)),
            (1, None),
        ] {
            assert_eq!(behaviour.best(&peer), Some(id(closed)));
            behaviour.on_closed(peer, id(closed));
            assert_eq!(behaviour.best(&peer), next.map(id));
        }
        assert!(behaviour.connections.is_empty());
    }
}
