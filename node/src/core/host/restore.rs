//! Hosted jobs as a restart finds them.
//!
//! What waited or ran is gone with the old process; the new epoch says so to whoever asks. What had
//! ended is reported again and kept. A job of which nothing is left is forgotten at once.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::ReportEvent;
use p2pnode_protocol::offer::Grant;

use super::Host;
use super::job::{Attempt, Hosted, HostedStep};
use super::outbox::Outbox;
use crate::core::desk::{Cx, Timer};
use crate::core::io::{Effect, OfferTerms, Record, Requested, StoredHosted};

impl Host {
    /// Takes up where the last life ended.
    pub(in crate::core) fn restore(
        &mut self,
        cx: &mut Cx,
        (terms, draining): (Option<OfferTerms>, bool),
        allowed: Vec<(PeerId, Grant)>,
        requests: Vec<(PeerId, Requested)>,
        stored: Vec<StoredHosted>,
    ) {
        self.access.restore(allowed, requests);
        if let Some(terms) = &terms {
            self.ledger.set_total(terms.total.clone());
        }
        self.terms = terms;
        self.gate
            .judge(self.terms.as_ref().map(|terms| &terms.rules));
        self.draining = draining;
        self.wake_at_next_end(cx);
        for stored in stored {
            self.restore_job(cx, stored);
        }
    }

    fn restore_job(&mut self, cx: &mut Cx, stored: StoredHosted) {
        let hosted = stored.hosted;
        let lease_ms = cx.now + cx.config.host.lease_ms;
        let epoch = self.new_epoch(cx.now);
        let mut job = Hosted::new(epoch, lease_ms);
        for (run, _) in &stored.kept {
            let done = Attempt::Done {
                acknowledged: true,
                keeps: true,
                end: None,
                offered_again: false,
            };
            job.attempts.insert(run.task(), done);
        }
        for (_, event) in &stored.outbox {
            if let ReportEvent::Finished {
                task,
                outputs,
                log_bytes,
                ..
            } = event
            {
                let kept = stored.kept.iter().any(|(run, _)| run.task() == *task);
                let done = Attempt::Done {
                    acknowledged: false,
                    keeps: kept || (outputs.is_none() && *log_bytes > 0),
                    end: None,
                    offered_again: false,
                };
                job.attempts.insert(*task, done);
            }
        }
        job.outbox = Outbox::restore(stored.acknowledged, stored.outbox);
        if !job.is_worth_keeping() {
            cx.persist(Record::Unhosted(hosted));
            cx.out.push(Effect::Unhost(hosted));
            return;
        }
        for template in stored.templates {
            job.steps.insert(template.step, HostedStep::new(template));
        }
        self.jobs.insert(hosted, job);
        self.to_report.insert(hosted);
        cx.set(Timer::Lease(hosted), lease_ms);
    }
}
