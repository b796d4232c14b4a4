//! What can be told from an address alone: how far it reaches, and how it travels.
//!
//! Owns the rule that loopback and private addresses mean something only where they were seen: a
//! peer met over loopback may name its loopback address, a peer met across the Internet may not. It
//! is used by [`super::peers`] and [`super::discovery`], never touches a socket, and never trusts what
//! a peer says about itself further than the connection it said it on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The longest address that is kept, in bytes: a DNS name of 255 bytes with transport and peer id.
pub const MAX_ADDRESS_BYTES: usize = 384;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Within this process (tests and simulations).
    Memory,
    /// Within this machine.
    Loopback,
    /// Within one LAN, VPN or carrier network.
    Private,
    /// A name; where it leads is not known before it is resolved.
    Name,
    /// Anywhere.
    Global,
    /// Through a relay.
    Relayed,
}

/// How far `address` reaches; `None` when nothing can be dialled there.
#[must_use]
pub fn scope(address: &Multiaddr) -> Option<Scope> {
    if address.len() > MAX_ADDRESS_BYTES {
        return None;
    }
    if is_relayed(address) {
        // Whoever dials it dials the relay.
        return relay_scope(address).map(|_| Scope::Relayed);
    }
    direct_scope(address)
}

/// How far the address of the relay reaches that a circuit's address goes through; `None` when nothing
/// can be dialled there.
#[must_use]
pub fn relay_scope(circuit: &Multiaddr) -> Option<Scope> {
    let before = circuit
        .iter()
        .take_while(|part| *part != Protocol::P2pCircuit);
    direct_scope(&before.collect())
}

fn direct_scope(address: &Multiaddr) -> Option<Scope> {
    let mut parts = address.iter();
    let scope = match parts.next()? {
        Protocol::Memory(port) => (port != 0).then_some(Scope::Memory)?,
        Protocol::Ip4(ip) => scope_v4(ip)?,
        Protocol::Ip6(ip) => scope_v6(ip)?,
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_) => {
            Scope::Name
        }
        _ => return None,
    };
    match parts.next() {
        Some(Protocol::Tcp(0) | Protocol::Udp(0)) => None,
        _ => Some(scope),
    }
}

/// Whether the address is one of this machine or of a private network.
#[must_use]
pub fn is_near(address: &Multiaddr) -> bool {
    matches!(scope(address), Some(Scope::Loopback | Scope::Private))
}

fn scope_v4(ip: Ipv4Addr) -> Option<Scope> {
    if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
        return None;
    }
    let [a, b, ..] = ip.octets();
    let carrier = a == 100 && (64..128).contains(&b);
    Some(if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_private() || ip.is_link_local() || carrier {
        Scope::Private
    } else {
        Scope::Global
    })
}

fn scope_v6(ip: Ipv6Addr) -> Option<Scope> {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return scope_v4(ip);
    }
    // A link-local address is no use without the name of the local interface.
    if ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() {
        return None;
    }
    Some(if ip.is_loopback() {
        Scope::Loopback
    } else if ip.is_unique_local() {
        Scope::Private
    } else {
        Scope::Global
    })
}

/// Whether a peer that is connected over an address of scope `seen` may be believed to be reachable
/// at an address of scope `claimed`.
#[must_use]
pub fn plausible(seen: Scope, claimed: Scope) -> bool {
    match (seen, claimed) {
        (Scope::Memory, claimed) => claimed == Scope::Memory,
        (_, Scope::Memory) => false,
        (Scope::Loopback, _) => true,
        (_, Scope::Loopback) => false,
        (Scope::Private | Scope::Name, _) => true,
        (Scope::Global | Scope::Relayed, claimed) => claimed != Scope::Private,
    }
}

/// Whether a peer may be believed to be reachable at `address` that is connected over addresses of scope
/// `seen`, or through relays at addresses of scope `relays`. A circuit is believed as far as its relay's
/// own address would be.
#[must_use]
pub fn is_believable(address: &Multiaddr, seen: Scope, relays: Option<Scope>) -> bool {
    if !is_relayed(address) {
        return scope(address).is_some_and(|claimed| plausible(seen, claimed));
    }
    let from = [Some(seen), relays];
    relay_scope(address)
        .is_some_and(|relay| from.iter().flatten().any(|seen| plausible(*seen, relay)))
}

/// Whether the connection goes through a relay.
#[must_use]
pub fn is_relayed(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::P2pCircuit))
}

/// The relay that a circuit's address goes through.
#[must_use]
pub fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let mut last = None;
    for part in address {
        match part {
            Protocol::P2p(peer) => last = Some(peer),
            Protocol::P2pCircuit => return last,
            _ => {}
        }
    }
    None
}

/// Whether the address is QUIC.
#[must_use]
pub fn is_quic(address: &Multiaddr) -> bool {
    address
        .iter()
        .any(|part| matches!(part, Protocol::QuicV1 | Protocol::Quic))
}

/// The IP address that the multiaddress starts with.
#[must_use]
pub fn ip(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The socket's address that the multiaddress consists of, when it is one of TCP with nothing on top but
/// perhaps a peer's name.
#[must_use]
pub fn tcp(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter().skip(1);
    match (parts.next()?, parts.next()) {
        (Protocol::Tcp(port), None | Some(Protocol::P2p(_))) => Some((ip(address)?, port).into()),
        _ => None,
    }
}

/// `address` with `ip` in place of its own; `None` when that is of the other family, or none at all.
#[must_use]
pub fn with_ip(address: &Multiaddr, ip: IpAddr) -> Option<Multiaddr> {
    match (self::ip(address)?, ip) {
        (IpAddr::V4(_), IpAddr::V4(ip)) => address.replace(0, |_| Some(Protocol::Ip4(ip))),
        (IpAddr::V6(_), IpAddr::V6(ip)) => address.replace(0, |_| Some(Protocol::Ip6(ip))),
        _ => None,
    }
}

/// The peer that the address ends with, if it names one.
#[must_use]
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// All peers that the address names.
pub fn peers_in(address: &Multiaddr) -> impl Iterator<Item = PeerId> + '_ {
    address.iter().filter_map(|part| match part {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

/// `address` without the name of `peer` at its end; `None` when it ends with the name of another.
#[must_use]
pub fn without_peer(address: &Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    match peer_of(address) {
        None => Some(address.clone()),
        Some(named) if named == peer => {
            let mut address = address.clone();
            address.pop();
            Some(address)
        }
        Some(_) => None,
    }
}

/// Those of `addresses` to dial first. Within a machine or a LAN there is no NAT to traverse, and
/// TCP moves bulk data half as fast again as QUIC does there, so QUIC is left out where the same host
/// listens on TCP. (All addresses of a dial race, and QUIC's shorter handshake would win.)
#[must_use]
pub fn preferred(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let tcp_hosts: Vec<IpAddr> = addresses
        .iter()
        .filter(|address| !is_quic(address) && !is_relayed(address))
        .filter_map(ip)
        .collect();
    addresses
        .iter()
        .filter(|address| {
            let near = matches!(scope(address), Some(Scope::Loopback | Scope::Private));
            let tcp_too = ip(address).is_some_and(|host| tcp_hosts.contains(&host));
            !(is_quic(address) && near && tcp_too)
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn scopes() {
        let relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let circuit = format!("/ip4/8.8.8.8/tcp/1/p2p/{relay}/p2p-circuit");
        let nowhere = format!("/ip4/0.0.0.0/tcp/1/p2p/{relay}/p2p-circuit");
        for (text, expected) in [
            ("/memory/7", Some(Scope::Memory)),
            ("/memory/0", None),
            ("/ip4/127.0.0.1/tcp/1", Some(Scope::Loopback)),
            ("/ip4/127.0.0.1/tcp/0", None),
            ("/ip6/::1/udp/1/quic-v1", Some(Scope::Loopback)),
            ("/ip6/::ffff:127.0.0.1/tcp/1", Some(Scope::Loopback)),
            ("/ip4/10.1.2.3/tcp/1", Some(Scope::Private)),
            ("/ip4/100.64.0.1/tcp/1", Some(Scope::Private)),
            ("/ip4/100.128.0.1/tcp/1", Some(Scope::Global)),
            ("/ip6/fd00::1/tcp/1", Some(Scope::Private)),
            ("/ip6/fe80::1/tcp/1", None),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip4/8.8.8.8/tcp/1", Some(Scope::Global)),
            ("/dns4/example.org/tcp/1", Some(Scope::Name)),
            ("/unix/tmp", None),
            ("/p2p-circuit", None),
            (&nowhere, None),
            (&circuit, Some(Scope::Relayed)),
        ] {
            assert_eq!(scope(&address(text)), expected, "{text}");
        }
        let long = format!("/dns4/{}/tcp/1", "a".repeat(MAX_ADDRESS_BYTES));
        assert_eq!(scope(&address(&long)), None);
        assert_eq!(relay_of(&address(&circuit)), relay.parse().ok());
        assert_eq!(relay_of(&address("/ip4/8.8.8.8/tcp/1")), None);
    }

    #[test]
    fn local_addresses_count_only_where_they_were_seen() {
        use Scope::{Global, Loopback, Memory, Private, Relayed};
        for (seen, claimed, expected) in [
            (Loopback, Loopback, true),
            (Loopback, Private, true),
            (Private, Loopback, false),
            (Private, Private, true),
            (Global, Private, false),
            (Global, Loopback, false),
            (Global, Global, true),
            (Global, Relayed, true),
            (Relayed, Private, false),
            (Memory, Loopback, false),
            (Loopback, Memory, false),
        ] {
            assert_eq!(plausible(seen, claimed), expected, "{seen:?} {claimed:?}");
        }
    }

    #[test]
    fn a_circuit_is_believed_as_far_as_its_relay() {
        use Scope::{Global, Loopback, Private, Relayed};
        let relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let through = |host: &str| address(&format!("{host}/tcp/1/p2p/{relay}/p2p-circuit"));
        for (host, seen, relays, expected) in [
            ("/ip4/8.8.8.8", Global, None, true),
            ("/ip4/8.8.8.8", Relayed, Some(Global), true),
            ("/ip4/127.0.0.1", Global, None, false),
            ("/ip4/192.168.1.1", Global, None, false),
            ("/ip4/192.168.1.1", Relayed, Some(Global), false),
            ("/ip4/192.168.1.1", Relayed, Some(Private), true),
            ("/ip4/192.168.1.1", Private, None, true),
            ("/ip4/127.0.0.1", Loopback, None, true),
            ("/ip4/169.254.169.254", Global, None, false),
        ] {
            let believed = is_believable(&through(host), seen, relays);
            assert_eq!(believed, expected, "{host} {seen:?} {relays:?}");
        }
    }

    #[test]
    fn quic_is_left_out_only_near_and_beside_tcp() {
        let addresses = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.8.8/udp/1/quic-v1",
        ]
        .map(address);
        let kept = preferred(&addresses);
        assert_eq!(kept.len(), 4);
        assert!(!kept.contains(&addresses[1]));
    }

    #[test]
    fn an_ip_takes_the_place_of_one_of_its_family() {
        let inside = address("/ip4/192.168.7.2/udp/4001/quic-v1");
        let outside = with_ip(&inside, Ipv4Addr::new(8, 8, 8, 8).into());
        assert_eq!(outside, Some(address("/ip4/8.8.8.8/udp/4001/quic-v1")));
        assert_eq!(with_ip(&inside, Ipv6Addr::LOCALHOST.into()), None);
    }

    #[test]
    fn the_peer_at_the_end_must_be_the_right_one() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let bare = address("/ip4/127.0.0.1/tcp/1");
        let named = bare.clone().with(Protocol::P2p(peer));
        assert_eq!(without_peer(&named, peer), Some(bare.clone()));
        assert_eq!(without_peer(&bare, peer), Some(bare));
        assert_eq!(without_peer(&named, other), None);
    }
}
