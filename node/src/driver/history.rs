//! What ended here, on its way to the owner's history.
//!
//! Owned by the driver's loop. Ends are gathered while a batch of inputs is handled, and go to the
//! store's writer right before the batch's records, so one transaction holds both. Short attempts are
//! added up here already: of ten thousand in a second the writer sees one row a batch.

use std::collections::HashMap;

use p2pnode_protocol::message::TaskRef;
use p2pnode_protocol::task::{Failure, Outcome, Program, TaskTemplate};
use p2pnode_protocol::{JobId, PeerId};

use crate::core::io::{HostedJob, Millis, RunEnd, RunKey};
use crate::exec::RunAbout;
use crate::store::Past;
use crate::store::history::{FOLDED_MS, Spent};

/// Rows that wait for the writer, at most: some 2 MiB. More wait only while the disk is stuck.
const MAX_WAITING: usize = 8_192;

/// Hexadecimal digits of a digest that name a program for a person.
const SHOWN_DIGITS: usize = 12;

/// A program in words: the image's reference, or what stands in its place.
pub(super) fn program_text(program: &Program) -> String {
    let (what, blob) = match program {
        Program::Image { reference } => return reference.clone(),
        Program::Wasm { module } => ("wasm", module),
        Program::Archive { archive } => ("archive", archive),
        Program::Build { context, .. } => ("build", context),
    };
    let digest = blob.digest.to_string();
    format!("{what}:{}", digest.get(..SHOWN_DIGITS).unwrap_or(&digest))
}

/// Attempts that share a row: whose, of which job, how they ended, in which minute.
type Key = (PeerId, JobId, &'static str, u64);

/// See the module.
#[derive(Default)]
pub(super) struct PastBook {
    rows: Vec<Past>,
    /// Positions in `rows`.
    folded: HashMap<Key, usize>,
    dropped: u64,
}

impl PastBook {
    /// A run ended.
    pub(super) fn on_ended(&mut self, run: &RunKey, about: &RunAbout, end: &RunEnd, now: Millis) {
        let template = &about.template;
        let held_ms = now.saturating_sub(about.since_ms);
        // The clock of milliseconds says nothing of tasks that take microseconds.
        let held_us = match held_ms {
            short if short < FOLDED_MS => end.usage.wall_us,
            long => long.saturating_mul(1_000),
        };
        let gpus: u64 = about.gpus.iter().map(|gpu| u64::from(gpu.milli)).sum();
        let memory_mib = template.resources.memory.0 >> 20;
        let spent = Spent {
            wall_us: end.usage.wall_us,
            cpu_us: end.usage.cpu_us,
            gpu_us: held_us.saturating_mul(gpus) / 1_000,
            memory_mib_us: held_us.saturating_mul(memory_mib),
            memory_peak: end.usage.memory_peak,
            network_bytes: end.usage.network_bytes,
            output_bytes: end.outputs.map_or(0, |outputs| outputs.content_bytes),
            energy_mj: end.usage.energy_mj,
        };
        let message = match &end.outcome {
            Outcome::Succeeded => None,
            Outcome::Failed(failure) => Some(failure),
        };
        let what = What {
            hosted: run.hosted(),
            template,
            task: Some(run.task()),
            tasks: 1,
            outcome: end.outcome.word(),
            message,
        };
        self.note(&what, about.since_ms, now, &spent);
    }

    /// Attempts ended that never ran.
    pub(super) fn on_unrun(
        &mut self,
        hosted: HostedJob,
        template: &TaskTemplate,
        tasks: &[TaskRef],
        failure: &Failure,
        now: Millis,
    ) {
        let what = What {
            hosted,
            template,
            task: tasks.first().copied().filter(|_| tasks.len() == 1),
            tasks: tasks.len() as u64,
            outcome: failure.kind.word(),
            message: Some(failure),
        };
        self.note(&what, now, now, &Spent::default());
    }

    fn note(&mut self, what: &What<'_>, started_ms: Millis, ended_ms: Millis, spent: &Spent) {
        let HostedJob { submitter, job } = what.hosted;
        let mut past = Past {
            peer: submitter,
            job,
            name: String::new(),
            program: String::new(),
            task: what.task,
            tasks: what.tasks,
            started_ms,
            ended_ms,
            outcome: what.outcome,
            message: None,
            spent: *spent,
        };
        let key = past
            .minute()
            .map(|minute| (submitter, job, what.outcome, minute));
        let known = key.and_then(|key| self.folded.get(&key));
        if let Some(row) = known.and_then(|position| self.rows.get_mut(*position)) {
            return row.fold(&past);
        }
        if self.rows.len() >= MAX_WAITING {
            self.dropped += what.tasks;
            return;
        }
        past.name.clone_from(&what.template.name);
        past.program = program_text(&what.template.program);
        past.message = what.message.map(|failure| failure.message.clone());
        if let Some(key) = key {
            self.folded.insert(key, self.rows.len());
        }
        self.rows.push(past);
    }

    /// Takes what waits.
    pub(super) fn take(&mut self) -> Vec<Past> {
        self.folded.clear();
        if self.dropped > 0 {
            let attempts = std::mem::take(&mut self.dropped);
            tracing::warn!(attempts, "the disk is too slow for the history of tasks");
        }
        std::mem::take(&mut self.rows)
    }

    /// What could not be handed over waits again.
    pub(super) fn put_back(&mut self, past: Vec<Past>) {
        self.rows = past;
    }
}

/// What ended, and how.
struct What<'a> {
    hosted: HostedJob,
    template: &'a TaskTemplate,
    task: Option<TaskRef>,
    tasks: u64,
    outcome: &'static str,
    message: Option<&'a Failure>,
}
