//! Which waiting task gets the next free slot.
//!
//! Jobs take turns: each that has a task ready stands in a ring, and gets one slot a round. A job whose
//! tasks are too large for what is free is passed over, but not for ever: after
//! [`crate::core::config::HostConfig::passed_over_ms`] nothing else starts until it fits.

use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::offer::names_registry;
use p2pnode_protocol::task::{Failure, FailureKind, Program};

use super::Host;
use super::job::{Attempt, Environment, Killed};
use crate::core::desk::Cx;
use crate::core::io::{Effect, HostedJob, Leave, RunKey, RunLimits};

/// What came of one job's turn.
enum Turn {
    /// One of its tasks runs.
    Started,
    /// Nothing of it is ready.
    Idle,
    /// Its next task does not fit.
    Passed,
    /// Its next task does not fit, and has waited long enough that the others wait with it.
    Reserves,
}

impl Host {
    /// The job may have something ready.
    pub(super) fn wake_job(&mut self, hosted: HostedJob) {
        if let Some(job) = self.jobs.get_mut(&hosted)
            && !job.in_ring
            && job.next_step().is_some()
        {
            job.in_ring = true;
            self.ring.push_back(hosted);
        }
    }

    /// Fills free slots.
    pub(super) fn schedule(&mut self, cx: &mut Cx) {
        let mut passed = 0;
        while passed < self.ring.len() && !self.stopping {
            let Some(hosted) = self.ring.pop_front() else {
                return;
            };
            match self.turn(cx, hosted) {
                Turn::Started => {
                    self.ring.push_back(hosted);
                    passed = 0;
                }
                Turn::Idle => {
                    if let Some(job) = self.jobs.get_mut(&hosted) {
                        job.in_ring = false;
                    }
                }
                Turn::Passed => {
                    self.ring.push_back(hosted);
                    passed += 1;
                }
                Turn::Reserves => {
                    self.ring.push_front(hosted);
                    return;
                }
            }
        }
    }

    fn turn(&mut self, cx: &mut Cx, hosted: HostedJob) -> Turn {
        let max_running = self.max_running(cx);
        let is_own = hosted.submitter == cx.config.me;
        let limits = self
            .rules()
            .map_or_else(RunLimits::default, |rules| RunLimits {
                max_ms: rules.max_task_ms.filter(|_| !is_own),
                sandbox: rules.runtime.clone(),
            });
        let Some(job) = self.jobs.get(&hosted) else {
            return Turn::Idle;
        };
        let Some(step) = job.next_step() else {
            return Turn::Idle;
        };
        let Some(template) = job.steps.get(&step).map(|step| step.template.clone()) else {
            return Turn::Idle;
        };
        // It was permitted when it came, which may be long ago.
        if let Some(why) = self.not_permitted(cx, &hosted.submitter, &template) {
            let dropped = self.drop_waiting(cx, hosted, |task| task.step != step);
            let failure = Failure::new(FailureKind::KilledByOwner, why);
            self.fail_all(cx, hosted, dropped, &failure);
            // Of its steps, that is: each time one more has nothing that waits.
            return self.turn(cx, hosted);
        }
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return Turn::Idle;
        };
        let room = self.ledger.runs() < max_running;
        let taken = room.then(|| self.ledger.take(&template.resources));
        let gpus = match taken {
            Some(Ok(gpus)) => gpus,
            _ => {
                let since = *job.passed_over_ms.get_or_insert(cx.now);
                let long = cx.now >= since.saturating_add(cx.config.host.passed_over_ms);
                return if long { Turn::Reserves } else { Turn::Passed };
            }
        };
        let queued = job.dequeue(step);
        if queued.is_none() || cx.config.faults.slot_given_twice {
            self.ledger.put_back(&template.resources, &gpus);
        }
        job.passed_over_ms = None;
        let Some(queued) = queued else {
            return Turn::Idle;
        };
        self.queued -= 1;
        job.running += 1;
        let running = Attempt::Running {
            gpus: gpus.clone(),
            killed: Killed::No,
        };
        job.attempts.insert(queued.task, running);
        cx.out.push(Effect::Run {
            run: RunKey::of(hosted, queued.task),
            template,
            assignment: queued.assignment,
            gpus,
            limits,
        });
        Turn::Started
    }

    /// Asks for the environments of steps that have tasks waiting.
    pub(super) fn prepare(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let is_own = hosted.submitter == cx.config.me;
        let rules = self.rules();
        let max_task_ms = rules.and_then(|rules| rules.max_task_ms);
        let images = rules.map(|rules| rules.images.clone()).unwrap_or_default();
        // Pulling is a way into this network: only where its owner meant it.
        let is_meant = |program: &Program| match program {
            Program::Image { reference } => names_registry(&images, reference),
            _ => false,
        };
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        for step in job.steps.values_mut() {
            if step.environment == Environment::Absent && !step.queue.is_empty() {
                step.environment = Environment::Preparing;
                step.making = step.making.wrapping_add(1);
                // A build runs what its submitter wrote, as a task does.
                let is_build = matches!(step.template.program, Program::Build { .. });
                cx.out.push(Effect::Prepare {
                    hosted,
                    template: step.template.clone(),
                    making: step.making,
                    leave: Leave {
                        max_ms: max_task_ms.filter(|_| is_build && !is_own),
                        local_registry: is_own || is_meant(&step.template.program),
                    },
                });
            }
        }
    }

    /// Kills runs; each still ends by itself.
    pub(super) fn kill(
        cx: &mut Cx,
        hosted: HostedJob,
        tasks: Vec<TaskRef>,
        kind: FailureKind,
        why: &str,
    ) {
        for task in tasks {
            cx.out.push(Effect::Kill {
                run: RunKey::of(hosted, task),
                why: Failure::new(kind, why),
            });
        }
    }
}
