//! What one seed means: how many nodes, which jobs, how bad the network, how frail the nodes.

use std::sync::Arc;

use p2pnode_protocol::job::JobPlan;

use crate::fixture;
use crate::rng::Rng;

/// A bug that the harness makes, to show that the checks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// None: what is checked is the core itself.
    Nothing,
    /// Answers leave before what they promise is stored.
    AckBeforePersist,
    /// The core does not look at attempt numbers.
    StaleAttemptAccepted,
    /// The ledger gives a slot out twice.
    SlotGivenTwice,
    /// The making of an environment goes on when it is to stop.
    StopIgnored,
}

/// A job that is submitted.
#[derive(Debug, Clone)]
pub struct Submission {
    pub at: u64,
    pub node: usize,
    pub plan: Arc<JobPlan>,
    pub cancelled_at: Option<u64>,
}

/// Chances of a thousand, and times in milliseconds.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub nodes: usize,
    pub cpus: Vec<u32>,
    pub jobs: Vec<Submission>,
    /// Until then things go wrong.
    pub faults_until: u64,
    pub drop: u64,
    pub double: u64,
    pub slow: u64,
    /// Of an input: the node dies while it performs what followed from it.
    pub crash: u64,
    /// Of a death: it takes the last records with it.
    pub power: u64,
    /// Of each second: two nodes do not hear one another for a while.
    pub cut: u64,
    /// Of each second: a connection closes.
    pub close: u64,
    /// Of each second: a stranger says something to a node.
    pub stranger: u64,
    /// Of each second: an owner kills what runs at its node, drains it, or ends a drain.
    pub owner: u64,
    pub task_fails: u64,
    pub host_fails: u64,
    pub prepare_fails: u64,
    /// Longest run of a task.
    pub longest: u64,
}

/// How long outputs are kept for a lost submitter.
pub const KEEP_MS: u64 = 20_000;

/// How long a node is down at most.
pub const LONGEST_DEATH_MS: u64 = 120_000;

impl Schedule {
    pub fn draw(rng: &mut Rng) -> Self {
        let nodes = rng.range(2, 5) as usize;
        let level = |rng: &mut Rng, low: u64, high: u64| match rng.range(0, 2) {
            0 => 0,
            1 => low,
            _ => high,
        };
        let faults_until = rng.range(3_000, 150_000);
        let cpus = (0..nodes).map(|_| rng.range(1, 4) as u32).collect();
        let jobs = (0..rng.range(1, 2))
            .map(|_| submission(rng, nodes))
            .collect();
        Self {
            nodes,
            cpus,
            jobs,
            faults_until,
            drop: level(rng, 20, 200),
            double: level(rng, 50, 300),
            slow: level(rng, 30, 200),
            crash: level(rng, 8, 40),
            power: level(rng, 100, 500),
            cut: level(rng, 30, 150),
            close: level(rng, 50, 300),
            stranger: level(rng, 100, 700),
            owner: level(rng, 50, 300),
            task_fails: level(rng, 50, 200),
            host_fails: level(rng, 30, 150),
            prepare_fails: level(rng, 50, 200),
            longest: [50, 2_000, 30_000][rng.range(0, 2) as usize],
        }
    }
}

fn submission(rng: &mut Rng, nodes: usize) -> Submission {
    let at = rng.range(1_000, 4_000);
    let cpus = rng.range(1, 2) as u32;
    let mut template = fixture::template(0, cpus.min(1), KEEP_MS);
    if rng.chance(300) {
        template.resources.gpus.count = 1;
        template.resources.gpus.milli = [250, 400, 500, 1_000][rng.range(0, 3) as usize];
    }
    let mut steps = vec![fixture::step(template, rng.range(1, 16), Vec::new())];
    if rng.chance(300) {
        let template = fixture::template(1, 1, KEEP_MS);
        steps.push(fixture::step(template, rng.range(1, 4), vec![0]));
    }
    let retries = rng.range(0, 3) as u32;
    let mut plan = fixture::plan(steps, retries, 3_600_000);
    if rng.chance(200) {
        plan.policy.hand_out = Some(rng.range(1, 4) as u32);
    }
    Submission {
        at,
        node: rng.range(0, nodes as u64 - 1) as usize,
        plan: Arc::new(plan),
        cancelled_at: rng.chance(150).then(|| at + rng.range(1, 60_000)),
    }
}
