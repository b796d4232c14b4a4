//! The way from the network to the node: what happened, bounded.
//!
//! Three queues behind one [`NetEvents::recv`]. Requests and streams wait in bounded channels, and
//! when those are full the sender learns at once that there is no room: a request is then answered
//! *busy* and a stream refused on the wire. Everything else is about one peer and is merged with what
//! already waits about that peer, so it is never dropped and never grows beyond the number of peers;
//! it is handed out first.
//!
//! Written to by the actor and by the connection tasks of [`super::streams`]; read by the driver. It
//! must never make the network wait for the node.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId};
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::message::TaskRequest;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, OwnedPermit};

use super::conduct::Misdeed;
use super::config::NetLimits;
use super::protocols::StreamKind;
use super::streams::NetStream;
use super::tasks::InboundId;

/// Something that the node should know.
#[derive(Debug)]
pub enum NetEvent {
    /// A first connection to this peer opened.
    Connected(PeerId),
    /// The last connection to this peer closed.
    Disconnected(PeerId),
    /// A true advert, newer than the last one of its peer.
    Advert {
        /// Whose.
        peer: PeerId,
        /// What it says.
        advert: Box<Advert>,
    },
    /// A peer asks. To be answered once by [`super::NetHandle::respond`].
    Request {
        /// Who.
        peer: PeerId,
        /// How to answer.
        id: InboundId,
        /// What.
        request: TaskRequest,
    },
    /// A peer opened a stream.
    Stream {
        /// Who.
        peer: PeerId,
        /// What for.
        kind: StreamKind,
        /// The stream. Dropping it tells the peer.
        stream: NetStream,
    },
    /// A peer was disconnected and shut out for what it did.
    ShutOut {
        /// Who.
        peer: PeerId,
        /// The misdeed that was one too many.
        misdeed: Misdeed,
    },
    /// The addresses that this node listens on or is reached at changed.
    Addresses {
        /// Listened on.
        listen: Vec<Multiaddr>,
        /// Confirmed from outside.
        external: Vec<Multiaddr>,
    },
}

/// What waits about one peer.
#[derive(Debug, Default)]
struct Waiting {
    /// Whether the node was told last that the peer is connected.
    told: bool,
    /// Whether it is.
    connected: bool,
    /// Whether the connection was lost since the node was told of it.
    flapped: bool,
    advert: Option<Box<Advert>>,
    shut_out: Option<Misdeed>,
    queued: bool,
}

impl Waiting {
    /// The next thing to tell about `peer`. A peer that came back meanwhile was still lost: what it
    /// was asked before may be gone, so the node hears of both.
    fn next(&mut self, peer: PeerId) -> Option<NetEvent> {
        if self.told && (self.flapped || !self.connected) {
            self.told = false;
            self.flapped = false;
            return Some(NetEvent::Disconnected(peer));
        }
        if let Some(misdeed) = self.shut_out.take() {
            return Some(NetEvent::ShutOut { peer, misdeed });
        }
        if self.connected && !self.told {
            self.told = true;
            return Some(NetEvent::Connected(peer));
        }
        let advert = self.advert.take()?;
        Some(NetEvent::Advert { peer, advert })
    }
}

#[derive(Debug, Default)]
struct Mailbox {
    peers: HashMap<PeerId, Waiting>,
    order: VecDeque<PeerId>,
    addresses: Option<(Vec<Multiaddr>, Vec<Multiaddr>)>,
}

impl Mailbox {
    fn about(&mut self, peer: PeerId) -> &mut Waiting {
        let waiting = self.peers.entry(peer).or_default();
        if !waiting.queued {
            waiting.queued = true;
            self.order.push_back(peer);
        }
        waiting
    }

    fn next(&mut self) -> Option<NetEvent> {
        if let Some((listen, external)) = self.addresses.take() {
            return Some(NetEvent::Addresses { listen, external });
        }
        while let Some(peer) = self.order.front().copied() {
            let Some(waiting) = self.peers.get_mut(&peer) else {
                self.order.pop_front();
                continue;
            };
            if let Some(event) = waiting.next(peer) {
                return Some(event);
            }
            self.order.pop_front();
            waiting.queued = false;
            if !waiting.connected && !waiting.told {
                self.peers.remove(&peer);
            }
        }
        None
    }
}

#[derive(Debug, Default)]
struct Shared {
    mailbox: Mutex<Mailbox>,
    filled: Notify,
}

impl Shared {
    /// The mailbox. A panic while it is locked would leave it as consistent as any other moment, so
    /// poison is of no interest.
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way to the node.
#[derive(Debug)]
pub(super) struct WaitingRequest {
    pub peer: PeerId,
    pub id: InboundId,
    pub request: TaskRequest,
}

/// A stream on its way to the node.
#[derive(Debug)]
pub(super) struct WaitingStream {
    pub peer: PeerId,
    pub kind: StreamKind,
    pub stream: NetStream,
}

/// The network's end.
#[derive(Debug, Clone)]
pub(super) struct EventSink {
    shared: Arc<Shared>,
    requests: mpsc::Sender<WaitingRequest>,
    streams: mpsc::Sender<WaitingStream>,
}

impl EventSink {
    pub(super) fn connected(&self, peer: PeerId) {
        self.shared.lock().about(peer).connected = true;
        self.shared.filled.notify_one();
    }

    pub(super) fn disconnected(&self, peer: PeerId) {
        let mut mailbox = self.shared.lock();
        let waiting = mailbox.about(peer);
        waiting.connected = false;
        waiting.flapped = waiting.told;
        drop(mailbox);
        self.shared.filled.notify_one();
    }

    pub(super) fn advert(&self, peer: PeerId, advert: Box<Advert>) {
        self.shared.lock().about(peer).advert = Some(advert);
        self.shared.filled.notify_one();
    }

    pub(super) fn shut_out(&self, peer: PeerId, misdeed: Misdeed) {
        self.shared.lock().about(peer).shut_out = Some(misdeed);
        self.shared.filled.notify_one();
    }

    pub(super) fn addresses(&self, listen: Vec<Multiaddr>, external: Vec<Multiaddr>) {
        self.shared.lock().addresses = Some((listen, external));
        self.shared.filled.notify_one();
    }

    /// Hands a request on; false when there is no room for it.
    pub(super) fn request(&self, request: WaitingRequest) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// Room for one stream, if there is any.
    pub(super) fn room_for_stream(&self) -> Option<OwnedPermit<WaitingStream>> {
        self.streams.clone().try_reserve_owned().ok()
    }
}

/// The node's end.
#[derive(Debug)]
pub struct NetEvents {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<WaitingRequest>,
    streams: mpsc::Receiver<WaitingStream>,
}

impl NetEvents {
    /// Waits for the next event; `None` once the network is shut down and everything was handed out.
    /// May be dropped while it waits without losing anything.
    pub async fn recv(&mut self) -> Option<NetEvent> {
        loop {
            if let Some(event) = self.shared.lock().next() {
                return Some(event);
            }
            tokio::select! {
                () = self.shared.filled.notified() => {}
                request = self.requests.recv() => match request {
                    Some(WaitingRequest { peer, id, request }) => {
                        return Some(NetEvent::Request { peer, id, request });
                    }
                    None => return self.shared.lock().next(),
                },
                Some(WaitingStream { peer, kind, stream }) = self.streams.recv() => {
                    return Some(NetEvent::Stream { peer, kind, stream });
                }
            }
        }
    }
}

/// Both ends.
pub(super) fn channel(limits: &NetLimits) -> (EventSink, NetEvents) {
    let shared = Arc::new(Shared::default());
    let (requests_in, requests_out) = mpsc::channel(limits.waiting_requests.max(1));
    let (streams_in, streams_out) = mpsc::channel(limits.waiting_streams.max(1));
    (
        EventSink {
            shared: Arc::clone(&shared),
            requests: requests_in,
            streams: streams_in,
        },
        NetEvents {
            shared,
            requests: requests_out,
            streams: streams_out,
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn advert(issued_ms: u64) -> Box<Advert> {
        Box::new(Advert {
            network: "test".into(),
            issued_ms,
            ttl_ms: 1,
            ..Advert::default()
        })
    }

    fn next(events: &NetEvents) -> Option<NetEvent> {
        events.shared.lock().next()
    }

    #[test]
    fn a_peer_that_came_and_went_unseen_is_not_mentioned() {
        let (sink, events) = channel(&NetLimits::default());
        let peer = PeerId::random();
        sink.connected(peer);
        sink.disconnected(peer);
        assert!(next(&events).is_none());
        assert!(events.shared.lock().peers.is_empty());
    }

    #[test]
    fn a_lost_and_regained_connection_is_told_as_both() {
        let (sink, events) = channel(&NetLimits::default());
        let peer = PeerId::random();
        sink.connected(peer);
        assert!(matches!(next(&events), Some(NetEvent::Connected(p)) if p == peer));
        sink.disconnected(peer);
        sink.connected(peer);
        assert!(matches!(next(&events), Some(NetEvent::Disconnected(_))));
        assert!(matches!(next(&events), Some(NetEvent::Connected(_))));
        assert!(next(&events).is_none());
        sink.disconnected(peer);
        assert!(matches!(next(&events), Some(NetEvent::Disconnected(_))));
        assert!(next(&events).is_none());
        assert!(events.shared.lock().peers.is_empty());
    }

    #[test]
    fn only_the_newest_advert_waits_and_comes_after_the_connection() {
        let (sink, events) = channel(&NetLimits::default());
        let peer = PeerId::random();
        for issued_ms in 1..1_000 {
            sink.advert(peer, advert(issued_ms));
        }
        sink.connected(peer);
        assert!(matches!(next(&events), Some(NetEvent::Connected(_))));
        match next(&events) {
            Some(NetEvent::Advert { advert, .. }) => assert_eq!(advert.issued_ms, 999),
            other => panic!("{other:?}"),
        }
        assert!(next(&events).is_none());
    }

    #[tokio::test]
    async fn what_waits_is_still_handed_out_after_the_end() {
        let (sink, mut events) = channel(&NetLimits::default());
        let peer = PeerId::random();
        sink.connected(peer);
        drop(sink);
        assert!(matches!(events.recv().await, Some(NetEvent::Connected(_))));
        assert!(events.recv().await.is_none());
    }
}
