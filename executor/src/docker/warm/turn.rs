//! One task in a waiting container: the engine's exec, from its start to its last byte.
//!
//! What a container of the task's own would end by ending, this module must end itself: when the
//! task's first process is gone, whatever else it started is killed, as it would be there. A task that
//! is ended by anything but its own exit takes the container with it.

use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt;
use p2pnode_protocol::task::{Failure, FailureKind};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::container::{WORK, environment};
use super::super::ending::{self, Exit};
use super::super::hold::Freezer;
use super::super::inside::Place;
use super::super::meter::Meter;
use super::super::output;
use super::super::remove;
use super::super::run::{Shared, Stops};
use super::super::space;
use super::super::stopped;
use super::super::watch::{self, Limits, Pulse};
use super::room::{Parts, Room};
use crate::{LogSink, TaskRun};

/// Bytes of output read at once from the engine, whose own frames are of 32 KiB.
const FRAME_BYTES: usize = 64 << 10;

/// How much of the engine's words is kept when it can't start a command.
const HEAD_BYTES: usize = 512;

/// When a task that still writes is first asked for its process: shorter ones are over by then, and
/// cost the engine one question instead of two.
const FIRST_LOOK: Duration = Duration::from_millis(100);

/// Pauses between two looks at a task's process; each doubles. The longest is how late the end of a
/// task may be noticed when it closed its output before or left others behind that hold it.
const NEXT_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What became of a task's turn.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It ran. `tidy`: only its own exit ended it, and the container still waits.
    Over {
        result: Result<(), Failure>,
        tidy: bool,
    },
    /// Its command was not started, through no fault of its own: the container had died.
    NotStarted(Failure),
}

impl Outcome {
    pub(super) fn failed(failure: Failure) -> Self {
        Self::Over {
            result: Err(failure),
            tidy: false,
        }
    }

    /// The same, not tidy unless `also`.
    pub(super) fn tidy_if(self, also: bool) -> Self {
        match self {
            Self::Over { result, tidy } => Self::Over {
                result,
                tidy: tidy && also,
            },
            not_started @ Self::NotStarted(_) => not_started,
        }
    }
}

/// How an exec ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub code: i64,
    /// Whether there has been a process at all.
    pub started: bool,
}

/// A task and the room in which it runs.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub shared: &'a Shared,
    pub room: &'a Room,
    pub task: &'a TaskRun,
    /// The command, filled in when it is the image's own.
    pub command: &'a [String],
    /// Set beside what the task sets itself; no name stands in both.
    pub extra_env: &'a [String],
    pub limits: &'a Limits,
    pub stops: &'a Stops,
    pub pulse: &'a Pulse,
}

impl Turn<'_> {
    /// Runs the task to its end. The work directory stands in its slot already.
    pub(super) async fn run(&self, log: &LogSink, place: Place) -> Outcome {
        let kills = self.room.parts.inside.memory_kills();
        let meter = Meter::new(
            self.room.docker.clone(),
            self.shared.mounts.clone(),
            self.room.id.clone(),
        );
        let env = match environment(self.task) {
            Ok(env) => env,
            Err(failure) => return Outcome::failed(failure),
        };
        if let Err(failure) = self.stops.check() {
            return Outcome::Over {
                result: Err(failure),
                tidy: true,
            };
        }
        let meter = meter.starting_over();
        self.pulse.begins();
        if let Some(attendance) = place.attendance.clone() {
            return self.attended(&attendance, place, meter, kills).await;
        }
        let (exec, output) = match self.start(env).await {
            Ok(started) => started,
            Err(error) => {
                let why = "the warm container cannot run the task";
                return Outcome::NotStarted(ending::of_loss(why, &error));
            }
        };
        self.live((&exec, output), meter, log, kills, place).await
    }

    async fn start(&self, mut env: Vec<String>) -> Result<(String, Output), Error> {
        env.extend_from_slice(self.extra_env);
        let (uid, gid) = self.room.user;
        let options = CreateExecOptions {
            attach_stdin: Some(false),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            env: Some(env),
            cmd: Some(self.command.to_vec()),
            privileged: Some(false),
            user: Some(format!("{uid}:{gid}")),
            working_dir: Some(WORK.to_owned()),
            ..CreateExecOptions::default()
        };
        let docker = &self.room.docker;
        let created = docker.create_exec(&self.room.id, options).await?;
        let options = StartExecOptions {
            detach: false,
            tty: false,
            output_capacity: Some(FRAME_BYTES),
        };
        match docker.start_exec(&created.id, Some(options)).await? {
            StartExecResults::Attached { output, input } => {
                drop(input);
                Ok((created.id, output))
            }
            StartExecResults::Detached => Err(Error::IOError {
                err: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    async fn live(
        &self,
        (exec, output): (&str, Output),
        meter: Meter,
        log: &LogSink,
        kills: Option<u64>,
        place: Place,
    ) -> Outcome {
        let (docker, id) = (&self.room.docker, &self.room.id);
        let freezer = Freezer::new(docker, id, place.apart.clone());
        let presence = place.show(&self.task.hold, docker, id);
        let head = Mutex::new(Vec::new());
        let output = output.inspect(|frame| keep_head(&head, frame));
        let mut pump = Box::pin(output::pump(output, log, self.pulse, &freezer));
        let (hurry, begun) = (Notify::new(), Notify::new());
        let mut holding = Box::pin(self.held(&freezer, &begun));
        let mut ended = pin!(self.end_of(exec, &hurry, &begun));
        let mut watch = pin!(watch::watch(
            self.limits,
            meter,
            self.pulse,
            &self.task.hold
        ));
        let mut pumped = None;
        let exited = loop {
            tokio::select! {
                end = &mut ended => break end.map_err(|error| ending::of_loss("the task was lost", &error)),
                result = &mut pump, if pumped.is_none() => {
                    pumped = Some(result);
                    hurry.notify_one();
                }
                failure = &mut watch => break Err(failure),
                never = &mut holding => match never {},
                failure = self.stops.stopped() => break Err(failure),
            }
        };
        // It may be in the midst of freezing, for which the output, or the end, would wait.
        drop(holding);
        drop(presence);
        self.pulse.ends();
        let end = match exited {
            Ok(end) => end,
            Err(failure) => {
                let output = pumped.is_none().then_some(pump);
                stopped::end(docker, id, &freezer, output, failure.kind).await;
                return Outcome::failed(failure);
            }
        };
        // The process is gone, its last output may still be on its way to a slow reader.
        let pumped = match pumped {
            Some(result) => result,
            None => tokio::select! {
                result = &mut pump => result,
                failure = self.stops.stopped() => return Outcome::failed(failure),
            },
        };
        if let Err(error) = pumped {
            let why = "part of the task's output was lost";
            return Outcome::failed(ending::of_loss(why, &error));
        }
        if !end.started {
            let said = head.lock().map(|head| head.clone()).unwrap_or_default();
            return self.not_started(&String::from_utf8_lossy(&said));
        }
        // It may be frozen yet, or be so in a moment: no next task can begin in it.
        let thawed = !freezer.give_up().await;
        self.judge(end, kills, thawed).await
    }

    /// Does what the owner's hold says, once the task's process has begun. A container that is frozen
    /// while a process is being started in it can't be thawed: with control groups of the first
    /// version the engine waits for that process, and nobody gets at the container any more.
    async fn held(&self, freezer: &Freezer<'_>, begun: &Notify) -> Infallible {
        begun.notified().await;
        freezer.follow(&self.task.hold, self.pulse).await
    }

    /// Waits until the task's process has ended, and ends what it has left behind: that might hold
    /// its output open for ever. `hurry` says that its output has ended; `begun` is told when the
    /// engine has started it.
    async fn end_of(&self, exec: &str, hurry: &Notify, begun: &Notify) -> Result<End, Error> {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = hurry.notified() => {}
            }
            let seen = self.room.docker.inspect_exec(exec).await?;
            let pid = seen.pid.unwrap_or(0);
            if seen.running != Some(true)
                && let Some(code) = seen.exit_code
            {
                let started = pid != 0;
                return Ok(End { code, started });
            }
            if pid == 0 {
                // It is still being started, on a busy machine.
                pause = LAST_LOOK;
                continue;
            }
            begun.notify_one();
            pause = NEXT_LOOK;
            self.gone(pid).await;
            if !clear_processes(&self.room.parts).await {
                remove::kill(&self.room.docker, &self.room.id).await;
            }
        }
    }

    /// Waits until a process of the room's is gone. Looks at it now and then: nothing tells.
    async fn gone(&self, pid: i64) {
        let mut pause = NEXT_LOOK;
        while self.room.parts.inside.process(pid).is_some() {
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Why there never was a process, by what the engine said in the place of output.
    fn not_started(&self, said: &str) -> Outcome {
        let command = self.command.first().map_or("", String::as_str);
        if ending::blames_command(said) && self.room.parts.inside.lives() {
            return Outcome::Over {
                result: Err(ending::no_command(command)),
                tidy: true,
            };
        }
        let why = format!("the warm container cannot run the task: {}", said.trim());
        Outcome::NotStarted(Failure::new(FailureKind::Host, why))
    }

    pub(super) async fn judge(&self, end: End, kills: Option<u64>, thawed: bool) -> Outcome {
        let inside = &self.room.parts.inside;
        let lives = inside.lives();
        if end.code == 0 {
            return Outcome::Over {
                result: Ok(()),
                tidy: lives && thawed,
            };
        }
        let oom_killed = match (kills, inside.memory_kills()) {
            (Some(before), Some(after)) => after > before,
            // Its control group has gone with it: what kills a whole container is a want of memory.
            _ => !lives && end.code == ending::KILLED,
        };
        let judged = ending::of_exit(&Exit {
            code: end.code,
            oom_killed,
            disk_full: space::was_disk_full(self.limits).await,
            // No init process stands between the engine and the command.
            stderr_head: &[],
            memory: self.task.resources.memory,
            command: self.command.first().map(String::as_str),
            attended: self.task.attended,
        });
        let result = judged.map_err(|failure| match failure.kind {
            FailureKind::DiskFull => space::disk_full(self.limits),
            _ => failure,
        });
        Outcome::Over {
            result,
            tidy: lives && thawed && !oom_killed,
        }
    }
}

/// Keeps the beginning of stdout: where there is no process, it is the engine's own words.
fn keep_head(head: &Mutex<Vec<u8>>, frame: &Result<LogOutput, Error>) {
    if let Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) = frame
        && let Ok(mut head) = head.lock()
    {
        let room = HEAD_BYTES.saturating_sub(head.len()).min(message.len());
        head.extend_from_slice(&message[..room]);
    }
}

type Output = std::pin::Pin<Box<dyn futures::Stream<Item = Result<LogOutput, Error>> + Send>>;

pub(super) async fn clear_processes(parts: &Arc<Parts>) -> bool {
    let parts = Arc::clone(parts);
    let cleared = tokio::task::spawn_blocking(move || parts.inside.clear_processes());
    cleared.await.unwrap_or(false)
}

/// Lets the task's work directory appear in the room.
///
/// # Errors
/// When it does not.
pub(super) async fn enter(parts: &Arc<Parts>, work_dir: &Path) -> Result<(), String> {
    let (parts, work_dir) = (Arc::clone(parts), work_dir.to_path_buf());
    let entered = tokio::task::spawn_blocking(move || {
        parts.slot.enter(&work_dir)?;
        match parts.inside.shows(&work_dir) {
            Ok(true) => Ok(()),
            Ok(false) => Err(std::io::Error::other("it does not appear in the container")),
            Err(error) => Err(error),
        }
    });
    let entered = entered.await.unwrap_or_else(|error| Err(error.into()));
    entered.map_err(|error| format!("the work directory cannot be mounted: {error}"))
}

/// Takes everything of a task out of the room. False when something is left.
pub(super) async fn leave(parts: &Arc<Parts>) -> bool {
    let parts = Arc::clone(parts);
    let left = tokio::task::spawn_blocking(move || {
        parts.inside.clear_processes()
            && parts.slot.leave().is_ok()
            && parts.inside.clear_scratch(&parts.places)
            && parts.inside.lives()
    });
    left.await.unwrap_or(false)
}
