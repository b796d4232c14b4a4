//! What every runtime owes the node, as checks that run against any of them.
//!
//! Each runtime's own test file makes a [`Subject`]: the runtime, a program for every [`Act`], and a
//! way to see what was left behind. [`contract_tests!`] then makes one `#[tokio::test]` of every
//! check. Checks wait on conditions, with [`PATIENCE`] as the limit; none of them looks at how a
//! runtime works inside.
#![allow(clippy::unwrap_used, dead_code)]

mod checks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::{
    Environment, Hold, LogChunk, LogSink, ProgramFile, Runtime, TaskEnd, TaskRun,
};
use p2pnode_protocol::task::{FailureKind, Isolation, NetworkMode, Stream};
use p2pnode_protocol::{AttemptKey, JobId, PeerId, Resources, TaskKey};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use checks::*;

/// The longest that a check waits for anything: generous, since it only ends tests that fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that [`Act::Flood`] writes: far more than pipes, sockets and channels can hold together.
pub const FLOOD_BYTES: u64 = 64 << 20;

/// What a test program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ends with this exit code, writing nothing.
    Exit(u8),
    /// Writes `early\n` to stdout and flushes it, waits until the file `go` stands in the current
    /// folder, writes `late\n` to stderr, ends with 0.
    Converse,
    /// Writes each of its arguments after the program's name on a line of its own, then the value of
    /// the environment variable `GREETING` on a line, all to stdout. It is given [`ARGUMENTS`].
    Echo,
    /// Copies `in/data.bin` to `out/data.bin` (both relative; the folder `out` is there already).
    Copy,
    /// Reads stdin to its end and ends with 0 when that came at once, without a byte.
    Stdin,
    /// Writes `started\n` to stdout, then uses CPU for ever.
    Spin,
    /// Writes `started\n` to stdout, then waits for ever without CPU use.
    Idle,
    /// Takes and touches memory until there is no more; ends with a code that is not 0 when refused.
    MemoryBomb,
    /// Writes [`FLOOD_BYTES`] zero bytes to stdout, ends with 0.
    Flood,
    /// Writes to the file `big` in the current folder for ever, or until a write fails; then it ends
    /// with a code that is not 0.
    FillDisk,
    /// Writes the bytes `ff 00 fe` to stdout.
    Binary,
}

/// The arguments that [`Act::Echo`] is given.
pub const ARGUMENTS: [&str; 3] = ["one", "two words", "$HOME;`'\""];

/// A program and how it is called.
#[derive(Debug, Clone)]
pub struct Script {
    /// What [`Runtime::prepare`] is given.
    pub program: ProgramFile,
    /// What [`TaskRun::command`] holds.
    pub command: Vec<String>,
}

/// A runtime under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The runtime.
    fn runtime(&self) -> &dyn Runtime;

    /// The program for one act.
    fn script(&self, act: Act) -> Script;

    /// What [`TaskRun::isolation`] says.
    fn isolation(&self) -> Isolation {
        Isolation::Task
    }

    /// Whether a task that went over its memory may end this way.
    fn is_out_of_memory(&self, kind: FailureKind) -> bool {
        kind == FailureKind::OutOfMemory
    }

    /// What is left of ended tasks outside their work directories (containers, processes, temporary
    /// files), in words; empty when all is clean.
    async fn leftovers(&self) -> Vec<String>;
}

/// One task about to run: a builder with defaults that let small programs pass.
pub struct Trial<'a> {
    subject: &'a dyn Subject,
    act: Act,
    /// The task's work directory. Kept until the trial is dropped.
    pub dir: TempDir,
    /// What will run; checks change it as they like.
    pub task: TaskRun,
    /// Ends the run.
    pub cancel: CancellationToken,
}

/// A task that runs in the background, with its output.
pub struct Running {
    /// Output as it comes.
    pub log: mpsc::Receiver<LogChunk>,
    /// The end.
    pub end: tokio::task::JoinHandle<TaskEnd>,
}

/// Everything that a task wrote, and its end.
pub struct Ended {
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub end: TaskEnd,
}

impl<'a> Trial<'a> {
    /// A task that will do `act`.
    pub fn new(subject: &'a dyn Subject, act: Act) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work_dir = dir.path().join("work");
        std::fs::create_dir(&work_dir).unwrap();
        let task = TaskRun {
            submitter: PeerId::random(),
            attempt: AttemptKey {
                task: TaskKey {
                    job: JobId(*PeerId::random().to_bytes().last_chunk().unwrap()),
                    step: 0,
                    index: 7,
                },
                attempt: 1,
            },
            command: subject.script(act).command,
            env: Vec::new(),
            work_dir,
            resources: Resources::default(),
            gpus: Vec::new(),
            timeout: Duration::ZERO,
            stall: Duration::ZERO,
            network: NetworkMode::None,
            root: false,
            isolation: subject.isolation(),
            sandbox: None,
            attended: false,
            hold: Hold::default(),
        };
        Self {
            subject,
            act,
            dir,
            task,
            cancel: CancellationToken::new(),
        }
    }

    /// The work directory.
    pub fn work_dir(&self) -> &Path {
        &self.task.work_dir
    }

    /// Prepares the program's environment.
    pub async fn prepare(&self) -> Arc<dyn Environment> {
        let (progress, _ignored) = mpsc::channel(1);
        let program = self.subject.script(self.act).program;
        within(self.subject.runtime().prepare(program, progress))
            .await
            .unwrap()
    }

    /// Starts it in the background with a log channel of one chunk.
    pub async fn start(&self) -> Running {
        let environment = self.prepare().await;
        let (sink, log): (LogSink, _) = mpsc::channel(1);
        let (task, cancel) = (self.task.clone(), self.cancel.clone());
        let end = tokio::spawn(async move { environment.run(task, sink, cancel).await });
        Running { log, end }
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Ended {
        self.start().await.finish().await
    }
}

impl Running {
    /// Waits until stdout has shown `text`, and returns all that came on both streams up to then.
    pub async fn until_stdout(&mut self, text: &str) -> Vec<LogChunk> {
        let (mut chunks, mut seen) = (Vec::new(), Vec::new());
        while !String::from_utf8_lossy(&seen).contains(text) {
            let chunk = within(self.log.recv())
                .await
                .expect("the task's output ended early");
            if chunk.stream == Stream::Stdout {
                seen.extend_from_slice(&chunk.bytes);
            }
            chunks.push(chunk);
        }
        chunks
    }

    /// Reads all remaining output without keeping it, and returns how many bytes of stdout there were
    /// and how the task ended. Panics on a byte that is not 0.
    pub async fn count_zeros(mut self) -> (u64, TaskEnd) {
        let mut count = 0;
        while let Some(chunk) = within(self.log.recv()).await {
            assert_eq!(chunk.stream, Stream::Stdout);
            assert!(chunk.bytes.iter().all(|byte| *byte == 0));
            count += chunk.bytes.len() as u64;
        }
        (count, within(self.end).await.unwrap())
    }

    /// Reads all remaining output and waits for the end.
    pub async fn finish(mut self) -> Ended {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(chunk) = within(self.log.recv()).await {
            assert!(
                chunk.bytes.len() <= 64 << 10,
                "chunk of {} bytes",
                chunk.bytes.len()
            );
            match chunk.stream {
                Stream::Stdout => stdout.extend_from_slice(&chunk.bytes),
                Stream::Stderr => stderr.extend_from_slice(&chunk.bytes),
            }
        }
        let end = within(self.end).await.unwrap();
        Ended {
            stdout,
            stderr,
            end,
        }
    }
}

impl Ended {
    /// The kind of failure; panics with the output when there was none.
    pub fn failure(&self) -> FailureKind {
        match &self.end.result {
            Ok(()) => panic!(
                "the task succeeded; stdout: {}",
                String::from_utf8_lossy(&self.stdout)
            ),
            Err(failure) => {
                assert!(!failure.message.is_empty(), "a failure without words");
                failure.kind
            }
        }
    }

    /// Panics with the failure and stderr unless the task ended with 0.
    pub fn expect_success(&self) -> &Self {
        if let Err(failure) = &self.end.result {
            panic!(
                "{failure:?}; stderr: {}",
                String::from_utf8_lossy(&self.stderr)
            );
        }
        self
    }
}

/// Waits for `future`, at most [`PATIENCE`].
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("did not happen in time")
}

/// Waits until nothing is left behind, at most [`PATIENCE`].
pub async fn clean(subject: &dyn Subject) {
    let start = tokio::time::Instant::now();
    loop {
        let left = subject.leftovers().await;
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "left behind: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes a test of every check. `$subject` is an async function that returns a [`Subject`];
/// `$attribute` is put on every test.
#[macro_export]
macro_rules! contract_tests {
    (@each $subject:path, $attributes:tt, $($check:ident)*) => {
        $( $crate::contract_tests!(@one $subject, $attributes, $check); )*
    };
    (@one $subject:path, [$(#[$attribute:meta])*], $check:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        $(#[$attribute])*
        async fn $check() {
            contract::$check(&$subject().await).await;
        }
    };
    ($subject:path, $(#[$attribute:meta])*) => {
        $crate::contract_tests!(@each $subject, [$(#[$attribute])*],
            exit_code_0_is_success
            other_exit_codes_are_told
            output_streams_while_it_runs
            arguments_and_environment_arrive
            inputs_are_read_and_outputs_seen
            bytes_that_are_not_text_pass
            stdin_is_empty
            a_timeout_kills
            a_timeout_kills_a_busy_task
            a_cancel_kills
            a_cancelled_task_never_starts
            a_silent_idle_task_is_stalled
            a_busy_task_is_not_stalled
            a_reader_that_is_slow_stalls_nobody
            too_much_memory_ends_the_task
            a_flood_is_slowed_down
            a_flood_nobody_reads_can_be_cancelled
            output_that_nobody_wants_is_dropped
            too_much_disk_ends_the_task
            tasks_run_side_by_side
            a_dropped_run_leaves_nothing
            shutdown_ends_running_tasks
            usage_is_told
        );
    };
}
