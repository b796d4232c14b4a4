//! Starts a command beside a task, by the engine.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use p2pnode_protocol::task::{Failure, FailureKind, Stream as Channel};
use p2pnode_protocol::tunnel::{ExecSpec, Terminal};
use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use super::super::container::WORK;
use super::super::{ending, words};
use super::door::Pass;
use super::process::Process;
use super::pty::Pair;
use super::session::{Command, Ends};
use super::wanted::{NO_SUCH, PLAIN_SHELL, command_of, environment, wrapped};
use super::{Core, MOST_SESSIONS, View, invalid};
use crate::LogChunk;
use crate::inside::{InsideError, Session};

/// Bytes of output read at once from the engine, whose own frames are of 32 KiB.
const FRAME_BYTES: usize = 64 << 10;

/// How much of the engine's words is kept when it can't start a command.
const HEAD_BYTES: usize = 512;

/// How long an engine may take to start a command: it takes a tenth of a second, and on a machine that
/// starts a hundred at once some seconds.
const STARTING: Duration = Duration::from_secs(60);

/// Pauses between two questions whether a command has started; each doubles.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// How long the engine's last words about a command that is not there are waited for; also how long a
/// command is waited for to take its terminal, which takes milliseconds.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a container that is frozen because its output waits for a reader is waited for.
const THAWING: Duration = Duration::from_secs(5);

/// Keys that would detach a terminal of the engine's from its command; it knows no "none", so this is
/// what nobody types.
const NO_DETACH_KEYS: &str = "ctrl-^,ctrl-_,ctrl-^,ctrl-_,ctrl-^,ctrl-@";

/// A command's output as it comes.
pub(super) type Frames = BoxStream<'static, io::Result<LogChunk>>;

/// Starts a command in a task. `may_attend`: when it is the first of an attended task, it is the task.
pub(super) async fn exec(
    core: &Arc<Core>,
    spec: ExecSpec,
    may_attend: bool,
) -> Result<Session, InsideError> {
    let pass = core.pass()?;
    let permit = Arc::clone(&core.sessions).try_acquire_owned();
    let permit = permit.map_err(|_| InsideError::TooMany(MOST_SESSIONS))?;
    if core.usage.borrow().paused {
        return Err(InsideError::Paused);
    }
    let is_task = may_attend
        && core
            .place
            .attendance
            .as_ref()
            .is_some_and(|attendance| attendance.claim());
    let core = Arc::clone(core);
    // A task of its own: whoever drops this future must not leave a command behind that nobody knows.
    let started = tokio::spawn(async move {
        let started = start(&core, spec, is_task, permit, &pass).await;
        if is_task && let (Some(attendance), Err(error)) = (&core.place.attendance, &started) {
            attendance.ended(Err(failure_of(error)));
        }
        started
    });
    started
        .await
        .unwrap_or_else(|error| Err(io::Error::from(error).into()))
}

/// What becomes of a task whose attended command could not be started.
fn failure_of(error: &InsideError) -> Failure {
    let kind = match error {
        InsideError::NoCommand(_) => FailureKind::BadProgram,
        InsideError::Io(error) if error.kind() == io::ErrorKind::InvalidInput => {
            FailureKind::BadProgram
        }
        _ => FailureKind::Host,
    };
    Failure::new(kind, error.to_string())
}

async fn start(
    core: &Arc<Core>,
    spec: ExecSpec,
    is_task: bool,
    permit: OwnedSemaphorePermit,
    _pass: &Pass,
) -> Result<Session, InsideError> {
    let env = environment(core, &spec)?;
    let view = core.view().await;
    if let Err(why) = &view {
        tracing::debug!(why, "a command is started without a view of its container");
    }
    let view = view.ok();
    let command = command_of(core, &spec, is_task, view.clone()).await;
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err(invalid("the command holds a NUL character"));
    }
    let pair = match (&spec.terminal, &view) {
        (Some(terminal), Some(view)) => open_pair(core, view, terminal).await,
        _ => None,
    };
    let tty = spec.terminal.is_some() && pair.is_none();
    let starting = core.place.apart.starting().await;
    let (exec, mut frames, input) = ask(
        core,
        wrapped(&command, pair.as_ref().map(|pair| &*pair.name)),
        env,
        tty,
        &pair,
    )
    .await?;
    let pid = begun(core, &exec, &command, &mut frames).await?;
    drop(starting);
    let process = view.as_ref().and_then(|view| Process::find(view, pid));
    let mut ends = Ends {
        frames,
        input: Box::new(input),
        far: None,
    };
    if let Some(Pair { far, near, .. }) = pair {
        took_terminal(&command, ends.frames, near).await?;
        ends = Ends {
            frames: far.output()?.boxed(),
            input: Box::new(far.input()),
            far: Some(far),
        };
    }
    let command = Command {
        core: Arc::clone(core),
        exec,
        tty,
        seen: view.is_some(),
        process,
        is_task,
    };
    if let (true, Some(terminal)) = (tty, &spec.terminal) {
        command.resize(terminal.size).await;
    }
    Ok(command.follow(ends, permit))
}

/// A terminal of this node's; `None` where only the engine can make one.
async fn open_pair(core: &Core, view: &Arc<View>, terminal: &Terminal) -> Option<Pair> {
    let (view, uid, size) = (Arc::clone(view), core.place.user.0, terminal.size);
    let open = move || {
        if !view.has_program(PLAIN_SHELL) {
            return Err(io::Error::other("there is no shell to hand it over"));
        }
        Pair::open(&view, uid, size)
    };
    let opened = tokio::task::spawn_blocking(open).await;
    match opened.unwrap_or_else(|error| Err(error.into())) {
        Ok(pair) => Some(pair),
        Err(error) => {
            tracing::debug!(%error, "the engine makes a command's terminal");
            None
        }
    }
}

type Input = std::pin::Pin<Box<dyn AsyncWrite + Send>>;

/// Has the engine start a command.
async fn ask(
    core: &Core,
    command: Vec<String>,
    env: Vec<String>,
    tty: bool,
    pair: &Option<Pair>,
) -> Result<(String, Frames, Input), InsideError> {
    let place = &core.place;
    let (uid, gid) = place.user;
    let options = CreateExecOptions {
        attach_stdin: Some(pair.is_none()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        detach_keys: tty.then(|| NO_DETACH_KEYS.to_owned()),
        env: Some(env),
        cmd: Some(command),
        privileged: Some(false),
        user: Some(format!("{uid}:{gid}")),
        working_dir: Some(WORK.to_owned()),
    };
    let since = Instant::now();
    let created = loop {
        match core.docker.create_exec(&core.id, options.clone()).await {
            Ok(created) => break created,
            Err(error) => match refusal(core, &error) {
                InsideError::Paused if core.usage.borrow().paused => {
                    return Err(InsideError::Paused);
                }
                InsideError::Paused if since.elapsed() < THAWING => sleep(LAST_LOOK).await,
                InsideError::Paused => {
                    let why = "the task stands still until somebody reads its output: try again";
                    return Err(io::Error::other(why).into());
                }
                refused => return Err(refused),
            },
        }
    };
    let options = StartExecOptions {
        detach: false,
        tty,
        output_capacity: Some(FRAME_BYTES),
    };
    let started = core.docker.start_exec(&created.id, Some(options)).await;
    match started.map_err(|error| refusal(core, &error))? {
        StartExecResults::Attached { output, input } => {
            let frames = output.map_err(io::Error::other).map_ok(chunk_of).boxed();
            Ok((created.id, frames, input))
        }
        StartExecResults::Detached => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn chunk_of(frame: LogOutput) -> LogChunk {
    let stream = match &frame {
        LogOutput::StdErr { .. } => Channel::Stderr,
        _ => Channel::Stdout,
    };
    LogChunk {
        stream,
        bytes: frame.into_bytes().to_vec(),
    }
}

/// Why an engine starts nothing.
fn refusal(core: &Core, error: &Error) -> InsideError {
    let said = words(error);
    if core.place.door.is_shut() {
        return InsideError::Ended;
    }
    match error {
        Error::DockerResponseServerError {
            status_code: 404, ..
        } => InsideError::Ended,
        Error::DockerResponseServerError {
            status_code: 409, ..
        } if said.contains("paused") => InsideError::Paused,
        Error::DockerResponseServerError {
            status_code: 409, ..
        } => InsideError::Ended,
        _ => io::Error::other(said).into(),
    }
}

/// Waits until a command has started, and returns its process's number by the engine's word.
async fn begun(
    core: &Core,
    exec: &str,
    command: &[String],
    frames: &mut Frames,
) -> Result<i64, InsideError> {
    let since = Instant::now();
    let mut pause = FIRST_LOOK;
    loop {
        let seen = core.docker.inspect_exec(exec).await;
        let seen = seen.map_err(|error| refusal(core, &error))?;
        if let Some(pid) = seen.pid.filter(|pid| *pid != 0) {
            return Ok(pid);
        }
        if seen.running != Some(true) && seen.exit_code.is_some() {
            // An engine that goes on for longer has said enough.
            let (said, _) = words_until(frames, LAST_WORDS).await;
            return Err(not_begun(core, command, said.trim()));
        }
        if since.elapsed() > STARTING {
            let why = "the container engine has not started the command within a minute";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why).into());
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
}

/// Why there never was a process, by what the engine said in the place of output.
fn not_begun(core: &Core, command: &[String], said: &str) -> InsideError {
    if core.place.door.is_shut() {
        return InsideError::Ended;
    }
    if ending::blames_command(said) {
        return no_command(command);
    }
    if core.usage.borrow().paused {
        return InsideError::Paused;
    }
    let why = format!(
        "the command cannot be started, as happens when a task has as many processes as `pids` in \
         [resources] allows; the container engine said: {said}"
    );
    io::Error::other(why).into()
}

fn no_command(command: &[String]) -> InsideError {
    InsideError::NoCommand(command.first().cloned().unwrap_or_default())
}

/// What comes within so long, and whether that was all.
async fn words_until(
    frames: &mut (impl Stream<Item = io::Result<LogChunk>> + Unpin),
    limit: Duration,
) -> (String, bool) {
    let mut said = Vec::new();
    let listen = async {
        while let Some(Ok(chunk)) = frames.next().await {
            let room = HEAD_BYTES.saturating_sub(said.len()).min(chunk.bytes.len());
            said.extend_from_slice(&chunk.bytes[..room]);
        }
    };
    let is_all = timeout(limit, listen).await.is_ok();
    (String::from_utf8_lossy(&said).into_owned(), is_all)
}

/// Waits until a command has its terminal: what the engine carried until then has ended. Where that ends
/// with the command only, or the machine is busy, the near end stays open here meanwhile: a terminal that
/// nobody has open yet would count as one that everybody has left.
async fn took_terminal(
    command: &[String],
    mut frames: Frames,
    near: OwnedFd,
) -> Result<(), InsideError> {
    let (said, is_all) = words_until(&mut frames, LAST_WORDS).await;
    match said.trim() {
        "" if is_all => Ok(()),
        "" => {
            tokio::spawn(async move {
                while let Some(Ok(_)) = frames.next().await {}
                drop(near);
            });
            Ok(())
        }
        said if said.contains(NO_SUCH) => Err(no_command(command)),
        said => {
            let why = format!("the command cannot have a terminal: {said}");
            Err(io::Error::other(why).into())
        }
    }
}
