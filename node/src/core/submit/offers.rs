//! Answers to offers.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{Event, JobState};
use p2pnode_protocol::message::{OfferReply, Refusal, TaskRef, TaskResponse};
use p2pnode_protocol::task::{Failure, FailureKind};
use p2pnode_protocol::text::printable;

use super::job::Job;
use super::link::{At, SentOffer};
use super::loss::{Keep, Lost};
use super::task::{Move, Stage};
use crate::core::config::doubled;
use crate::core::desk::Cx;
use crate::core::io::{CallFailure, CallId};

impl Job {
    /// An offer was answered, or not. An answer to an offer that was given up meanwhile is nothing:
    /// its tasks went elsewhere, and what it started is cancelled or reported as stale.
    pub(super) fn on_offer_answer(
        &mut self,
        cx: &mut Cx,
        peer: PeerId,
        call: CallId,
        response: Result<TaskResponse, CallFailure>,
    ) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let Some(offer) = link.offer.take_if(|offer| offer.call == Some(call)) else {
            return;
        };
        match response {
            Ok(TaskResponse::Offer(reply)) => self.on_offer_reply(cx, peer, offer, reply),
            Ok(TaskResponse::Busy) | Err(CallFailure::Unreachable | CallFailure::TimedOut) => {
                self.offer_later(cx, peer, offer);
            }
            Ok(_) | Err(CallFailure::Protocol) => {
                cx.counters().invalid_messages += 1;
                self.give_up_offer(cx, peer, &offer);
                let why = "it does not speak this version of the task protocol".to_owned();
                let (config, now) = (&cx.config.submit, cx.now);
                self.link(peer).refuse(config, now, why, false);
            }
        }
        self.arm(cx, peer);
    }

    /// No answer: the tasks may be there, so the same offer is repeated, for a time.
    fn offer_later(&mut self, cx: &mut Cx, peer: PeerId, mut offer: SentOffer) {
        let config = &cx.config.submit;
        if cx.now >= offer.since_ms + config.offer_ms {
            self.give_up_offer(cx, peer, &offer);
            let why = "it does not answer offers".to_owned();
            let (config, now) = (&cx.config.submit, cx.now);
            self.link(peer).rest(config, now, why);
            return;
        }
        offer.call = None;
        offer.again_ms = cx.now + doubled(config.retry_ms, offer.repeats, config.max_retry_ms);
        offer.repeats += 1;
        self.link(peer).offer = Some(offer);
    }

    /// The offer's tasks go elsewhere; should they be there, they are cancelled.
    fn give_up_offer(&mut self, cx: &mut Cx, peer: PeerId, offer: &SentOffer) {
        let why = Failure::new(
            FailureKind::ProviderLost,
            "the provider did not answer whether it takes the task",
        );
        for task in &offer.tasks {
            if self.holds(&peer, *task) {
                self.move_away(cx, &peer, At::from(*task), &why);
                self.cancel_at(cx, &peer, *task);
            }
        }
    }

    fn on_offer_reply(&mut self, cx: &mut Cx, peer: PeerId, offer: SentOffer, reply: OfferReply) {
        let accepted = offer.tasks.len().min(reply.accepted as usize);
        let (taken, left) = offer.tasks.split_at(accepted);
        if !self.keeps_epoch(cx, peer, &offer, reply.epoch) {
            return;
        }
        self.set_slots(&peer, reply.slots);
        let link = self.link(peer);
        link.epoch = reply.epoch;
        if !taken.is_empty() {
            link.taught.insert(offer.step);
            // Who failed has to do well first: to take a task is not yet to run it.
            if link.setbacks == 0 {
                link.probing = false;
                if reply.refusal.is_none() {
                    link.rests = 0;
                }
            }
            if self.state == JobState::Waiting {
                self.state = JobState::Running;
            }
        }
        self.tell_answer(cx, peer, accepted as u32, reply.refusal.as_ref());
        let teach = matches!(reply.refusal, Some(Refusal::TemplateNeeded)) && !offer.with_template;
        for task in left {
            self.on_not_taken(cx, peer, *task, teach);
        }
        if teach {
            self.link(peer).taught.remove(&offer.step);
        } else if !left.is_empty() {
            self.on_refusal(cx, peer, reply.refusal);
        }
    }

    /// Whether the provider still has what it took before, as its epoch tells. If not, that is lost.
    /// A lower epoch than before may be a late answer of an earlier life: then the offer's own tasks
    /// are in doubt too. Returns whether they are not.
    fn keeps_epoch(&mut self, cx: &mut Cx, peer: PeerId, offer: &SentOffer, epoch: u64) -> bool {
        let before = self.link(peer).epoch;
        if before == 0 || before == epoch {
            return true;
        }
        let newer = epoch > before;
        let keep = if newer {
            Keep::Offered(&offer.tasks)
        } else {
            Keep::Nothing
        };
        self.lose(cx, peer, keep, Lost::Forgot);
        self.link(peer).epoch = epoch;
        newer
    }

    /// One offered task was not taken. It waits as a lost one does, not as a settled one: should a
    /// late copy of the offer have it run there all the same, its end must not be acknowledged
    /// without being stored, because a restart would offer this very attempt to this peer again.
    fn on_not_taken(&mut self, cx: &mut Cx, peer: PeerId, task: TaskRef, teach: bool) {
        let at = At::from(task);
        // It may have ended before this answer came. That it started means little: an earlier life of
        // the provider may have said so.
        let stage = self.cell(at).map(|cell| cell.stage);
        let out = matches!(stage, Some(Stage::Queued | Stage::Running));
        if !out || !self.holds(&peer, task) {
            return;
        }
        if teach {
            self.link(peer).resend.insert(at);
        } else if self.make(cx, at, Move::Lose) {
            self.unhold(&peer, at);
        }
    }

    fn on_refusal(&mut self, cx: &mut Cx, peer: PeerId, refusal: Option<Refusal>) {
        let (config, now) = (&cx.config.submit, cx.now);
        let link = self.link(peer);
        match refusal {
            None | Some(Refusal::Full) => link.pause(config, now, Refusal::Full.to_string()),
            Some(Refusal::TemplateNeeded) => {
                let why = "it asks for the job's template again and again".to_owned();
                link.refuse(config, now, why, false);
            }
            // Asked again at its next advert, however long the owner has drained it by then.
            Some(refusal @ Refusal::Draining) => {
                link.rests = 0;
                link.refuse(config, now, said(&refusal), false);
            }
            Some(refusal @ Refusal::Stopping) => link.rest(config, now, refusal.to_string()),
            Some(refusal) => link.refuse(config, now, said(&refusal), false),
        }
    }

    fn tell_answer(&mut self, cx: &mut Cx, peer: PeerId, accepted: u32, refusal: Option<&Refusal>) {
        let first = !std::mem::replace(&mut self.link(peer).answered, true);
        let refusal = refusal.filter(|refusal| !refusal.is_passing());
        if first && accepted > 0 || refusal.is_some() {
            let position = self.known(peer);
            cx.emit(Event::PeerAnswered {
                job: self.text.clone(),
                peer: self.peer_text(position).to_owned(),
                accepted,
                refusal: refusal.map(|refusal| cut(refusal.clone())),
                message: refusal.map(said),
            });
        }
    }

    /// Whether `task` is the last attempt and out at `peer`.
    pub(super) fn holds(&self, peer: &PeerId, task: TaskRef) -> bool {
        let at = At::from(task);
        self.links
            .get(peer)
            .is_some_and(|link| link.held.contains(&at))
            && self
                .cell(at)
                .is_some_and(|cell| cell.attempt == task.attempt)
    }
}

/// What a line of text takes, in characters.
const LINE: usize = 400;

/// A refusal in words, cut to a line: it comes from a peer.
fn said(refusal: &Refusal) -> String {
    let words = printable(&refusal.to_string());
    words.chars().take(LINE).collect()
}

/// A refusal whose texts are cut to a line and only show themselves.
fn cut(mut refusal: Refusal) -> Refusal {
    let shorten = |text: &mut String| {
        *text = printable(text);
        if text.len() > LINE {
            text.truncate(text.floor_char_boundary(LINE));
        }
    };
    match &mut refusal {
        Refusal::NotAllowed { submitter: text }
        | Refusal::TooSmall { message: text }
        | Refusal::NotPermitted { message: text }
        | Refusal::Closed { message: text }
        | Refusal::Invalid { message: text } => shorten(text),
        Refusal::NoRuntime { runtime, message } => {
            shorten(runtime);
            shorten(message);
        }
        Refusal::NotOffering
        | Refusal::Full
        | Refusal::TemplateNeeded
        | Refusal::Stopping
        | Refusal::Draining => {}
    }
    refusal
}
