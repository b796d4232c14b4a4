//! A peer that means no good: it says whatever it likes to whomever it likes, under its own name.
//!
//! It submits jobs and is never heard of again, reports ends of tasks that it never had, cancels jobs
//! of others, and answers calls with nonsense. None of that may change what honest nodes do for one
//! another, nor stay behind.

use p2pnode_node::core::io::{CallFailure, CallId, Input};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::{
    MAX_BATCH, Offer, OfferReply, Phase, Renewal, Report, ReportEvent, TaskRef, TaskRequest,
    TaskResponse,
};
use p2pnode_protocol::task::{Assignment, Outcome, Usage};

use crate::fixture;
use crate::rng::Rng;
use crate::schedule::KEEP_MS;
use crate::world::{Asked, Broken, Happening, World};

/// The stranger's number, far from those of nodes.
pub const STRANGER: usize = 250;

/// Its name.
pub fn name() -> PeerId {
    fixture::peer(STRANGER)
}

fn some_job(rng: &mut Rng) -> p2pnode_protocol::JobId {
    fixture::job_id(rng.range(1, 4))
}

fn some_task(rng: &mut Rng) -> TaskRef {
    TaskRef {
        step: rng.range(0, 2) as u16,
        index: rng.range(0, 16) as u32,
        attempt: rng.range(0, 3) as u32,
    }
}

fn some_tasks(rng: &mut Rng) -> Vec<TaskRef> {
    let many = if rng.chance(20) { MAX_BATCH + 1 } else { 3 };
    (0..many).map(|_| some_task(rng)).collect()
}

fn some_event(rng: &mut Rng) -> ReportEvent {
    match rng.range(0, 3) {
        0 => ReportEvent::Preparing {
            step: 9,
            phase: Phase::Ready,
            done: u64::MAX,
            total: 0,
        },
        1 => ReportEvent::Started(some_task(rng)),
        _ => ReportEvent::Finished {
            task: some_task(rng),
            outcome: Outcome::Succeeded,
            usage: Usage {
                wall_us: u64::MAX,
                cpu_us: u64::MAX,
                memory_peak: u64::MAX,
                network_bytes: u64::MAX,
                energy_mj: Some(u64::MAX),
            },
            outputs: rng.chance(500).then(|| fixture::blob(rng.next())),
            log_bytes: rng.range(0, 1),
        },
    }
}

fn some_offer(rng: &mut Rng) -> Offer {
    let step = rng.range(0, 1) as u16;
    let mut template = fixture::template(step, rng.range(0, 3) as u32, KEEP_MS);
    if rng.chance(100) {
        template.keep_ms = u64::MAX;
    }
    let task = |rng: &mut Rng| Assignment {
        index: rng.range(0, 5) as u32,
        attempt: rng.range(0, 3) as u32,
        values: vec![vec!["x".into()]; rng.range(0, 2).min(1) as usize],
        inputs: Vec::new(),
    };
    Offer {
        job: some_job(rng),
        step: rng.range(0, 1) as u16,
        template: rng.chance(700).then(|| Box::new(template)),
        tasks: (0..rng.range(0, 4)).map(|_| task(rng)).collect(),
        login: None,
    }
}

fn some_request(rng: &mut Rng) -> TaskRequest {
    let job = some_job(rng);
    match rng.range(0, 9) {
        0..=3 => TaskRequest::Offer(some_offer(rng)),
        4 => TaskRequest::Heartbeat {
            jobs: vec![Renewal {
                job,
                epoch: rng.range(0, 2),
            }],
        },
        5 => TaskRequest::Cancel {
            job,
            tasks: rng.chance(700).then(|| some_tasks(rng)),
        },
        6 => TaskRequest::Collected {
            job,
            tasks: some_tasks(rng),
        },
        7 => TaskRequest::Release { job },
        8 => TaskRequest::Goodbye,
        _ => TaskRequest::Report(Report {
            job,
            first: if rng.chance(100) {
                u64::MAX
            } else {
                rng.range(0, 9)
            },
            events: (0..rng.range(0, 5)).map(|_| some_event(rng)).collect(),
            slots: u32::MAX,
        }),
    }
}

fn some_answer(rng: &mut Rng) -> Result<TaskResponse, CallFailure> {
    match rng.range(0, 6) {
        0 => Err(CallFailure::TimedOut),
        1 => Err(CallFailure::Protocol),
        2 => Ok(TaskResponse::Busy),
        3 => Ok(TaskResponse::Reported {
            through: rng.next(),
        }),
        4 => Ok(TaskResponse::UnknownJob),
        5 => Ok(TaskResponse::Heartbeat {
            unknown: vec![some_job(rng)],
        }),
        _ => Ok(TaskResponse::Offer(OfferReply {
            accepted: u32::MAX,
            refusal: None,
            slots: u32::MAX,
            epoch: rng.next(),
        })),
    }
}

impl World {
    /// Says something to a node.
    pub fn meddle(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].core.is_none() {
            return Ok(());
        }
        match self.rng.range(0, 20) {
            0 => return self.input(node, Input::Connected(name())),
            1 => return self.input(node, Input::Disconnected(name())),
            _ => {}
        }
        let request = some_request(&mut self.rng);
        self.next_token += 1;
        let token = self.next_token;
        let asked = Asked {
            by: STRANGER,
            life: 0,
            call: 0,
            request: request.clone(),
        };
        self.asked.insert(token, asked);
        let peer = name();
        self.input(
            node,
            Input::Request {
                peer,
                token,
                request,
            },
        )?;
        if self.asked.remove(&token).is_some() && self.nodes[node].core.is_some() {
            return Err("the stranger was not answered".to_owned());
        }
        Ok(())
    }

    /// Answers a call.
    pub fn mislead(&mut self, from: usize, call: CallId) {
        let life = self.nodes[from].life;
        // At the end it is gone, as everyone who means no good is some day.
        let result = if self.is_faulty() {
            some_answer(&mut self.rng)
        } else {
            Err(CallFailure::Unreachable)
        };
        let after = self.rng.range(1, 10_000);
        self.later(
            after,
            Happening::Answer {
                to: from,
                life,
                call,
                result,
            },
        );
    }
}
