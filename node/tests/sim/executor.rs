//! An executor and a collector that only pretend.

use p2pnode_node::core::io::{CollectFailure, Effect, HostedJob, Input, RunEnd, RunKey};
use p2pnode_protocol::AttemptKey;
use p2pnode_protocol::task::{Failure, FailureKind, Outcome, TaskTemplate, Usage};

use crate::fixture;
use crate::node::Making;
use crate::schedule::Plant;
use crate::world::{Broken, Happening, World};

impl World {
    /// Performs what concerns hosted jobs and their outputs.
    pub fn execute(&mut self, number: usize, effect: Effect) -> Result<(), Broken> {
        let life = self.nodes[number].life;
        match effect {
            Effect::Prepare {
                hosted,
                template,
                making,
                ..
            } => self.prepare(number, hosted, template.step, making)?,
            Effect::StopPreparing { hosted, step } => self.stop_preparing(number, hosted, step),
            Effect::Run { run, template, .. } => self.start_run(number, run, &template)?,
            Effect::Kill { run, why } => {
                self.nodes[number].killed.insert(run);
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
            Effect::Forsake(attempt) => {
                self.nodes[number].errands.remove(&attempt);
            }
            Effect::Collect {
                peer,
                attempt,
                outputs,
                ..
            } => {
                let from = self.number(&peer)?;
                let after = self.delay();
                self.errands += 1;
                let errand = self.errands;
                self.nodes[number].errands.insert(attempt, errand);
                self.later(
                    after,
                    Happening::Collect {
                        node: number,
                        errand,
                        from,
                        attempt,
                        wanted: outputs.is_some(),
                    },
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn stop_preparing(&mut self, number: usize, hosted: HostedJob, step: u16) {
        if self.plant != Plant::StopIgnored {
            self.nodes[number].prepared.remove(&(hosted, step));
        }
    }

    fn prepare(
        &mut self,
        number: usize,
        hosted: HostedJob,
        step: u16,
        making: u32,
    ) -> Result<(), Broken> {
        let key = (hosted, step);
        let fresh = Making {
            making,
            done: false,
        };
        let twice = self.nodes[number].prepared.insert(key, fresh).is_some();
        // That shows the bug as well, but not whom it is for.
        if twice && self.plant != Plant::StopIgnored {
            return Err(format!("node {number} prepares {key:?} twice"));
        }
        let fails = self.schedule.prepare_fails;
        let result = if self.is_faulty() && self.rng.chance(fails) {
            Err(Failure::new(FailureKind::InputUnavailable, "pretended"))
        } else {
            Ok(())
        };
        let after = self.rng.range(0, 1_500);
        let input = Input::Prepared {
            hosted,
            step,
            making,
            result,
        };
        self.local(number, after, input, false);
        Ok(())
    }

    pub fn start_run(
        &mut self,
        number: usize,
        run: RunKey,
        template: &TaskTemplate,
    ) -> Result<(), Broken> {
        let node = &mut self.nodes[number];
        if node.is_draining() {
            return Err(format!("node {number} drains and starts {run:?}"));
        }
        let made = node.prepared.get(&(run.hosted(), run.task().step));
        if !made.is_some_and(|made| made.done) {
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
                ..Usage::default()
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
        node.killed.remove(&run);
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
        errand: u64,
        from: usize,
        attempt: AttemptKey,
        wanted: bool,
    ) -> Result<(), Broken> {
        // It was forsaken, or its node died.
        if self.nodes[number].errands.get(&attempt) != Some(&errand) {
            return Ok(());
        }
        self.nodes[number].errands.remove(&attempt);
        let run = RunKey {
            submitter: self.nodes[number].id,
            attempt,
        };
        let there = from == number || self.nodes[number].open.contains_key(&from);
        let has = !wanted || self.nodes[from].outputs.contains(&run);
        // A transfer may also break off although both are there.
        let breaks = wanted && self.chance(50);
        let result = if breaks || !there || self.nodes[from].core.is_none() {
            Err(CollectFailure::Away("pretended".into()))
        } else if has {
            let checked = self.nodes[number].books.written(attempt);
            checked.map_err(|why| format!("node {number}: {why}"))?;
            Ok(1_000)
        } else {
            Err(CollectFailure::Lost("pretended".into()))
        };
        self.input(number, Input::Collected { attempt, result })
    }
}
