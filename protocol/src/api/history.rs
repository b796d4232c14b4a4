//! What ran here: attempts that ended, and what they used of this machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A page of the history, newest first. `GET /api/v1/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryPage {
    /// Its rows.
    pub rows: Vec<HistoryRow>,
    /// What `before` is to be for the next page; absent when this is the last.
    pub next: Option<u64>,
}

/// An attempt that ended here, or several short ones of one job that ended alike in one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HistoryRow {
    /// Its number; newer rows have higher ones.
    pub number: u64,
    /// Who submitted it.
    pub peer: String,
    /// What that peer calls itself; empty when it is not known now.
    pub peer_name: String,
    /// The job.
    pub job: String,
    /// What its submitter called the job.
    pub job_name: String,
    /// The task, `JOB/INDEX`; absent when the row stands for several.
    pub task: Option<String>,
    /// Which try; absent when the row stands for several.
    pub attempt: Option<u32>,
    /// How many attempts the row stands for.
    pub tasks: u64,
    /// What ran: the image's reference, or what stands in its place.
    pub program: String,
    /// When the first of them got its slot.
    pub started_ms: u64,
    /// When the last of them ended.
    pub ended_ms: u64,
    /// How, in one word: `succeeded`, `failed`, `killed`, `cancelled`, ...
    pub outcome: String,
    /// The same in a sentence, of the first of them; absent of those that succeeded.
    pub message: Option<String>,
    /// What they used together.
    pub usage: HostUsage,
}

/// What was used of this machine. Sums over attempts; `memory_peak` is the highest of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostUsage {
    /// Time from start to end, in microseconds.
    pub wall_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Time that a GPU was given to it, in microseconds of a whole one.
    pub gpu_us: u64,
    /// Memory that was given to it, in MiB, times the time, in seconds.
    pub memory_mib_s: u64,
    /// Highest memory of one attempt, in bytes; 0 when not known.
    pub memory_peak: u64,
    /// Bytes through the node's proxy, both ways.
    pub network_bytes: u64,
    /// Bytes of outputs.
    pub output_bytes: u64,
    /// Energy in millijoules, of the attempts of which it is known; absent when it is of none.
    pub energy_mj: Option<u64>,
}

/// What a usage report has one row for each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum UsageBy {
    /// A submitter.
    Peer,
    /// A job.
    Job,
    /// A day, in UTC.
    Day,
}

/// What this machine was used for. `GET /api/v1/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageReport {
    /// What there is one row for each of.
    pub by: UsageBy,
    /// The rows: of days the newest first, of others the most CPU time first. At most 10,000.
    pub rows: Vec<UsageRow>,
    /// All of them together.
    pub total: UsageSum,
}

/// One row of a usage report. What it is not by is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageRow {
    /// The submitter.
    pub peer: Option<String>,
    /// What that peer calls itself; empty when it is not known now.
    pub peer_name: String,
    /// The job.
    pub job: Option<String>,
    /// What its submitter called the job.
    pub job_name: Option<String>,
    /// The day, `2026-11-22`, in UTC.
    pub day: Option<String>,
    /// The sums.
    #[serde(flatten)]
    pub sum: UsageSum,
}

/// Attempts by how they ended, and what they used together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageSum {
    /// Attempts by outcome, in one word each.
    pub tasks: BTreeMap<String, u64>,
    /// What they used.
    pub usage: HostUsage,
}
