//! The way into the network: bootstrap nodes and remembered peers.
//!
//! Owned by [`super::discovery`]. Bootstrap nodes are dialled until they answer, and again when the
//! connection is lost; remembered peers are dialled at the start, and whenever this node is alone.

use std::time::{Duration, Instant};

use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use super::addresses;
use super::context::{Action, Context};
use super::trouble;

/// First pause before a bootstrap node is dialled again: people start several nodes at once, in any
/// order.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause while this node is alone.
const ALONE_PAUSE: Duration = Duration::from_secs(10);

/// Longest pause while there are few other peers, and how often a connected bootstrap node is checked.
const PAUSE: Duration = Duration::from_secs(60);

/// Longest pause while there are many: a network must not fall apart for good, but its bootstrap node
/// must not be dialled by a thousand nodes every minute either.
const COMPANY_PAUSE: Duration = Duration::from_secs(300);

/// So many dials in a row that fail are told to the log of a node that is alone (about 3 s after the
/// first): people start several nodes at once, in any order.
const TOLD_AFTER: u32 = 5;

/// How many other peers are many.
const COMPANY: usize = 16;

/// How many remembered peers are dialled at a time.
const REMEMBERED_AT_A_TIME: usize = 16;

#[derive(Debug)]
struct Bootstrap {
    address: Multiaddr,
    peer: Option<PeerId>,
    dialling: Option<ConnectionId>,
    next: Instant,
    pause: Duration,
    /// Dials that failed, one after the other, and why the last did.
    failed: u32,
    trouble: Option<String>,
}

/// The way in.
#[derive(Debug)]
pub(super) struct Joining {
    bootstrap: Vec<Bootstrap>,
    /// When remembered peers are dialled next; `None` while there is company.
    remembered: Option<Instant>,
    pause: Duration,
}

impl Joining {
    pub(super) fn new(bootstrap: &[Multiaddr], now: Instant) -> Self {
        Self {
            bootstrap: bootstrap
                .iter()
                .map(|address| Bootstrap {
                    address: address.clone(),
                    peer: addresses::peer_of(address),
                    dialling: None,
                    next: now,
                    pause: FIRST_PAUSE,
                    failed: 0,
                    trouble: None,
                })
                .collect(),
            remembered: Some(now),
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.bootstrap
            .iter()
            .filter(|node| node.dialling.is_none())
            .map(|node| node.next)
            .chain(self.remembered)
            .min()
    }

    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
        let longest = longest_pause(cx.peers.connected_count());
        for node in &mut self.bootstrap {
            if node.dialling.is_some() || node.next > cx.now {
                continue;
            }
            if node.peer.is_some_and(|peer| cx.peers.is_connected(&peer)) {
                node.pause = FIRST_PAUSE;
                node.next = cx.now + PAUSE;
                continue;
            }
            let options = match node.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .addresses(vec![node.address.clone()])
                    .build(),
                None => DialOpts::unknown_peer_id()
                    .address(node.address.clone())
                    .build(),
            };
            node.dialling = Some(options.connection_id());
            node.next = cx.now + node.pause;
            node.pause = (node.pause * 2).min(longest);
            cx.actions.push(Action::Dial(options));
        }
        if self.remembered.is_some_and(|at| at <= cx.now) {
            self.dial_remembered(cx);
        }
    }

    fn dial_remembered(&mut self, cx: &mut Context<'_>) {
        for peer in cx.peers.next_remembered(REMEMBERED_AT_A_TIME) {
            let options = DialOpts::peer_id(peer)
                .addresses(addresses::preferred(&cx.peers.addresses(&peer)))
                .build();
            cx.actions.push(Action::Dial(options));
        }
        self.remembered = Some(cx.now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE);
    }

    pub(super) fn on_connected(&mut self, now: Instant, id: ConnectionId, peer: PeerId) {
        for node in &mut self.bootstrap {
            if node.dialling == Some(id) {
                node.dialling = None;
                node.peer = Some(peer);
                node.next = now + PAUSE;
            }
            if node.peer == Some(peer) {
                node.failed = 0;
                node.trouble = None;
            }
        }
        self.remembered = None;
        self.pause = FIRST_PAUSE;
    }

    /// The last connection to `peer` closed, and so many other peers are connected. A bootstrap node
    /// that was lost is dialled soon, by who has few others; who has many was perhaps let go because
    /// of the crowd there.
    pub(super) fn on_disconnected(&mut self, now: Instant, peer: PeerId, connected: usize) {
        if connected == 0 {
            self.on_alone(now);
        }
        for node in &mut self.bootstrap {
            if node.peer == Some(peer) && connected < COMPANY {
                node.next = now + FIRST_PAUSE;
                node.pause = FIRST_PAUSE;
            }
        }
    }

    /// The last peer is gone.
    fn on_alone(&mut self, now: Instant) {
        self.remembered = Some(now);
        for node in &mut self.bootstrap {
            node.next = now;
            node.pause = FIRST_PAUSE;
        }
    }

    /// A dial failed, of a node that has other peers or is alone.
    pub(super) fn on_dial_error(&mut self, id: ConnectionId, error: &DialError, alone: bool) {
        let Some(place) = self
            .bootstrap
            .iter()
            .position(|node| node.dialling == Some(id))
        else {
            return;
        };
        let node = &mut self.bootstrap[place];
        node.dialling = None;
        match error {
            DialError::LocalPeerId { .. } => {
                tracing::info!(address = %node.address, "this bootstrap node is this node itself");
                self.bootstrap.remove(place);
            }
            error => {
                node.failed = node.failed.saturating_add(1);
                node.trouble = trouble::of_dial(error).or(node.trouble.take());
                if alone
                    && node.failed == TOLD_AFTER
                    && let Some(why) = &node.trouble
                {
                    tracing::warn!(address = %node.address, "a bootstrap node is not reached: {why}");
                }
            }
        }
    }

    /// The bootstrap nodes, each with why it was not reached when that was last tried.
    pub(super) fn bootstrap(&self) -> Vec<(Multiaddr, Option<String>)> {
        let all = self.bootstrap.iter();
        all.map(|node| (node.address.clone(), node.trouble.clone()))
            .collect()
    }
}

fn longest_pause(connected: usize) -> Duration {
    match connected {
        0 => ALONE_PAUSE,
        1..COMPANY => PAUSE,
        _ => COMPANY_PAUSE,
    }
}
