//! Task messages: calls to peers and calls from them.
//!
//! Owns the tables of both, one entry for every call that waits for its answer, and the bounds on
//! them. Called by the actor with commands of the node and events of the swarm. It never decides
//! what a message means, and never waits: a request that the node has no room for is answered
//! *busy* here.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use libp2p::request_response::{
    self, Event, InboundFailure, InboundRequestId, Message, OutboundFailure, OutboundRequestId,
    ProtocolSupport, ResponseChannel,
};
use libp2p::{Multiaddr, PeerId};
use p2pnode_protocol::codec;
use p2pnode_protocol::message::{MAX_MESSAGE_BYTES, TaskRequest, TaskResponse};
use tokio::sync::oneshot;

use super::addresses;
use super::config::NetLimits;
use super::context::Context;
use super::error::CallError;
use super::events::WaitingRequest;
use super::metrics::NetMetrics;
use super::protocols::Protocols;
use super::wire::{Frame, WireCodec};

/// How long a call may take, in both directions (20 s): 4 MiB over a line of 2 Mbit/s and a second to
/// think. Loss of a peer is noticed by other means, and much sooner.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes of requests that wait for an answer from this node (64 MiB), and of one peer's among
/// them (16 MiB: four of the largest messages). More are answered *busy*.
const BYTES: usize = 64 << 20;
const BYTES_PER_PEER: usize = 16 << 20;

/// libp2p's behaviour for our messages.
pub(super) type TaskBehaviour = request_response::Behaviour<WireCodec<TaskRequest, TaskResponse>>;

/// An event of it.
pub(super) type TaskEvent = Event<Frame<TaskRequest>, Frame<TaskResponse>>;

/// Where the answer of a call goes.
pub(super) type Reply = oneshot::Sender<Result<TaskResponse, CallError>>;

/// Names a request of a peer until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InboundId(InboundRequestId);

/// Makes the behaviour.
pub(super) fn behaviour(
    protocols: &Protocols,
    limits: &NetLimits,
    metrics: &NetMetrics,
) -> TaskBehaviour {
    request_response::Behaviour::with_codec(
        WireCodec::new(
            MAX_MESSAGE_BYTES,
            MAX_MESSAGE_BYTES,
            metrics.task_bytes.clone(),
        ),
        [(protocols.task.clone(), ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(CALL_TIMEOUT)
            .with_max_concurrent_streams(2 * limits.requests_per_peer),
    )
}

/// A request encoded.
///
/// # Errors
/// [`CallError::TooLarge`].
pub(super) fn encode_request(request: &TaskRequest) -> Result<Vec<u8>, CallError> {
    Ok(codec::encode(request, MAX_MESSAGE_BYTES)?)
}

/// An answer encoded.
///
/// # Errors
/// [`CallError::TooLarge`].
pub(super) fn encode_response(response: &TaskResponse) -> Result<Vec<u8>, CallError> {
    Ok(codec::encode(response, MAX_MESSAGE_BYTES)?)
}

#[derive(Debug)]
struct Call {
    peer: PeerId,
    reply: Reply,
}

#[derive(Debug)]
struct Asked {
    peer: PeerId,
    bytes: usize,
    channel: ResponseChannel<Frame<TaskResponse>>,
}

/// The calls that wait.
#[derive(Debug)]
pub(super) struct Tasks {
    calls: HashMap<OutboundRequestId, Call>,
    asked: HashMap<InboundRequestId, Asked>,
    /// Calls and requests of each peer.
    load: HashMap<PeerId, Load>,
    /// Length of all requests in `asked`.
    asked_bytes: usize,
    per_peer: usize,
    /// [`TaskResponse::Busy`], encoded.
    busy: Vec<u8>,
}

#[derive(Debug, Default)]
struct Load {
    calls: usize,
    asked: usize,
    asked_bytes: usize,
}

impl Tasks {
    pub(super) fn new(limits: &NetLimits) -> Self {
        Self {
            calls: HashMap::new(),
            asked: HashMap::new(),
            load: HashMap::new(),
            asked_bytes: 0,
            per_peer: limits.requests_per_peer,
            busy: encode_response(&TaskResponse::Busy).unwrap_or_default(),
        }
    }

    /// The node calls a peer, connected or not. Returns the call's name, unless it is refused.
    pub(super) fn call(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        request: Vec<u8>,
        reply: Reply,
    ) -> Option<OutboundRequestId> {
        let load = self.load.entry(peer).or_default();
        if load.calls >= self.per_peer {
            let _ = reply.send(Err(CallError::TooMany));
            return None;
        }
        load.calls += 1;
        cx.metrics.requests_sent.inc();
        cx.peers.used(&peer, cx.now);
        let addresses: Vec<Multiaddr> = addresses::preferred(&cx.peers.addresses(&peer));
        let id = cx.behaviour.tasks.send_request_with_addresses(
            &peer,
            Frame::Encoded(request),
            addresses,
        );
        self.calls.insert(id, Call { peer, reply });
        Some(id)
    }

    /// Whether this call still has no answer.
    pub(super) fn waits(&self, call: &OutboundRequestId) -> bool {
        self.calls.contains_key(call)
    }

    /// The node answers. An answer to nobody (the peer is gone, or waited too long) is dropped.
    pub(super) fn answer(&mut self, cx: &mut Context<'_>, id: InboundId, response: Vec<u8>) {
        let Some(asked) = self.no_longer_asked(id.0) else {
            return;
        };
        cx.peers.used(&asked.peer, cx.now);
        let _ = cx
            .behaviour
            .tasks
            .send_response(asked.channel, Frame::Encoded(response));
    }

    pub(super) fn on_event(&mut self, cx: &mut Context<'_>, event: TaskEvent) {
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request_id,
                    request,
                    channel,
                } => self.on_request(cx, peer, request_id, request, channel),
                Message::Response {
                    request_id,
                    response,
                } => self.on_response(cx, request_id, response),
            },
            Event::OutboundFailure {
                request_id, error, ..
            } => self.finish(cx, request_id, Err(why_no_answer(&error))),
            Event::InboundFailure {
                peer,
                request_id,
                error,
                ..
            } => {
                self.no_longer_asked(request_id);
                if !matches!(
                    error,
                    InboundFailure::ConnectionClosed | InboundFailure::ResponseOmission
                ) {
                    tracing::debug!(%peer, %error, "a request was not answered");
                }
            }
            Event::ResponseSent { .. } => {}
        }
    }

    fn on_request(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        id: InboundRequestId,
        request: Frame<TaskRequest>,
        channel: ResponseChannel<Frame<TaskResponse>>,
    ) {
        let (request, bytes) = match request {
            Frame::Decoded(request, bytes) => (request, bytes),
            Frame::Bad(misdeed) => {
                // Dropping the channel closes the stream without an answer.
                cx.report(peer, misdeed);
                return;
            }
            Frame::Encoded(_) => return,
        };
        cx.peers.used(&peer, cx.now);
        let load = self.load.entry(peer).or_default();
        let waiting = WaitingRequest {
            peer,
            id: InboundId(id),
            request,
        };
        let full = load.asked >= self.per_peer
            || (load.asked > 0 && load.asked_bytes + bytes > BYTES_PER_PEER)
            || self.asked_bytes + bytes > BYTES;
        if full || !cx.events.request(waiting) {
            self.tidy(peer);
            cx.metrics.requests_refused.inc();
            let _ = cx
                .behaviour
                .tasks
                .send_response(channel, Frame::Encoded(self.busy.clone()));
            return;
        }
        load.asked += 1;
        load.asked_bytes += bytes;
        self.asked_bytes += bytes;
        self.asked.insert(
            id,
            Asked {
                peer,
                bytes,
                channel,
            },
        );
        cx.metrics.requests_received.inc();
    }

    fn on_response(
        &mut self,
        cx: &mut Context<'_>,
        id: OutboundRequestId,
        response: Frame<TaskResponse>,
    ) {
        let result = match response {
            Frame::Decoded(response, _) => Ok(response),
            Frame::Bad(misdeed) => {
                if let Some(call) = self.calls.get(&id) {
                    cx.report(call.peer, misdeed);
                }
                Err(CallError::Protocol)
            }
            Frame::Encoded(_) => Err(CallError::Protocol),
        };
        self.finish(cx, id, result);
    }

    fn finish(
        &mut self,
        cx: &Context<'_>,
        id: OutboundRequestId,
        result: Result<TaskResponse, CallError>,
    ) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if let Some(load) = self.load.get_mut(&call.peer) {
            load.calls -= 1;
        }
        self.tidy(call.peer);
        if result.is_err() {
            cx.metrics.requests_failed.inc();
        }
        let _ = call.reply.send(result);
    }

    fn no_longer_asked(&mut self, id: InboundRequestId) -> Option<Asked> {
        let asked = self.asked.remove(&id)?;
        if let Some(load) = self.load.get_mut(&asked.peer) {
            load.asked -= 1;
            load.asked_bytes -= asked.bytes;
        }
        self.asked_bytes -= asked.bytes;
        self.tidy(asked.peer);
        Some(asked)
    }

    fn tidy(&mut self, peer: PeerId) {
        if let Some(Load {
            calls: 0, asked: 0, ..
        }) = self.load.get(&peer)
        {
            self.load.remove(&peer);
        }
    }
}

fn why_no_answer(error: &OutboundFailure) -> CallError {
    match error {
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => CallError::Unreachable,
        OutboundFailure::Timeout => CallError::TimedOut,
        OutboundFailure::UnsupportedProtocols => CallError::Protocol,
        OutboundFailure::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => CallError::Protocol,
            _ => CallError::Unreachable,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_busy_answer_can_be_sent() {
        assert!(!Tasks::new(&NetLimits::default()).busy.is_empty());
    }

    #[test]
    fn failures_are_told_apart() {
        for (failure, expected) in [
            (OutboundFailure::DialFailure, CallError::Unreachable),
            (OutboundFailure::Timeout, CallError::TimedOut),
            (OutboundFailure::UnsupportedProtocols, CallError::Protocol),
            (
                OutboundFailure::Io(io::ErrorKind::UnexpectedEof.into()),
                CallError::Unreachable,
            ),
        ] {
            assert_eq!(why_no_answer(&failure), expected);
        }
    }
}
