//! `submit`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_node::driver::Node;
use p2pnode_node::jobfile::ResolvedJob;
use p2pnode_protocol::api::{CreateJob, JobCreated, PeerFit};
use serde_json::json;

use super::follow::{self, Follow};
use super::validate;
use crate::args::{Global, SubmitArgs};
use crate::client::Client;
use crate::exit::Failure;
use crate::{here, output};

/// How long a dry run waits for adverts when the job says nothing: as long as the job itself would.
const DEFAULT_WAIT: Duration = Duration::from_secs(15);

/// How often a dry run looks whether a peer fits.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub async fn submit(global: &Global, args: &SubmitArgs) -> Result<ExitCode, Failure> {
    let file = validate::read(&args.file)?;
    let resolved = validate::check(&file)?;
    let request = CreateJob {
        toml: file.text,
        folder: file.folder.to_string_lossy().into_owned(),
        file: file.name,
        peers: args.peers.clone(),
        out: args.out.as_deref().map(absolute).transpose()?,
        out_parent: Some(absolute(std::path::Path::new("."))?),
        wait_for_peers_ms: args.wait_for_peers.map(|wait| wait.as_millis() as u64),
    };
    match here::running(global)? {
        Some(client) if args.dry_run => dry_run(global, args, &client, &request, &resolved).await,
        Some(client) if args.detach => detach(global, &client, &request).await,
        Some(client) => foreground(global, client, &request).await,
        None if args.detach => Err(Failure::nobody(
            "--detach needs a node that goes on running; start one with `p2pnode join`",
        )),
        None => {
            let node = here::start(global, &args.node).await?;
            let client = Client::new(node.endpoint().clone());
            let ended = if args.dry_run {
                dry_run(global, args, &client, &request, &resolved).await
            } else {
                foreground(global, client, &request).await
            };
            stop(node).await?;
            ended
        }
    }
}

async fn stop(node: Node) -> Result<(), Failure> {
    node.stop().await.map_err(here::node_failure)
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

async fn detach(
    global: &Global,
    client: &Client,
    request: &CreateJob,
) -> Result<ExitCode, Failure> {
    let created: JobCreated = client.ask(Method::POST, "/jobs", request).await?;
    if global.json {
        output::line_json(&created);
    } else {
        output::line(created.job);
    }
    Ok(ExitCode::SUCCESS)
}

async fn foreground(
    global: &Global,
    client: Client,
    request: &CreateJob,
) -> Result<ExitCode, Failure> {
    let events = client.events(Method::POST, "/jobs", request).await?;
    let how = Follow {
        json: global.json,
        quiet: false,
        cancel_on_interrupt: true,
    };
    follow::follow(client, events, how).await
}

async fn dry_run(
    global: &Global,
    args: &SubmitArgs,
    client: &Client,
    request: &CreateJob,
    resolved: &ResolvedJob,
) -> Result<ExitCode, Failure> {
    let wait = args.wait_for_peers.unwrap_or(DEFAULT_WAIT);
    let started = Instant::now();
    let fits: Vec<PeerFit> = loop {
        let fits: Vec<PeerFit> = client.ask(Method::POST, "/fit", request).await?;
        if fits.iter().any(|fit| fit.slots > 0) || started.elapsed() >= wait {
            break fits;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    let tasks = resolved.task_count();
    if global.json {
        output::line_json(&json!({ "name": resolved.name(), "tasks": tasks, "peers": fits }));
    } else {
        output::line(format!("job `{}` would run {tasks} tasks", resolved.name()));
        let rows: Vec<Vec<String>> = fits
            .iter()
            .map(|fit| {
                let verdict = fit
                    .reason
                    .clone()
                    .unwrap_or_else(|| format!("{} at a time", fit.slots));
                vec![fit.peer.clone(), fit.name.clone(), verdict]
            })
            .collect();
        output::table(&["PEER", "NAME", "TASKS"], &rows);
    }
    if fits.iter().any(|fit| fit.slots > 0) {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::nobody(format!(
        "no peer fits, of {} that are known",
        fits.len()
    )))
}
