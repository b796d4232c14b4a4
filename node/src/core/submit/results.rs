//! What providers report, and what becomes of a task whose attempt ended.
//!
//! An end is accepted once: from the peer that has the task, for its last attempt. Everything else in
//! a report changes nothing, but is acknowledged all the same so that its sender forgets it.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{Event, JobState, TaskState};
use p2pnode_protocol::message::{MAX_BATCH, Report, ReportEvent, TaskRef};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome};

use super::job::{Ending, Job};
use super::link::{At, Stand};
use super::task::{Move, Stage};
use crate::core::desk::Cx;
use crate::core::io::{Effect, Record};

/// A run time that is believed, in microseconds (a week): peers may claim anything.
const MAX_WALL_US: u64 = 7 * 86_400 * 1_000_000;

/// Retries that are counted, at most: what 16 bits hold.
const MAX_RETRIES: u32 = 60_000;

/// What an end in a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// The end that is waited for.
    Accept,
    /// Known already.
    Repeat,
    /// Of an attempt that was given up.
    Stale,
    /// Of a task that its sender never had.
    Foreign,
}

impl Job {
    /// Takes in what a provider reports. Its every event may have come before.
    pub(super) fn on_report(&mut self, cx: &mut Cx, peer: PeerId, report: Report) {
        self.set_slots(&peer, report.slots);
        for event in report.events {
            match event {
                ReportEvent::Preparing {
                    phase, done, total, ..
                } => {
                    let position = self.known(peer);
                    cx.emit(Event::Preparing {
                        job: self.text.clone(),
                        peer: self.peer_text(position).to_owned(),
                        phase,
                        done,
                        total,
                    });
                }
                ReportEvent::Started(task) => self.on_started(cx, peer, task),
                ReportEvent::Finished {
                    task,
                    outcome,
                    usage,
                    outputs,
                    log_bytes,
                } => {
                    let outcome = match outcome {
                        Outcome::Succeeded => Outcome::Succeeded,
                        Outcome::Failed(failure) => {
                            Outcome::Failed(Failure::new(failure.kind, failure.message))
                        }
                    };
                    let ending = Ending {
                        attempt: task.attempt,
                        outcome,
                        usage,
                        outputs,
                        log_bytes,
                        asked: true,
                    };
                    self.on_finished(cx, peer, task, ending);
                }
            }
        }
    }

    fn claim(&self, cx: &Cx, peer: &PeerId, task: TaskRef) -> Claim {
        let at = At::from(task);
        let (Some(cell), Some(link)) = (self.cell(at), self.links.get(peer)) else {
            return Claim::Foreign;
        };
        let is_last = cell.attempt == task.attempt && cell.peer == link.peer;
        if !is_last && !cx.config.faults.stale_attempt_accepted {
            return if task.attempt <= cell.attempt {
                Claim::Stale
            } else {
                Claim::Foreign
            };
        }
        match cell.stage {
            Stage::Queued | Stage::Running | Stage::Lost => Claim::Accept,
            Stage::Again => Claim::Stale,
            Stage::Fresh => Claim::Foreign,
            Stage::Collecting | Stage::Succeeded | Stage::Failed | Stage::Cancelled => {
                Claim::Repeat
            }
        }
    }

    fn on_started(&mut self, cx: &mut Cx, peer: PeerId, task: TaskRef) {
        let at = At::from(task);
        let queued = self
            .cell(at)
            .is_some_and(|cell| cell.stage == Stage::Queued);
        if !queued
            || self.claim(cx, &peer, task) != Claim::Accept
            || !self.make(cx, at, Move::Start)
        {
            return;
        }
        self.served = true;
        self.state = JobState::Running;
        let position = self.known(peer);
        cx.emit(Event::TaskStarted {
            job: self.text.clone(),
            task: self.task_key(at).to_string(),
            attempt: task.attempt,
            peer: self.peer_text(position).to_owned(),
        });
    }

    fn on_finished(&mut self, cx: &mut Cx, peer: PeerId, task: TaskRef, ending: Ending) {
        let at = At::from(task);
        match self.claim(cx, &peer, task) {
            Claim::Accept => {}
            Claim::Repeat => return,
            Claim::Stale => {
                cx.counters().stale_results += 1;
                if ending.outputs.is_some() || ending.log_bytes > 0 {
                    self.collected_at(cx, &peer, task);
                }
                return;
            }
            Claim::Foreign => {
                cx.counters().foreign_reports += 1;
                return;
            }
        }
        self.state = JobState::Running;
        self.learn(at, &ending);
        if ending.outputs.is_none() && ending.log_bytes == 0 {
            self.unhold(&peer, at);
            self.settle(cx, peer, at, ending);
            return;
        }
        if !self.make(cx, at, Move::Collect) {
            return;
        }
        if let Some(link) = self.links.get_mut(&peer) {
            link.held.insert(at);
            link.resend.remove(&at);
            link.collecting += 1;
        }
        self.persist_end(cx, peer, at, &ending, false, false);
        self.ask_for_outputs(cx, peer, at, &ending);
        self.collecting.insert(at, ending);
    }

    pub(super) fn ask_for_outputs(&self, cx: &mut Cx, peer: PeerId, at: At, ending: &Ending) {
        cx.out.push(Effect::Collect {
            peer,
            attempt: self.attempt_key(TaskRef {
                step: at.step,
                index: at.index,
                attempt: ending.attempt,
            }),
            outputs: ending.outputs,
            log_bytes: ending.log_bytes,
            out: self.out.clone(),
        });
    }

    /// What an attempt's end says about tasks of its step.
    fn learn(&mut self, at: At, ending: &Ending) {
        let ran = match &ending.outcome {
            Outcome::Succeeded => true,
            Outcome::Failed(failure) => failure.kind.is_tasks_fault(),
        };
        let Some(step) = self.steps.get_mut(usize::from(at.step)) else {
            return;
        };
        step.usage.insert(at.index, ending.usage);
        if ran {
            self.served = true;
            let wall = ending.usage.wall_us.min(MAX_WALL_US);
            // The last few tasks tell most about the next ones.
            step.mean_us = Some(step.mean_us.map_or(wall, |mean| (mean * 7 + wall) / 8));
        }
    }

    /// Everything of an attempt is here, or there was nothing to bring: what becomes of its task.
    pub(super) fn settle(&mut self, cx: &mut Cx, peer: PeerId, at: At, ending: Ending) {
        let usage = ending.usage;
        self.cpu_us = self.cpu_us.saturating_add(usage.cpu_us);
        self.wall_us = self.wall_us.saturating_add(usage.wall_us.min(MAX_WALL_US));
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
                // What cannot be run anywhere is not tried anywhere else.
                if again && failure.kind != FailureKind::BadProgram {
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
        cx.emit(Event::TaskFinished {
            job: self.text.clone(),
            task: self.task_key(at).to_string(),
            attempt: ending.attempt,
            peer: self.peer_text(position).to_owned(),
            state,
            failure: match &ending.outcome {
                Outcome::Succeeded => None,
                Outcome::Failed(failure) => Some(failure.clone()),
            },
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
        if link.stand != Stand::Open {
            return;
        }
        let why: String = failure.message.chars().take(400).collect();
        match failure.kind {
            FailureKind::ImageUnavailable => link.refuse(config, now, why, true),
            FailureKind::ProviderStopping | FailureKind::KilledByOwner => {
                link.rest(config, now, why)
            }
            _ if link.setbacks >= config.setbacks => link.rest(config, now, why),
            _ => {}
        }
    }

    /// Tells `peer`, as soon as it can be told, that nothing of an attempt is needed there any more.
    pub(super) fn collected_at(&mut self, cx: &mut Cx, peer: &PeerId, task: TaskRef) {
        let now = cx.now;
        if let Some(link) = self.links.get_mut(peer) {
            if !link.cancels.is_due() && !link.collected.is_due() {
                link.notices_ms = now;
            }
            link.collected.add(task, 4 * MAX_BATCH);
        }
        self.arm(cx, *peer);
    }
}
