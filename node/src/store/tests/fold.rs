//! What each record means, in the plainest words: the expectation that the database is held to.

use p2pnode_protocol::id::{AttemptKey, TaskKey};
use p2pnode_protocol::message::ReportEvent;
use p2pnode_protocol::task::Outcome;

use crate::core::io::{HostedJob, Record, RunKey, Snapshot, StoredEnd, StoredHosted, StoredJob};
use crate::store::KEPT_JOBS;

/// Folds one record into a snapshot.
pub(super) fn apply(snapshot: &mut Snapshot, record: &Record) {
    match record {
        Record::Job {
            job,
            plan,
            out,
            created_ms,
        } => {
            if snapshot.jobs.iter().all(|known| known.job != *job) {
                snapshot.jobs.push(StoredJob {
                    job: *job,
                    plan: plan.clone(),
                    out: out.clone(),
                    created_ms: *created_ms,
                    ended: None,
                    dispatched: Vec::new(),
                    ends: Vec::new(),
                });
            }
        }
        Record::Dispatched { .. } | Record::TaskEnded { .. } | Record::JobEnded { .. } => {
            apply_own(snapshot, record);
        }
        Record::Offer(terms) => snapshot.offer = Some(terms.clone()),
        Record::Allowed { peer, allowed } => {
            snapshot.allowed.retain(|known| known != peer);
            if *allowed {
                snapshot.allowed.push(*peer);
            }
        }
        Record::Hosted { .. }
        | Record::Outbox { .. }
        | Record::Acknowledged { .. }
        | Record::OutputsDropped(_)
        | Record::Unhosted(_) => apply_hosted(snapshot, record),
    }
}

fn apply_own(snapshot: &mut Snapshot, record: &Record) {
    match record {
        Record::Dispatched { job, peer, tasks } => {
            if let Some(known) = snapshot.jobs.iter_mut().find(|known| known.job == *job) {
                let offer = (*peer, tasks.clone());
                if !known.dispatched.contains(&offer) {
                    known.dispatched.push(offer);
                }
            }
        }
        Record::TaskEnded {
            job,
            task,
            peer,
            outcome,
            usage,
            outputs,
            log_bytes,
            collected,
            last,
        } => {
            if let Some(known) = snapshot.jobs.iter_mut().find(|known| known.job == *job) {
                let end = StoredEnd {
                    task: *task,
                    peer: *peer,
                    outcome: outcome.clone(),
                    usage: *usage,
                    outputs: *outputs,
                    log_bytes: *log_bytes,
                    collected: *collected,
                    last: *last,
                };
                match known.ends.iter_mut().find(|known| known.task == *task) {
                    Some(known) => *known = end,
                    None => known.ends.push(end),
                }
            }
        }
        Record::JobEnded {
            job,
            state,
            finished_ms,
            notes,
        } => {
            if let Some(known) = snapshot.jobs.iter_mut().find(|known| known.job == *job) {
                known.ended = Some((*state, *finished_ms, notes.clone()));
            }
            while snapshot
                .jobs
                .iter()
                .filter(|job| job.ended.is_some())
                .count()
                > KEPT_JOBS
            {
                let oldest = snapshot.jobs.iter().position(|job| job.ended.is_some());
                snapshot.jobs.remove(oldest.unwrap());
            }
        }
        _ => {}
    }
}

fn apply_hosted(snapshot: &mut Snapshot, record: &Record) {
    let find = |hosts: &mut Vec<StoredHosted>, wanted: HostedJob| {
        hosts.iter().position(|known| known.hosted == wanted)
    };
    let hosts = &mut snapshot.hosted;
    match record {
        Record::Hosted { hosted, template } => {
            let at = find(hosts, *hosted).unwrap_or_else(|| {
                hosts.push(StoredHosted {
                    hosted: *hosted,
                    templates: Vec::new(),
                    acknowledged: 0,
                    outbox: Vec::new(),
                    kept: Vec::new(),
                });
                hosts.len() - 1
            });
            let templates = &mut hosts[at].templates;
            if templates.iter().all(|known| known.step != template.step) {
                templates.push(template.clone());
            }
        }
        Record::Outbox {
            hosted,
            number,
            event,
        } => {
            let Some(at) = find(hosts, *hosted) else {
                return;
            };
            let host = &mut hosts[at];
            let known = host.outbox.iter().any(|(stored, _)| stored == number);
            if *number <= host.acknowledged || known {
                return;
            }
            store_event(host, *number, event);
        }
        Record::Acknowledged { hosted, through } => {
            if let Some(at) = find(hosts, *hosted) {
                let host = &mut hosts[at];
                host.acknowledged = host.acknowledged.max(*through);
                host.outbox.retain(|(number, _)| number > through);
            }
        }
        Record::OutputsDropped(run) => {
            let job = run.attempt.task.job;
            let submitter = run.submitter;
            if let Some(at) = find(hosts, HostedJob { submitter, job }) {
                hosts[at].kept.retain(|known| known != run);
            }
        }
        Record::Unhosted(hosted) => hosts.retain(|known| known.hosted != *hosted),
        _ => {}
    }
}

fn store_event(host: &mut StoredHosted, number: u64, event: &ReportEvent) {
    host.outbox.push((number, event.clone()));
    if let ReportEvent::Finished {
        task,
        outcome: Outcome::Succeeded,
        outputs: Some(_),
        ..
    } = event
    {
        let run = RunKey {
            submitter: host.hosted.submitter,
            attempt: AttemptKey {
                task: TaskKey {
                    job: host.hosted.job,
                    step: task.step,
                    index: task.index,
                },
                attempt: task.attempt,
            },
        };
        if !host.kept.contains(&run) {
            host.kept.push(run);
        }
    }
}
