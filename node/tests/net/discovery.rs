//! Peers find each other through one address.

use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use p2pnode_node::net::{Misdeed, MisdeedLabel, NetConfig, NetLimits, ReachConfig};

use crate::support::{
    Node, PATIENCE, connected, eventually, last_advert, loopback, memory, now_ms, start,
    start_beside,
};

async fn everyone_knows_everyone(nodes: &mut [Node]) {
    let ids: Vec<PeerId> = nodes.iter().map(Node::id).collect();
    for node in nodes {
        let others: Vec<_> = ids.iter().filter(|id| **id != node.id()).copied().collect();
        node.until("all the others", |log| {
            others.iter().all(|peer| connected(log, *peer))
        })
        .await;
    }
}

#[tokio::test]
async fn three_nodes_find_each_other_through_one_address() {
    let a = start(loopback()).await;
    let b = start_beside(&a, loopback()).await;
    let c = start_beside(&a, loopback()).await;
    everyone_knows_everyone(&mut [a, b, c]).await;
}

#[tokio::test]
async fn the_bootstrap_node_may_come_last() {
    let a = start(loopback()).await;
    let address = a.address();
    drop(a);
    // Its port stays closed until the others have tried in vain.
    let config = || NetConfig {
        bootstrap: vec![address.clone()],
        ..loopback()
    };
    let mut b = start(config()).await;
    let mut c = start(config()).await;
    let again = NetConfig {
        listen: vec![address.clone()],
        ..loopback()
    };
    eventually("the port to be free", || async {
        std::net::TcpListener::bind(socket(&address)).is_ok()
    })
    .await;
    let a = start(again).await;
    b.until_connected(a.id()).await;
    c.until_connected(a.id()).await;
    everyone_knows_everyone(&mut [a, b, c]).await;
}

fn socket(address: &libp2p::Multiaddr) -> std::net::SocketAddr {
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (
            Some(libp2p::multiaddr::Protocol::Ip4(ip)),
            Some(libp2p::multiaddr::Protocol::Tcp(port)),
        ) => (ip, port).into(),
        _ => panic!("{address}"),
    }
}

#[tokio::test]
async fn quic_alone_and_both_transports() {
    for listen in [
        vec!["/ip4/127.0.0.1/udp/0/quic-v1"],
        vec!["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"],
    ] {
        let config = || NetConfig {
            listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
            ..loopback()
        };
        let a = start(config()).await;
        let b = start_beside(&a, config()).await;
        let c = start_beside(&a, config()).await;
        everyone_knows_everyone(&mut [a, b, c]).await;
    }
}

#[tokio::test]
async fn twenty_nodes_in_one_process() {
    let mut nodes = vec![start(memory()).await];
    for _ in 1..20 {
        let node = start_beside(&nodes[0], memory()).await;
        nodes.push(node);
    }
    everyone_knows_everyone(&mut nodes).await;
    // Word of one reaches all.
    let issued_ms = now_ms();
    let last = nodes.len() - 1;
    let (speaker, advert) = (nodes[last].id(), nodes[last].advert(issued_ms));
    nodes[last].handle.publish(advert).await;
    for node in &mut nodes[..last] {
        node.until_advert(speaker, issued_ms).await;
    }
}

#[tokio::test]
async fn a_pre_shared_key_keeps_others_out() {
    let key = |byte| libp2p::pnet::PreSharedKey::new([byte; 32]);
    let with = |psk| NetConfig { psk, ..loopback() };
    let mut a = start(with(Some(key(1)))).await;
    let mut member = start_beside(&a, with(Some(key(1)))).await;
    let stranger = start_beside(&a, with(Some(key(2)))).await;
    let nobody = start_beside(&a, with(None)).await;
    member.until_connected(a.id()).await;
    a.until_connected(member.id()).await;
    // The strangers were there first, and have tried by now.
    for node in [&stranger, &nobody] {
        assert!(!connected(&a.log, node.id()));
        assert!(node.handle.peers().await.iter().all(|peer| !peer.connected));
    }
    // What makes no sense may look like the first half of something: then it takes a timeout.
    let address = &a.handle.listen_addresses()[0];
    tokio::join!(
        unreached(&stranger, address, "another key"),
        unreached(&nobody, address, "another key")
    );
}

/// Waits until a node says that the bootstrap node at `address` is not reached, and why.
async fn unreached(node: &Node, address: &Multiaddr, why: &str) {
    eventually(why, || async {
        let all = node.handle.reachability().await.bootstrap;
        all.iter().any(|(which, said)| {
            which == address && said.as_ref().is_some_and(|said| said.contains(why))
        })
    })
    .await;
}

#[tokio::test]
async fn it_is_said_why_a_peer_is_not_reached() {
    let gone = start(loopback()).await;
    let (address, peer) = (gone.handle.listen_addresses()[0].clone(), gone.id());
    gone.handle.shutdown().await;
    let there = start(loopback()).await;
    let its = there.handle.listen_addresses()[0].clone();
    let taken = its.clone().with(Protocol::P2p(peer));
    let relay = its.with(Protocol::P2p(there.id()));
    let behind = PeerId::random();
    let circuit = relay.with(Protocol::P2pCircuit).with(Protocol::P2p(behind));
    let node = start(NetConfig {
        bootstrap: vec![address.clone(), taken.clone(), circuit.clone()],
        ..loopback()
    })
    .await;
    unreached(&node, &address, "nobody listens at").await;
    unreached(&node, &taken, "another node").await;
    unreached(&node, &circuit, "it does not relay").await;
    for (peer, said) in [(peer, there.id()), (behind, there.id())] {
        let why = node.handle.trouble(peer).await.unwrap();
        assert!(why.contains(&said.to_string()), "{why}");
    }
    // It was reached, to be asked.
    assert_eq!(node.handle.trouble(there.id()).await, None);
}

#[tokio::test]
async fn another_network_is_left_alone() {
    let a = start(loopback()).await;
    let other = NetConfig {
        network: "other".to_owned(),
        ..loopback()
    };
    let other = start_beside(&a, other).await;
    let label = MisdeedLabel {
        kind: Misdeed::OtherNetwork.name().to_owned(),
    };
    // Whoever finds out first closes the connection, and the other may never know why.
    eventually("one of them to notice", || async {
        [&a, &other].iter().any(|node| {
            let metrics = node.handle.metrics();
            metrics.misdeeds.get_or_create(&label).get() > 0 && metrics.peers_shut_out.get() > 0
        })
    })
    .await;
    eventually("both to be alone", || async {
        a.handle.metrics().connections.get() == 0 && other.handle.metrics().connections.get() == 0
    })
    .await;
}

#[tokio::test]
async fn a_peer_is_sought_in_the_dht() {
    let mut hub = start(memory()).await;
    let far = start_beside(&hub, memory()).await;
    hub.until_connected(far.id()).await;

    // Nobody to ask: nothing comes of it, and nothing stays behind.
    let alone = start(memory()).await;
    alone.handle.connect(far.id()).await;
    assert!(
        alone
            .handle
            .peers()
            .await
            .iter()
            .all(|peer| !peer.connected)
    );

    let known = NetConfig {
        known_peers: vec![(hub.id(), hub.handle.listen_addresses())],
        ..memory()
    };
    let mut late = start(known).await;
    late.until_connected(hub.id()).await;
    late.handle.connect(far.id()).await;
    late.until_connected(far.id()).await;
}

#[tokio::test]
async fn providers_are_found_through_the_dht() {
    let hub = start(memory()).await;
    let provider = start_beside(&hub, memory()).await;
    let issued_ms = now_ms();
    provider.handle.publish(provider.advert(issued_ms)).await;
    provider.handle.provide(true).await;
    let mut seeker = start_beside(&hub, memory()).await;
    seeker.until_connected(hub.id()).await;
    let wanted = provider.id();
    // The record may still be on its way.
    let found = async {
        while last_advert(&seeker.log, wanted) != Some(issued_ms) {
            seeker.handle.find_providers().await;
            let soon = Duration::from_millis(100);
            while let Ok(Some(event)) = tokio::time::timeout(soon, seeker.events.recv()).await {
                seeker.log.push(event);
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
    assert!(connected(&seeker.log, wanted));
}

#[tokio::test]
async fn peers_are_remembered_with_their_addresses() {
    let (a, mut b) = crate::support::pair().await;
    let remembered = b
        .handle
        .peers()
        .await
        .into_iter()
        .find(|peer| peer.peer == a.id())
        .unwrap();
    assert_eq!(remembered.addresses[0], a.address());
    assert!(remembered.connected && !remembered.relayed);
    eventually("a round trip and an agent", || async {
        let peers = b.handle.peers().await;
        let peer = peers.iter().find(|peer| peer.peer == a.id()).unwrap();
        peer.rtt.is_some() && peer.agent.starts_with("p2pnode/")
    })
    .await;
    // Enough for the next start, without any bootstrap node.
    b.handle.shutdown().await;
    while b.events.recv().await.is_some() {}
    let known = NetConfig {
        known_peers: vec![(a.id(), remembered.addresses)],
        limits: NetLimits::default(),
        ..loopback()
    };
    start(known).await.until_connected(a.id()).await;
}

#[tokio::test]
async fn all_ways_through_nat_may_be_switched_on() {
    // All but UPnP, which would ask the router of the machine that this runs on.
    let config = || NetConfig {
        reach: ReachConfig {
            upnp: false,
            ..ReachConfig::default()
        },
        external: vec!["/ip4/198.51.100.7/tcp/4001".parse().unwrap()],
        ..loopback()
    };
    let a = start(config()).await;
    let b = start_beside(&a, config()).await;
    assert_eq!(a.handle.external_addresses(), config().external);
    everyone_knows_everyone(&mut [a, b]).await;
}
