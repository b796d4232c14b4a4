//! One core, with the time and the names that tests need.

use std::sync::Arc;

use p2pnode_protocol::job::JobPlan;
use p2pnode_protocol::message::{
    Offer, OfferReply, Refusal, Report, ReportEvent, TaskRef, TaskRequest, TaskResponse,
};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, RuntimeKind, TaskTemplate, Usage};
use p2pnode_protocol::{Capacity, JobId};

use super::fixture;
use super::seen::Offered;
use crate::core::io::{
    CallFailure, CallId, Effect, HostedJob, Input, OfferTerms, RunEnd, RunKey, RuntimeFeatures,
    Snapshot,
};
use crate::core::{Core, CoreConfig};

/// The job that tests submit.
pub const JOB: u64 = 7;

/// See the module. It is peer 0.
pub struct Rig {
    pub core: Core,
    pub now: u64,
    token: u64,
    issued: u64,
}

impl Rig {
    pub fn new() -> Self {
        Self::wake(Snapshot::default()).0
    }

    /// A node that calls itself so.
    pub fn named(name: &str) -> Self {
        let mut config = CoreConfig::new(fixture::peer(0));
        config.name = name.to_owned();
        Self::start(config, Snapshot::default()).0
    }

    pub fn wake(snapshot: Snapshot) -> (Self, Vec<Effect>) {
        Self::start(CoreConfig::new(fixture::peer(0)), snapshot)
    }

    fn start(config: CoreConfig, snapshot: Snapshot) -> (Self, Vec<Effect>) {
        let now = 1_000_000;
        let (core, effects) = Core::new(config, snapshot, now);
        let rig = Self {
            core,
            now,
            token: 0,
            issued: now,
        };
        (rig, effects)
    }

    /// A node that offers `cpus` to anyone.
    pub fn provider(cpus: u32) -> Self {
        let mut rig = Self::new();
        rig.input(Input::Runtimes(vec![(
            RuntimeKind::Wasm,
            Ok(RuntimeFeatures::default()),
        )]));
        rig.input(Input::Offer(OfferTerms {
            total: fixture::capacity(cpus),
            allow_any: true,
            ..OfferTerms::default()
        }));
        rig
    }

    /// A node that is connected to peers which offer so many CPUs, numbered from 1.
    pub fn submitter(cpus: &[u32]) -> Self {
        let mut rig = Self::new();
        for (before, cpus) in cpus.iter().enumerate() {
            rig.connect(before + 1);
            rig.advert(before + 1, *cpus, *cpus);
        }
        rig
    }

    pub fn input(&mut self, input: Input) -> Vec<Effect> {
        self.core.handle(self.now, input)
    }

    pub fn connect(&mut self, peer: usize) -> Vec<Effect> {
        self.input(Input::Connected(fixture::peer(peer)))
    }

    pub fn disconnect(&mut self, peer: usize) -> Vec<Effect> {
        self.input(Input::Disconnected(fixture::peer(peer)))
    }

    pub fn advert(&mut self, peer: usize, total: u32, free: u32) -> Vec<Effect> {
        let free = if free == 0 {
            Capacity::default()
        } else {
            fixture::capacity(free)
        };
        self.advert_of(peer, fixture::capacity(total), free)
    }

    pub fn advert_of(&mut self, peer: usize, total: Capacity, free: Capacity) -> Vec<Effect> {
        self.issued += 1;
        let advert = fixture::advert(peer, total, free, self.issued);
        self.input(Input::Advert {
            peer: fixture::peer(peer),
            advert: Box::new(advert),
        })
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let until = self.now + ms;
        let mut effects = Vec::new();
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            effects.append(&mut self.input(Input::Tick));
        }
        self.now = until;
        effects
    }

    /// A peer asks; its answer and what else follows.
    pub fn ask(&mut self, peer: usize, request: TaskRequest) -> (TaskResponse, Vec<Effect>) {
        self.token += 1;
        let token = self.token;
        let peer = fixture::peer(peer);
        let effects = self.input(Input::Request {
            peer,
            token,
            request,
        });
        let answers: Vec<&TaskResponse> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Respond {
                    token: of,
                    response,
                } if *of == token => Some(response),
                _ => None,
            })
            .collect();
        assert_eq!(answers.len(), 1, "{effects:?}");
        (answers[0].clone(), effects)
    }

    /// A peer answers.
    pub fn answer(&mut self, peer: usize, call: CallId, response: TaskResponse) -> Vec<Effect> {
        self.input(Input::Response {
            peer: fixture::peer(peer),
            call,
            response: Ok(response),
        })
    }

    /// A peer does not answer.
    pub fn fail(&mut self, peer: usize, call: CallId, failure: CallFailure) -> Vec<Effect> {
        self.input(Input::Response {
            peer: fixture::peer(peer),
            call,
            response: Err(failure),
        })
    }

    pub fn submit(&mut self, plan: JobPlan) -> Vec<Effect> {
        self.input(Input::Submit {
            job: fixture::job_id(JOB),
            plan: Arc::new(plan),
            out: None,
        })
    }

    /// A peer takes all of an offer.
    pub fn take(&mut self, offer: &Offered) -> Vec<Effect> {
        let reply = reply(offer.offer.tasks.len() as u32, None, 1);
        self.input(Input::Response {
            peer: offer.peer,
            call: offer.call,
            response: Ok(reply),
        })
    }

    /// A peer reports one event.
    pub fn report(
        &mut self,
        peer: usize,
        first: u64,
        event: ReportEvent,
    ) -> (TaskResponse, Vec<Effect>) {
        let report = Report {
            job: fixture::job_id(JOB),
            first,
            events: vec![event],
            slots: 1,
        };
        self.ask(peer, TaskRequest::Report(report))
    }

    /// A run ends.
    pub fn end(&mut self, run: RunKey, end: RunEnd) -> Vec<Effect> {
        self.input(Input::Ended { run, end })
    }

    /// The environment of a step of a peer's job is ready.
    pub fn prepared(&mut self, peer: usize, job: u64) -> Vec<Effect> {
        self.input(Input::Prepared {
            hosted: hosted(peer, job),
            step: 0,
            making: 1,
            result: Ok(()),
        })
    }
}

pub fn reply(accepted: u32, refusal: Option<Refusal>, epoch: u64) -> TaskResponse {
    TaskResponse::Offer(OfferReply {
        accepted,
        refusal,
        slots: accepted,
        epoch,
    })
}

/// A job of one step.
pub fn plan(tasks: u64) -> JobPlan {
    let step = fixture::step(fixture::template(0, 1, 60_000), tasks, Vec::new());
    fixture::plan(vec![step], 0, 15_000)
}

pub fn task(index: u32, attempt: u32) -> TaskRef {
    TaskRef {
        step: 0,
        index,
        attempt,
    }
}

pub fn job() -> JobId {
    fixture::job_id(JOB)
}

pub fn hosted(peer: usize, job: u64) -> HostedJob {
    HostedJob {
        submitter: fixture::peer(peer),
        job: fixture::job_id(job),
    }
}

/// An end of an attempt, without outputs.
pub fn finished(task: TaskRef, outcome: Outcome) -> ReportEvent {
    ReportEvent::Finished {
        task,
        outcome,
        usage: Usage::default(),
        outputs: None,
        log_bytes: 0,
    }
}

/// The same with outputs.
pub fn finished_with_outputs(task: TaskRef) -> ReportEvent {
    ReportEvent::Finished {
        task,
        outcome: Outcome::Succeeded,
        usage: Usage::default(),
        outputs: Some(fixture::blob(5)),
        log_bytes: 3,
    }
}

pub fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure::new(kind, "it broke"))
}

pub fn ended(outcome: Outcome) -> RunEnd {
    RunEnd {
        outcome,
        usage: Usage::default(),
        outputs: None,
        log_bytes: 0,
    }
}

/// An offer as a submitter sends it: tasks of a job's only step.
pub fn offer_of(job: u64, template: Option<TaskTemplate>, tasks: &[(u32, u32)]) -> Offer {
    let step = fixture::step(fixture::template(0, 1, 0), 1_000_000, Vec::new());
    Offer {
        job: fixture::job_id(job),
        step: 0,
        template: template.map(Box::new),
        tasks: tasks
            .iter()
            .map(|(index, attempt)| step.assignment(*index, *attempt).unwrap())
            .collect(),
        login: None,
    }
}

/// What a provider says to an offer.
pub fn as_reply(response: &TaskResponse) -> OfferReply {
    match response {
        TaskResponse::Offer(reply) => reply.clone(),
        other => panic!("{other:?}"),
    }
}
