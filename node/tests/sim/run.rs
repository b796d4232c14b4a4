//! Running one seed to its end, and many seeds on two threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use p2pnode_node::core::Core;

use crate::fixture;
use crate::schedule::{LONGEST_DEATH_MS, Plant};
use crate::world::{Broken, World};

/// Time that jobs get once nothing goes wrong any more: the longest rest, the longest tasks one after
/// another, and then some.
const PATIENCE_MS: u64 = 30 * 60_000;

/// Time in which every lease must have ended after the last job and the last death: 60 s of lease,
/// 60 s in which outputs are kept, and some for messages.
const LEASES_MS: u64 = 150_000;

/// Things that may happen in one run, so that a loop ends.
const MOST_STEPS: u64 = 400_000;

/// What happened in runs, to see that the faults are real ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub deaths: u64,
    pub kills: u64,
    pub drains: u64,
    pub peers_lost: u64,
    pub leases_lost: u64,
    pub stale_results: u64,
    pub foreign_reports: u64,
    pub tasks: u64,
    pub moves: u64,
    pub happenings: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.deaths += other.deaths;
        self.kills += other.kills;
        self.drains += other.drains;
        self.peers_lost += other.peers_lost;
        self.leases_lost += other.leases_lost;
        self.stale_results += other.stale_results;
        self.foreign_reports += other.foreign_reports;
        self.tasks += other.tasks;
        self.moves += other.moves;
        self.happenings += other.happenings;
    }

    /// Adds what a core counted in the life that ends.
    pub fn add_core(&mut self, core: &Core) {
        let counted = core.counters();
        self.peers_lost += counted.peers_lost;
        self.leases_lost += counted.leases_lost;
        self.stale_results += counted.stale_results;
        self.foreign_reports += counted.foreign_reports;
    }
}

/// Runs one seed.
pub fn one(seed: u64, plant: Plant, trace: bool) -> Result<Tally, Broken> {
    let mut world = World::new(seed, plant, trace);
    let jobs = world.schedule.jobs.len();
    let healed = 1_000_000 + world.schedule.faults_until;
    let mut steps = 0;
    let mut over_since = None;
    loop {
        steps += 1;
        if steps > MOST_STEPS {
            return Err("it never comes to rest".to_owned());
        }
        if !world.step()? {
            return Err("nothing happens any more".to_owned());
        }
        let over: usize = world.nodes.iter().map(|node| node.books.ended.len()).sum();
        if over < jobs {
            if world.now > healed + PATIENCE_MS {
                return Err(hanging(&world));
            }
            continue;
        }
        let since = *over_since.get_or_insert(world.now);
        if world.now > since.max(healed + LONGEST_DEATH_MS) + LEASES_MS {
            break;
        }
    }
    at_rest(&world)?;
    let mut tally = world.tally;
    for node in &world.nodes {
        let Some(core) = &node.core else { continue };
        tally.add_core(core);
        for info in core.jobs() {
            tally.tasks += info.tasks.total;
            tally.moves += info.tasks.moved;
        }
    }
    tally.happenings = steps;
    Ok(tally)
}

fn at_rest(world: &World) -> Result<(), Broken> {
    for (number, node) in world.nodes.iter().enumerate() {
        let empty = node.check_empty().and_then(|()| node.check_slots());
        empty.map_err(|why| format!("node {number} at the end: {why}"))?;
    }
    for (number, job) in world.schedule.jobs.iter().enumerate() {
        let id = fixture::job_id(number as u64 + 1);
        let Some(core) = &world.nodes[job.node].core else {
            return Err("a node is down at the end".to_owned());
        };
        let Some(info) = core.job(id) else {
            return Err(format!("job {id} was forgotten"));
        };
        let hopeless = world.schedule.task_fails > 0 || job.cancelled_at.is_some();
        if !hopeless && info.tasks.succeeded != info.tasks.total {
            return Err(format!("job {id} ended without a reason: {info:?}"));
        }
    }
    Ok(())
}

fn hanging(world: &World) -> String {
    let mut lines = vec!["a job hangs".to_owned()];
    for (number, node) in world.nodes.iter().enumerate() {
        let Some(core) = &node.core else {
            lines.push(format!("node {number} is down"));
            continue;
        };
        for info in core.jobs() {
            lines.push(format!(
                "node {number}: {:?} {:?} {:?}",
                info.state, info.tasks, info.notes
            ));
        }
        let (hosted, capacity) = (core.hosted_jobs(), core.capacity());
        lines.push(format!(
            "node {number} hosts {hosted:?}, {} run, {} wait",
            capacity.running, capacity.queued
        ));
    }
    lines.join("\n")
}

/// Runs `seeds` on two threads: what happened in all of them, or one that broke a rule.
pub fn many(seeds: std::ops::Range<u64>, plant: Plant) -> Result<Tally, (u64, Broken)> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let ran = catch_unwind(AssertUnwindSafe(|| one(seed, plant, false)));
            match ran.unwrap_or_else(|_| Err("it panicked".to_owned())) {
                Ok(more) => tally.add(more),
                Err(broken) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err((seed, broken));
                }
            }
        }
        Ok(tally)
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let mut tally = Tally::default();
        for thread in threads {
            tally.add(thread.join().unwrap()?);
        }
        Ok(tally)
    })
}
