//! What the routing table holds of one peer.
#![allow(clippy::unwrap_used)]

use libp2p::identity::Keypair;

use super::super::{NetConfig, prepare};
use super::*;

#[tokio::test]
async fn a_peer_that_moves_all_day_fills_no_routing_table() {
    let config = NetConfig::in_memory(Keypair::generate_ed25519(), "test");
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let peer = PeerId::random();
    let at = |port: u32| -> Vec<Multiaddr> {
        let ports = [2 * port, 2 * port + 1];
        let text = |port| format!("/ip4/127.0.0.1/tcp/{port}");
        ports.map(|port| text(port).parse().unwrap()).to_vec()
    };
    for port in 1..500 {
        actor.with(|cx| route(cx, peer, &at(port)));
    }
    let known = actor.with(|cx| routed(cx, peer));
    let named = |address: &Multiaddr| address.clone().with_p2p(peer).unwrap();
    let expected: Vec<Multiaddr> = at(499).iter().map(named).collect();
    assert_eq!(known, expected);
    // Who has no address to tell stays where it was.
    actor.with(|cx| route(cx, peer, &[]));
    assert_eq!(actor.with(|cx| routed(cx, peer)), expected);
}
