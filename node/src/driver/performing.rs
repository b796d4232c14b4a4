//! Performs what the core decided, once the records before it are on disk.

use std::path::PathBuf;
use std::sync::Arc;

use p2pnode_protocol::PeerId;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

use super::actor::Driver;
use super::collecting::Errand;
use crate::core::io::{CallId, Effect, Input, RequestToken};
use crate::exec::RunAbout;

impl Driver {
    pub(super) fn call(&mut self, peer: PeerId, call: CallId, mut request: TaskRequest) {
        if peer == self.me {
            self.hosting.logins().take_from(peer, &mut request);
            let token = self.calls.token_for_own(call);
            self.own.push_back(Input::Request {
                peer,
                token,
                request,
            });
        } else {
            self.calls.call(peer, call, request);
        }
    }

    fn respond(&mut self, token: RequestToken, response: TaskResponse) {
        if let Some((call, response)) = self.calls.respond(token, response) {
            let response = Ok(response);
            self.own.push_back(Input::Response {
                peer: self.me,
                call,
                response,
            });
        }
    }

    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            // Taken out before the batch went to the writer.
            Effect::Persist(_) | Effect::Unrun { .. } => {}
            Effect::Call {
                peer,
                call,
                request,
            } => {
                self.inbound.note_call(peer, call, &request);
                match self.own_logins.of(&request) {
                    Some((image, login)) => self.calls.attach(peer, call, request, image, login),
                    None => self.call(peer, call, request),
                }
            }
            Effect::Respond { token, response } => self.respond(token, response),
            Effect::Connect(peer) => self.calls.connect(peer),
            Effect::FindProviders => self.calls.find_providers(),
            Effect::Advertise => self.advertiser.on_change(self.clock.now()),
            Effect::Prepare {
                hosted,
                template,
                making,
                leave,
            } => self.hosting.prepare(hosted, template, making, leave),
            Effect::StopPreparing { hosted, step } => self.hosting.stop_preparing(&hosted, step),
            Effect::Run {
                run,
                template,
                assignment,
                gpus,
                limits,
            } => {
                let since_ms = self.clock.now();
                let about = RunAbout {
                    template,
                    gpus,
                    since_ms,
                };
                self.hosting.run(run, about, assignment, limits);
            }
            Effect::Kill { run, why } => self.hosting.kill(&run, why),
            Effect::DropOutputs(run) => self.hosting.drop_outputs(&run),
            Effect::Unhost(hosted) => self.hosting.unhost(&hosted),
            Effect::Collect {
                peer,
                attempt,
                outputs,
                log_bytes,
                plan,
                out,
            } => self.collecting.collect(Errand {
                peer,
                attempt,
                outputs,
                log_bytes,
                plan,
                out: out.map(PathBuf::from),
            }),
            Effect::Blame(peer, breach) => self.calls.blame(peer, breach),
            Effect::Forsake(attempt) => self.collecting.forsake(attempt),
            Effect::JobOver(job) => {
                self.own_logins.remove(job);
                self.inbound.on_job_over(job);
                self.collecting.on_job_over(job);
            }
            Effect::Emit(event) => {
                // Nobody may be watching.
                let _watchers = self.events.send(Arc::new(event));
            }
            Effect::Stopped => self.stopped = true,
        }
    }
}
