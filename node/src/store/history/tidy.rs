//! Keeps the history within its bounds: what is too old, or too much, becomes sums by day.
//!
//! Called by [`super::Writing`] within the writer's transactions, a bounded number of rows at a time.
//! Rows go from the lowest number on and never from the middle, so the span of their numbers says how
//! many there are, and nothing has to be counted.

use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::{CEILING, column};

/// How long rows are kept, in milliseconds: 90 days, a quarter to look back on.
pub const KEPT_MS: u64 = 90 * DAY_MS;

/// Rows that are kept, at most: a million of some 200 bytes are 200 MB.
pub const KEPT_ROWS: u64 = 1_000_000;

/// Sums that are kept, at most; beyond, the oldest days go. At 100 jobs a day that is seven years.
pub const KEPT_SUMS: u64 = 250_000;

/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 86_400_000;

/// Rows written between two looks.
const LOOK_EVERY: u64 = 1_000;

/// Rows that one look takes away, at most: more than come between two looks, so that it keeps up; some
/// 20 ms of work.
const LOOK_TAKES: u64 = 2_000;

/// See the module.
pub(super) struct Tidy<'c> {
    span: Statement<'c>,
    oldest_end: Statement<'c>,
    add_up: Statement<'c>,
    remove: Statement<'c>,
    excess_day: Statement<'c>,
    remove_days: Statement<'c>,
    /// Rows written since the last look; the first look is at the first write.
    written: u64,
    /// The latest end that was seen, which stands for the time.
    now_ms: u64,
}

impl<'c> Tidy<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            span: connection.prepare("SELECT min(seq), max(seq) FROM history")?,
            // The last row of a stretch of old ones, all of which ended before ?3.
            oldest_end: connection.prepare(
                "SELECT max(seq) FROM
                    (SELECT seq, ended_ms FROM history WHERE seq < ?1 + ?2 ORDER BY seq)
                 WHERE ended_ms < ?3",
            )?,
            add_up: connection.prepare(
                "INSERT INTO usage_days
                    SELECT ended_ms / ?2, peer, job, outcome, max(name), CAST(min(total(tasks), ?3) AS INTEGER),
                        CAST(min(total(wall_us), ?3) AS INTEGER), CAST(min(total(cpu_us), ?3) AS INTEGER), CAST(min(total(gpu_us), ?3) AS INTEGER),
                        CAST(min(total(memory_mib_us), ?3) AS INTEGER), max(memory_peak),
                        CAST(min(total(network_bytes), ?3) AS INTEGER), CAST(min(total(output_bytes), ?3) AS INTEGER),
                        CASE WHEN count(energy_mj) = 0 THEN NULL
                            ELSE CAST(min(total(energy_mj), ?3) AS INTEGER) END
                    FROM history WHERE seq <= ?1
                    GROUP BY ended_ms / ?2, peer, job, outcome
                 ON CONFLICT (day, peer, job, outcome) DO UPDATE SET
                    tasks = min(tasks + excluded.tasks, ?3),
                    wall_us = min(wall_us + excluded.wall_us, ?3),
                    cpu_us = min(cpu_us + excluded.cpu_us, ?3),
                    gpu_us = min(gpu_us + excluded.gpu_us, ?3),
                    memory_mib_us = min(memory_mib_us + excluded.memory_mib_us, ?3),
                    memory_peak = max(memory_peak, excluded.memory_peak),
                    network_bytes = min(network_bytes + excluded.network_bytes, ?3),
                    output_bytes = min(output_bytes + excluded.output_bytes, ?3),
                    energy_mj = CASE WHEN energy_mj IS NULL THEN excluded.energy_mj
                        ELSE min(energy_mj + ifnull(excluded.energy_mj, 0), ?3) END",
            )?,
            remove: connection.prepare("DELETE FROM history WHERE seq <= ?1")?,
            excess_day: connection
                .prepare("SELECT day FROM usage_days ORDER BY day DESC LIMIT 1 OFFSET ?1")?,
            remove_days: connection.prepare("DELETE FROM usage_days WHERE day <= ?1")?,
            written: LOOK_EVERY,
            now_ms: 0,
        })
    }

    /// A row was written.
    pub(super) fn note(&mut self, ended_ms: u64) {
        self.written += 1;
        self.now_ms = self.now_ms.max(ended_ms);
    }

    /// Looks, when it is time to.
    pub(super) fn when_due(&mut self) -> rusqlite::Result<()> {
        if self.written < LOOK_EVERY {
            return Ok(());
        }
        self.written = 0;
        self.look(KEPT_ROWS, KEPT_SUMS)
    }

    /// Takes away what is beyond the bounds, a bounded number of rows.
    pub(super) fn look(&mut self, kept_rows: u64, kept_sums: u64) -> rusqlite::Result<()> {
        let span = self.span.query_row([], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
        })?;
        let (Some(first), Some(last)) = span else {
            return Ok(());
        };
        let too_many = last.saturating_sub(column(kept_rows));
        let before = column(self.now_ms.saturating_sub(KEPT_MS));
        let row = params![first, column(LOOK_TAKES), before];
        let too_old: Option<i64> = self.oldest_end.query_row(row, |row| row.get(0))?;
        let through = too_many
            .max(too_old.unwrap_or(0))
            .min(first.saturating_add(column(LOOK_TAKES)) - 1);
        if through < first {
            return Ok(());
        }
        self.add_up
            .execute(params![through, column(DAY_MS), CEILING])?;
        self.remove.execute([through])?;
        let excess = self
            .excess_day
            .query_row([column(kept_sums)], |row| row.get::<_, i64>(0))
            .optional()?;
        if let Some(day) = excess {
            self.remove_days.execute([day])?;
        }
        Ok(())
    }
}
