//! A round trip on one connection, asked for when it is wanted: `/p2pnode/<network>/echo/1`.
//!
//! libp2p's ping measures every connection at its own pace, which is for people. This answers a question:
//! is this connection alive, now? Used by [`super::liveness`] and for `p2pnode ping`. The asking side
//! writes eight bytes and reads them back. It never keeps a connection open, and never closes one itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

/// How long an echo may take (6 s): ten times the slowest satellite, and with the patience of
/// [`super::liveness`] no longer than a provider may be silent.
pub(super) const ECHO_TIMEOUT: Duration = Duration::from_secs(6);

/// Echoes that one connection answers at a time; more streams are reset. One is asked for at a time.
const MAX_ANSWERING: usize = 4;

/// What is sent and comes back.
type Bytes = [u8; 8];

/// Names an echo that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EchoId(pub u64);

/// What came of an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It came back after this time.
    Back(Duration),
    /// Something else came in its stead, such as a reset: there is somebody, who does not want to echo.
    Otherwise,
    /// Nothing came at all, for [`ECHO_TIMEOUT`].
    Nothing,
}

/// What came of the echo `id`.
#[derive(Debug)]
pub(super) struct Event {
    pub peer: PeerId,
    pub connection: ConnectionId,
    pub id: EchoId,
    pub came: Came,
}

/// The behaviour.
#[derive(Debug)]
pub(super) struct Behaviour {
    protocol: StreamProtocol,
    queue: VecDeque<ToSwarm<Event, EchoId>>,
}

impl Behaviour {
    pub(super) fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            queue: VecDeque::new(),
        }
    }

    /// Asks for an echo on this connection. An event follows, unless the connection closes before.
    pub(super) fn ask(&mut self, peer_id: PeerId, connection: ConnectionId, id: EchoId) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event: id,
        });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (id, came): THandlerOutEvent<Self>,
    ) {
        let event = Event {
            peer,
            connection,
            id,
            came,
        };
        self.queue.push_back(ToSwarm::GenerateEvent(event));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Filled by the owner of the swarm and by handlers' events, both of whom poll again after.
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// What came of an echo, as the connection tells it.
type Outcome = (EchoId, Came);

/// The handler of one connection.
pub(super) struct Handler {
    protocol: StreamProtocol,
    wanted: VecDeque<EchoId>,
    asking: FuturesUnordered<BoxFuture<'static, Outcome>>,
    answering: FuturesUnordered<BoxFuture<'static, ()>>,
    done: VecDeque<Outcome>,
}

impl Handler {
    fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            wanted: VecDeque::new(),
            asking: FuturesUnordered::new(),
            answering: FuturesUnordered::new(),
            done: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = EchoId;
    type ToBehaviour = Outcome;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = EchoId;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn on_behaviour_event(&mut self, id: EchoId) {
        self.wanted.push_back(id);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, EchoId, Outcome>> {
        while let Poll::Ready(Some(())) = self.answering.poll_next_unpin(cx) {}
        if let Some(outcome) = self.done.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if let Poll::Ready(Some(outcome)) = self.asking.poll_next_unpin(cx) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if let Some(id) = self.wanted.pop_front() {
            let protocol = ReadyUpgrade::new(self.protocol.clone());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(protocol, id).with_timeout(ECHO_TIMEOUT),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), EchoId>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream,
                ..
            }) if self.answering.len() < MAX_ANSWERING => {
                stream.ignore_for_keep_alive();
                let answer = tokio::time::timeout(ECHO_TIMEOUT, answer(stream));
                // Whoever asked sees that nothing came.
                self.answering.push(answer.map(|_| ()).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                info: id,
            }) => {
                stream.ignore_for_keep_alive();
                let asking = tokio::time::timeout(ECHO_TIMEOUT, ask(stream));
                let outcome = asking.map(move |asked| {
                    let came = match asked {
                        Ok(Ok(rtt)) => Came::Back(rtt),
                        // A connection that broke is closed by whoever saw it break.
                        Ok(Err(_)) => Came::Otherwise,
                        Err(_) => Came::Nothing,
                    };
                    (id, came)
                });
                self.asking.push(outcome.boxed());
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: id, error }) => {
                let came = match error {
                    StreamUpgradeError::NegotiationFailed | StreamUpgradeError::Io(_) => {
                        Came::Otherwise
                    }
                    StreamUpgradeError::Timeout => Came::Nothing,
                    StreamUpgradeError::Apply(never) => never_happens(never),
                };
                self.done.push_back((id, came));
            }
            _ => {}
        }
    }
}

const fn never_happens<T>(never: Infallible) -> T {
    match never {}
}

async fn ask(mut stream: Stream) -> io::Result<Duration> {
    let sent: Bytes = rand::random();
    let began = Instant::now();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut came = Bytes::default();
    stream.read_exact(&mut came).await?;
    let rtt = began.elapsed();
    stream.close().await?;
    if came == sent {
        Ok(rtt)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

async fn answer(mut stream: Stream) -> io::Result<()> {
    let mut came = Bytes::default();
    stream.read_exact(&mut came).await?;
    stream.write_all(&came).await?;
    stream.close().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use libp2p::Swarm;
    use libp2p::swarm::SwarmEvent;
    use libp2p::swarm::dial_opts::DialOpts;
    use libp2p_swarm_test::SwarmExt;

    use super::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/echo/1");

    /// Polls both until `a` says something that `wanted` takes.
    async fn until<T>(
        a: &mut Swarm<Behaviour>,
        b: &mut Swarm<Behaviour>,
        wanted: impl Fn(SwarmEvent<Event>) -> Option<T>,
    ) -> T {
        loop {
            tokio::select! {
                event = a.next_swarm_event() => if let Some(found) = wanted(event) {
                    return found;
                },
                _ = b.next_swarm_event() => {}
            }
        }
    }

    #[tokio::test]
    async fn what_is_sent_comes_back() {
        let mut a = Swarm::new_ephemeral_tokio(|_| Behaviour::new(PROTOCOL));
        let mut b = Swarm::new_ephemeral_tokio(|_| Behaviour::new(PROTOCOL));
        let (address, _) = b.listen().with_memory_addr_external().await;
        let (peer, dial) = (*b.local_peer_id(), DialOpts::from(address));
        let connection = dial.connection_id();
        a.dial(dial).unwrap();
        let connected =
            |event| matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(());
        until(&mut a, &mut b, connected).await;

        a.behaviour_mut().ask(peer, connection, EchoId(7));
        let told = |event| match event {
            SwarmEvent::Behaviour(event) => Some(event),
            _ => None,
        };
        let event = until(&mut a, &mut b, told).await;
        assert_eq!((event.peer, event.connection), (peer, connection));
        assert_eq!(event.id, EchoId(7));
        assert!(matches!(event.came, Came::Back(_)));

        // Who does not speak it is there all the same.
        let mut other = Swarm::new_ephemeral_tokio(|_| libp2p::ping::Behaviour::default());
        let (address, _) = other.listen().with_memory_addr_external().await;
        let (peer, dial) = (*other.local_peer_id(), DialOpts::from(address));
        let connection = dial.connection_id();
        a.dial(dial).unwrap();
        tokio::spawn(other.loop_on_next());
        until(&mut a, &mut b, connected).await;
        a.behaviour_mut().ask(peer, connection, EchoId(8));
        let event = until(&mut a, &mut b, told).await;
        assert_eq!(event.id, EchoId(8));
        assert_eq!(event.came, Came::Otherwise);

        // Nobody answers on a connection that is gone, and nobody is told of it.
        a.close_connection(connection);
        let closed = |event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(());
        until(&mut a, &mut b, closed).await;
        a.behaviour_mut().ask(peer, connection, EchoId(9));
        let none = until(&mut a, &mut b, told);
        let waited = tokio::time::timeout(Duration::from_millis(100), none).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn more_echoes_than_are_answered_are_no_death() {
        let mut a = Swarm::new_ephemeral_tokio(|_| Behaviour::new(PROTOCOL));
        let mut b = Swarm::new_ephemeral_tokio(|_| Behaviour::new(PROTOCOL));
        let (address, _) = b.listen().with_memory_addr_external().await;
        let (peer, dial) = (*b.local_peer_id(), DialOpts::from(address));
        let connection = dial.connection_id();
        a.dial(dial).unwrap();
        let connected =
            |event| matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(());
        until(&mut a, &mut b, connected).await;
        let count = 20 * MAX_ANSWERING as u64;
        for id in 0..count {
            a.behaviour_mut().ask(peer, connection, EchoId(id));
        }
        for _ in 0..count {
            let told = |event| match event {
                SwarmEvent::Behaviour(event) => Some(event),
                _ => None,
            };
            let event = until(&mut a, &mut b, told).await;
            assert_ne!(event.came, Came::Nothing);
        }
    }
}
