//! One task from its start to its end, seen from the node.
//!
//! Passes the task's output on at the reader's pace, gives the worker credit for it, and passes on a
//! cancellation. Whoever drops the future gets the task cancelled all the same.

use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::task::{Failure, FailureKind, Usage};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame;
use super::modules::Module;
use super::outbox::lock;
use super::process::{Worker, host, run_cost};
use super::table::{Gone, RunEvent, RunEvents};
use super::wire::{MAX_RUN_BYTES, RunSpec, ToWorker, WINDOW_BYTES, chunk_cost, path_to_bytes};
use crate::{LogChunk, LogSink, TaskEnd, TaskRun};

/// How long a worker may take to end a cancelled task before it is ended itself: a thousand of its
/// ticks, for a host call that cannot be interrupted or a machine under load.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Credit is returned when this much has been passed on: a quarter of the window, so that a task
/// whose output is small costs no message and a large one seldom waits.
const CREDIT_STEP: usize = WINDOW_BYTES / 4;

/// What a worker needs to know about `task`; its names are filled in later.
///
/// # Errors
/// When no worker can run such a task.
pub fn describe(task: TaskRun) -> Result<(RunSpec, u32), Failure> {
    if task.resources.gpus.count > 0 {
        return Err(Failure::new(
            FailureKind::BadProgram,
            "a WASM program cannot use GPUs: remove `gpus` from [resources], or use an image",
        ));
    }
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let spec = RunSpec {
        run: 0,
        module: 0,
        command: task.command,
        env: task.env,
        work_dir: path_to_bytes(&task.work_dir),
        memory: task.resources.memory.0,
        disk: task.resources.disk.0,
        timeout_us: micros(task.timeout),
        stall_us: micros(task.stall),
    };
    let bytes = frame::encoded_len(&spec).map_err(|error| host(error.to_string()))?;
    if bytes > MAX_RUN_BYTES {
        return Err(Failure::new(
            FailureKind::BadProgram,
            format!(
                "command and environment take {bytes} bytes, more than the limit of \
                 {MAX_RUN_BYTES}: pass long values in an input file"
            ),
        ));
    }
    Ok((spec, run_cost(bytes)))
}

/// A task in a worker.
pub struct Run {
    worker: Arc<Worker>,
    events: RunEvents,
    ended: bool,
    /// Passed on and not yet returned as credit.
    owed: usize,
    // Until the end: it must not be forgotten, and there must be room.
    _module: Arc<Module>,
    _room: OwnedSemaphorePermit,
}

impl Run {
    /// Gives a task to `worker`, whose `module` it runs, when there is room.
    ///
    /// # Errors
    /// [`Gone`] when the worker is being stopped; then nothing was started.
    pub async fn start(
        worker: Arc<Worker>,
        module: Arc<Module>,
        mut spec: RunSpec,
        cost: u32,
    ) -> Result<Self, Gone> {
        let window = Arc::clone(&worker.window);
        let room = window.acquire_many_owned(cost).await.map_err(|_| Gone)?;
        spec.module = module.id().ok_or(Gone)?;
        let events = lock(&worker.table).add_run(spec.memory)?;
        spec.run = events.run;
        worker.outbox.push([ToWorker::Run(spec)]);
        Ok(Self {
            worker,
            events,
            ended: false,
            owed: 0,
            _module: module,
            _room: room,
        })
    }

    /// Waits for the task's end and passes its output on until then.
    pub async fn finish(mut self, log: LogSink, cancel: CancellationToken) -> TaskEnd {
        tokio::select! {
            biased;
            end = self.pass_on(&log) => return end,
            () = cancel.cancelled() => {}
        }
        self.cancel();
        self.finish_cancelled(&log).await
    }

    /// Until the end, at the reader's pace.
    async fn pass_on(&mut self, log: &LogSink) -> TaskEnd {
        loop {
            match self.events.events.recv().await {
                Some(RunEvent::Log(chunk)) => {
                    let cost = chunk_cost(chunk.bytes.len());
                    // Nobody may want it; the task runs on.
                    let _ = log.send(chunk).await;
                    self.return_credit(cost);
                }
                Some(RunEvent::End(end)) => return self.end(end),
                None => return self.lost(),
            }
        }
    }

    /// Until the end, which must come soon; the reader gets what it takes at once.
    async fn finish_cancelled(&mut self, log: &LogSink) -> TaskEnd {
        let deadline = Instant::now() + CANCEL_LIMIT;
        loop {
            match tokio::time::timeout_at(deadline, self.events.events.recv()).await {
                Ok(Some(RunEvent::Log(chunk))) => {
                    let cost = chunk_cost(chunk.bytes.len());
                    let _: Result<(), mpsc::error::TrySendError<LogChunk>> = log.try_send(chunk);
                    self.return_credit(cost);
                }
                Ok(Some(RunEvent::End(end))) => return self.end(end),
                Ok(None) => return self.lost(),
                Err(_) => {
                    self.worker.kill(host(format!(
                        "the worker crashed: it did not end another task within {} s and was \
                         killed; the task may be tried again",
                        CANCEL_LIMIT.as_secs()
                    )));
                    self.worker.gone().await;
                    self.ended = true;
                    return TaskEnd {
                        result: Err(cancelled()),
                        usage: Usage::default(),
                    };
                }
            }
        }
    }

    fn return_credit(&mut self, cost: usize) {
        self.events.passed_on(cost);
        self.owed += cost;
        if self.owed >= CREDIT_STEP {
            let run = self.events.run;
            let cost = u32::try_from(self.owed).unwrap_or(u32::MAX);
            self.owed = 0;
            self.worker.outbox.push([ToWorker::Credit { run, cost }]);
        }
    }

    fn cancel(&self) {
        let run = self.events.run;
        self.worker.outbox.push([ToWorker::Cancel { run }]);
    }

    fn end(&mut self, end: TaskEnd) -> TaskEnd {
        self.ended = true;
        end
    }

    fn lost(&mut self) -> TaskEnd {
        self.ended = true;
        TaskEnd {
            result: Err(self.worker.verdict()),
            usage: Usage::default(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

/// The end of a task that was cancelled before it started.
pub fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "the task was cancelled")
}
