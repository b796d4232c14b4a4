//! `run`: one command on a peer.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use p2pnode_protocol::api::{CreateJob, Event, JobState, TaskState};
use p2pnode_protocol::task::{self, FailureKind};
use p2pnode_protocol::tunnel::ExecSpec;
use p2pnode_tunnel::client::exec::ExecClient;
use tokio::time::Instant;

use super::attend::{self, Ended, Manner};
use super::forward::{self, Ports};
use super::terminal;
use super::written::Written;
use crate::args::{Global, RunArgs};
use crate::client::Client;
use crate::exit::{self, Failure, NEVER_RAN};
use crate::here;
use crate::interrupt::{Cause, Interrupts};
use crate::output::{self, Logs};
use crate::select::JobSelector;

pub async fn run(global: &Global, args: &RunArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    // There is a job to be cancelled.
    output::outlives_readers();
    let config = here::config(global, &args.node)?;
    for text in &args.ports {
        Ports::parse(text)?.must_be_free()?;
    }
    let written = Written::of(args)?;
    let request = CreateJob {
        toml: written.toml.clone(),
        folder: "/".to_owned(),
        file: "run".to_owned(),
        peers: args.peers.clone(),
        out: Some(written.out()?),
        out_parent: None,
        wait_for_peers_ms: args.wait_for_peers.map(|wait| wait.as_millis() as u64),
    };
    let outputs = written.has_outputs();
    let ended = match here::running(global)? {
        Some(client) => {
            here::note_ignored(&args.node, &[]);
            Running::new(client, args, outputs)
                .see_through(&request, &mut interrupts)
                .await
        }
        None => {
            let node = tokio::select! {
                node = here::start(global, config) => node?,
                _ = interrupts.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
            };
            interrupts.watch(&node);
            let running = Running::new(Client::new(node.endpoint().clone()), args, outputs);
            let ended = running.see_through(&request, &mut interrupts).await;
            let stopped = node.stop().await.map_err(here::node_failure);
            ended.and_then(|code| stopped.map(|()| code))
        }
    };
    // Whatever happened: what has come takes its place.
    match (ended, written.settle()) {
        (Ok(0), Err(failure)) => Err(failure),
        // The command's code says more, and so does what went wrong before.
        (ended, settled) => {
            if let Err(failure) = settled {
                output::failure(&failure, false);
            }
            ended.map(ExitCode::from)
        }
    }
}

/// A command on its way from the submit to its end.
struct Running<'a> {
    client: Client,
    args: &'a RunArgs,
    /// Whether its ports are forwarded already.
    forwarded: bool,
    logs: Logs,
    /// Whether the command has begun.
    began: bool,
    /// What it ended with.
    code: Option<u8>,
    /// What stands for that where something else ended it, or went wrong after it.
    instead: Option<u8>,
    /// Whether it was said why.
    told: bool,
    /// What stands for all of that when nobody wanted the command any more, and said so here.
    given_up: Option<u8>,
    /// Set when the way to the command is lost: until when it may be that its task has ended, and the end's
    /// reason is on its way.
    lost: Option<Instant>,
    /// Whether anything is to come back.
    outputs: bool,
}

impl<'a> Running<'a> {
    fn new(client: Client, args: &'a RunArgs, outputs: bool) -> Self {
        Self {
            client,
            args,
            forwarded: false,
            began: false,
            logs: Logs::new(false),
            code: None,
            instead: None,
            told: false,
            given_up: None,
            lost: None,
            outputs,
        }
    }

    /// Submits the job and sees it to its end; returns the exit code.
    async fn see_through(
        mut self,
        request: &CreateJob,
        interrupts: &mut Interrupts,
    ) -> Result<u8, Failure> {
        let mut events = self.client.events(Method::POST, "/jobs", request).await?;
        let mut job: Option<String> = None;
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                why = unwanted(interrupts, self.given_up.is_none()) => {
                    let Some(job) = job.as_ref().filter(|_| self.given_up.is_none()) else {
                        return Ok(self.given_up.unwrap_or(exit::INTERRUPTED));
                    };
                    self.give_up(job, why).await?;
                    continue;
                }
                () = until(self.lost) => {
                    self.without_a_way(job.as_deref()).await?;
                    continue;
                }
            };
            match event {
                None => return Err(Failure::nobody("the node ended before the command did")),
                Some(Event::JobCreated { job: id, .. }) => job = Some(id),
                Some(Event::TaskStarted { job, task, .. }) => {
                    self.began = true;
                    let read = self.given_up.is_none();
                    let opened = tokio::select! {
                        opened = self.open(&task) => opened,
                        why = unwanted(interrupts, read) => {
                            self.give_up(&job, why).await?;
                            continue;
                        }
                    };
                    match opened {
                        Ok(None) => {}
                        Ok(Some(command)) => {
                            self.attend(command, &job).await?;
                            // Those that came meanwhile were the command's.
                            interrupts.forget();
                        }
                        Err(failure) => {
                            // Nobody would see to it any more.
                            cancel(&self.client, &job).await?;
                            return Err(failure);
                        }
                    }
                }
                Some(Event::JobFinished {
                    state,
                    no_peer,
                    notes,
                    ..
                }) => {
                    let ended = || self.ended(state, no_peer, &notes);
                    return Ok(self.given_up.unwrap_or_else(ended));
                }
                Some(Event::TaskFinished {
                    job,
                    state,
                    failure,
                    ..
                }) => {
                    if let Some(failure) = &failure {
                        self.failed(failure, state);
                    }
                    if self.lost.take().is_some() && state == TaskState::Pending {
                        // Nobody would attend to it elsewhere.
                        (self.instead, self.told) = (Some(exit::JOB_FAILED), true);
                        cancel(&self.client, &job).await?;
                    }
                }
                Some(event) => self.show(event),
            }
        }
    }

    /// The task runs: forwards its ports, and begins the command if it waits to be attended to.
    async fn open(&mut self, task: &str) -> Result<Option<ExecClient>, Failure> {
        // A forward follows a task that moves.
        if !std::mem::replace(&mut self.forwarded, true) {
            self.forward(task).await?;
        }
        if !self.args.interactive || self.code.is_some() {
            return Ok(None);
        }
        let spec = ExecSpec {
            terminal: self.args.tty.then(terminal::like_this),
            ..ExecSpec::default()
        };
        let key = self.client.task_key(&JobSelector::parse(task)?).await?;
        attend::begin(&self.client, key, spec).await.map(Some)
    }

    /// Forwards all of its ports, or none.
    async fn forward(&self, task: &str) -> Result<(), Failure> {
        let mut opened = Vec::new();
        for text in &self.args.ports {
            match Ports::parse(text)?
                .open(&self.client, task, false, true)
                .await
            {
                Ok(info) => {
                    output::note(forward::sentence(&info));
                    opened.push(info.id);
                }
                Err(failure) => {
                    for id in opened {
                        forward::close_one(&self.client, id).await?;
                    }
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Sees the command to its end. Events wait meanwhile.
    async fn attend(&mut self, command: ExecClient, job: &str) -> Result<(), Failure> {
        let manner = Manner {
            interactive: true,
            tty: self.args.tty,
        };
        let ended = tokio::select! {
            ended = attend::attend(command, manner) => ended,
            code = output::unread() => return self.give_up(job, Some(code)).await,
        };
        match ended {
            Ok(Ended::Exited(code)) => self.code = Some(code),
            Ok(Ended::Left) => {
                output::note("p2pnode: left without waiting for its end: the job is cancelled");
                self.give_up(job, Some(exit::INTERRUPTED)).await?;
            }
            Err(failure) => {
                output::note(format!("p2pnode: {}", failure.message));
                self.code = Some(NEVER_RAN);
                self.lost = Some(Instant::now() + NEWS_COME);
            }
        }
        Ok(())
    }

    /// No news came of a task to which the way is lost. One that collects its outputs has ended, and they
    /// are still to come.
    async fn without_a_way(&mut self, job: Option<&str>) -> Result<(), Failure> {
        self.lost = None;
        let Some(job) = job else { return Ok(()) };
        let task = self.client.task(&JobSelector::parse(job)?).await?;
        match task.state {
            TaskState::Pending | TaskState::Queued | TaskState::Running => {
                cancel(&self.client, job).await
            }
            _ => Ok(()),
        }
    }

    async fn give_up(&mut self, job: &str, why: Option<u8>) -> Result<(), Failure> {
        self.given_up = why;
        cancel(&self.client, job).await
    }

    /// What is told of the way there.
    fn show(&mut self, event: Event) {
        match event {
            Event::Log { stream, text, .. } => self.logs.piece(stream, &text),
            Event::JobWaiting { reasons, .. } => {
                output::note("waiting for a peer that fits:");
                for reason in reasons {
                    output::note(format!("  {reason}"));
                }
            }
            _ => {}
        }
    }

    /// An attempt at the task failed, and the task is in this state now.
    fn failed(&mut self, failure: &task::Failure, state: TaskState) {
        let last = state == TaskState::Failed;
        if !matches!(failure.kind, FailureKind::Exit(_)) && state != TaskState::Cancelled {
            output::note(format!("p2pnode: {}", failure.message));
            self.told = last;
        }
        if !last {
            return;
        }
        match failure.kind {
            FailureKind::Exit(code) => self.code = self.code.or(u8::try_from(code).ok()),
            FailureKind::Timeout => self.instead = Some(exit::TIMED_OUT),
            FailureKind::OutOfMemory => self.instead = Some(exit::OUT_OF_MEMORY),
            FailureKind::BadProgram => self.instead = Some(NEVER_RAN),
            _ if self.began => self.instead = Some(exit::JOB_FAILED),
            _ => {}
        }
    }

    fn ended(&self, state: JobState, no_peer: bool, notes: &[String]) -> u8 {
        if state == JobState::Succeeded {
            return self.code.unwrap_or_default();
        }
        // What ended it says more than that it was killed, or that the way to it was lost.
        let own = self
            .code
            .filter(|code| !matches!(*code, 0 | exit::OUT_OF_MEMORY | NEVER_RAN));
        let code = match own.or(self.instead).or(self.code.filter(|code| *code != 0)) {
            Some(code) => code,
            None if no_peer => exit::NOBODY,
            None if self.began => exit::JOB_FAILED,
            None => NEVER_RAN,
        };
        if self.told {
            return code;
        }
        if own.is_none() {
            for note in notes {
                output::note(format!("p2pnode: {note}"));
            }
        } else if self.outputs {
            output::note(format!(
                "p2pnode: what it wrote in its volumes does not come back: it ended with {code}"
            ));
        }
        code
    }
}

/// How long the news of a task's end may take (5 s): it goes another way than the command's own end, and the
/// container is removed first.
const NEWS_COME: Duration = Duration::from_secs(5);

/// Returns at that time, if there is one.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when nobody wants the command any more: the exit code that says why, unless the end of this
/// process's own node does. Whether anybody reads what it writes counts while it `matters`.
async fn unwanted(interrupts: &mut Interrupts, matters: bool) -> Option<u8> {
    tokio::select! {
        cause = interrupts.next() => (cause == Cause::Signal).then_some(exit::INTERRUPTED),
        code = output::unread(), if matters => Some(code),
    }
}

async fn cancel(client: &Client, job: &str) -> Result<(), Failure> {
    let path = format!("{}/cancel", JobSelector::parse(job)?.path());
    let _info: serde_json::Value = client.ask(Method::POST, &path, &()).await?;
    Ok(())
}
