//! One hosted job: a peer's job as far as this node has anything of it.
//!
//! Owned by [`super::Host`]. Every attempt that was taken is in `attempts` until it is of no more use:
//! it ended, its end is acknowledged, and its outputs are not needed here. That is how a repeated offer
//! is recognised.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use p2pnode_protocol::Gpu;
use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::message::{Phase as Progress, ReportEvent, TaskRef};
use p2pnode_protocol::task::{Assignment, TaskTemplate};

use super::outbox::Outbox;
use crate::core::io::{HostedJob, Millis, RunKey};

/// The environment of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Environment {
    /// Not asked for.
    Absent,
    /// Being made.
    Preparing,
    /// Tasks can run in it.
    Ready,
}

/// A task that waits for a slot.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) task: TaskRef,
    pub(super) assignment: Assignment,
    /// Its estimated size, in bytes.
    pub(super) bytes: usize,
}

/// A step of a hosted job.
#[derive(Debug)]
pub(super) struct HostedStep {
    pub(super) template: Arc<TaskTemplate>,
    pub(super) environment: Environment,
    /// How often making it was begun; names the last time.
    pub(super) making: u32,
    /// How far that is: what is done, how much of it, of how much.
    pub(super) progress: Option<(Progress, u64, u64)>,
    /// Never empty while the environment is being made: what nobody waits for is not made.
    pub(super) queue: VecDeque<Queued>,
}

impl HostedStep {
    pub(super) const fn new(template: Arc<TaskTemplate>) -> Self {
        Self {
            template,
            environment: Environment::Absent,
            making: 0,
            progress: None,
            queue: VecDeque::new(),
        }
    }
}

/// Why a run was killed; what stands later weighs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Killed {
    /// It was not, or by the owner or a cancel of this attempt alone: how it ends is reported.
    No,
    /// Its submitter is gone or this node stops: its failure means nothing, its success counts.
    Abandoned,
    /// Its job is over: whatever comes of it is dropped.
    Unwanted,
}

/// Where an attempt is.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It waits for a slot.
    Queued,
    /// It runs, or is about to.
    Running {
        /// Given to it.
        gpus: Vec<Gpu>,
        /// Whether it was killed.
        killed: Killed,
    },
    /// It ended.
    Done {
        /// The submitter has stored how.
        acknowledged: bool,
        /// Its outputs or log may still be asked for.
        keeps: bool,
        /// How it ended, should the submitter have to hear it again; only of those that are
        /// acknowledged, and not over a restart.
        end: Option<Box<ReportEvent>>,
        /// It was offered again before the end was acknowledged, so the acknowledgement may be of a
        /// submitter that did not know the attempt then.
        offered_again: bool,
    },
}

/// What is to become of a hosted job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its submitter is alive, as far as its lease tells.
    Live,
    /// Its submitter is lost; what ended is kept until then.
    Orphaned {
        /// Until then.
        until_ms: Millis,
    },
    /// It goes as soon as nothing of it runs.
    Leaving,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hosted {
    /// See [`p2pnode_protocol::message::OfferReply::epoch`].
    pub(super) epoch: u64,
    pub(super) phase: Phase,
    pub(super) lease_ms: Millis,
    pub(super) steps: BTreeMap<StepIndex, HostedStep>,
    pub(super) attempts: BTreeMap<TaskRef, Attempt>,
    pub(super) outbox: Outbox,
    pub(super) running: u32,
    pub(super) queued: u32,
    pub(super) queued_bytes: usize,
    /// Whether it stands in the ring of jobs that want slots.
    pub(super) in_ring: bool,
    /// Since when it is passed over for want of room.
    pub(super) passed_over_ms: Option<Millis>,
}

impl Hosted {
    pub(super) fn new(epoch: u64, lease_ms: Millis) -> Self {
        Self {
            epoch,
            phase: Phase::Live,
            lease_ms,
            steps: BTreeMap::new(),
            attempts: BTreeMap::new(),
            outbox: Outbox::default(),
            running: 0,
            queued: 0,
            queued_bytes: 0,
            in_ring: false,
            passed_over_ms: None,
        }
    }

    /// The step whose task runs next.
    pub(super) fn next_step(&self) -> Option<StepIndex> {
        let ready =
            |step: &&HostedStep| step.environment == Environment::Ready && !step.queue.is_empty();
        let found = self.steps.iter().find(|(_, step)| ready(step));
        found.map(|(index, _)| *index)
    }

    /// Takes a task into the queue.
    pub(super) fn enqueue(&mut self, step: StepIndex, queued: Queued) {
        if let Some(hosted) = self.steps.get_mut(&step) {
            self.queued += 1;
            self.queued_bytes += queued.bytes;
            self.attempts.insert(queued.task, Attempt::Queued);
            hosted.queue.push_back(queued);
        }
    }

    /// Takes the next task of `step` out of the queue.
    pub(super) fn dequeue(&mut self, step: StepIndex) -> Option<Queued> {
        let queued = self.steps.get_mut(&step)?.queue.pop_front()?;
        self.queued -= 1;
        self.queued_bytes -= queued.bytes;
        Some(queued)
    }

    /// Drops waiting tasks that `keep` does not want and returns them.
    pub(super) fn drop_queued(&mut self, mut keep: impl FnMut(TaskRef) -> bool) -> Vec<TaskRef> {
        let mut dropped = Vec::new();
        for step in self.steps.values_mut() {
            step.queue.retain(|queued| {
                let stays = keep(queued.task);
                if !stays {
                    self.queued -= 1;
                    self.queued_bytes -= queued.bytes;
                    dropped.push(queued.task);
                }
                stays
            });
        }
        for task in &dropped {
            self.attempts.remove(task);
        }
        dropped
    }

    /// How long its outputs are kept for a lost submitter, in milliseconds.
    pub(super) fn keep_ms(&self, most: Millis) -> Millis {
        let keeps = self.steps.values().map(|step| step.template.keep_ms);
        keeps.max().unwrap_or(0).min(most)
    }

    /// Whether anything of it may still be of use to its submitter.
    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.attempts.is_empty() || self.outbox.ends().next().is_some()
    }

    /// Runs whose outputs are still here.
    pub(super) fn kept(&self, hosted: HostedJob) -> Vec<RunKey> {
        let keeps = |attempt: &Attempt| matches!(attempt, Attempt::Done { keeps: true, .. });
        let kept = self.attempts.iter().filter(|(_, attempt)| keeps(attempt));
        kept.map(|(task, _)| RunKey::of(hosted, *task)).collect()
    }

    /// Marks all runs as killed and returns those that were not before.
    pub(super) fn kill_all(&mut self, why: Killed) -> Vec<TaskRef> {
        let mut killed_now = Vec::new();
        for (task, attempt) in &mut self.attempts {
            if let Attempt::Running { killed, .. } = attempt {
                if *killed == Killed::No {
                    killed_now.push(*task);
                }
                *killed = why.max(*killed);
            }
        }
        killed_now
    }
}
