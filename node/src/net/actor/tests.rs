//! The actor among others, over channels in memory, and what must not end it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::FutureExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, identify, relay, upnp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::behaviour::{Behaviour, BehaviourEvent};
use super::super::config::ReachConfig;
use super::super::reach::{RelayLimits, RelayPolicy, relay_server};
use super::super::{
    LinkSnapshot, NetConfig, NetEvent, NetEvents, NetHandle, OpenError, ReachState, StreamKind,
    prepare,
};
use super::*;

mod circuits;

/// How long the nodes here wait for a place at a relay.
const PATIENCE: Duration = Duration::from_millis(50);

/// Nothing here takes a second on an idle machine; this is for a busy one.
const LIMIT: Duration = Duration::from_secs(60);

fn config() -> NetConfig {
    NetConfig::in_memory(Keypair::generate_ed25519(), "test")
}

async fn begun(config: NetConfig) -> (NetActor, NetHandle, NetEvents) {
    prepare(config).await.unwrap()
}

/// A relay that runs. Returns its address, with its id.
async fn running_relay() -> (Multiaddr, (NetHandle, NetEvents)) {
    relay_with(RelayPolicy::On.limits().unwrap()).await
}

/// The same with these limits.
async fn relay_with(limits: RelayLimits) -> (Multiaddr, (NetHandle, NetEvents)) {
    let reach = ReachConfig {
        relay: RelayPolicy::On,
        ..ReachConfig::none()
    };
    let (mut actor, handle, events) = begun(NetConfig { reach, ..config() }).await;
    let server = actor.swarm.behaviour_mut().0.relay_server.as_mut();
    *server.unwrap() = relay_server(handle.local_peer_id(), limits);
    let address = actor.swarm.listeners().next().unwrap().clone();
    actor.swarm.add_external_address(address.clone());
    actor.on_addresses();
    let address = address.with(Protocol::P2p(handle.local_peer_id()));
    tokio::spawn(actor.run());
    (address, (handle, events))
}

/// A node that runs and has a place at `relay`. Returns its own address, too.
async fn hidden_behind(relay: &Multiaddr) -> (Multiaddr, NetHandle, NetEvents) {
    let bootstrap = vec![relay.clone()];
    let config = NetConfig {
        bootstrap,
        ..config()
    };
    let (mut actor, handle, events) = begun(config).await;
    let direct = actor.swarm.listeners().next().unwrap().clone();
    actor.handlers.reach.hide(LIMIT);
    actor.handlers.reach.linger_for(PATIENCE);
    tokio::spawn(actor.run());
    let placed = async {
        while handle.reachability().await.relays.is_empty() {
            tokio::time::sleep(PATIENCE / 10).await;
        }
    };
    tokio::time::timeout(LIMIT, placed).await.unwrap();
    (direct, handle, events)
}

/// Has the actor work until `wanted` is there.
async fn work<T>(actor: &mut NetActor, wanted: impl Future<Output = T>) -> T {
    let working = async {
        tokio::pin!(wanted);
        loop {
            tokio::select! {
                found = &mut wanted => return found,
                flow = actor.step() => assert!(flow.is_continue()),
            }
        }
    };
    tokio::time::timeout(LIMIT, working).await.unwrap()
}

/// A peer as it is connected from the Internet.
fn meet(actor: &mut NetActor, remote: &str) -> PeerId {
    let (peer, number) = (PeerId::random(), actor.common.peers.connected_count());
    let link = Link {
        id: ConnectionId::new_unchecked(1_000 + number),
        remote: remote.parse().unwrap(),
        dialled: true,
        relayed: false,
        circuit: None,
        since: Instant::now(),
        rtt: None,
    };
    actor.common.peers.connected_now(peer, link);
    actor.handlers.reach.has_server(peer);
    peer
}

/// `server` says that it reached this node there.
fn reached(actor: &mut NetActor, server: PeerId, at: &Multiaddr) {
    let mut cx = actor.common.context(&mut actor.swarm);
    actor.handlers.reach.hear(&mut cx, server, Some(at.clone()));
    actor.perform();
}

/// The router says something.
fn upnp(actor: &mut NetActor, event: &upnp::Event) {
    let mut cx = actor.common.context(&mut actor.swarm);
    actor.handlers.reach.on_upnp(&mut cx, event);
    actor.perform();
}

#[tokio::test]
async fn two_peers_make_a_node_public_and_a_lost_address_ends_it() {
    let (mut actor, handle, _events) = begun(config()).await;
    let at: Multiaddr = "/ip4/9.9.9.9/tcp/4001".parse().unwrap();
    let state = |actor: &NetActor| actor.handlers.reach.snapshot().state;
    let first = meet(&mut actor, "/ip4/5.0.1.2/tcp/1");
    let second = meet(&mut actor, "/ip4/6.0.1.2/tcp/1");
    reached(&mut actor, first, &at);
    assert!(handle.external_addresses().is_empty());
    reached(&mut actor, second, &at);
    assert_eq!(handle.external_addresses(), std::slice::from_ref(&at));
    assert_eq!(state(&actor), ReachState::Public);
    actor.on_moved(&"/ip4/192.168.1.5/tcp/4001".parse().unwrap());
    actor.perform();
    assert!(handle.external_addresses().is_empty());
    assert_ne!(state(&actor), ReachState::Public);

    // What the settings say is nobody's to take back.
    let external = vec![at.clone()];
    let (mut actor, handle, _events) = begun(NetConfig {
        external,
        ..config()
    })
    .await;
    let alone = meet(&mut actor, "/ip4/5.0.1.2/tcp/1");
    reached(&mut actor, alone, &at);
    actor.on_moved(&"/ip4/192.168.1.5/tcp/4001".parse().unwrap());
    actor.perform();
    assert_eq!(handle.external_addresses(), [at]);
}

#[tokio::test]
async fn what_a_router_forwards_no_more_stays_if_others_stand_for_it() {
    let named: Multiaddr = "/ip4/9.9.9.9/tcp/4001".parse().unwrap();
    let seen: Multiaddr = "/ip4/9.9.9.9/tcp/4002".parse().unwrap();
    let routers: Multiaddr = "/ip4/9.9.9.9/tcp/4003".parse().unwrap();
    let external = vec![named.clone()];
    let (mut actor, handle, _events) = begun(NetConfig {
        external,
        ..config()
    })
    .await;
    for remote in ["/ip4/5.0.1.2/tcp/1", "/ip4/6.0.1.2/tcp/1"] {
        let peer = meet(&mut actor, remote);
        reached(&mut actor, peer, &seen);
    }
    let local_addr: Multiaddr = "/ip4/192.168.1.5/tcp/4001".parse().unwrap();
    for external_addr in [&named, &seen, &routers] {
        let (local_addr, external_addr) = (local_addr.clone(), external_addr.clone());
        actor.swarm.add_external_address(external_addr.clone());
        upnp(
            &mut actor,
            &upnp::Event::NewExternalAddr {
                local_addr,
                external_addr,
            },
        );
    }
    for external_addr in [&named, &seen, &routers] {
        let (local_addr, external_addr) = (local_addr.clone(), external_addr.clone());
        // libp2p's part of it.
        actor.swarm.remove_external_address(&external_addr);
        upnp(
            &mut actor,
            &upnp::Event::ExpiredExternalAddr {
                local_addr,
                external_addr,
            },
        );
    }
    actor.on_addresses();
    let mut left = handle.external_addresses();
    left.sort();
    assert_eq!(left, [named, seen]);
}

#[tokio::test]
async fn a_peer_that_left_has_no_voice_until_it_says_anew_that_it_has_one() {
    let (mut actor, handle, _events) = begun(config()).await;
    let at: Multiaddr = "/ip4/9.9.9.9/tcp/4001".parse().unwrap();
    let first = meet(&mut actor, "/ip4/5.0.1.2/tcp/1");
    let second = meet(&mut actor, "/ip4/6.0.1.2/tcp/1");
    // With these two there, one voice is not enough.
    meet(&mut actor, "/ip4/7.0.1.2/tcp/1");
    let link = actor.common.peers.get(&first).unwrap().links[0].clone();
    actor.common.peers.disconnected_now(&first, link.id);
    reached(&mut actor, first, &at);
    reached(&mut actor, second, &at);
    assert!(handle.external_addresses().is_empty());
    actor.common.peers.connected_now(first, link);
    reached(&mut actor, first, &at);
    assert!(handle.external_addresses().is_empty());
    actor.handlers.reach.has_server(first);
    reached(&mut actor, first, &at);
    assert_eq!(handle.external_addresses(), [at]);
}

#[tokio::test]
async fn a_lost_address_says_nothing_about_nat() {
    let (mut actor, _handle, _events) = begun(config()).await;
    actor.handlers.reach.hide(PATIENCE);
    actor.on_moved(&"/ip4/172.17.0.1/tcp/4001".parse().unwrap());
    actor.perform();
    let state = actor.handlers.reach.snapshot().state;
    assert_eq!(state, ReachState::Hidden);
}

#[tokio::test]
async fn a_relayed_connection_stays_while_a_stream_runs_on_it() {
    let (relay, (serving, _serving_events)) = running_relay().await;
    let (direct, hidden, mut hidden_events) = hidden_behind(&relay).await;
    let whom = hidden.local_peer_id();

    let (mut actor, handle, _events) = begun(config()).await;
    actor.handlers.reach.linger_for(PATIENCE);
    let circuit = relay.with(Protocol::P2pCircuit).with(Protocol::P2p(whom));
    actor.dial(DialOpts::peer_id(whom).addresses(vec![circuit]).build());
    let opening = handle.open_stream(whom, StreamKind::Log);
    let mut stream = work(&mut actor, opening).await.unwrap();
    assert!(stream.is_relayed());
    let mut other = loop {
        if let Some(NetEvent::Stream { stream, .. }) = hidden_events.recv().await {
            break stream;
        }
    };
    let counted = serving.metrics();
    let counted = || (counted.relay_clients.get(), counted.relay_circuits.get());
    // The relay says it a moment after the circuit stands.
    let noted = async {
        while counted() != (1, 1) {
            tokio::time::sleep(PATIENCE / 10).await;
        }
    };
    tokio::time::timeout(LIMIT, work(&mut actor, noted))
        .await
        .unwrap();
    actor.dial(DialOpts::unknown_peer_id().address(direct).build());
    work(&mut actor, stream.better_way().cancelled()).await;
    // Much longer than a needless connection stays.
    work(&mut actor, tokio::time::sleep(PATIENCE * 10)).await;
    work(&mut actor, stream.write_all(b"still here"))
        .await
        .unwrap();
    work(&mut actor, stream.flush()).await.unwrap();
    let mut came = [0; 10];
    work(&mut actor, other.read_exact(&mut came)).await.unwrap();
    assert_eq!(&came, b"still here");

    // And no longer than that.
    drop((stream, other));
    let alone = async {
        let relayed = |links: Vec<LinkSnapshot>| links.iter().any(|link| link.relayed);
        while relayed(handle.links(whom).await) || counted() != (1, 0) {
            tokio::time::sleep(PATIENCE / 10).await;
        }
    };
    work(&mut actor, alone).await;
    assert_eq!(actor.common.peers.get(&whom).unwrap().links.len(), 1);
    hidden.shutdown().await;
}

#[tokio::test]
async fn a_hole_is_tried_again_while_the_relayed_connection_is_in_use() {
    let (relay, _relay) = running_relay().await;
    let (_direct, hidden, mut hidden_events) = hidden_behind(&relay).await;
    let whom = hidden.local_peer_id();
    let reach = ReachConfig {
        hole_punching: true,
        ..ReachConfig::none()
    };
    let (mut actor, handle, _events) = begun(NetConfig { reach, ..config() }).await;
    actor.handlers.reach.retry_after(PATIENCE);
    let circuit = relay.with(Protocol::P2pCircuit).with(Protocol::P2p(whom));
    actor.dial(DialOpts::peer_id(whom).addresses(vec![circuit]).build());
    let stream = work(&mut actor, handle.open_stream(whom, StreamKind::Log)).await;
    let _stream = stream.unwrap();
    let _other = hidden_events.recv().await;
    // One more, on which libp2p tries anew; it goes, and the next comes.
    for wanted in [2, 1, 2] {
        let there = async {
            while handle.links(whom).await.len() != wanted {
                tokio::time::sleep(PATIENCE / 10).await;
            }
        };
        work(&mut actor, there).await;
    }
    hidden.shutdown().await;
}

/// A relay's swarm, to be polled by hand: what it says waits while it is not.
async fn relay() -> Swarm<Quiet<Behaviour>> {
    let reach = ReachConfig {
        relay: RelayPolicy::On,
        ..ReachConfig::none()
    };
    let (mut actor, _, _) = prepare(NetConfig { reach, ..config() }).await.unwrap();
    let address = actor.swarm.listeners().next().unwrap().clone();
    actor.swarm.add_external_address(address);
    let server = actor.swarm.behaviour_mut().0.relay_server.as_mut().unwrap();
    server.set_status(Some(relay::Status::Enable));
    actor.swarm
}

#[tokio::test]
async fn a_place_that_is_given_late_is_a_place_and_no_fault() {
    let mut relay = relay().await;
    let id = *relay.local_peer_id();
    let bootstrap = relay.listeners().cloned().collect();
    let (mut actor, handle, _events) = prepare(NetConfig {
        bootstrap,
        ..config()
    })
    .await
    .unwrap();
    actor.handlers.reach.hide(PATIENCE);
    let running = tokio::spawn(actor.run());

    // The relay says who it is, and then nothing until the request has waited for much longer than we do.
    let introduced = async {
        loop {
            let event = relay.select_next_some().await;
            let sent = matches!(
                event,
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. }))
            );
            if sent {
                break;
            }
        }
    };
    tokio::time::timeout(LIMIT, introduced).await.unwrap();
    tokio::time::sleep(PATIENCE * 10).await;
    assert!(handle.reachability().await.relays.is_empty());

    let held = async {
        loop {
            while relay.next().now_or_never().is_some() {}
            let reach = handle.reachability().await;
            if reach.relays == [id] {
                break reach.state;
            }
            assert!(!running.is_finished(), "the network has ended");
            tokio::time::sleep(PATIENCE / 10).await;
        }
    };
    let state = tokio::time::timeout(LIMIT, held).await.unwrap();
    assert_eq!(state, ReachState::Relayed);
    handle.shutdown().await;
    running.await.unwrap();
}

#[tokio::test]
async fn the_events_of_a_network_that_broke_end() {
    let (relay, _relay) = running_relay().await;
    let bootstrap = vec![relay];
    let (actor, handle, mut events) = begun(NetConfig {
        bootstrap,
        ..config()
    })
    .await;
    let running = tokio::spawn(actor.run());
    let ending = async {
        while let Some(event) = events.recv().await {
            if matches!(event, NetEvent::Connected(_)) {
                // As a panic would: its connections have tasks of their own.
                running.abort();
            }
        }
    };
    tokio::time::timeout(LIMIT, ending).await.unwrap();
    let asked = handle.open_stream(PeerId::random(), StreamKind::Log).await;
    assert_eq!(asked.map(drop), Err(OpenError::Stopped));
}
