//! Relayed connections that a direct one has made needless.
//!
//! Owned by [`super::Reach`]. Requests must not go through them by chance, so they are closed; but not while
//! a stream is open on one, for a terminal or a forwarded port would break with it.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use super::super::context::{Action, Context};
use super::super::peer::Link;

/// How long a relayed connection stays beside a direct one, so that answers under way still arrive (10 s),
/// and how often it is looked at while streams are open on it.
const LINGERS: Duration = Duration::from_secs(10);

/// See the module. Bounded by the connections there are.
#[derive(Debug)]
pub(super) struct Needless {
    lingers: Duration,
    links: Vec<(Instant, PeerId, ConnectionId)>,
}

impl Default for Needless {
    fn default() -> Self {
        Self {
            lingers: LINGERS,
            links: Vec::new(),
        }
    }
}

impl Needless {
    /// A connection to `peer` opened.
    pub(super) fn on_connected(&mut self, cx: &Context<'_>, peer: PeerId) {
        let Some(entry) = cx.peers.get(&peer) else {
            return;
        };
        if entry.links.iter().all(Link::is_relayed) {
            return;
        }
        for link in entry.links.iter().filter(|link| link.is_relayed()) {
            if !self.links.iter().any(|(_, _, id)| *id == link.id) {
                self.links.push((cx.now + self.lingers, peer, link.id));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.links.iter().map(|(at, _, _)| *at).min()
    }

    /// Closes those that nothing runs on any more.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let due: Vec<_> = self.links.extract_if(.., |(at, _, _)| *at <= now).collect();
        for (_, peer, id) in due {
            let Some(entry) = cx.peers.get(&peer) else {
                continue;
            };
            let stands = entry.links.iter().any(|link| link.id == id);
            if !stands || entry.links.iter().all(Link::is_relayed) {
                continue;
            }
            if cx.behaviour.streams.carries(&peer, id) {
                self.links.push((now + self.lingers, peer, id));
            } else {
                cx.actions.push(Action::Close(id));
            }
        }
    }

    /// For tests, which don't wait so long.
    #[cfg(test)]
    pub(super) fn linger_for(&mut self, lingers: Duration) {
        self.lingers = lingers;
    }
}
