//! What is kept of peers, and what is believed.
#![allow(clippy::unwrap_used)]

use super::super::peer::{MAX_FAILURES, PATIENCE};
use super::*;

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn link(id: usize, remote: &str, dialled: bool) -> Link {
    Link {
        id: ConnectionId::new_unchecked(id),
        remote: address(remote),
        dialled,
        relayed: false,
        circuit: None,
        since: Instant::now(),
        rtt: None,
    }
}

#[test]
fn first_and_last_connection() {
    let mut peers = PeerTable::default();
    let peer = PeerId::random();
    assert!(peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true)));
    assert!(!peers.connected_now(peer, link(2, "/ip4/127.0.0.1/tcp/2", false)));
    assert_eq!(peers.connected_count(), 1);
    assert!(!peers.disconnected_now(&peer, ConnectionId::new_unchecked(1)));
    assert!(peers.disconnected_now(&peer, ConnectionId::new_unchecked(2)));
    assert!(!peers.disconnected_now(&peer, ConnectionId::new_unchecked(2)));
    assert_eq!(peers.connected_count(), 0);
    // Only the dialled end is an address that it listens on.
    assert_eq!(peers.addresses(&peer), [address("/ip4/127.0.0.1/tcp/1")]);
}

#[test]
fn claims_are_believed_as_far_as_the_connection_reaches() {
    let mut peers = PeerTable::default();
    let peer = PeerId::random();
    let claims = [
        address("/ip4/127.0.0.1/tcp/1"),
        address("/ip4/10.0.0.1/tcp/1"),
        address("/ip4/8.8.8.8/tcp/1"),
    ];
    assert!(peers.claimed(peer, &claims).is_empty(), "not connected");
    peers.connected_now(peer, link(1, "/ip4/9.9.9.9/tcp/5", false));
    assert_eq!(peers.claimed(peer, &claims), claims[2..]);
    peers.connected_now(peer, link(2, "/ip4/10.0.0.1/tcp/1", true));
    assert_eq!(peers.claimed(peer, &claims), claims[1..]);
    assert_eq!(
        peers.addresses(&peer)[0],
        claims[1],
        "the proven address comes first"
    );
}

#[test]
fn dead_addresses_are_forgotten_and_claims_bounded() {
    let mut peers = PeerTable::default();
    let peer = PeerId::random();
    peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true));
    let many: Vec<_> = (1..1_000)
        .map(|port| address(&format!("/ip4/127.0.0.1/tcp/{port}")))
        .collect();
    peers.claimed(peer, &many);
    peers.hinted(peer, many.iter().rev().cloned());
    let known = peers.addresses(&peer);
    assert_eq!(known.len(), MAX_ADDRESSES);
    assert_eq!(known[0], many[0]);
    let now = Instant::now();
    for _ in 0..MAX_FAILURES {
        peers.failed(&peer, &known[1], now);
        peers.failed(&peer, &many[0], now);
    }
    assert!(!peers.addresses(&peer).contains(&known[1]));
    assert!(peers.addresses(&peer).contains(&many[0]), "it worked");
    peers.failed(&peer, &many[0], now + PATIENCE);
    assert!(!peers.addresses(&peer).contains(&many[0]));
}

#[test]
fn who_is_alone_forgets_nobody() {
    let mut peers = PeerTable::default();
    let (met, remembered, named) = (PeerId::random(), PeerId::random(), PeerId::random());
    let at = address("/ip4/127.0.0.1/tcp/1");
    peers.connected_now(met, link(1, "/ip4/127.0.0.1/tcp/1", true));
    peers.disconnected_now(&met, ConnectionId::new_unchecked(1));
    peers.remembered(remembered, [at.clone()]);
    peers.hinted(named, [at.clone()]);
    let mut now = Instant::now();
    for _ in 0..100 {
        for peer in [met, remembered, named] {
            peers.failed(&peer, &at, now);
            assert_eq!(peers.addresses(&peer), std::slice::from_ref(&at));
        }
        now += PATIENCE;
    }
}

#[test]
fn a_flood_of_names_pushes_nobody_out_who_was_of_use() {
    let mut peers = PeerTable::default();
    let at = address("/ip4/127.0.0.1/tcp/1");
    let (met, remembered) = (PeerId::random(), PeerId::random());
    peers.remembered(remembered, [at.clone()]);
    peers.connected_now(met, link(1, "/ip4/127.0.0.1/tcp/1", true));
    peers.disconnected_now(&met, ConnectionId::new_unchecked(1));
    for number in 0..MAX_PEERS {
        let stranger = PeerId::random();
        peers.hinted(stranger, [at.clone()]);
        // They may come by as often as they like.
        peers.connected_now(stranger, link(2 + number, "/ip4/127.0.0.1/tcp/9", false));
        peers.disconnected_now(&stranger, ConnectionId::new_unchecked(2 + number));
    }
    assert_eq!(peers.entries.len(), MAX_PEERS);
    assert!(peers.get(&met).is_some() && peers.get(&remembered).is_some());
}

#[test]
fn every_remembered_peer_has_its_turn() {
    let mut peers = PeerTable::default();
    for _ in 0..40 {
        peers.remembered(PeerId::random(), [address("/ip4/127.0.0.1/tcp/1")]);
    }
    let mut dialled = std::collections::HashSet::new();
    for _ in 0..3 {
        dialled.extend(peers.next_remembered(16));
    }
    assert_eq!(dialled.len(), 40);
}

#[test]
fn who_says_all_the_time_who_it_is_is_not_heard() {
    let mut peers = PeerTable::default();
    let (peer, now) = (PeerId::random(), Instant::now());
    peers.connected_now(peer, link(1, "/ip4/127.0.0.1/tcp/1", true));
    let heard = (0..1_000).filter(|_| peers.introduces(&peer, now)).count();
    assert_eq!(heard, 30);
    assert!(peers.introduces(&peer, now + Duration::from_secs(60)));
}

#[test]
fn the_table_is_bounded() {
    let mut peers = PeerTable::default();
    let kept = PeerId::random();
    peers.connected_now(kept, link(1, "/ip4/127.0.0.1/tcp/1", true));
    for _ in 0..MAX_PEERS + 10 {
        peers.hinted(PeerId::random(), [address("/ip4/127.0.0.1/tcp/9")]);
    }
    assert_eq!(peers.entries.len(), MAX_PEERS);
    assert!(peers.is_connected(&kept));
}
