//! How long a hosted job may count on this node, and how it goes.
//!
//! A lease is renewed by whatever its submitter says about the job. When it ends the submitter counts
//! as lost: what runs is killed, what waits is dropped, and what ended well is kept for a time in case
//! the submitter comes back. The epoch changes then, so that a submitter that comes back learns that
//! its other tasks are gone.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::Renewal;
use p2pnode_protocol::task::FailureKind;

use super::Host;
use super::job::{Killed, Phase};
use crate::core::desk::{Cx, Timer};
use crate::core::io::{Effect, HostedJob, Millis, Record};

impl Host {
    /// A number that names a new stretch of keeping tasks: larger than any given before, over
    /// restarts too, because no more than one is used each millisecond in the long run.
    pub(super) fn new_epoch(&mut self, now: Millis) -> u64 {
        self.epoch = (self.epoch + 1).max(now);
        self.epoch
    }

    /// Its submitter spoke of the job. Who is denied renews nothing: what ended is told while the lease
    /// lasts, and then the job goes.
    pub(super) fn renew(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let denied = self.denies(cx.config, cx.now, &hosted.submitter);
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        if job.phase == Phase::Leaving || denied {
            return;
        }
        job.lease_ms = cx.now + cx.config.host.lease_ms;
        if matches!(job.phase, Phase::Orphaned { .. }) {
            job.phase = Phase::Live;
            cx.set(Timer::Lease(hosted), job.lease_ms);
            // What ended meanwhile is what it came back for.
            self.to_report.insert(hosted);
        }
    }

    /// Renews the jobs that a heartbeat names and returns those that are not here as it thinks.
    pub(super) fn on_heartbeat(
        &mut self,
        cx: &mut Cx,
        submitter: PeerId,
        renewals: &[Renewal],
    ) -> Vec<p2pnode_protocol::JobId> {
        let mut unknown = Vec::new();
        for renewal in renewals {
            let hosted = HostedJob {
                submitter,
                job: renewal.job,
            };
            self.renew(cx, hosted);
            let known = self.jobs.get(&hosted).is_some_and(|job| {
                let same = renewal.epoch == 0 || renewal.epoch == job.epoch;
                same && job.phase != Phase::Leaving
            });
            if !known {
                unknown.push(renewal.job);
            }
        }
        unknown
    }

    /// The submitter stops: unless it is back soon, it is lost.
    pub(in crate::core) fn on_goodbye(&mut self, cx: &mut Cx, submitter: PeerId) {
        let until = cx.now + cx.config.host.goodbye_ms;
        for hosted in self.hosted_of(&submitter) {
            if let Some(job) = self.jobs.get_mut(&hosted)
                && job.phase == Phase::Live
            {
                job.lease_ms = job.lease_ms.min(until);
                cx.set(Timer::Lease(hosted), job.lease_ms);
            }
        }
    }

    /// The deadline of a lease, or of what is kept without one.
    pub(in crate::core) fn on_lease_deadline(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        match job.phase {
            // Renewed since the deadline was set.
            Phase::Live if job.lease_ms > cx.now => cx.set(Timer::Lease(hosted), job.lease_ms),
            Phase::Live => self.orphan(cx, hosted),
            Phase::Orphaned { until_ms } if until_ms > cx.now => {
                cx.set(Timer::Lease(hosted), until_ms);
            }
            Phase::Orphaned { .. } => self.dismiss(cx, hosted),
            Phase::Leaving => {}
        }
    }

    fn orphan(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let epoch = self.new_epoch(cx.now);
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        tracing::info!(job = %hosted.job, submitter = %hosted.submitter, "submitter is lost");
        cx.counters().leases_lost += 1;
        let until_ms = cx.now + job.keep_ms(cx.config.host.max_keep_ms);
        job.phase = Phase::Orphaned { until_ms };
        job.epoch = epoch;
        job.outbox.forget_news();
        cx.set(Timer::Lease(hosted), until_ms);
        self.clear_out(cx, hosted, Killed::Abandoned, "its submitter is lost");
    }

    /// The job is to be forgotten as soon as nothing of it runs.
    pub(super) fn dismiss(&mut self, cx: &mut Cx, hosted: HostedJob) {
        if let Some(job) = self.jobs.get_mut(&hosted) {
            job.phase = Phase::Leaving;
            self.clear_out(cx, hosted, Killed::Unwanted, "its job is over");
        }
    }

    /// Drops what waits and kills what runs.
    fn clear_out(&mut self, cx: &mut Cx, hosted: HostedJob, killed: Killed, why: &str) {
        self.drop_waiting(cx, hosted, |_| false);
        if let Some(job) = self.jobs.get_mut(&hosted) {
            let to_kill = job.kill_all(killed);
            Self::kill(cx, hosted, to_kill, FailureKind::Cancelled, why);
        }
        self.leave_if_done(cx, hosted);
        self.schedule(cx);
    }

    /// Forgets a job that is of no more use.
    pub(super) fn leave_if_done(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let Some(job) = self.jobs.get(&hosted) else {
            return;
        };
        let done = match job.phase {
            Phase::Live => false,
            Phase::Orphaned { .. } => !job.is_worth_keeping(),
            Phase::Leaving => true,
        };
        if !done || job.running > 0 {
            return;
        }
        for run in job.kept(hosted) {
            cx.out.push(Effect::DropOutputs(run));
        }
        self.jobs.remove(&hosted);
        self.to_report.remove(&hosted);
        self.ring.retain(|member| *member != hosted);
        cx.clear(Timer::Lease(hosted));
        cx.clear(Timer::Report(hosted));
        cx.persist(Record::Unhosted(hosted));
        cx.out.push(Effect::Unhost(hosted));
    }
}
