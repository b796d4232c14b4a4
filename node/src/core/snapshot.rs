//! What each [`Record`] means: folding them in order gives the [`Snapshot`] that a node starts with.
//!
//! The store does the same over its tables, the simulation by this function. Every record may be
//! folded twice; one about something that is not there changes nothing.

use p2pnode_protocol::message::{ReportEvent, TaskRef};
use p2pnode_protocol::task::Outcome;
use p2pnode_protocol::{AttemptKey, PeerId, TaskKey};

use super::io::{HostedJob, Record, RunKey, Snapshot, StoredEnd, StoredHosted, StoredJob};

impl RunKey {
    /// The run of `task` of a hosted job.
    #[must_use]
    pub fn of(hosted: HostedJob, task: TaskRef) -> Self {
        Self {
            submitter: hosted.submitter,
            attempt: AttemptKey {
                task: TaskKey {
                    job: hosted.job,
                    step: task.step,
                    index: task.index,
                },
                attempt: task.attempt,
            },
        }
    }

    /// The job that this run belongs to.
    #[must_use]
    pub const fn hosted(&self) -> HostedJob {
        HostedJob {
            submitter: self.submitter,
            job: self.attempt.task.job,
        }
    }

    /// The attempt within its job.
    #[must_use]
    pub const fn task(&self) -> TaskRef {
        TaskRef {
            step: self.attempt.task.step,
            index: self.attempt.task.index,
            attempt: self.attempt.attempt,
        }
    }
}

impl Snapshot {
    /// Folds one record in.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Job {
                job,
                plan,
                out,
                created_ms,
            } => {
                if self.jobs.iter().all(|stored| stored.job != job) {
                    self.jobs.push(StoredJob {
                        job,
                        plan,
                        out,
                        created_ms,
                        ended: None,
                        dispatched: Vec::new(),
                        ends: Vec::new(),
                    });
                }
            }
            Record::Dispatched { .. } | Record::TaskEnded { .. } | Record::JobEnded { .. } => {
                self.apply_to_job(record);
            }
            Record::Offer(terms) => self.offer = Some(terms),
            Record::Allowed { peer, grant } => replace(&mut self.allowed, peer, grant),
            Record::Requested { peer, request } => replace(&mut self.requests, peer, request),
            Record::Draining(on) => self.draining = on,
            Record::Unhosted(hosted) => self.hosted.retain(|stored| stored.hosted != hosted),
            Record::Hosted { .. }
            | Record::Outbox { .. }
            | Record::Acknowledged { .. }
            | Record::OutputsDropped(_) => self.apply_to_hosted(record),
        }
    }

    fn apply_to_job(&mut self, record: Record) {
        let (Record::Dispatched { job, .. }
        | Record::TaskEnded { job, .. }
        | Record::JobEnded { job, .. }) = &record
        else {
            return;
        };
        let Some(stored) = self.jobs.iter_mut().find(|stored| stored.job == *job) else {
            return;
        };
        match record {
            Record::Dispatched { peer, tasks, .. } => {
                // A task is dispatched once for each attempt, so the same list is a repeat.
                let dispatch = (peer, tasks);
                let repeated = stored.dispatched.contains(&dispatch);
                stored.dispatched.extend((!repeated).then_some(dispatch));
            }
            Record::TaskEnded {
                task,
                peer,
                outcome,
                usage,
                outputs,
                log_bytes,
                collected,
                last,
                ..
            } => {
                let end = StoredEnd {
                    task,
                    peer,
                    outcome,
                    usage,
                    outputs,
                    log_bytes,
                    collected,
                    last,
                };
                // The same attempt's end again: its outputs were collected meanwhile.
                match stored.ends.iter_mut().rfind(|known| known.task == task) {
                    Some(known) => *known = end,
                    None => stored.ends.push(end),
                }
            }
            Record::JobEnded {
                state,
                finished_ms,
                notes,
                ..
            } => stored.ended = Some((state, finished_ms, notes)),
            _ => {}
        }
    }

    fn apply_to_hosted(&mut self, record: Record) {
        if let Record::Hosted { hosted, template } = record {
            let position = self
                .hosted
                .iter()
                .position(|stored| stored.hosted == hosted);
            let position = position.unwrap_or_else(|| {
                self.hosted.push(StoredHosted {
                    hosted,
                    templates: Vec::new(),
                    acknowledged: 0,
                    outbox: Vec::new(),
                    kept: Vec::new(),
                });
                self.hosted.len() - 1
            });
            let templates = &mut self.hosted[position].templates;
            if templates.iter().all(|known| known.step != template.step) {
                templates.push(template);
            }
            return;
        }
        let hosted = match &record {
            Record::Outbox { hosted, .. } | Record::Acknowledged { hosted, .. } => *hosted,
            Record::OutputsDropped(run) => run.hosted(),
            _ => return,
        };
        let Some(stored) = self
            .hosted
            .iter_mut()
            .find(|stored| stored.hosted == hosted)
        else {
            return;
        };
        match record {
            Record::Outbox { number, event, .. } => stored.apply_outbox(number, event),
            Record::Acknowledged { through, .. } => {
                stored.acknowledged = stored.acknowledged.max(through);
                let acknowledged = stored.acknowledged;
                stored.outbox.retain(|(number, _)| *number > acknowledged);
            }
            Record::OutputsDropped(run) => stored.kept.retain(|(kept, _)| *kept != run),
            _ => {}
        }
    }
}

impl StoredHosted {
    fn apply_outbox(&mut self, number: u64, event: ReportEvent) {
        let known = self.outbox.iter().any(|(known, _)| *known == number);
        if number <= self.acknowledged || known {
            return;
        }
        if let ReportEvent::Finished {
            task,
            outcome: Outcome::Succeeded,
            outputs: Some(blob),
            ..
        } = &event
        {
            let run = RunKey::of(self.hosted, *task);
            if self.kept.iter().all(|(kept, _)| *kept != run) {
                self.kept.push((run, *blob));
            }
        }
        self.outbox.push((number, event));
    }
}

/// Puts a peer's entry last, in place of the one that it had.
fn replace<T>(list: &mut Vec<(PeerId, T)>, peer: PeerId, value: Option<T>) {
    list.retain(|(known, _)| *known != peer);
    list.extend(value.map(|value| (peer, value)));
}
