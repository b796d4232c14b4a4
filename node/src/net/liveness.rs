//! Finds out which connections are dead although nobody closed them.
//!
//! A cut line, a laptop that moved to another network, a NAT that forgot: TCP notices after a quarter of
//! an hour, and a node that believes in such a connection sends everything into it. So whenever there is
//! doubt, an echo is asked for on each connection of the peer, and those that bring none are closed; who
//! needs the peer then finds another way. Doubt comes from a call without an answer, from libp2p's ping,
//! from another connection that the same peer opens, and from an address of this machine that is gone.
//! Called by the actor. It never closes a connection that answers, nor one on which streams still move
//! bytes: on a slow line that is full, an echo waits behind them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::request_response::OutboundRequestId;
use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;

use super::context::{Action, Context};
use super::echo::{Came, EchoId, Event};

/// A call that has no answer after this time raises doubt (4 s): few answers take so long to think of,
/// and with the echo's own limit a dead connection is closed 10 s after it died, when the node counts the
/// peer as lost anyhow.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Time between two looks at calls that took too long, so that a busy node does not wake for each.
const LOOK: Duration = Duration::from_millis(500);

/// A connection lives without an echo when one of its streams moved bytes within this time (3 s: the 16 KiB
/// that are written at a time take as long on a line of 5 KiB/s). What is sent into a dead connection fills its
/// buffers at once, and stands still then.
const MOVING: Duration = Duration::from_secs(3);

/// The most calls that are watched: of a thousand peers 64 each.
const MAX_CALLS: usize = 65_536;

/// Echoes under way at a time; further doubt is not looked into. All connections that a node may have
/// are fewer.
const MAX_ECHOES: usize = 4_096;

/// A round trip, as somebody asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echoed {
    /// How long it took; `None` when nothing came back within 6 s.
    pub rtt: Option<Duration>,
    /// Whether it went through a relay.
    pub relayed: bool,
}

/// Where the answer to a wanted round trip goes. Dropped when there is no connection.
pub(super) type EchoReply = oneshot::Sender<Echoed>;

#[derive(Debug)]
struct Asked {
    connection: ConnectionId,
    reply: Option<EchoReply>,
}

/// The echoes under way, and the calls that are waited for.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    asked: HashMap<EchoId, Asked>,
    next: u64,
    /// Calls without an answer, in the order of their time; answered ones are found out when it is over.
    calls: VecDeque<(Instant, PeerId, OutboundRequestId)>,
    looked: Option<Instant>,
}

impl Liveness {
    /// A call was sent.
    pub(super) fn on_call(&mut self, now: Instant, peer: PeerId, call: OutboundRequestId) {
        if self.calls.len() < MAX_CALLS {
            self.calls.push_back((now + PATIENCE, peer, call));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let (due, _, _) = self.calls.front()?;
        let next = self.looked.map(|at| at + LOOK);
        Some(next.map_or(*due, |next| next.max(*due)))
    }

    /// Looks into calls that took too long. `waits` says whether one still has no answer.
    pub(super) fn on_deadline(
        &mut self,
        cx: &mut Context<'_>,
        waits: impl Fn(&OutboundRequestId) -> bool,
    ) {
        if self.deadline().is_none_or(|at| at > cx.now) {
            return;
        }
        self.looked = Some(cx.now);
        while let Some((at, peer, call)) = self.calls.front().copied() {
            if at > cx.now {
                break;
            }
            self.calls.pop_front();
            if waits(&call) {
                self.doubt(cx, peer);
            }
        }
    }

    /// Whether the connections of `peer` live is to be seen.
    pub(super) fn doubt(&mut self, cx: &mut Context<'_>, peer: PeerId) {
        let links = cx.peers.get(&peer).map(|entry| entry.links.iter());
        let links: Vec<ConnectionId> = links.into_iter().flatten().map(|link| link.id).collect();
        for connection in links {
            let doubted = |asked: &Asked| asked.connection == connection && asked.reply.is_none();
            if !self.asked.values().any(doubted) {
                self.ask(cx, peer, connection, None);
            }
        }
    }

    /// An address of this machine is gone, and with it perhaps every connection.
    pub(super) fn doubt_all(&mut self, cx: &mut Context<'_>) {
        let peers: Vec<PeerId> = cx.peers.connected().map(|(peer, _)| *peer).collect();
        for peer in peers {
            self.doubt(cx, peer);
        }
    }

    /// The node wants to know how long a round trip takes, on the connection that data would take.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>, peer: PeerId, reply: EchoReply) {
        if let Some(connection) = cx.behaviour.streams.best(&peer) {
            self.ask(cx, peer, connection, Some(reply));
        }
    }

    fn ask(
        &mut self,
        cx: &mut Context<'_>,
        peer: PeerId,
        connection: ConnectionId,
        reply: Option<EchoReply>,
    ) {
        if self.asked.len() >= MAX_ECHOES {
            return;
        }
        self.next += 1;
        let id = EchoId(self.next);
        self.asked.insert(id, Asked { connection, reply });
        cx.behaviour.echo.ask(peer, connection, id);
    }

    /// An echo came back, or did not.
    pub(super) fn on_echo(&mut self, cx: &mut Context<'_>, event: Event) {
        let Some(asked) = self.asked.remove(&event.id) else {
            return;
        };
        let rtt = match event.came {
            Came::Back(rtt) => Some(rtt),
            Came::Otherwise | Came::Nothing => None,
        };
        if let Some(rtt) = rtt {
            cx.peers.measured(&event.peer, event.connection, rtt);
        }
        match asked.reply {
            Some(reply) => {
                let relayed = cx.peers.get(&event.peer).is_some_and(|entry| {
                    let mut links = entry.links.iter();
                    links.any(|link| link.id == event.connection && link.is_relayed())
                });
                let _ = reply.send(Echoed { rtt, relayed });
            }
            None if event.came == Came::Nothing => {
                self.on_silence(cx, event.peer, event.connection)
            }
            None => {}
        }
    }

    /// A doubted connection brought no echo.
    fn on_silence(&mut self, cx: &mut Context<'_>, peer: PeerId, connection: ConnectionId) {
        let moved = cx.behaviour.streams.moved(&peer, connection);
        if moved.is_some_and(|at| cx.now.saturating_duration_since(at) < MOVING) {
            tracing::debug!(%peer, "no echo, but bytes move: asking again");
            self.ask(cx, peer, connection, None);
        } else {
            tracing::info!(%peer, "a connection is dead: closing it");
            cx.actions.push(Action::Close(connection));
        }
    }

    /// A connection closed: nothing will come back on it.
    pub(super) fn on_closed(&mut self, connection: ConnectionId) {
        self.asked.retain(|_, asked| asked.connection != connection);
    }
}

#[cfg(test)]
mod tests;
