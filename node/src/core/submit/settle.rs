//! What becomes of a task whose attempt ended and of which everything is here.
//!
//! A failure of the task's own doing uses up one of its tries; one of the host's moves it elsewhere,
//! which is bounded too, and counts against the host.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{Event, TaskState};
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::{Failure, FailureKind, Outcome};

use super::job::{Ending, Job};
use super::link::{At, Stand};
use super::results::MAX_WALL_US;
use super::task::Move;
use crate::core::desk::Cx;
use crate::core::io::Record;

/// Retries that are counted, at most: what 16 bits hold.
const MAX_RETRIES: u32 = 60_000;

impl Job {
    /// Counts an attempt's energy, if its provider could tell it.
    pub(super) fn add_energy(&mut self, energy_mj: Option<u64>) {
        if let Some(energy_mj) = energy_mj {
            let before = self.energy_mj.unwrap_or(0);
            self.energy_mj = Some(before.saturating_add(energy_mj));
        }
    }

    /// Everything of an attempt is here, or there was nothing to bring: what becomes of its task.
    pub(super) fn settle(&mut self, cx: &mut Cx, peer: PeerId, at: At, ending: Ending) {
        let usage = ending.usage;
        self.cpu_us = self.cpu_us.saturating_add(usage.cpu_us);
        self.wall_us = self.wall_us.saturating_add(usage.wall_us.min(MAX_WALL_US));
        self.add_energy(usage.energy_mj);
        match &ending.outcome {
            Outcome::Succeeded => self.settle_success(cx, peer, at, &ending),
            Outcome::Failed(failure) if failure.kind.is_tasks_fault() => {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.on_success();
                }
                let retries = self.plan.policy.retries.min(MAX_RETRIES);
                let again = self.cell_mut(at).is_some_and(|cell| {
                    cell.tries = cell.tries.saturating_add(1);
                    u32::from(cell.tries) <= retries
                });
                // What cannot be run, or brings what must not be brought, does so everywhere.
                let in_vain = matches!(
                    failure.kind,
                    FailureKind::BadProgram | FailureKind::BadOutput
                );
                if again && !in_vain {
                    self.settle_again(cx, peer, at, &ending);
                } else {
                    self.fail_for_good(cx, peer, at, &ending);
                }
            }
            Outcome::Failed(failure) => {
                self.on_setback(cx, peer, failure);
                if self.settle_again(cx, peer, at, &ending) {
                    self.count_move(cx, &peer, at);
                }
            }
        }
    }

    fn settle_success(&mut self, cx: &mut Cx, peer: PeerId, at: At, ending: &Ending) {
        if !self.make(cx, at, Move::Succeed) {
            return;
        }
        let position = self.known(peer);
        if let Some(known) = self.peers.get_mut(position as usize) {
            known.succeeded += 1;
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.on_success();
        }
        if let Some(step) = self.steps.get_mut(usize::from(at.step)) {
            step.failures.remove(&at.index);
        }
        self.persist_end(cx, peer, at, ending, true, true);
        self.tell_finished(cx, peer, at, ending, TaskState::Succeeded);
    }

    fn settle_again(&mut self, cx: &mut Cx, peer: PeerId, at: At, ending: &Ending) -> bool {
        if !self.make(cx, at, Move::Again) {
            return false;
        }
        self.persist_end(cx, peer, at, ending, true, false);
        if let Outcome::Failed(failure) = &ending.outcome {
            self.remember_failure(cx, at, failure.clone());
        }
        self.tell_finished(cx, peer, at, ending, TaskState::Pending);
        true
    }

    pub(super) fn fail_for_good(&mut self, cx: &mut Cx, peer: PeerId, at: At, ending: &Ending) {
        if !self.make(cx, at, Move::Fail) {
            return;
        }
        self.persist_end(cx, peer, at, ending, true, true);
        if let Outcome::Failed(failure) = &ending.outcome {
            let key = self.task_key(at);
            let position = self.known(peer);
            let place = self.peer_text(position).to_owned();
            self.note(|| format!("task {key} at {place}: {}", failure.message));
            self.remember_failure(cx, at, failure.clone());
        }
        self.tell_finished(cx, peer, at, ending, TaskState::Failed);
    }

    pub(super) fn remember_failure(&mut self, cx: &Cx, at: At, mut failure: Failure) {
        let Some(step) = self.steps.get_mut(usize::from(at.step)) else {
            return;
        };
        let full = step.failures.len() >= cx.config.submit.kept_failures;
        if full && !step.failures.contains_key(&at.index) {
            failure.message = String::new();
        }
        step.failures.insert(at.index, failure);
    }

    pub(super) fn persist_end(
        &self,
        cx: &mut Cx,
        peer: PeerId,
        at: At,
        ending: &Ending,
        collected: bool,
        last: bool,
    ) {
        cx.persist(Record::TaskEnded {
            job: self.id,
            task: TaskRef {
                step: at.step,
                index: at.index,
                attempt: ending.attempt,
            },
            peer,
            outcome: ending.outcome.clone(),
            usage: ending.usage,
            outputs: ending.outputs,
            log_bytes: ending.log_bytes,
            collected,
            last,
        });
    }

    fn tell_finished(
        &mut self,
        cx: &mut Cx,
        peer: PeerId,
        at: At,
        ending: &Ending,
        state: TaskState,
    ) {
        let position = self.known(peer);
        let failure = match &ending.outcome {
            Outcome::Succeeded => None,
            Outcome::Failed(failure) => Some(failure.clone()),
        };
        cx.emit(Event::TaskFinished {
            job: self.text.clone(),
            task: self.task_key(at).to_string(),
            attempt: ending.attempt,
            peer: self.peer_text(position).to_owned(),
            state,
            decided_by: failure.as_ref().map(|failure| failure.kind.decider()),
            failure,
            usage: ending.usage,
        });
    }

    /// The provider failed, not the task: it is given less, or a rest.
    pub(super) fn on_setback(&mut self, cx: &Cx, peer: PeerId, failure: &Failure) {
        let (config, now) = (&cx.config.submit, cx.now);
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.setbacks += 1;
        let no_image = failure.kind == FailureKind::ImageUnavailable;
        let why: String = failure.message.chars().take(400).collect();
        if failure.kind == FailureKind::KilledByOwner {
            // What the owner says weighs more than that the provider is full or failed.
            return link.rest_for_owner(config, now, why);
        }
        match link.stand {
            Stand::Refused { .. } => return,
            // That it has not got the image weighs more than that it is full.
            Stand::Resting { .. } if !no_image => return,
            Stand::Resting { .. } | Stand::Open => {}
        }
        match failure.kind {
            FailureKind::ImageUnavailable => link.refuse(config, now, why, true),
            FailureKind::ProviderStopping => link.rest(config, now, why),
            _ if link.setbacks >= config.setbacks => link.rest(config, now, why),
            _ => {}
        }
    }
}
