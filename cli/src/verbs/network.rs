//! `network`: private networks and their tickets.

use std::process::ExitCode;

use p2pnode_node::config::{Config, Overrides, PUBLIC_NETWORK, Sources};
use p2pnode_node::home::{DataDir, PrivateNetwork};
use p2pnode_protocol::api::NodeStatus;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::json;

use super::figures;
use crate::args::{Global, NetworkVerb};
use crate::exit::Failure;
use crate::{here, output};

pub async fn network(global: &Global, verb: &NetworkVerb) -> Result<ExitCode, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(here::home_failure)?;
    match verb {
        NetworkVerb::Create { name } => create(global, &dir, name),
        NetworkVerb::Ticket { name, until, qr } => {
            let shown = Shown {
                until_ms: until.map(|time| figures::now_ms() + time.as_millis() as u64),
                qr: *qr,
            };
            ticket(global, &dir, name.as_deref(), shown).await
        }
        NetworkVerb::Show => show(global, &dir).await,
        NetworkVerb::Leave { name } => leave(global, &dir, name).await,
    }
}

fn create(global: &Global, dir: &DataDir, name: &str) -> Result<ExitCode, Failure> {
    if name == PUBLIC_NETWORK {
        return Err(Failure::usage(format!(
            "{PUBLIC_NETWORK} is the name of the public network: choose another"
        )));
    }
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
    dir.join_network(&network, &[])
        .map_err(here::home_failure)?;
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

/// The node's status, when one runs here.
async fn status(global: &Global) -> Result<Option<NodeStatus>, Failure> {
    match here::running(global)? {
        Some(client) => client.get("/status").await.map(Some),
        None => Ok(None),
    }
}

async fn show(global: &Global, dir: &DataDir) -> Result<ExitCode, Failure> {
    let names = dir.networks().map_err(here::home_failure)?;
    let running = status(global).await?.map(|status| {
        let names = status.networks.into_iter().map(|network| network.name);
        names.collect::<Vec<String>>()
    });
    let next = configured(dir)?;
    if global.json {
        output::line_json(&json!({ "private": names, "running": running, "next": next }));
        return Ok(ExitCode::SUCCESS);
    }
    let running = running.unwrap_or_default();
    let mut all = vec![PUBLIC_NETWORK.to_owned()];
    for name in names.iter().chain(&running).chain(&next) {
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|name| {
            let kind = if names.contains(name) {
                "private"
            } else {
                "public"
            };
            let here = match (running.contains(name), next.contains(name)) {
                (true, _) => "the running node is in it",
                (false, true) => "a node that starts is in it",
                (false, false) => "",
            };
            vec![name.clone(), kind.to_owned(), here.to_owned()]
        })
        .collect();
    output::table(&["NETWORK", "KIND", "HERE"], &rows);
    output::note(
        "`p2pnode join --network NAME` starts a node in another; repeat --network for several",
    );
    Ok(ExitCode::SUCCESS)
}

async fn leave(global: &Global, dir: &DataDir, name: &str) -> Result<ExitCode, Failure> {
    if !dir.leave_network(name).map_err(here::home_failure)? {
        return Err(Failure::usage(format!(
            "this node is no member of a private network called {name}; `p2pnode network show` lists them"
        )));
    }
    let status = status(global).await?;
    let running = status.is_some_and(|status| status.network(name).is_some());
    if global.json {
        output::line_json(&json!({ "left": name, "running": running }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format!("no member of {name} any more"));
    if running {
        output::note("the node that runs is in it until it ends: p2pnode stop");
    }
    Ok(ExitCode::SUCCESS)
}

/// How a ticket is shown.
struct Shown {
    until_ms: Option<u64>,
    qr: bool,
}

/// A ticket for a camera: blocks of text, two modules high each, dark on light whatever the terminal's
/// colours are.
///
/// Returns its width in columns, too.
fn qr(ticket: &str) -> Result<(String, usize), Failure> {
    // Capital letters have a mode of their own, which makes the code a third smaller.
    let code = QrCode::new(ticket.to_ascii_uppercase()).map_err(|error| {
        Failure::usage(format!(
            "this ticket is too long for a QR code ({error}); send it as text"
        ))
    })?;
    let text = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    let width = text.lines().map(|line| line.chars().count()).max();
    let lines = text
        .lines()
        .map(|line| format!("\x1b[30;107m{line}\x1b[0m"));
    Ok((lines.collect::<Vec<_>>().join("\n"), width.unwrap_or(0)))
}

/// In columns; `None` when the result goes elsewhere.
fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

async fn ticket(
    global: &Global,
    dir: &DataDir,
    name: Option<&str>,
    shown: Shown,
) -> Result<ExitCode, Failure> {
    let status = status(global).await?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => only_private(dir, status.as_ref())?,
    };
    let network = dir.network(&name).map_err(here::home_failure)?.ok_or_else(|| {
        Failure::usage(format!(
            "{name} is no private network of this node: make one with `p2pnode network create NAME`"
        ))
    })?;
    let own = status.as_ref().and_then(|status| {
        let end = format!("/p2p/{}", status.peer);
        Some((status.network(&name)?, end))
    });
    let network = match &own {
        None => network,
        Some((own, end)) => {
            let own = own.external.iter().chain(&own.listen);
            let whole = own.map(|address| match address.ends_with(end) {
                true => address.clone(),
                false => format!("{address}{end}"),
            });
            let mut addresses: Vec<_> = whole.filter_map(|text| text.parse().ok()).collect();
            addresses.extend(network.addresses());
            addresses.dedup();
            network.with_addresses(&addresses)
        }
    };
    let network = network.until(shown.until_ms);
    if global.json {
        let until_ms = shown.until_ms;
        output::line_json(
            &json!({ "network": name, "ticket": network.ticket(), "until_ms": until_ms }),
        );
        return Ok(ExitCode::SUCCESS);
    }
    output::line(network.ticket());
    if shown.qr {
        let (picture, width) = qr(&network.ticket())?;
        output::raw(&(picture + "\n"));
        if terminal_width().is_some_and(|columns| columns < width) {
            output::note(format!(
                "this terminal is too narrow for the code: make it {width} columns wide, or its letters smaller, and ask again"
            ));
        }
    }
    if own.is_none() {
        output::note(
            "no node of this network runs here, so the ticket says nothing of where to find one: start it first, or tell them to add --bootstrap",
        );
    }
    output::note("whoever has this ticket is a member and may run tasks on its members' machines");
    Ok(ExitCode::SUCCESS)
}

/// The one private network that a node here is in, or will be: whose ticket is meant when nobody says.
fn only_private(dir: &DataDir, status: Option<&NodeStatus>) -> Result<String, Failure> {
    let names: Vec<String> = match status {
        Some(status) => status.private_networks().map(str::to_owned).collect(),
        None => {
            let private = dir.networks().map_err(here::home_failure)?;
            let all = configured(dir)?.into_iter();
            all.filter(|name| private.contains(name)).collect()
        }
    };
    match &names[..] {
        [one] => Ok(one.clone()),
        [] => Err(Failure::usage(
            "this node is in no private network: make one with `p2pnode network create NAME`",
        )),
        several => Err(Failure::usage(format!(
            "this node is in several private networks: say which of {}",
            several.join(", ")
        ))),
    }
}

/// The networks that a node which starts is in.
fn configured(dir: &DataDir) -> Result<Vec<String>, Failure> {
    let config = Config::load(&Sources::of_process(dir, Overrides::default()));
    config
        .map(|config| config.networks)
        .map_err(|error| Failure::usage(error.to_string()).with_details(error.lines()))
}
