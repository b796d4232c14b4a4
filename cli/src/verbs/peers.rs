//! `peers`.

use std::process::ExitCode;
use std::time::Duration;

use p2pnode_protocol::Capacity;
use p2pnode_protocol::api::PeerInfo;

use super::figures;
use super::follow::gone;
use crate::args::{Global, PeersArgs};
use crate::client::Client;
use crate::exit::{self, Failure};
use crate::interrupt::Interrupts;
use crate::{here, output};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub async fn peers(global: &Global, args: &PeersArgs) -> Result<ExitCode, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = here::must_run(global)?;
    let mut last = None;
    loop {
        let peers = list(&client, args.allowed).await.map_err(|failure| {
            let watched = last.is_some() && failure.number() == exit::NOBODY;
            if watched { gone(None, true) } else { failure }
        })?;
        if last.as_ref() != Some(&peers) {
            print(global, &peers);
            last = Some(peers);
        }
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            _ = interrupts.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
    }
}

async fn list(client: &Client, allowed_only: bool) -> Result<Vec<PeerInfo>, Failure> {
    let mut peers: Vec<PeerInfo> = client.get("/peers").await?;
    if allowed_only {
        let allowed: Vec<String> = client.get("/allowed").await?;
        peers.retain(|peer| allowed.contains(&peer.peer));
        let unseen = allowed
            .into_iter()
            .filter(|id| peers.iter().all(|peer| peer.peer != *id));
        let unseen: Vec<PeerInfo> = unseen.map(never_seen).collect();
        peers.extend(unseen);
    }
    Ok(peers)
}

/// A peer that was allowed before it was ever met.
fn never_seen(peer: String) -> PeerInfo {
    PeerInfo {
        peer,
        name: String::new(),
        networks: Vec::new(),
        addresses: Vec::new(),
        capacity: None,
        free: None,
        executors: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        rtt_ms: None,
        allowed: true,
        closed: None,
        away: Vec::new(),
        connected: false,
        relayed: false,
        last_seen_ms: 0,
    }
}

fn print(global: &Global, peers: &[PeerInfo]) {
    if global.json {
        output::line_json(&peers);
        return;
    }
    if peers.is_empty() {
        output::note(
            "no peers yet; give a node to begin with: --bootstrap /ip4/.../tcp/.../p2p/...",
        );
        return;
    }
    print_table(peers);
}

/// One line for each peer.
pub fn print_table(peers: &[PeerInfo]) {
    let rows: Vec<Vec<String>> = peers.iter().map(row).collect();
    output::table(
        &[
            "PEER",
            "NAME",
            "CPUS",
            "MEMORY",
            "GPUS",
            "RUNS",
            "RTT",
            "WAY",
            "MAY RUN HERE",
        ],
        &rows,
    );
}

fn row(peer: &PeerInfo) -> Vec<String> {
    let of = |text: fn(&Capacity) -> String| match (&peer.free, &peer.capacity) {
        (Some(free), Some(total)) => format!("{}/{}", text(free), text(total)),
        _ => "-".to_owned(),
    };
    let runtimes: Vec<String> = peer.executors.iter().map(ToString::to_string).collect();
    // What a peer could run, were it to offer anything, is of no use to anyone.
    let runs = match peer.capacity {
        Some(_) if !runtimes.is_empty() => runtimes.join(","),
        _ => "-".to_owned(),
    };
    let away = peer
        .away
        .iter()
        .map(|away| format!("{} away", away.runtime));
    let runs = match away.collect::<Vec<_>>() {
        away if away.is_empty() => runs,
        away => format!("{runs} ({})", away.join(", ")),
    };
    let runs = match &peer.closed {
        Some(why) => format!("{runs}; closed: {}", figures::line(why, 60)),
        None => runs,
    };
    let rtt = match (peer.connected, peer.rtt_ms) {
        (true, Some(rtt)) => format!("{rtt:.1} ms"),
        (true, None) => "connected".to_owned(),
        (false, _) => "away".to_owned(),
    };
    let way = match (peer.connected, peer.relayed) {
        (true, true) => "relayed",
        (true, false) => "direct",
        (false, _) => "-",
    };
    vec![
        peer.peer.clone(),
        peer.name.clone(),
        of(|capacity| capacity.cpus.to_string()),
        of(|capacity| capacity.memory.to_string()),
        of(|capacity| capacity.gpus.len().to_string()),
        runs,
        rtt,
        way.to_owned(),
        if peer.allowed { "yes" } else { "no" }.to_owned(),
    ]
}
