//! What the driver tells of environments and runs.

use std::collections::BTreeSet;

use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::message::{Phase as Progress, ReportEvent, TaskRef};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, Usage};

use super::Host;
use super::job::{Attempt, Environment, Killed, Phase};
use crate::core::desk::Cx;
use crate::core::io::{Effect, HostedJob, Record, RunEnd, RunKey};

/// Why a cancelled attempt failed.
const GIVEN_UP: &str = "its submitter gave this attempt up";

impl Host {
    /// An environment is being made.
    pub(in crate::core) fn on_preparing(
        &mut self,
        hosted: HostedJob,
        step: StepIndex,
        phase: Progress,
        done: u64,
        total: u64,
    ) {
        if let Some(job) = self.jobs.get_mut(&hosted)
            && job.phase == Phase::Live
            && let Some(held) = job.steps.get_mut(&step)
        {
            if held.environment == Environment::Preparing {
                held.progress = Some((phase, done, total));
            }
            let event = ReportEvent::Preparing {
                step,
                phase,
                done,
                total,
            };
            job.outbox.push_preparing(step, event);
            self.to_report.insert(hosted);
        }
    }

    /// An environment is ready, or cannot be had. Then every task that waits for it ends that way; the
    /// next offer tries again.
    pub(in crate::core) fn on_prepared(
        &mut self,
        cx: &mut Cx,
        hosted: HostedJob,
        (step, making): (StepIndex, u32),
        result: Result<(), Failure>,
    ) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        let Some(held) = job.steps.get_mut(&step) else {
            return;
        };
        // One that was stopped may have ended all the same.
        if held.environment != Environment::Preparing || held.making != making {
            return;
        }
        held.progress = None;
        match result {
            Ok(()) => {
                held.environment = Environment::Ready;
                self.wake_job(hosted);
                self.schedule(cx);
            }
            Err(failure) => {
                held.environment = Environment::Absent;
                let dropped = self.drop_waiting(cx, hosted, |task| task.step != step);
                self.fail_all(cx, hosted, dropped, &failure);
            }
        }
    }

    /// Attempts end without having run.
    pub(super) fn fail_all(
        &mut self,
        cx: &mut Cx,
        hosted: HostedJob,
        tasks: Vec<TaskRef>,
        failure: &Failure,
    ) {
        self.note_unrun(cx, hosted, &tasks, failure);
        for task in tasks {
            let end = RunEnd {
                outcome: Outcome::Failed(failure.clone()),
                usage: Usage::default(),
                outputs: None,
                log_bytes: 0,
            };
            self.record_end(cx, hosted, task, end);
        }
    }

    /// A run's process started.
    pub(in crate::core) fn on_started(&mut self, run: RunKey) {
        let (hosted, task) = (run.hosted(), run.task());
        if let Some(job) = self.jobs.get_mut(&hosted)
            && matches!(
                job.attempts.get(&task),
                Some(Attempt::Running {
                    killed: Killed::No,
                    ..
                })
            )
        {
            job.outbox.push_start(task);
            self.to_report.insert(hosted);
        }
    }

    /// A run ended: its slot is free, and its submitter has to know.
    pub(in crate::core) fn on_ended(&mut self, cx: &mut Cx, run: RunKey, end: RunEnd) {
        let (hosted, task) = (run.hosted(), run.task());
        let Some(job) = self.jobs.get_mut(&hosted) else {
            cx.counters().illegal_transitions += 1;
            return;
        };
        let Some(Attempt::Running { .. }) = job.attempts.get(&task) else {
            cx.counters().illegal_transitions += 1;
            tracing::warn!(run = %run.attempt, "a run ended that was not running");
            return;
        };
        let Some(Attempt::Running { gpus, killed }) = job.attempts.remove(&task) else {
            return;
        };
        job.running -= 1;
        if let Some(step) = job.steps.get(&task.step)
            && !cx.config.faults.slot_given_twice
        {
            self.ledger.put_back(&step.template.resources, &gpus);
        }
        let wanted = match killed {
            Killed::No => true,
            Killed::Abandoned => end.outcome == Outcome::Succeeded,
            Killed::Unwanted => false,
        };
        if wanted && job.phase != Phase::Leaving {
            self.record_end(cx, hosted, task, end);
        } else if end.outputs.is_some() {
            cx.out.push(Effect::DropOutputs(run));
        }
        self.leave_if_done(cx, hosted);
        self.schedule(cx);
    }

    /// Stores how an attempt ended, to be reported.
    fn record_end(&mut self, cx: &mut Cx, hosted: HostedJob, task: TaskRef, end: RunEnd) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        let outcome = match end.outcome {
            Outcome::Succeeded => Outcome::Succeeded,
            Outcome::Failed(failure) => {
                Outcome::Failed(Failure::new(failure.kind, failure.message))
            }
        };
        let keeps = end.outputs.is_some() || end.log_bytes > 0;
        let event = ReportEvent::Finished {
            task,
            outcome,
            usage: end.usage,
            outputs: end.outputs,
            log_bytes: end.log_bytes,
        };
        let number = job.outbox.push_end(task, event.clone());
        let done = Attempt::Done {
            acknowledged: false,
            keeps,
            end: None,
            offered_again: false,
        };
        job.attempts.insert(task, done);
        cx.persist(Record::Outbox {
            hosted,
            number,
            event,
        });
        self.to_report.insert(hosted);
    }

    /// The submitter does not want these attempts. Their ends are reported all the same: nothing that
    /// was taken is ever dropped in silence, so a cancel that comes late, from an earlier life of the
    /// submitter, cannot leave it waiting.
    pub(super) fn drop_attempts(&mut self, cx: &mut Cx, hosted: HostedJob, tasks: &[TaskRef]) {
        let unwanted: BTreeSet<TaskRef> = tasks.iter().copied().collect();
        let dropped = self.drop_waiting(cx, hosted, |task| !unwanted.contains(&task));
        let Some(job) = self.jobs.get(&hosted) else {
            return;
        };
        let runs =
            |task: &&TaskRef| matches!(job.attempts.get(task), Some(Attempt::Running { .. }));
        let to_kill = unwanted.iter().filter(runs).copied().collect();
        Self::kill(cx, hosted, to_kill, FailureKind::Cancelled, GIVEN_UP);
        let failure = Failure::new(FailureKind::Cancelled, GIVEN_UP);
        self.fail_all(cx, hosted, dropped, &failure);
        self.release_outputs(cx, hosted, tasks);
    }

    /// The submitter needs nothing more of these attempts.
    pub(super) fn release_outputs(&mut self, cx: &mut Cx, hosted: HostedJob, tasks: &[TaskRef]) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        for task in tasks {
            let Some(Attempt::Done {
                acknowledged,
                keeps,
                ..
            }) = job.attempts.get_mut(task)
            else {
                continue;
            };
            if std::mem::take(keeps) {
                let run = RunKey::of(hosted, *task);
                cx.persist(Record::OutputsDropped(run));
                cx.out.push(Effect::DropOutputs(run));
            }
            if *acknowledged {
                job.attempts.remove(task);
            }
        }
        self.leave_if_done(cx, hosted);
    }
}
