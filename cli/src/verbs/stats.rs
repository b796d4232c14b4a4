//! `stats`: what tasks of others that run here use.

use std::collections::BTreeMap;
use std::process::ExitCode;

use p2pnode_protocol::MilliCpus;
use p2pnode_protocol::api::{HostedTask, HostedTasks};

use super::{figures, ps};
use crate::args::{Global, StatsArgs};
use crate::exit::{self, Failure};
use crate::interrupt::Interrupts;
use crate::{here, output};

/// CPU time of each attempt at the last look, in microseconds, and when that was.
type Before = (BTreeMap<(String, String, u32), u64>, u64);

pub async fn stats(global: &Global, args: &StatsArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = here::must_run(global)?;
    let mut before: Before = (BTreeMap::new(), 0);
    loop {
        let here: HostedTasks = client.get("/hosted").await?;
        let now = figures::now_ms();
        if global.json {
            output::line_json(&here);
        } else {
            print(&here, &before, now, args.follow);
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let used = here.tasks.iter().filter_map(|task| {
            let cpu_us = task.now?.cpu_us;
            Some((key(task), cpu_us))
        });
        before = (used.collect(), now);
        tokio::select! {
            _ = interrupts.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
            () = tokio::time::sleep(args.interval) => {}
        }
    }
}

fn key(task: &HostedTask) -> (String, String, u32) {
    (task.peer.clone(), task.task.clone(), task.attempt)
}

fn print(here: &HostedTasks, before: &Before, now_ms: u64, again: bool) {
    if again {
        output::fresh_screen();
    }
    let rows: Vec<Vec<String>> = here
        .tasks
        .iter()
        .map(|task| row(task, before, now_ms))
        .collect();
    let headings = [
        "TASK",
        "PEER",
        "STATE",
        "CPU %",
        "CPU TIME",
        "MEMORY",
        "PEAK",
        "DISK",
        "NETWORK",
        "PROCESSES",
        "SINCE",
    ];
    output::table(&headings, &rows);
    let given: u64 = here
        .tasks
        .iter()
        .map(|task| u64::from(task.cpus_milli))
        .sum();
    let waiting: u64 = here
        .waiting
        .iter()
        .map(|waiting| u64::from(waiting.tasks))
        .sum();
    output::line(format!(
        "{} running with {} CPUs given, {waiting} waiting{}",
        here.tasks.len(),
        MilliCpus(u32::try_from(given).unwrap_or(u32::MAX)),
        if here.draining { ", draining" } else { "" }
    ));
}

fn row(task: &HostedTask, before: &Before, now_ms: u64) -> Vec<String> {
    let mut cells = vec![
        task.task.clone(),
        figures::peer(&task.peer, &task.peer_name),
        ps::state_word(task.state).to_owned(),
    ];
    match &task.now {
        Some(used) => cells.extend([
            load(task, used.cpu_us, before, now_ms),
            figures::span_us(used.cpu_us),
            figures::of(Some(used.memory), task.memory),
            figures::bytes(used.memory_peak),
            figures::of(Some(used.disk), task.disk),
            figures::bytes(used.network_bytes),
            used.processes.to_string(),
        ]),
        // Its runtime tells nothing while it runs.
        None => cells.extend(std::iter::repeat_n("-".to_owned(), 7)),
    }
    cells.push(ps::age(task.since_ms, now_ms));
    cells
}

/// CPU use in hundredths of one CPU: since the last look, or else since the task has its slot.
fn load(task: &HostedTask, cpu_us: u64, (last, at_ms): &Before, now_ms: u64) -> String {
    let (cpu_before, since_ms) = match last.get(&key(task)) {
        Some(cpu_before) => (*cpu_before, *at_ms),
        None => (0, task.since_ms),
    };
    let passed_us = now_ms.saturating_sub(since_ms).saturating_mul(1_000);
    if passed_us == 0 {
        return "-".to_owned();
    }
    let used_us = cpu_us.saturating_sub(cpu_before);
    format!("{:.0}", used_us as f64 * 100.0 / passed_us as f64)
}
