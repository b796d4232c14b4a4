//! Time, the network between nodes, and how both go wrong.
//!
//! One thread, one queue of happenings ordered by virtual time; everything random comes from the
//! seed. What nodes do is in [`crate::perform`].

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_node::core::io::{CallFailure, CallId, Input, RequestToken};
use p2pnode_node::core::{Core, CoreConfig};
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};
use p2pnode_protocol::task::RuntimeKind;

use crate::check::Truth;
use crate::fixture;
use crate::node::Node;
use crate::rng::Rng;
use crate::run::Tally;
use crate::schedule::{Plant, Schedule};

/// What is going to happen.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A request arrives.
    Request {
        to: usize,
        from: usize,
        life: u32,
        call: CallId,
        request: TaskRequest,
    },
    /// An answer, or the lack of one, arrives.
    Answer {
        to: usize,
        life: u32,
        call: CallId,
        result: Result<TaskResponse, CallFailure>,
    },
    /// Something within a node.
    Local {
        node: usize,
        life: u32,
        input: Input,
    },
    /// A run comes to its end.
    RunEnds {
        node: usize,
        life: u32,
        run: p2pnode_node::core::io::RunKey,
        end: p2pnode_node::core::io::RunEnd,
    },
    /// Outputs arrive, or do not.
    Collect {
        node: usize,
        life: u32,
        from: usize,
        attempt: p2pnode_protocol::AttemptKey,
        wanted: bool,
    },
    Wake(usize),
    Open(usize, usize),
    Close {
        node: usize,
        peer: usize,
        generation: u32,
    },
    Advertise(usize),
    Advert {
        to: usize,
        from: usize,
        advert: Box<Advert>,
    },
    Start(usize),
    Second,
    Heal(usize, usize),
}

/// Where the answer to a request goes.
pub struct Asked {
    pub by: usize,
    pub life: u32,
    pub call: CallId,
    pub request: TaskRequest,
}

/// See the module.
pub struct World {
    pub rng: Rng,
    pub schedule: Schedule,
    pub plant: Plant,
    pub now: u64,
    pub nodes: Vec<Node>,
    pub truth: Truth,
    pub asked: BTreeMap<RequestToken, Asked>,
    pub trace: bool,
    queue: BTreeMap<(u64, u64), Happening>,
    count: u64,
    cut: BTreeSet<(usize, usize)>,
    generation: u32,
    next_token: RequestToken,
    pub finished: BTreeSet<p2pnode_protocol::JobId>,
    pub tally: Tally,
}

/// A run of the world that broke a rule.
pub type Broken = String;

/// Time until an unanswered request counts as failed, as in the network.
const REQUEST_MS: u64 = 10_000;

impl World {
    pub fn new(seed: u64, plant: Plant, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let schedule = Schedule::draw(&mut rng);
        let nodes: Vec<Node> = (0..schedule.nodes)
            .map(|number| Node::new(fixture::peer(number), schedule.cpus[number]))
            .collect();
        let mut world = Self {
            rng,
            schedule,
            plant,
            now: 1_000_000,
            nodes,
            truth: Truth::new(),
            asked: BTreeMap::new(),
            trace,
            queue: BTreeMap::new(),
            count: 0,
            cut: BTreeSet::new(),
            generation: 0,
            next_token: 0,
            finished: BTreeSet::new(),
            tally: Tally::default(),
        };
        for node in 0..world.nodes.len() {
            world.later(0, Happening::Start(node));
        }
        world.later(1_000, Happening::Second);
        for (number, job) in world.schedule.jobs.clone().into_iter().enumerate() {
            let id = fixture::job_id(number as u64 + 1);
            let submit = Input::Submit {
                job: id,
                plan: job.plan,
                out: None,
            };
            world.local(job.node, job.at, submit, true);
            if let Some(at) = job.cancelled_at {
                world.local(job.node, at, Input::Cancel(id), true);
            }
        }
        world
    }

    pub fn later(&mut self, after: u64, happening: Happening) {
        self.count += 1;
        self.queue.insert((self.now + after, self.count), happening);
    }

    /// An input of a node's own; `any_life` for what its owner does, whenever the node is up.
    pub fn local(&mut self, node: usize, after: u64, input: Input, any_life: bool) {
        let life = if any_life {
            u32::MAX
        } else {
            self.nodes[node].life
        };
        self.later(after, Happening::Local { node, life, input });
    }

    pub fn is_faulty(&self) -> bool {
        self.now < 1_000_000 + self.schedule.faults_until
    }

    fn chance(&mut self, of_1000: u64) -> bool {
        self.is_faulty() && self.rng.chance(of_1000)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.is_faulty() && self.cut.contains(&(from, to))
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> u64 {
        if self.chance(self.schedule.slow) {
            self.rng.range(100, 8_000)
        } else {
            self.rng.range(1, 40)
        }
    }

    /// Lets the next thing happen. False when nothing is left.
    pub fn step(&mut self) -> Result<bool, Broken> {
        let Some(((at, _), happening)) = self.queue.pop_first() else {
            return Ok(false);
        };
        self.now = at;
        if self.trace && !matches!(happening, Happening::Wake(_) | Happening::Second) {
            eprintln!("{:>8} {happening:?}", at - 1_000_000);
        }
        self.happen(happening)?;
        Ok(true)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Request {
                to,
                from,
                life,
                call,
                request,
            } => self.on_request(to, from, life, call, request),
            Happening::Answer {
                to,
                life,
                call,
                result,
            } => self.on_answer(to, life, call, result),
            Happening::Local { node, life, input } => self.on_local(node, life, input),
            Happening::RunEnds {
                node,
                life,
                run,
                end,
            } => self.on_run_ends(node, life, run, end),
            Happening::Collect {
                node,
                life,
                from,
                attempt,
                wanted,
            } => self.on_collect(node, life, from, attempt, wanted),
            Happening::Wake(node) => self.on_wake(node),
            Happening::Open(from, to) => self.on_open(from, to),
            Happening::Close {
                node,
                peer,
                generation,
            } => self.on_close(node, peer, generation),
            Happening::Advertise(node) => {
                self.on_advertise(node);
                Ok(())
            }
            Happening::Advert { to, from, advert } => {
                let peer = self.nodes[from].id;
                if self.is_cut(from, to) {
                    return Ok(());
                }
                self.input(to, Input::Advert { peer, advert })
            }
            Happening::Start(node) => self.start(node),
            Happening::Second => self.on_second(),
            Happening::Heal(a, b) => {
                self.cut.remove(&(a, b));
                self.cut.remove(&(b, a));
                Ok(())
            }
        }
    }

    fn on_local(&mut self, node: usize, life: u32, input: Input) -> Result<(), Broken> {
        if let Input::Submit { job, .. } = &input {
            // The owner tries until the job is stored, which is when a submit is answered.
            let stored = self.nodes[node]
                .disk
                .jobs
                .iter()
                .any(|stored| stored.job == *job);
            if stored {
                return Ok(());
            }
            self.local(node, 500, input.clone(), true);
        } else if life == u32::MAX && self.nodes[node].core.is_none() {
            self.local(node, 500, input, true);
            return Ok(());
        }
        if life != u32::MAX && life != self.nodes[node].life {
            return Ok(());
        }
        if let Input::Prepared {
            hosted,
            step,
            result: Ok(()),
        } = &input
        {
            // The job may have been forgotten meanwhile, and with it what was being made.
            match self.nodes[node].prepared.get_mut(&(*hosted, *step)) {
                Some(ready) => *ready = true,
                None => return Ok(()),
            }
        }
        self.input(node, input)
    }

    fn on_wake(&mut self, node: usize) -> Result<(), Broken> {
        self.nodes[node].wake = None;
        let due = self.nodes[node].core.as_ref().and_then(Core::next_deadline);
        match due {
            Some(at) if at <= self.now => self.input(node, Input::Tick),
            _ => {
                self.set_wake(node);
                Ok(())
            }
        }
    }

    pub fn set_wake(&mut self, node: usize) {
        let due = self.nodes[node].core.as_ref().and_then(Core::next_deadline);
        let Some(at) = due else { return };
        if self.nodes[node].wake.is_none_or(|set| at < set) {
            self.nodes[node].wake = Some(at);
            self.later(at.saturating_sub(self.now), Happening::Wake(node));
        }
    }

    /// A node comes up with what its disk holds.
    pub fn start(&mut self, number: usize) -> Result<(), Broken> {
        if self.nodes[number].core.is_some() {
            return Ok(());
        }
        let node = &mut self.nodes[number];
        // As in a real node, what nothing stored speaks of is nobody's.
        let kept = node.disk.hosted.iter().flat_map(|hosted| &hosted.kept);
        let kept: BTreeSet<_> = kept.copied().collect();
        node.outputs.retain(|run| kept.contains(run));
        let mut config = CoreConfig::new(node.id);
        config.submit.max_moves = 250;
        config.submit.max_rest_ms = 30_000;
        config.faults.stale_attempt_accepted = self.plant == Plant::StaleAttemptAccepted;
        config.faults.slot_given_twice = self.plant == Plant::SlotGivenTwice;
        let fresh = node.disk.offer.is_none();
        let (core, effects) = Core::new(config, node.disk.clone(), self.now);
        node.core = Some(core);
        let cpus = node.cpus;
        self.perform(number, effects)?;
        self.input(number, Input::Runtimes(vec![(RuntimeKind::Wasm, Ok(()))]))?;
        if fresh {
            let terms = p2pnode_node::core::io::OfferTerms {
                total: fixture::capacity(cpus),
                allow_any: true,
            };
            self.input(number, Input::Offer(terms))?;
        }
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
        self.nodes[number].die();
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
            120_000
        } else {
            12_000
        };
        let after = self.rng.range(50, longest);
        self.later(after, Happening::Start(number));
    }

    fn on_open(&mut self, from: usize, to: usize) -> Result<(), Broken> {
        let up = |node: usize| self.nodes[node].core.is_some();
        if !up(from) || !up(to) || self.is_cut(from, to) || self.is_cut(to, from) {
            return Ok(());
        }
        self.generation += 1;
        let generation = self.generation;
        for (node, peer) in [(from, to), (to, from)] {
            let first = self.nodes[node].open.insert(peer, generation).is_none();
            if first {
                let id = self.nodes[peer].id;
                self.input(node, Input::Connected(id))?;
            }
        }
        for (node, peer) in [(from, to), (to, from)] {
            self.send_advert(node, peer);
        }
        Ok(())
    }

    fn on_close(&mut self, node: usize, peer: usize, generation: u32) -> Result<(), Broken> {
        // Another connection may have taken its place.
        if self.nodes[node].open.get(&peer) != Some(&generation) {
            return Ok(());
        }
        self.nodes[node].open.remove(&peer);
        let calls: Vec<CallId> = self.nodes[node]
            .calls
            .iter()
            .filter(|(_, to)| **to == peer)
            .map(|(call, _)| *call)
            .collect();
        for call in calls {
            let life = self.nodes[node].life;
            self.on_answer(node, life, call, Err(CallFailure::Unreachable))?;
        }
        let id = self.nodes[peer].id;
        self.input(node, Input::Disconnected(id))
    }

    fn on_advertise(&mut self, node: usize) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.nodes[node].advertises = false;
        for other in 0..self.nodes.len() {
            if other != node {
                self.send_advert(node, other);
            }
        }
    }

    fn send_advert(&mut self, from: usize, to: usize) {
        let now = self.now;
        let node = &mut self.nodes[from];
        let Some(core) = &node.core else { return };
        node.issued_ms = now.max(node.issued_ms + 1);
        let advert = Box::new(fixture::advert(from, core.capacity(), node.issued_ms));
        if !self.chance(self.schedule.drop) {
            let after = self.delay();
            self.later(after, Happening::Advert { to, from, advert });
        }
    }

    /// A call leaves a node.
    pub fn send(&mut self, from: usize, to: usize, call: CallId, request: TaskRequest) {
        let life = self.nodes[from].life;
        self.nodes[from].calls.insert(call, to);
        if from != to && !self.nodes[from].open.contains_key(&to) {
            let after = self.rng.range(1, 100);
            let result = Err(CallFailure::Unreachable);
            self.later(
                after,
                Happening::Answer {
                    to: from,
                    life,
                    call,
                    result,
                },
            );
            return;
        }
        let arrives = Happening::Request {
            to,
            from,
            life,
            call,
            request,
        };
        if from == to {
            self.later(0, arrives);
            return;
        }
        let result = Err(CallFailure::TimedOut);
        self.later(
            REQUEST_MS,
            Happening::Answer {
                to: from,
                life,
                call,
                result,
            },
        );
        if self.chance(self.schedule.double) {
            let after = self.rng.range(1, 20_000);
            self.later(after, arrives.clone());
        }
        if !self.chance(self.schedule.drop) {
            let after = self.delay();
            self.later(after, arrives);
        }
    }

    fn on_request(
        &mut self,
        to: usize,
        from: usize,
        life: u32,
        call: CallId,
        request: TaskRequest,
    ) -> Result<(), Broken> {
        if self.nodes[to].core.is_none() || self.is_cut(from, to) {
            return Ok(());
        }
        self.next_token += 1;
        let token = self.next_token;
        let asked = Asked {
            by: from,
            life,
            call,
            request: request.clone(),
        };
        self.asked.insert(token, asked);
        let peer = self.nodes[from].id;
        self.input(
            to,
            Input::Request {
                peer,
                token,
                request,
            },
        )?;
        if self.nodes[to].core.is_some() && self.asked.contains_key(&token) {
            return Err("a request was not answered".to_owned());
        }
        self.asked.remove(&token);
        Ok(())
    }

    /// An answer leaves a node.
    pub fn answer(&mut self, from: usize, asked: &Asked, response: TaskResponse) {
        let (to, life, call) = (asked.by, asked.life, asked.call);
        let arrives = Happening::Answer {
            to,
            life,
            call,
            result: Ok(response),
        };
        if to == from {
            self.later(0, arrives);
        } else if !self.chance(self.schedule.drop) && !self.is_cut(from, to) {
            let after = self.delay();
            self.later(after, arrives);
        }
    }

    fn on_answer(
        &mut self,
        to: usize,
        life: u32,
        call: CallId,
        result: Result<TaskResponse, CallFailure>,
    ) -> Result<(), Broken> {
        if self.nodes[to].life != life {
            return Ok(());
        }
        // Only the first answer counts.
        let Some(peer) = self.nodes[to].calls.remove(&call) else {
            return Ok(());
        };
        let peer = self.nodes[peer].id;
        let response = result;
        self.input(
            to,
            Input::Response {
                peer,
                call,
                response,
            },
        )
    }

    /// What goes wrong by itself, and what mends itself.
    fn on_second(&mut self) -> Result<(), Broken> {
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
        // Adverts are repeated now and then.
        if self.rng.chance(100) {
            self.later(0, Happening::Advertise(a));
        }
        Ok(())
    }
}
