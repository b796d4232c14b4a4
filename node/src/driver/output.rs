//! What a run writes, on its way from the sandbox into its job's log pipe.
//!
//! A slow reader slows the task down, but never keeps a run from ending: once the task is killed, or
//! has ended and its reader stands still, the rest is dropped. Called by [`super::running`].

use std::time::Duration;

use p2pnode_executor::{Environment, LogChunk, TaskEnd, TaskRun};
use p2pnode_protocol::AttemptKey;
use p2pnode_protocol::stream::LogFrame;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::logpipe::LogPipe;

/// Output chunks between a task and its log pipe. Small, so that a task that writes faster than its
/// submitter reads is slowed down after some 64 KiB × 4.
const LOG_QUEUE: usize = 4;

/// How long the last chunks of a task that ended may wait for room in the pipe (60 s, a lease: a submitter
/// that was out of reach is back by then, or lost). The slot is taken until then.
const DRAIN: Duration = Duration::from_secs(60);

/// Where one run's output goes.
pub(super) struct Output<'a> {
    attempt: AttemptKey,
    /// `None`: nowhere.
    log: Option<&'a LogPipe>,
    /// The run's; what does not fit into the pipe any more is dropped from then on.
    cancel: &'a CancellationToken,
    /// [`DRAIN`].
    drain: Duration,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        attempt: AttemptKey,
        log: Option<&'a LogPipe>,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            attempt,
            log,
            cancel,
            drain: DRAIN,
        }
    }

    /// Runs a task and passes on what it writes. `log_bytes` counts all of it, dropped or not, so that
    /// the submitter can tell whether its log is complete.
    pub(super) async fn of_run(
        &self,
        environment: &dyn Environment,
        task: TaskRun,
        log_bytes: &mut u64,
    ) -> TaskEnd {
        let (sink, chunks) = mpsc::channel::<LogChunk>(LOG_QUEUE);
        let ended = CancellationToken::new();
        let running = async {
            let end = environment.run(task, sink, self.cancel.clone()).await;
            ended.cancel();
            end
        };
        let (end, ()) = tokio::join!(running, self.forward(chunks, &ended, log_bytes));
        end
    }

    async fn forward(
        &self,
        mut chunks: mpsc::Receiver<LogChunk>,
        ended: &CancellationToken,
        log_bytes: &mut u64,
    ) {
        let too_late = async {
            ended.cancelled().await;
            tokio::time::sleep(self.drain).await;
        };
        let give_up = async {
            tokio::select! {
                () = self.cancel.cancelled() => {}
                () = too_late => {}
            }
        };
        let mut give_up = std::pin::pin!(give_up);
        let mut log = self.log;
        while let Some(chunk) = chunks.recv().await {
            let bytes = chunk.bytes.len() as u64;
            if let Some(pipe) = log {
                let frame = self.frame(chunk, *log_bytes);
                tokio::select! {
                    // What has room goes out even so: the last words of a task that was killed.
                    biased;
                    () = pipe.send(frame) => {}
                    () = &mut give_up => {
                        tracing::debug!(attempt = %self.attempt, "the end of its log is dropped");
                        log = None;
                    }
                }
            }
            *log_bytes += bytes;
        }
    }

    fn frame(&self, chunk: LogChunk, offset: u64) -> LogFrame {
        let AttemptKey { task, attempt } = self.attempt;
        LogFrame {
            step: task.step,
            index: task.index,
            attempt,
            stream: chunk.stream,
            offset,
            bytes: chunk.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use async_trait::async_trait;
    use p2pnode_executor::{Hold, LogSink};
    use p2pnode_protocol::task::{Isolation, NetworkMode, Stream, Usage};
    use p2pnode_protocol::{JobId, PeerId, Resources, TaskKey};

    use super::*;

    /// Less than [`DRAIN`], and a hundred times what is needed.
    const LIMIT: Duration = Duration::from_secs(20);

    const ATTEMPT: AttemptKey = AttemptKey {
        task: TaskKey {
            job: JobId([7; 8]),
            step: 0,
            index: 0,
        },
        attempt: 1,
    };

    /// Writes so many chunks as fast as it can; the end waits for nobody once it is cancelled.
    struct Chatty(usize);

    #[async_trait]
    impl Environment for Chatty {
        async fn run(&self, _: TaskRun, log: LogSink, cancel: CancellationToken) -> TaskEnd {
            let writing = async {
                for _ in 0..self.0 {
                    let bytes = vec![b'y'; 10];
                    let stream = Stream::Stdout;
                    let _unread = log.send(LogChunk { stream, bytes }).await;
                }
            };
            tokio::select! {
                () = writing => {}
                () = cancel.cancelled() => {}
            }
            TaskEnd {
                result: Ok(()),
                usage: Usage::default(),
            }
        }
    }

    fn task() -> TaskRun {
        TaskRun {
            submitter: PeerId::random(),
            attempt: ATTEMPT,
            command: Vec::new(),
            env: Vec::new(),
            work_dir: PathBuf::new(),
            resources: Resources::default(),
            gpus: Vec::new(),
            timeout: Duration::ZERO,
            stall: Duration::ZERO,
            network: NetworkMode::None,
            root: false,
            isolation: Isolation::Task,
            sandbox: None,
            attended: false,
            hold: Hold::default(),
        }
    }

    /// Runs a task with a pipe that nobody reads, and returns how many bytes it wrote.
    async fn unread(chunks: usize, cancel: &CancellationToken) -> u64 {
        let (log, _unread) = LogPipe::unread();
        let output = Output {
            drain: Duration::from_millis(50),
            ..Output::new(ATTEMPT, Some(&log), cancel)
        };
        let mut bytes = 0;
        output.of_run(&Chatty(chunks), task(), &mut bytes).await;
        bytes
    }

    #[tokio::test]
    async fn a_killed_run_ends_though_its_log_is_full() {
        let cancel = CancellationToken::new();
        let killer = cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            killer.cancel();
        });
        let ending = unread(usize::MAX, &cancel);
        let ended = tokio::time::timeout(LIMIT, ending).await;
        assert!(ended.is_ok_and(|bytes| bytes > 0));
    }

    #[tokio::test]
    async fn a_run_that_ended_waits_for_its_reader_only_so_long() {
        let cancel = CancellationToken::new();
        // Two more than fit into the pipe.
        let chunks = super::super::logpipe::QUEUE + 2;
        let ended = tokio::time::timeout(LIMIT, unread(chunks, &cancel)).await;
        assert_eq!(ended, Ok(chunks as u64 * 10), "all is counted");
    }
}
