//! One job of this node's own: its tasks, its providers, its counts.
//!
//! Owned by [`super::Submit`]. The verbs are in files of their own, each an `impl Job`: placing
//! ([`super::pump`]), answers to offers ([`super::offers`]), results ([`super::results`]), outputs
//! ([`super::collect`], [`super::absent`]), losses ([`super::loss`]), the end ([`super::finish`]). Every change of a
//! task's stage goes through [`Job::make`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use p2pnode_protocol::api::{JobState, TaskCounts};
use p2pnode_protocol::id::{StepIndex, TaskIndex};
use p2pnode_protocol::job::array::MAX_TASKS;
use p2pnode_protocol::job::{JobPlan, StepPlan};
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{MAX_BATCH, TaskRef};
use p2pnode_protocol::task::{Failure, Outcome, Usage};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, TaskKey};

use super::link::{At, Link};
use super::task::{Cell, Move, Stage, Tasks};
use crate::core::desk::Cx;
use crate::core::io::Millis;

/// Notes of a job, at most: what a person reads.
pub(super) const MAX_NOTES: usize = 20;

/// One step of a running job.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) tasks: Tasks,
    /// Steps that must succeed first and have not.
    pub(super) waits_for: BTreeSet<StepIndex>,
    /// Mean run time of its tasks, in microseconds.
    pub(super) mean_us: Option<u64>,
    /// What the last attempts used.
    pub(super) usage: BTreeMap<TaskIndex, Usage>,
    /// Why the last attempts failed.
    pub(super) failures: BTreeMap<TaskIndex, Failure>,
}

/// An attempt that ended, and of which something is still at its provider.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) attempt: u32,
    pub(super) outcome: Outcome,
    pub(super) usage: Usage,
    pub(super) outputs: Option<BlobRef>,
    pub(super) log_bytes: u64,
    /// Whether the driver was told to bring it.
    pub(super) asked: bool,
    /// How often it could not be had although it may be there.
    pub(super) misses: u8,
}

/// A peer that had tasks of the job.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: PeerId,
    /// Its id as text, which events need often.
    pub(super) text: String,
    pub(super) succeeded: u64,
}

/// Why and since when nothing of the job is out.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Since when no provider has a task.
    pub(super) since_ms: Option<Millis>,
    /// When the DHT is asked next.
    pub(super) find_ms: Millis,
    /// What was said last.
    pub(super) reasons: Vec<String>,
    pub(super) said_ms: Millis,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) text: String,
    pub(super) plan: Arc<JobPlan>,
    pub(super) out: Option<String>,
    pub(super) created_ms: Millis,
    pub(super) state: JobState,
    pub(super) finished_ms: Option<Millis>,
    pub(super) no_peer: bool,
    pub(super) steps: Vec<Step>,
    pub(super) peers: Vec<Known>,
    pub(super) links: BTreeMap<PeerId, Link>,
    /// Tasks out at providers, over all links.
    pub(super) out_count: u64,
    /// Slots of all links together.
    pub(super) all_slots: u64,
    pub(super) collecting: BTreeMap<At, Ending>,
    pub(super) counts: TaskCounts,
    /// CPU time of all accepted attempts, in microseconds.
    pub(super) cpu_us: u64,
    /// Their run time, in microseconds.
    pub(super) wall_us: u64,
    /// Their energy, of those whose providers could tell it, in millijoules.
    pub(super) energy_mj: Option<u64>,
    /// Bytes of inputs that went out in this life of the node.
    pub(super) sent: u64,
    /// Bytes of outputs that came.
    pub(super) received: u64,
    pub(super) notes: Vec<String>,
    /// Whether any provider ever ran a task of it.
    pub(super) served: bool,
    pub(super) waiting: Waiting,
    /// It cannot go on, for this reason.
    pub(super) broken: Option<String>,
}

impl Job {
    pub(super) fn new(
        id: JobId,
        plan: Arc<JobPlan>,
        out: Option<String>,
        created_ms: Millis,
    ) -> Self {
        let broken = wrong(&plan);
        let steps: Vec<Step> = plan
            .steps
            .iter()
            .map(|step| Step {
                tasks: Tasks::new(if broken.is_some() {
                    0
                } else {
                    step.array.task_count() as u32
                }),
                waits_for: step.needs.iter().copied().collect(),
                mean_us: None,
                usage: BTreeMap::new(),
                failures: BTreeMap::new(),
            })
            .collect();
        let total = steps.iter().map(|step| u64::from(step.tasks.len())).sum();
        Self {
            id,
            text: id.to_string(),
            plan,
            out,
            created_ms,
            state: JobState::Waiting,
            finished_ms: None,
            no_peer: false,
            steps,
            peers: Vec::new(),
            links: BTreeMap::new(),
            out_count: 0,
            all_slots: 0,
            collecting: BTreeMap::new(),
            counts: TaskCounts {
                total,
                pending: total,
                ..TaskCounts::default()
            },
            cpu_us: 0,
            wall_us: 0,
            energy_mj: None,
            sent: 0,
            received: 0,
            notes: Vec::new(),
            served: false,
            waiting: Waiting::default(),
            broken,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.finished_ms.is_some()
    }

    /// The position of `peer` in the job's list; it is added when it is not there.
    pub(super) fn known(&mut self, peer: PeerId) -> u32 {
        if let Some(link) = self.links.get(&peer) {
            return link.peer;
        }
        let found = self.peers.iter().position(|known| known.id == peer);
        found.unwrap_or_else(|| {
            self.peers.push(Known {
                id: peer,
                text: peer.to_base58(),
                succeeded: 0,
            });
            self.peers.len() - 1
        }) as u32
    }

    /// The link to `peer`, made when there is none.
    pub(super) fn link(&mut self, peer: PeerId) -> &mut Link {
        let position = self.known(peer);
        self.links
            .entry(peer)
            .or_insert_with(|| Link::new(position))
    }

    pub(super) fn cell(&self, at: At) -> Option<&Cell> {
        self.steps.get(usize::from(at.step))?.tasks.get(at.index)
    }

    pub(super) fn cell_mut(&mut self, at: At) -> Option<&mut Cell> {
        let step = self.steps.get_mut(usize::from(at.step))?;
        step.tasks.get_mut(at.index)
    }

    /// The last attempt of the task at `at`.
    pub(super) fn last_attempt(&self, at: At) -> TaskRef {
        TaskRef {
            step: at.step,
            index: at.index,
            attempt: self.cell(at).map_or(0, |cell| cell.attempt),
        }
    }

    /// Makes a move of one task. One that is not allowed is counted and changes nothing.
    pub(super) fn make(&mut self, cx: &mut Cx, at: At, by: Move) -> bool {
        let Some(step) = self.steps.get_mut(usize::from(at.step)) else {
            return false;
        };
        match step.tasks.make(at.index, by) {
            Ok((before, after)) => {
                *before.counter(&mut self.counts) -= 1;
                *after.counter(&mut self.counts) += 1;
                self.out_count += u64::from(after.is_out());
                self.out_count -= u64::from(before.is_out());
                if before == Stage::Lost && !matches!(by, Move::Adopt | Move::Collect) {
                    self.forsake(cx, at);
                }
                true
            }
            Err(error) => {
                cx.counters().illegal_transitions += 1;
                tracing::warn!(job = %self.id, step = at.step, task = at.index, %error, "illegal transition");
                false
            }
        }
    }

    /// The task leaves its provider's hands.
    pub(super) fn unhold(&mut self, peer: &PeerId, at: At) {
        if let Some(link) = self.links.get_mut(peer) {
            link.held.remove(&at);
            link.resend.remove(&at);
        }
    }

    /// What `peer` says it can run at once.
    pub(super) fn set_slots(&mut self, peer: &PeerId, slots: u32) {
        let slots = slots.min(MAX_BATCH as u32);
        if let Some(link) = self.links.get_mut(peer) {
            self.all_slots -= u64::from(link.slots.unwrap_or(0));
            self.all_slots += u64::from(slots);
            link.slots = Some(slots);
        }
    }

    /// Remembers something for a person to read at the end.
    pub(super) fn note(&mut self, note: impl FnOnce() -> String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note());
        }
    }

    pub(super) fn step_plan(&self, step: StepIndex) -> Option<&StepPlan> {
        self.plan.steps.get(usize::from(step))
    }

    /// Tasks that wait and whose step may run.
    pub(super) fn pending(&self) -> u64 {
        let ready = self.steps.iter().filter(|step| step.waits_for.is_empty());
        ready.map(|step| u64::from(step.tasks.pending())).sum()
    }

    pub(super) fn peer_text(&self, position: u32) -> &str {
        let known = self.peers.get(position as usize);
        known.map_or("", |known| known.text.as_str())
    }

    pub(super) const fn attempt_key(&self, task: TaskRef) -> AttemptKey {
        AttemptKey {
            task: self.task_key(At {
                step: task.step,
                index: task.index,
            }),
            attempt: task.attempt,
        }
    }

    pub(super) const fn task_key(&self, at: At) -> TaskKey {
        TaskKey {
            job: self.id,
            step: at.step,
            index: at.index,
        }
    }
}

/// Why a plan cannot be followed. The job file's checks find all of this earlier; a plan that comes
/// another way must not hang or panic.
fn wrong(plan: &JobPlan) -> Option<String> {
    let total = plan.steps.iter().fold(0_u64, |sum, step| {
        sum.saturating_add(step.array.task_count())
    });
    if total == 0 {
        return Some("the job has no tasks".into());
    }
    if total > MAX_TASKS {
        return Some(format!(
            "the job has {total} tasks; {MAX_TASKS} is the most"
        ));
    }
    for (position, step) in plan.steps.iter().enumerate() {
        if usize::from(step.template.step) != position {
            return Some(format!(
                "step {position} calls itself {}",
                step.template.step
            ));
        }
        if step.array.task_count() == 0 {
            return Some(format!("step {position} has no tasks"));
        }
        // Steps come after what they need, so that there is no circle.
        if let Some(needed) = step
            .needs
            .iter()
            .find(|needed| usize::from(**needed) >= position)
        {
            return Some(format!(
                "step {position} needs step {needed}, which does not come before it"
            ));
        }
    }
    None
}
