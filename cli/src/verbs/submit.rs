//! `submit`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_node::jobfile::ResolvedJob;
use p2pnode_protocol::api::{CreateJob, ErrorCode, JobCreated, PeerFit};
use serde_json::json;

use super::follow::{self, Follow, counted};
use super::validate;
use crate::args::{Global, SubmitArgs};
use crate::client::Client;
use crate::exit::{self, Failure};
use crate::interrupt::{Cause, Interrupts};
use crate::{here, output};

/// How often it is looked again whether a peer fits, or whether a peer that is named is known by now.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What is asked for, and how.
struct Asked<'a> {
    global: &'a Global,
    args: &'a SubmitArgs,
    request: CreateJob,
    resolved: ResolvedJob,
    /// How long to wait for a peer that fits.
    wait: Duration,
    /// Whether the node was started for this job, and ends with it.
    own_node: bool,
}

pub async fn submit(global: &Global, args: &SubmitArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let config = here::config(global, &args.node)?;
    let path = args.file.clone();
    // A large job file takes its time; a signal must be heard meanwhile.
    let reading = tokio::task::spawn_blocking(move || {
        let file = validate::read(&path)?;
        validate::check(&file).map(|resolved| (file, resolved))
    });
    let (file, resolved) = tokio::select! {
        read = reading => read.map_err(|error| Failure::internal(error.to_string()))??,
        cause = interrupts.next() => return ended_by(cause),
    };
    let request = CreateJob {
        toml: file.text,
        folder: file.folder.to_string_lossy().into_owned(),
        file: file.name,
        peers: args.peers.clone(),
        out: args.out.as_deref().map(absolute).transpose()?,
        out_parent: Some(absolute(std::path::Path::new("."))?),
        wait_for_peers_ms: args.wait_for_peers.map(|wait| wait.as_millis() as u64),
    };
    let written = resolved.wait_for_peers_ms().map(Duration::from_millis);
    let mut asked = Asked {
        global,
        args,
        request,
        resolved,
        wait: args
            .wait_for_peers
            .or(written)
            .unwrap_or(config.wait_for_peers),
        own_node: false,
    };
    if let Some(client) = here::running(global)? {
        if !global.json {
            here::note_ignored(&args.node, &[]);
        }
        return match () {
            () if args.dry_run => asked.dry_run(&client, &mut interrupts).await,
            () if args.detach => asked.detach(&client).await,
            () => asked.foreground(client, &mut interrupts).await,
        };
    }
    if args.detach {
        return Err(Failure::nobody(
            "--detach needs a node that goes on running; start one with `p2pnode join`",
        ));
    }
    asked.own_node = true;
    let node = tokio::select! {
        node = here::start(global, config) => node?,
        cause = interrupts.next() => return ended_by(cause),
    };
    interrupts.watch(&node);
    let client = Client::new(node.endpoint().clone());
    let ended = asked.on_own_node(client, &mut interrupts).await;
    node.stop().await.map_err(here::node_failure)?;
    ended
}

/// The end of a verb that had not asked for anything yet.
fn ended_by(cause: Cause) -> Result<ExitCode, Failure> {
    match cause {
        Cause::Signal => Ok(ExitCode::from(exit::INTERRUPTED)),
        Cause::Stopped => Err(Failure::internal(
            "the node was stopped before the job was submitted",
        )),
    }
}

fn absolute(path: &std::path::Path) -> Result<String, Failure> {
    let whole = std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    whole.into_os_string().into_string().map_err(|_| {
        Failure::usage(format!(
            "{} is not UTF-8; choose another folder with --out",
            path.display()
        ))
    })
}

impl Asked<'_> {
    async fn on_own_node(
        &self,
        client: Client,
        interrupts: &mut Interrupts,
    ) -> Result<ExitCode, Failure> {
        here::note_resumed(self.global, &client).await?;
        if self.args.dry_run {
            self.dry_run(&client, interrupts).await
        } else {
            self.foreground(client, interrupts).await
        }
    }

    async fn detach(&self, client: &Client) -> Result<ExitCode, Failure> {
        let created: JobCreated = client.ask(Method::POST, "/jobs", &self.request).await?;
        if self.global.json {
            output::line_json(&created);
        } else {
            output::line(created.job);
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn foreground(
        &self,
        client: Client,
        interrupts: &mut Interrupts,
    ) -> Result<ExitCode, Failure> {
        let asking = self.until_known(|| client.events(Method::POST, "/jobs", &self.request));
        let events = tokio::select! {
            events = asking => events?,
            // The node forgets a job whose asker went away.
            cause = interrupts.next() => return ended_by(cause),
        };
        let how = Follow {
            json: self.global.json,
            quiet: false,
            cancel_on_interrupt: true,
        };
        follow::follow(client, events, how, interrupts).await
    }

    /// Asks until all peers that are named otherwise than by their whole ids are known: a node that
    /// was just started has yet to hear of them.
    async fn until_known<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        ask: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        loop {
            let asked = ask().await;
            let unknown =
                matches!(&asked, Err(failure) if failure.refused == Some(ErrorCode::NotFound));
            if !unknown || !self.own_node || began.elapsed() >= self.wait {
                return asked;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn dry_run(
        &self,
        client: &Client,
        interrupts: &mut Interrupts,
    ) -> Result<ExitCode, Failure> {
        let fits = tokio::select! {
            fits = self.fits(client) => fits?,
            cause = interrupts.next() => return ended_by(cause),
        };
        let (name, tasks) = (self.resolved.name(), self.resolved.task_count());
        if self.global.json {
            output::line_json(&json!({ "name": name, "tasks": tasks, "peers": fits }));
        } else {
            output::line(format!("job `{name}` would run {}", counted(tasks, "task")));
            let rows: Vec<Vec<String>> = fits
                .iter()
                .map(|fit| {
                    let verdict = match (&fit.reason, fit.slots) {
                        (Some(reason), _) => reason.clone(),
                        (None, 0) => "fits, and is full at the moment".to_owned(),
                        (None, slots) => format!("{slots} at a time"),
                    };
                    vec![fit.peer.clone(), fit.name.clone(), verdict]
                })
                .collect();
            if !rows.is_empty() {
                output::table(&["PEER", "NAME", "TASKS"], &rows);
                output::note("(whether a peer permits it is not known until it is asked)");
            }
        }
        if fits.iter().any(|fit| fit.reason.is_none()) {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Failure::nobody(match fits.len() {
            0 => "no peer that offers capacity is known; run `p2pnode offer` on a machine of this network".to_owned(),
            known => format!("no peer fits, of {known} that are known"),
        }))
    }

    /// Who fits, once somebody does or the time is over.
    async fn fits(&self, client: &Client) -> Result<Vec<PeerFit>, Failure> {
        let began = Instant::now();
        loop {
            let ask = || client.ask(Method::POST, "/fit", &self.request);
            let fits: Vec<PeerFit> = self.until_known(ask).await?;
            if fits.iter().any(|fit| fit.reason.is_none()) || began.elapsed() >= self.wait {
                return Ok(fits);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}
