//! The loop around the core: what happens becomes inputs, and effects are performed once the records
//! before them are on disk.
//!
//! Owns the [`Core`]. Every batch of inputs makes one batch of effects; its records go through the
//! store's writer and the effects come back, in order, after the commit. So nothing leaves this
//! process that a crash could make untrue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::TaskRequest;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use super::advertising::Advertiser;
use super::calls::Calls;
use super::clock::Clock;
use super::collecting::Collecting;
use super::conditions::Watch;
use super::history::PastBook;
use super::hosting::Hosting;
use super::inbound::Inbound;
use super::logins::OwnLogins;
use super::metrics::Watcher;
use super::owner::Owner;
use crate::command::Command;
use crate::core::Core;
use crate::core::io::{CallId, Effect, Input, Record, RunEnd, RunKey};
use crate::networks::{NetworkEvent, NetworkEvents};
use crate::store::{Committed, History, StoreError, Writer};

/// Inputs handled before their effects are passed on, so that one commit serves many and no source
/// waits long for the others.
const MAX_BATCH: usize = 512;

/// Batches between the core and the disk. Each waits for at most one commit; 32 of them keep the
/// writer busy while bounding what a crash can undo.
const MAX_IN_FLIGHT: usize = 32;

/// Said by the driver's own tasks to the loop.
pub(super) enum Internal {
    /// For the core.
    Input(Input),
    /// For the core; `then` is called when what the core made of it is on disk.
    Stored {
        /// What happened.
        inputs: Vec<Input>,
        /// What to do then.
        then: AfterCommit,
    },
    /// A call of the core's, with what had to be read for it.
    Call {
        /// Whom.
        peer: PeerId,
        /// Which call.
        call: CallId,
        /// What.
        request: TaskRequest,
    },
    /// The runtimes were asked how they are.
    Probed(super::probing::Probed),
}

/// Something to be said once records are on disk.
pub(super) type AfterCommit = Box<dyn FnOnce() + Send>;

/// The effects of a batch, on their way through the writer.
pub(super) struct Batch {
    effects: Vec<Effect>,
    then: Vec<AfterCommit>,
}

/// See the module.
pub(super) struct Driver {
    pub(super) core: Core,
    pub(super) clock: Clock,
    pub(super) me: PeerId,
    pub(super) writer: Writer<Batch>,
    pub(super) committed: Committed<Batch>,
    pub(super) net_events: NetworkEvents,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) internal: mpsc::Receiver<Internal>,
    pub(super) events: broadcast::Sender<Arc<Event>>,
    pub(super) calls: Calls,
    pub(super) inbound: Inbound,
    pub(super) hosting: Hosting,
    pub(super) collecting: Collecting,
    pub(super) advertiser: Advertiser,
    pub(super) owner: Owner,
    pub(super) conditions: Watch,
    pub(super) own_logins: OwnLogins,
    /// What ran here, for the owner to ask about.
    pub(super) history: History,
    /// What ended here and is not stored yet.
    pub(super) past: PastBook,
    pub(super) watcher: Watcher,
    /// Inputs that this node causes itself, such as messages to itself.
    pub(super) own: VecDeque<Input>,
    pub(super) in_flight: usize,
    pub(super) then: Vec<AfterCommit>,
    pub(super) stopped: bool,
}

impl Driver {
    /// Runs until the core says that the node may end, or the store fails.
    ///
    /// `first` are the effects of waking up.
    pub(super) async fn run(mut self, first: Vec<Effect>) -> Result<(), super::NodeError> {
        self.pass_on(first)?;
        while !self.stopped {
            let may_think = self.in_flight < MAX_IN_FLIGHT;
            let deadline = self.next_deadline();
            let mut inputs = Vec::new();
            if may_think {
                inputs.extend(self.own.drain(..));
            }
            if inputs.is_empty() {
                // Local work comes before new work from the network.
                tokio::select! {
                    biased;
                    committed = self.committed.recv() => self.on_committed(committed)?,
                    Some(said) = self.internal.recv(), if may_think => self.on_internal(said, &mut inputs),
                    Some(command) = self.commands.recv(), if may_think => self.on_command(command, &mut inputs),
                    event = self.net_events.recv(), if may_think => {
                        let event = event.ok_or(super::NodeError::NetworkEnded)?;
                        self.on_net(event, &mut inputs);
                    }
                    () = tokio::time::sleep_until(deadline), if may_think => self.on_deadline(&mut inputs),
                }
            }
            if may_think {
                self.gather_more(&mut inputs);
                self.think(inputs)?;
            }
        }
        Ok(())
    }

    /// Takes what else waits, without waiting.
    fn gather_more(&mut self, inputs: &mut Vec<Input>) {
        while inputs.len() < MAX_BATCH {
            if let Ok(said) = self.internal.try_recv() {
                self.on_internal(said, inputs);
            } else if let Some(Some(event)) = self.net_events.recv().now_or_never() {
                self.on_net(event, inputs);
            } else {
                return;
            }
        }
    }

    fn think(&mut self, inputs: Vec<Input>) -> Result<(), super::NodeError> {
        if inputs.is_empty() && self.then.is_empty() {
            return Ok(());
        }
        let mut effects = Vec::new();
        let now = self.clock.now();
        for input in inputs {
            if let Input::Submit { job, plan, .. } = &input {
                self.own_logins.add(*job, plan);
            }
            self.watcher.on_input(&input);
            effects.append(&mut self.core.handle(now, input));
        }
        self.hosting.logins().sift(&self.core);
        self.pass_on(effects)
    }

    /// Sends effects through the writer; they are performed when they come back.
    fn pass_on(&mut self, effects: Vec<Effect>) -> Result<(), super::NodeError> {
        let mut records: Vec<Record> = Vec::new();
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Persist(record) => records.push(record),
                Effect::Unrun {
                    hosted,
                    template,
                    tasks,
                    failure,
                } => {
                    let now = self.clock.now();
                    self.past.on_unrun(hosted, &template, &tasks, &failure, now);
                }
                other => rest.push(other),
            }
        }
        self.store_past();
        if records.is_empty() && rest.is_empty() && self.then.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            effects: rest,
            then: std::mem::take(&mut self.then),
        };
        self.in_flight += 1;
        // Never full: the writer's queue is longer than what may be in flight.
        Ok(self.writer.try_commit(records, batch)?)
    }

    /// Hands what ended here to the writer, ahead of the records about it.
    fn store_past(&mut self) {
        let past = self.past.take();
        if !past.is_empty()
            && let Err(past) = self.writer.note_past(past)
        {
            self.past.put_back(past);
        }
    }

    fn on_committed(
        &mut self,
        committed: Option<Result<Batch, StoreError>>,
    ) -> Result<(), super::NodeError> {
        let batch = committed.ok_or(super::NodeError::StoreClosed)??;
        self.in_flight -= 1;
        for effect in batch.effects {
            self.watcher.on_effect(&effect);
            self.perform(effect);
        }
        for then in batch.then {
            then();
        }
        Ok(())
    }

    fn on_internal(&mut self, said: Internal, inputs: &mut Vec<Input>) {
        match said {
            Internal::Input(input) => {
                match &input {
                    Input::Started(run) => self.hosting.on_started(run),
                    Input::Ended { run, end } => self.on_run_ended(run, end),
                    Input::Response { call, response, .. } => {
                        self.inbound.note_answer(*call, response);
                    }
                    _ => {}
                }
                inputs.push(input);
            }
            Internal::Stored {
                inputs: stored,
                then,
            } => {
                inputs.extend(stored);
                self.then.push(then);
            }
            Internal::Call {
                peer,
                call,
                request,
            } => self.call(peer, call, request),
            Internal::Probed(probed) => {
                self.owner.set_runtimes(&probed);
                self.advertiser.set_images(probed.images);
                inputs.push(Input::Runtimes(probed.working));
            }
        }
    }

    /// A run's end is on its way to the core.
    fn on_run_ended(&mut self, run: &RunKey, end: &RunEnd) {
        if let Some(about) = self.hosting.on_ended(run) {
            self.past.on_ended(run, &about, end, self.clock.now());
        }
    }

    fn on_net(&mut self, event: NetworkEvent, inputs: &mut Vec<Input>) {
        match event {
            NetworkEvent::Connected(peer) => inputs.push(Input::Connected(peer)),
            NetworkEvent::Disconnected(peer) => {
                self.collecting.on_disconnected(peer);
                inputs.push(Input::Disconnected(peer));
            }
            NetworkEvent::Member(peer) => inputs.push(Input::Member(peer)),
            NetworkEvent::Advert { peer, advert } => inputs.push(Input::Advert { peer, advert }),
            NetworkEvent::Request {
                peer,
                id,
                mut request,
            } => {
                self.hosting.logins().take_from(peer, &mut request);
                self.inbound.note_request(peer, &request);
                let token = self.calls.token_for(id);
                inputs.push(Input::Request {
                    peer,
                    token,
                    request,
                });
            }
            NetworkEvent::Stream { peer, kind, stream } => {
                self.inbound.on_stream(peer, kind, stream)
            }
            NetworkEvent::ShutOut { peer, misdeed } => {
                tracing::warn!(%peer, misdeed = misdeed.name(), "a peer is shut out for what it did");
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let wake = [
            self.core.next_deadline(),
            self.advertiser.next_deadline(),
            self.conditions.next_deadline(),
        ];
        let now = self.clock.now();
        // Nothing planned: look again in an hour, which is as good as never.
        let wait = wake
            .into_iter()
            .flatten()
            .min()
            .map_or(3_600_000, |at| at.saturating_sub(now));
        Instant::now() + Duration::from_millis(wait)
    }

    fn on_deadline(&mut self, inputs: &mut Vec<Input>) {
        let now = self.clock.now();
        self.advertiser.on_tick(now, &self.core);
        let used_us = self.hosting.contained_cpu_us();
        self.conditions.on_tick(now, &self.core, used_us);
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            inputs.push(Input::Tick);
        }
    }
}
