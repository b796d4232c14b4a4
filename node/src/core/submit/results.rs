//! What providers report, and what becomes of a task whose attempt ended.
//!
//! An end is accepted once: from the peer that has the task, for its last attempt. Everything else in
//! a report changes nothing, but is acknowledged all the same so that its sender forgets it.

use std::sync::Arc;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::message::{MAX_BATCH, Report, ReportEvent, TaskRef};
use p2pnode_protocol::task::{Failure, Outcome};
use p2pnode_protocol::text::printable_lines;

use super::job::{Ending, Job};
use super::link::At;
use super::task::{Move, Stage};
use crate::core::desk::Cx;
use crate::core::io::{Breach, Effect};

/// A run time that is believed, in microseconds (a week): peers may claim anything.
pub(super) const MAX_WALL_US: u64 = 7 * 86_400 * 1_000_000;

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
                            let message = printable_lines(&failure.message);
                            Outcome::Failed(Failure::new(failure.kind, message))
                        }
                    };
                    let ending = Ending {
                        attempt: task.attempt,
                        outcome,
                        usage,
                        outputs,
                        log_bytes,
                        asked: true,
                        misses: 0,
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
                cx.blame(peer, Breach::OutOfPlace);
                return;
            }
        }
        self.state = JobState::Running;
        self.learn(at, &ending);
        if let Some(link) = self.links.get_mut(&peer) {
            // Should it count as lost, there is nothing to be offered again, or cancelled, at its return.
            link.stale.remove(&task);
        }
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
        // Of a task that was given up and is told of again, it may still be on the way.
        let asked = |known: &Ending| known.asked && known.attempt == ending.attempt;
        if !self.collecting.get(&at).is_some_and(asked) {
            self.ask_for_outputs(cx, peer, at, &ending);
            self.collecting.insert(at, ending);
        }
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
            plan: Arc::clone(&self.plan),
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
