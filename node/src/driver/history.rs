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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use p2pnode_protocol::task::{FailureKind, Isolation, NetworkMode, Usage};
    use p2pnode_protocol::{AttemptKey, Bytes, Gpu, Resources, TaskKey};

    use super::*;

    fn run(index: u32) -> RunKey {
        RunKey {
            submitter: PeerId::from_bytes(&[0, 1, 7]).unwrap(),
            attempt: AttemptKey {
                task: TaskKey {
                    job: JobId([7; 8]),
                    step: 0,
                    index,
                },
                attempt: 1,
            },
        }
    }

    fn about(since_ms: Millis) -> RunAbout {
        let resources = Resources {
            memory: Bytes(64 << 20),
            ..Resources::default()
        };
        let template = TaskTemplate {
            name: "test".into(),
            step: 0,
            program: Program::Image {
                reference: "busybox:1".into(),
            },
            command: Vec::new(),
            env: Vec::new(),
            keys: Vec::new(),
            resources,
            inputs: Vec::new(),
            outputs: Vec::new(),
            allow_empty_outputs: false,
            timeout_ms: 0,
            stall_ms: 0,
            prepare_timeout_ms: 0,
            keep_ms: 0,
            network: NetworkMode::None,
            root: false,
            isolation: Isolation::Task,
            sandbox: None,
            attended: false,
        };
        let mut half = Gpu::whole("a".into(), "T4".into(), Bytes::gib(16));
        half.milli = 500;
        RunAbout {
            template: Arc::new(template),
            gpus: vec![half],
            since_ms,
        }
    }

    fn end(outcome: Outcome, wall_us: u64) -> RunEnd {
        RunEnd {
            outcome,
            usage: Usage {
                wall_us,
                cpu_us: wall_us / 2,
                ..Usage::default()
            },
            outputs: None,
            log_bytes: 0,
        }
    }

    #[test]
    fn short_ends_are_added_up_and_long_ones_are_not() {
        let mut book = PastBook::default();
        let about = about(100_000);
        for index in 0..1_000 {
            let end = end(Outcome::Succeeded, 8);
            book.on_ended(&run(index), &about, &end, 100_001);
        }
        for index in 0..2 {
            let end = end(Outcome::Succeeded, 2_900_000);
            book.on_ended(&run(index), &about, &end, 103_000);
        }
        let why = Failure::new(FailureKind::KilledByOwner, "killed by the owner: x");
        let tasks: Vec<TaskRef> = (5..9).map(|index| run(index).task()).collect();
        book.on_unrun(run(0).hosted(), &about.template, &tasks, &why, 103_000);
        let rows = book.take();
        assert_eq!(rows.len(), 4);
        assert_eq!((rows[0].tasks, rows[0].task), (1_000, None));
        assert_eq!(
            (rows[0].spent.wall_us, rows[0].spent.gpu_us),
            (8_000, 4_000)
        );
        assert_eq!(rows[0].spent.memory_mib_us, 8_000 * 64);
        let long = &rows[1];
        assert_eq!((long.tasks, long.task), (1, Some(run(0).task())));
        assert_eq!(
            long.spent.gpu_us, 1_500_000,
            "half a GPU for the whole slot"
        );
        assert_eq!((rows[3].tasks, rows[3].outcome), (4, "killed"));
        assert!(book.take().is_empty());
    }

    #[test]
    fn what_the_writer_has_no_room_for_waits_within_a_bound() {
        let mut book = PastBook::default();
        for index in 0..MAX_WAITING as u32 + 9 {
            let end = end(Outcome::Succeeded, 2_000_000);
            book.on_ended(&run(index), &about(0), &end, 2_000);
        }
        let rows = book.take();
        assert_eq!(rows.len(), MAX_WAITING);
        book.put_back(rows);
        assert_eq!(book.take().len(), MAX_WAITING);
    }
}
