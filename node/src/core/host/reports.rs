//! Sending what the outboxes hold, and hearing that it arrived.

use p2pnode_protocol::message::{Report, ReportEvent, TaskRef, TaskRequest, TaskResponse};

use super::Host;
use super::job::{Attempt, Phase};
use crate::core::config::doubled;
use crate::core::desk::{CallKind, Cx, Timer};
use crate::core::io::{CallFailure, CallId, HostedJob, Record};

impl Host {
    /// Sends a report for every job that has something new to tell.
    pub(super) fn flush(&mut self, cx: &mut Cx) {
        while let Some(hosted) = self.to_report.pop_first() {
            self.report(cx, hosted);
        }
    }

    fn report(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        // One that had no answer is repeated when its time comes, not at every event.
        if job.phase == Phase::Leaving || job.outbox.waits() {
            return;
        }
        self.send(cx, hosted);
    }

    fn send(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let template = self.jobs.get(&hosted).and_then(|job| {
            let step = job.steps.values().next()?;
            Some(step.template.clone())
        });
        let slots = template.map_or(0, |template| self.slots(cx, hosted, &template));
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        let Some((first, events)) = job.outbox.next(cx.config.host.max_report_bytes) else {
            return;
        };
        let report = Report {
            job: hosted.job,
            first,
            events,
            slots,
        };
        let kind = CallKind::Report(hosted);
        let call = cx.call(hosted.submitter, kind, TaskRequest::Report(report));
        job.outbox.on_sent(call);
    }

    /// It is time to repeat a report.
    pub(in crate::core) fn on_report_deadline(&mut self, cx: &mut Cx, hosted: HostedJob) {
        let waits = self
            .jobs
            .get(&hosted)
            .is_some_and(|job| job.outbox.waits() && job.phase != Phase::Leaving);
        if waits {
            self.send(cx, hosted);
        }
    }

    /// The submitter is there: what waits is sent at once.
    pub(in crate::core) fn on_connected(&mut self, cx: &mut Cx, peer: p2pnode_protocol::PeerId) {
        for hosted in self.hosted_of(&peer) {
            self.on_report_deadline(cx, hosted);
            self.to_report.insert(hosted);
        }
    }

    /// A report was answered, or not.
    pub(in crate::core) fn on_report_answer(
        &mut self,
        cx: &mut Cx,
        hosted: HostedJob,
        call: CallId,
        response: Result<TaskResponse, CallFailure>,
    ) {
        let Some(job) = self.jobs.get_mut(&hosted) else {
            return;
        };
        if !job.outbox.is_sent_as(call) {
            return;
        }
        match response {
            Ok(TaskResponse::Reported { through }) => {
                let (through, ends) = job.outbox.on_acknowledged(through);
                if !ends.is_empty() {
                    cx.persist(Record::Acknowledged { hosted, through });
                }
                for event in ends {
                    self.on_end_known(cx, hosted, event);
                }
                self.renew(cx, hosted);
                self.leave_if_done(cx, hosted);
                self.to_report.insert(hosted);
            }
            Ok(TaskResponse::UnknownJob) => self.dismiss(cx, hosted),
            _ => {
                job.outbox.on_failure();
                let config = &cx.config.host;
                let wait = doubled(config.retry_ms, job.outbox.failures, config.max_retry_ms);
                cx.set(Timer::Report(hosted), cx.now + wait);
            }
        }
    }

    /// The submitter has stored this end, or does not want it.
    fn on_end_known(&mut self, cx: &mut Cx, hosted: HostedJob, event: ReportEvent) {
        let (Some(job), ReportEvent::Finished { task, .. }) = (self.jobs.get_mut(&hosted), &event)
        else {
            return;
        };
        let task = *task;
        let Some(Attempt::Done {
            acknowledged,
            keeps,
            end,
            offered_again,
        }) = job.attempts.get_mut(&task)
        else {
            return;
        };
        *acknowledged = true;
        if *keeps || *offered_again {
            *end = Some(Box::new(event));
        } else {
            job.attempts.remove(&task);
            return;
        }
        if std::mem::take(offered_again) {
            self.tell_again(cx, hosted, &[task]);
        }
    }

    /// The submitter offers attempts that have ended here. It has forgotten their ends, or never
    /// took them for its own, as a power cut can make it, and so it hears of them once more; those
    /// whose end is forgotten here too are dropped, so that they are run anew.
    pub(super) fn tell_again(&mut self, cx: &mut Cx, hosted: HostedJob, tasks: &[TaskRef]) {
        let mut forgotten = Vec::new();
        for task in tasks {
            let Some(job) = self.jobs.get_mut(&hosted) else {
                return;
            };
            let Some(Attempt::Done {
                acknowledged,
                end,
                offered_again,
                ..
            }) = job.attempts.get_mut(task)
            else {
                continue;
            };
            if !*acknowledged {
                *offered_again = true;
                continue;
            }
            let Some(event) = end.take() else {
                forgotten.push(*task);
                continue;
            };
            *acknowledged = false;
            let number = job.outbox.push_end(*task, (*event).clone());
            cx.persist(Record::Outbox {
                hosted,
                number,
                event: *event,
            });
            self.to_report.insert(hosted);
        }
        self.release_outputs(cx, hosted, &forgotten);
    }
}
