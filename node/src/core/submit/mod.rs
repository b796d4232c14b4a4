//! This node as a submitter: its own jobs, from the plan to the last result.
//!
//! [`Submit`] owns the jobs and the table of providers, and finds for each input the job that it is
//! about. It must never touch what is hosted here: this node's own capacity is a peer like any other.
//!
//! Handlers only note which jobs need looking at; [`Submit::settle`] does the looking once, at the
//! end of an input, so that a report of thousands of events costs one round of placement.

mod absent;
mod collect;
mod finish;
mod inbox;
mod job;
mod link;
mod loss;
mod offers;
mod placement;
mod pump;
mod restore;
mod results;
mod settle;
mod task;
mod view;
mod waiting;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::{JobId, PeerId};

use super::desk::Cx;
use super::io::{Record, StoredJob};
use super::peers::Peers;
use finish::Farewells;
use job::Job;
use watch::Watch;

/// What has to be looked at in a job.
#[derive(Debug, Default)]
struct Dirty {
    /// Everything: tasks came back, or any peer may do.
    all: bool,
    /// What is between it and these.
    peers: BTreeSet<PeerId>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Submit {
    jobs: BTreeMap<JobId, Job>,
    /// Jobs that are over, oldest end first.
    over: Vec<Job>,
    watch: Watch,
    farewells: Farewells,
    dirty: BTreeMap<JobId, Dirty>,
}

impl Submit {
    /// Takes up where the last life ended.
    pub(super) fn restore(&mut self, cx: &mut Cx, peers: &mut Peers, stored: Vec<StoredJob>) {
        for stored in stored {
            let job = Job::restore(cx, stored);
            if job.is_over() {
                self.over.push(job);
            } else {
                self.dirty.entry(job.id).or_default().all = true;
                self.jobs.insert(job.id, job);
            }
        }
        self.over.sort_by_key(|job| job.finished_ms);
        self.prune(cx);
        for job in self.jobs.values_mut() {
            job.wake(cx, peers, &mut self.watch);
        }
        if self
            .jobs
            .values()
            .any(|job| job.links.contains_key(&peers.me))
        {
            self.on_connected(cx, peers, peers.me);
        }
    }

    /// The owner submits a job.
    pub(super) fn on_submit(
        &mut self,
        cx: &mut Cx,
        id: JobId,
        plan: Arc<JobPlan>,
        out: Option<String>,
    ) {
        if self.jobs.contains_key(&id) || self.over.iter().any(|job| job.id == id) {
            cx.counters().invalid_messages += 1;
            tracing::error!(job = %id, "a job was submitted under an id that is taken");
            return;
        }
        cx.persist(Record::Job {
            job: id,
            plan: plan.clone(),
            out: out.clone(),
            created_ms: cx.now,
        });
        let job = Job::new(id, plan, out, cx.now);
        tracing::info!(job = %id, name = job.plan.name, tasks = job.counts.total, "job submitted");
        cx.emit(Event::JobCreated {
            job: job.text.clone(),
            name: job.plan.name.clone(),
            tasks: job.counts.total,
            out: job.out.clone(),
        });
        self.jobs.insert(id, job);
        self.look_at(id);
    }

    /// The owner cancels a job.
    pub(super) fn on_cancel(&mut self, cx: &mut Cx, peers: &Peers, id: JobId) {
        self.end(cx, peers, id, JobState::Cancelled);
    }

    fn look_at(&mut self, id: JobId) {
        self.dirty.entry(id).or_default().all = true;
    }

    fn look_at_peer(&mut self, id: JobId, peer: PeerId) {
        self.dirty.entry(id).or_default().peers.insert(peer);
    }

    fn look_at_all(&mut self, peer: PeerId) {
        let ids: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| job.pending() > 0 || job.links.contains_key(&peer))
            .map(|job| job.id)
            .collect();
        for id in ids {
            self.look_at_peer(id, peer);
        }
    }

    /// Looks at every job that something happened to: is it over, what can be handed out, does it wait.
    pub(super) fn settle(&mut self, cx: &mut Cx, peers: &mut Peers, stopping: bool) {
        while let Some((id, dirty)) = self.dirty.pop_first() {
            if let Some(state) = self.look(cx, peers, id, dirty, stopping) {
                self.end(cx, peers, id, state);
            }
        }
    }

    /// Looks at one job; returns how it ends, when it does.
    fn look(
        &mut self,
        cx: &mut Cx,
        peers: &mut Peers,
        id: JobId,
        dirty: Dirty,
        stopping: bool,
    ) -> Option<JobState> {
        let job = self.jobs.get_mut(&id)?;
        if let Some(state) = job.verdict() {
            return Some(state);
        }
        let mut to_tend = dirty.peers.clone();
        if dirty.all {
            to_tend.extend(job.links.keys());
        }
        let waited = job.pending();
        for peer in to_tend {
            job.tend(cx, peers, &self.watch, peer);
        }
        let all = dirty.all || job.pending() > waited;
        if stopping {
            return None;
        }
        for peer in dirty.peers {
            job.place_at(cx, peers, &mut self.watch, peer);
        }
        if all {
            job.place_all(cx, peers, &mut self.watch);
        }
        let gave_up = job.on_idle(cx, peers, &mut self.watch);
        // Tasks that cannot be put into any offer failed just now.
        let state = job.verdict();
        state.or(gave_up.then_some(JobState::Failed))
    }

    fn end(&mut self, cx: &mut Cx, peers: &Peers, id: JobId, state: JobState) {
        if let Some(mut job) = self.jobs.remove(&id) {
            job.end(cx, peers, &mut self.watch, &mut self.farewells, state);
            self.over.push(job);
            self.prune(cx);
        }
    }

    /// Forgets the oldest jobs that are over, when there are too many.
    fn prune(&mut self, cx: &Cx) {
        let config = &cx.config.submit;
        let mut tasks: u64 = self.over.iter().map(|job| job.counts.total).sum();
        let mut count = self.over.len();
        let mut oldest = 0;
        while count > config.kept_jobs || (tasks > config.kept_tasks && count > 1) {
            tasks -= self.over[oldest].counts.total;
            count -= 1;
            oldest += 1;
        }
        self.over.drain(..oldest);
    }
}

/// How many tasks of the first step of `plan` a peer could run now, or why none.
pub(super) fn fit(plan: &JobPlan, peers: &Peers) -> Vec<(PeerId, Result<u32, String>)> {
    let named = plan.placement.peers.iter().copied();
    let known = peers.offering().map(|(peer, _)| peer);
    let mut all: Vec<PeerId> = named.chain(known).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .map(|peer| {
            let fit = placement::fit(plan, peers, &peer);
            (peer, fit.map_err(|unfit| unfit.to_string()))
        })
        .collect()
}
