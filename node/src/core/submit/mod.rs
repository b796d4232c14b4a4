//! This node as a submitter: its own jobs, from the plan to the last result.
//!
//! [`Submit`] owns the jobs and the table of providers, and finds for each input the job that it is
//! about. It must never touch what is hosted here: this node's own capacity is a peer like any other.
//!
//! Handlers only note which jobs need looking at; [`Submit::settle`] does the looking once, at the
//! end of an input, so that a report of thousands of events costs one round of placement.

mod collect;
mod finish;
mod job;
mod link;
mod loss;
mod offers;
mod placement;
mod pump;
mod restore;
mod results;
mod task;
mod view;
mod waiting;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use p2pnode_protocol::api::{Event, JobInfo, JobState, TaskInfo};
use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::message::{MAX_BATCH, Renewal, Report, TaskResponse};
use p2pnode_protocol::{AttemptKey, JobId, PeerId};

use super::desk::{CallKind, Cx};
use super::io::{CallFailure, CallId, CollectFailure, Millis, Record, RequestToken, StoredJob};
use super::peers::Peers;
use finish::Farewells;
use job::Job;
use loss::Keep;
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

    /// A connection opened, or this node found itself.
    pub(super) fn on_connected(&mut self, cx: &mut Cx, peers: &Peers, peer: PeerId) {
        self.watch.on_connected(cx, &peer);
        for id in self.watch.jobs_of(&peer) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.welcome_back(cx, peer);
                job.ask_again(cx, peers, peer);
                let now = cx.now;
                let link = job.link(peer);
                link.reconsider(now, true);
                link.notices_ms = now;
                if let Some(offer) = link.offer.as_mut().filter(|offer| offer.call.is_none()) {
                    offer.again_ms = now;
                }
            }
        }
        self.farewells.on_connected(cx, peers, peer);
        self.look_at_all(peer);
    }

    /// The last connection closed.
    pub(super) fn on_disconnected(&mut self, cx: &mut Cx, peers: &mut Peers, peer: PeerId) {
        if self.watch.on_disconnected(cx, &peer) {
            peers.redial(cx, peer);
        }
    }

    /// A peer told what it has. `news` is whether that differs from before.
    pub(super) fn on_advert(&mut self, cx: &Cx, peer: PeerId, news: bool) {
        for job in self.jobs.values_mut() {
            if let Some(link) = job.links.get_mut(&peer) {
                link.reconsider(cx.now, news);
            }
        }
        self.look_at_all(peer);
    }

    /// A provider reports.
    pub(super) fn on_report(
        &mut self,
        cx: &mut Cx,
        peer: PeerId,
        token: RequestToken,
        report: Report,
    ) {
        let job = self.jobs.get_mut(&report.job);
        let job = job.filter(|job| job.links.contains_key(&peer));
        let Some(job) = job.filter(|_| report.events.len() <= MAX_BATCH) else {
            // Also what tells a provider that a job is over, should nothing else have told it.
            cx.counters().foreign_reports += 1;
            cx.respond(token, TaskResponse::UnknownJob);
            return;
        };
        let through = report
            .first
            .saturating_add(report.events.len() as u64)
            .saturating_sub(1);
        let (id, waiting) = (job.id, job.pending());
        job.on_report(cx, peer, report);
        let came_back = job.pending() > waiting;
        cx.respond(token, TaskResponse::Reported { through });
        self.look_at_peer(id, peer);
        if came_back {
            self.look_at(id);
        }
    }

    /// A provider stops: what it has goes elsewhere at once.
    pub(super) fn on_goodbye(&mut self, cx: &mut Cx, peer: PeerId) {
        self.watch.on_goodbye(&peer);
        for id in self.watch.jobs_of(&peer) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.lose(cx, peer, Keep::Nothing, false);
                let (config, now) = (&cx.config.submit, cx.now);
                let why = p2pnode_protocol::message::Refusal::Stopping.to_string();
                job.link(peer).rest(config, now, why);
                self.look_at(id);
            }
        }
    }

    /// A call was answered, or not.
    pub(super) fn on_response(
        &mut self,
        cx: &mut Cx,
        peers: &Peers,
        peer: PeerId,
        call: CallId,
        kind: CallKind,
        response: Result<TaskResponse, CallFailure>,
    ) {
        if response.is_ok() && self.watch.on_heard(cx, &peer) {
            self.on_connected(cx, peers, peer);
        }
        match kind {
            CallKind::Offer(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.on_offer_answer(cx, peer, call, response);
                    self.look_at(id);
                }
            }
            CallKind::Heartbeat(named) => {
                self.watch.on_heartbeat_answered(cx, &peer, call);
                if let Ok(TaskResponse::Heartbeat { unknown }) = response {
                    self.on_unknown(cx, peer, &named, &unknown);
                }
            }
            CallKind::Cancel(id) | CallKind::Collected(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.on_notice_answer(cx, peer, call, &response);
                    self.look_at_peer(id, peer);
                }
            }
            CallKind::Close(id) => self.farewells.on_answer(cx, id, peer, &response),
            CallKind::Report(_) | CallKind::Goodbye => {}
        }
    }

    /// The provider does not have these jobs (any more), as far as a heartbeat asked.
    fn on_unknown(&mut self, cx: &mut Cx, peer: PeerId, named: &[(JobId, u64)], unknown: &[JobId]) {
        let unknown: BTreeSet<&JobId> = unknown.iter().collect();
        for (id, epoch) in named.iter().filter(|(id, _)| unknown.contains(id)) {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            // It may have taken new tasks after the heartbeat was sent.
            if job
                .links
                .get(&peer)
                .is_some_and(|link| link.epoch == *epoch)
            {
                job.lose(cx, peer, Keep::Offer, false);
                self.look_at(*id);
            }
        }
    }

    /// Outputs came, or cannot be had.
    pub(super) fn on_collected(
        &mut self,
        cx: &mut Cx,
        attempt: AttemptKey,
        result: Result<u64, CollectFailure>,
    ) {
        let id = attempt.task.job;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let waiting = job.pending();
        let peer = job.on_collected(cx, attempt, result);
        let came_back = job.pending() > waiting;
        if let Some(peer) = peer {
            self.look_at_peer(id, peer);
        }
        if came_back {
            self.look_at(id);
        }
    }

    /// A deadline of a provider.
    pub(super) fn on_provider_deadline(&mut self, cx: &mut Cx, peer: PeerId) {
        if self.watch.on_deadline(cx, &peer) {
            tracing::warn!(%peer, "provider is lost");
            for id in self.watch.jobs_of(&peer) {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.lose(cx, peer, Keep::Nothing, true);
                    self.look_at(id);
                }
            }
        }
        if self.watch.is_beat_due(cx.now, &peer) {
            let jobs = self.watch.jobs_of(&peer);
            let renewals = jobs.into_iter().map(|id| Renewal {
                job: id,
                epoch: self.epoch(id, &peer),
            });
            let renewals = renewals.collect();
            self.watch.beat(cx, peer, renewals);
        } else {
            self.watch.arm(cx, &peer);
        }
    }

    fn epoch(&self, id: JobId, peer: &PeerId) -> u64 {
        let link = self.jobs.get(&id).and_then(|job| job.links.get(peer));
        link.map_or(0, |link| link.epoch)
    }

    /// A deadline of what a job has to say to a provider, or of the job itself.
    pub(super) fn on_job_deadline(&mut self, id: JobId, peer: Option<PeerId>) {
        match peer {
            Some(peer) => self.look_at_peer(id, peer),
            None => self.look_at(id),
        }
    }

    /// It is time to tell a provider again that a job is over.
    pub(super) fn on_close_deadline(
        &mut self,
        cx: &mut Cx,
        peers: &Peers,
        id: JobId,
        peer: PeerId,
    ) {
        self.farewells.tell(cx, peers, id, peer);
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
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            if let Some(state) = job.verdict() {
                self.end(cx, peers, id, state);
                continue;
            }
            for peer in &dirty.peers {
                job.tend(cx, peers, &self.watch, *peer);
            }
            if dirty.all {
                let linked: Vec<PeerId> = job.links.keys().copied().collect();
                for peer in linked {
                    job.tend(cx, peers, &self.watch, peer);
                }
            }
            if stopping {
                continue;
            }
            for peer in dirty.peers {
                job.place_at(cx, peers, &mut self.watch, peer);
            }
            if dirty.all {
                job.place_all(cx, peers, &mut self.watch);
            }
            if job.on_idle(cx, peers, &mut self.watch) {
                self.end(cx, peers, id, JobState::Failed);
            }
        }
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

    /// Providers of running jobs.
    pub(super) fn providers(&self) -> BTreeSet<PeerId> {
        self.jobs
            .values()
            .flat_map(|job| job.links.iter().filter(|(_, link)| link.used))
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// Whether nothing is on its way about jobs that are over.
    pub(super) fn has_said_farewell(&self) -> bool {
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
    pub(super) fn job(&self, id: JobId) -> Option<JobInfo> {
        self.find(id).map(Job::info)
    }

    /// Ids of all jobs, newest first.
    pub(super) fn job_ids(&self) -> Vec<JobId> {
        let mut ids: Vec<(Millis, JobId)> =
            self.all().map(|job| (job.created_ms, job.id)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Tasks of a job, counted through all its steps.
    pub(super) fn tasks(&self, id: JobId, range: Range<u32>) -> Vec<TaskInfo> {
        self.find(id).map_or_else(Vec::new, |job| job.tasks(range))
    }

    /// Tasks of running jobs that are not final.
    pub(super) fn open_tasks(&self) -> u64 {
        let open = |job: &Job| {
            let tasks = job.steps.iter().map(|step| u64::from(step.tasks.open()));
            tasks.sum::<u64>()
        };
        self.jobs.values().map(open).sum()
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
