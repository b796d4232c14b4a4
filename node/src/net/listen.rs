//! Begins to listen, and finds out whether that worked.
//!
//! Called once by [`super::start`], before the actor runs: whoever starts a node must learn at once
//! that its port is taken, and which port the system chose.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};

use super::behaviour::{Behaviour, BehaviourEvent};
use super::error::NetError;

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
    swarm: &mut Swarm<Behaviour>,
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
            Err(failed(
                address,
                io::Error::new(error.kind(), error.to_string()),
            ))
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
    swarm: &mut Swarm<Behaviour>,
    address: &Multiaddr,
) -> Result<Option<ListenerId>, NetError> {
    probe(address)?;
    match swarm.listen_on(address.clone()) {
        Ok(id) => Ok(Some(id)),
        Err(TransportError::MultiaddrNotSupported(address)) => {
            Err(NetError::ListenUnsupported(address))
        }
        Err(TransportError::Other(error)) if is_missing_ipv6(address, &error) => {
            tracing::warn!(%address, %error, "this machine has no IPv6, listening without it");
            Ok(None)
        }
        Err(TransportError::Other(error)) => Err(failed(address, error)),
    }
}

/// The errors of a transport come wrapped, the system's own innermost.
fn system_error(error: &io::Error) -> Option<&io::Error> {
    let mut found = None;
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.raw_os_error().is_some() {
                return Some(io);
            }
            found = Some(io);
            // `source` of a wrapping io::Error skips the error it wraps.
            current = io
                .get_ref()
                .map(|inner| inner as &(dyn std::error::Error + 'static));
        } else {
            current = error.source();
        }
    }
    found
}

fn kind_of(error: &io::Error) -> io::ErrorKind {
    system_error(error).map_or(error.kind(), io::Error::kind)
}

fn failed(address: &Multiaddr, source: io::Error) -> NetError {
    let address = address.clone();
    if kind_of(&source) == io::ErrorKind::AddrInUse {
        NetError::PortInUse { address, source }
    } else {
        NetError::Listen { address, source }
    }
}

fn is_missing_ipv6(address: &Multiaddr, error: &io::Error) -> bool {
    let wildcard = matches!(
        address.iter().next(),
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED))
    );
    let no_family = matches!(
        kind_of(error),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || system_error(error).and_then(io::Error::raw_os_error)
        == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    wildcard && no_family
}

/// libp2p listens with `SO_REUSEPORT` (so that it can dial from the same port), with which two nodes
/// of one user would share a TCP port and each lose half of its visitors. An ordinary bind tells.
fn probe(address: &Multiaddr) -> Result<(), NetError> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        // An IPv6 wildcard would also claim the IPv4 port, which is not ours to ask about.
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    let Some(Protocol::Tcp(port @ 1..)) = parts.next() else {
        return Ok(());
    };
    match TcpListener::bind(SocketAddr::new(ip, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(failed(address, error)),
        // Whatever else is wrong will show when it is done for good.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_innermost_system_error_counts() {
        let inner = io::Error::from_raw_os_error(rustix::io::Errno::ADDRINUSE.raw_os_error());
        let wrapped = io::Error::other(io::Error::other(inner));
        assert_eq!(kind_of(&wrapped), io::ErrorKind::AddrInUse);
        assert_eq!(kind_of(&io::Error::other("text")), io::ErrorKind::Other);
    }

    #[test]
    fn a_shared_port_is_found_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        assert!(matches!(probe(&address), Err(NetError::PortInUse { .. })));
        drop(taken);
        assert!(probe(&address).is_ok());
    }
}
