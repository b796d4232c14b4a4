//! Begins to listen, and finds out whether that worked.
//!
//! Called once by [`super::start`], before the actor runs: whoever starts a node must learn at once
//! that its port is taken, and which port the system chose.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use rustix::io::Errno;

use super::behaviour::{Behaviour, BehaviourEvent};
use super::error::NetError;
use super::quiet::Quiet;

/// How long a listener may take to report its first address (5 s): it takes a millisecond, unless the
/// machine is starting up.
pub(super) const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What the swarm says.
pub(super) type Event = SwarmEvent<BehaviourEvent>;

/// Listens on every address and waits until each is up. Returns what else happened meanwhile, for
/// the actor to handle first.
///
/// # Errors
/// The first address that does not work. An IPv6 wildcard on a machine without IPv6 is left out.
pub(super) async fn listen(
    swarm: &mut Swarm<Quiet<Behaviour>>,
    addresses: &[Multiaddr],
) -> Result<Vec<Event>, NetError> {
    let mut waiting = Vec::new();
    for address in addresses {
        if let Some(id) = listen_on(swarm, address)? {
            waiting.push((id, address.clone()));
        }
    }
    if waiting.is_empty() {
        return Err(NetError::NoListener);
    }
    let mut early = Vec::new();
    let mut missing: HashSet<ListenerId> = waiting.iter().map(|(id, _)| *id).collect();
    let all_up = async {
        while !missing.is_empty() {
            let event = swarm.select_next_some().await;
            note(&event, &mut missing, &waiting)?;
            early.push(event);
        }
        Ok::<(), NetError>(())
    };
    let ended = tokio::time::timeout(LISTEN_TIMEOUT, all_up).await;
    match ended {
        Ok(result) => result?,
        Err(_) => return Err(late(&missing, &waiting)),
    }
    // A wildcard reports one address for each interface, one after the other.
    while let Some(Some(event)) = swarm.next().now_or_never() {
        early.push(event);
    }
    Ok(early)
}

fn note(
    event: &Event,
    missing: &mut HashSet<ListenerId>,
    asked: &[(ListenerId, Multiaddr)],
) -> Result<(), NetError> {
    match event {
        SwarmEvent::NewListenAddr { listener_id, .. } => {
            missing.remove(listener_id);
            Ok(())
        }
        SwarmEvent::ListenerClosed {
            listener_id,
            reason: Err(error),
            ..
        }
        | SwarmEvent::ListenerError { listener_id, error } => {
            let Some((_, address)) = asked.iter().find(|(id, _)| id == listener_id) else {
                return Ok(());
            };
            Err(NetError::Listen {
                address: address.clone(),
                source: io::Error::new(error.kind(), error.to_string()),
            })
        }
        _ => Ok(()),
    }
}

fn late(missing: &HashSet<ListenerId>, asked: &[(ListenerId, Multiaddr)]) -> NetError {
    asked
        .iter()
        .find(|(id, _)| missing.contains(id))
        .map_or(NetError::NoListener, |(_, address)| {
            NetError::ListenTimeout(address.clone())
        })
}

fn listen_on(
    swarm: &mut Swarm<Quiet<Behaviour>>,
    address: &Multiaddr,
) -> Result<Option<ListenerId>, NetError> {
    let failed = |source: io::Error| NetError::Listen {
        address: address.clone(),
        source,
    };
    match probe(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            return Err(NetError::PortInUse {
                address: address.clone(),
                source: error,
            });
        }
        Err(error) if is_missing_ipv6(address, &error) => {
            tracing::warn!(%address, %error, "this machine has no IPv6, listening without it");
            return Ok(None);
        }
        // Whatever else is wrong will show when it is done for good.
        Ok(()) | Err(_) => {}
    }
    match swarm.listen_on(address.clone()) {
        Ok(id) => Ok(Some(id)),
        Err(TransportError::MultiaddrNotSupported(_)) => {
            Err(NetError::ListenUnsupported(address.clone()))
        }
        Err(TransportError::Other(error)) => Err(failed(error)),
    }
}

fn is_missing_ipv6(address: &Multiaddr, error: &io::Error) -> bool {
    let wildcard = matches!(
        address.iter().next(),
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED))
    );
    let no_family = error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error());
    wildcard && (no_family || error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Binds for a moment, because libp2p's own errors do not tell enough: it listens with
/// `SO_REUSEPORT` (so that it can dial from the same port), with which two nodes of one user would
/// share a TCP port and each lose half of its visitors; and it hides the system's error.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        // An IPv6 wildcard would also claim the IPv4 port, which is not ours to ask about.
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) => TcpListener::bind(SocketAddr::new(ip, port)).map(drop),
        Some(Protocol::Udp(port)) => UdpSocket::bind(SocketAddr::new(ip, port)).map(drop),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn kind(address: &str) -> Option<io::ErrorKind> {
        probe(&address.parse().unwrap())
            .err()
            .map(|error| error.kind())
    }

    #[test]
    fn a_port_in_use_is_found_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
        assert_eq!(kind(&address), Some(io::ErrorKind::AddrInUse));
        drop(taken);
        assert_eq!(kind(&address), None);

        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
        assert_eq!(kind(&address), Some(io::ErrorKind::AddrInUse));
    }

    #[test]
    fn only_an_ipv6_wildcard_may_be_left_out() {
        let missing = io::Error::from_raw_os_error(Errno::AFNOSUPPORT.raw_os_error());
        for (address, expected) in [
            ("/ip6/::/tcp/0", true),
            ("/ip6/2001:db8::1/tcp/0", false),
            ("/ip4/0.0.0.0/tcp/0", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_missing_ipv6(&address, &missing), expected, "{address}");
        }
    }
}
