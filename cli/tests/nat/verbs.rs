//! What `status`, `ping`, `find` and `path` say of nodes behind NAT.

use serde_json::Value;

use crate::harness::text;
use crate::town::{Town, eventually};
use crate::world::Nat;

#[test]
#[ignore = "needs root, for network namespaces"]
fn ways_to_peers_are_told() {
    let town = Town::new(Nat::Cone, 1);
    let (relay, provider) = (&town.relays[0], &town.provider);
    town.until_placed(1);
    town.until_known();

    let said = text(&town.run("me", &["status"]).stdout);
    let through = format!("reach      behind NAT, reachable through {}", relay.id);
    assert!(said.contains(&through), "{said}");
    let way = format!("direct     {}", relay.id);
    assert!(said.contains(&way), "{said}");
    let said = text(&town.run("relay0", &["status"]).stdout);
    assert!(said.contains("reach      public"), "{said}");
    assert!(said.contains("relays     (on) 2 nodes"), "{said}");

    // Nothing but the DHT leads to a node that is behind NAT and was never met.
    let found = town.json("me", &["find", &provider.id]);
    let mut addresses = found["found"].as_array().unwrap().iter();
    let circuit = format!("/p2p/{}/p2p-circuit", relay.id);
    assert!(
        addresses.any(|address| address.as_str().unwrap().contains(&circuit)),
        "{found}"
    );
    let offers = town.json("me", &["find", "--cpus", "1"]);
    assert_eq!(offers["peers"][0]["peer"], provider.id.as_str(), "{offers}");
    let none = town.run("me", &["find", "--gpus", "9"]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));

    let pinged = town.run(
        "me",
        &[
            "ping",
            &town.provider.id,
            "-c",
            "3",
            "-i",
            "100ms",
            "--json",
        ],
    );
    assert_eq!(pinged.status.code(), Some(0), "{}", text(&pinged.stderr));
    let lines: Vec<Value> = text(&pinged.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[3]["received"], 3);
    assert!(lines[0]["rtt_ms"].as_f64() > Some(0.0));

    town.until_direct();
    let pinged = text(
        &town
            .run("me", &["ping", &town.provider.id, "-c", "1"])
            .stdout,
    );
    assert!(pinged.contains("ms, direct"), "{pinged}");
    assert!(pinged.contains("1 sent, 1 came back, 0 % lost"), "{pinged}");
    let path = text(&town.run("me", &["path", &town.provider.id]).stdout);
    assert!(path.contains("direct*"), "{path}");
    eventually("the needless circuit is closed", || {
        let links = town.links();
        links
            .iter()
            .all(|link| link["relayed"] == false)
            .then_some(())
    });

    // To myself, to nobody, and to one that is away.
    let myself = town.run("me", &["ping", &town.me.id]);
    assert_eq!(myself.status.code(), Some(2));
    let unknown = town.run("me", &["path", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown.stderr));
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_silent_peer_is_told_by_ping() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    town.run("me", &["ping", &town.provider.id, "-c", "1"]);
    town.until_direct();
    town.world.cut(None);
    let pinged = town.run("me", &["ping", &town.provider.id, "-c", "1"]);
    assert_eq!(pinged.status.code(), Some(1), "{}", text(&pinged.stdout));
    let said = text(&pinged.stdout);
    assert!(said.contains("1 sent, 0 came back, 100 % lost"), "{said}");
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_relay_that_is_off_serves_nobody_and_status_says_so() {
    let town = Town::with(Nat::Cone, 1, &["--relay", "off"]);
    let said = eventually("the node knows that it is behind NAT", || {
        let said = text(&town.run("me", &["status"]).stdout);
        said.contains("behind NAT").then_some(said)
    });
    assert!(said.contains("no relay is found yet"), "{said}");
    let status = town.json("relay0", &["status"]);
    assert_eq!(status["networks"][0]["reach"]["relay"], "off");
    assert_eq!(status["networks"][0]["reach"]["relaying"], false);
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_relay_that_refuses_is_told_with_the_mend() {
    let mut town = Town::with(Nat::Cone, 1, &["--relay", "limit"]);
    town.until_placed(1);
    // It gives one node eight places a minute.
    let problem = (0..16).find_map(|_| {
        town.restart_me();
        eventually("the node has a place, or knows why not", || {
            let reach = town.json("me", &["status"])["networks"][0]["reach"].clone();
            let told = reach["state"] == "relayed" || reach["problem"].is_string();
            told.then(|| reach["problem"].as_str().map(str::to_owned))
        })
    });
    let problem = problem.expect("the relay refuses at last");
    assert!(problem.contains(&town.relays[0].id), "{problem}");
    assert!(problem.contains("p2pnode join --relay on"), "{problem}");
    let said = text(&town.run("me", &["status"]).stdout);
    assert!(said.contains("problem    the relay"), "{said}");
    let log = std::fs::read_to_string(&town.me.log).unwrap();
    assert!(log.contains("it is full, or was asked too often"), "{log}");
}
