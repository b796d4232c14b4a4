//! Who may seek how many.
#![allow(clippy::unwrap_used)]

use libp2p::identity::Keypair;

use super::super::{NetConfig, prepare};
use super::*;

#[tokio::test]
async fn strangers_leave_room_for_those_that_are_named() {
    let config = NetConfig::in_memory(Keypair::generate_ed25519(), "test");
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let mut seeking = Seeking::default();
    actor.with(|cx| {
        let strangers = (0..1_000).filter(|_| seeking.connect_stranger(cx, PeerId::random()));
        assert_eq!(strangers.count(), MAX_STRANGERS);
        let named = PeerId::random();
        seeking.connect(cx, named);
        assert!(seeking.wanted.contains_key(&named));
        for _ in 0..1_000 {
            seeking.connect(cx, PeerId::random());
        }
        assert_eq!(seeking.wanted.len(), MAX_WANTED);
    });
}

#[tokio::test]
async fn what_the_dht_says_of_a_stranger_is_kept_as_far_as_it_may_be_dialled() {
    let config = NetConfig::in_memory(Keypair::generate_ed25519(), "test");
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let said = ["/ip4/192.168.1.1/tcp/80", "/ip4/9.9.9.9/tcp/1"];
    let said: Vec<Multiaddr> = said.iter().map(|text| text.parse().unwrap()).collect();
    let (stranger, neighbour) = (PeerId::random(), PeerId::random());
    actor.with(|cx| {
        assert_eq!(cx.hinted(stranger, said.clone()), said[1..]);
        assert_eq!(cx.peers.addresses(&stranger), said[1..]);
        cx.guard.vouch(neighbour);
        assert_eq!(cx.hinted(neighbour, said.clone()), said);
    });
}
