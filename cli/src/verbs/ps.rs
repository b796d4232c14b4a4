//! `ps`: tasks of others that run here.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::MilliCpus;
use p2pnode_protocol::api::{HostedGpu, HostedState, HostedTask, HostedTasks};

use super::figures;
use super::follow::{counted, phase_word};
use crate::args::Global;
use crate::exit::Failure;
use crate::{here, output};

pub async fn ps(global: &Global) -> Result<ExitCode, Failure> {
    let here: HostedTasks = here::must_run(global)?.get("/hosted").await?;
    if global.json {
        output::line_json(&here);
        return Ok(ExitCode::SUCCESS);
    }
    if here.tasks.is_empty() {
        output::note("no task of anybody runs here; `p2pnode history` lists what did");
    } else {
        let now = figures::now_ms();
        let rows: Vec<Vec<String>> = here.tasks.iter().map(|task| row(task, now)).collect();
        let headings = [
            "TASK", "PEER", "JOB", "PROGRAM", "STATE", "CPUS", "MEMORY", "GPUS", "NETWORK", "DISK",
            "SINCE",
        ];
        output::table(&headings, &rows);
    }
    notes(&here);
    Ok(ExitCode::SUCCESS)
}

/// What waits, and whether the node drains.
pub fn notes(here: &HostedTasks) {
    for waiting in &here.waiting {
        let what = match waiting.preparing {
            Some(phase) => format!("wait for their environment ({})", phase_word(phase)),
            None => "wait for a slot".to_owned(),
        };
        output::note(format!(
            "{} of job {} ({}) of {} {what}",
            counted(waiting.tasks.into(), "task"),
            waiting.job,
            figures::line(&waiting.job_name, 40),
            figures::peer(&waiting.peer, &waiting.peer_name)
        ));
    }
    if here.draining {
        output::note("this node drains: it takes nothing new until p2pnode drain --off");
    }
}

/// A state as people read it.
pub const fn state_word(state: HostedState) -> &'static str {
    match state {
        HostedState::Preparing => "preparing",
        HostedState::Running => "running",
        HostedState::Paused => "paused",
    }
}

fn row(task: &HostedTask, now_ms: u64) -> Vec<String> {
    let used = task.now;
    let network = match used {
        Some(used) if used.network_bytes > 0 => {
            format!("{} {}", task.network, figures::bytes(used.network_bytes))
        }
        _ => task.network.clone(),
    };
    vec![
        task.task.clone(),
        figures::peer(&task.peer, &task.peer_name),
        figures::line(&task.job_name, 24),
        figures::line(&task.program, 40),
        state_word(task.state).to_owned(),
        MilliCpus(task.cpus_milli).to_string(),
        figures::of(used.map(|used| used.memory), task.memory),
        gpus(&task.gpus),
        figures::line(&network, 40),
        figures::of(used.map(|used| used.disk), task.disk),
        age(task.since_ms, now_ms),
    ]
}

fn gpus(gpus: &[HostedGpu]) -> String {
    let shown = gpus.iter().map(|gpu| match gpu.milli {
        1_000 => gpu.model.clone(),
        milli => format!("{} ({:.0} %)", gpu.model, f64::from(milli) / 10.0),
    });
    let shown: Vec<String> = shown.collect();
    match shown.is_empty() {
        true => "-".to_owned(),
        false => figures::line(&shown.join(", "), 40),
    }
}

/// How long ago that was.
pub fn age(since_ms: u64, now_ms: u64) -> String {
    let ago = Duration::from_millis(now_ms.saturating_sub(since_ms));
    format!("{} ago", figures::span(ago))
}
