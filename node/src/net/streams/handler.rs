//! Opens and accepts streams on one connection.
//!
//! Runs on the connection's task. An accepted stream goes from here straight to the node's queue: a
//! place in the queue is reserved first, then the opener is told, then the stream is put there. So a
//! stream that its opener holds as open is never lost, and none waits that nobody has room for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamUpgradeError, SubstreamProtocol,
};
use tokio::sync::oneshot;

use super::super::error::OpenError;
use super::super::events::{EventSink, WaitingStream};
use super::super::metrics::NetMetrics;
use super::super::protocols::StreamKind;
use super::path::Path;
use super::slots::{PeerSlots, Slot};
use super::stream::NetStream;
use super::upgrade::{self, Accept, NotOpened};

/// How long the answer to an opening may take, and how long we try to send one (10 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that are being opened at a time. The other side negotiates 128 at a time (libp2p's
/// default); with more, the clocks of those that wait would run.
const MAX_OPENING: usize = 64;

/// Answers that are being sent at a time. A peer that does not read them gets resets instead.
const MAX_ANSWERING: usize = 128;

/// Where an opened stream goes.
pub type StreamReply = oneshot::Sender<Result<NetStream, OpenError>>;

/// A stream that the node wants.
#[derive(Debug)]
pub struct Wish {
    pub(super) kind: StreamKind,
    pub(super) reply: StreamReply,
    pub(super) slot: Slot,
}

impl Wish {
    pub(super) fn fail(self, error: OpenError) {
        let _ = self.reply.send(Err(error));
    }
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) accept: Accept,
    pub(super) events: EventSink,
    pub(super) metrics: NetMetrics,
}

/// The handler of one connection.
#[derive(Debug)]
pub struct Handler {
    peer: PeerId,
    shared: Arc<Shared>,
    slots: Arc<PeerSlots>,
    path: Arc<Path>,
    /// Streams to open; bounded by the peer's slots.
    wishes: VecDeque<Wish>,
    opening: usize,
    answering: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.path.end();
    }
}

impl Handler {
    pub(super) fn new(
        peer: PeerId,
        shared: Arc<Shared>,
        slots: Arc<PeerSlots>,
        path: Arc<Path>,
    ) -> Self {
        Self {
            peer,
            shared,
            slots,
            path,
            wishes: VecDeque::new(),
            opening: 0,
            answering: FuturesUnordered::new(),
        }
    }

    fn on_inbound(&mut self, stream: Stream, kind: StreamKind) {
        if self.answering.len() >= MAX_ANSWERING {
            self.shared.metrics.streams_refused.inc();
            return;
        }
        let admitted = self
            .slots
            .inbound()
            .and_then(|slot| Some((slot, self.shared.events.room_for_stream()?)));
        let answer = match admitted {
            Some((slot, room)) => {
                let (peer, shared) = (self.peer, Arc::clone(&self.shared));
                let path = Arc::clone(&self.path);
                within(async move {
                    let mut stream = stream;
                    upgrade::accept(&mut stream).await?;
                    shared.metrics.streams_accepted.inc();
                    let bytes = shared.metrics.bytes_of(kind).clone();
                    let stream = NetStream::new(stream, peer, kind, bytes, slot, path);
                    room.send(WaitingStream { peer, kind, stream });
                    Ok(())
                })
            }
            None => {
                self.shared.metrics.streams_refused.inc();
                within(async move {
                    let mut stream = stream;
                    upgrade::refuse(&mut stream).await
                })
            }
        };
        self.answering.push(answer);
    }

    fn on_outbound(&mut self, stream: Stream, wish: Wish) {
        self.opening -= 1;
        self.shared.metrics.streams_opened.inc();
        let bytes = self.shared.metrics.bytes_of(wish.kind).clone();
        let path = Arc::clone(&self.path);
        let stream = NetStream::new(stream, self.peer, wish.kind, bytes, wish.slot, path);
        let _ = wish.reply.send(Ok(stream));
    }

    fn on_outbound_error(&mut self, error: StreamUpgradeError<NotOpened>, wish: Wish) {
        self.opening -= 1;
        wish.fail(match error {
            StreamUpgradeError::Timeout => OpenError::TimedOut,
            StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
            StreamUpgradeError::Apply(NotOpened::Refused) => OpenError::Refused,
            // A reset in place of an answer: the other side has no room even for saying so.
            StreamUpgradeError::Apply(NotOpened::Lost(_)) => OpenError::Refused,
            StreamUpgradeError::Io(_) => OpenError::Unreachable,
        });
    }
}

/// Sends an answer within the time there is; when that fails, the opener sees a reset.
fn within(
    answer: impl Future<Output = std::io::Result<()>> + Send + 'static,
) -> BoxFuture<'static, ()> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .map(|result| {
            if !matches!(result, Ok(Ok(()))) {
                tracing::debug!("the answer to an opened stream could not be sent");
            }
        })
        .boxed()
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Wish;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = Accept;
    type OutboundProtocol = upgrade::Open;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Wish;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(self.shared.accept.clone(), ())
    }

    fn on_behaviour_event(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<upgrade::Open, Wish, Self::ToBehaviour>> {
        while let Poll::Ready(Some(())) = self.answering.poll_next_unpin(cx) {}
        while self.opening < MAX_OPENING {
            let Some(wish) = self.wishes.pop_front() else {
                break;
            };
            if wish.reply.is_closed() {
                continue;
            }
            self.opening += 1;
            let open = self.shared.accept.opening(wish.kind);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(open, wish).with_timeout(ANSWER_TIMEOUT),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, upgrade::Open, (), Wish>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, kind),
                ..
            }) => self.on_inbound(stream, kind),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => self.on_outbound(protocol, info),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.on_outbound_error(error, info);
            }
            _ => {}
        }
    }
}
