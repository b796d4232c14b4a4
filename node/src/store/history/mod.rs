//! What ran here: attempts that ended, for the owner to look at and to add up.
//!
//! The driver hands in [`Past`]s with what else is stored, the writer's thread writes them in the same
//! transaction, and [`History`] reads them over a connection of its own. Unlike everything else in the
//! database this is no echo of the core's memory: it is asked while the node runs, and the core never
//! needs it.
//!
//! **What it costs.** Ten thousand tasks that do nothing may end here in a second, so attempts shorter
//! than [`FOLDED_MS`] are one row for each job, outcome and minute, added up before they come here and
//! again by the database. Longer ones have a row each; there are never more of them in a second than
//! there are slots.
//!
//! **What is kept.** Rows of the last [`KEPT_MS`], at most [`KEPT_ROWS`]; older ones are added up by day,
//! peer, job and outcome, so that sums stay right; of those sums the newest [`KEPT_SUMS`] are kept.

mod read;
mod tidy;

#[cfg(test)]
mod tests;

use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::{JobId, PeerId};
use rusqlite::{Connection, Statement, params};

pub use read::{History, PastRow, Query, Sum, Sums};
pub use tidy::{KEPT_MS, KEPT_ROWS, KEPT_SUMS};

use tidy::Tidy;

/// Attempts shorter than this are folded, in milliseconds: 1 s, so that a slot makes one row a second
/// at most.
pub const FOLDED_MS: u64 = 1_000;

/// Milliseconds of the minute that folded attempts share.
const MINUTE_MS: u64 = 60_000;

/// The longest text of a column, in characters: a line. Names and messages come from peers.
const MAX_TEXT: usize = 400;

/// The largest sum of a column. Two of them can be added without an overflow, which the database would
/// refuse and the node end by.
const CEILING: i64 = (1 << 62) - 1;

/// What attempts used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// From start to end, in microseconds.
    pub wall_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// Time of a whole GPU, in microseconds.
    pub gpu_us: u64,
    /// Memory given to it in MiB, times microseconds.
    pub memory_mib_us: u64,
    /// Highest memory of one attempt, in bytes.
    pub memory_peak: u64,
    /// Bytes through the node's proxy.
    pub network_bytes: u64,
    /// Bytes of outputs.
    pub output_bytes: u64,
    /// Energy in millijoules, where it is known.
    pub energy_mj: Option<u64>,
}

impl Spent {
    /// Adds what another attempt used.
    pub fn add(&mut self, other: &Self) {
        self.wall_us = self.wall_us.saturating_add(other.wall_us);
        self.cpu_us = self.cpu_us.saturating_add(other.cpu_us);
        self.gpu_us = self.gpu_us.saturating_add(other.gpu_us);
        self.memory_mib_us = self.memory_mib_us.saturating_add(other.memory_mib_us);
        self.memory_peak = self.memory_peak.max(other.memory_peak);
        self.network_bytes = self.network_bytes.saturating_add(other.network_bytes);
        self.output_bytes = self.output_bytes.saturating_add(other.output_bytes);
        self.energy_mj = match (self.energy_mj, other.energy_mj) {
            (Some(mine), Some(more)) => Some(mine.saturating_add(more)),
            (one, None) | (None, one) => one,
        };
    }
}

/// An attempt that ended, or several that are told together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Who submitted it.
    pub peer: PeerId,
    /// The job.
    pub job: JobId,
    /// What its submitter calls the job.
    pub name: String,
    /// What ran.
    pub program: String,
    /// Which attempt, when it is one.
    pub task: Option<TaskRef>,
    /// How many they are.
    pub tasks: u64,
    /// When the first got its slot, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When the last ended, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// How, in one word.
    pub outcome: &'static str,
    /// The same in a sentence.
    pub message: Option<String>,
    /// What they used together.
    pub spent: Spent,
}

impl Past {
    /// The minute whose row it is added to; `None`: it has a row of its own.
    #[must_use]
    pub const fn minute(&self) -> Option<u64> {
        if self.ended_ms.saturating_sub(self.started_ms) < FOLDED_MS {
            Some(self.ended_ms / MINUTE_MS)
        } else {
            None
        }
    }

    /// Adds another one of the same minute, job and outcome.
    pub fn fold(&mut self, other: &Self) {
        self.task = None;
        self.tasks = self.tasks.saturating_add(other.tasks);
        self.started_ms = self.started_ms.min(other.started_ms);
        self.ended_ms = self.ended_ms.max(other.ended_ms);
        self.spent.add(&other.spent);
    }
}

/// A number as a column holds it.
fn column(number: u64) -> i64 {
    i64::try_from(number).map_or(CEILING, |number| number.min(CEILING))
}

/// A text that fits a column.
fn text(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

const INSERT: &str = "INSERT INTO history
    (peer, job, name, program, minute, step, task, attempt, tasks, started_ms, ended_ms, outcome,
     message, wall_us, cpu_us, gpu_us, memory_mib_us, memory_peak, network_bytes, output_bytes,
     energy_mj)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
     ?20, ?21)
    ON CONFLICT (minute, job, outcome, peer) WHERE minute IS NOT NULL DO UPDATE SET
        step = NULL, task = NULL, attempt = NULL,
        tasks = min(tasks + excluded.tasks, ?22),
        started_ms = min(started_ms, excluded.started_ms),
        ended_ms = max(ended_ms, excluded.ended_ms),
        message = ifnull(message, excluded.message),
        wall_us = min(wall_us + excluded.wall_us, ?22),
        cpu_us = min(cpu_us + excluded.cpu_us, ?22),
        gpu_us = min(gpu_us + excluded.gpu_us, ?22),
        memory_mib_us = min(memory_mib_us + excluded.memory_mib_us, ?22),
        memory_peak = max(memory_peak, excluded.memory_peak),
        network_bytes = min(network_bytes + excluded.network_bytes, ?22),
        output_bytes = min(output_bytes + excluded.output_bytes, ?22),
        energy_mj = CASE WHEN energy_mj IS NULL THEN excluded.energy_mj
            ELSE min(energy_mj + ifnull(excluded.energy_mj, 0), ?22) END";

/// Writes the history, on the writer's thread.
pub(super) struct Writing<'c> {
    insert: Statement<'c>,
    tidy: Tidy<'c>,
}

impl<'c> Writing<'c> {
    /// Prepares its statements.
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: connection.prepare(INSERT)?,
            tidy: Tidy::prepare(connection)?,
        })
    }

    /// Writes these, within a transaction of the caller's, and now and then clears up behind them.
    pub(super) fn write<'p>(
        &mut self,
        past: impl Iterator<Item = &'p Past>,
    ) -> rusqlite::Result<()> {
        for past in past {
            self.write_one(past)?;
            self.tidy.note(past.ended_ms);
        }
        self.tidy.when_due()
    }

    fn write_one(&mut self, past: &Past) -> rusqlite::Result<()> {
        let spent = &past.spent;
        let task = past.task.filter(|_| past.tasks == 1);
        self.insert.execute(params![
            past.peer.to_bytes(),
            past.job.0,
            text(&past.name),
            text(&past.program),
            past.minute().map(column),
            task.map(|task| task.step),
            task.map(|task| task.index),
            task.map(|task| task.attempt),
            column(past.tasks),
            column(past.started_ms),
            column(past.ended_ms),
            past.outcome,
            past.message.as_deref().map(text),
            column(spent.wall_us),
            column(spent.cpu_us),
            column(spent.gpu_us),
            column(spent.memory_mib_us),
            column(spent.memory_peak),
            column(spent.network_bytes),
            column(spent.output_bytes),
            spent.energy_mj.map(column),
            CEILING,
        ])?;
        Ok(())
    }
}
