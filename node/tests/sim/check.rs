//! What must always hold, checked on every record and answer before it takes effect.
//!
//! The checks know nothing of the core's inside: they see what a node stores, says and runs.

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_node::core::io::{HostedJob, Record, RunKey};
use p2pnode_protocol::api::JobState;
use p2pnode_protocol::message::{Report, ReportEvent, TaskRef};
use p2pnode_protocol::task::Outcome;
use p2pnode_protocol::{AttemptKey, JobId, PeerId};

/// A task as the submitter's disk knows it.
#[derive(Debug, Default)]
struct Task {
    attempt: u32,
    peer: Option<PeerId>,
    /// Attempts with a stored end.
    ended: BTreeSet<u32>,
    /// The attempt that settled it for good, and whether well.
    last: Option<(u32, bool)>,
}

/// What one submitter's disk says, indexed.
#[derive(Debug, Default)]
pub struct Books {
    tasks: BTreeMap<(JobId, u16, u32), Task>,
    totals: BTreeMap<JobId, u64>,
    pub ended: BTreeMap<JobId, JobState>,
}

/// Successful runs that really took place.
pub type Truth = BTreeSet<(PeerId, RunKey)>;

impl Books {
    /// Checks a record that `me` is about to store, then books it.
    pub fn store(&mut self, me: PeerId, truth: &Truth, record: &Record) -> Result<(), String> {
        match record {
            Record::Job { job, plan, .. } => {
                let total = plan.steps.iter().map(|step| step.array.task_count()).sum();
                self.totals.insert(*job, total);
                Ok(())
            }
            Record::Dispatched { job, peer, tasks } => self.dispatched(*job, *peer, tasks),
            Record::TaskEnded {
                job,
                task,
                peer,
                outcome,
                collected,
                last,
                ..
            } => {
                let well = *outcome == Outcome::Succeeded;
                let hosted = HostedJob {
                    submitter: me,
                    job: *job,
                };
                if well && !truth.contains(&(*peer, RunKey::of(hosted, *task))) {
                    return Err(format!(
                        "a success was stored that never was: {task:?} at {peer}"
                    ));
                }
                self.task_ended(*job, *task, *peer, well, *collected && *last)
            }
            Record::JobEnded { job, state, .. } => self.job_ended(*job, *state),
            _ => Ok(()),
        }
    }

    fn dispatched(&mut self, job: JobId, peer: PeerId, tasks: &[TaskRef]) -> Result<(), String> {
        for task in tasks {
            let known = self.tasks.entry((job, task.step, task.index)).or_default();
            if task.attempt <= known.attempt {
                return Err(format!(
                    "attempt {} after {}: {task:?}",
                    task.attempt, known.attempt
                ));
            }
            if known.last.is_some() {
                return Err(format!("handed out after its end: {task:?}"));
            }
            known.attempt = task.attempt;
            known.peer = Some(peer);
        }
        Ok(())
    }

    fn task_ended(
        &mut self,
        job: JobId,
        task: TaskRef,
        peer: PeerId,
        well: bool,
        last: bool,
    ) -> Result<(), String> {
        let known = self.tasks.entry((job, task.step, task.index)).or_default();
        if known.attempt != task.attempt || known.peer != Some(peer) {
            return Err(format!(
                "the end of a stale attempt was accepted: {task:?} from {peer}, but attempt {} is at {:?}",
                known.attempt, known.peer
            ));
        }
        if let Some((attempt, _)) = known.last {
            return Err(format!(
                "settled twice, by attempts {attempt} and {}: {task:?}",
                task.attempt
            ));
        }
        known.ended.insert(task.attempt);
        if last {
            known.last = Some((task.attempt, well));
        }
        Ok(())
    }

    /// Checks outputs that are about to be written.
    pub fn written(&self, attempt: AttemptKey) -> Result<(), String> {
        let task = attempt.task;
        let known = self.tasks.get(&(task.job, task.step, task.index));
        let newest = known.map_or(0, |known| known.attempt);
        let settled = known.and_then(|known| known.last).map(|(by, _)| by);
        if newest == attempt.attempt && settled.is_none() {
            return Ok(());
        }
        Err(format!(
            "outputs of {attempt} were written over those of attempt {newest}, settled {settled:?}"
        ))
    }

    fn job_ended(&mut self, job: JobId, state: JobState) -> Result<(), String> {
        if self.ended.insert(job, state).is_some() {
            return Err(format!("job {job} ended twice"));
        }
        let total = self.totals.get(&job).copied().unwrap_or(0);
        let settled = self.settled(job);
        if state == JobState::Succeeded && settled != (total, 0) {
            return Err(format!(
                "job {job} succeeded with {settled:?} of {total} tasks"
            ));
        }
        Ok(())
    }

    /// How many tasks ended well and how many failed for good.
    pub fn settled(&self, job: JobId) -> (u64, u64) {
        let mut counts = (0, 0);
        for task in self.tasks.range((job, 0, 0)..=(job, u16::MAX, u32::MAX)) {
            match task.1.last {
                Some((_, true)) => counts.0 += 1,
                Some((_, false)) => counts.1 += 1,
                None => {}
            }
        }
        counts
    }

    /// Checks that a report may be acknowledged: every end in it that this submitter waits for is
    /// stored.
    pub fn acknowledge(&self, from: PeerId, report: &Report) -> Result<(), String> {
        if self.ended.contains_key(&report.job) {
            return Ok(());
        }
        for event in &report.events {
            let ReportEvent::Finished { task, .. } = event else {
                continue;
            };
            let Some(known) = self.tasks.get(&(report.job, task.step, task.index)) else {
                continue;
            };
            let waited_for = known.attempt == task.attempt && known.peer == Some(from);
            if waited_for && !known.ended.contains(&task.attempt) {
                return Err(format!(
                    "acknowledged before it was stored: {task:?} from {from}"
                ));
            }
        }
        Ok(())
    }
}
