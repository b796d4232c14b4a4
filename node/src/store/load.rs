//! Reads everything back when a node starts.
//!
//! Called once by [`super::Store::open`]. Rows that cannot be read are damage, never skipped: a node
//! that starts from half of what it promised would break its promises silently.

use std::collections::HashMap;
use std::sync::Arc;

use p2pnode_protocol::offer::Grant;
use rusqlite::{Connection, Row};

use super::error::Damage;
use super::rows::{self, EndRest, from_blob, from_integer};
use crate::core::io::{
    HostedJob, OfferTerms, RunKey, Snapshot, StoredEnd, StoredHosted, StoredJob,
};

type Result<T = ()> = std::result::Result<T, Damage>;

/// Where each parent row went, by its `seq`.
type Positions = HashMap<i64, usize>;

/// Reads the whole database.
pub(super) fn load(connection: &Connection) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    let jobs = load_jobs(connection, &mut snapshot.jobs)?;
    load_dispatched(connection, &jobs, &mut snapshot.jobs)?;
    load_ends(connection, &jobs, &mut snapshot.jobs)?;
    let hosted = load_hosted(connection, &mut snapshot.hosted)?;
    load_hosted_parts(connection, &hosted, &mut snapshot.hosted)?;
    load_owners(connection, &mut snapshot)?;
    each(connection, "SELECT only FROM draining", |_| {
        snapshot.draining = true;
        Ok(())
    })?;
    Ok(snapshot)
}

/// What the owner decided, and who waits for a decision.
fn load_owners(connection: &Connection, snapshot: &mut Snapshot) -> Result {
    each(
        connection,
        "SELECT total, allow_any, rules FROM offer",
        |row| {
            snapshot.offer = Some(OfferTerms {
                total: from_blob("offer", bytes(row, 0)?)?,
                allow_any: row.get(1)?,
                rules: from_blob("rules", bytes(row, 2)?)?,
            });
            Ok(())
        },
    )?;
    each(
        connection,
        "SELECT peer, limits FROM allowed ORDER BY seq",
        |row| {
            let limits = row.get_ref(1)?.as_blob_or_null().map_err(column)?;
            let grant = limits.map_or_else(
                || Ok(Grant::default()),
                |limits| from_blob("limits", limits),
            )?;
            snapshot.allowed.push((rows::peer(bytes(row, 0)?)?, grant));
            Ok(())
        },
    )?;
    each(
        connection,
        "SELECT peer, request FROM requests ORDER BY seq",
        |row| {
            let request = from_blob("request", bytes(row, 1)?)?;
            snapshot
                .requests
                .push((rows::peer(bytes(row, 0)?)?, request));
            Ok(())
        },
    )
}

/// Calls `take` with every row of a query.
pub(super) fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&Row<'_>) -> Result,
) -> Result {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn column(error: rusqlite::types::FromSqlError) -> Damage {
    Damage::Sqlite(error.into())
}

/// A blob column, not copied.
pub(super) fn bytes<'r>(row: &'r Row<'_>, index: usize) -> Result<&'r [u8]> {
    row.get_ref(index)?.as_blob().map_err(column)
}

/// The parent of a child row; a child without one is damage.
fn parent<'a, T>(positions: &Positions, parents: &'a mut [T], seq: i64) -> Result<&'a mut T> {
    positions
        .get(&seq)
        .and_then(|position| parents.get_mut(*position))
        .ok_or(Damage::Value {
            what: "reference to a job",
            source: None,
        })
}

fn load_jobs(connection: &Connection, jobs: &mut Vec<StoredJob>) -> Result<Positions> {
    let mut positions = Positions::new();
    let sql = "SELECT seq, id, plan, out, created_ms, state, finished_ms, notes
        FROM jobs ORDER BY seq";
    each(connection, sql, |row| {
        let ended = match row.get::<_, Option<i64>>(5)? {
            Some(code) => Some((
                rows::state(code)?,
                from_integer("time", row.get(6)?)?,
                from_blob("note", bytes(row, 7)?)?,
            )),
            None => None,
        };
        positions.insert(row.get(0)?, jobs.len());
        jobs.push(StoredJob {
            job: rows::job(bytes(row, 1)?)?,
            plan: Arc::new(from_blob("plan", bytes(row, 2)?)?),
            out: row.get(3)?,
            created_ms: from_integer("time", row.get(4)?)?,
            ended,
            dispatched: Vec::new(),
            ends: Vec::new(),
        });
        Ok(())
    })?;
    Ok(positions)
}

fn load_dispatched(
    connection: &Connection,
    positions: &Positions,
    jobs: &mut [StoredJob],
) -> Result {
    let sql = "SELECT job, peer, tasks FROM dispatched ORDER BY seq";
    each(connection, sql, |row| {
        let peer = rows::peer(bytes(row, 1)?)?;
        let tasks = from_blob("list of tasks", bytes(row, 2)?)?;
        let job = parent(positions, jobs, row.get(0)?)?;
        job.dispatched.push((peer, tasks));
        Ok(())
    })
}

fn load_ends(connection: &Connection, positions: &Positions, jobs: &mut [StoredJob]) -> Result {
    let sql = "SELECT job, step, task, attempt, peer, rest, collected, last
        FROM ends ORDER BY seq";
    each(connection, sql, |row| {
        let (outcome, usage, outputs, log_bytes): EndRest =
            from_blob("task's end", bytes(row, 5)?)?;
        let end = StoredEnd {
            task: rows::task(row.get(1)?, row.get(2)?, row.get(3)?)?,
            peer: rows::peer(bytes(row, 4)?)?,
            outcome,
            usage,
            outputs,
            log_bytes,
            collected: row.get(6)?,
            last: row.get(7)?,
        };
        parent(positions, jobs, row.get(0)?)?.ends.push(end);
        Ok(())
    })
}

fn load_hosted(connection: &Connection, hosted: &mut Vec<StoredHosted>) -> Result<Positions> {
    let mut positions = Positions::new();
    let sql = "SELECT seq, submitter, job, acknowledged FROM hosted ORDER BY seq";
    each(connection, sql, |row| {
        positions.insert(row.get(0)?, hosted.len());
        hosted.push(StoredHosted {
            hosted: HostedJob {
                submitter: rows::peer(bytes(row, 1)?)?,
                job: rows::job(bytes(row, 2)?)?,
            },
            templates: Vec::new(),
            acknowledged: from_integer("event number", row.get(3)?)?,
            outbox: Vec::new(),
            kept: Vec::new(),
        });
        Ok(())
    })?;
    Ok(positions)
}

fn load_hosted_parts(
    connection: &Connection,
    positions: &Positions,
    hosted: &mut [StoredHosted],
) -> Result {
    let sql = "SELECT hosted, template FROM templates ORDER BY seq";
    each(connection, sql, |row| {
        let template = Arc::new(from_blob("template", bytes(row, 1)?)?);
        parent(positions, hosted, row.get(0)?)?
            .templates
            .push(template);
        Ok(())
    })?;
    let sql = "SELECT hosted, number, event FROM outbox ORDER BY hosted, number";
    each(connection, sql, |row| {
        let number = from_integer("event number", row.get(1)?)?;
        let event = from_blob("event", bytes(row, 2)?)?;
        parent(positions, hosted, row.get(0)?)?
            .outbox
            .push((number, event));
        Ok(())
    })?;
    let sql = "SELECT hosted, step, task, attempt, outputs FROM kept ORDER BY seq";
    each(connection, sql, |row| {
        let task = rows::task(row.get(1)?, row.get(2)?, row.get(3)?)?;
        let outputs = from_blob("outputs", bytes(row, 4)?)?;
        let owner = parent(positions, hosted, row.get(0)?)?;
        owner.kept.push((RunKey::of(owner.hosted, task), outputs));
        Ok(())
    })
}
