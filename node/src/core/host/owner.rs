//! What the owner decides about this node as a provider: how much is offered and to whom, and when it
//! stops. What is here already and is not wanted any more is [`super::eviction`]'s.

use std::collections::BTreeMap;

use p2pnode_protocol::advert::{AdvertFeatures, MAX_WHY_BYTES};
use p2pnode_protocol::offer::{Grant, OfferRules};
use p2pnode_protocol::task::{FailureKind, RuntimeKind};
use p2pnode_protocol::{Capacity, PeerId};

use super::Host;
use super::charge::owner;
use super::job::Killed;
use crate::core::desk::Cx;
use crate::core::io::{Conditions, Effect, HostedJob, OfferTerms, Record, Requested, RuntimeState};
use crate::core::peers::offers;

/// The most OCI runtimes that an advert names.
const MAX_SANDBOXES: usize = 16;

/// At most `most` bytes of a text.
fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

impl Host {
    /// A peer holds a private network's key. It stays a member while this node lives: what it has here is
    /// no less its own when its connection is lost.
    pub(in crate::core) fn on_member(&mut self, cx: &Cx, peer: PeerId) {
        self.members.insert(peer);
        if self.members.len() > cx.config.max_peers {
            // One that has nothing here, and is not the newcomer; it is noted again when it connects.
            let has_work = |peer: &PeerId| self.jobs.keys().any(|job| job.submitter == *peer);
            let idle = |other: &&PeerId| **other != peer && !has_work(other);
            if let Some(idle) = self.members.iter().find(idle).copied() {
                self.members.remove(&idle);
            }
        }
    }

    /// The owner offers this from now on.
    pub(in crate::core) fn on_terms(&mut self, cx: &mut Cx, terms: OfferTerms) {
        cx.persist(Record::Offer(terms.clone()));
        self.ledger.set_total(terms.total.clone());
        self.terms = Some(terms);
        self.judge(cx);
        // Who offers anew wants it used.
        self.set_draining(cx, false);
        self.evict(cx);
        self.schedule(cx);
        cx.out.push(Effect::Advertise);
    }

    /// The owner allows a peer, or no longer does. Either answers what it asked for.
    pub(in crate::core) fn on_allow(&mut self, cx: &mut Cx, peer: PeerId, grant: Option<Grant>) {
        // A denial is kept: everybody may be allowed later, and that does not mean this peer.
        let grant = grant.unwrap_or_else(Grant::denial);
        cx.persist(Record::Allowed {
            peer,
            grant: Some(grant.clone()),
        });
        if self.access.set(peer, grant) {
            cx.persist(Record::Requested {
                peer,
                request: None,
            });
        }
        self.wake_at_next_end(cx);
        // It may be allowed less than before.
        self.evict(cx);
        // A new advert is what makes a peer ask again that was refused before.
        cx.out.push(Effect::Advertise);
    }

    /// What the offer's rules depend on was measured.
    pub(in crate::core) fn on_conditions(&mut self, cx: &mut Cx, conditions: Conditions) {
        self.gate.measure(conditions);
        self.judge(cx);
    }

    /// Opens or closes what is offered, as its rules say.
    fn judge(&mut self, cx: &mut Cx) {
        if !self
            .gate
            .judge(self.terms.as_ref().map(|terms| &terms.rules))
        {
            return;
        }
        cx.out.push(Effect::Advertise);
        match self.gate.closed() {
            None => {
                tracing::info!("what is offered is open");
                self.schedule(cx);
            }
            Some(why) => {
                tracing::info!(why, "what is offered is closed");
                let why = format!("its owner's offer closed: {why}");
                self.send_away(cx, &why);
            }
        }
    }

    /// Which runtimes work here.
    pub(in crate::core) fn on_runtimes(
        &mut self,
        cx: &mut Cx,
        runtimes: Vec<(RuntimeKind, RuntimeState)>,
    ) {
        let runtimes: BTreeMap<_, _> = runtimes.into_iter().collect();
        if self.runtimes.as_ref() != Some(&runtimes) {
            self.runtimes = Some(runtimes);
            cx.out.push(Effect::Advertise);
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
            self.drop_waiting(cx, hosted, |_| false);
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

    /// Why nothing is taken from others at the moment.
    pub(in crate::core) fn closed(&self) -> Option<&str> {
        self.gate.closed().filter(|_| self.is_offering())
    }

    /// The rules of what is offered.
    pub(in crate::core) fn rules(&self) -> Option<&OfferRules> {
        self.terms.as_ref().map(|terms| &terms.rules)
    }

    /// Runtimes that cannot run tasks, and why.
    pub(in crate::core) fn away(&self) -> Vec<(RuntimeKind, String)> {
        let all = self.runtimes.iter().flatten();
        let away = all.filter_map(|(kind, state)| Some((*kind, state.as_ref().err()?)));
        away.map(|(kind, why)| (kind, cut(why, MAX_WHY_BYTES)))
            .collect()
    }

    /// What containers can have here.
    pub(in crate::core) fn own_features(&self) -> AdvertFeatures {
        let docker = self
            .runtimes
            .as_ref()
            .and_then(|all| all.get(&RuntimeKind::Docker));
        let Some(Ok(docker)) = docker else {
            return AdvertFeatures::default();
        };
        AdvertFeatures {
            sandboxes: docker
                .sandboxes
                .iter()
                .take(MAX_SANDBOXES)
                .cloned()
                .collect(),
            hard_disk: docker.hard_disk,
            egress: matches!(docker.egress, Some(Ok(()))),
            build: true,
        }
    }

    /// What others' containers can have here, as far as the owner lets them.
    pub(in crate::core) fn features(&self) -> AdvertFeatures {
        let own = self.own_features();
        AdvertFeatures {
            egress: own.egress
                && self
                    .rules()
                    .is_some_and(|rules| !rules.egress.is_empty() && rules.runtime.is_none()),
            build: own.build
                && self
                    .rules()
                    .is_some_and(|rules| rules.allow_build && rules.runtime.is_none()),
            ..own
        }
    }

    /// Peers that asked and were refused.
    pub(in crate::core) const fn requests(&self) -> &BTreeMap<PeerId, Requested> {
        self.access.requests()
    }

    /// Runtimes that work.
    pub(in crate::core) fn working_runtimes(&self) -> Vec<RuntimeKind> {
        let all = self.runtimes.iter().flatten();
        all.filter(|(_, state)| state.is_ok())
            .map(|(kind, _)| *kind)
            .collect()
    }

    /// Peers that were allowed by name.
    pub(in crate::core) const fn allowed(&self) -> &BTreeMap<PeerId, Grant> {
        self.access.allowed()
    }
}
