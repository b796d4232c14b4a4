//! What the owner decides about this node as a provider: how much is offered and to whom, and when it
//! stops.
//!
//! What is here already and is not wanted any more is sent away with a failure that says so.

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_protocol::task::{Failure, FailureKind, RuntimeKind};
use p2pnode_protocol::{Capacity, PeerId};

use super::Host;
use super::charge::owner;
use super::job::Killed;
use crate::core::desk::Cx;
use crate::core::io::{Effect, HostedJob, OfferTerms, Record};
use crate::core::peers::offers;

impl Host {
    /// The owner offers this from now on.
    pub(in crate::core) fn on_terms(&mut self, cx: &mut Cx, terms: OfferTerms) {
        cx.persist(Record::Offer(terms.clone()));
        self.ledger.set_total(terms.total.clone());
        self.terms = Some(terms);
        // Who offers anew wants it used.
        self.set_draining(cx, false);
        self.evict(cx);
        self.schedule(cx);
        cx.out.push(Effect::Advertise);
    }

    /// The owner allows a peer, or no longer does.
    pub(in crate::core) fn on_allow(&mut self, cx: &mut Cx, peer: PeerId, allowed: bool) {
        cx.persist(Record::Allowed { peer, allowed });
        if allowed {
            self.allowed.insert(peer);
        } else {
            self.allowed.remove(&peer);
            self.evict(cx);
        }
        // A new advert is what makes a peer ask again that was refused before.
        cx.out.push(Effect::Advertise);
    }

    /// Which runtimes work here.
    pub(in crate::core) fn on_runtimes(
        &mut self,
        cx: &mut Cx,
        runtimes: Vec<(RuntimeKind, Result<(), String>)>,
    ) {
        let runtimes: BTreeMap<_, _> = runtimes.into_iter().collect();
        if self.runtimes.as_ref() != Some(&runtimes) {
            self.runtimes = Some(runtimes);
            cx.out.push(Effect::Advertise);
        }
    }

    /// Sends away what the owner does not want here any more: jobs of peers that are not allowed, and
    /// waiting tasks that do not fit into what is offered.
    fn evict(&mut self, cx: &mut Cx) {
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            let allowed = self.allows(cx.config.me, &hosted.submitter);
            let Some(job) = self.jobs.get_mut(&hosted) else {
                continue;
            };
            let total = self.ledger.total();
            let fits: BTreeSet<u16> = job
                .steps
                .iter()
                .filter(|(_, step)| total.check(&step.template.resources).is_ok())
                .map(|(index, _)| *index)
                .collect();
            let dropped = job.drop_queued(|task| allowed && fits.contains(&task.step));
            self.queued -= dropped.len() as u32;
            let who = owner(cx);
            let message = if allowed {
                format!("{who} offers less now than the task needs")
            } else {
                let to_kill = job.kill_all(Killed::No);
                let why = format!("{who} does not allow this submitter any more");
                Self::kill(cx, hosted, to_kill, FailureKind::KilledByOwner, &why);
                why
            };
            let failure = Failure::new(FailureKind::KilledByOwner, message);
            self.fail_all(cx, hosted, dropped, &failure);
        }
    }

    /// The node stops: nothing new is taken, everything is killed.
    pub(in crate::core) fn on_stop(&mut self, cx: &mut Cx) {
        self.stopping = true;
        let all: Vec<HostedJob> = self.jobs.keys().copied().collect();
        for hosted in all {
            // What is killed here is reported to nobody, so it is gone, and the epoch says so.
            let epoch = self.new_epoch(cx.now);
            if let Some(job) = self.jobs.get_mut(&hosted) {
                job.epoch = epoch;
                let to_kill = job.kill_all(Killed::Abandoned);
                let why = format!("{} stops the node that ran it", owner(cx));
                Self::kill(cx, hosted, to_kill, FailureKind::ProviderStopping, &why);
            }
        }
    }

    /// What is offered; nothing once the node stops.
    pub(in crate::core) fn total(&self) -> Capacity {
        if self.stopping {
            return Capacity::default();
        }
        self.ledger.total().clone()
    }

    /// What is free of it; nothing while the node drains.
    pub(in crate::core) fn free(&self) -> &Capacity {
        if self.draining {
            return &self.nothing;
        }
        self.ledger.free()
    }

    /// Whether anything is offered.
    pub(in crate::core) fn is_offering(&self) -> bool {
        !self.stopping
            && self
                .terms
                .as_ref()
                .is_some_and(|terms| offers(&terms.total))
    }

    /// Whether anyone may run tasks here.
    pub(in crate::core) fn allows_any(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.allow_any)
    }

    /// Runtimes that work.
    pub(in crate::core) fn working_runtimes(&self) -> Vec<RuntimeKind> {
        let all = self.runtimes.iter().flatten();
        all.filter(|(_, state)| state.is_ok())
            .map(|(kind, _)| *kind)
            .collect()
    }

    /// Peers that were allowed by name.
    pub(in crate::core) const fn allowed(&self) -> &BTreeSet<PeerId> {
        &self.allowed
    }
}
