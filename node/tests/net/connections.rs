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
