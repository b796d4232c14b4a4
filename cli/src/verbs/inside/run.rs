//! `run`: one command on a peer.

use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{CreateJob, Event, JobState, TaskState};
use p2pnode_protocol::task::FailureKind;
use p2pnode_protocol::tunnel::ExecSpec;

use super::attend::{self, Manner};
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
    let config = here::config(global, &args.node)?;
    for text in &args.ports {
        Ports::parse(text)?;
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
    let code = match here::running(global)? {
        Some(client) => {
            here::note_ignored(&args.node, &[]);
            Running::new(client, args)
                .see_through(&request, &mut interrupts)
                .await?
        }
        None => {
            let node = tokio::select! {
                node = here::start(global, config) => node?,
                _ = interrupts.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
            };
            interrupts.watch(&node);
            let running = Running::new(Client::new(node.endpoint().clone()), args);
            let ended = running.see_through(&request, &mut interrupts).await;
            node.stop().await.map_err(here::node_failure)?;
            ended?
        }
    };
    written.settle()?;
    Ok(ExitCode::from(code))
}

/// A command on its way from the submit to its end.
struct Running<'a> {
    client: Client,
    args: &'a RunArgs,
    /// Whether its ports are forwarded already.
    forwarded: bool,
    logs: Logs,
    /// What the command that was attended to ended with.
    code: Option<u8>,
}

impl<'a> Running<'a> {
    fn new(client: Client, args: &'a RunArgs) -> Self {
        Self {
            client,
            args,
            forwarded: false,
            logs: Logs::new(false),
            code: None,
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
        let mut interrupted = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                cause = interrupts.next() => {
                    let Some(job) = job.as_ref().filter(|_| !interrupted) else {
                        return Ok(exit::INTERRUPTED);
                    };
                    interrupted = cause == Cause::Signal;
                    cancel(&self.client, job).await?;
                    continue;
                }
            };
            match event {
                None => return Err(Failure::nobody("the node ended before the command did")),
                Some(Event::JobCreated { job: id, .. }) => job = Some(id),
                Some(Event::TaskStarted { job, task, .. }) => {
                    if let Err(failure) = self.started(&task).await {
                        // Nobody would see to it any more.
                        cancel(&self.client, &job).await?;
                        return Err(failure);
                    }
                }
                Some(Event::JobFinished {
                    state,
                    no_peer,
                    notes,
                    ..
                }) => {
                    if interrupted {
                        return Ok(exit::INTERRUPTED);
                    }
                    return Ok(self.ended(state, no_peer, &notes));
                }
                Some(event) => self.show(event),
            }
        }
    }

    /// The command runs, or waits to be attended to.
    async fn started(&mut self, task: &str) -> Result<(), Failure> {
        // A forward follows a task that moves.
        if !std::mem::replace(&mut self.forwarded, true) {
            for text in &self.args.ports {
                let info = Ports::parse(text)?.open(&self.client, task, false).await?;
                output::note(forward::sentence(&info));
            }
        }
        if !self.args.interactive || self.code.is_some() {
            return Ok(());
        }
        let spec = ExecSpec {
            terminal: self.args.tty.then(terminal::like_this),
            ..ExecSpec::default()
        };
        let manner = Manner {
            interactive: true,
            tty: self.args.tty,
        };
        let key = self.client.task(&JobSelector::parse(task)?).await?;
        // Events wait meanwhile.
        match attend::attend(&self.client, key, spec, manner).await {
            Ok(code) => self.code = Some(code),
            Err(failure) => {
                output::note(format!("p2pnode: {}", failure.message));
                self.code = Some(NEVER_RAN);
                let job = task.split('/').next().unwrap_or(task);
                cancel(&self.client, job).await?;
            }
        }
        Ok(())
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
            Event::TaskFinished {
                state,
                failure: Some(failure),
                ..
            } => {
                if let FailureKind::Exit(code) = failure.kind {
                    self.code = self.code.or(u8::try_from(code).ok());
                } else if state != TaskState::Cancelled {
                    output::note(format!("p2pnode: {}", failure.message));
                }
            }
            _ => {}
        }
    }

    fn ended(&self, state: JobState, no_peer: bool, notes: &[String]) -> u8 {
        match (state, self.code) {
            (_, Some(code)) => code,
            (JobState::Succeeded, None) => 0,
            _ => {
                for note in notes {
                    output::note(format!("p2pnode: {note}"));
                }
                if no_peer { exit::NOBODY } else { NEVER_RAN }
            }
        }
    }
}

async fn cancel(client: &Client, job: &str) -> Result<(), Failure> {
    let path = format!("{}/cancel", JobSelector::parse(job)?.path());
    let _info: serde_json::Value = client.ask(Method::POST, &path, &()).await?;
    Ok(())
}
