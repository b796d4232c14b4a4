//! Verbs about the node itself: `join`, `offer`, `stop`, `status`, `id`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::Method;
use p2pnode_node::config::{Config, PUBLIC_NETWORK};
use p2pnode_node::home::{DataDir, PrivateNetwork, TicketError};
use p2pnode_protocol::api::{
    NetworkStatus, NodeStatus, OfferRequest, PeerWay, ReachState, ReachStatus,
};
use serde_json::json;

use super::figures;
use super::follow::counted;
use super::terms::{describe, note_nobody, rules, users};

use crate::args::{Global, JoinArgs, OfferArgs};
use crate::client::Client;
use crate::exit::Failure;
use crate::interrupt::Interrupts;
use crate::{here, output};

/// How long `stop` waits for the node to end: the node gives itself 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(12);

pub async fn join(global: &Global, args: &JoinArgs) -> Result<ExitCode, Failure> {
    let interrupts = Interrupts::listen()?;
    if here::running(global)?.is_some() {
        return Err(Failure::usage(
            "a node already runs here; `p2pnode status` shows it",
        ));
    }
    let mut flags = args.node.clone();
    if let Some(ticket) = &args.ticket {
        flags.networks = become_member(global, &flags.networks, ticket)?;
    }
    let config = here::config(global, &flags)?;
    run_until_stopped(global, config, interrupts, None).await
}

/// Keeps the network that a ticket leads to, and those of `beside` with it; returns all of them.
fn become_member(global: &Global, beside: &[String], ticket: &str) -> Result<Vec<String>, Failure> {
    let network: PrivateNetwork = ticket
        .parse()
        .map_err(|error: TicketError| Failure::usage(error.to_string()))?;
    let name = network.name();
    if network.has_expired(figures::now_ms()) {
        return Err(Failure::usage(
            "this ticket has expired: ask a member for a new one, which `p2pnode network ticket` prints",
        ));
    }
    if name == PUBLIC_NETWORK {
        return Err(Failure::usage(format!(
            "this ticket is of a private network that calls itself {PUBLIC_NETWORK}, as the public one is called: ask for one of another name"
        )));
    }
    let dir = DataDir::find(global.data_dir.clone()).map_err(here::home_failure)?;
    let known = dir.network(name).map_err(here::home_failure)?;
    if known.is_some_and(|known| known.key().fingerprint() != network.key().fingerprint()) {
        return Err(Failure::usage(format!(
            "this node is a member of another network called {name}, with another key: `p2pnode network leave {name}` first if this one is to take its place"
        )));
    }
    dir.join_network(&network, beside)
        .map_err(here::home_failure)?;
    output::note(format!("a member of the private network {name} now"));
    Ok(dir.last_networks())
}

pub async fn offer(global: &Global, args: &OfferArgs) -> Result<ExitCode, Failure> {
    let interrupts = Interrupts::listen()?;
    if let Some(client) = here::running(global)? {
        if !global.json {
            here::note_ignored(&args.node, &["--name", "--label"]);
        }
        let request = args.request_to_running();
        let status: NodeStatus = client.ask(Method::PUT, "/offer", &request).await?;
        if global.json {
            output::line_json(&status);
            return Ok(ExitCode::SUCCESS);
        }
        match &status.offer {
            Some(offer) => {
                output::line(format!(
                    "the running node now offers {}",
                    describe(&offer.total)
                ));
                for rule in rules(offer) {
                    output::line(format!("  {rule}"));
                }
                output::line(format!("  for {}", users(offer, &status)));
                if let Some(why) = &offer.closed {
                    output::note(format!("it is closed at the moment: {why}"));
                }
                note_nobody(offer, &status);
            }
            None => output::line("the running node now offers nothing"),
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.none {
        return withdraw(global, args).await;
    }
    let config = here::config(global, &args.node)?;
    // What the settings say counts at every start, whatever was offered before.
    let request = args.request().or(&config.offer);
    run_until_stopped(global, config, interrupts, Some(request)).await
}

/// Withdraws what is stored, so that no later start offers it again.
async fn withdraw(global: &Global, args: &OfferArgs) -> Result<ExitCode, Failure> {
    let node = here::start(global, here::config(global, &args.node)?).await?;
    let client = Client::new(node.endpoint().clone());
    let withdrawn = client.ask(Method::PUT, "/offer", &args.request()).await;
    node.stop().await.map_err(here::node_failure)?;
    let status: NodeStatus = withdrawn?;
    if global.json {
        output::line_json(&status);
    } else {
        output::line("nothing is offered, at the next start neither");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a node until it is told to stop; says when it is ready.
async fn run_until_stopped(
    global: &Global,
    config: Config,
    mut interrupts: Interrupts,
    offer: Option<OfferRequest>,
) -> Result<ExitCode, Failure> {
    let node = tokio::select! {
        node = here::start(global, config) => node?,
        _ = interrupts.next() => return Ok(ExitCode::SUCCESS),
    };
    interrupts.watch(&node);
    let client = Client::new(node.endpoint().clone());
    let ready = tokio::select! {
        ready = tell_ready(global, &client, offer) => ready,
        _ = interrupts.next() => Ok(()),
    };
    if ready.is_ok() {
        interrupts.next().await;
    }
    node.stop().await.map_err(here::node_failure)?;
    ready.map(|()| ExitCode::SUCCESS)
}

async fn tell_ready(
    global: &Global,
    client: &Client,
    offer: Option<OfferRequest>,
) -> Result<(), Failure> {
    if let Some(request) = offer {
        let _told: NodeStatus = client.ask(Method::PUT, "/offer", &request).await?;
    }
    let status: NodeStatus = client.get("/status").await?;
    let listen: Vec<&str> = status.listen().map(String::as_str).collect();
    if global.json {
        output::line_json(&json!({ "event": "ready", "peer": status.peer, "listen": listen }));
    } else {
        output::line(format!("ready {} {}", status.peer, listen.join(" ")));
        for how in status.networks.iter().filter_map(how_to_join) {
            output::note(format!("others join with: {how}"));
        }
    }
    here::note_resumed(global, client).await?;
    if let Some(offer) = &status.offer {
        tracing::info!(offered = %describe(&offer.total), allow_any = offer.allow_any, "offering");
        if !global.json {
            note_nobody(offer, &status);
        }
    }
    Ok(())
}

/// What others write to be in the same network. The name of the public one is the default.
fn how_to_join(network: &NetworkStatus) -> Option<String> {
    let name = &network.name;
    if network.private {
        return Some(format!(
            "the ticket that `p2pnode network ticket {name}` prints"
        ));
    }
    let address = best_address(&network.listen)?;
    let network = match name.as_str() {
        PUBLIC_NETWORK => String::new(),
        name => format!("--network {name} "),
    };
    Some(format!("p2pnode join {network}--bootstrap {address}"))
}

/// The address that most others can use.
fn best_address(listen: &[String]) -> Option<&String> {
    let is_local = |address: &&String| {
        address.starts_with("/ip4/127.")
            || address.starts_with("/ip6/::1/")
            || address.starts_with("/ip6/fe80:")
    };
    let far = listen.iter().find(|address| !is_local(address));
    far.or_else(|| listen.first())
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
    output::line(format!("version    {}", status.version));
    output::line(format!("data       {}", status.data_dir));
    for network in &status.networks {
        let private = if network.private { " (private)" } else { "" };
        output::line(format!("network    {}{private}", network.name));
        for address in &network.listen {
            output::line(format!("listens    {address}"));
        }
        for address in &network.external {
            output::line(format!("seen as    {address}"));
        }
        for line in reach(&network.reach)
            .into_iter()
            .chain(ways(&network.peers))
        {
            output::line(line);
        }
        for node in &network.unreached {
            output::line(format!("bootstrap  {}: {}", node.address, node.why));
        }
    }
    output::line(format!(
        "peers      {} connected, {} known",
        status.peers_connected, status.peers_known
    ));
    output::line(format!("own tasks  {} open", status.own_tasks_open));
    if status.draining {
        output::line("draining   takes nothing new until: p2pnode drain --off");
    }
    match &status.offer {
        None => output::line("offers     nothing"),
        Some(offer) => {
            output::line(format!("offers     {}", describe(&offer.total)));
            output::line(format!("free       {}", describe(&offer.free)));
            output::line(format!("may use    {}", users(offer, &status)));
            for rule in rules(offer) {
                output::line(format!("rule       {rule}"));
            }
            if let Some(why) = &offer.closed {
                output::line(format!("closed     {why}"));
            }
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

/// Whether and how others reach the node, in words.
fn reach(reach: &ReachStatus) -> Vec<String> {
    let mut lines = vec![match reach.state {
        ReachState::Public => "reach      public: the whole Internet reaches it".to_owned(),
        ReachState::Relayed => format!(
            "reach      behind NAT, reachable through {}",
            reach.relays.join(" and ")
        ),
        ReachState::Hidden => {
            "reach      behind NAT, and no relay is found yet: only peers that it connects to itself"
                .to_owned()
        }
        ReachState::Unknown => "reach      unknown yet: nobody outside has told".to_owned(),
    }];
    lines.extend(
        reach
            .problem
            .as_ref()
            .map(|problem| format!("problem    {problem}")),
    );
    if reach.relaying {
        lines.push(format!(
            "relays     ({}) {}, {}",
            reach.relay,
            counted(reach.clients.into(), "node"),
            counted(reach.circuits.into(), "circuit")
        ));
    }
    lines
}

/// How each connected peer is reached.
fn ways(peers: &[PeerWay]) -> Vec<String> {
    /// More than that are for `p2pnode peers`.
    const SHOWN: usize = 16;
    let shown = peers.iter().take(SHOWN).map(|way| match way.relayed {
        false => format!("direct     {}", way.peer),
        true => format!("relayed    {}", way.peer),
    });
    let mut lines: Vec<String> = shown.collect();
    if let Some(more @ 1..) = peers.len().checked_sub(SHOWN) {
        lines.push(format!("           and {more} more: p2pnode peers"));
    }
    lines
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
