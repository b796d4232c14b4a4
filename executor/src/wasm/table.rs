//! What one worker was given and has not yet answered.
//!
//! Every message of a worker is looked up here, and one that was not asked for, says too much or
//! breaks the window is the worker's end: it may be foreign code that speaks. Entries stay until the
//! worker has answered, even when nobody waits any more, so that "nothing is left" can be told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use p2pnode_protocol::task::{Failure, FailureKind, Stream, Usage};
use tokio::sync::{mpsc, oneshot};

use super::wire::{
    CHUNK_BYTES, CHUNK_COST, FromWorker, ModuleId, RunId, WINDOW_BYTES, WINDOW_SLACK_BYTES,
    chunk_cost,
};
use crate::{LogChunk, TaskEnd};

/// The most cost that one task may have outstanding.
const MAX_OUTSTANDING: usize = WINDOW_BYTES + WINDOW_SLACK_BYTES;

/// Room for every chunk within the window, and for the end.
const EVENTS: usize = MAX_OUTSTANDING / CHUNK_COST + 1;

/// What a worker says about one run.
#[derive(Debug)]
pub enum RunEvent {
    /// Output.
    Log(LogChunk),
    /// The end; nothing follows.
    End(TaskEnd),
}

/// Answers to one run.
#[derive(Debug)]
pub struct RunEvents {
    /// Its name in messages.
    pub run: RunId,
    /// Output, then the end; ends without one when the worker died.
    pub events: mpsc::Receiver<RunEvent>,
    /// Cost of what is in `events` or was taken out without [`RunEvents::passed_on`].
    outstanding: Arc<AtomicUsize>,
}

impl RunEvents {
    /// Says that output of this cost has left.
    pub fn passed_on(&self, cost: usize) {
        self.outstanding.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// The worker is being stopped: take a new one.
#[derive(Debug)]
pub struct Gone;

/// A worker said what it must not say.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// About a task that it was not given, or that had ended.
    #[error("it spoke of a task that it was not given")]
    UnknownRun,
    /// Output beyond the window or the chunk limit.
    #[error("it sent more output than it may")]
    Flood,
    /// A failure of a kind that a worker cannot know.
    #[error("it reported a failure that is not its to report")]
    Kind,
    /// A greeting in mid-talk.
    #[error("it greeted twice")]
    Ready,
}

/// Runs and compilations under way.
#[derive(Debug)]
pub struct Table {
    runs: HashMap<RunId, Entry>,
    compilations: HashMap<ModuleId, oneshot::Sender<Result<(), String>>>,
    next_run: RunId,
    next_module: ModuleId,
    open: bool,
    last_use: Instant,
}

#[derive(Debug)]
struct Entry {
    events: mpsc::Sender<RunEvent>,
    outstanding: Arc<AtomicUsize>,
    started: Instant,
    memory: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            runs: HashMap::new(),
            compilations: HashMap::new(),
            next_run: 0,
            next_module: 0,
            open: true,
            last_use: Instant::now(),
        }
    }
}

impl Table {
    /// Takes in a run with this memory limit, in bytes.
    ///
    /// # Errors
    /// [`Gone`] after [`Table::close`].
    pub fn add_run(&mut self, memory: u64) -> Result<RunEvents, Gone> {
        if !self.open {
            return Err(Gone);
        }
        let run = self.next_run;
        self.next_run += 1;
        let (sender, events) = mpsc::channel(EVENTS);
        let outstanding = Arc::new(AtomicUsize::new(0));
        let entry = Entry {
            events: sender,
            outstanding: Arc::clone(&outstanding),
            started: Instant::now(),
            memory,
        };
        self.runs.insert(run, entry);
        Ok(RunEvents {
            run,
            events,
            outstanding,
        })
    }

    /// Takes in a compilation.
    ///
    /// # Errors
    /// [`Gone`] after [`Table::close`].
    pub fn add_compilation(
        &mut self,
    ) -> Result<(ModuleId, oneshot::Receiver<Result<(), String>>), Gone> {
        if !self.open {
            return Err(Gone);
        }
        let module = self.next_module;
        self.next_module += 1;
        let (sender, result) = oneshot::channel();
        self.compilations.insert(module, sender);
        Ok((module, result))
    }

    /// Takes what the worker says.
    ///
    /// # Errors
    /// [`Violation`], after which the worker must be ended.
    pub fn take(&mut self, message: FromWorker) -> Result<(), Violation> {
        match message {
            FromWorker::Ready { .. } => Err(Violation::Ready),
            FromWorker::Pong => Ok(()),
            FromWorker::Compiled { module, result } => {
                if let Some(waiting) = self.compilations.remove(&module) {
                    // Nobody may wait any more: it stays compiled until it is forgotten.
                    let _ = waiting.send(result);
                }
                self.last_use = Instant::now();
                Ok(())
            }
            FromWorker::Log { run, stream, bytes } => self.take_log(run, stream, bytes),
            FromWorker::End { run, result, usage } => self.take_end(run, result, usage),
        }
    }

    fn take_log(&mut self, run: RunId, stream: Stream, bytes: Vec<u8>) -> Result<(), Violation> {
        let entry = self.runs.get(&run).ok_or(Violation::UnknownRun)?;
        let cost = chunk_cost(bytes.len());
        let before = entry.outstanding.fetch_add(cost, Ordering::Relaxed);
        if bytes.len() > CHUNK_BYTES || before + cost > MAX_OUTSTANDING {
            return Err(Violation::Flood);
        }
        match entry
            .events
            .try_send(RunEvent::Log(LogChunk { stream, bytes }))
        {
            Ok(()) => Ok(()),
            // Nobody waits for this run any more; it was cancelled.
            Err(mpsc::error::TrySendError::Closed(_)) => {
                entry.outstanding.fetch_sub(cost, Ordering::Relaxed);
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Violation::Flood),
        }
    }

    fn take_end(
        &mut self,
        run: RunId,
        result: Result<(), Failure>,
        usage: Usage,
    ) -> Result<(), Violation> {
        let entry = self.runs.remove(&run).ok_or(Violation::UnknownRun)?;
        self.last_use = Instant::now();
        let result = match result {
            Ok(()) => Ok(()),
            Err(failure) if may_report(failure.kind) => {
                Err(Failure::new(failure.kind, failure.message))
            }
            Err(_) => return Err(Violation::Kind),
        };
        // A worker cannot have used more time than has passed, nor a task more than one thread.
        let passed = u64::try_from(entry.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let wall_us = usage.wall_us.min(passed);
        let usage = Usage {
            wall_us,
            cpu_us: usage.cpu_us.min(wall_us),
            memory_peak: usage.memory_peak.min(entry.memory),
            ..Usage::default()
        };
        match entry
            .events
            .try_send(RunEvent::End(TaskEnd { result, usage }))
        {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Violation::Flood),
        }
    }

    /// Refuses new work from now on.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Whether new work is taken.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Drops everything: whoever waits learns that no answer will come.
    pub fn abandon(&mut self) {
        self.close();
        self.runs.clear();
        self.compilations.clear();
    }

    /// Tasks under way.
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// When the last piece of work ended; `None` while there is work.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.runs.is_empty() && self.compilations.is_empty();
        idle.then_some(self.last_use)
    }

    /// Forgets a compilation that nobody waits for.
    pub fn drop_compilation(&mut self, module: ModuleId) {
        self.compilations.remove(&module);
    }
}

/// Whether a worker may report a failure of this kind: what it can see itself. Anything else would
/// put words into the owner's or the submitter's mouth.
const fn may_report(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Exit(code) => code != 0,
        FailureKind::Timeout
        | FailureKind::Stalled
        | FailureKind::OutOfMemory
        | FailureKind::DiskFull
        | FailureKind::BadProgram
        | FailureKind::Cancelled
        | FailureKind::Host => true,
        FailureKind::NoOutputs
        | FailureKind::BadOutput
        | FailureKind::ImageUnavailable
        | FailureKind::InputUnavailable
        | FailureKind::KilledByOwner
        | FailureKind::ProviderStopping
        | FailureKind::ProviderLost => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn log(run: RunId, bytes: usize) -> FromWorker {
        FromWorker::Log {
            run,
            stream: Stream::Stdout,
            bytes: vec![0; bytes],
        }
    }

    fn end(run: RunId, result: Result<(), Failure>, usage: Usage) -> FromWorker {
        FromWorker::End { run, result, usage }
    }

    #[test]
    fn output_comes_before_the_end() {
        let mut table = Table::default();
        let mut run = table.add_run(0).unwrap();
        table.take(log(run.run, 3)).unwrap();
        table.take(end(run.run, Ok(()), Usage::default())).unwrap();
        assert!(matches!(run.events.try_recv(), Ok(RunEvent::Log(_))));
        assert!(matches!(run.events.try_recv(), Ok(RunEvent::End(_))));
        assert!(run.events.try_recv().is_err());
        assert_eq!(table.running(), 0);
    }

    #[test]
    fn the_window_is_enforced_in_bytes_and_in_pieces() {
        for piece in [1, CHUNK_BYTES] {
            let mut table = Table::default();
            let run = table.add_run(0).unwrap();
            let fit = MAX_OUTSTANDING / chunk_cost(piece);
            for _ in 0..fit {
                table.take(log(run.run, piece)).unwrap();
            }
            run.passed_on(chunk_cost(piece));
            table.take(log(run.run, piece)).unwrap();
            let error = table.take(log(run.run, piece)).unwrap_err();
            assert!(matches!(error, Violation::Flood));
        }
        let mut table = Table::default();
        let run = table.add_run(0).unwrap();
        table.take(log(run.run, CHUNK_BYTES + 1)).unwrap_err();
    }

    #[test]
    fn messages_out_of_turn_are_violations() {
        let mut table = Table::default();
        let run = table.add_run(0).unwrap();
        assert!(table.take(log(run.run + 1, 1)).is_err());
        table.take(end(run.run, Ok(()), Usage::default())).unwrap();
        for message in [
            log(run.run, 1),
            end(run.run, Ok(()), Usage::default()),
            FromWorker::Ready {
                protocol: 1,
                notes: Vec::new(),
            },
        ] {
            assert!(table.take(message).is_err());
        }
        let run = table.add_run(0).unwrap();
        let forged = Failure::new(FailureKind::KilledByOwner, "x");
        let error = table.take(end(run.run, Err(forged), Usage::default()));
        assert!(matches!(error, Err(Violation::Kind)));
    }

    #[test]
    fn usage_and_words_are_cut_to_what_can_be_true() {
        let mut table = Table::default();
        let mut run = table.add_run(1_000).unwrap();
        let boast = Usage {
            wall_us: u64::MAX,
            cpu_us: u64::MAX,
            memory_peak: u64::MAX,
            network_bytes: u64::MAX,
            energy_mj: Some(u64::MAX),
        };
        let failure = Failure {
            kind: FailureKind::Exit(1),
            message: "x".repeat(100_000),
        };
        table.take(end(run.run, Err(failure), boast)).unwrap();
        let Ok(RunEvent::End(end)) = run.events.try_recv() else {
            panic!("no end");
        };
        assert!(end.usage.wall_us < 60_000_000);
        assert!(end.usage.cpu_us <= end.usage.wall_us);
        assert_eq!(end.usage.memory_peak, 1_000);
        assert!(end.result.unwrap_err().message.len() < 10_000);
    }

    #[test]
    fn output_for_nobody_is_dropped() {
        let mut table = Table::default();
        let run = table.add_run(0).unwrap().run;
        for _ in 0..100 {
            table.take(log(run, CHUNK_BYTES)).unwrap();
        }
        assert_eq!(table.running(), 1);
        table.take(end(run, Ok(()), Usage::default())).unwrap();
        assert!(table.idle_since().is_some());
    }
}
