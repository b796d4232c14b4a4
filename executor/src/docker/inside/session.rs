//! One running command, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::exec::ResizeExecOptions;
use futures::FutureExt;
use p2pnode_protocol::task::{Failure, FailureKind};
use p2pnode_protocol::tunnel::{ExecEnd, TaskSignal, WindowSize};
use rustix::process::Signal;
use tokio::io::AsyncWrite;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::words;
use super::Core;
use super::process::{Process, signal_of};
use super::pty::Far;
use super::pump::{self, CHUNKS};
use super::start::Frames;
use crate::LogChunk;
use crate::inside::{Session, SessionControl};

/// Pauses between two questions to the engine about a command that has ended, as this host saw: it
/// learns of that a little later. Each doubles.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The exit code of what was killed.
const KILLED: i32 = 137;

/// For how long an engine may say nothing of a command that runs: it may be busy, or be restarted.
const SILENCE: Duration = Duration::from_secs(10);

/// What a session is told when the task ends first.
const TASK_ENDED: &str = "the task has ended";

/// A command's input and output.
pub(super) struct Ends {
    pub frames: Frames,
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its terminal, when that is this node's.
    pub far: Option<Far>,
}

/// A command that has started.
#[derive(Clone)]
pub(super) struct Command {
    pub core: Arc<Core>,
    /// The engine's name for it.
    pub exec: String,
    /// Whether it has a terminal of the engine's.
    pub tty: bool,
    /// Whether this host sees the container's processes.
    pub seen: bool,
    /// Its process, when this host has seen it before its end.
    pub process: Option<Process>,
    /// Whether it is the task itself.
    pub is_task: bool,
}

/// The hand on it.
struct Control {
    command: Command,
    far: Option<Far>,
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: WindowSize) {
        match &self.far {
            Some(far) => {
                if let Err(error) = far.resize(size) {
                    tracing::debug!(%error, "a terminal cannot have another size");
                }
            }
            None if self.command.tty => self.command.resize(size).await,
            None => {}
        }
    }

    async fn signal(&self, signal: TaskSignal) {
        self.command.signal(signal_of(signal)).await;
    }
}

impl Command {
    /// Gives its terminal, which is the engine's, another size.
    pub(super) async fn resize(&self, size: WindowSize) {
        let options = ResizeExecOptions {
            height: size.rows,
            width: size.columns,
        };
        let resized = self.core.docker.resize_exec(&self.exec, options);
        if let Err(error) = resized.await {
            tracing::debug!(error = words(&error), "a terminal cannot have another size");
        }
    }

    async fn signal(&self, signal: Signal) {
        match &self.process {
            Some(process) => process.signal(signal).await,
            // It is gone.
            None if self.seen => {}
            None => tracing::info!(
                ?signal,
                "a command in a task is not signalled: this node does not see its processes"
            ),
        }
    }

    /// Follows it to its end in the background.
    pub(super) fn follow(self, ends: Ends, permit: OwnedSemaphorePermit) -> Session {
        let (sender, output) = mpsc::channel(CHUNKS);
        let (tell, told) = oneshot::channel();
        let control = Control {
            command: self.clone(),
            far: ends.far,
        };
        tokio::spawn(self.live(ends.frames, sender, tell, permit));
        let lost = || ExecEnd::Lost("the way to the command is gone".into());
        Session {
            input: ends.input,
            output,
            control: Box::new(control),
            end: told.map(move |end| end.unwrap_or_else(|_| lost())).boxed(),
        }
    }

    async fn live(
        self,
        frames: Frames,
        reader: mpsc::Sender<LogChunk>,
        mut tell: oneshot::Sender<ExecEnd>,
        permit: OwnedSemaphorePermit,
    ) {
        let end = self.end(frames, &reader, &mut tell).await;
        drop((reader, permit));
        let ending = match &end {
            ExecEnd::Exited(code) => Ok(i64::from(*code)),
            ExecEnd::Lost(why) => Err(Failure::new(FailureKind::Host, why.clone())),
        };
        // When nobody waits for it any more, it was dropped.
        let _ = tell.send(end);
        if let (true, Some(attendance)) = (self.is_task, &self.core.place.attendance) {
            attendance.ended(ending);
        }
    }

    async fn end(
        &self,
        frames: Frames,
        reader: &mpsc::Sender<LogChunk>,
        tell: &mut oneshot::Sender<ExecEnd>,
    ) -> ExecEnd {
        let ended = CancellationToken::new();
        let mut pumping = std::pin::pin!(pump::pump(frames, reader, &ended));
        let mut exiting = std::pin::pin!(self.exit(&ended));
        let (mut code, mut pumped, mut dropped) = (None, false, false);
        loop {
            tokio::select! {
                exited = &mut exiting, if code.is_none() => match exited {
                    Ok(exited) => code = Some(exited),
                    Err(why) => return ExecEnd::Lost(why),
                },
                () = &mut pumping, if !pumped => pumped = true,
                () = tell.closed(), if !dropped => {
                    dropped = true;
                    if code.is_none() {
                        self.signal(Signal::KILL).await;
                    }
                    if self.process.is_none() && !self.seen {
                        // It sees the end of its input and nobody reads its output, which is all that
                        // can be done; a task is killed with its container.
                        return match self.is_task {
                            true => ExecEnd::Exited(KILLED),
                            false => ExecEnd::Lost("nobody attends to it any more".into()),
                        };
                    }
                }
                () = self.core.place.door.shut() => return ExecEnd::Lost(TASK_ENDED.into()),
            }
            if let Some(code) = code
                && (pumped || dropped)
            {
                return ExecEnd::Exited(code);
            }
        }
    }

    /// Waits for its exit code; `ended` is told as soon as its process is gone.
    ///
    /// # Errors
    /// Why there is none to be had.
    async fn exit(&self, ended: &CancellationToken) -> Result<i32, String> {
        let mut pause = LAST_LOOK;
        if let Some(process) = &self.process {
            process.gone().await;
            ended.cancel();
            pause = FIRST_LOOK;
        }
        let mut answered = Instant::now();
        loop {
            let seen = match self.core.docker.inspect_exec(&self.exec).await {
                Ok(seen) => seen,
                // An engine forgets the commands of a container that it removes; one that is busy, or being
                // restarted, says something else for a while.
                Err(error) => {
                    if matches!(
                        &error,
                        Error::DockerResponseServerError {
                            status_code: 404,
                            ..
                        }
                    ) || answered.elapsed() >= SILENCE
                    {
                        return Err(TASK_ENDED.to_owned());
                    }
                    sleep(LAST_LOOK).await;
                    continue;
                }
            };
            answered = Instant::now();
            if seen.running != Some(true)
                && let Some(code) = seen.exit_code
            {
                ended.cancel();
                return Ok(i32::try_from(code).unwrap_or(i32::MAX));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }
}
