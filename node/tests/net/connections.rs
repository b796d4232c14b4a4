//! Connections come, go and are told of.

use p2pnode_node::net::NetConfig;

use crate::support::{connected, loopback, pair, start, start_beside};

#[tokio::test]
async fn a_peer_that_ends_is_noticed() {
    let (mut a, b) = pair().await;
    let id = b.id();
    b.handle.shutdown().await;
    a.until("the loss", |log| !connected(log, id)).await;
}

#[tokio::test]
async fn a_peer_that_is_dropped_without_a_word_is_noticed() {
    let (mut a, b) = pair().await;
    let id = b.id();
    drop(b);
    a.until("the loss", |log| !connected(log, id)).await;
}

#[tokio::test]
async fn a_lost_bootstrap_node_is_dialled_again() {
    let mut a = start(loopback()).await;
    let mut b = start_beside(&a, loopback()).await;
    b.until_connected(a.id()).await;
    a.until_connected(b.id()).await;
    a.handle.disconnect(b.id()).await;
    let id = b.id();
    a.until("the loss", |log| !connected(log, id)).await;
    a.until_connected(b.id()).await;
}

#[tokio::test]
async fn both_may_dial_at_once() {
    let mut a = start(loopback()).await;
    let mut b = start_beside(&a, loopback()).await;
    b.until_connected(a.id()).await;
    for _ in 0..20 {
        tokio::join!(a.handle.disconnect(b.id()), async {
            b.handle.disconnect(a.id()).await
        },);
        tokio::join!(a.handle.connect(b.id()), b.handle.connect(a.id()));
    }
    let (mut a_sees, mut b_sees) = (false, false);
    let (a_id, b_id) = (a.id(), b.id());
    let agreed = async {
        // Whatever came of it, a last wish is fulfilled on both sides.
        while !(a_sees && b_sees) {
            a.handle.connect(b_id).await;
            let is = |peers: Vec<p2pnode_node::net::PeerSnapshot>, id| {
                peers.iter().any(|peer| peer.peer == id && peer.connected)
            };
            a_sees = is(a.handle.peers().await, b_id);
            b_sees = is(b.handle.peers().await, a_id);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, agreed)
        .await
        .unwrap();
    a.until_connected(b_id).await;
    b.until_connected(a_id).await;
}

#[tokio::test]
async fn a_peer_that_is_away_for_a_while_is_found_again_by_who_is_alone() {
    let mut b = start(loopback()).await;
    let (listen, keypair) = (b.handle.listen_addresses(), b.key.clone());
    let known = NetConfig {
        known_peers: vec![(b.id(), listen.clone())],
        ..loopback()
    };
    let mut a = start(known).await;
    a.until_connected(b.id()).await;
    b.until_connected(a.id()).await;
    let id = b.id();
    b.handle.shutdown().await;
    a.until("the loss", |log| !connected(log, id)).await;
    // Longer than the first, quick dials take: at 0, 0.2, 0.6 and 1.4 s.
    tokio::time::sleep(std::time::Duration::from_millis(1_800)).await;
    let _b = start(NetConfig {
        listen,
        keypair,
        ..loopback()
    })
    .await;
    a.until_connected(id).await;
}

#[tokio::test]
async fn a_round_trip_is_measured_when_it_is_asked_for() {
    let (a, b) = pair().await;
    let echoed = a.handle.ping(b.id()).await.expect("a connection");
    assert!(echoed.rtt.is_some() && !echoed.relayed);
    let links = a.handle.links(b.id()).await;
    let chosen: Vec<_> = links.iter().filter(|link| link.chosen).collect();
    let [link] = chosen.as_slice() else {
        panic!("{links:?}")
    };
    assert_eq!((link.relay, link.relayed), (None, false));
    assert!(links.iter().any(|link| link.rtt.is_some()));

    let stranger = libp2p::PeerId::random();
    assert!(a.handle.ping(stranger).await.is_none());
    assert!(a.handle.links(stranger).await.is_empty());
}

#[tokio::test]
async fn the_dht_says_where_a_node_is() {
    let mut a = start(loopback()).await;
    let mut b = start_beside(&a, loopback()).await;
    let c = start_beside(&a, loopback()).await;
    b.until_connected(a.id()).await;
    a.until_connected(b.id()).await;
    a.until_connected(c.id()).await;
    let found = async {
        // It is known there once it has said who it is.
        while !b.handle.find(c.id()).await.contains(&c.address()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, found)
        .await
        .expect("found");
    let stranger = libp2p::PeerId::random();
    assert!(b.handle.find(stranger).await.is_empty());
}
