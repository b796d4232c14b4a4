//! What happens in all networks, as one sequence.
//!
//! A peer that is in several is connected while it is in one. When one of several connections is lost,
//! what went that way may be lost with it, so the node hears that the peer was lost and is back.

use std::collections::VecDeque;

use futures::FutureExt;
use futures::future::{BoxFuture, select_all};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::message::TaskRequest;

use super::Networks;
use crate::net::{InboundId, Misdeed, NetEvent, NetEvents, NetStream, StreamKind};

/// Names a request of a peer until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskId {
    pub(super) place: usize,
    pub(super) id: InboundId,
}

/// Something that the node should know.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A first connection to this peer opened.
    Connected(PeerId),
    /// A last connection to this peer closed.
    Disconnected(PeerId),
    /// This peer holds the key of a private network that this node is in.
    Member(PeerId),
    /// A true advert.
    Advert {
        /// Whose.
        peer: PeerId,
        /// What it says.
        advert: Box<Advert>,
    },
    /// A peer asks. To be answered once by [`Networks::respond`].
    Request {
        /// Who.
        peer: PeerId,
        /// How to answer.
        id: AskId,
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
}

/// The node's end of all networks.
#[derive(Debug)]
pub struct NetworkEvents {
    networks: Networks,
    /// Each with its network's place; one that ended is gone.
    events: VecDeque<(usize, NetEvents)>,
    /// Told by one event of a network beside the first.
    next: VecDeque<NetworkEvent>,
}

impl NetworkEvents {
    pub(super) fn new(networks: Networks, events: Vec<NetEvents>) -> Self {
        Self {
            networks,
            events: events.into_iter().enumerate().collect(),
            next: VecDeque::new(),
        }
    }

    /// Waits for the next event; `None` once all networks are shut down and everything was handed out.
    /// May be dropped while it waits without losing anything.
    pub async fn recv(&mut self) -> Option<NetworkEvent> {
        loop {
            if let Some(event) = self.next.pop_front() {
                return Some(event);
            }
            let (index, place, event) = match self.events.make_contiguous() {
                [] => return None,
                [(place, events)] => (0, *place, events.recv().await),
                several => {
                    let waiting: Vec<BoxFuture<'_, _>> = several
                        .iter_mut()
                        .map(|(place, events)| {
                            let place = *place;
                            events.recv().map(move |event| (place, event)).boxed()
                        })
                        .collect();
                    let ((place, event), index, _others) = select_all(waiting).await;
                    (index, place, event)
                }
            };
            match event {
                Some(event) => {
                    // Whichever spoke is asked last the next time, so that none drowns the others.
                    if let Some(spoke) = self.events.remove(index) {
                        self.events.push_back(spoke);
                    }
                    self.tell(place, event);
                }
                None => {
                    self.events.remove(index);
                }
            }
        }
    }

    fn tell(&mut self, place: usize, event: NetEvent) {
        let presence = &self.networks.shared.presence;
        let next = &mut self.next;
        match event {
            NetEvent::Connected(peer) => {
                if self.networks.members()[place].is_private() {
                    next.push_back(NetworkEvent::Member(peer));
                }
                if presence.connect(peer, place) {
                    next.push_back(NetworkEvent::Connected(peer));
                }
            }
            NetEvent::Disconnected(peer) => {
                let stays = presence.disconnect(peer, place);
                next.push_back(NetworkEvent::Disconnected(peer));
                if stays {
                    next.push_back(NetworkEvent::Connected(peer));
                }
            }
            NetEvent::Advert { peer, advert } => {
                presence.heard(peer, place);
                next.push_back(NetworkEvent::Advert { peer, advert });
            }
            NetEvent::Request { peer, id, request } => {
                let id = AskId { place, id };
                next.push_back(NetworkEvent::Request { peer, id, request });
            }
            NetEvent::Stream { peer, kind, stream } => {
                next.push_back(NetworkEvent::Stream { peer, kind, stream });
            }
            NetEvent::ShutOut { peer, misdeed } => {
                next.push_back(NetworkEvent::ShutOut { peer, misdeed });
            }
            NetEvent::Addresses { .. } => {}
        }
    }
}
