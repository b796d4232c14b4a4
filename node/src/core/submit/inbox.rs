//! What other peers and the clock say to the submitting side, brought to the jobs that it is about.
//!
//! Handlers change jobs and note which have to be looked at; [`super::Submit::settle`] looks.

use std::collections::BTreeSet;

use p2pnode_protocol::message::{MAX_BATCH, Refusal, Renewal, Report, TaskResponse};
use p2pnode_protocol::{AttemptKey, JobId, PeerId};

use super::Submit;
use super::loss::{Keep, Lost};
use crate::core::desk::{CallKind, Cx};
use crate::core::io::{Breach, CallFailure, CallId, CollectFailure, RequestToken};
use crate::core::peers::Peers;

impl Submit {
    /// A connection opened, or this node found itself.
    pub(in crate::core) fn on_connected(&mut self, cx: &mut Cx, peers: &Peers, peer: PeerId) {
        self.watch.on_connected(cx, &peer);
        for id in self.watch.jobs_of(&peer) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.welcome_back(cx, peer);
                job.ask_again(cx, peers, peer);
                let now = cx.now;
                let link = job.link(peer);
                link.reconsider(now, true);
                link.notices_ms = now;
                if let Some(offer) = link.offer.as_mut().filter(|offer| offer.call.is_none()) {
                    offer.again_ms = now;
                }
            }
        }
        self.farewells.on_connected(cx, peers, peer);
        self.look_at_all(peer);
    }

    /// The last connection closed.
    pub(in crate::core) fn on_disconnected(
        &mut self,
        cx: &mut Cx,
        peers: &mut Peers,
        peer: PeerId,
    ) {
        if self.watch.on_disconnected(cx, &peer) {
            peers.redial(cx, peer);
        }
    }

    /// A peer told what it has. `news` is whether that differs from before.
    pub(in crate::core) fn on_advert(&mut self, cx: &Cx, peer: PeerId, news: bool) {
        for job in self.jobs.values_mut() {
            if let Some(link) = job.links.get_mut(&peer) {
                link.reconsider(cx.now, news);
            }
        }
        self.look_at_all(peer);
    }

    /// A provider reports.
    pub(in crate::core) fn on_report(
        &mut self,
        cx: &mut Cx,
        peer: PeerId,
        token: RequestToken,
        report: Report,
    ) {
        if report.events.len() > MAX_BATCH {
            cx.blame(peer, Breach::TooLong);
            cx.respond(token, TaskResponse::UnknownJob);
            return;
        }
        let job = self.jobs.get_mut(&report.job);
        let Some(job) = job.filter(|job| job.links.contains_key(&peer)) else {
            // Also what tells a provider that a job is over, should nothing else have told it.
            cx.counters().foreign_reports += 1;
            cx.respond(token, TaskResponse::UnknownJob);
            return;
        };
        let through = report
            .first
            .saturating_add(report.events.len() as u64)
            .saturating_sub(1);
        let (id, waiting) = (job.id, job.pending());
        job.on_report(cx, peer, report);
        let came_back = job.pending() > waiting;
        cx.respond(token, TaskResponse::Reported { through });
        self.look_at_peer(id, peer);
        if came_back {
            self.look_at(id);
        }
    }

    /// A provider stops: what it has goes elsewhere at once.
    pub(in crate::core) fn on_goodbye(&mut self, cx: &mut Cx, peer: PeerId) {
        self.watch.on_goodbye(&peer);
        for id in self.watch.jobs_of(&peer) {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.lose(cx, peer, Keep::Nothing, Lost::Stopped);
                let (config, now) = (&cx.config.submit, cx.now);
                let why = Refusal::Stopping.to_string();
                job.link(peer).rest(config, now, why);
                self.look_at(id);
            }
        }
    }

    /// A call was answered, or not.
    pub(in crate::core) fn on_response(
        &mut self,
        cx: &mut Cx,
        peers: &Peers,
        peer: PeerId,
        call: CallId,
        kind: CallKind,
        response: Result<TaskResponse, CallFailure>,
    ) {
        if response.is_ok() && self.watch.on_heard(cx, &peer) {
            self.on_connected(cx, peers, peer);
        }
        match kind {
            CallKind::Offer(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.on_offer_answer(cx, peer, call, response);
                    self.look_at(id);
                }
            }
            CallKind::Heartbeat(named) => {
                self.watch.on_heartbeat_answered(cx, &peer, call);
                if let Ok(TaskResponse::Heartbeat { unknown }) = response {
                    self.on_unknown(cx, peer, &named, &unknown);
                }
            }
            CallKind::Cancel(id) | CallKind::Collected(id) => {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.on_notice_answer(cx, peer, call, &response);
                    self.look_at_peer(id, peer);
                }
            }
            CallKind::Close(id) => self.farewells.on_answer(cx, id, peer, &response),
            CallKind::Report(_) | CallKind::Goodbye => {}
        }
    }

    /// The provider does not have these jobs (any more), as far as a heartbeat asked.
    fn on_unknown(&mut self, cx: &mut Cx, peer: PeerId, named: &[(JobId, u64)], unknown: &[JobId]) {
        let unknown: BTreeSet<&JobId> = unknown.iter().collect();
        for (id, epoch) in named.iter().filter(|(id, _)| unknown.contains(id)) {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            // It may have taken new tasks after the heartbeat was sent.
            if job
                .links
                .get(&peer)
                .is_some_and(|link| link.epoch == *epoch)
            {
                job.lose(cx, peer, Keep::Offer, Lost::Forgot);
                self.look_at(*id);
            }
        }
    }

    /// Inputs went out.
    pub(in crate::core) fn on_served(&mut self, id: JobId, bytes: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.sent = job.sent.saturating_add(bytes);
        }
    }

    /// Outputs came, or cannot be had.
    pub(in crate::core) fn on_collected(
        &mut self,
        cx: &mut Cx,
        attempt: AttemptKey,
        result: Result<u64, CollectFailure>,
    ) {
        let id = attempt.task.job;
        let Some(job) = self.jobs.get_mut(&id) else {
            return;
        };
        let waiting = job.pending();
        let peer = job.on_collected(cx, attempt, result);
        let came_back = job.pending() > waiting;
        if let Some(peer) = peer {
            self.look_at_peer(id, peer);
        }
        if came_back {
            self.look_at(id);
        }
    }

    /// A deadline of a provider.
    pub(in crate::core) fn on_provider_deadline(
        &mut self,
        cx: &mut Cx,
        peers: &mut Peers,
        peer: PeerId,
    ) {
        if self.watch.on_deadline(cx, &peer) {
            tracing::warn!(%peer, "provider is lost");
            for id in self.watch.jobs_of(&peer) {
                if let Some(job) = self.jobs.get_mut(&id) {
                    job.lose(cx, peer, Keep::Nothing, Lost::Away);
                    self.look_at(id);
                }
            }
        }
        if self.watch.is_redial_due(cx, &peer) {
            peers.redial(cx, peer);
        }
        if self.watch.is_beat_due(cx.now, &peer) {
            let jobs = self.watch.jobs_of(&peer);
            let renewals = jobs.into_iter().map(|id| Renewal {
                job: id,
                epoch: self.epoch(id, &peer),
            });
            let renewals = renewals.collect();
            self.watch.beat(cx, peer, renewals);
        } else {
            self.watch.arm(cx, &peer);
        }
    }

    fn epoch(&self, id: JobId, peer: &PeerId) -> u64 {
        let link = self.jobs.get(&id).and_then(|job| job.links.get(peer));
        link.map_or(0, |link| link.epoch)
    }

    /// A deadline of what a job has to say to a provider, or of the job itself.
    pub(in crate::core) fn on_job_deadline(&mut self, id: JobId, peer: Option<PeerId>) {
        match peer {
            Some(peer) => self.look_at_peer(id, peer),
            None => self.look_at(id),
        }
    }

    /// It is time to tell a provider again that a job is over.
    pub(in crate::core) fn on_close_deadline(
        &mut self,
        cx: &mut Cx,
        peers: &Peers,
        id: JobId,
        peer: PeerId,
    ) {
        self.farewells.tell(cx, peers, id, peer);
    }
}
