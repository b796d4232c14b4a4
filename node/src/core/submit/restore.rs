//! Jobs as a restart finds them.
//!
//! What was handed out and has not ended is taken to be still there: it is offered to the same peer
//! again under the same attempt, which a provider that has it recognises and one that has not simply
//! runs. What had ended and was not collected is collected as soon as its provider is there.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{JobState, TaskCounts};
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::Outcome;

use super::job::{Ending, Job};
use super::link::At;
use super::task::Stage;
use super::watch::Watch;
use crate::core::desk::Cx;
use crate::core::io::{StoredEnd, StoredJob};
use crate::core::peers::Peers;

impl Job {
    /// Rebuilds a job; nothing is said to anyone yet.
    pub(super) fn restore(cx: &Cx, stored: StoredJob) -> Self {
        let mut job = Self::new(stored.job, stored.plan, stored.out, stored.created_ms);
        for (peer, tasks) in &stored.dispatched {
            let position = job.known(*peer);
            for task in tasks {
                job.restore_dispatch(position, *task);
            }
        }
        for end in stored.ends {
            job.restore_end(cx, end);
        }
        job.recount();
        if let Some((state, finished_ms, notes)) = stored.ended {
            job.restore_ended(state, finished_ms, notes);
        } else {
            job.restore_links();
        }
        job
    }

    fn restore_dispatch(&mut self, position: u32, task: TaskRef) {
        if let Some(step) = self.steps.get_mut(usize::from(task.step)) {
            step.tasks.restore(task.index, |cell| {
                if task.attempt > cell.attempt {
                    cell.attempt = task.attempt;
                    cell.peer = position;
                    cell.stage = Stage::Queued;
                }
            });
        }
    }

    fn restore_end(&mut self, cx: &Cx, end: StoredEnd) {
        let at = At::from(end.task);
        let position = self.known(end.peer);
        let failed = match &end.outcome {
            Outcome::Succeeded => None,
            Outcome::Failed(failure) => Some(failure.clone()),
        };
        self.served |= failed
            .as_ref()
            .is_none_or(|failure| failure.kind.is_tasks_fault());
        if let Some(step) = self.steps.get_mut(usize::from(at.step)) {
            step.usage.insert(at.index, end.usage);
        }
        if end.collected {
            self.cpu_us = self.cpu_us.saturating_add(end.usage.cpu_us);
            self.wall_us = self.wall_us.saturating_add(end.usage.wall_us);
            self.add_energy(end.usage.energy_mj);
        }
        let Some(cell) = self.cell_mut(at) else {
            return;
        };
        if let Some(failure) = &failed
            && end.collected
            && failure.kind.is_tasks_fault()
        {
            cell.tries = cell.tries.saturating_add(1);
        }
        if end.task.attempt == cell.attempt {
            cell.peer = position;
            cell.stage = match (&failed, end.collected, end.last) {
                (_, false, _) => Stage::Collecting,
                (None, true, _) => Stage::Succeeded,
                (Some(_), true, true) => Stage::Failed,
                (Some(_), true, false) => Stage::Again,
            };
            let stage = cell.stage;
            self.restore_stage(at, stage, position, &end);
        }
        if let Some(failure) = failed {
            if end.last {
                let key = self.task_key(at);
                let place = self.peer_text(position).to_owned();
                self.note(|| format!("task {key} at {place}: {}", failure.message));
            }
            self.remember_failure(cx, at, failure);
        }
    }

    fn restore_stage(&mut self, at: At, stage: Stage, position: u32, end: &StoredEnd) {
        match stage {
            Stage::Succeeded => {
                if let Some(known) = self.peers.get_mut(position as usize) {
                    known.succeeded += 1;
                }
                let bytes = end.outputs.map_or(0, |blob| blob.content_bytes);
                self.received = self.received.saturating_add(bytes);
                if let Some(step) = self.steps.get_mut(usize::from(at.step)) {
                    step.failures.remove(&at.index);
                }
            }
            Stage::Collecting => {
                let ending = Ending {
                    attempt: end.task.attempt,
                    outcome: end.outcome.clone(),
                    usage: end.usage,
                    outputs: end.outputs,
                    log_bytes: end.log_bytes,
                    asked: false,
                    misses: 0,
                };
                self.collecting.insert(at, ending);
            }
            _ => {}
        }
    }

    fn restore_ended(&mut self, state: JobState, finished_ms: u64, notes: Vec<String>) {
        self.state = state;
        self.finished_ms = Some(finished_ms);
        self.notes = notes;
        self.no_peer = state == JobState::Failed && !self.served && self.broken.is_none();
        self.collecting.clear();
        for step in &mut self.steps {
            step.tasks.cancel_all(&mut self.counts);
        }
    }

    /// Puts what is out into the hands of those who have it.
    fn restore_links(&mut self) {
        for known in 0..self.peers.len() {
            let peer = self.peers[known].id;
            self.link(peer).used = true;
        }
        for position in 0..self.steps.len() {
            for index in 0..self.steps[position].tasks.len() {
                let at = At {
                    step: position as u16,
                    index,
                };
                let Some(cell) = self.cell(at).copied().filter(|cell| cell.stage.is_out()) else {
                    continue;
                };
                let Some(peer) = self.peers.get(cell.peer as usize).map(|known| known.id) else {
                    continue;
                };
                self.out_count += 1;
                let link = self.link(peer);
                link.held.insert(at);
                if cell.stage == Stage::Collecting {
                    link.collecting += 1;
                } else {
                    link.resend.insert(at);
                }
            }
        }
        if !self.peers.is_empty() {
            self.state = JobState::Running;
        }
    }

    fn recount(&mut self) {
        let mut counts = TaskCounts {
            total: self.counts.total,
            ..TaskCounts::default()
        };
        for step in &mut self.steps {
            step.tasks.recount(&mut counts);
        }
        self.counts = counts;
    }

    /// Says what has to be said after a restart: calls providers back, and goes on with those that
    /// are there.
    pub(super) fn wake(&mut self, cx: &mut Cx, peers: &mut Peers, watch: &mut Watch) {
        let used: Vec<PeerId> = self.links.keys().copied().collect();
        for peer in used {
            watch.add(cx, peer, self.id);
            peers.dial(cx, peer);
            self.ask_again(cx, peers, peer);
        }
    }

    /// Asks for outputs that were not asked for because their provider was not there.
    pub(super) fn ask_again(&mut self, cx: &mut Cx, peers: &Peers, peer: PeerId) {
        let Some(position) = self.links.get(&peer).map(|link| link.peer) else {
            return;
        };
        if !peers.is_connected(&peer) {
            return;
        }
        let unasked: Vec<At> = self
            .collecting
            .iter()
            .filter(|(_, ending)| !ending.asked)
            .map(|(at, _)| *at)
            .collect();
        for at in unasked {
            let here = self
                .cell(at)
                .is_some_and(|cell| cell.peer == position && cell.stage == Stage::Collecting);
            if !here {
                continue;
            }
            if let Some(ending) = self.collecting.get_mut(&at) {
                ending.asked = true;
                let ending = ending.clone();
                self.ask_for_outputs(cx, peer, at, &ending);
            }
        }
    }
}
