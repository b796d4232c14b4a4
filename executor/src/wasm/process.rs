//! One worker process, seen from the node.
//!
//! Started by [`super::pool`]; three tasks serve it (one reads and decides about its end, one writes,
//! one keeps the last words of its stderr). It ends when it breaks the rules, falls silent, has had
//! nothing to do for a while, or is told to; whatever it was given then ends as well, and not before
//! the process is gone. Must never trust what it reads: [`super::table`] checks it.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::WasmConfig;
use super::frame;
use super::modules::Modules;
use super::outbox::{Outbox, lock};
use super::pipe::{Pipe, PipeError, keep_last_words};
use super::table::{Table, Violation};
use super::wire::{FromWorker, Hello, PROTOCOL, ToWorker, path_to_bytes};

/// How long a worker may take to say that it is ready. It takes some 10 ms; a machine that swaps may
/// take long to load the program.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long a busy worker may be silent before it is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long a busy worker may be silent before it is ended. A host call that blocks all its threads
/// (a write of gigabytes to a slow disk) must fit in.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// Runs that one worker may have been given and not answered, in units of [`run_cost`]: far more
/// than it runs at a time, so that it never waits for the node, and at most 5 MiB of descriptions.
pub const RUN_WINDOW: usize = 4_096;

/// What a run with a description of `bytes` bytes counts against [`RUN_WINDOW`].
pub fn run_cost(bytes: usize) -> u32 {
    u32::try_from(1 + bytes / 1_024).unwrap_or(u32::MAX)
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    /// Messages to it.
    pub outbox: Outbox<ToWorker>,
    /// What it was given.
    pub table: Mutex<Table>,
    /// Modules that it has.
    pub modules: Modules,
    /// Limits how much it is given.
    pub window: Arc<Semaphore>,
    /// Its process id.
    pub pid: u32,
    /// Set when it is told to end: why.
    verdict: Mutex<Option<Failure>>,
    condemned: CancellationToken,
    gone: CancellationToken,
    idle_stop: Duration,
}

/// Why a worker's pipe was not read any further.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Pipe(#[from] PipeError),
    #[error("it had nothing to do")]
    Idle,
    #[error("it was told to")]
    Condemned,
    #[error("it was silent for {} s", SILENCE_LIMIT.as_secs())]
    Silent,
    #[error("{0}")]
    Violation(#[from] Violation),
}

impl Worker {
    /// Starts a worker and waits until it is ready. Dropping the future ends the process.
    ///
    /// # Errors
    /// A [`FailureKind::Host`] failure that says what did not work.
    pub async fn start(config: &WasmConfig) -> Result<Arc<Self>, Failure> {
        let program = &config.worker.program;
        let mut command = Command::new(program);
        command
            .args(&config.worker.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A Ctrl-C in the node's terminal is for the node, which ends its workers in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| {
            host(format!(
                "the WASM worker {} cannot be started: {error}",
                program.display()
            ))
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(host("the WASM worker was started without pipes"));
        };
        let last_words = tokio::spawn(keep_last_words(stderr));
        let mut pipe = Pipe::new(stdout);
        let greeted = tokio::time::timeout(START_LIMIT, greet(stdin, &mut pipe, config)).await;
        let stdin = match greeted {
            Ok(Ok(stdin)) => stdin,
            Ok(Err(why)) => {
                let _ = child.kill().await;
                let words = last_words.await.unwrap_or_default();
                return Err(host(format!(
                    "the WASM worker {} did not start: {why} {words}",
                    program.display()
                )));
            }
            Err(_) => {
                return Err(host(format!(
                    "the WASM worker {} was not ready within {} s",
                    program.display(),
                    START_LIMIT.as_secs()
                )));
            }
        };
        let worker = Arc::new(Self {
            outbox: Outbox::default(),
            table: Mutex::default(),
            modules: Modules::default(),
            window: Arc::new(Semaphore::new(RUN_WINDOW)),
            pid: child.id().unwrap_or_default(),
            verdict: Mutex::new(None),
            condemned: CancellationToken::new(),
            gone: CancellationToken::new(),
            idle_stop: config.idle_stop,
        });
        tracing::debug!(pid = worker.pid, "WASM worker started");
        tokio::spawn(Arc::clone(&worker).write_all(stdin));
        tokio::spawn(Arc::clone(&worker).serve(child, pipe, last_words));
        Ok(worker)
    }

    /// Whether it takes new work.
    pub fn is_open(&self) -> bool {
        lock(&self.table).is_open()
    }

    /// Ends it at once. What it was given ends with `why`, unless it was ending already.
    pub fn kill(&self, why: Failure) {
        lock(&self.table).close();
        lock(&self.verdict).get_or_insert(why);
        self.condemned.cancel();
    }

    /// Waits until its process is gone.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Whether its process is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// What its end means for a task that it was given. Known once the task's events have ended.
    pub fn verdict(&self) -> Failure {
        lock(&self.verdict)
            .clone()
            .unwrap_or_else(|| host("the WASM worker ended"))
    }

    async fn write_all(self: Arc<Self>, mut stdin: ChildStdin) {
        let mut bytes = Vec::new();
        while let Some(messages) = self.outbox.take().await {
            bytes.clear();
            if let Err(error) = frame::encode(&messages, &mut bytes) {
                return self.kill(host(format!("the node wrote {error}")));
            }
            // When it has died, the reading side sees it as well.
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        mut child: Child,
        mut pipe: Pipe<ChildStdout>,
        last_words: tokio::task::JoinHandle<String>,
    ) {
        let ended = tokio::select! {
            ended = self.read_all(&mut pipe) => ended,
            () = self.condemned.cancelled() => Ended::Condemned,
        };
        lock(&self.table).close();
        self.outbox.close();
        let _ = child.start_kill();
        let status = match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => format!("status unknown: {error}"),
        };
        let words = last_words.await.unwrap_or_default();
        if matches!(ended, Ended::Idle | Ended::Condemned) {
            tracing::debug!(pid = self.pid, "WASM worker stopped: {ended}");
        } else {
            let running = lock(&self.table).running();
            tracing::warn!(
                pid = self.pid,
                status,
                running,
                words,
                "WASM worker lost: {ended}"
            );
        }
        let crashed = format!(
            "the worker crashed: the process that ran this task and others was lost ({ended}; \
             {status}); the task may be tried again"
        );
        lock(&self.verdict).get_or_insert_with(|| host(crashed));
        lock(&self.table).abandon();
        self.gone.cancel();
    }

    async fn read_all(&self, pipe: &mut Pipe<ChildStdout>) -> Ended {
        let mut messages = Vec::new();
        let mut heard = Instant::now();
        let look_every = PING_AFTER.min(self.idle_stop);
        loop {
            match tokio::time::timeout(look_every, pipe.read(&mut messages)).await {
                Ok(Ok(())) => heard = Instant::now(),
                Ok(Err(error)) => return error.into(),
                Err(_) => match self.look(heard) {
                    Some(ended) => return ended,
                    None => continue,
                },
            }
            let mut table = lock(&self.table);
            for message in messages.drain(..) {
                if let Err(violation) = table.take(message) {
                    return violation.into();
                }
            }
        }
    }

    /// Looks after a worker that has not said anything for a while.
    fn look(&self, heard: Instant) -> Option<Ended> {
        let mut table = lock(&self.table);
        match table.idle_since() {
            Some(since) if since.elapsed() >= self.idle_stop => {
                table.close();
                Some(Ended::Idle)
            }
            Some(_) => None,
            None if heard.elapsed() >= SILENCE_LIMIT => Some(Ended::Silent),
            None => {
                if heard.elapsed() >= PING_AFTER {
                    self.outbox.push([ToWorker::Ping]);
                }
                None
            }
        }
    }
}

/// Says hello and hears that the worker is ready.
async fn greet(
    mut stdin: ChildStdin,
    pipe: &mut Pipe<ChildStdout>,
    config: &WasmConfig,
) -> Result<ChildStdin, String> {
    let hello = ToWorker::Hello(Hello {
        protocol: PROTOCOL,
        threads: u16::try_from(config.threads).unwrap_or(u16::MAX),
        work_root: path_to_bytes(&config.work_root),
    });
    let mut bytes = Vec::new();
    frame::encode(&[hello], &mut bytes).map_err(|error| error.to_string())?;
    // When it has died already, its last words say more than a broken pipe.
    let _ = stdin.write_all(&bytes).await;
    let mut messages = Vec::new();
    pipe.read(&mut messages)
        .await
        .map_err(|error| error.to_string())?;
    match messages.as_slice() {
        [FromWorker::Ready { protocol, notes }] if *protocol == PROTOCOL => {
            for note in notes.iter().take(MAX_NOTES) {
                tracing::warn!(note, "WASM worker");
            }
            Ok(stdin)
        }
        _ => Err("it is of another version than this node: restart the node".to_owned()),
    }
}

/// Notes of one worker that are logged: more than there are protections.
const MAX_NOTES: usize = 16;

/// A failure of this machine and not of the task.
pub fn host(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Host, message)
}
