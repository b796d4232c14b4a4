//! Whether providers are alive: heartbeats, answers, lost connections.
//!
//! Owns one [`Provider`] for each peer that a running job uses. It says *that* a provider is lost;
//! what that means for tasks is [`super::loss`]'s. Only answers to this node's own calls count as
//! life: they prove that the provider hears us, which is what its lease depends on.

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_protocol::message::{MAX_BATCH, Renewal, TaskRequest};
use p2pnode_protocol::{JobId, PeerId};

use crate::core::desk::{CallKind, Cx, Timer};
use crate::core::io::{CallId, Millis};
use crate::core::peers::Peers;

/// A peer with work of ours.
#[derive(Debug)]
pub(super) struct Provider {
    /// Jobs that use it.
    pub(super) jobs: BTreeSet<JobId>,
    heard_ms: Millis,
    /// Since when it is not connected.
    down_ms: Option<Millis>,
    pub(super) lost: bool,
    heartbeat: Option<CallId>,
    beat_ms: Millis,
}

/// All providers in use.
#[derive(Debug, Default)]
pub(super) struct Watch {
    providers: BTreeMap<PeerId, Provider>,
}

impl Watch {
    /// Whether tasks may go there: connected and not lost.
    pub(super) fn is_usable(&self, peers: &Peers, peer: &PeerId) -> bool {
        peers.is_connected(peer)
            && self
                .providers
                .get(peer)
                .is_none_or(|provider| !provider.lost)
    }

    /// From now on `job` uses `peer`.
    pub(super) fn add(&mut self, cx: &mut Cx, peer: PeerId, job: JobId) {
        let provider = self.providers.entry(peer).or_insert_with(|| Provider {
            jobs: BTreeSet::new(),
            heard_ms: cx.now,
            down_ms: None,
            lost: false,
            heartbeat: None,
            beat_ms: cx.now + cx.config.submit.heartbeat_ms,
        });
        if provider.jobs.insert(job) {
            self.arm(cx, &peer);
        }
    }

    /// `job` does not use `peer` any more.
    pub(super) fn remove(&mut self, cx: &mut Cx, peer: &PeerId, job: JobId) {
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.jobs.remove(&job);
            if provider.jobs.is_empty() {
                self.providers.remove(peer);
                cx.clear(Timer::Provider(*peer));
            }
        }
    }

    /// Jobs that use `peer`.
    pub(super) fn jobs_of(&self, peer: &PeerId) -> Vec<JobId> {
        let provider = self.providers.get(peer);
        provider.map_or_else(Vec::new, |provider| provider.jobs.iter().copied().collect())
    }

    /// The peer answered a call. Returns whether it had been lost.
    pub(super) fn on_heard(&mut self, cx: &mut Cx, peer: &PeerId) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        provider.heard_ms = cx.now;
        let was_lost = std::mem::take(&mut provider.lost);
        if was_lost {
            tracing::info!(%peer, "provider is back");
        }
        was_lost
    }

    /// A connection opened: ask at once whether it still is what it was. Returns whether the peer
    /// had been lost for want of one.
    pub(super) fn on_connected(&mut self, cx: &mut Cx, peer: &PeerId) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        let was_down = provider.down_ms.take().is_some();
        let was_lost = was_down && std::mem::take(&mut provider.lost);
        if was_down {
            provider.heard_ms = cx.now;
        }
        provider.beat_ms = cx.now;
        self.arm(cx, peer);
        was_lost
    }

    /// The connection closed. Returns whether the peer is used, so that it is called back at once.
    pub(super) fn on_disconnected(&mut self, cx: &mut Cx, peer: &PeerId) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        provider.down_ms = Some(cx.now);
        self.arm(cx, peer);
        true
    }

    /// Counts the peer as lost, because it said so.
    pub(super) fn on_goodbye(&mut self, peer: &PeerId) {
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.lost = true;
        }
    }

    /// A heartbeat was answered, or not.
    pub(super) fn on_heartbeat_answered(&mut self, cx: &mut Cx, peer: &PeerId, call: CallId) {
        if let Some(provider) = self.providers.get_mut(peer)
            && provider.heartbeat == Some(call)
        {
            provider.heartbeat = None;
            self.arm(cx, peer);
        }
    }

    /// The provider's deadline: returns whether it is lost now.
    pub(super) fn on_deadline(&mut self, cx: &mut Cx, peer: &PeerId) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        // This node cannot lose itself.
        let lost = *peer != cx.config.me && !provider.lost && cx.now >= provider.lost_at(cx);
        if lost {
            provider.lost = true;
            provider.beat_ms = cx.now + cx.config.submit.find_ms;
            cx.counters().peers_lost += 1;
        }
        lost
    }

    /// Whether it is time to call back a lost provider that is not connected.
    pub(super) fn is_redial_due(&mut self, cx: &Cx, peer: &PeerId) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        let due = provider.lost && provider.down_ms.is_some() && cx.now >= provider.beat_ms;
        if due {
            provider.beat_ms = cx.now + cx.config.submit.find_ms;
        }
        due
    }

    /// Whether it is time for a heartbeat.
    pub(super) fn is_beat_due(&self, now: Millis, peer: &PeerId) -> bool {
        self.providers.get(peer).is_some_and(|provider| {
            provider.heartbeat.is_none() && provider.down_ms.is_none() && now >= provider.beat_ms
        })
    }

    /// Sends a heartbeat that renews `jobs`.
    pub(super) fn beat(&mut self, cx: &mut Cx, peer: PeerId, mut jobs: Vec<Renewal>) {
        let Some(provider) = self.providers.get_mut(&peer) else {
            return;
        };
        jobs.truncate(MAX_BATCH);
        let named = jobs.iter().map(|renewal| (renewal.job, renewal.epoch));
        let kind = CallKind::Heartbeat(named.collect());
        provider.beat_ms = cx.now + cx.config.submit.heartbeat_ms;
        provider.heartbeat = Some(cx.call(peer, kind, TaskRequest::Heartbeat { jobs }));
        self.arm(cx, &peer);
    }

    /// Sets the provider's deadline.
    pub(super) fn arm(&mut self, cx: &mut Cx, peer: &PeerId) {
        let Some(provider) = self.providers.get(peer) else {
            return;
        };
        let beats = match provider.down_ms {
            None => provider.heartbeat.is_none(),
            // Not to ask how it is, but to call it back.
            Some(_) => provider.lost,
        };
        let beat = beats.then_some(provider.beat_ms);
        let may_lose = !provider.lost && *peer != cx.config.me;
        let lost = may_lose.then(|| provider.lost_at(cx));
        match beat.into_iter().chain(lost).min() {
            Some(at) => cx.set(Timer::Provider(*peer), at),
            None => cx.clear(Timer::Provider(*peer)),
        }
    }
}

impl Provider {
    /// When it is lost if nothing is heard.
    fn lost_at(&self, cx: &Cx) -> Millis {
        let silent = self.heard_ms + cx.config.submit.silent_ms;
        let down = self.down_ms.map(|at| at + cx.config.submit.redial_ms);
        down.map_or(silent, |down| down.min(silent))
    }
}
