//! What the owner of a job may do inside a running task: commands (`commands`), terminals
//! (`terminals`), ports (`ports`), files (`files`, `rights`, `script`), tasks that somebody attends to (`attended`), and how
//! fast all that is (`pace`).

mod attended;
mod commands;
mod files;
mod pace;
mod ports;
mod rights;
mod script;
mod terminals;

use std::sync::Arc;

use p2pnode_executor::inside::{Inside, InsideError, Session};
use p2pnode_protocol::task::{Isolation, Stream};
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, Terminal, WindowSize};
use tokio::io::AsyncWriteExt;

use crate::contract::{Act, Ended, Running, Trial, within};
use crate::subject::DockerSubject;

/// Where a container has its work directory.
const WORK: &str = "/work";

/// Both kinds of containers that tasks run in.
const KINDS: [Isolation; 2] = [Isolation::Task, Isolation::Job];

/// A task that waits to be ended, and the way into it.
struct Open<'a> {
    trial: Trial<'a>,
    running: Running,
    inside: Arc<dyn Inside>,
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A subject whose containers' processes and files are out of sight.
async fn blind() -> DockerSubject {
    let subject = DockerSubject::new().await;
    DockerSubject {
        runtime: subject.runtime.without_sight(),
        ..subject
    }
}

/// A task that does nothing until it is ended.
const WAIT: &str = "echo ready; exec sleep 100000";

async fn open(subject: &DockerSubject, kind: Isolation) -> Open<'_> {
    open_with(subject, kind, WAIT, |_| {}).await
}

/// Starts a task that says `ready`.
async fn open_with<'a>(
    subject: &'a DockerSubject,
    kind: Isolation,
    script: &str,
    change: impl FnOnce(&mut Trial<'a>),
) -> Open<'a> {
    let mut trial = Trial::new(subject, Act::Exit(0));
    trial.task.command = DockerSubject::shell(script);
    trial.task.isolation = kind;
    trial.task.env = vec![("GREETING".into(), "hello".into())];
    change(&mut trial);
    let mut running = trial.start().await;
    running.until_stdout("ready\n").await;
    let inside = entry(&trial).await;
    Open {
        trial,
        running,
        inside,
    }
}

/// The way into a task, as soon as there is one.
async fn entry(trial: &Trial<'_>) -> Arc<dyn Inside> {
    let mut shown = trial.task.hold.inside.subscribe();
    let shown = within(shown.wait_for(Option::is_some)).await.unwrap();
    shown.clone().unwrap()
}

impl Open<'_> {
    /// Runs a shell script beside the task.
    async fn sh(&self, script: &str) -> Said {
        let session = within(self.inside.exec(shell(script))).await.unwrap();
        finish(session).await
    }

    /// Cancels the task.
    async fn close(self) -> Ended {
        self.trial.cancel.cancel();
        self.running.finish().await
    }
}

/// A shell script as a command without a terminal.
fn shell(script: &str) -> ExecSpec {
    ExecSpec {
        command: DockerSubject::shell(script),
        ..ExecSpec::default()
    }
}

/// The same in a terminal of 80 characters by 24.
fn in_terminal(script: &str) -> ExecSpec {
    ExecSpec {
        terminal: Some(Terminal {
            term: "xterm".into(),
            size: WindowSize {
                columns: 80,
                rows: 24,
            },
        }),
        ..shell(script)
    }
}

/// What a command wrote, and its end.
#[derive(Debug)]
struct Said {
    stdout: String,
    stderr: String,
    end: ExecEnd,
}

/// Reads everything and waits for the end.
async fn finish(session: Session) -> Said {
    let Session {
        mut output,
        end,
        input,
        ..
    } = session;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = within(output.recv()).await {
        assert!(chunk.bytes.len() <= 64 << 10);
        match chunk.stream {
            Stream::Stdout => stdout.extend_from_slice(&chunk.bytes),
            Stream::Stderr => stderr.extend_from_slice(&chunk.bytes),
        }
    }
    let end = within(end).await;
    drop(input);
    Said {
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        end,
    }
}

/// Reads until the output holds `text`, and returns all of it.
async fn until(session: &mut Session, text: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        let chunk = within(session.output.recv()).await;
        let seen_so_far = String::from_utf8_lossy(&seen).into_owned();
        let chunk = chunk.unwrap_or_else(|| panic!("ended before {text:?}: {seen_so_far:?}"));
        seen.extend_from_slice(&chunk.bytes);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

async fn write(session: &mut Session, text: &str) {
    within(session.input.write_all(text.as_bytes()))
        .await
        .unwrap();
    within(session.input.flush()).await.unwrap();
}

fn refused<T>(result: Result<T, InsideError>) -> InsideError {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}
