//! Makes the transport that the swarm runs on.
//!
//! TCP with noise and yamux beside QUIC, both behind DNS; TCP alone under a pre-shared key; or
//! channels within the process. The relay's circuits come on top of each, and [`super::guard`] stands in
//! all of them. Called once by [`super::start`].

use std::io;
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::dummy::DummyTransport;
use libp2p::core::transport::{Boxed, MemoryTransport, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{Multiaddr, PeerId, Transport, dns, noise, quic, relay, tcp, yamux};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::config::{NetConfig, TransportKind};
use super::error::NetError;
use super::guard::{Door, Guard};
use super::shortcut;

type Muxed = Boxed<(PeerId, StreamMuxerBox)>;

/// How long a connection may take from the first packet to the last handshake (10 s, libp2p's own
/// default): three round trips over the slowest satellite link take 4.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most streams of one connection, in yamux and in QUIC, from both sides together. Going over it
/// closes a yamux connection, so it lies above all that our own limits allow: 2 × 256 byte streams,
/// 2 × 128 requests, and what libp2p's own protocols use.
const MAX_STREAMS: usize = 2_048;

/// What yamux runs with. Its receive window starts at 256 KiB for each stream and grows by itself
/// with delay and throughput, up to 1 GiB for all streams of a connection (the defaults).
fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config
}

fn secured<T, S>(transport: T, keypair: &Keypair) -> Result<Muxed, NetError>
where
    T: Transport<Output = S> + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    Ok(transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux_config())
        .timeout(CONNECT_TIMEOUT)
        .boxed())
}

/// What the system says of a TCP connection. The layers above hand on what an error was caused by and not
/// the error itself, so it is made a cause for [`super::trouble`] to find.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct OfSystem(#[source] io::Error);

fn tcp()
-> impl Transport<Output = tcp::tokio::TcpStream, Error = OfSystem, Dial: Send, ListenerUpgrade: Send>
+ Send
+ Unpin {
    tcp::tokio::Transport::new(tcp::Config::default()).map_err(OfSystem)
}

fn tcp_only(keypair: &Keypair, psk: PreSharedKey) -> Result<Muxed, NetError> {
    let locked = tcp().and_then(move |socket, _| PnetConfig::new(psk).handshake(socket));
    secured(locked, keypair)
}

fn tcp_and_quic(
    keypair: &Keypair,
    shortcuts: Option<mpsc::Sender<TcpStream>>,
) -> Result<Muxed, NetError> {
    let tcp = tcp().and_then(move |socket, end| shortcut::set_aside(socket, end, shortcuts));
    let tcp = secured(tcp, keypair)?;
    let mut config = quic::Config::new(keypair);
    config.handshake_timeout = CONNECT_TIMEOUT;
    config.max_concurrent_stream_limit = MAX_STREAMS as u32;
    let quic = quic::tokio::Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    Ok(joined(tcp, quic))
}

fn joined<A, B>(a: A, b: B) -> Muxed
where
    A: Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    A::Error: Send + Sync + 'static,
    A::Dial: Send + 'static,
    A::ListenerUpgrade: Send + 'static,
    B: Transport<Output = (PeerId, StreamMuxerBox)> + Send + Unpin + 'static,
    B::Error: Send + Sync + 'static,
    B::Dial: Send + 'static,
    B::ListenerUpgrade: Send + 'static,
{
    OrTransport::new(a, b)
        .map(|either, _| either.into_inner())
        .boxed()
}

/// Dials only where the guard permits it. It has to see what names resolve to.
fn where_permitted(transport: Muxed, guard: &Guard) -> Muxed {
    let guard = guard.clone();
    Door::new(transport, move |address: &Multiaddr| guard.permits(address)).boxed()
}

/// Resolves names with the system's DNS servers. On a machine that names none, numeric addresses
/// still work.
fn with_dns(transport: Muxed) -> Result<Muxed, NetError> {
    // A failure gives no transport back, so the first try has none to lose.
    let probe = DummyTransport::<(PeerId, StreamMuxerBox)>::new();
    if let Err(error) = dns::tokio::Transport::system(probe) {
        tracing::warn!(%error, "no DNS servers are configured: only numeric addresses can be dialled");
        return Ok(transport);
    }
    let resolving = dns::tokio::Transport::system(transport).map_err(NetError::Dns)?;
    Ok(resolving.boxed())
}

/// The whole transport, and the behaviour that belongs to its relay part.
///
/// # Errors
/// [`NetError::Noise`] when the key cannot be used, [`NetError::Dns`] when the system's DNS
/// configuration vanishes while it is read.
pub(super) fn build(
    config: &NetConfig,
    guard: &Guard,
) -> Result<(Muxed, relay::client::Behaviour), NetError> {
    let keypair = &config.keypair;
    let direct = match (config.transport, config.psk) {
        (TransportKind::Memory, _) => secured(MemoryTransport::new(), keypair)?,
        (TransportKind::Internet, Some(psk)) => {
            with_dns(where_permitted(tcp_only(keypair, psk)?, guard))?
        }
        (TransportKind::Internet, None) => {
            let direct = tcp_and_quic(keypair, config.shortcuts.clone())?;
            with_dns(where_permitted(direct, guard))?
        }
    };
    let (circuits, behaviour) = relay::client::new(keypair.public().to_peer_id());
    let all = joined(secured(circuits, keypair)?, direct);
    let guard = guard.clone();
    let counted = Door::new(all, move |_: &Multiaddr| guard.counts());
    Ok((counted.boxed(), behaviour))
}
