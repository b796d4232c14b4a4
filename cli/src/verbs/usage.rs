//! `usage`: what peers, jobs or days used of this machine.

use std::process::ExitCode;

use p2pnode_protocol::api::{UsageReport, UsageRow, UsageSum};

use super::{figures, history};
use crate::args::{By, Global, UsageArgs};
use crate::exit::Failure;
use crate::{here, output};

pub async fn usage(global: &Global, args: &UsageArgs) -> Result<ExitCode, Failure> {
    let by = match args.by {
        By::Peer => "peer",
        By::Job => "job",
        By::Day => "day",
    };
    let path = format!("/usage?by={by}{}", history::query(&args.past));
    let report: UsageReport = here::must_run(global)?.get(&path).await?;
    if global.json {
        output::line_json(&report);
        return Ok(ExitCode::SUCCESS);
    }
    if report.rows.is_empty() {
        output::note("nothing of that ended here yet");
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .map(|row| cells(named(args.by, row), &row.sum))
        .collect();
    if report.rows.len() > 1 {
        rows.push(cells("all".to_owned(), &report.total));
    }
    let headings = [
        match args.by {
            By::Peer => "PEER",
            By::Job => "JOB",
            By::Day => "DAY",
        },
        "TASKS",
        "RAN",
        "CPU",
        "GPU",
        "MEMORY x TIME",
        "NETWORK",
        "OUTPUTS",
        "ENERGY",
    ];
    output::table(&headings, &rows);
    Ok(ExitCode::SUCCESS)
}

fn named(by: By, row: &UsageRow) -> String {
    let peer = figures::peer(row.peer.as_deref().unwrap_or_default(), &row.peer_name);
    match by {
        By::Peer => peer,
        By::Job => format!(
            "{} {} of {peer}",
            row.job.as_deref().unwrap_or_default(),
            figures::line(row.job_name.as_deref().unwrap_or_default(), 24)
        ),
        By::Day => row.day.clone().unwrap_or_default(),
    }
}

fn cells(name: String, sum: &UsageSum) -> Vec<String> {
    let outcomes = sum.tasks.iter();
    let outcomes: Vec<String> = outcomes
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    let usage = &sum.usage;
    vec![
        name,
        outcomes.join(", "),
        figures::span_us(usage.wall_us),
        figures::span_us(usage.cpu_us),
        figures::span_us(usage.gpu_us),
        // MiB times seconds, as people are used to reckon it.
        format!("{:.2} GiB h", usage.memory_mib_s as f64 / 1_024.0 / 3_600.0),
        figures::bytes(usage.network_bytes),
        figures::bytes(usage.output_bytes),
        figures::energy(usage.energy_mj),
    ]
}
