//! Verbs about jobs: `jobs`, `job`, `cancel`, `wait`.

use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{JobInfo, JobState, TaskInfo, TaskState};
use serde_json::json;

use super::figures;
use super::follow::{self, Follow};
use crate::args::Global;
use crate::exit::Failure;
use crate::interrupt::Interrupts;
use crate::select::JobSelector;
use crate::{here, output};

/// Tasks that `job` prints before it counts the rest; `--json` has all.
const SHOWN_TASKS: usize = 50;

/// Tasks asked for at a time.
const PAGE: u64 = 10_000;

/// A state as people read it.
pub const fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

const fn task_word(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "pending",
        TaskState::Queued => "queued",
        TaskState::Running => "running",
        TaskState::Collecting => "collecting",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
    }
}

pub async fn list(global: &Global) -> Result<ExitCode, Failure> {
    let jobs: Vec<JobInfo> = here::must_run_for_jobs(global)?.get("/jobs").await?;
    if global.json {
        output::line_json(&jobs);
        return Ok(ExitCode::SUCCESS);
    }
    if jobs.is_empty() {
        output::note("no jobs yet; run one with: p2pnode submit job.toml");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            let tasks = &job.tasks;
            vec![
                job.job.clone(),
                job.name.clone(),
                state_word(job.state).to_owned(),
                format!("{}/{}", tasks.succeeded, tasks.total),
                tasks.failed.to_string(),
                job.peers.len().to_string(),
                figures::moment(job.created_ms),
            ]
        })
        .collect();
    let headings = ["JOB", "NAME", "STATE", "DONE", "FAILED", "PEERS", "CREATED"];
    output::table(&headings, &rows);
    Ok(ExitCode::SUCCESS)
}

pub async fn show(global: &Global, job: &str) -> Result<ExitCode, Failure> {
    let selector = JobSelector::parse(job)?;
    let client = here::must_run_for_jobs(global)?;
    let info: JobInfo = client.get(&selector.path()).await?;
    selector.check(&info.job, info.tasks.total)?;
    let mut tasks: Vec<TaskInfo> = Vec::new();
    let (first, wanted) = match selector.task {
        Some(index) => (u64::from(index), 1),
        None if global.json => (0, info.tasks.total),
        None => (0, SHOWN_TASKS as u64),
    };
    while (tasks.len() as u64) < wanted {
        let count = (wanted - tasks.len() as u64).min(PAGE);
        let from = first + tasks.len() as u64;
        let path = format!("/jobs/{}/tasks?from={from}&count={count}", info.job);
        let page: Vec<TaskInfo> = client.get(&path).await?;
        if page.is_empty() {
            break;
        }
        tasks.extend(page);
    }
    if global.json {
        output::line_json(&json!({ "job": info, "tasks": tasks }));
        return Ok(ExitCode::SUCCESS);
    }
    print(&info, &tasks);
    Ok(ExitCode::SUCCESS)
}

/// Energy as people read it.
fn joules(millijoules: u64) -> String {
    // Digits beyond the third are noise of the meters.
    #[allow(clippy::cast_precision_loss)]
    let joules = millijoules as f64 / 1_000.0;
    match joules {
        ..1_000.0 => format!("{joules:.1} J"),
        ..1_000_000.0 => format!("{:.1} kJ", joules / 1_000.0),
        _ => format!("{:.2} kWh", joules / 3_600_000.0),
    }
}

fn print(info: &JobInfo, tasks: &[TaskInfo]) {
    let counts = &info.tasks;
    output::line(format!("job      {} ({})", info.job, info.name));
    output::line(format!("state    {}", state_word(info.state)));
    output::line(format!(
        "tasks    {} of {} done, {} running, {} waiting, {} failed, {} cancelled, {} moved",
        counts.succeeded,
        counts.total,
        counts.running,
        counts.pending + counts.queued,
        counts.failed,
        counts.cancelled,
        counts.moved
    ));
    if let Some(energy_mj) = info.usage.energy_mj {
        output::line(format!("energy   {}", joules(energy_mj)));
    }
    // A job without outputs has a folder for them all the same, which is never made.
    if let Some(out) = &info.out
        && Path::new(out).is_dir()
    {
        output::line(format!("outputs  {out}"));
    }
    for note in &info.notes {
        output::line(format!("note     {note}"));
    }
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            let values: Vec<String> = task
                .values
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            vec![
                task.task.clone(),
                task_word(task.state).to_owned(),
                task.attempt.to_string(),
                task.peer.clone().unwrap_or_default(),
                values.join(" "),
                match (&task.failure, task.decided_by) {
                    (Some(failure), Some(by)) => format!("{by}: {}", failure.message),
                    (Some(failure), None) => failure.message.clone(),
                    (None, _) => String::new(),
                },
            ]
        })
        .collect();
    output::table(
        &["TASK", "STATE", "TRY", "PEER", "VALUES", "FAILURE"],
        &rows,
    );
    let rest = counts.total.saturating_sub(tasks.len() as u64);
    if rest > 0 && tasks.len() == SHOWN_TASKS {
        output::line(format!("... and {rest} more; --json lists all"));
    }
}

pub async fn cancel(global: &Global, job: &str) -> Result<ExitCode, Failure> {
    let selector = JobSelector::parse_whole(job)?;
    let client = here::must_run_for_jobs(global)?;
    let before: JobInfo = client.get(&selector.path()).await?;
    let path = format!("/jobs/{}/cancel", before.job);
    let info: JobInfo = client.ask(Method::POST, &path, &()).await?;
    if global.json {
        output::line_json(&info);
    } else if before.finished_ms.is_some() {
        output::line(format!(
            "job {} had already ended: {}",
            info.job,
            state_word(info.state)
        ));
    } else {
        output::line(format!("job {} is {}", info.job, state_word(info.state)));
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn wait(global: &Global, job: &str) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let selector = JobSelector::parse(job)?;
    let client = here::must_run_for_jobs(global)?;
    let path = format!("{}/events", selector.path());
    let events = client.events(Method::GET, &path, &()).await?;
    follow::follow(
        client,
        events,
        Follow {
            json: global.json,
            quiet: true,
            cancel_on_interrupt: false,
        },
        &mut interrupts,
    )
    .await
}
