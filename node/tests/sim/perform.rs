//! What nodes do with effects: the disk, the executor that only pretends, and dying in the middle.

use p2pnode_node::core::io::{Effect, Input};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

use crate::schedule::Plant;
use crate::stranger::{self, STRANGER};
use crate::world::{Broken, Happening, World};

impl World {
    /// Hands an input to a node that is up and does what follows.
    pub fn input(&mut self, number: usize, input: Input) -> Result<(), Broken> {
        let now = self.now;
        let Some(core) = self.nodes[number].core.as_mut() else {
            return Ok(());
        };
        let effects = core.handle(now, input);
        self.perform(number, effects)
    }

    /// Performs effects in order, or dies on the way.
    pub fn perform(&mut self, number: usize, mut effects: Vec<Effect>) -> Result<(), Broken> {
        if self.plant == Plant::AckBeforePersist {
            effects.sort_by_key(|effect| !matches!(effect, Effect::Respond { .. }));
        }
        let crash = self.schedule.crash / 2;
        let dies = self.is_faulty() && !effects.is_empty() && self.rng.chance(crash);
        let mut survives = effects.len();
        if dies {
            survives = self.rng.range(0, effects.len() as u64) as usize;
            // Records are written in groups: all of them may be stored and nothing else done.
            if self.rng.chance(300) {
                effects.retain(|effect| matches!(effect, Effect::Persist(_)));
                survives = effects.len();
            }
        }
        let life = self.nodes[number].life;
        for effect in effects.into_iter().take(survives) {
            self.perform_one(number, effect)?;
            if self.nodes[number].life != life {
                return Ok(());
            }
        }
        if dies {
            self.crash(number);
            return Ok(());
        }
        let node = &self.nodes[number];
        let checked = match self.plant {
            // The runs alone must show it.
            Plant::SlotGivenTwice => node.check_running().map(|_| ()),
            _ => node.check_slots(),
        };
        let checked = checked.and_then(|()| node.check_denied(self.now));
        checked.map_err(|why| format!("node {number}: {why}"))?;
        self.set_wake(number);
        Ok(())
    }

    fn perform_one(&mut self, number: usize, effect: Effect) -> Result<(), Broken> {
        if self.trace {
            eprintln!("{:>8}   {number}: {effect:?}", self.now - 1_000_000);
        }
        match effect {
            Effect::Persist(record) => {
                let node = &mut self.nodes[number];
                let checked = node.books.store(node.id, &self.truth, &record);
                checked.map_err(|why| format!("node {number}: {why}"))?;
                node.disk.apply(record.clone());
                node.journal.push(record);
            }
            Effect::Call {
                peer,
                call,
                request,
            } => {
                let to = self.number(&peer)?;
                self.send(number, to, call, request);
            }
            Effect::Respond { token, response } => {
                let Some(asked) = self.asked.remove(&token) else {
                    return Err(format!("node {number} answered twice"));
                };
                if asked.by == STRANGER {
                    return Ok(());
                }
                if let (TaskRequest::Report(report), TaskResponse::Reported { .. }) =
                    (&asked.request, &response)
                {
                    let from = self.nodes[asked.by].id;
                    let checked = self.nodes[number].books.acknowledge(from, report);
                    checked.map_err(|why| format!("node {number}: {why}"))?;
                }
                self.answer(number, &asked, response);
            }
            Effect::Connect(peer) => {
                let to = self.number(&peer)?;
                let after = self.rng.range(1, 300);
                if to != STRANGER {
                    self.later(after, Happening::Open(number, to));
                }
            }
            Effect::Advertise => {
                if !std::mem::replace(&mut self.nodes[number].advertises, true) {
                    self.later(100, Happening::Advertise(number));
                }
            }
            // Whom a power cut made forget may say what makes no sense to others.
            Effect::Blame(peer, breach) if peer != stranger::name() && self.schedule.power == 0 => {
                return Err(format!("node {number} blames an honest peer: {breach:?}"));
            }
            Effect::JobOver(_) | Effect::FindProviders | Effect::Blame(..) => {}
            Effect::Emit(event) => self.on_event(number, &event)?,
            Effect::Stopped => self.crash(number),
            other => self.execute(number, other)?,
        }
        Ok(())
    }

    pub fn number(&self, peer: &PeerId) -> Result<usize, Broken> {
        if *peer == stranger::name() {
            return Ok(STRANGER);
        }
        let found = self.nodes.iter().position(|node| node.id == *peer);
        found.ok_or_else(|| format!("nobody is {peer}"))
    }

    fn on_event(&mut self, number: usize, event: &Event) -> Result<(), Broken> {
        let Event::JobFinished {
            job,
            tasks,
            peers,
            no_peer,
            notes,
            ..
        } = event
        else {
            return Ok(());
        };
        let id = job.parse().map_err(|_| format!("not a job: {job}"))?;
        if !self.finished.insert(id) {
            return Err(format!("job {job} finished twice"));
        }
        let settled = tasks.succeeded + tasks.failed + tasks.cancelled;
        let by_peer: u64 = peers.values().sum();
        if settled != tasks.total
            || by_peer != tasks.succeeded
            || tasks.pending + tasks.queued + tasks.running > 0
        {
            return Err(format!("job {job} counted {tasks:?}, by peer {by_peer}"));
        }
        let stored = self.nodes[number].books.settled(id);
        if stored != (tasks.succeeded, tasks.failed) {
            return Err(format!("job {job} counted {tasks:?} and stored {stored:?}"));
        }
        if *no_peer {
            return Err(format!("job {job} gave up: {notes:?}"));
        }
        Ok(())
    }
}
