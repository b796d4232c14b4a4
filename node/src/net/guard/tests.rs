//! Whose addresses are dialled, and which.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{DialError, SwarmEvent};

use super::super::{NetConfig, prepare};
use super::*;

fn at(text: &str, peer: PeerId) -> Multiaddr {
    let address: Multiaddr = text.parse().unwrap();
    address.with(Protocol::P2p(peer))
}

fn may(guard: &Guard, text: &str, peer: PeerId) -> bool {
    guard.permits(&at(text, peer)).is_ok()
}

const NEAR: [&str; 7] = [
    "/ip4/127.0.0.1/tcp/22",
    "/ip6/::1/tcp/22",
    "/ip4/192.168.1.1/tcp/80",
    "/ip4/10.3.0.1/udp/1/quic-v1",
    "/ip4/100.64.0.1/tcp/1",
    "/ip6/fd00:1:2::1/tcp/1",
    "/ip6/::ffff:192.168.1.1/tcp/80",
];

#[test]
fn a_stranger_leads_nobody_to_near_addresses() {
    let (named, stranger) = (PeerId::random(), PeerId::random());
    let name = "/dns/nas.example/tcp/4001".parse().unwrap();
    let guard = Guard::new([(named, &name)]);
    for address in NEAR {
        assert!(!may(&guard, address, stranger), "{address}");
    }
    assert!(may(&guard, "/ip4/9.9.9.9/tcp/1", stranger));
    assert!(may(&guard, "/ip6/2a00::1/tcp/1", stranger));
    for address in NEAR {
        assert!(may(&guard, address, named), "{address}");
    }
    // Nobody was met there yet, so nothing follows from it for others.
    for address in NEAR {
        assert!(!may(&guard, address, stranger), "{address}");
    }
}

#[test]
fn who_knows_a_named_peers_id_leads_nobody_elsewhere() {
    let named = PeerId::random();
    let at = "/ip4/192.168.1.7/tcp/4001".parse().unwrap();
    let guard = Guard::new([(named, &at)]);
    assert!(may(&guard, "/ip4/192.168.1.7/udp/4001/quic-v1", named));
    for address in NEAR {
        assert!(!may(&guard, address, named), "{address}");
    }
}

#[test]
fn what_a_nat64_translates_is_what_it_translates_to() {
    let guard = Guard::new([]);
    for address in [
        "/ip6/64:ff9b::a00:1/tcp/1",
        "/ip6/64:ff9b::a9fe:a9fe/tcp/80",
    ] {
        assert!(!may(&guard, address, PeerId::random()), "{address}");
    }
    assert!(may(&guard, "/ip6/64:ff9b::909:909/tcp/1", PeerId::random()));
}

#[test]
fn nobody_leads_anybody_to_metadata() {
    let named = PeerId::random();
    let name = "/dns/cloud.example/tcp/4001".parse().unwrap();
    let guard = Guard::new([(named, &name)]);
    guard.met(named, &"/ip4/169.254.7.7/tcp/1".parse().unwrap());
    for address in [
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/::ffff:169.254.169.254/tcp/80",
        "/ip6/fd00:ec2::254/tcp/80",
        "/ip4/168.63.129.16/tcp/80",
        "/ip4/100.100.100.200/tcp/80",
        "/ip4/0.0.0.0/tcp/80",
        "/ip4/255.255.255.255/udp/1/quic-v1",
    ] {
        assert!(!may(&guard, address, named), "{address}");
    }
    assert!(may(&guard, "/ip4/169.254.7.8/tcp/1", PeerId::random()));
}

#[test]
fn neighbours_are_dialled_and_speak_of_neighbours() {
    let guard = Guard::new([]);
    let (neighbour, other) = (PeerId::random(), PeerId::random());
    guard.met(neighbour, &"/ip4/192.168.1.7/tcp/1".parse().unwrap());
    assert!(may(&guard, "/ip4/10.3.0.7/tcp/1", neighbour), "it is one");
    assert!(!may(&guard, "/ip4/127.0.0.1/tcp/1", neighbour));
    assert!(may(&guard, "/ip4/192.168.1.8/tcp/1", other));
    assert!(!may(&guard, "/ip4/10.3.0.8/tcp/1", other));
    assert!(!may(&guard, "/ip4/127.0.0.1/tcp/1", other));
    guard.vouch(other);
    assert!(may(&guard, "/ip4/10.3.0.8/tcp/1", other), "found by mDNS");
    // This machine is elsewhere.
    guard.moved(std::iter::empty());
    assert!(!may(&guard, "/ip4/192.168.1.8/tcp/1", PeerId::random()));
    // What the settings name without an id is dialled, and leads to a network once somebody is met there.
    let first = "/ip4/10.9.0.1/tcp/1".parse().unwrap();
    guard.permits(&first).unwrap();
    assert!(!may(&guard, "/ip4/10.9.0.2/tcp/1", PeerId::random()));
    guard.met(PeerId::random(), &first);
    assert!(may(&guard, "/ip4/10.9.0.2/tcp/1", PeerId::random()));
}

#[test]
fn a_servers_own_address_is_not_the_internet() {
    let guard = Guard::new([]);
    guard.owns(vec![Ipv4Addr::new(9, 9, 9, 9).into()]);
    assert!(!may(&guard, "/ip4/9.9.9.9/tcp/6379", PeerId::random()));
    assert!(may(&guard, "/ip4/9.9.9.8/tcp/6379", PeerId::random()));
    // Until another node of this machine was met.
    guard.met(PeerId::random(), &"/ip4/9.9.9.9/tcp/1".parse().unwrap());
    assert!(may(&guard, "/ip4/9.9.9.9/tcp/4001", PeerId::random()));
}

#[test]
fn an_address_of_this_machine_is_as_near_as_loopback() {
    let guard = Guard::new([]);
    let stranger = PeerId::random();
    guard.owns(vec![Ipv4Addr::new(192, 168, 1, 5).into()]);
    assert!(!may(&guard, "/ip4/192.168.1.5/tcp/1", stranger));
    guard.met(PeerId::random(), &"/ip4/127.0.0.1/tcp/1".parse().unwrap());
    assert!(may(&guard, "/ip4/192.168.1.5/tcp/1", stranger));
    assert!(!may(&guard, "/ip4/192.168.1.6/tcp/1", stranger));
}

#[test]
fn what_is_remembered_is_bounded() {
    let guard = Guard::new([]);
    for number in 0..2 * MAX_MET {
        let address = format!("/ip4/10.{}.0.1/tcp/1", number % 256);
        guard.met(PeerId::random(), &address.parse().unwrap());
    }
    let known = guard.lock();
    assert_eq!(known.met.len(), MAX_MET);
    assert_eq!(known.order.len(), MAX_MET);
    assert_eq!(known.lans.len(), MAX_LANS);
}

#[tokio::test]
async fn the_swarm_sends_no_packet_where_it_may_not() {
    let config = NetConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: false,
        reach: super::super::ReachConfig::none(),
        ..NetConfig::new(Keypair::generate_ed25519(), "test")
    };
    let (mut actor, _handle, _events) = prepare(config).await.unwrap();
    let victim = TcpListener::bind("127.0.0.1:0").unwrap();
    victim.set_nonblocking(true).unwrap();
    let port = victim.local_addr().unwrap().port();
    let wanted = (0..100).map(|n| format!("/ip4/127.{n}.0.1/tcp/{port}").parse().unwrap());
    let dial = DialOpts::peer_id(PeerId::random());
    let dial = dial.addresses(wanted.collect()).build();
    let failures = actor.fails(dial).await;
    let refused = |text: &str| {
        failures
            .iter()
            .filter(|failure| failure.contains(text))
            .count()
    };
    assert_eq!(refused("not met near"), MAX_DIALLED, "{failures:?}");
    assert_eq!(refused("too many"), failures.len() - MAX_DIALLED);
    let came = victim.accept().map(drop);
    assert_eq!(came.unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

impl super::super::actor::NetActor {
    /// Dials, and says why each address failed.
    async fn fails(&mut self, dial: DialOpts) -> Vec<String> {
        self.swarm_mut().dial(dial).unwrap();
        loop {
            let event = self.swarm_mut().select_next_some().await;
            if let SwarmEvent::OutgoingConnectionError { error, .. } = event {
                let DialError::Transport(failures) = error else {
                    panic!("{error}");
                };
                return failures.iter().map(|(_, why)| format!("{why:?}")).collect();
            }
        }
    }
}
