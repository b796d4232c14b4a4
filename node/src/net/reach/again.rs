//! New attempts to punch a hole, where the first ones failed.
//!
//! Owned by [`super::Reach`]. libp2p tries three times when a relayed connection opens, and never again; a
//! router that still held its ports then, or a machine that moved, would keep the peers at the relay for ever. So
//! whoever opened a relayed connection that is in use opens one more of the kind from time to time, on which
//! libp2p tries anew; which of them is not needed afterwards is closed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};

use super::super::context::{Action, Context};
use super::super::peer::Link;

/// First wait before another attempt (1 minute, what a router may hold a port for that is not used), which
/// doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest wait (30 minutes): a router that was replaced, or one that was restarted.
const LONGEST_PAUSE: Duration = Duration::from_secs(1_800);

/// How long after a move another attempt is made (5 s): by then peers have said where they see this node.
const MOVED_PAUSE: Duration = Duration::from_secs(5);

/// How long two relayed connections stand side by side (1 minute): libp2p's three attempts take half of it.
const BESIDE: Duration = Duration::from_secs(60);

/// With more relayed connections than this to one peer, none is opened beside them.
const MAX_CIRCUITS: usize = 2;

/// Peers for which that is done; each costs a relay a circuit for a minute.
const MAX_PEERS: usize = 64;

#[derive(Debug)]
struct Plan {
    next: Instant,
    pause: Duration,
    /// When the one of two relayed connections is closed that nothing runs on.
    tidy: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Again {
    first: Duration,
    beside: Duration,
    plans: HashMap<PeerId, Plan>,
}

impl Default for Again {
    fn default() -> Self {
        Self {
            first: FIRST_PAUSE,
            beside: BESIDE,
            plans: HashMap::new(),
        }
    }
}

impl Again {
    /// A connection to `peer` opened.
    pub(super) fn on_connected(&mut self, cx: &Context<'_>, peer: PeerId) {
        let Some(entry) = cx.peers.get(&peer) else {
            return;
        };
        if !entry.is_relayed() {
            self.plans.remove(&peer);
            return;
        }
        let ours = entry.links.iter().any(|link| link.dialled);
        if !ours || !cx.behaviour.dcutr.is_enabled() || self.plans.len() >= MAX_PEERS {
            return;
        }
        let first = self.first;
        self.plans.entry(peer).or_insert_with(|| Plan {
            next: cx.now + first,
            pause: first,
            tidy: None,
        });
    }

    /// This machine is somewhere else: the routers between are perhaps others.
    pub(super) fn on_moved(&mut self, now: Instant) {
        for plan in self.plans.values_mut() {
            plan.next = now + MOVED_PAUSE;
            plan.pause = self.first;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let plans = self.plans.values();
        plans
            .flat_map(|plan| [Some(plan.next), plan.tidy])
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn on_deadline(&mut self, cx: &mut Context<'_>) {
        self.plans.retain(|peer, _| {
            let entry = cx.peers.get(peer);
            entry.is_some_and(|entry| entry.is_relayed())
        });
        for (peer, plan) in &mut self.plans {
            if plan.tidy.is_some_and(|at| at <= cx.now) {
                plan.tidy = None;
                close_idle(cx, peer);
            }
            if plan.next > cx.now {
                continue;
            }
            let pause = plan.pause;
            plan.next = cx.now + pause;
            plan.pause = (pause * 2).min(LONGEST_PAUSE);
            if let Some(dial) = attempt(cx, peer, pause) {
                plan.tidy = Some(cx.now + self.beside);
                cx.actions.push(Action::Dial(dial));
            }
        }
    }

    /// For tests, which don't wait so long.
    #[cfg(test)]
    pub(super) fn retry_after(&mut self, pause: Duration) {
        self.first = pause;
        self.beside = pause;
    }
}

/// One more relayed connection to `peer`, if there is one of ours that was used within this time.
fn attempt(cx: &Context<'_>, peer: &PeerId, within: Duration) -> Option<DialOpts> {
    let entry = cx.peers.get(peer)?;
    let carries = |link: &Link| cx.behaviour.streams.carries(peer, link.id);
    let used = entry.last_used.is_some_and(|at| at + within > cx.now);
    if !used && !entry.links.iter().any(carries) {
        return None;
    }
    if entry.links.len() > MAX_CIRCUITS {
        return None;
    }
    let link = entry.links.iter().find(|link| link.dialled)?;
    let dial = DialOpts::peer_id(*peer)
        .condition(PeerCondition::Always)
        .addresses(vec![link.remote.clone()]);
    Some(dial.build())
}

/// Closes the relayed connections to `peer` that nothing runs on, but leaves one of them.
fn close_idle(cx: &mut Context<'_>, peer: &PeerId) {
    let links = cx.peers.get(peer).map(|entry| entry.links.iter());
    let carries = |link: &&Link| cx.behaviour.streams.carries(peer, link.id);
    let (used, mut idle): (Vec<&Link>, Vec<&Link>) = links.into_iter().flatten().partition(carries);
    idle.sort_by_key(|link| link.since);
    if used.is_empty() {
        idle.pop();
    }
    let closing: Vec<Action> = idle.iter().map(|link| Action::Close(link.id)).collect();
    cx.actions.extend(closing);
}
