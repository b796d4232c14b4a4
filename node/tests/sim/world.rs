//! Time, the network between nodes, and how both go wrong.
//!
//! One thread, one queue of happenings ordered by virtual time; everything random comes from the
//! seed. What nodes do is in [`crate::perform`].

use std::collections::{BTreeMap, BTreeSet};

use p2pnode_node::core::Core;
use p2pnode_node::core::io::{CallFailure, CallId, Input, RequestToken};
use p2pnode_protocol::advert::Advert;
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

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
        errand: u64,
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
    /// Errands so far.
    pub errands: u64,
    pub asked: BTreeMap<RequestToken, Asked>,
    pub trace: bool,
    queue: BTreeMap<(u64, u64), Happening>,
    count: u64,
    pub cut: BTreeSet<(usize, usize)>,
    pub generation: u32,
    pub next_token: RequestToken,
    pub finished: BTreeSet<p2pnode_protocol::JobId>,
    pub tally: Tally,
}

/// A run of the world that broke a rule.
pub type Broken = String;

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
            errands: 0,
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

    pub fn chance(&mut self, of_1000: u64) -> bool {
        self.is_faulty() && self.rng.chance(of_1000)
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
                errand,
                from,
                attempt,
                wanted,
            } => self.on_collect(node, errand, from, attempt, wanted),
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
            making,
            result,
        } = &input
        {
            // The job may have been forgotten meanwhile, and with it what was being made; or it was stopped
            // and the end of it was on its way already, which is the core's to tell.
            let key = (*hosted, *step);
            let prepared = &mut self.nodes[node].prepared;
            match prepared.get_mut(&key) {
                Some(made) if made.making == *making => match result {
                    Ok(()) => made.done = true,
                    Err(_) => drop(prepared.remove(&key)),
                },
                _ => {}
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
}
