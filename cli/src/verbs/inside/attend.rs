//! A command inside a task, with this process's stdin, stdout and terminal: `exec`, and `run -it`.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::inside::Duplex;
use p2pnode_protocol::TaskKey;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal};
use p2pnode_tunnel::client::OpenError;
use p2pnode_tunnel::client::exec::{Dial, ExecClient, ExecEvent, ExecInput, Target};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::terminal::{self, Raw};
use super::{names, written};
use crate::args::{ExecArgs, Global};
use crate::client::Client;
use crate::exit::Failure;
use crate::select::JobSelector;
use crate::{here, output};

/// Signals in a row, each at most [`IMPATIENCE`] after the one before, that say that their sender does not
/// want to wait for the command: a provider can answer them or not. One interrupts, a second one insists.
const IMPATIENT_SIGNALS: u32 = 3;

/// See [`IMPATIENT_SIGNALS`].
const IMPATIENCE: Duration = Duration::from_secs(2);

/// How long a command has to end when the terminal is gone.
const FAREWELL: Duration = Duration::from_secs(10);

/// How a command is attended to.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Stdin goes to it.
    pub interactive: bool,
    /// It has a terminal.
    pub tty: bool,
}

pub async fn exec(global: &Global, args: &ExecArgs) -> Result<ExitCode, Failure> {
    let selector = names::parse(&args.task)?;
    let client = here::must_run_for_jobs(global)?;
    let task = client.task_key(&selector).await?;
    let manner = Manner {
        interactive: args.interactive,
        tty: args.tty,
    };
    let spec = ExecSpec {
        command: args.command.clone(),
        env: written::variables(&args.env)?,
        terminal: args.tty.then(terminal::like_this),
    };
    let command = begin(&client, task, spec).await?;
    match attend(command, manner).await? {
        Ended::Exited(code) => Ok(ExitCode::from(code)),
        Ended::Left => Err(Failure::never_ran(
            "left without waiting for its end: the command may still run in the task",
        )),
    }
}

/// How attending to a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With its exit code.
    Exited(u8),
    /// Whoever attended did not want to wait for that.
    Left,
}

/// Streams to a task's provider, through the node here.
struct Way {
    client: Client,
    selector: JobSelector,
    /// Whether there was one: what follows is to go on with its command.
    begun: AtomicBool,
}

#[async_trait]
impl Dial for Way {
    async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        let resume = self.begun.load(Ordering::Relaxed);
        match self.client.tunnel(&self.selector, resume).await {
            Ok(way) => {
                self.begun.store(true, Ordering::Relaxed);
                Ok(Box::new(way.stream))
            }
            Err(failure) => Err(io::Error::other(failure.message)),
        }
    }
}

/// Begins a command in a task.
pub async fn begin(client: &Client, task: TaskKey, spec: ExecSpec) -> Result<ExecClient, Failure> {
    let way = Way {
        client: client.clone(),
        selector: JobSelector::of(&task),
        begun: AtomicBool::new(false),
    };
    let target = Target {
        job: task.job,
        step: task.step,
        index: task.index,
    };
    let started = ExecClient::start(Arc::new(way), target, spec).await;
    started.map_err(never_ran)
}

/// Sees a command to its end. Signals of this process are the command's meanwhile.
pub async fn attend(command: ExecClient, manner: Manner) -> Result<Ended, Failure> {
    let (input, events) = command.split();
    // From here on the terminal is the command's, and so is Ctrl-C.
    let raw = if manner.tty {
        Some(Raw::begin()?)
    } else {
        None
    };
    let mut typing = tokio::spawn(hand_on(input.clone(), manner.interactive));
    let ended = tokio::select! {
        ended = print(events, manner.tty) => ended.map(Ended::Exited),
        left = signals(input, manner.tty) => left.map(|()| Ended::Left),
    };
    typing.abort();
    let _ = (&mut typing).await;
    drop(raw);
    ended
}

fn never_ran(error: OpenError) -> Failure {
    Failure::never_ran(match error {
        // What the node here says needs no frame around it.
        OpenError::Dial(error) => error.to_string(),
        error => error.to_string(),
    })
}

/// What is typed goes to the command.
async fn hand_on(input: ExecInput, interactive: bool) {
    if interactive {
        let mut typed = terminal::input();
        while let Some(bytes) = typed.next().await {
            if !input.input(bytes).await {
                return;
            }
        }
    }
    input.end().await;
}

/// What the command writes is printed; returns its exit code. Where it did not ask for a terminal and there
/// is one here, what it writes must not draw on it.
async fn print(mut events: mpsc::Receiver<ExecEvent>, tty: bool) -> Result<u8, Failure> {
    let mut printed = output::Logs::new(tty);
    while let Some(event) = events.recv().await {
        match event {
            ExecEvent::Output { stream, bytes } => printed.bytes(stream, &bytes),
            // A terminal in raw mode goes to the next line's beginning only when it is told to.
            ExecEvent::Interrupted => {
                output::raw_note_bytes(
                    b"\r\n[the connection is lost; going on when it is back]\r\n",
                );
            }
            ExecEvent::Resumed => output::raw_note_bytes(b"[connected again]\r\n"),
            ExecEvent::Ended(ExecEnd::Exited(code)) => {
                return Ok(u8::try_from(code).unwrap_or(u8::MAX));
            }
            ExecEvent::Ended(ExecEnd::Lost(why)) => return Err(Failure::never_ran(why)),
        }
    }
    Err(Failure::never_ran("the connection is lost"))
}

/// Signals of this process go to the command; a terminal's size does, too. Returns when whoever sends them
/// does not want to wait for the command's end any more.
async fn signals(input: ExecInput, tty: bool) -> Result<(), Failure> {
    let listen = |kind: SignalKind| {
        signal(kind)
            .map_err(|error| Failure::internal(format!("cannot listen for signals: {error}")))
    };
    let all = || -> Result<[Signal; 5], Failure> {
        Ok([
            listen(SignalKind::window_change())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
            listen(SignalKind::quit())?,
        ])
    };
    let [
        mut resized,
        mut interrupt,
        mut terminate,
        mut hangup,
        mut quit,
    ] = all()?;
    let (mut signals, mut last) = (0, None::<Instant>);
    // Set when the terminal is gone, and with it whoever could ask again.
    let mut leave_at = None::<Instant>;
    loop {
        let patience = async {
            match leave_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            () = patience => return Ok(()),
            _ = resized.recv() => {
                if tty {
                    input.resize(terminal::size()).await;
                }
                continue;
            }
            _ = interrupt.recv() => TaskSignal::Int,
            _ = terminate.recv() => TaskSignal::Term,
            _ = hangup.recv() => TaskSignal::Hup,
            _ = quit.recv() => TaskSignal::Quit,
        };
        let now = Instant::now();
        let again = last.is_some_and(|last| now - last < IMPATIENCE);
        signals = if again { signals + 1 } else { 1 };
        last = Some(now);
        if signals == IMPATIENT_SIGNALS {
            return Ok(());
        }
        if sent == TaskSignal::Hup {
            leave_at.get_or_insert(now + FAREWELL);
        }
        input.signal(sent).await;
    }
}
