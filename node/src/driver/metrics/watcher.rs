//! Counts what goes into the core and what comes out, and times tasks' ways between the two.
//!
//! Called by the driver's loop for each input and effect; it must be quick and must never wait. What it
//! remembers of things under way is bounded: beyond the bounds they are counted and not timed.

use std::collections::HashMap;
use std::time::Instant;

use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{Phase, TaskRef, TaskRequest, TaskResponse};
use p2pnode_protocol::task::Usage;
use p2pnode_protocol::{AttemptKey, JobId, TaskKey};

use super::counted::{Counted, OutcomeLabel, PhaseLabel, ReasonLabel, StateLabel};
use super::names;
use crate::core::io::{Effect, HostedJob, Input, RequestToken, RunEnd, RunKey};

/// Things of each kind that are timed at once: 16 peers with all the tasks that may wait of one.
const MAX_TIMED: usize = 65_536;

/// See the module.
pub(in crate::driver) struct Watcher {
    counted: Counted,
    /// Tasks of offers that are not answered yet.
    asked: HashMap<RequestToken, (HostedJob, Vec<TaskRef>)>,
    /// Tasks that wait for a slot here, and since when.
    queued: HashMap<RunKey, Instant>,
    /// Steps that are made ready here: what is done, since when.
    preparing: HashMap<(HostedJob, u16), (Phase, Instant)>,
    /// Runs whose program has not started yet.
    starting: HashMap<RunKey, Instant>,
    /// Own attempts whose outputs are on their way.
    collecting: HashMap<AttemptKey, Instant>,
}

/// Seconds of a task's counters from whole small units; such numbers are exact up to centuries.
#[allow(clippy::cast_precision_loss)]
fn parts(number: u64, per_unit: u64) -> f64 {
    number as f64 / per_unit as f64
}

impl Watcher {
    pub(super) fn new(counted: Counted) -> Self {
        Self {
            counted,
            asked: HashMap::new(),
            queued: HashMap::new(),
            preparing: HashMap::new(),
            starting: HashMap::new(),
            collecting: HashMap::new(),
        }
    }

    /// Something is about to go into the core.
    pub(in crate::driver) fn on_input(&mut self, input: &Input) {
        match input {
            Input::Request {
                peer,
                token,
                request: TaskRequest::Offer(offer),
            } if self.asked.len() < MAX_TIMED => {
                let named = offer.tasks.iter().map(|task| TaskRef {
                    step: offer.step,
                    index: task.index,
                    attempt: task.attempt,
                });
                let hosted = HostedJob {
                    submitter: *peer,
                    job: offer.job,
                };
                self.asked.insert(*token, (hosted, named.collect()));
            }
            Input::Preparing {
                hosted,
                step,
                phase,
                ..
            } => self.on_preparing((*hosted, *step), *phase),
            Input::Prepared {
                hosted,
                step,
                result,
                ..
            } => self.on_prepared((*hosted, *step), result.is_ok()),
            Input::Started(run) => {
                let since = self.starting.remove(run);
                self.took("inputs", since);
            }
            Input::Ended { run, end } => self.on_ended(run, end),
            Input::Collected { attempt, result } => {
                let since = self.collecting.remove(attempt);
                if let Ok(bytes) = result {
                    self.took("collect", since);
                    self.counted.outputs_received.inc_by(*bytes);
                }
            }
            Input::Served { bytes, .. } => {
                self.counted.inputs_sent.inc_by(*bytes);
            }
            _ => {}
        }
    }

    /// Something came out of the core and is about to be done.
    pub(in crate::driver) fn on_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Respond { token, response } => self.on_answer(*token, response),
            Effect::Prepare {
                hosted, template, ..
            } => {
                let begun = (Phase::Fetching, Instant::now());
                keep(&mut self.preparing, (*hosted, template.step), begun);
            }
            Effect::StopPreparing { hosted, step } => {
                self.preparing.remove(&(*hosted, *step));
            }
            Effect::Run { run, .. } => {
                let since = self.queued.remove(run);
                self.took("queue", since);
                keep(&mut self.starting, *run, Instant::now());
            }
            Effect::Unhost(hosted) => {
                self.preparing.retain(|(of, _), _| of != hosted);
                let is_of = |run: &RunKey| {
                    run.submitter == hosted.submitter && run.attempt.task.job == hosted.job
                };
                self.queued.retain(|run, _| !is_of(run));
                self.starting.retain(|run, _| !is_of(run));
            }
            Effect::Collect { attempt, .. } => {
                keep(&mut self.collecting, *attempt, Instant::now());
            }
            Effect::Forsake(attempt) => {
                self.collecting.remove(attempt);
            }
            Effect::JobOver(job) => self.collecting.retain(|at, _| at.task.job != *job),
            Effect::Emit(event) => self.on_event(event),
            _ => {}
        }
    }

    fn on_answer(&mut self, token: RequestToken, response: &TaskResponse) {
        let asked = self.asked.remove(&token);
        let TaskResponse::Offer(reply) = response else {
            return;
        };
        if let Some(refusal) = &reply.refusal {
            let reason = names::of_refusal(refusal);
            self.counted
                .refusals
                .get_or_create(&ReasonLabel { reason })
                .inc();
        }
        self.counted.accepted.inc_by(reply.accepted.into());
        let Some((hosted, tasks)) = asked else {
            return;
        };
        let now = Instant::now();
        for task in tasks.into_iter().take(reply.accepted as usize) {
            let run = RunKey {
                submitter: hosted.submitter,
                attempt: attempt_of(hosted.job, task),
            };
            keep(&mut self.queued, run, now);
        }
    }

    fn on_preparing(&mut self, step: (HostedJob, u16), phase: Phase) {
        let Some((now, since)) = self.preparing.get_mut(&step) else {
            return;
        };
        if *now != Phase::Fetching || phase == Phase::Fetching {
            return;
        }
        let fetched = std::mem::replace(since, Instant::now());
        *now = phase;
        self.took("fetch", Some(fetched));
    }

    fn on_prepared(&mut self, step: (HostedJob, u16), ready: bool) {
        if let Some((phase, since)) = self.preparing.remove(&step)
            && ready
        {
            let name = match phase {
                Phase::Fetching => "fetch",
                _ => "environment",
            };
            self.took(name, Some(since));
        }
    }

    fn on_ended(&mut self, run: &RunKey, end: &RunEnd) {
        self.starting.remove(run);
        let outcome = names::of_outcome(&end.outcome);
        let counted = &self.counted;
        counted
            .runs_ended
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        let Usage {
            wall_us,
            cpu_us,
            network_bytes,
            energy_mj,
            ..
        } = end.usage;
        counted.run_cpu.inc_by(parts(cpu_us, 1_000_000));
        counted
            .run_energy
            .inc_by(parts(energy_mj.unwrap_or(0), 1_000));
        counted.run_network.inc_by(network_bytes);
        // What never ran took no time.
        if wall_us > 0 {
            self.observe("run", parts(wall_us, 1_000_000));
        }
    }

    fn on_event(&self, event: &Event) {
        let counted = &self.counted;
        match event {
            Event::PeerAnswered {
                refusal: Some(refusal),
                ..
            } => {
                let reason = names::of_refusal(refusal);
                counted
                    .offers_refused
                    .get_or_create(&ReasonLabel { reason })
                    .inc();
            }
            Event::TaskFinished { state, usage, .. } => {
                let state = names::of_end(*state);
                counted
                    .tasks_ended
                    .get_or_create(&StateLabel { state })
                    .inc();
                // What peers say: a number that cannot be true must not swallow all others.
                let most = 1 << 53;
                counted
                    .tasks_cpu
                    .inc_by(parts(usage.cpu_us.min(most), 1_000_000));
                let energy_mj = usage.energy_mj.unwrap_or(0).min(most);
                counted.tasks_energy.inc_by(parts(energy_mj, 1_000));
            }
            Event::TaskMoved { .. } => {
                counted.tasks_moved.inc();
            }
            Event::JobFinished { state, .. } => {
                let state = names::of_job(*state);
                counted
                    .jobs_ended
                    .get_or_create(&StateLabel { state })
                    .inc();
            }
            _ => {}
        }
    }

    fn took(&self, phase: &'static str, since: Option<Instant>) {
        if let Some(since) = since {
            self.observe(phase, since.elapsed().as_secs_f64());
        }
    }

    fn observe(&self, phase: &'static str, seconds: f64) {
        self.counted
            .phases
            .get_or_create(&PhaseLabel { phase })
            .observe(seconds);
    }

    /// How many things are timed now.
    #[cfg(test)]
    pub(super) fn timed(&self) -> usize {
        let Self {
            asked,
            queued,
            preparing,
            starting,
            collecting,
            ..
        } = self;
        asked.len() + queued.len() + preparing.len() + starting.len() + collecting.len()
    }
}

/// A task of a job that was named without it.
const fn attempt_of(job: JobId, task: TaskRef) -> AttemptKey {
    AttemptKey {
        task: TaskKey {
            job,
            step: task.step,
            index: task.index,
        },
        attempt: task.attempt,
    }
}

/// Remembers something, unless there is too much.
fn keep<K: std::hash::Hash + Eq, V>(table: &mut HashMap<K, V>, key: K, value: V) {
    if table.len() < MAX_TIMED {
        table.insert(key, value);
    }
}
