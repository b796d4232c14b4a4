//! This node as a provider: what is offered, who may use it, whose jobs are here.
//!
//! [`Host`] owns the ledger and the hosted jobs. Everything that a submitter can make it hold is
//! bounded, see [`super::config::HostConfig`]. It must never look at this node's own jobs as a
//! submitter: its own node is a submitter like any other, only always allowed.
//!
//! Handlers note which jobs have something to report; [`Host::settle`] sends it at the end of an
//! input.

mod access;
mod admission;
mod charge;
mod eviction;
mod gate;
mod job;
mod lease;
mod ledger;
mod outbox;
mod owner;
mod reports;
mod restore;
mod runs;
mod schedule;
mod wishes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use p2pnode_protocol::message::{
    MAX_BATCH, Offer, OfferReply, Refusal, TaskRef, TaskRequest, TaskResponse,
};
use p2pnode_protocol::task::RuntimeKind;
use p2pnode_protocol::{Capacity, JobId, PeerId};

use super::desk::{Cx, Timer};
use super::io::{Breach, HostedJob, OfferTerms, Record, RuntimeState};
use access::Access;
use gate::Gate;
use job::{Hosted, HostedStep, Phase};
use ledger::Ledger;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Host {
    terms: Option<OfferTerms>,
    access: Access,
    /// Peers that hold the key of a private network, and so may run tasks here.
    members: BTreeSet<PeerId>,
    gate: Gate,
    /// `None` until the driver has looked.
    runtimes: Option<BTreeMap<RuntimeKind, RuntimeState>>,
    ledger: Ledger,
    jobs: BTreeMap<HostedJob, Hosted>,
    /// Jobs with something ready to run, in the order of their turns.
    ring: VecDeque<HostedJob>,
    /// Tasks that wait, over all jobs.
    queued: u32,
    to_report: BTreeSet<HostedJob>,
    epoch: u64,
    stopping: bool,
    /// What is here is finished, and nothing new is taken.
    draining: bool,
    /// What is free while nothing may be taken.
    nothing: Capacity,
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
        if too_long(&request) {
            cx.blame(submitter, Breach::TooLong);
            return TaskResponse::Done;
        }
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
        let offered = offer.tasks.len() as u32;
        let mut refused = None;
        if let Err(refusal) = self.admit(cx, hosted, &offer) {
            let here = self.here_already(cx, hosted, &offer, &refusal);
            if here == 0 {
                if matches!(refusal, Refusal::NotAllowed { .. }) {
                    self.note_request(cx, submitter, &offer);
                }
                return self.reply(cx, hosted, offer.step, 0, Some(refusal));
            }
            // Nothing of the rest is looked at: neither the tasks nor another template.
            offer.tasks.truncate(here);
            offer.template = None;
            refused = Some(refusal);
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
        let step = offer.step;
        let named = offer.tasks.iter().map(|task| TaskRef {
            step,
            index: task.index,
            attempt: task.attempt,
        });
        let named: Vec<TaskRef> = named.collect();
        self.tell_again(cx, hosted, &named);
        let before = self.queued;
        let taken = self.take_in(cx, hosted, offer);
        if let Some(grant) = self.access.spend(&submitter, self.queued - before) {
            let peer = submitter;
            let grant = Some(grant);
            cx.persist(Record::Allowed { peer, grant });
        }
        self.prepare(cx, hosted);
        self.wake_job(hosted);
        let refusal = (taken < offered).then(|| {
            refused.unwrap_or(match self.draining {
                true => Refusal::Draining,
                false => Refusal::Full,
            })
        });
        let reply = self.reply(cx, hosted, step, taken, refusal);
        self.schedule(cx);
        reply
    }

    /// How many tasks of a refused offer, from the first one on, are here already and stay: what was taken
    /// while it was permitted is not refused when its submitter, who lost sight of this node for a while,
    /// names it again. A gate that closed since, a permission that is used up, a drain: all of these are for
    /// what is new. Who is denied, or breaks the rules, keeps nothing by asking.
    fn here_already(&self, cx: &Cx, hosted: HostedJob, offer: &Offer, refusal: &Refusal) -> usize {
        let for_all = matches!(
            refusal,
            Refusal::Stopping | Refusal::Invalid { .. } | Refusal::TemplateNeeded
        );
        let job = self.jobs.get(&hosted);
        let Some(job) = job.filter(|job| job.steps.contains_key(&offer.step)) else {
            return 0;
        };
        if for_all || self.denies(cx.config, cx.now, &hosted.submitter) {
            return 0;
        }
        let named = offer.tasks.iter().map(|task| TaskRef {
            step: offer.step,
            index: task.index,
            attempt: task.attempt,
        });
        named
            .take_while(|task| job.attempts.contains_key(task))
            .count()
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
        job.steps.insert(step, HostedStep::new(template));
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

    /// Whether a step of a job is hosted here.
    pub(super) fn hosts_step(&self, hosted: &HostedJob, step: u16) -> bool {
        let job = self.jobs.get(hosted);
        job.is_some_and(|job| job.steps.contains_key(&step))
    }

    /// Hosted jobs here.
    pub(super) fn hosted_jobs(&self) -> Vec<HostedJob> {
        self.jobs.keys().copied().collect()
    }
}

/// Whether a list is longer than the protocol allows. Offers are refused with a reason instead.
fn too_long(request: &TaskRequest) -> bool {
    match request {
        TaskRequest::Heartbeat { jobs } => jobs.len() > MAX_BATCH,
        TaskRequest::Cancel {
            tasks: Some(tasks), ..
        }
        | TaskRequest::Collected { tasks, .. } => tasks.len() > MAX_BATCH,
        _ => false,
    }
}
