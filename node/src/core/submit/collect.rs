//! Outputs and logs on their way here, and the small messages that follow them.

use p2pnode_protocol::message::{MAX_BATCH, TaskRef, TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome};
use p2pnode_protocol::text::printable;
use p2pnode_protocol::{AttemptKey, PeerId};

use super::job::{Ending, Job};
use super::link::{At, Stand};
use super::task::{Move, Stage};
use super::watch::Watch;
use crate::core::desk::{CallKind, Cx};
use crate::core::io::{CallFailure, CallId, CollectFailure};
use crate::core::peers::Peers;

/// The failure in words that only show themselves: it may name paths that a peer chose.
fn tamed(failure: CollectFailure) -> CollectFailure {
    match failure {
        CollectFailure::Clash(words) => CollectFailure::Clash(printable(&words)),
        CollectFailure::Away(words) => CollectFailure::Away(printable(&words)),
        CollectFailure::Local(words) => CollectFailure::Local(printable(&words)),
        CollectFailure::Lost(words) => CollectFailure::Lost(printable(&words)),
    }
}

impl Job {
    /// Outputs came, or cannot be had. Returns the peer that had them.
    pub(super) fn on_collected(
        &mut self,
        cx: &mut Cx,
        attempt: AttemptKey,
        result: Result<u64, CollectFailure>,
    ) -> Option<PeerId> {
        let at = At {
            step: attempt.task.step,
            index: attempt.task.index,
        };
        let is_awaited = self
            .collecting
            .get(&at)
            .is_some_and(|ending| ending.attempt == attempt.attempt);
        if !is_awaited {
            return None;
        }
        let ending = self.collecting.remove(&at)?;
        let cell = *self.cell(at)?;
        if cell.attempt != attempt.attempt || !matches!(cell.stage, Stage::Collecting | Stage::Lost)
        {
            return None;
        }
        let peer = self.peers.get(cell.peer as usize)?.id;
        // Without outputs only the end of a log is missing, which no retry would bring back.
        let brings = ending.outputs.is_some() && ending.outcome == Outcome::Succeeded;
        if brings
            && matches!(result, Err(CollectFailure::Away(_)))
            && self.on_away(cx, &peer, at, &ending)
        {
            return Some(peer);
        }
        if cell.stage == Stage::Collecting {
            self.unhold(&peer, at);
            if let Some(link) = self.links.get_mut(&peer) {
                link.collecting -= 1;
            }
        }
        let task = TaskRef {
            step: at.step,
            index: at.index,
            attempt: attempt.attempt,
        };
        match result.map_err(tamed) {
            Ok(bytes) => {
                self.received = self.received.saturating_add(bytes);
                self.collected_at(cx, &peer, task);
                self.settle(cx, peer, at, ending);
            }
            Err(CollectFailure::Clash(message)) => {
                self.collected_at(cx, &peer, task);
                let failure = Failure::new(FailureKind::BadOutput, message);
                let outcome = Outcome::Failed(failure);
                self.settle(cx, peer, at, Ending { outcome, ..ending });
            }
            Err(CollectFailure::Local(message)) => {
                self.broken = Some(format!("outputs cannot be written: {message}"));
            }
            Err(CollectFailure::Lost(_) | CollectFailure::Away(_)) if !brings => {
                self.settle(cx, peer, at, ending);
            }
            Err(CollectFailure::Lost(message) | CollectFailure::Away(message)) => {
                let message = format!("its outputs could not be fetched: {message}");
                let failure = Failure::new(FailureKind::Host, message);
                self.on_setback(cx, peer, &failure);
                if self.make(cx, at, Move::Again) {
                    self.remember_failure(cx, at, failure);
                    self.cancel_at(cx, &peer, task);
                    self.count_move(cx, &peer, at);
                }
            }
        }
        Some(peer)
    }

    /// Does what is due at one provider: repeats an offer, ends a rest, sends notices.
    pub(super) fn tend(&mut self, cx: &mut Cx, peers: &Peers, watch: &Watch, peer: PeerId) {
        self.tend_outputs(cx, peers, watch, peer);
        let now = cx.now;
        let usable = watch.is_usable(peers, &peer);
        let config = &cx.config.submit;
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        if matches!(link.stand, Stand::Resting { until, .. } if until <= now) {
            link.stand = Stand::Open;
        }
        let waits = |offer: &&mut super::link::SentOffer| offer.call.is_none();
        let repeat = match link.offer.as_mut().filter(waits) {
            Some(offer) if offer.again_ms <= now && usable => true,
            Some(offer) if offer.again_ms <= now => {
                offer.again_ms = now + config.max_retry_ms;
                false
            }
            _ => false,
        };
        let notices_due = link.notices_ms <= now;
        if notices_due && !usable {
            link.notices_ms = now + config.heartbeat_ms;
        } else if notices_due {
            let job = self.id;
            if let Some(tasks) = link.cancels.take(MAX_BATCH) {
                let request = TaskRequest::Cancel {
                    job,
                    tasks: Some(tasks.clone()),
                };
                let call = cx.call(peer, CallKind::Cancel(job), request);
                link.cancels.on_sent(call, tasks);
            }
            if let Some(tasks) = link.collected.take(MAX_BATCH) {
                let request = TaskRequest::Collected {
                    job,
                    tasks: tasks.clone(),
                };
                let call = cx.call(peer, CallKind::Collected(job), request);
                link.collected.on_sent(call, tasks);
            }
        }
        if repeat {
            self.repeat_offer(cx, peer);
        }
        self.arm(cx, peer);
    }

    /// A notice was answered, or not.
    pub(super) fn on_notice_answer(
        &mut self,
        cx: &mut Cx,
        peer: PeerId,
        call: CallId,
        response: &Result<TaskResponse, CallFailure>,
    ) {
        let done = matches!(response, Ok(answer) if *answer != TaskResponse::Busy);
        if let Some(link) = self.links.get_mut(&peer) {
            link.cancels.on_answer(call, done);
            link.collected.on_answer(call, done);
            if !done {
                link.notices_ms = cx.now + cx.config.submit.heartbeat_ms;
            }
        }
        self.arm(cx, peer);
    }
}
