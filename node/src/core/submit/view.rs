//! What the API shows of jobs and tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use p2pnode_protocol::api::{JobInfo, JobUsage, TaskInfo};
use p2pnode_protocol::{JobId, PeerId};

use super::Submit;
use super::job::Job;
use super::link::At;
use crate::core::io::Millis;

/// Values of a chunked key that are shown, at most.
const MAX_SHOWN: usize = 32;

impl Submit {
    /// Providers of running jobs.
    pub(in crate::core) fn providers(&self) -> BTreeSet<PeerId> {
        self.jobs
            .values()
            .flat_map(|job| job.links.iter().filter(|(_, link)| link.used))
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// Whether nothing is on its way about jobs that are over.
    pub(in crate::core) fn has_said_farewell(&self) -> bool {
        !self.farewells.is_under_way()
    }

    fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().chain(&self.over)
    }

    fn find(&self, id: JobId) -> Option<&Job> {
        let over = || self.over.iter().rev().find(|job| job.id == id);
        self.jobs.get(&id).or_else(over)
    }

    /// One job, as the API shows it.
    pub(in crate::core) fn job(&self, id: JobId) -> Option<JobInfo> {
        self.find(id).map(Job::info)
    }

    /// Ids of all jobs, newest first.
    pub(in crate::core) fn job_ids(&self) -> Vec<JobId> {
        let mut ids: Vec<(Millis, JobId)> =
            self.all().map(|job| (job.created_ms, job.id)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Tasks of a job, counted through all its steps.
    pub(in crate::core) fn tasks(&self, id: JobId, range: Range<u32>) -> Vec<TaskInfo> {
        self.find(id).map_or_else(Vec::new, |job| job.tasks(range))
    }

    /// Tasks of running jobs that are not final.
    pub(in crate::core) fn open_tasks(&self) -> u64 {
        let open = |job: &Job| {
            let tasks = job.steps.iter().map(|step| u64::from(step.tasks.open()));
            tasks.sum::<u64>()
        };
        self.jobs.values().map(open).sum()
    }
}

impl Job {
    pub(super) fn info(&self) -> JobInfo {
        let waits = !self.is_over() && self.waiting.since_ms.is_some();
        JobInfo {
            job: self.text.clone(),
            name: self.plan.name.clone(),
            state: self.state,
            created_ms: self.created_ms,
            finished_ms: self.finished_ms,
            tasks: self.counts,
            peers: self
                .peers
                .iter()
                .filter(|known| known.succeeded > 0)
                .map(|known| (known.text.clone(), known.succeeded))
                .collect(),
            out: self.out.clone(),
            usage: JobUsage {
                cpu_ms: self.cpu_us / 1_000,
                task_ms: self.wall_us / 1_000,
                energy_mj: self.energy_mj,
                bytes_sent: self.sent,
                bytes_received: self.received,
            },
            notes: if waits && self.notes.is_empty() {
                self.waiting.reasons.clone()
            } else {
                self.notes.clone()
            },
            no_peer: self.no_peer,
        }
    }

    /// Tasks in `range`, counted through all steps.
    pub(super) fn tasks(&self, range: Range<u32>) -> Vec<TaskInfo> {
        let mut infos = Vec::new();
        let mut before = 0_u64;
        for (position, step) in self.steps.iter().enumerate() {
            let len = u64::from(step.tasks.len());
            let from = u64::from(range.start).max(before);
            let until = u64::from(range.end).min(before + len);
            for place in from..until {
                let at = At {
                    step: position as u16,
                    index: (place - before) as u32,
                };
                infos.extend(self.task(at));
            }
            before += len;
        }
        infos
    }

    fn task(&self, at: At) -> Option<TaskInfo> {
        let cell = self.cell(at)?;
        let step = self.steps.get(usize::from(at.step))?;
        let plan = self.step_plan(at.step)?;
        let values = plan.array.values(at.index.into()).unwrap_or_default();
        let keys = plan.array.keys.iter().map(|key| key.name.clone());
        let values: BTreeMap<String, String> =
            keys.zip(values.iter().map(|list| shown(list))).collect();
        let failure = step.failures.get(&at.index);
        Some(TaskInfo {
            task: self.task_key(at).to_string(),
            state: cell.stage.shown(),
            attempt: cell.attempt,
            peer: (cell.attempt > 0).then(|| self.peer_text(cell.peer).to_owned()),
            values,
            decided_by: failure.map(|failure| failure.kind.decider()),
            failure: failure.cloned(),
            usage: step.usage.get(&at.index).copied(),
        })
    }
}

/// The values of one key: one, or a chunk's.
fn shown(list: &[String]) -> String {
    if list.len() <= MAX_SHOWN {
        return list.join(",");
    }
    let more = list.len() - MAX_SHOWN;
    format!("{},… ({more} more)", list[..MAX_SHOWN].join(","))
}
