//! Running one seed to its end, and many seeds on two threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::fixture;
use crate::schedule::Plant;
use crate::world::{Broken, World};

/// Time that jobs get once nothing goes wrong any more: the longest rest, the longest tasks one after
/// another, and then some.
const PATIENCE_MS: u64 = 30 * 60_000;

/// Time in which every lease must have ended after the last job.
const LEASES_MS: u64 = 3 * 60_000;

/// Things that may happen in one run, so that a loop ends.
const MOST_STEPS: u64 = 400_000;

/// Runs one seed.
pub fn one(seed: u64, plant: Plant, trace: bool) -> Result<(), Broken> {
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
        if world.now > since.max(healed + 15_000) + LEASES_MS {
            break;
        }
    }
    at_rest(&world)
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

/// The first seed of `seeds` that breaks a rule, and which.
pub fn first_broken(seeds: std::ops::Range<u64>, plant: Plant) -> Option<(u64, Broken)> {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                return None;
            }
            let ran = catch_unwind(AssertUnwindSafe(|| one(seed, plant, false)));
            let broken = match ran {
                Ok(Ok(())) => continue,
                Ok(Err(broken)) => broken,
                Err(_) => "it panicked".to_owned(),
            };
            stop.store(true, Ordering::Relaxed);
            return Some((seed, broken));
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let found = threads.map(|thread| thread.join().unwrap());
        found.into_iter().flatten().min_by_key(|(seed, _)| *seed)
    })
}
