//! Sending away what is here and is not wanted any more, with a failure that says why.
//!
//! What waits is asked about again whenever the owner says something new, when a permission ends, and
//! before each task begins, so that nothing begins under a permission that is gone. Whoever drops waiting
//! tasks does it by [`Host::drop_waiting`], which also stops the making of environments that nobody
//! waits for.

use std::collections::BTreeMap;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::id::StepIndex;
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::offer::OnClose;
use p2pnode_protocol::task::{Failure, FailureKind, TaskTemplate};

use super::access::Standing;
use super::charge::owner;
use super::job::{Environment, Killed};
use super::{Host, wishes};
use crate::core::desk::{Cx, Timer};
use crate::core::io::{Effect, HostedJob};

impl Host {
    /// Takes tasks that `keep` does not want out of a job's queue and returns them.
    pub(super) fn drop_waiting(
        &mut self,
        cx: &mut Cx,
        hosted: HostedJob,
        keep: impl FnMut(TaskRef) -> bool,
    ) -> Vec<TaskRef> {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return Vec::new();
        };
        let dropped = job.drop_queued(keep);
        self.queued -= dropped.len() as u32;
        for (index, step) in &mut job.steps {
            if step.environment == Environment::Preparing && step.queue.is_empty() {
                step.environment = Environment::Absent;
                step.progress = None;
                cx.out.push(Effect::StopPreparing {
                    hosted,
                    step: *index,
                });
            }
        }
        dropped
    }

    /// Why no task of this template may begin for this submitter, as the owner's rules and permissions
    /// are now; nothing when it may.
    pub(super) fn not_permitted(
        &self,
        cx: &Cx,
        submitter: &PeerId,
        template: &TaskTemplate,
    ) -> Option<String> {
        if *submitter == cx.config.me {
            return None;
        }
        if self.denies(cx.config, cx.now, submitter) {
            return Some(format!("{} does not allow this submitter", owner(cx)));
        }
        if self.access.standing(submitter, cx.now) == Standing::Expired {
            return Some(format!(
                "the time that {} allowed this submitter is over",
                owner(cx)
            ));
        }
        let rules = &self.terms.as_ref()?.rules;
        wishes::check(rules, self.access.said(submitter), template).err()
    }

    /// Sends away what the owner does not want here any more: jobs of peers that are denied, and waiting
    /// tasks that may not begin or do not fit into what is offered.
    pub(super) fn evict(&mut self, cx: &mut Cx) {
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            let Some(job) = self.jobs.get(&hosted) else {
                continue;
            };
            let whys = job.steps.iter().filter_map(|(index, step)| {
                let template = &step.template;
                let why = self.not_permitted(cx, &hosted.submitter, template);
                let fits = self.ledger.total().check(&template.resources).is_ok();
                let less = || format!("{} offers less now than the task needs", owner(cx));
                Some((*index, why.or_else(|| (!fits).then(less))?))
            });
            let whys: BTreeMap<StepIndex, String> = whys.collect();
            if self.denies(cx.config, cx.now, &hosted.submitter)
                && let Some(job) = self.jobs.get_mut(&hosted)
            {
                let to_kill = job.kill_all(Killed::No);
                let why = format!("{} does not allow this submitter any more", owner(cx));
                Self::kill(cx, hosted, to_kill, FailureKind::KilledByOwner, &why);
            }
            for (index, why) in whys {
                let dropped = self.drop_waiting(cx, hosted, |task| task.step != index);
                let failure = Failure::new(FailureKind::KilledByOwner, why);
                self.fail_all(cx, hosted, dropped, &failure);
            }
        }
    }

    /// Gives back what waits of others' jobs, and stops what runs when the owner wants that.
    pub(super) fn send_away(&mut self, cx: &mut Cx, why: &str) {
        let on_close = self.terms.as_ref().map(|terms| terms.rules.on_close);
        let others = self.jobs.keys().filter(|job| job.submitter != cx.config.me);
        for hosted in others.copied().collect::<Vec<_>>() {
            let dropped = self.drop_waiting(cx, hosted, |_| false);
            if on_close == Some(OnClose::Stop)
                && let Some(job) = self.jobs.get_mut(&hosted)
            {
                let to_kill = job.kill_all(Killed::No);
                Self::kill(cx, hosted, to_kill, FailureKind::KilledByOwner, why);
            }
            let failure = Failure::new(FailureKind::KilledByOwner, why);
            self.fail_all(cx, hosted, dropped, &failure);
        }
    }

    /// A permission ended.
    pub(in crate::core) fn on_permission_ended(&mut self, cx: &mut Cx) {
        self.evict(cx);
        self.wake_at_next_end(cx);
    }

    /// Wakes the node when the next permission ends.
    pub(super) fn wake_at_next_end(&self, cx: &mut Cx) {
        match self.access.next_end(cx.now) {
            Some(at) => cx.set(Timer::Permission, at),
            None => cx.clear(Timer::Permission),
        }
    }
}
