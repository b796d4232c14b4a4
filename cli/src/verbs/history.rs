//! `history`: tasks of others that ended here.

use std::process::ExitCode;

use p2pnode_protocol::api::{HistoryPage, HistoryRow};

use super::figures;
use crate::args::{Global, HistoryArgs, PastArgs};
use crate::exit::Failure;
use crate::select::escaped;
use crate::{here, output};

pub async fn history(global: &Global, args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let mut path = format!("/history?limit={}{}", args.limit, query(&args.past));
    if let Some(outcome) = &args.outcome {
        path.push_str(&format!("&outcome={}", escaped(outcome)));
    }
    if let Some(before) = args.before {
        path.push_str(&format!("&before={before}"));
    }
    let page: HistoryPage = here::must_run(global)?.get(&path).await?;
    if global.json {
        output::line_json(&page);
        return Ok(ExitCode::SUCCESS);
    }
    if page.rows.is_empty() {
        output::note("nothing of that ended here; `p2pnode ps` lists what runs");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = page.rows.iter().map(row).collect();
    let headings = [
        "ENDED", "PEER", "JOB", "TASK", "PROGRAM", "OUTCOME", "TOOK", "CPU", "PEAK", "WHY",
    ];
    output::table(&headings, &rows);
    if let Some(next) = page.next {
        output::note(format!(
            "there may be more: p2pnode history --before {next}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The part of a query that names whose tasks, and since when, each part with `&` before it.
pub fn query(past: &PastArgs) -> String {
    let mut query = String::new();
    if let Some(peer) = &past.peer {
        query.push_str(&format!("&peer={}", escaped(peer)));
    }
    if let Some(job) = &past.job {
        query.push_str(&format!("&job={}", escaped(job)));
    }
    if let Some(since) = past.since {
        let since_ms = figures::now_ms().saturating_sub(since.as_millis() as u64);
        query.push_str(&format!("&since_ms={since_ms}"));
    }
    query
}

fn row(row: &HistoryRow) -> Vec<String> {
    let task = match &row.task {
        Some(task) => task.clone(),
        None => format!("{} × {}", row.job, row.tasks),
    };
    vec![
        figures::moment(row.ended_ms),
        figures::peer(&row.peer, &row.peer_name),
        figures::line(&row.job_name, 24),
        task,
        figures::line(&row.program, 40),
        row.outcome.clone(),
        figures::span_us(row.usage.wall_us),
        figures::span_us(row.usage.cpu_us),
        figures::bytes(row.usage.memory_peak),
        figures::line(row.message.as_deref().unwrap_or_default(), 100),
    ]
}
