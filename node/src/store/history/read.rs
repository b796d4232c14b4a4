//! Reads the history while the node runs, over a connection that can write nothing.
//!
//! Called by the driver on a thread that may block: a million rows are gone through in about a second.

use std::collections::BTreeMap;
use std::path::PathBuf;

use p2pnode_protocol::api::UsageBy;
use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::{JobId, PeerId};
use rusqlite::{Connection, OpenFlags, Row, named_params};

use super::tidy::DAY_MS;
use super::{Past, Spent, column};
use crate::store::error::{Damage, StoreError};
use crate::store::load::bytes;
use crate::store::rows::{self, from_integer};
use crate::store::{BUSY, reading};

/// Rows of one page, at most.
const MAX_PAGE: u32 = 10_000;

/// Sums of one report, at most: what a person can still search.
const MAX_SUMS: i64 = 10_000;

type Result<T> = std::result::Result<T, Damage>;

/// Which rows are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only this submitter's.
    pub peer: Option<PeerId>,
    /// Only jobs whose id, in hex, begins so.
    pub job: Option<String>,
    /// Only those that ended so, in one word.
    pub outcome: Option<String>,
    /// Only what ended then or later, in milliseconds since the Unix epoch; of sums, that day or later.
    pub since_ms: u64,
    /// Only rows with a lower number.
    pub before: Option<u64>,
    /// So many rows, at most.
    pub limit: u32,
}

/// A row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastRow {
    /// Its number.
    pub number: u64,
    /// How it ended, in one word; that of `past` is empty.
    pub outcome: String,
    /// The rest.
    pub past: Past,
}

/// Attempts added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    /// Whose, when that is asked for.
    pub peer: Option<PeerId>,
    /// Of which job, when that is asked for.
    pub job: Option<JobId>,
    /// What its submitter called it.
    pub name: String,
    /// On which day since the Unix epoch, when that is asked for.
    pub day: Option<u64>,
    /// Attempts by outcome.
    pub tasks: BTreeMap<String, u64>,
    /// What they used.
    pub spent: Spent,
}

/// A report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Its rows.
    pub rows: Vec<Sum>,
    /// All together.
    pub total: Sum,
}

/// The history of the node whose database is at a path. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    path: PathBuf,
}

const PAGE: &str = "SELECT seq, peer, job, name, program, step, task, attempt, tasks, started_ms,
        ended_ms, outcome, message, wall_us, cpu_us, gpu_us, memory_mib_us, memory_peak,
        network_bytes, output_bytes, energy_mj
    FROM history
    WHERE (:peer IS NULL OR peer = :peer) AND (:job IS NULL OR lower(hex(job)) GLOB :job || '*')
        AND (:outcome IS NULL OR outcome = :outcome) AND ended_ms >= :since AND seq < :before
    ORDER BY seq DESC LIMIT :limit";

impl History {
    /// Of the database at `path`, which the node has opened.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// A page, newest first. Blocks.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn page(&self, query: &Query) -> std::result::Result<Vec<PastRow>, StoreError> {
        let rows = self.connect().map_err(Damage::from);
        rows.and_then(|connection| page(&connection, query))
            .map_err(|damage| reading(&self.path, damage))
    }

    /// Sums by peer, job or day. Blocks.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn sums(&self, by: UsageBy, query: &Query) -> std::result::Result<Sums, StoreError> {
        let read = || {
            let connection = self.connect()?;
            let rows = sums(&connection, Some(by), query)?;
            let total = sums(&connection, None, query)?.pop().unwrap_or_default();
            Ok(Sums { rows, total })
        };
        read().map_err(|damage| reading(&self.path, damage))
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY)?;
        Ok(connection)
    }
}

fn page(connection: &Connection, query: &Query) -> Result<Vec<PastRow>> {
    let mut statement = connection.prepare(PAGE)?;
    let mut found = statement.query(named_params! {
        ":peer": query.peer.map(|peer| peer.to_bytes()),
        ":job": query.job,
        ":outcome": query.outcome,
        ":since": column(query.since_ms),
        ":before": query.before.map_or(i64::MAX, column),
        ":limit": query.limit.min(MAX_PAGE),
    })?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(past_row(row)?);
    }
    Ok(rows)
}

fn past_row(row: &Row<'_>) -> Result<PastRow> {
    let task = match (row.get(5)?, row.get(6)?, row.get(7)?) {
        (Some(step), Some(task), Some(attempt)) => Some(rows::task(step, task, attempt)?),
        _ => None::<TaskRef>,
    };
    Ok(PastRow {
        number: from_integer("number", row.get(0)?)?,
        outcome: row.get(11)?,
        past: Past {
            peer: rows::peer(bytes(row, 1)?)?,
            job: rows::job(bytes(row, 2)?)?,
            name: row.get(3)?,
            program: row.get(4)?,
            task,
            tasks: from_integer("count", row.get(8)?)?,
            started_ms: from_integer("time", row.get(9)?)?,
            ended_ms: from_integer("time", row.get(10)?)?,
            outcome: "",
            message: row.get(12)?,
            spent: spent(row, 13)?,
        },
    })
}

fn spent(row: &Row<'_>, from: usize) -> Result<Spent> {
    let number = |index: usize| from_integer("sum", row.get(from + index)?);
    let energy: Option<i64> = row.get(from + 7)?;
    Ok(Spent {
        wall_us: number(0)?,
        cpu_us: number(1)?,
        gpu_us: number(2)?,
        memory_mib_us: number(3)?,
        memory_peak: number(4)?,
        network_bytes: number(5)?,
        output_bytes: number(6)?,
        energy_mj: energy
            .map(|energy| from_integer("sum", energy))
            .transpose()?,
    })
}

/// Sums by `by`, or of all.
fn sums(connection: &Connection, by: Option<UsageBy>, query: &Query) -> Result<Vec<Sum>> {
    let (key, order) = match by {
        Some(UsageBy::Peer) => ("peer, NULL AS job, NULL AS day", "cpu_us DESC, peer"),
        Some(UsageBy::Job) => ("peer, job, NULL AS day", "cpu_us DESC, peer, job"),
        Some(UsageBy::Day) => ("NULL AS peer, NULL AS job, day", "day DESC"),
        None => ("NULL AS peer, NULL AS job, NULL AS day", "cpu_us"),
    };
    // First by outcome, then without, so that one row has all outcomes.
    let add = |column: &str| format!("CAST(total({column}) AS INTEGER) AS {column}");
    let columns = ["wall_us", "cpu_us", "gpu_us", "memory_mib_us"].map(add);
    let more = ["network_bytes", "output_bytes"].map(add);
    let added = format!(
        "{}, max(memory_peak) AS memory_peak, {},
         CASE WHEN count(energy_mj) = 0 THEN NULL ELSE CAST(total(energy_mj) AS INTEGER) END AS energy_mj",
        columns.join(", "),
        more.join(", ")
    );
    let of = "peer, job, name, outcome, tasks, wall_us, cpu_us, gpu_us, memory_mib_us, memory_peak,
        network_bytes, output_bytes, energy_mj";
    let sql = format!(
        "WITH every AS (
            SELECT ended_ms / {DAY_MS} AS day, {of} FROM history
            UNION ALL SELECT day, {of} FROM usage_days),
         wanted AS (
            SELECT {key}, name, outcome, tasks, wall_us, cpu_us, gpu_us, memory_mib_us, memory_peak,
                network_bytes, output_bytes, energy_mj
            FROM every
            WHERE (:peer IS NULL OR peer = :peer)
                AND (:job IS NULL OR lower(hex(job)) GLOB :job || '*')
                AND (:outcome IS NULL OR outcome = :outcome) AND day >= :since),
         outcomes AS (
            SELECT peer, job, day, outcome, max(name) AS name,
                CAST(total(tasks) AS INTEGER) AS tasks, {added}
            FROM wanted GROUP BY peer, job, day, outcome)
         SELECT peer, job, day, max(name), json_group_object(outcome, tasks), {added}
         FROM outcomes GROUP BY peer, job, day ORDER BY {order} LIMIT :limit"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut found = statement.query(named_params! {
        ":peer": query.peer.map(|peer| peer.to_bytes()),
        ":job": query.job,
        ":outcome": query.outcome,
        ":since": column(query.since_ms / DAY_MS),
        ":limit": MAX_SUMS,
    })?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        rows.push(sum(row)?);
    }
    Ok(rows)
}

fn sum(row: &Row<'_>) -> Result<Sum> {
    let peer: Option<Vec<u8>> = row.get(0)?;
    let job: Option<Vec<u8>> = row.get(1)?;
    let day: Option<i64> = row.get(2)?;
    let tasks: String = row.get(4)?;
    let wrong = |_| Damage::Value {
        what: "count by outcome",
        source: None,
    };
    Ok(Sum {
        peer: peer.map(|peer| rows::peer(&peer)).transpose()?,
        job: job.map(|job| rows::job(&job)).transpose()?,
        name: row.get(3)?,
        day: day.map(|day| from_integer("day", day)).transpose()?,
        tasks: serde_json::from_str(&tasks).map_err(wrong)?,
        spent: spent(row, 5)?,
    })
}
