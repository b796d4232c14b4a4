//! This node as a provider: what is offered, who may use it, whose jobs are here.
//!
//! [`Host`] owns the ledger and the hosted jobs. Everything that a submitter can make it hold is
//! bounded, see [`super::config::HostConfig`]. It must never look at this node's own jobs as a
//! submitter: its own node is a submitter like any other, only always allowed.
//!
//! Handlers note which jobs have something to report; [`Host::settle`] sends it at the end of an
//! input.

mod admission;
mod job;
mod lease;
mod ledger;
mod outbox;
mod reports;
mod restore;
mod runs;
mod schedule;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pnode_protocol::message::{Offer, OfferReply, Refusal, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Failure, FailureKind, RuntimeKind};
use p2pnode_protocol::{Capacity, JobId, PeerId};

use super::desk::{Cx, Timer};
use super::io::{Effect, HostedJob, OfferTerms, Record};
use super::peers::offers;
use job::{Hosted, HostedStep, Killed, Phase};
use ledger::Ledger;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Host {
    terms: Option<OfferTerms>,
    allowed: BTreeSet<PeerId>,
    /// `None` until the driver has looked.
    runtimes: Option<BTreeMap<RuntimeKind, Result<(), String>>>,
    ledger: Ledger,
    jobs: BTreeMap<HostedJob, Hosted>,
    /// Jobs with something ready to run, in the order of their turns.
    ring: VecDeque<HostedJob>,
    /// Tasks that wait, over all jobs.
    queued: u32,
    to_report: BTreeSet<HostedJob>,
    epoch: u64,
    stopping: bool,
}

impl Host {
    /// A submitter asks. Returns the answer.
    pub(super) fn on_request(
        &mut self,
        cx: &mut Cx,
        submitter: PeerId,
        request: TaskRequest,
    ) -> TaskResponse {
        let named = |job: JobId| HostedJob { submitter, job };
        match request {
            TaskRequest::Offer(offer) => self.on_offer(cx, submitter, offer),
            TaskRequest::Heartbeat { jobs } => TaskResponse::Heartbeat {
                unknown: self.on_heartbeat(cx, submitter, &jobs),
            },
            TaskRequest::Cancel { job, tasks: None } | TaskRequest::Release { job } => {
                self.dismiss(cx, named(job));
                TaskResponse::Done
            }
            TaskRequest::Cancel {
                job,
                tasks: Some(tasks),
            } => {
                self.renew(cx, named(job));
                self.drop_attempts(cx, named(job), &tasks);
                self.schedule(cx);
                TaskResponse::Done
            }
            TaskRequest::Collected { job, tasks } => {
                self.renew(cx, named(job));
                self.release_outputs(cx, named(job), &tasks);
                TaskResponse::Done
            }
            // For the submitting side; they never come here.
            TaskRequest::Report(_) | TaskRequest::Goodbye => TaskResponse::Done,
        }
    }

    fn on_offer(&mut self, cx: &mut Cx, submitter: PeerId, mut offer: Offer) -> TaskResponse {
        let hosted = HostedJob {
            submitter,
            job: offer.job,
        };
        let leaving = self
            .jobs
            .get(&hosted)
            .is_some_and(|job| job.phase == Phase::Leaving);
        if leaving || self.runtimes.is_none() {
            return TaskResponse::Busy;
        }
        if let Err(refusal) = self.admit(cx, hosted, &offer) {
            return self.reply(cx, hosted, offer.step, 0, Some(refusal));
        }
        if !self.jobs.contains_key(&hosted) {
            let lease_ms = cx.now + cx.config.host.lease_ms;
            let epoch = self.new_epoch(cx.now);
            self.jobs.insert(hosted, Hosted::new(epoch, lease_ms));
            cx.set(Timer::Lease(hosted), lease_ms);
        }
        self.renew(cx, hosted);
        if let Some(template) = offer.template.take() {
            self.learn(cx, hosted, std::sync::Arc::new(*template));
        }
        let (step, offered) = (offer.step, offer.tasks.len() as u32);
        let taken = self.take_in(cx, hosted, offer);
        self.prepare(cx, hosted);
        self.wake_job(hosted);
        let refusal = (taken < offered).then_some(Refusal::Full);
        let reply = self.reply(cx, hosted, step, taken, refusal);
        self.schedule(cx);
        reply
    }

    fn learn(
        &mut self,
        cx: &mut Cx,
        hosted: HostedJob,
        template: std::sync::Arc<p2pnode_protocol::task::TaskTemplate>,
    ) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        let step = template.step;
        if job.steps.contains_key(&step) {
            return;
        }
        cx.persist(Record::Hosted {
            hosted,
            template: template.clone(),
        });
        let held = HostedStep {
            template,
            environment: job::Environment::Absent,
            queue: VecDeque::new(),
        };
        job.steps.insert(step, held);
    }

    fn reply(
        &self,
        cx: &Cx,
        hosted: HostedJob,
        step: u16,
        accepted: u32,
        refusal: Option<Refusal>,
    ) -> TaskResponse {
        let job = self.jobs.get(&hosted);
        let template = job
            .and_then(|job| job.steps.get(&step))
            .map(|step| step.template.clone());
        TaskResponse::Offer(OfferReply {
            accepted,
            refusal,
            slots: template.map_or(0, |template| self.slots(cx, hosted, &template)),
            epoch: job.map_or(0, |job| job.epoch),
        })
    }

    /// The owner offers this from now on.
    pub(super) fn on_terms(&mut self, cx: &mut Cx, terms: OfferTerms) {
        cx.persist(Record::Offer(terms.clone()));
        self.ledger.set_total(terms.total.clone());
        self.terms = Some(terms);
        self.evict(cx);
        self.schedule(cx);
        cx.out.push(Effect::Advertise);
    }

    /// The owner allows a peer, or no longer does.
    pub(super) fn on_allow(&mut self, cx: &mut Cx, peer: PeerId, allowed: bool) {
        cx.persist(Record::Allowed { peer, allowed });
        if allowed {
            self.allowed.insert(peer);
        } else {
            self.allowed.remove(&peer);
            self.evict(cx);
        }
        // A new advert is what makes a peer ask again that was refused before.
        cx.out.push(Effect::Advertise);
    }

    /// Which runtimes work here.
    pub(super) fn on_runtimes(
        &mut self,
        cx: &mut Cx,
        runtimes: Vec<(RuntimeKind, Result<(), String>)>,
    ) {
        let runtimes: BTreeMap<_, _> = runtimes.into_iter().collect();
        if self.runtimes.as_ref() != Some(&runtimes) {
            self.runtimes = Some(runtimes);
            cx.out.push(Effect::Advertise);
        }
    }

    /// Sends away what the owner does not want here any more: jobs of peers that are not allowed, and
    /// waiting tasks that do not fit into what is offered.
    fn evict(&mut self, cx: &mut Cx) {
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            let allowed = self.allows(cx.config.me, &hosted.submitter);
            let Some(job) = self.jobs.get_mut(&hosted) else {
                continue;
            };
            let total = self.ledger.total();
            let fits: BTreeSet<u16> = job
                .steps
                .iter()
                .filter(|(_, step)| total.check(&step.template.resources).is_ok())
                .map(|(index, _)| *index)
                .collect();
            let dropped = job.drop_queued(|task| allowed && fits.contains(&task.step));
            self.queued -= dropped.len() as u32;
            let message = if allowed {
                "the owner offers less than the task needs"
            } else {
                let to_kill = job.kill_all(Killed::No);
                let why = "the owner does not allow this submitter any more";
                Self::kill(cx, hosted, to_kill, FailureKind::KilledByOwner, why);
                why
            };
            let failure = Failure::new(FailureKind::KilledByOwner, message);
            self.fail_all(cx, hosted, dropped, &failure);
        }
    }

    /// The node stops: nothing new is taken, everything is killed.
    pub(super) fn on_stop(&mut self, cx: &mut Cx) {
        self.stopping = true;
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            // What is killed here is reported to nobody, so it is gone, and the epoch says so.
            let epoch = self.new_epoch(cx.now);
            if let Some(job) = self.jobs.get_mut(&hosted) {
                job.epoch = epoch;
                let to_kill = job.kill_all(Killed::Abandoned);
                let why = "the node that ran it stops";
                Self::kill(cx, hosted, to_kill, FailureKind::ProviderStopping, why);
            }
        }
    }

    /// Says what has to be said after an input.
    pub(super) fn settle(&mut self, cx: &mut Cx) {
        self.flush(cx);
    }

    fn jobs_of(&self, submitter: &PeerId) -> impl Iterator<Item = &Hosted> {
        let from = HostedJob {
            submitter: *submitter,
            job: JobId([0; 8]),
        };
        self.jobs
            .range(from..)
            .take_while(move |(hosted, _)| hosted.submitter == from.submitter)
            .map(|(_, job)| job)
    }

    fn hosted_of(&self, submitter: &PeerId) -> Vec<HostedJob> {
        let all = self.jobs.keys();
        all.filter(|hosted| hosted.submitter == *submitter)
            .copied()
            .collect()
    }

    /// Who has jobs here.
    pub(super) fn submitters(&self) -> BTreeSet<PeerId> {
        self.jobs.keys().map(|hosted| hosted.submitter).collect()
    }

    /// Tasks that run.
    pub(super) const fn running(&self) -> u32 {
        self.ledger.runs()
    }

    /// Tasks that wait.
    pub(super) const fn queued(&self) -> u32 {
        self.queued
    }

    /// What is offered; nothing once the node stops.
    pub(super) fn total(&self) -> Capacity {
        if self.stopping {
            return Capacity::default();
        }
        self.ledger.total().clone()
    }

    /// What is free of it.
    pub(super) fn free(&self) -> &Capacity {
        self.ledger.free()
    }

    /// Whether anything is offered.
    pub(super) fn is_offering(&self) -> bool {
        !self.stopping
            && self
                .terms
                .as_ref()
                .is_some_and(|terms| offers(&terms.total))
    }

    /// Whether anyone may run tasks here.
    pub(super) fn allows_any(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.allow_any)
    }

    /// Runtimes that work.
    pub(super) fn working_runtimes(&self) -> Vec<RuntimeKind> {
        let all = self.runtimes.iter().flatten();
        all.filter(|(_, state)| state.is_ok())
            .map(|(kind, _)| *kind)
            .collect()
    }

    /// Peers that were allowed by name.
    pub(super) const fn allowed(&self) -> &BTreeSet<PeerId> {
        &self.allowed
    }

    /// Hosted jobs here.
    pub(super) fn hosted_jobs(&self) -> Vec<HostedJob> {
        self.jobs.keys().copied().collect()
    }
}
