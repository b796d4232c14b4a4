//! `network`: private networks and their tickets.

use std::process::ExitCode;

use p2pnode_node::config::{Config, Overrides, Sources};
use p2pnode_node::home::{DataDir, PrivateNetwork};
use p2pnode_protocol::api::NodeStatus;
use serde_json::json;

use crate::args::{Global, NetworkVerb};
use crate::exit::Failure;
use crate::{here, output};

pub async fn network(global: &Global, verb: &NetworkVerb) -> Result<ExitCode, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(here::home_failure)?;
    match verb {
        NetworkVerb::Create { name } => create(global, &dir, name),
        NetworkVerb::Ticket { name } => ticket(global, &dir, name.as_deref()).await,
    }
}

fn create(global: &Global, dir: &DataDir, name: &str) -> Result<ExitCode, Failure> {
    if dir.network(name).map_err(here::home_failure)?.is_some() {
        return Err(Failure::usage(format!(
            "this node is a member of a network called {name} already; `p2pnode network ticket {name}` lets others in"
        )));
    }
    let network = PrivateNetwork::create(name).ok_or_else(|| {
        Failure::usage(format!(
            "`{name}` is not a network's name: use 1 to 64 of a-z, 0-9, `-`, `_` and `.`"
        ))
    })?;
    dir.join_network(&network).map_err(here::home_failure)?;
    if global.json {
        output::line_json(&json!({ "network": name, "ticket": network.ticket() }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format!(
        "made the private network {name}; this node is its first member"
    ));
    if here::running(global)?.is_some() {
        output::note(
            "the node that runs is still in its old network: p2pnode stop, then p2pnode join",
        );
    } else {
        output::note("start it with `p2pnode join` or `p2pnode offer`");
    }
    output::note("then let others in with the ticket that `p2pnode network ticket` prints");
    Ok(ExitCode::SUCCESS)
}

async fn ticket(global: &Global, dir: &DataDir, name: Option<&str>) -> Result<ExitCode, Failure> {
    let status: Option<NodeStatus> = match here::running(global)? {
        Some(client) => Some(client.get("/status").await?),
        None => None,
    };
    let name = match (name, &status) {
        (Some(name), _) => name.to_owned(),
        (None, Some(status)) => status.network.clone(),
        (None, None) => configured(dir)?,
    };
    let network = dir.network(&name).map_err(here::home_failure)?.ok_or_else(|| {
        Failure::usage(format!(
            "{name} is no private network of this node: make one with `p2pnode network create NAME`"
        ))
    })?;
    let status = status.filter(|status| status.network == name);
    let network = match &status {
        None => network,
        Some(status) => {
            let own = status.external.iter().chain(&status.listen);
            let end = format!("/p2p/{}", status.peer);
            let whole = own.map(|address| match address.ends_with(&end) {
                true => address.clone(),
                false => format!("{address}{end}"),
            });
            let mut addresses: Vec<_> = whole.filter_map(|text| text.parse().ok()).collect();
            addresses.extend(network.addresses());
            addresses.dedup();
            network.with_addresses(&addresses)
        }
    };
    if global.json {
        output::line_json(&json!({ "network": name, "ticket": network.ticket() }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(network.ticket());
    if status.is_none() {
        output::note(
            "no node of this network runs here, so the ticket says nothing of where to find one: start it first, or tell them to add --bootstrap",
        );
    }
    output::note("whoever has this ticket is a member and may run tasks on its members' machines");
    Ok(ExitCode::SUCCESS)
}

fn configured(dir: &DataDir) -> Result<String, Failure> {
    let config = Config::load(&Sources::of_process(dir, Overrides::default()));
    config
        .map(|config| config.network)
        .map_err(|error| Failure::usage(error.to_string()).with_details(error.lines()))
}
