//! What nodes do with effects: the disk, the executor that only pretends, and dying in the middle.

use p2pnode_node::core::io::{CollectFailure, Effect, Input, RunEnd, RunKey};
use p2pnode_protocol::api::Event;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, TaskTemplate, Usage};
use p2pnode_protocol::{AttemptKey, PeerId};

use crate::fixture;
use crate::schedule::Plant;
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
        checked.map_err(|why| format!("node {number}: {why}"))?;
        self.set_wake(number);
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm an effect")]
    fn perform_one(&mut self, number: usize, effect: Effect) -> Result<(), Broken> {
        if self.trace {
            eprintln!("{:>8}   {number}: {effect:?}", self.now - 1_000_000);
        }
        let life = self.nodes[number].life;
        match effect {
            Effect::Persist(record) => {
                let node = &mut self.nodes[number];
                let checked = node.books.store(node.id, &self.truth, &record);
                checked.map_err(|why| format!("node {number}: {why}"))?;
                node.disk.apply(record);
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
                self.later(after, Happening::Open(number, to));
            }
            Effect::FindProviders => {}
            Effect::Advertise => {
                if !std::mem::replace(&mut self.nodes[number].advertises, true) {
                    self.later(100, Happening::Advertise(number));
                }
            }
            Effect::Prepare { hosted, template } => {
                let key = (hosted, template.step);
                if self.nodes[number].prepared.insert(key, false).is_some() {
                    return Err(format!("node {number} prepares {key:?} twice"));
                }
                let fails = self.schedule.prepare_fails;
                let result = if self.is_faulty() && self.rng.chance(fails) {
                    self.nodes[number].prepared.remove(&key);
                    Err(Failure::new(FailureKind::InputUnavailable, "pretended"))
                } else {
                    Ok(())
                };
                let after = self.rng.range(0, 1_500);
                let step = template.step;
                self.local(
                    number,
                    after,
                    Input::Prepared {
                        hosted,
                        step,
                        result,
                    },
                    false,
                );
            }
            Effect::Run { run, template, .. } => self.start_run(number, run, &template)?,
            Effect::Kill { run, why } => {
                let end = RunEnd {
                    outcome: Outcome::Failed(why),
                    usage: Usage::default(),
                    outputs: None,
                    log_bytes: 0,
                };
                let after = self.rng.range(0, 400);
                let node = number;
                self.later(
                    after,
                    Happening::RunEnds {
                        node,
                        life,
                        run,
                        end,
                    },
                );
            }
            Effect::DropOutputs(run) => {
                self.nodes[number].outputs.remove(&run);
            }
            Effect::Unhost(hosted) => {
                let node = &mut self.nodes[number];
                if node.running.keys().any(|run| run.hosted() == hosted) {
                    return Err(format!("node {number} forgot {hosted:?} while it runs"));
                }
                node.prepared.retain(|(of, _), _| *of != hosted);
            }
            Effect::Collect {
                peer,
                attempt,
                outputs,
                ..
            } => {
                let from = self.number(&peer)?;
                let after = self.delay();
                self.later(
                    after,
                    Happening::Collect {
                        node: number,
                        life,
                        from,
                        attempt,
                        wanted: outputs.is_some(),
                    },
                );
            }
            Effect::JobOver(_) => {}
            Effect::Emit(event) => self.on_event(number, &event)?,
            Effect::Stopped => self.crash(number),
        }
        Ok(())
    }

    fn number(&self, peer: &PeerId) -> Result<usize, Broken> {
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

    fn start_run(
        &mut self,
        number: usize,
        run: RunKey,
        template: &TaskTemplate,
    ) -> Result<(), Broken> {
        let node = &mut self.nodes[number];
        if node.prepared.get(&(run.hosted(), run.task().step)) != Some(&true) {
            return Err(format!("node {number} runs {run:?} without an environment"));
        }
        if node
            .running
            .insert(run, template.resources.clone())
            .is_some()
        {
            return Err(format!("node {number} runs {run:?} twice at once"));
        }
        node.check_running()?;
        let life = node.life;
        let lasts = self.rng.range(1, self.schedule.longest);
        let faulty = self.is_faulty();
        let failure = if self.rng.chance(self.schedule.task_fails) {
            Some(Failure::new(FailureKind::Exit(1), "pretended"))
        } else if faulty && self.rng.chance(self.schedule.host_fails) {
            Some(Failure::new(FailureKind::Host, "pretended"))
        } else {
            None
        };
        let outputs = failure.is_none() && self.rng.chance(500);
        let end = RunEnd {
            outcome: failure.map_or(Outcome::Succeeded, Outcome::Failed),
            usage: Usage {
                wall_us: lasts * 1_000,
                cpu_us: lasts * 1_000,
                memory_peak: 0,
            },
            outputs: outputs.then(|| fixture::blob(lasts)),
            log_bytes: if self.rng.chance(300) { 10 } else { 0 },
        };
        if self.rng.chance(700) {
            self.local(number, 0, Input::Started(run), false);
        }
        let node = number;
        self.later(
            lasts,
            Happening::RunEnds {
                node,
                life,
                run,
                end,
            },
        );
        Ok(())
    }

    pub fn on_run_ends(
        &mut self,
        number: usize,
        life: u32,
        run: RunKey,
        end: RunEnd,
    ) -> Result<(), Broken> {
        let node = &mut self.nodes[number];
        if node.life != life || node.running.remove(&run).is_none() {
            return Ok(());
        }
        if end.outcome == Outcome::Succeeded {
            self.truth.insert((node.id, run));
            if end.outputs.is_some() {
                node.outputs.insert(run);
            }
        }
        self.input(number, Input::Ended { run, end })
    }

    pub fn on_collect(
        &mut self,
        number: usize,
        life: u32,
        from: usize,
        attempt: AttemptKey,
        wanted: bool,
    ) -> Result<(), Broken> {
        if self.nodes[number].life != life {
            return Ok(());
        }
        let run = RunKey {
            submitter: self.nodes[number].id,
            attempt,
        };
        let there = from == number || self.nodes[number].open.contains_key(&from);
        let has = !wanted || self.nodes[from].outputs.contains(&run);
        let result = if there && has && self.nodes[from].core.is_some() {
            Ok(1_000)
        } else {
            Err(CollectFailure::Lost("pretended".into()))
        };
        self.input(number, Input::Collected { attempt, result })
    }
}
