//! `logs`: what a job's tasks wrote, from the beginning.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::api::{JobInfo, JobState, LogEntries, LogEntry};

use super::follow::gone;
use crate::args::Global;
use crate::client::Client;
use crate::exit::{self, Failure};
use crate::interrupt::Interrupts;
use crate::select::JobSelector;
use crate::{here, output};

/// How often `-f` looks for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

pub async fn logs(
    global: &Global,
    selector: &str,
    follow: bool,
    raw: bool,
) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let selector = JobSelector::parse(selector)?;
    let client = here::must_run_for_jobs(global)?;
    let info: JobInfo = client.get(&selector.path()).await?;
    selector.check(&info.job, info.tasks.total)?;
    let task = selector.task;
    let of_task = task
        .map(|index| format!("&task={index}"))
        .unwrap_or_default();
    let one_task = task.is_some() || info.tasks.total == 1;
    let mut from = 0;
    let mut out = output::Logs::new(raw);
    loop {
        let (over, page) = tokio::select! {
            read = read(&client, &info.job, from, &of_task) => read?,
            _ = interrupts.next() => return Ok(ExitCode::from(crate::exit::INTERRUPTED)),
        };
        for entry in &page.entries {
            print(&mut out, global.json, one_task, entry);
        }
        let more = page.next != from;
        from = page.next;
        if !more {
            if over || !follow {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::select! {
                _ = interrupts.next() => return Ok(ExitCode::from(crate::exit::INTERRUPTED)),
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            }
        }
    }
}

/// What the log has from `from` on, and whether the job was over before.
async fn read(
    client: &Client,
    job: &str,
    from: u64,
    of_task: &str,
) -> Result<(bool, LogEntries), Failure> {
    let asked = async {
        // Looked at before reading, so that nothing written in between is missed.
        let info: JobInfo = client.get(&format!("/jobs/{job}")).await?;
        let path = format!("/jobs/{job}/logs?from={from}{of_task}");
        Ok((is_over(info.state), client.get(&path).await?))
    };
    asked.await.map_err(|failure: Failure| {
        if failure.number() == exit::NOBODY {
            gone(Some(job), true)
        } else {
            failure
        }
    })
}

const fn is_over(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled
    )
}

/// One task's output is printed as it is; of several, each line says whose it is.
fn print(out: &mut output::Logs, json: bool, one_task: bool, entry: &LogEntry) {
    if json {
        output::line_json(entry);
    } else if one_task {
        out.piece(entry.stream, &entry.text);
    } else {
        out.lines(
            entry.task.rsplit('/').next().unwrap_or_default(),
            &entry.text,
        );
    }
}
