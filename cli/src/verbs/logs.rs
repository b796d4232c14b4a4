//! `logs`: what a job's tasks wrote, from the beginning.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::api::{JobInfo, JobState, LogEntries, LogEntry};
use p2pnode_protocol::task::Stream;

use crate::args::Global;
use crate::client::Client;
use crate::exit::Failure;
use crate::{here, output};

/// How often `-f` looks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

pub async fn logs(global: &Global, selector: &str, follow: bool) -> Result<ExitCode, Failure> {
    let client = here::must_run(global)?;
    let info: JobInfo = client.get(&Client::job_path(selector)).await?;
    let task = task_of(selector)?;
    let of_task = task
        .map(|index| format!("&task={index}"))
        .unwrap_or_default();
    let one_task = task.is_some() || info.tasks.total == 1;
    let mut from = 0;
    loop {
        // Looked at before reading, so that nothing written in between is missed.
        let over = is_over(
            client
                .get::<JobInfo>(&format!("/jobs/{}", info.job))
                .await?
                .state,
        );
        let page: LogEntries = client
            .get(&format!("/jobs/{}/logs?from={from}{of_task}", info.job))
            .await?;
        for entry in &page.entries {
            print(global.json, one_task, entry);
        }
        let more = page.next != from;
        from = page.next;
        if !more {
            if over || !follow {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(crate::exit::INTERRUPTED)),
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            }
        }
    }
}

fn task_of(selector: &str) -> Result<Option<u32>, Failure> {
    match selector.split_once('/') {
        None => Ok(None),
        Some((_, index)) => index.parse().map(Some).map_err(|_| {
            Failure::usage(format!(
                "`{selector}` is not a task: write JOB/INDEX, such as last/3"
            ))
        }),
    }
}

const fn is_over(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled
    )
}

/// One task's output is printed as it is; of several, each line says whose it is.
fn print(json: bool, one_task: bool, entry: &LogEntry) {
    if json {
        output::line_json(entry);
    } else if one_task {
        match entry.stream {
            Stream::Stdout => output::raw(&entry.text),
            Stream::Stderr => output::raw_note(&entry.text),
        }
    } else {
        let index = entry.task.rsplit('/').next().unwrap_or_default();
        for text in entry.text.lines() {
            output::line(format!("{index:>5} | {text}"));
        }
    }
}
