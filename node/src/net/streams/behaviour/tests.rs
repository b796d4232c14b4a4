//! Streams find their connection, or wait for it.

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
        let quality = Quality::of(&address.parse().unwrap(), None);
        behaviour.on_established(peer, id(number), quality);
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

#[test]
fn bulk_data_waits_for_a_direct_connection_and_nothing_else_does() {
    let (mut behaviour, _events) = behaviour(&NetLimits::default());
    let peer = PeerId::random();
    let id = ConnectionId::new_unchecked;
    let open = |behaviour: &mut Behaviour, kind| {
        let (reply, opened) = oneshot::channel();
        assert!(!behaviour.open(peer, kind, reply));
        opened
    };
    let sent = |behaviour: &mut Behaviour| -> Vec<(StreamKind, ConnectionId)> {
        let orders = behaviour.orders.drain(..);
        orders.map(|(_, id, wish)| (wish.kind, id)).collect()
    };
    behaviour.on_established(peer, id(1), Quality::Relayed);
    let first = open(&mut behaviour, StreamKind::Blob);
    let _log = open(&mut behaviour, StreamKind::Log);
    assert_eq!(sent(&mut behaviour), [(StreamKind::Log, id(1))]);
    assert!(behaviour.deadline().is_some());

    behaviour.on_established(peer, id(2), Quality::Quic);
    assert_eq!(sent(&mut behaviour), [(StreamKind::Blob, id(2))]);
    assert_eq!(behaviour.deadline(), None);
    drop(first);

    // The hole closed again: nobody waits for another, the first wait being over.
    behaviour.on_closed(peer, id(2));
    behaviour.expect_no_direct(peer);
    let _second = open(&mut behaviour, StreamKind::Blob);
    assert_eq!(sent(&mut behaviour), [(StreamKind::Blob, id(1))]);

    // A wait ends by itself.
    behaviour.on_closed(peer, id(1));
    behaviour.on_established(peer, id(3), Quality::Relayed);
    let _third = open(&mut behaviour, StreamKind::Blob);
    behaviour.on_deadline(Instant::now());
    assert!(sent(&mut behaviour).is_empty());
    // Time is over for the connection too, so the stream does not begin to wait anew.
    behaviour.connections.get_mut(&peer).unwrap()[0].patient_until = Some(Instant::now());
    behaviour.on_deadline(Instant::now() + DIRECT_PATIENCE);
    assert_eq!(sent(&mut behaviour), [(StreamKind::Blob, id(3))]);

    // Who is lost has nothing to wait for.
    behaviour.connections.get_mut(&peer).unwrap()[0].patient_until =
        Some(Instant::now() + DIRECT_PATIENCE);
    let mut fourth = open(&mut behaviour, StreamKind::Blob);
    behaviour.on_closed(peer, id(3));
    assert!(matches!(fourth.try_recv(), Ok(Err(OpenError::Unreachable))));
}

#[test]
fn a_stream_through_a_relay_hears_of_the_direct_connection() {
    let (mut behaviour, _events) = behaviour(&NetLimits::default());
    let peer = PeerId::random();
    let id = ConnectionId::new_unchecked;
    behaviour.on_established(peer, id(1), Quality::Relayed);
    let better = |behaviour: &Behaviour, place: usize| {
        let path = &behaviour.connections[&peer][place].path;
        path.better().is_cancelled()
    };
    assert!(!better(&behaviour, 0));
    behaviour.on_established(peer, id(2), Quality::Direct);
    assert!(better(&behaviour, 0) && !better(&behaviour, 1));
    behaviour.on_established(peer, id(3), Quality::Relayed);
    assert!(better(&behaviour, 2), "it was too late from the start");
}
