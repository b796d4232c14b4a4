//! Everything that p2pnode decides, without touching the world.
//!
//! The driver hands in what happened ([`io::Input`]) with the time, and performs what comes out
//! ([`io::Effect`]). [`Core`] owns four parts and brings each input to the one that it is for:
//! [`peers`] (who is there and what they say they have), [`submit`] (this node's own jobs), [`host`]
//! (jobs of others, and its own as one of them) and [`desk`] (calls, deadlines, counters). The two
//! sides never look into one another: this node is a peer of itself.
//!
//! Nothing here may read a clock, draw a random number, block, or depend on the order of a hash
//! table: the same inputs give the same effects, so that a seed reproduces a run of the simulation
//! (`tests/sim/`). A peer's misbehaviour is data: it is counted and answered, never a panic.

mod config;
mod desk;
mod host;
pub mod io;
mod meant;
mod own;
mod peers;
mod record;
mod sizes;
mod snapshot;
mod stop;
mod submit;
mod view;

#[cfg(test)]
mod tests;

pub use config::{CoreConfig, Faults, HostConfig, SubmitConfig};
pub use desk::Counters;
pub use view::CapacityView;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

use desk::{CallKind, Cx, Desk, Timer};
use host::Host;
use io::{CallFailure, CallId, Effect, Input, Millis, RequestToken, Snapshot};
use own::Free;
use peers::{News, Peers};
use stop::Stopping;
use submit::Submit;

/// The decisions of one node. See the module.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    desk: Desk,
    peers: Peers,
    submit: Submit,
    host: Host,
    stopping: Stopping,
    /// What was free when an advert was last asked for.
    advertised: Free,
}

impl Core {
    /// A node's core as it wakes up, and what it does first.
    #[must_use]
    pub fn new(config: CoreConfig, snapshot: Snapshot, now: Millis) -> (Self, Vec<Effect>) {
        let mut core = Self {
            peers: Peers::new(config.me),
            config,
            desk: Desk::default(),
            submit: Submit::default(),
            host: Host::default(),
            stopping: Stopping::default(),
            advertised: Free::default(),
        };
        let mut out = Vec::new();
        let Snapshot {
            jobs,
            hosted,
            offer,
            draining,
            allowed,
            requests,
        } = snapshot;
        {
            let mut cx = Cx {
                now,
                config: &core.config,
                desk: &mut core.desk,
                out: &mut out,
            };
            core.host
                .restore(&mut cx, (offer, draining), allowed, requests, hosted);
            core.submit.restore(&mut cx, &mut core.peers, jobs);
        }
        core.refresh_own();
        core.conclude(now, &mut out);
        (core, out)
    }

    /// Takes in what happened and says what is to be done, in order. `now` never runs backwards.
    /// Deadlines that are due are handled first, so a [`Input::Tick`] is only needed when nothing
    /// else happens.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.stopping.is_over() {
            return out;
        }
        self.on_input(now, &mut out, input);
        self.on_deadlines(now, &mut out);
        self.conclude(now, &mut out);
        out
    }

    /// When the core wants to be asked again, should nothing happen before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.desk.timers.next()
    }

    fn on_input(&mut self, now: Millis, out: &mut Vec<Effect>, input: Input) {
        let mut cx = Cx {
            now,
            config: &self.config,
            desk: &mut self.desk,
            out,
        };
        let cx = &mut cx;
        match input {
            Input::Tick => {}
            Input::Connected(peer) => {
                self.peers.on_connected(now, peer);
                self.submit.on_connected(cx, &self.peers, peer);
                self.host.on_connected(cx, peer);
            }
            Input::Disconnected(peer) => {
                self.peers.on_disconnected(now, peer);
                self.submit.on_disconnected(cx, &mut self.peers, peer);
            }
            Input::Member(peer) => self.host.on_member(cx, peer),
            Input::Advert { peer, advert } => self.on_advert(now, out, peer, advert),
            Input::Request {
                peer,
                token,
                request,
            } => self.on_request(now, out, peer, token, request),
            Input::Response {
                peer,
                call,
                response,
            } => self.on_response(now, out, peer, call, response),
            Input::Submit { job, plan, out } => self.submit.on_submit(cx, job, plan, out),
            Input::Cancel(job) => self.submit.on_cancel(cx, &self.peers, job),
            Input::Offer(terms) => {
                self.host.on_terms(cx, terms);
                self.on_own_offer(now, out);
            }
            Input::Allow { peer, grant } => self.host.on_allow(cx, peer, grant),
            Input::Conditions(conditions) => self.host.on_conditions(cx, conditions),
            Input::Kill { meant, reason } => self.host.on_kill(cx, &meant, &reason),
            Input::Drain(on) => {
                self.host.on_drain(cx, on);
                self.on_own_offer(now, out);
            }
            Input::Runtimes(runtimes) => {
                self.host.on_runtimes(cx, runtimes);
                self.on_own_offer(now, out);
            }
            Input::Stop => self.on_stop(now, out),
            Input::Preparing {
                hosted,
                step,
                phase,
                done,
                total,
            } => self.host.on_preparing(hosted, step, phase, done, total),
            Input::Prepared {
                hosted,
                step,
                making,
                result,
            } => self.host.on_prepared(cx, hosted, (step, making), result),
            Input::Started(run) => self.host.on_started(run),
            Input::Ended { run, end } => self.host.on_ended(cx, run, end),
            Input::Collected { attempt, result } => self.submit.on_collected(cx, attempt, result),
            Input::Served { job, bytes } => self.submit.on_served(job, bytes),
        }
    }

    fn cx<'a>(&'a mut self, now: Millis, out: &'a mut Vec<Effect>) -> (Cx<'a>, Parts<'a>) {
        let cx = Cx {
            now,
            config: &self.config,
            desk: &mut self.desk,
            out,
        };
        let parts = Parts {
            peers: &mut self.peers,
            submit: &mut self.submit,
            host: &mut self.host,
            stopping: &mut self.stopping,
        };
        (cx, parts)
    }

    fn on_advert(
        &mut self,
        now: Millis,
        out: &mut Vec<Effect>,
        peer: PeerId,
        mut advert: Box<Advert>,
    ) {
        advert.tame();
        let (mut cx, parts) = self.cx(now, out);
        let name = advert.name.clone();
        let news = parts.peers.on_advert(&mut cx, peer, advert);
        if news == News::Ignored {
            return;
        }
        if news == News::Appeared {
            cx.emit(Event::PeerFound {
                peer: peer.to_base58(),
                name,
            });
        }
        parts.submit.on_advert(&cx, peer, news != News::Same);
    }

    fn on_request(
        &mut self,
        now: Millis,
        out: &mut Vec<Effect>,
        peer: PeerId,
        token: RequestToken,
        request: TaskRequest,
    ) {
        let (mut cx, parts) = self.cx(now, out);
        match request {
            TaskRequest::Report(report) => parts.submit.on_report(&mut cx, peer, token, report),
            TaskRequest::Goodbye => {
                parts.submit.on_goodbye(&mut cx, peer);
                parts.host.on_goodbye(&mut cx, peer);
                cx.respond(token, TaskResponse::Done);
            }
            request => {
                let response = parts.host.on_request(&mut cx, peer, request);
                cx.respond(token, response);
            }
        }
    }

    fn on_response(
        &mut self,
        now: Millis,
        out: &mut Vec<Effect>,
        peer: PeerId,
        call: CallId,
        response: Result<TaskResponse, CallFailure>,
    ) {
        let (mut cx, parts) = self.cx(now, out);
        let Some((asked, kind)) = cx.desk.calls.remove(&call) else {
            return;
        };
        if asked != peer {
            // The driver's fault, not a peer's: answers belong to calls.
            cx.counters().invalid_messages += 1;
            return;
        }
        match &kind {
            CallKind::Report(hosted) => {
                let hosted = *hosted;
                parts
                    .host
                    .on_report_answer(&mut cx, hosted, call, response.clone());
            }
            CallKind::Goodbye => parts.stopping.on_goodbye_answered(call),
            _ => {}
        }
        parts
            .submit
            .on_response(&mut cx, parts.peers, peer, call, kind, response);
    }

    fn on_deadlines(&mut self, now: Millis, out: &mut Vec<Effect>) {
        // One that is set again for now waits for the next input, so that this ends whatever happens.
        for _ in 0..self.desk.timers.len() {
            let Some(timer) = self.desk.timers.due(now) else {
                return;
            };
            let (mut cx, parts) = self.cx(now, out);
            match timer {
                Timer::Stop => parts.stopping.on_deadline(),
                Timer::Provider(peer) => {
                    parts
                        .submit
                        .on_provider_deadline(&mut cx, parts.peers, peer);
                }
                Timer::Job(job) => parts.submit.on_job_deadline(job, None),
                Timer::Link(job, peer) => parts.submit.on_job_deadline(job, Some(peer)),
                Timer::Close(job, peer) => {
                    parts
                        .submit
                        .on_close_deadline(&mut cx, parts.peers, job, peer);
                }
                Timer::Lease(hosted) => parts.host.on_lease_deadline(&mut cx, hosted),
                Timer::Report(hosted) => parts.host.on_report_deadline(&mut cx, hosted),
                Timer::Permission => parts.host.on_permission_ended(&mut cx),
                Timer::Advert(peer) => parts.peers.on_expired(peer),
            }
        }
    }

    /// What follows from an input as a whole.
    fn conclude(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let is_stopping = self.stopping.is_under_way();
        let (mut cx, parts) = self.cx(now, out);
        parts.submit.settle(&mut cx, parts.peers, is_stopping);
        parts.host.settle(&mut cx);
        self.note_free(out);
        let done = self.host.running() == 0 && self.submit.has_said_farewell();
        if self.stopping.ends(done) {
            out.push(Effect::Stopped);
        }
    }
}

/// The parts, lent beside a [`Cx`].
struct Parts<'a> {
    peers: &'a mut Peers,
    submit: &'a mut Submit,
    host: &'a mut Host,
    stopping: &'a mut Stopping,
}
