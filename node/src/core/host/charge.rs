//! The owner in charge: killing what is here, and draining the node.
//!
//! What is killed ends with a failure that says who decided and why, and counts as none of the task's
//! tries, so it runs elsewhere. A node that drains keeps what runs, sends back what waits, and takes
//! nothing new; that is stored, so that a restart does not end it. Nothing here changes who is allowed.

use p2pnode_protocol::message::{Phase, TaskRef};
use p2pnode_protocol::task::{Failure, FailureKind};

use super::Host;
use super::job::{Attempt, Environment, Killed};
use crate::core::desk::Cx;
use crate::core::io::{Effect, HostedJob, Meant, Record};

/// The owner's reason, in characters at most: a few lines of text.
const MAX_REASON: usize = 500;

/// The owner of this node, in words for a submitter.
pub(super) fn owner(cx: &Cx) -> String {
    match cx.config.name.as_str() {
        "" => "the owner of the provider".to_owned(),
        name => format!("the owner of {name}"),
    }
}

/// Why a killed task ended, in words for its submitter.
fn killed_by(cx: &Cx, reason: &str) -> String {
    let shown = reason.chars().filter(|letter| !letter.is_control());
    let shown: String = shown.take(MAX_REASON).collect();
    let owner = owner(cx);
    match shown.trim() {
        "" => format!("killed by {owner}, who gave no reason"),
        reason => format!("killed by {owner}: {reason}"),
    }
}

impl Host {
    /// The owner kills what `meant` means.
    pub(in crate::core) fn on_kill(&mut self, cx: &mut Cx, meant: &Meant, reason: &str) {
        let why = killed_by(cx, reason);
        let all = self.jobs.keys().filter(|hosted| meant.has(hosted));
        let all: Vec<HostedJob> = all.copied().collect();
        for hosted in all {
            let dropped = self.drop_waiting(cx, hosted, |task| !meant.has_task(&hosted, task));
            let Some(job) = self.jobs.get(&hosted) else {
                continue;
            };
            let runs = job.attempts.iter().filter(|(task, attempt)| {
                // How the others end is decided already, and nobody hears of it.
                let counts = matches!(
                    attempt,
                    Attempt::Running {
                        killed: Killed::No,
                        ..
                    }
                );
                counts && meant.has_task(&hosted, **task)
            });
            let to_kill: Vec<TaskRef> = runs.map(|(task, _)| *task).collect();
            tracing::info!(
                job = %hosted.job, submitter = %hosted.submitter, running = to_kill.len(),
                waiting = dropped.len(), "the owner kills tasks"
            );
            let failure = Failure::new(FailureKind::KilledByOwner, why.clone());
            Self::kill(cx, hosted, to_kill, failure.kind, &failure.message);
            self.fail_all(cx, hosted, dropped, &failure);
        }
        self.schedule(cx);
    }

    /// The owner drains the node, or no longer does.
    pub(in crate::core) fn on_drain(&mut self, cx: &mut Cx, on: bool) {
        self.set_draining(cx, on);
        if on {
            self.send_back(cx);
        }
        // What is free differs now; and a new advert is what makes a peer ask again.
        cx.out.push(Effect::Advertise);
    }

    /// Stores it when it changes.
    pub(super) fn set_draining(&mut self, cx: &mut Cx, on: bool) {
        if self.draining != on {
            self.draining = on;
            cx.persist(Record::Draining(on));
            tracing::info!(on, "draining");
        }
    }

    /// Every waiting task goes back to its submitter.
    fn send_back(&mut self, cx: &mut Cx) {
        let why = format!(
            "{} drains it: what had not begun to run goes elsewhere",
            owner(cx)
        );
        let failure = Failure::new(FailureKind::ProviderStopping, why);
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            let dropped = self.drop_waiting(cx, hosted, |_| false);
            self.fail_all(cx, hosted, dropped, &failure);
        }
    }

    /// Tells the owner's history of attempts that end without having run.
    pub(super) fn note_unrun(
        &self,
        cx: &mut Cx,
        hosted: HostedJob,
        tasks: &[TaskRef],
        failure: &Failure,
    ) {
        let Some(job) = self.jobs.get(&hosted) else {
            return;
        };
        for (step, held) in &job.steps {
            let of_step: Vec<TaskRef> = tasks
                .iter()
                .filter(|task| task.step == *step)
                .copied()
                .collect();
            if !of_step.is_empty() {
                cx.out.push(Effect::Unrun {
                    hosted,
                    template: held.template.clone(),
                    tasks: of_step,
                    failure: failure.clone(),
                });
            }
        }
    }

    /// Whether the node drains.
    pub(in crate::core) const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Jobs with tasks that wait: their names, how many, and what is done to make an environment of theirs.
    pub(in crate::core) fn waiting(&self) -> Vec<(HostedJob, String, u32, Option<Phase>)> {
        let waiting = self.jobs.iter().filter(|(_, job)| job.queued > 0);
        let named = waiting.map(|(hosted, job)| {
            let step = job.steps.values().next();
            let name = step.map_or_else(String::new, |step| step.template.name.clone());
            let mut making = job.steps.values();
            let making = making.find(|step| step.environment == Environment::Preparing);
            // Nothing was heard of it yet: it begins with what has to be fetched.
            let phase = making.map(|step| step.progress.map_or(Phase::Fetching, |at| at.0));
            (*hosted, name, job.queued, phase)
        });
        named.collect()
    }

    /// Waiting tasks that `meant` means.
    pub(in crate::core) fn waiting_tasks(&self, meant: &Meant) -> u32 {
        let jobs = self.jobs.iter().filter(|(hosted, _)| meant.has(hosted));
        let counts = jobs.map(|(hosted, job)| {
            if !matches!(meant, Meant::Task(..)) {
                return job.queued;
            }
            let waits = |(task, attempt): &(&TaskRef, &Attempt)| {
                matches!(attempt, Attempt::Queued) && meant.has_task(hosted, **task)
            };
            job.attempts.iter().filter(waits).count() as u32
        });
        counts.sum()
    }
}
