//! Ports of a sandbox's loopback.
//!
//! A socket belongs for ever to the network that it was made in. So it is made in the container's, on
//! a short visit, and used from here like any other: nothing of the container's can be seen through
//! it but the port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::enter;
use super::View;
use crate::inside::InsideError;

/// How long a connection to a program that runs on the same machine may take: one whose queue is full
/// does not answer.
const CONNECTING: Duration = Duration::from_secs(5);

pub(super) async fn connect(view: &Arc<View>, port: u16) -> Result<TcpStream, InsideError> {
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let socket = match visit(view, move |init| enter::tcp(init, address.is_ipv6())).await {
            Ok(socket) => socket,
            // A kernel without IPv6.
            Err(InsideError::Io(_)) if address.is_ipv6() => break,
            Err(error) => return Err(error),
        };
        match timeout(CONNECTING, socket.connect(address)).await {
            Ok(Ok(stream)) => {
                // Whoever types wants to see it at once.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // A container without IPv6 has no such address.
            Ok(Err(error)) if is_nobody(&error) || address.is_ipv6() => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_elapsed) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }
    Err(InsideError::NobodyListens(port))
}

fn is_nobody(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

pub(super) async fn datagrams(view: &Arc<View>, port: u16) -> Result<UdpSocket, InsideError> {
    let socket = visit(view, move |init| enter::udp(init, port)).await?;
    Ok(UdpSocket::from_std(socket)?)
}

pub(super) async fn listen(view: &Arc<View>, port: u16) -> Result<TcpListener, InsideError> {
    let listener = visit(view, move |init| enter::listen(init, port)).await?;
    Ok(TcpListener::from_std(listener)?)
}

async fn visit<T: Send + 'static>(
    view: &Arc<View>,
    work: impl FnOnce(rustix::process::Pid) -> io::Result<T> + Send + 'static,
) -> Result<T, InsideError> {
    let view = Arc::clone(view);
    let visited = tokio::task::spawn_blocking(move || {
        let made = work(view.init())?;
        // As long as the first process is there, its number was nobody else's.
        if view.lives() {
            Ok(made)
        } else {
            Err(InsideError::Ended)
        }
    });
    visited
        .await
        .unwrap_or_else(|error| Err(io::Error::from(error).into()))
}
