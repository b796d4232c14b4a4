//! The direct exchange of adverts, `/p2pnode/<network>/advert/1`.
//!
//! When two nodes meet, each sends the other a hello with its own advert, within one round trip of
//! the handshake; a node that just came to the network also asks its first peers for what they know
//! of others. Called by the actor; what the adverts say is judged by [`super::capacity`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::request_response::{self, Event, Message, ProtocolSupport};
use p2pnode_protocol::advert::{AdvertAnswer, AdvertHello, MAX_ADVERTS};
use p2pnode_protocol::codec;
use rand::seq::IteratorRandom;

use super::capacity::{Capacity, MAX_SIGNED_BYTES};
use super::conduct::Misdeed;
use super::context::Context;
use super::metrics::NetMetrics;
use super::protocols::Protocols;
use super::wire::{Frame, WireCodec};

/// How many peers a newcomer asks when it meets them; so it begins with up to 192 nodes to choose
/// from.
const PEERS_ASKED: u32 = 3;

/// The largest hello, in bytes.
const MAX_HELLO_BYTES: usize = MAX_SIGNED_BYTES + 16;

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = MAX_ADVERTS * MAX_SIGNED_BYTES;

/// How long an exchange may take (10 s).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Exchanges under way on one connection; two suffice for two nodes that behave.
const MAX_STREAMS: usize = 8;

/// A peer is told about others this often at the most (1 minute): an answer is some 30 KiB, and what
/// changes meanwhile is gossiped. Nobody is asked more often either.
const ANSWER_INTERVAL: Duration = Duration::from_secs(60);

/// libp2p's behaviour for these messages.
pub(super) type ExchangeBehaviour =
    request_response::Behaviour<WireCodec<AdvertHello, AdvertAnswer>>;

/// An event of it.
pub(super) type ExchangeEvent = Event<Frame<AdvertHello>, Frame<AdvertAnswer>>;

/// Makes the behaviour.
pub(super) fn behaviour(protocols: &Protocols, metrics: &NetMetrics) -> ExchangeBehaviour {
    request_response::Behaviour::with_codec(
        WireCodec::new(
            MAX_HELLO_BYTES,
            MAX_ANSWER_BYTES,
            metrics.advert_bytes.clone(),
        ),
        [(protocols.advert.clone(), ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(TIMEOUT)
            .with_max_concurrent_streams(MAX_STREAMS),
    )
}

#[derive(Debug, Default)]
struct Greeting {
    /// Which of our adverts the peer was sent last.
    told_ms: u64,
    /// When it was last told about others.
    answered: Option<Instant>,
    /// When it was last asked about others.
    asked: Option<Instant>,
    /// Whether its answer to that is still to come.
    expected: bool,
}

impl Greeting {
    fn may_be_asked(&self, now: Instant) -> bool {
        self.asked
            .is_none_or(|at| now.saturating_duration_since(at) > ANSWER_INTERVAL)
    }
}

/// Who was told what.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The connected peers.
    peers: HashMap<PeerId, Greeting>,
    /// How many were asked about others.
    asked: u32,
}

impl Exchange {
    /// A first connection to `peer` opened.
    pub(super) fn on_connected(&mut self, cx: &mut Context<'_>, capacity: &Capacity, peer: PeerId) {
        self.peers.insert(peer, Greeting::default());
        let ask = self.asked < PEERS_ASKED;
        self.asked += u32::from(ask);
        self.greet(cx, capacity, peer, ask);
    }

    /// Asks one of the peers what it knows of others. Done after every walk: what was gossiped while
    /// the network's parts did not know of each other yet is not gossiped again.
    pub(super) fn ask_somebody(&mut self, cx: &mut Context<'_>, capacity: &Capacity) {
        let now = cx.now;
        let candidates = self
            .peers
            .iter()
            .filter(|(_, greeting)| greeting.may_be_asked(now))
            .map(|(peer, _)| *peer);
        if let Some(peer) = candidates.choose(&mut rand::rng()) {
            self.greet(cx, capacity, peer, true);
        }
    }

    /// `peer` follows our gossip from now on. What was published since it was greeted was too late
    /// for the greeting and too early for the gossip.
    pub(super) fn on_subscribed(
        &mut self,
        cx: &mut Context<'_>,
        capacity: &Capacity,
        peer: PeerId,
    ) {
        self.greet(cx, capacity, peer, false);
    }

    /// The last connection to `peer` closed.
    pub(super) fn on_disconnected(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        if self.peers.is_empty() {
            // Whatever happened in the network meanwhile, the next peer can tell.
            self.asked = 0;
        }
    }

    fn greet(&mut self, cx: &mut Context<'_>, capacity: &Capacity, peer: PeerId, ask: bool) {
        let Some(greeting) = self.peers.get_mut(&peer) else {
            return;
        };
        let news = capacity
            .own_issued_ms()
            .filter(|issued_ms| *issued_ms > greeting.told_ms);
        if news.is_none() && !ask {
            return;
        }
        let hello = AdvertHello {
            mine: news.and_then(|_| capacity.own().cloned()),
            want: if ask { MAX_ADVERTS as u16 } else { 0 },
        };
        let Ok(bytes) = codec::encode(&hello, MAX_HELLO_BYTES) else {
            return;
        };
        greeting.told_ms = news.unwrap_or(greeting.told_ms);
        if ask {
            greeting.asked = Some(cx.now);
            greeting.expected = true;
        }
        cx.behaviour
            .exchange
            .send_request(&peer, Frame::Encoded(bytes));
    }

    pub(super) fn on_event(
        &mut self,
        cx: &mut Context<'_>,
        capacity: &mut Capacity,
        event: ExchangeEvent,
    ) {
        match event {
            Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let want = self.on_hello(cx, capacity, peer, request);
                    let answer = self.answer(cx.now, capacity, peer, want);
                    let _ = cx
                        .behaviour
                        .exchange
                        .send_response(channel, Frame::Encoded(answer));
                }
                Message::Response { response, .. } => {
                    self.on_answer(cx, capacity, peer, response);
                }
            },
            Event::OutboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "no exchange of adverts");
            }
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }

    fn on_hello(
        &mut self,
        cx: &mut Context<'_>,
        capacity: &mut Capacity,
        peer: PeerId,
        hello: Frame<AdvertHello>,
    ) -> usize {
        match hello {
            Frame::Decoded(AdvertHello { mine, want }, _) => {
                if let Some(signed) = mine {
                    capacity.on_exchange(cx, peer, Some(peer), signed);
                }
                usize::from(want)
            }
            Frame::Bad(misdeed) => {
                cx.report(peer, misdeed);
                0
            }
            Frame::Encoded(_) => 0,
        }
    }

    fn answer(&mut self, now: Instant, capacity: &Capacity, peer: PeerId, want: usize) -> Vec<u8> {
        let mut others = Vec::new();
        if want > 0
            && let Some(greeting) = self.peers.get_mut(&peer)
            && greeting
                .answered
                .is_none_or(|at| now.saturating_duration_since(at) >= ANSWER_INTERVAL)
        {
            greeting.answered = Some(now);
            others = capacity.some(want.min(MAX_ADVERTS), peer);
        }
        codec::encode(&AdvertAnswer { others }, MAX_ANSWER_BYTES).unwrap_or_default()
    }

    fn on_answer(
        &mut self,
        cx: &mut Context<'_>,
        capacity: &mut Capacity,
        peer: PeerId,
        answer: Frame<AdvertAnswer>,
    ) {
        let others = match answer {
            Frame::Decoded(AdvertAnswer { others }, _) => others,
            Frame::Bad(misdeed) => {
                cx.report(peer, misdeed);
                return;
            }
            Frame::Encoded(_) => return,
        };
        if others.is_empty() {
            return;
        }
        let expected = self
            .peers
            .get_mut(&peer)
            .is_some_and(|greeting| std::mem::take(&mut greeting.expected));
        if !expected || others.len() > MAX_ADVERTS {
            cx.report(peer, Misdeed::OutOfPlace);
            return;
        }
        for signed in others {
            capacity.on_exchange(cx, peer, None, signed);
        }
    }
}
