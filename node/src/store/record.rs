//! Writes one [`Record`]: what each means in rows.
//!
//! Called by [`super::writer`] inside a transaction. It must mean what `Snapshot::apply` means: a
//! database written record by record loads as the snapshot that folding the same records gives.
//! Records about a job that is not there change nothing.

use p2pnode_protocol::api::JobState;
use p2pnode_protocol::codec::CodecError;
use p2pnode_protocol::manifest::BlobRef;
use p2pnode_protocol::message::{ReportEvent, TaskRef};
use p2pnode_protocol::task::Outcome;
use rusqlite::{Connection, Statement, params};

use super::rows::{offer_digest, state_code, to_blob, to_integer};
use crate::core::io::{HostedJob, Record};

/// Finished jobs that are kept; older ones go with all their rows.
pub const KEPT_JOBS: usize = 1_000;

/// Why a record cannot be written.
#[derive(Debug)]
pub(super) enum RecordError {
    /// SQLite refused.
    Sqlite(rusqlite::Error),
    /// A value is too large.
    TooLarge(&'static str, CodecError),
}

impl From<rusqlite::Error> for RecordError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

type Result<T = ()> = std::result::Result<T, RecordError>;

fn blob<T: bincode::Encode>(what: &'static str, value: &T) -> Result<Vec<u8>> {
    to_blob(value).map_err(|error| RecordError::TooLarge(what, error))
}

/// Whether losing this record to a power cut would undo a decision of the owner's about who may use
/// the machine; such transactions wait for the disk.
pub(super) const fn is_owners_decision(record: &Record) -> bool {
    matches!(
        record,
        Record::Offer(_) | Record::Draining(_) | Record::Allowed { .. }
    )
}

/// Names every statement once, as field and as SQL, and prepares them together.
macro_rules! statements {
    ($($name:ident = $sql:expr;)*) => {
        /// Prepared once for the life of the connection: parsing SQL costs more than running it.
        pub(super) struct Statements<'c> {
            $($name: Statement<'c>,)*
        }

        impl<'c> Statements<'c> {
            /// Prepares all of them.
            pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
                Ok(Self {
                    $($name: connection.prepare($sql)?,)*
                })
            }
        }
    };
}

statements! {
    job = "INSERT INTO jobs (id, plan, out, created_ms) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (id) DO NOTHING";
    dispatched = "INSERT INTO dispatched (job, digest, peer, tasks)
        SELECT seq, ?2, ?3, ?4 FROM jobs WHERE id = ?1
        ON CONFLICT (job, digest) DO NOTHING";
    task_ended = "INSERT INTO ends (job, step, task, attempt, peer, rest, collected, last)
        SELECT seq, ?2, ?3, ?4, ?5, ?6, ?7, ?8 FROM jobs WHERE id = ?1
        ON CONFLICT (job, step, task, attempt) DO UPDATE SET
            peer = excluded.peer, rest = excluded.rest,
            collected = excluded.collected, last = excluded.last";
    job_ended = "UPDATE jobs SET state = ?2, finished_ms = ?3, notes = ?4 WHERE id = ?1";
    excess_jobs = "SELECT seq FROM jobs WHERE state IS NOT NULL
        ORDER BY seq DESC LIMIT -1 OFFSET ?1";
    drop_dispatched = "DELETE FROM dispatched WHERE job = ?1";
    drop_ends = "DELETE FROM ends WHERE job = ?1";
    drop_job = "DELETE FROM jobs WHERE seq = ?1";
    hosted = "INSERT INTO hosted (submitter, job) VALUES (?1, ?2)
        ON CONFLICT (submitter, job) DO NOTHING";
    template = "INSERT INTO templates (hosted, step, template)
        SELECT seq, ?3, ?4 FROM hosted WHERE submitter = ?1 AND job = ?2
        ON CONFLICT (hosted, step) DO NOTHING";
    outbox = "INSERT INTO outbox (hosted, number, event)
        SELECT seq, ?3, ?4 FROM hosted
        WHERE submitter = ?1 AND job = ?2 AND acknowledged < ?3
        ON CONFLICT (hosted, number) DO NOTHING";
    kept = "INSERT INTO kept (hosted, step, task, attempt, outputs)
        SELECT seq, ?3, ?4, ?5, ?6 FROM hosted WHERE submitter = ?1 AND job = ?2
        ON CONFLICT (hosted, step, task, attempt) DO NOTHING";
    acknowledged = "UPDATE hosted SET acknowledged = ?3
        WHERE submitter = ?1 AND job = ?2 AND acknowledged < ?3";
    drop_acknowledged = "DELETE FROM outbox WHERE number <= ?3 AND hosted =
        (SELECT seq FROM hosted WHERE submitter = ?1 AND job = ?2)";
    drop_kept = "DELETE FROM kept WHERE step = ?3 AND task = ?4 AND attempt = ?5 AND hosted =
        (SELECT seq FROM hosted WHERE submitter = ?1 AND job = ?2)";
    unhost_templates = "DELETE FROM templates WHERE hosted =
        (SELECT seq FROM hosted WHERE submitter = ?1 AND job = ?2)";
    unhost_outbox = "DELETE FROM outbox WHERE hosted =
        (SELECT seq FROM hosted WHERE submitter = ?1 AND job = ?2)";
    unhost_kept = "DELETE FROM kept WHERE hosted =
        (SELECT seq FROM hosted WHERE submitter = ?1 AND job = ?2)";
    unhost = "DELETE FROM hosted WHERE submitter = ?1 AND job = ?2";
    offer = "INSERT INTO offer (only, total, allow_any, rules) VALUES (1, ?1, ?2, ?3)
        ON CONFLICT (only) DO UPDATE SET total = excluded.total, allow_any = excluded.allow_any,
            rules = excluded.rules";
    drain = "INSERT INTO draining (only) VALUES (1) ON CONFLICT (only) DO NOTHING";
    drain_off = "DELETE FROM draining";
    allow = "INSERT INTO allowed (peer, limits) VALUES (?1, ?2)";
    deny = "DELETE FROM allowed WHERE peer = ?1";
    request = "INSERT INTO requests (peer, request) VALUES (?1, ?2)";
    drop_request = "DELETE FROM requests WHERE peer = ?1";
}

impl Statements<'_> {
    /// Writes one record. Writing it twice is writing it once.
    pub(super) fn write(&mut self, record: &Record) -> Result {
        match record {
            Record::Job { .. }
            | Record::Dispatched { .. }
            | Record::TaskEnded { .. }
            | Record::JobEnded { .. } => self.write_own(record),
            Record::Hosted { hosted, template } => {
                let submitter = hosted.submitter.to_bytes();
                self.hosted.execute(params![submitter, hosted.job.0])?;
                let encoded = blob("a step's template", template.as_ref())?;
                self.template
                    .execute(params![submitter, hosted.job.0, template.step, encoded])?;
                Ok(())
            }
            Record::Outbox {
                hosted,
                number,
                event,
            } => self.write_outbox(*hosted, *number, event),
            Record::Acknowledged { hosted, through } => {
                let submitter = hosted.submitter.to_bytes();
                let row = params![submitter, hosted.job.0, to_integer(*through)];
                self.acknowledged.execute(row)?;
                self.drop_acknowledged.execute(row)?;
                Ok(())
            }
            Record::OutputsDropped(run) => {
                let submitter = run.submitter.to_bytes();
                let task = run.attempt.task;
                let row = params![
                    submitter,
                    task.job.0,
                    task.step,
                    task.index,
                    run.attempt.attempt
                ];
                self.drop_kept.execute(row)?;
                Ok(())
            }
            Record::Unhosted(hosted) => {
                let submitter = hosted.submitter.to_bytes();
                for statement in [
                    &mut self.unhost_templates,
                    &mut self.unhost_outbox,
                    &mut self.unhost_kept,
                    &mut self.unhost,
                ] {
                    statement.execute(params![submitter, hosted.job.0])?;
                }
                Ok(())
            }
            Record::Offer(_)
            | Record::Draining(_)
            | Record::Allowed { .. }
            | Record::Requested { .. } => self.write_owners(record),
        }
    }

    fn write_owners(&mut self, record: &Record) -> Result {
        match record {
            Record::Offer(terms) => {
                let total = blob("an offer", &terms.total)?;
                let rules = blob("an offer's rules", &terms.rules)?;
                self.offer.execute(params![total, terms.allow_any, rules])?;
            }
            Record::Draining(on) => {
                let statement = match on {
                    true => &mut self.drain,
                    false => &mut self.drain_off,
                };
                statement.execute([])?;
            }
            Record::Allowed { peer, grant } => {
                // Allowed again is last in the order again.
                let peer = peer.to_bytes();
                self.deny.execute([&peer])?;
                if let Some(grant) = grant {
                    let limits = blob("a permission", grant)?;
                    self.allow.execute(params![peer, limits])?;
                }
            }
            Record::Requested { peer, request } => {
                let peer = peer.to_bytes();
                self.drop_request.execute([&peer])?;
                if let Some(request) = request {
                    let request = blob("a request", request)?;
                    self.request.execute(params![peer, request])?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn write_own(&mut self, record: &Record) -> Result {
        match record {
            Record::Job {
                job,
                plan,
                out,
                created_ms,
            } => {
                let plan = blob("a job's plan", plan.as_ref())?;
                self.job
                    .execute(params![job.0, plan, out, to_integer(*created_ms)])?;
            }
            Record::Dispatched { job, peer, tasks } => {
                let peer = peer.to_bytes();
                let tasks = blob("an offer's list of tasks", tasks)?;
                let digest = offer_digest(&peer, &tasks);
                self.dispatched
                    .execute(params![job.0, digest, peer, tasks])?;
            }
            Record::TaskEnded {
                job,
                task,
                peer,
                outcome,
                usage,
                outputs,
                log_bytes,
                collected,
                last,
            } => {
                let rest = blob("a task's end", &(outcome, usage, outputs, log_bytes))?;
                self.task_ended.execute(params![
                    job.0,
                    task.step,
                    task.index,
                    task.attempt,
                    peer.to_bytes(),
                    rest,
                    collected,
                    last
                ])?;
            }
            Record::JobEnded {
                job,
                state,
                finished_ms,
                notes,
            } => self.end_job(job.0, *state, *finished_ms, notes)?,
            _ => {}
        }
        Ok(())
    }

    fn end_job(
        &mut self,
        job: [u8; p2pnode_protocol::id::JOB_ID_LEN],
        state: JobState,
        finished_ms: u64,
        notes: &[String],
    ) -> Result {
        let notes = blob("a job's notes", &notes)?;
        self.job_ended.execute(params![
            job,
            state_code(state),
            to_integer(finished_ms),
            notes
        ])?;
        let excess: Vec<i64> = self
            .excess_jobs
            .query_map([KEPT_JOBS as i64], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for seq in excess {
            self.drop_dispatched.execute([seq])?;
            self.drop_ends.execute([seq])?;
            self.drop_job.execute([seq])?;
        }
        Ok(())
    }

    fn write_outbox(&mut self, hosted: HostedJob, number: u64, event: &ReportEvent) -> Result {
        let submitter = hosted.submitter.to_bytes();
        let encoded = blob("an event", event)?;
        let row = params![submitter, hosted.job.0, to_integer(number), encoded];
        let is_new = self.outbox.execute(row)? > 0;
        if is_new && let Some((task, outputs)) = left_outputs(event) {
            let outputs = blob("outputs", &outputs)?;
            self.kept.execute(params![
                submitter,
                hosted.job.0,
                task.step,
                task.index,
                task.attempt,
                outputs
            ])?;
        }
        Ok(())
    }
}

/// The attempt whose outputs stand here since `event`, and those.
fn left_outputs(event: &ReportEvent) -> Option<(TaskRef, BlobRef)> {
    match event {
        ReportEvent::Finished {
            task,
            outcome: Outcome::Succeeded,
            outputs: Some(outputs),
            ..
        } => Some((*task, *outputs)),
        _ => None,
    }
}
