//! What the running node says of itself: reach, runtimes, offer.

use p2pnode_protocol::api::{NodeStatus, OfferStatus, RuntimeStatus};

use super::finding::Finding;
use crate::verbs::follow::counted;

/// That no node runs.
pub fn absent() -> Finding {
    Finding::none(
        "node",
        "none runs here, so its reach and its offer were not looked at",
    )
    .mend("p2pnode join, or: p2pnode offer")
}

/// Everything that the node's status tells.
pub fn judge(status: &NodeStatus) -> Vec<Finding> {
    let names: Vec<&str> = status.networks.iter().map(|n| n.name.as_str()).collect();
    let found = format!(
        "{} ({}) runs version {} in the network {}",
        status.peer,
        status.name,
        status.version,
        names.join(" and ")
    );
    let mut all = vec![
        judge_version(status, found),
        judge_reach(status),
        judge_peers(status),
    ];
    if status.draining {
        all.push(
            Finding::warning("draining", "the node takes nothing new").mend("p2pnode drain --off"),
        );
    }
    match &status.offer {
        None => all.push(Finding::none("offer", "nothing is offered").mend("p2pnode offer")),
        Some(offer) => all.extend(judge_offer(offer, status)),
    }
    all
}

fn judge_version(status: &NodeStatus, found: String) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    if status.version == own {
        return Finding::ok("node", found);
    }
    Finding::warning("node", format!("{found}, and this program is {own}"))
        .mend("p2pnode stop, and start it again")
}

/// Whether others can come in.
fn judge_reach(status: &NodeStatus) -> Finding {
    let listen: Vec<&String> = status.listen().collect();
    if listen.is_empty() {
        return Finding::fault("reach", "the node listens nowhere, so no peer can come in")
            .mend("correct `listen` in config.toml, then: p2pnode stop && p2pnode join");
    }
    let relayed = |address: &&String| address.contains("/p2p-circuit");
    if let Some(direct) = status.external().find(|address| !relayed(address)) {
        return Finding::ok("reach", format!("seen from outside at {direct}"));
    }
    if let Some(relay) = status.external().next() {
        return Finding::warning(
            "reach",
            format!("behind a router that lets nobody in; reached through a relay at {relay}"),
        )
        .mend("forward a port to this machine and name it with --external, or turn UPnP on in the router");
    }
    let inside =
        |address: &&String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    if listen.iter().all(inside) {
        return Finding::warning("reach", "the node listens on this machine alone")
            .mend("start it without --listen, or with an address of the network's");
    }
    Finding::none(
        "reach",
        "listens, and no address is confirmed from outside: peers of the local network come in, others may not",
    )
    .mend("forward a port to this machine and name it with --external")
}

fn judge_peers(status: &NodeStatus) -> Finding {
    let found = format!(
        "{} connected, {} known",
        status.peers_connected, status.peers_known
    );
    if status.peers_connected > 0 {
        return Finding::ok("peers", found);
    }
    Finding::warning("peers", found)
        .mend("p2pnode join --bootstrap ADDRESS, with an address that another node printed when it started")
}

fn judge_offer(offer: &OfferStatus, status: &NodeStatus) -> Vec<Finding> {
    let total = &offer.total;
    let found = format!(
        "{} CPUs, {} of memory, {} of disk, {}; {} running, {} waiting",
        total.cpus,
        total.memory,
        total.disk,
        counted(total.gpus.len() as u64, "GPU"),
        offer.running,
        offer.queued
    );
    let mut all = vec![match &offer.closed {
        None => Finding::ok("offer", found),
        Some(why) => Finding::warning("offer", format!("closed at the moment: {why}"))
            .mend("see its rules with p2pnode status, and change them with p2pnode offer"),
    }];
    all.push(match offer.allowed.len() {
        _ if offer.allow_any => Finding::ok("users", "anyone may run tasks here"),
        _ if status.private_networks().next().is_some() => {
            let names: Vec<&str> = status.private_networks().collect();
            let found = format!("all members of {} may run tasks here", names.join(", "));
            Finding::ok("users", found)
        }
        0 => Finding::warning("users", "nobody else may run tasks here").mend("p2pnode allow PEER"),
        count => {
            let found = format!("{} may run tasks here", counted(count as u64, "peer"));
            Finding::ok("users", found)
        }
    });
    if offer.requests > 0 {
        let waiting = counted(offer.requests.into(), "peer");
        all.push(
            Finding::warning("requests", format!("{waiting} waiting for your answer"))
                .mend("p2pnode requests"),
        );
    }
    all.extend(judge_runtimes(&offer.runtimes));
    all
}

/// One that is away costs the jobs that need it; all of them cost the offer.
fn judge_runtimes(runtimes: &[RuntimeStatus]) -> Vec<Finding> {
    let works = runtimes.iter().any(|runtime| runtime.version.is_some());
    let judge = |runtime: &RuntimeStatus| {
        let name = runtime.runtime;
        if let Some(version) = &runtime.version {
            return Finding::ok("executor", format!("{name}: {version}"));
        }
        let why = runtime.problem.as_deref().unwrap_or("not asked yet");
        let found = format!("{name} is away: {why}");
        let finding = if works {
            Finding::warning("executor", found)
        } else {
            Finding::fault("executor", found)
        };
        finding.mend("mend that; the node finds it again by itself within 10 s")
    };
    runtimes.iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::api::NetworkStatus;
    use p2pnode_protocol::task::RuntimeKind;

    use super::super::finding::State;
    use super::*;

    fn status(listen: &[&str], external: &[&str]) -> NodeStatus {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        NodeStatus {
            peer: "12D3".into(),
            name: "me".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            networks: vec![NetworkStatus {
                name: "main".into(),
                listen: owned(listen),
                external: owned(external),
                ..NetworkStatus::default()
            }],
            started_ms: 0,
            data_dir: String::new(),
            peers_connected: 1,
            peers_known: 1,
            offer: None,
            own_tasks_open: 0,
            draining: false,
            adverts: p2pnode_protocol::api::AdvertTimes::default(),
            memory: 0,
        }
    }

    #[test]
    fn reach_is_judged_by_what_others_see() {
        let judge =
            |listen: &[&str], external: &[&str]| judge_reach(&status(listen, external)).state;
        let lan = ["/ip4/192.168.0.2/tcp/4001/p2p/12D3"];
        assert_eq!(judge(&[], &[]), State::Fault);
        assert_eq!(
            judge(&["/ip4/127.0.0.1/tcp/1/p2p/12D3"], &[]),
            State::Warning
        );
        assert_eq!(judge(&lan, &[]), State::None);
        let relay = "/ip4/192.0.2.7/tcp/1/p2p/12D4/p2p-circuit";
        assert_eq!(judge(&lan, &[relay]), State::Warning);
        assert_eq!(judge(&lan, &[relay, "/ip4/192.0.2.9/tcp/1"]), State::Ok);
    }

    #[test]
    fn a_node_that_nobody_can_use_is_told_why() {
        let runtime = |runtime, version: Option<&str>| RuntimeStatus {
            runtime,
            version: version.map(str::to_owned),
            problem: version.is_none().then(|| "the engine is gone".to_owned()),
        };
        let mut status = status(&[], &[]);
        status.draining = true;
        status.peers_connected = 0;
        status.offer = Some(OfferStatus {
            total: p2pnode_protocol::Capacity::default(),
            free: p2pnode_protocol::Capacity::default(),
            allow_any: false,
            rules: p2pnode_protocol::offer::OfferRules::default(),
            closed: Some("on battery".into()),
            allowed: Vec::new(),
            runtimes: vec![
                runtime(RuntimeKind::Docker, None),
                runtime(RuntimeKind::Wasm, Some("wasmtime")),
            ],
            requests: 2,
            running: 0,
            queued: 0,
        });
        let found = judge(&status);
        for (check, state, part) in [
            ("peers", State::Warning, "0 connected"),
            ("draining", State::Warning, "nothing new"),
            ("offer", State::Warning, "on battery"),
            ("users", State::Warning, "nobody else"),
            ("requests", State::Warning, "2 peers"),
            (
                "executor",
                State::Warning,
                "docker is away: the engine is gone",
            ),
        ] {
            let one = found.iter().find(|finding| finding.check == check).unwrap();
            assert_eq!(one.state, state, "{one:?}");
            assert!(one.found.contains(part) && one.mend.is_some(), "{one:?}");
        }
        let all_away = judge_runtimes(&[runtime(RuntimeKind::Docker, None)]);
        assert_eq!(all_away[0].state, State::Fault);
    }
}
