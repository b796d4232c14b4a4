//! Verbs about the node itself: `join`, `offer`, `stop`, `status`, `id`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_node::driver::Node;
use p2pnode_protocol::Capacity;
use p2pnode_protocol::api::{NodeStatus, OfferRequest};
use serde_json::json;

use crate::args::{Global, NodeFlags, OfferArgs};
use crate::client::Client;
use crate::exit::Failure;
use crate::{here, output};

/// How long `stop` waits for the node to end: the node gives itself 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(12);

pub async fn join(global: &Global, flags: &NodeFlags) -> Result<ExitCode, Failure> {
    if here::running(global)?.is_some() {
        return Err(Failure::usage(
            "a node already runs here; `p2pnode status` shows it",
        ));
    }
    let node = here::start(global, flags).await?;
    run_until_stopped(global, node, None).await
}

pub async fn offer(global: &Global, args: &OfferArgs) -> Result<ExitCode, Failure> {
    let request = OfferRequest {
        cpus_milli: args.cpus.map(|cpus| cpus.0),
        memory: args.memory.map(|memory| memory.0),
        disk: args.disk.map(|disk| disk.0),
        gpus: args.gpus,
        allow: args.allow.clone(),
        allow_any: args.allow_any,
    };
    if let Some(client) = here::running(global)? {
        let status: NodeStatus = client.ask(Method::PUT, "/offer", &request).await?;
        if global.json {
            output::line_json(&status);
        } else if let Some(offer) = status.offer {
            output::line(format!(
                "the running node now offers {}",
                describe(&offer.total)
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let node = here::start(global, &args.node).await?;
    run_until_stopped(global, node, Some(request)).await
}

/// Says that the node is ready, then waits for its end.
async fn run_until_stopped(
    global: &Global,
    node: Node,
    offer: Option<OfferRequest>,
) -> Result<ExitCode, Failure> {
    let client = Client::new(node.endpoint().clone());
    if let Some(request) = offer {
        let told: Result<NodeStatus, Failure> = client.ask(Method::PUT, "/offer", &request).await;
        if let Err(failure) = told {
            node.stop().await.map_err(here::node_failure)?;
            return Err(failure);
        }
    }
    let status: NodeStatus = client.get("/status").await?;
    if global.json {
        output::line_json(
            &json!({ "event": "ready", "peer": status.peer, "listen": status.listen }),
        );
    } else {
        output::line(format!("ready {} {}", status.peer, status.listen.join(" ")));
    }
    if let Some(offer) = &status.offer {
        tracing::info!(offered = %describe(&offer.total), allow_any = offer.allow_any, "offering");
    }
    node.run_until_signal().await.map_err(here::node_failure)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(capacity: &Capacity) -> String {
    let mut text = format!(
        "{} CPUs, {} of memory, {} of disk",
        capacity.cpus, capacity.memory, capacity.disk
    );
    for gpu in &capacity.gpus {
        text.push_str(&format!(", {} ({})", gpu.model, gpu.memory));
    }
    text
}

pub async fn stop(global: &Global) -> Result<ExitCode, Failure> {
    let client = here::must_run(global)?;
    let () = client.ask(Method::POST, "/stop", &()).await?;
    let told = Instant::now();
    while here::running(global)?.is_some() {
        if told.elapsed() > STOP_LIMIT {
            return Err(Failure::internal(
                "the node was told to stop but still runs",
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if global.json {
        output::line_json(&json!({ "stopped": true }));
    } else {
        output::line("the node has stopped");
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn status(global: &Global) -> Result<ExitCode, Failure> {
    let status: NodeStatus = here::must_run(global)?.get("/status").await?;
    if global.json {
        output::pretty_json(&status);
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format!("peer       {}", status.peer));
    output::line(format!("name       {}", status.name));
    output::line(format!("network    {}", status.network));
    output::line(format!("version    {}", status.version));
    output::line(format!("data       {}", status.data_dir));
    for address in &status.listen {
        output::line(format!("listens    {address}"));
    }
    for address in &status.external {
        output::line(format!("seen as    {address}"));
    }
    output::line(format!(
        "peers      {} connected, {} known",
        status.peers_connected, status.peers_known
    ));
    output::line(format!("own tasks  {} open", status.own_tasks_open));
    match &status.offer {
        None => output::line("offers     nothing"),
        Some(offer) => {
            output::line(format!("offers     {}", describe(&offer.total)));
            output::line(format!("free       {}", describe(&offer.free)));
            output::line(format!(
                "tasks      {} running, {} waiting",
                offer.running, offer.queued
            ));
            for runtime in &offer.runtimes {
                let state = match (&runtime.version, &runtime.problem) {
                    (Some(version), _) => version.clone(),
                    (None, problem) => {
                        format!("away: {}", problem.as_deref().unwrap_or("not probed yet"))
                    }
                };
                output::line(format!("runtime    {} {state}", runtime.runtime));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn id(global: &Global) -> Result<ExitCode, Failure> {
    let peer = here::peer_id(global)?;
    if global.json {
        output::line_json(&json!({ "peer": peer.to_string() }));
    } else {
        output::line(peer.to_string());
    }
    Ok(ExitCode::SUCCESS)
}
