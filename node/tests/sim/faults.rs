//! How nodes come up and die, and what goes wrong by itself.

use std::collections::BTreeSet;

use p2pnode_node::core::io::{Conditions, Input, Meant, OfferTerms, RuntimeFeatures};
use p2pnode_node::core::{Core, CoreConfig};
use p2pnode_protocol::Capacity;
use p2pnode_protocol::offer::{Grant, OfferRules, OnClose};
use p2pnode_protocol::task::RuntimeKind;

use crate::fixture;
use crate::schedule::{LONGEST_DEATH_MS, Plant};
use crate::world::{Broken, Happening, World};

/// A lease of 60 s, messages that were up to 20 s on their way, and the time to kill.
const ORPHANED_MS: u64 = 82_000;

impl World {
    /// A node comes up with what its disk holds.
    pub fn start(&mut self, number: usize) -> Result<(), Broken> {
        if self.nodes[number].core.is_some() {
            return Ok(());
        }
        let node = &mut self.nodes[number];
        // As in a real node, what nothing stored speaks of is nobody's.
        let kept = node.disk.hosted.iter().flat_map(|hosted| &hosted.kept);
        let kept: BTreeSet<_> = kept.map(|(run, _)| *run).collect();
        node.outputs.retain(|run| kept.contains(run));
        let mut config = CoreConfig::new(node.id);
        config.submit.max_moves = 250;
        config.submit.max_rest_ms = 30_000;
        config.host.max_keep_ms = 60_000;
        config.faults.stale_attempt_accepted = self.plant == Plant::StaleAttemptAccepted;
        config.faults.slot_given_twice = self.plant == Plant::SlotGivenTwice;
        let fresh = node.disk.offer.is_none();
        let (core, effects) = Core::new(config, node.disk.clone(), self.now);
        node.core = Some(core);
        node.down_since = None;
        let cpus = node.cpus;
        self.perform(number, effects)?;
        self.input(
            number,
            Input::Runtimes(vec![(RuntimeKind::Wasm, Ok(RuntimeFeatures::default()))]),
        )?;
        if fresh {
            let rules = OfferRules {
                not_on_battery: true,
                on_close: [OnClose::Finish, OnClose::Stop][number % 2],
                ..OfferRules::default()
            };
            let total = Capacity {
                gpus: vec![fixture::shared_gpu()],
                ..fixture::capacity(cpus)
            };
            let terms = OfferTerms {
                total,
                // Every other node names those whom it lets in, and the stranger is not among them.
                allow_any: number.is_multiple_of(2),
                rules,
            };
            self.input(number, Input::Offer(terms))?;
            self.let_in(number)?;
        }
        self.input(number, Input::Conditions(Conditions::default()))?;
        for other in 0..self.nodes.len() {
            if other != number {
                let after = self.rng.range(1, 500);
                self.later(after, Happening::Open(number, other));
            }
        }
        Ok(())
    }

    /// A node dies at once.
    pub fn crash(&mut self, number: usize) {
        if self.trace {
            eprintln!("{:>8} node {number} dies", self.now - 1_000_000);
        }
        self.tally.deaths += 1;
        if let Some(core) = &self.nodes[number].core {
            self.tally.add_core(core);
        }
        self.nodes[number].die(self.now);
        if self.chance(self.schedule.power) {
            let count = self.rng.range(1, 12) as usize;
            for job in self.nodes[number].forget(count, &self.truth) {
                self.finished.remove(&job);
            }
        }
        for other in 0..self.nodes.len() {
            if let Some(generation) = self.nodes[other].open.get(&number).copied() {
                let after = if self.rng.chance(150) {
                    self.rng.range(500, 15_000)
                } else {
                    self.rng.range(0, 50)
                };
                self.later(
                    after,
                    Happening::Close {
                        node: other,
                        peer: number,
                        generation,
                    },
                );
            }
        }
        // Some come back at once, some only when everybody has given them up.
        let longest = if self.rng.chance(200) {
            LONGEST_DEATH_MS
        } else {
            12_000
        };
        let after = self.rng.range(50, longest);
        self.later(after, Happening::Start(number));
    }

    /// What goes wrong by itself, and what mends itself.
    pub fn on_second(&mut self) -> Result<(), Broken> {
        let after = if self.is_faulty() { 1_000 } else { 5_000 };
        self.later(after, Happening::Second);
        let count = self.nodes.len();
        for a in 0..count {
            for b in 0..a {
                let apart =
                    !self.nodes[a].open.contains_key(&b) || !self.nodes[b].open.contains_key(&a);
                if apart && self.rng.chance(300) {
                    self.later(1, Happening::Open(a, b));
                }
            }
        }
        let a = self.rng.range(0, count as u64 - 1) as usize;
        let b = self.rng.range(0, count as u64 - 1) as usize;
        if a != b && self.chance(self.schedule.cut) {
            self.cut.insert((a, b));
            if self.rng.chance(700) {
                self.cut.insert((b, a));
            }
            let until = self.rng.range(500, 90_000);
            self.later(until, Happening::Heal(a, b));
        }
        if a != b && self.chance(self.schedule.close) {
            for (node, peer) in [(a, b), (b, a)] {
                if let Some(generation) = self.nodes[node].open.get(&peer).copied() {
                    let after = self.rng.range(0, 100);
                    self.later(
                        after,
                        Happening::Close {
                            node,
                            peer,
                            generation,
                        },
                    );
                }
            }
        }
        if self.chance(self.schedule.crash) && self.nodes[a].core.is_some() {
            if self.rng.chance(500) {
                return self.input(a, Input::Stop);
            }
            self.crash(a);
        }
        self.check_orphans()?;
        if self.chance(self.schedule.stranger) {
            self.meddle(b)?;
        }
        self.charge(b)?;
        // Adverts are repeated now and then.
        if self.rng.chance(100) {
            self.later(0, Happening::Advertise(a));
        }
        Ok(())
    }

    /// A node's owner allows all others, without limits.
    fn let_in(&mut self, number: usize) -> Result<(), Broken> {
        for peer in (0..self.nodes.len()).map(fixture::peer) {
            let grant = Some(Grant::default());
            self.input(number, Input::Allow { peer, grant })?;
        }
        Ok(())
    }

    /// What owners take back when nothing goes wrong any more: a drain, a closed gate, a denial.
    fn calm(&mut self) -> Result<(), Broken> {
        for number in 0..self.nodes.len() {
            let Some(core) = &self.nodes[number].core else {
                continue;
            };
            let view = core.capacity();
            let allowed = core.allowed_peers();
            let limited = allowed.len() < self.nodes.len()
                || allowed.values().any(|grant| *grant != Grant::default());
            if core.is_draining() {
                self.input(number, Input::Drain(false))?;
            }
            if view.closed.is_some() {
                self.input(number, Input::Conditions(Conditions::default()))?;
            }
            if limited && !view.allow_any {
                self.let_in(number)?;
            }
        }
        Ok(())
    }

    /// The machine's power comes and goes, or a permission does.
    fn unsettle(&mut self, number: usize) -> Result<(), Broken> {
        if self.rng.chance(500) {
            let on_battery = Some(self.rng.chance(500));
            let conditions = Conditions {
                on_battery,
                ..Conditions::default()
            };
            return self.input(number, Input::Conditions(conditions));
        }
        let peer = fixture::peer(self.rng.range(0, self.nodes.len() as u64 - 1) as usize);
        let grant = match self.rng.range(0, 2) {
            0 => None,
            1 => Some(Grant {
                tasks: Some(self.rng.range(1, 9)),
                until_ms: Some(self.now + self.rng.range(1, 30_000)),
                images: Vec::new(),
            }),
            _ => Some(Grant::default()),
        };
        self.input(number, Input::Allow { peer, grant })
    }

    /// What owners do.
    fn charge(&mut self, number: usize) -> Result<(), Broken> {
        if !self.is_faulty() {
            return self.calm();
        }
        if !self.chance(self.schedule.owner) {
            return Ok(());
        }
        let node = &self.nodes[number];
        let Some(core) = &node.core else {
            return Ok(());
        };
        let hosted = core.hosted_jobs();
        let run = node.running.keys().next().copied();
        let meant = match (self.rng.range(0, 5), run, hosted.first()) {
            (5, ..) => return self.unsettle(number),
            (0, ..) => {
                let on = !core.is_draining();
                self.tally.drains += u64::from(on);
                return self.input(number, Input::Drain(on));
            }
            (1, Some(run), _) => Meant::Task(run.hosted(), run.task().step, run.task().index),
            (2, _, Some(hosted)) => Meant::Job(*hosted),
            (3, _, Some(hosted)) => Meant::Peer(hosted.submitter),
            _ => return Ok(()),
        };
        self.tally.kills += 1;
        let reason = "pretended".to_owned();
        self.input(number, Input::Kill { meant, reason })
    }

    /// Nothing runs for a submitter that has been dead for long.
    fn check_orphans(&self) -> Result<(), Broken> {
        for (number, node) in self.nodes.iter().enumerate() {
            for run in node.running.keys() {
                let submitter = self.nodes.iter().find(|other| other.id == run.submitter);
                let down = submitter.and_then(|submitter| submitter.down_since);
                if down.is_some_and(|since| self.now > since + ORPHANED_MS) {
                    return Err(format!(
                        "node {number} still runs {run:?} for a dead submitter"
                    ));
                }
            }
        }
        Ok(())
    }
}
