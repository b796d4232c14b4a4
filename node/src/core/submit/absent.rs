//! Outputs whose provider is away: they are finished work, so they are waited for and asked for again.
//!
//! A lost provider keeps them for as long as the lease lasts, and longer when the job says so. So a task
//! of which only the outputs are missing stays with its provider for as long as it ran, at most for
//! [`crate::core::config::SubmitConfig::collect_ms`], and what was asked for meanwhile may come all the
//! same. After that it waits like any task that moves; but until somebody else has it, it is collected as
//! soon as its provider is back. A provider that says that it has not got them ends all of this at once
//! ([`super::collect`]).

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::TaskRef;

use super::job::{Ending, Job};
use super::link::At;
use super::loss::Lost;
use super::task::{Move, Stage};
use super::watch::Watch;
use crate::core::desk::Cx;
use crate::core::io::{Effect, Millis};
use crate::core::peers::Peers;

impl Job {
    /// Whether all that is missing of a task is what its provider still has to give.
    pub(super) fn is_collecting(&self, at: At) -> bool {
        self.cell(at)
            .is_some_and(|cell| cell.stage == Stage::Collecting)
    }

    /// The provider is lost: what it has to give is waited for from now on.
    pub(super) fn leave_outputs(&mut self, cx: &Cx, peer: &PeerId) {
        let until = cx.now + self.patience(cx, peer);
        if let Some(link) = self.links.get_mut(peer).filter(|link| link.collecting > 0) {
            link.left_until_ms = Some(until);
        }
    }

    /// How long what the provider has to give is worth waiting for: what took a second is run anew in a
    /// second.
    fn patience(&self, cx: &Cx, peer: &PeerId) -> Millis {
        let held = self.links.get(peer).into_iter().flat_map(|link| &link.held);
        let endings = held.filter_map(|at| self.collecting.get(at));
        let longest = endings.map(|ending| ending.usage.wall_us / 1_000).max();
        longest.unwrap_or(0).min(cx.config.submit.collect_ms)
    }

    /// The provider is back: what it had to give is collected, unless somebody else has got the task.
    pub(super) fn resume_collecting(&mut self, cx: &mut Cx, peer: PeerId) {
        let now = cx.now;
        let link = self.link(peer);
        let position = link.peer;
        link.left_until_ms = None;
        link.ask_ms = Some(now);
        let lost: Vec<At> = self
            .collecting
            .iter()
            .filter(|(at, ending)| {
                self.cell(**at).is_some_and(|cell| {
                    let same = cell.peer == position && cell.attempt == ending.attempt;
                    same && cell.stage == Stage::Lost
                })
            })
            .map(|(at, _)| *at)
            .collect();
        for at in lost {
            if self.make(cx, at, Move::Collect) {
                let link = self.link(peer);
                link.held.insert(at);
                link.collecting += 1;
                self.waiting.since_ms = None;
            }
        }
    }

    /// Outputs did not come, but may still be there. Returns whether they are waited for; `ending` is
    /// taken back then.
    pub(super) fn on_away(&mut self, cx: &Cx, peer: &PeerId, at: At, ending: &Ending) -> bool {
        let config = &cx.config.submit;
        let misses = ending.misses.saturating_add(1);
        if misses >= config.collect_tries {
            return false;
        }
        let waits = Ending {
            asked: false,
            misses,
            ..ending.clone()
        };
        self.collecting.insert(at, waits);
        if let Some(link) = self.links.get_mut(peer) {
            link.ask_ms = Some(cx.now + config.heartbeat_ms);
        }
        true
    }

    /// Does what is due about outputs that did not come: asks again, or lets their tasks go elsewhere.
    pub(super) fn tend_outputs(&mut self, cx: &mut Cx, peers: &Peers, watch: &Watch, peer: PeerId) {
        let (now, wait) = (cx.now, self.patience(cx, &peer));
        let usable = watch.is_usable(peers, &peer);
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if link.ask_ms.is_some_and(|at| at <= now) {
            link.ask_ms = None;
            if usable {
                return self.ask_again(cx, peers, peer);
            }
            // Asked again when it is back, unless that takes too long.
            link.left_until_ms.get_or_insert(now + wait);
        }
        if link.left_until_ms.is_some_and(|at| at <= now) {
            link.left_until_ms = None;
            if usable {
                return self.ask_again(cx, peers, peer);
            }
            self.give_up_outputs(cx, peer);
        }
    }

    /// The provider was away for too long.
    fn give_up_outputs(&mut self, cx: &mut Cx, peer: PeerId) {
        let Some(link) = self.links.get(&peer) else {
            return;
        };
        let held: Vec<At> = link.held.iter().copied().collect();
        let failure = Lost::Away.failure();
        let mut moved = 0;
        for at in held {
            if self.is_collecting(at) {
                moved += u32::from(self.move_away(cx, &peer, at, &failure));
            }
        }
        self.on_moved(cx, peer, moved, failure);
    }

    /// Somebody else has the task now, or nobody: outputs of a lost provider that are still on their way
    /// must not land on those that count, and need not be kept there.
    pub(super) fn forsake(&mut self, cx: &mut Cx, at: At) {
        let Some(ending) = self.collecting.remove(&at) else {
            return;
        };
        let task = TaskRef {
            step: at.step,
            index: at.index,
            attempt: ending.attempt,
        };
        let attempt = self.attempt_key(task);
        cx.out.push(Effect::Forsake(attempt));
        let position = self.cell(at).map_or(0, |cell| cell.peer);
        if let Some(peer) = self.peers.get(position as usize).map(|known| known.id) {
            self.cancel_at(cx, &peer, task);
        }
    }
}
