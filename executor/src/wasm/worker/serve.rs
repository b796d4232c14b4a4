//! What a worker does with the node's messages.
//!
//! Called by the reading thread, which must never wait: everything that takes time becomes a task on
//! the runtime. The node is trusted; a message that makes no sense is a bug and answered with a
//! failure, or dropped when it came too late.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use p2pnode_protocol::task::{Failure, FailureKind, Usage};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::MAX_TASKS;
use super::engine::{Engines, Program};
use super::output::Output;
use super::task;
use super::ticker::Ticker;
use crate::wasm::outbox::{Outbox, lock};
use crate::wasm::wire::{FromWorker, ModuleId, RunId, RunSpec, ToWorker};

/// The state of a worker process.
pub struct Worker {
    runtime: Handle,
    outbox: Arc<Outbox<FromWorker>>,
    engines: Arc<Engines>,
    ticker: Arc<Ticker>,
    room: Semaphore,
    modules: Mutex<HashMap<ModuleId, Module>>,
    runs: Mutex<HashMap<RunId, Arc<Run>>>,
}

enum Module {
    /// Bytes that have come so far, of so many.
    Loading(Vec<u8>, u64),
    /// Being compiled.
    Compiling,
    /// Ready.
    Ready(Program),
}

/// What can still be said to a task that was given out.
struct Run {
    output: Arc<Output>,
    cancel: CancellationToken,
}

impl Worker {
    /// Makes the engines and starts the ticker; a note says when tasks will be slower than they
    /// could be.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        runtime: Handle,
        outbox: Arc<Outbox<FromWorker>>,
    ) -> std::io::Result<(Arc<Self>, Option<String>)> {
        let (engines, note) = Engines::new();
        let engines = Arc::new(engines);
        let ticked = Arc::clone(&engines);
        let worker = Self {
            runtime,
            outbox,
            engines,
            ticker: Ticker::start(move || ticked.tick())?,
            room: Semaphore::new(usize::from(MAX_TASKS)),
            modules: Mutex::default(),
            runs: Mutex::default(),
        };
        Ok((Arc::new(worker), note))
    }

    /// Does what a message says, or starts it.
    pub fn handle(self: &Arc<Self>, message: ToWorker) {
        match message {
            // Comes once, and was read before.
            ToWorker::Hello(_) => {}
            ToWorker::Module { module, bytes } => {
                lock(&self.modules).insert(module, Module::Loading(Vec::new(), bytes));
            }
            ToWorker::ModulePiece { module, bytes } => self.add_piece(module, &bytes),
            ToWorker::Forget { module } => {
                lock(&self.modules).remove(&module);
            }
            ToWorker::Run(spec) => self.start_run(spec),
            ToWorker::Cancel { run } => {
                if let Some(run) = lock(&self.runs).get(&run) {
                    run.cancel.cancel();
                }
            }
            ToWorker::Credit { run, cost } => {
                if let Some(run) = lock(&self.runs).get(&run) {
                    run.output.add_credit(cost);
                }
            }
            // Answered by the threads that run tasks: that they still do is what is asked.
            ToWorker::Ping => {
                let outbox = Arc::clone(&self.outbox);
                self.runtime
                    .spawn(async move { outbox.push([FromWorker::Pong]) });
            }
        }
    }

    fn add_piece(self: &Arc<Self>, module: ModuleId, piece: &[u8]) {
        let mut modules = lock(&self.modules);
        let Some(state) = modules.get_mut(&module) else {
            return;
        };
        let Module::Loading(bytes, length) = state else {
            return;
        };
        bytes.extend_from_slice(piece);
        if (bytes.len() as u64) < *length {
            return;
        }
        let bytes = std::mem::take(bytes);
        *state = Module::Compiling;
        drop(modules);
        let worker = Arc::clone(self);
        self.runtime
            .spawn_blocking(move || worker.compile(module, &bytes));
    }

    fn compile(&self, module: ModuleId, bytes: &[u8]) {
        let result = self.engines.compile(bytes).map(|program| {
            // Unless it was forgotten meanwhile.
            if let Some(state) = lock(&self.modules).get_mut(&module) {
                *state = Module::Ready(program);
            }
        });
        if result.is_err() {
            lock(&self.modules).remove(&module);
        }
        self.outbox.push([FromWorker::Compiled { module, result }]);
    }

    fn start_run(self: &Arc<Self>, spec: RunSpec) {
        let program = match lock(&self.modules).get(&spec.module) {
            Some(Module::Ready(program)) => program.clone(),
            _ => {
                let message = "the worker was given a task before its module";
                let result = Err(Failure::new(FailureKind::Host, message));
                self.end(spec.run, Vec::new(), result, Usage::default());
                return;
            }
        };
        let run = Arc::new(Run {
            output: Arc::new(Output::new(spec.run, Arc::clone(&self.outbox))),
            cancel: CancellationToken::new(),
        });
        lock(&self.runs).insert(spec.run, Arc::clone(&run));
        let worker = Arc::clone(self);
        self.runtime
            .spawn(async move { worker.run(program, spec, &run).await });
    }

    async fn run(&self, program: Program, spec: RunSpec, run: &Run) {
        let id = spec.run;
        let room = tokio::select! {
            biased;
            () = run.cancel.cancelled() => None,
            room = self.room.acquire() => Some(room),
        };
        let (result, usage) = match room {
            Some(_room) => {
                let _running = self.ticker.enter();
                task::run(program, spec, Arc::clone(&run.output), &run.cancel).await
            }
            None => (Err(task::cancelled()), Usage::default()),
        };
        lock(&self.runs).remove(&id);
        self.end(id, run.output.take(), result, usage);
    }

    /// Sends a task's last output and its end in one piece.
    fn end(
        &self,
        run: RunId,
        mut messages: Vec<FromWorker>,
        result: Result<(), Failure>,
        usage: Usage,
    ) {
        messages.push(FromWorker::End { run, result, usage });
        self.outbox.push(messages);
    }
}
