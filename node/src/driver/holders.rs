//! Which peer was given which attempts of this node's own jobs: who may write into their logs, and
//! read their blobs.
//!
//! Fed with what the loop sees: offers and cancels that go out, answers to offers, reports that come in. A peer writes
//! only the logs of attempts that were offered to it, only once, and only into its share of the job's
//! log. It is a provider from its first offer on, for it fetches inputs before its answer is here, and
//! until a refusal leaves it with nothing of the job. One that is lost stays a provider: it may come
//! back with tasks that it went on with, and what it may read it was given before.
//!
//! An attempt is forgotten when it is cancelled, or its end was reported and its log is here, so that what is kept is
//! bounded by what providers have in hand and not by the size of a job; [`MAX_OUT`] bounds what
//! attempts without an end can add up to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2pnode_protocol::message::{MAX_BATCH, Offer, Report, ReportEvent, TaskRef, TaskResponse};
use p2pnode_protocol::stream::LogFrame;
use p2pnode_protocol::{JobId, PeerId};

use crate::core::io::{CallFailure, CallId, StoredEnd};
use crate::store::MAX_JOB_LOG_BYTES;

/// Attempts without an end that are kept for one job and provider, and as many whose log is still to
/// come: four full offers, twice what it ever has in hand. The first tasks go when there are more.
const MAX_OUT: usize = 4 * MAX_BATCH;

/// What a frame weighs beside its bytes, in bytes: more than its header in the file and its share of
/// the index.
const FRAME_COST: u64 = 64;

/// What is to be done with a frame of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Store it.
    Take,
    /// Forget it, it is a repeat or not this peer's to write.
    Drop,
    /// Take no more from this peer, which has nothing of the job, or the job is over.
    Gone,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    jobs: HashMap<JobId, Job>,
    /// Offers under way, as many as the core makes.
    offers: HashMap<CallId, (PeerId, JobId, Vec<TaskRef>)>,
}

#[derive(Debug, Default)]
struct Job {
    holders: HashMap<PeerId, Holder>,
    /// What all of them wrote.
    bytes: u64,
}

/// One provider of a job.
#[derive(Debug, Default)]
struct Holder {
    /// Offered, and no end was reported.
    out: BTreeMap<TaskRef, Progress>,
    /// The end was reported, and more of the log is to come.
    trailing: BTreeMap<TaskRef, Progress>,
    is_provider: bool,
    /// Bytes that it wrote into the log, each frame with its cost.
    bytes: u64,
    /// Its share of the log is used up.
    spent: bool,
}

/// How much of an attempt's log has come, in bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    at: u64,
    /// Its length, once the end was reported.
    total: u64,
    /// The peer said that it has the attempt, or may have said so in an earlier life of this node.
    taken: bool,
}

impl Holders {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These tasks are offered to `peer`, perhaps again.
    pub(super) fn on_offer(&self, peer: PeerId, call: CallId, offer: &Offer) {
        let tasks: Vec<TaskRef> = offer
            .tasks
            .iter()
            .map(|task| TaskRef {
                step: offer.step,
                index: task.index,
                attempt: task.attempt,
            })
            .collect();
        let mut table = self.lock();
        let job = table.jobs.entry(offer.job).or_default();
        let holder = job.holders.entry(peer).or_default();
        holder.is_provider = true;
        for task in &tasks {
            let known = holder.trailing.remove(task).unwrap_or_default();
            insert(&mut holder.out, *task, known);
        }
        table.offers.insert(call, (peer, offer.job, tasks));
    }

    /// A call was answered, or not. Without an answer to an offer its tasks may be there.
    pub(super) fn on_answer(&self, call: CallId, response: &Result<TaskResponse, CallFailure>) {
        let mut table = self.lock();
        let Some((peer, job, tasks)) = table.offers.remove(&call) else {
            return;
        };
        let (Ok(TaskResponse::Offer(reply)), Some(job)) = (response, table.jobs.get_mut(&job))
        else {
            return;
        };
        let Some(holder) = job.holders.get_mut(&peer) else {
            return;
        };
        let (taken, refused) = tasks.split_at(tasks.len().min(reply.accepted as usize));
        for task in taken {
            if let Some(progress) = holder.out.get_mut(task) {
                progress.taken = true;
            }
        }
        // What was taken before goes on there, even if it is refused now that it was offered again.
        let refused = refused.iter().filter(|task| {
            let new = holder.out.get(task).is_some_and(|known| !known.taken);
            new && holder.out.remove(task).is_some()
        });
        if refused.count() > 0 && holder.out.is_empty() && holder.trailing.is_empty() {
            holder.is_provider = false;
            if holder.bytes == 0 {
                job.holders.remove(&peer);
            }
        }
    }

    /// These attempts at `peer` are not wanted any more.
    pub(super) fn on_cancel(&self, peer: &PeerId, job: JobId, tasks: &[TaskRef]) {
        let mut table = self.lock();
        let job = table.jobs.get_mut(&job);
        let Some(holder) = job.and_then(|job| job.holders.get_mut(peer)) else {
            return;
        };
        for task in tasks {
            holder.out.remove(task);
            holder.trailing.remove(task);
        }
    }

    /// A peer says how attempts ended. What it says of others' means nothing.
    pub(super) fn on_report(&self, peer: PeerId, report: &Report) {
        let mut table = self.lock();
        let job = table.jobs.get_mut(&report.job);
        let Some(holder) = job.and_then(|job| job.holders.get_mut(&peer)) else {
            return;
        };
        for event in &report.events {
            if let ReportEvent::Finished {
                task, log_bytes, ..
            } = event
                && let Some(mut progress) = holder.out.remove(task)
                && progress.at < *log_bytes
            {
                progress.total = *log_bytes;
                insert(&mut holder.trailing, *task, progress);
            }
        }
    }

    /// What was out at other peers than `me` when the node stopped. Shares of the log start anew.
    pub(super) fn restore(
        &self,
        me: &PeerId,
        job: JobId,
        dispatched: &[(PeerId, Vec<TaskRef>)],
        ends: &[StoredEnd],
    ) {
        let ended: HashSet<TaskRef> = ends.iter().map(|end| end.task).collect();
        let mut table = self.lock();
        let job = table.jobs.entry(job).or_default();
        for (peer, tasks) in dispatched.iter().filter(|(peer, _)| peer != me) {
            let out = tasks.iter().filter(|task| !ended.contains(task));
            for task in out {
                let holder = job.holders.entry(*peer).or_default();
                let known = Progress {
                    taken: true,
                    ..Progress::default()
                };
                insert(&mut holder.out, *task, known);
            }
        }
        let coming = ends.iter().filter(|end| !end.collected && end.peer != *me);
        for end in coming {
            let holder = job.holders.entry(end.peer).or_default();
            let total = end.log_bytes;
            let known = Progress {
                at: 0,
                total,
                taken: true,
            };
            insert(&mut holder.trailing, end.task, known);
        }
        for holder in job.holders.values_mut() {
            holder.is_provider = true;
        }
    }

    /// The job is over.
    pub(super) fn on_job_over(&self, job: JobId) {
        self.lock().jobs.remove(&job);
    }

    /// Whether `peer` has to do with the job as one that runs its tasks.
    pub(super) fn is_provider(&self, job: JobId, peer: &PeerId) -> bool {
        let table = self.lock();
        let holder = table.jobs.get(&job).and_then(|job| job.holders.get(peer));
        holder.is_some_and(|holder| holder.is_provider)
    }

    /// Whether nothing more of `peer` goes into the job's log, for it has had its share.
    pub(super) fn is_spent(&self, job: JobId, peer: &PeerId) -> bool {
        let table = self.lock();
        let holder = table.jobs.get(&job).and_then(|job| job.holders.get(peer));
        holder.is_some_and(|holder| holder.spent)
    }

    /// Whether `peer` may write this frame, which is then counted as written.
    pub(super) fn judge(&self, job: JobId, peer: &PeerId, frame: &LogFrame) -> Verdict {
        let mut table = self.lock();
        let Some(job) = table.jobs.get_mut(&job) else {
            return Verdict::Gone;
        };
        let Some(holder) = job.holders.get_mut(peer).filter(|peer| peer.is_provider) else {
            return Verdict::Gone;
        };
        if !holder.advance(frame) {
            return Verdict::Drop;
        }
        let cost = frame.bytes.len() as u64 + FRAME_COST;
        // Half of what the others leave: however many providers flood the log, some of it is left.
        let share = MAX_JOB_LOG_BYTES.saturating_sub(job.bytes - holder.bytes) / 2;
        if holder.bytes + cost > share {
            holder.spent = true;
            return Verdict::Drop;
        }
        holder.bytes += cost;
        job.bytes += cost;
        Verdict::Take
    }
}

impl Holder {
    /// Notes that this part of an attempt's log has come. Returns whether it is new: of an attempt
    /// that is this peer's, and beyond what came before. Streams bring frames in order and begin at
    /// the oldest that was not acknowledged, so nothing before it is missing.
    fn advance(&mut self, frame: &LogFrame) -> bool {
        let task = TaskRef {
            step: frame.step,
            index: frame.index,
            attempt: frame.attempt,
        };
        let until = frame.offset.saturating_add(frame.bytes.len() as u64);
        if let Some(progress) = self.out.get_mut(&task) {
            let is_new = until > progress.at;
            progress.at = progress.at.max(until);
            return is_new;
        }
        let Some(progress) = self.trailing.get_mut(&task) else {
            return false;
        };
        let is_new = until > progress.at;
        progress.at = progress.at.max(until);
        if progress.at >= progress.total {
            self.trailing.remove(&task);
        }
        is_new
    }
}

fn insert(kept: &mut BTreeMap<TaskRef, Progress>, task: TaskRef, progress: Progress) {
    kept.entry(task).or_insert(progress);
    if kept.len() > MAX_OUT {
        kept.pop_first();
    }
}

#[cfg(test)]
mod tests;
