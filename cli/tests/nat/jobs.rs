//! A job with a large input, between two nodes that nobody can dial.

use std::path::PathBuf;
use std::time::Instant;

use crate::harness::{Ended, modules, text};
use crate::town::{Town, eventually};
use crate::world::Nat;

/// What the job's input has.
const INPUT: u64 = 64 << 20;

const JOB: &str = r#"
name = "large"
[task]
wasm = "copy.wasm"
[resources]
memory = "64MiB"
disk = "256MiB"
[inputs]
"in.txt" = "in.txt"
[outputs]
paths = ["out/out.txt"]
"#;

/// Bytes that no compression and no likeness makes fewer.
fn noise(bytes: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// The job's file, in a folder with its module and input.
fn large_job(town: &Town) -> PathBuf {
    town.lab.job(
        "job",
        JOB,
        &[("copy.wasm", &modules::copy()), ("in.txt", &noise(INPUT))],
    )
}

fn assert_done(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.finished()["state"], "succeeded");
    let out = std::fs::read(ended.out.join("out/out.txt")).unwrap();
    assert_eq!(out, noise(INPUT)[..out.len()]);
    assert!(!out.is_empty());
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_hole_is_punched_and_the_input_goes_directly() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    let (job, before) = (large_job(&town), town.world.received("relay0"));
    let began = Instant::now();
    let submit = town.begin(&job);
    town.until_direct();
    let punched = began.elapsed();
    assert_done(&town.end(submit));
    let took = began.elapsed();
    let forwarded = town.world.received("relay0") - before;
    eprintln!("direct after {punched:?}, done after {took:?}, {forwarded} bytes at the relay");
    assert!(
        forwarded < INPUT / 16,
        "{forwarded} bytes went through the relay"
    );
    let links = town.links();
    let bulk = links.iter().find(|link| link["chosen"] == true).unwrap();
    assert_eq!(bulk["relayed"], false, "{links:?}");
    assert!(bulk["sent"].as_u64() >= Some(INPUT), "{links:?}");
    let peers = town.json("me", &["peers"]);
    let mut peers = peers.as_array().unwrap().iter();
    let provider = peers.find(|peer| peer["peer"] == town.provider.id.as_str());
    assert_eq!(provider.unwrap()["relayed"], false);
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn where_no_hole_can_be_punched_the_input_goes_through_the_relay() {
    let town = Town::new(Nat::Symmetric, 1);
    town.until_placed(1);
    town.until_known();
    let (job, before) = (large_job(&town), town.world.received("relay0"));
    let began = Instant::now();
    let submit = town.begin(&job);
    let ended = town.end(submit);
    let took = began.elapsed();
    assert_done(&ended);
    let forwarded = town.world.received("relay0") - before;
    eprintln!("done after {took:?}, {forwarded} bytes at the relay");
    assert!(
        forwarded >= INPUT,
        "{forwarded} bytes went through the relay"
    );
    let links = town.links();
    assert!(
        links.iter().all(|link| link["relayed"] == true),
        "{links:?}"
    );
    let relay = town.relays[0].id.as_str();
    assert!(links.iter().all(|link| link["relay"] == relay), "{links:?}");
    let said = text(&town.run("me", &["status"]).stdout);
    let way = format!("relayed    {}", town.provider.id);
    assert!(said.contains(&way), "{said}");
}

/// A private network speaks TCP only, so its holes are punched by two calls that cross.
#[test]
#[ignore = "needs root, for network namespaces"]
fn a_private_network_finds_its_ways_through_nat() {
    for (nat, direct) in [(Nat::Cone, true), (Nat::Symmetric, false)] {
        let town = Town::private(nat);
        town.until_placed(1);
        town.until_known();
        let submit = town.begin(&large_job(&town));
        if direct {
            town.until_direct();
        }
        assert_done(&town.end(submit));
        let links = town.links();
        let chosen = links.iter().find(|link| link["chosen"] == true).unwrap();
        assert_eq!(chosen["relayed"], !direct, "{links:?}");
        assert_eq!(chosen["transport"], "tcp", "{links:?}");
    }
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_transfer_through_the_relay_moves_over_to_a_direct_connection() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    // The relay's line is slow, and no hole can be punched for a while.
    let (mine, theirs) = (town.homes[0].as_str(), town.homes[1].as_str());
    town.world.slow("5.0.1.2", 2_000);
    town.world.cut(Some((mine, theirs)));
    let (job, before) = (large_job(&town), town.world.received("relay0"));
    let submit = town.begin(&job);
    eventually("the input begins to go through the relay", || {
        let moved = town.world.received("relay0") - before;
        (moved > INPUT / 16).then_some(())
    });
    assert!(town.links().iter().all(|link| link["relayed"] == true));
    town.world.mend();
    assert_done(&town.end(submit));
    let forwarded = town.world.received("relay0") - before;
    let links = town.links();
    eprintln!("{forwarded} bytes at the relay");
    assert!(
        links.iter().any(|link| link["relayed"] == false),
        "{links:?}"
    );
    assert!(forwarded < INPUT * 3 / 4, "{forwarded}");
    let log = std::fs::read_to_string(&town.provider.log).unwrap();
    assert!(
        log.contains("a transfer goes on over it"),
        "it did not move"
    );
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn small_limits_of_a_relay_do_not_stop_a_job() {
    let town = Town::with(Nat::Symmetric, 1, &["--relay", "limit"]);
    town.until_placed(1);
    town.until_known();
    let submit = town.begin(&large_job(&town));
    assert_done(&town.end(submit));
    let status = text(&town.run("relay0", &["status"]).stdout);
    assert!(status.contains("(limit) 2 nodes"), "{status}");
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_router_that_forwards_a_port_makes_its_node_public() {
    let town = Town::with_upnp();
    let home = format!("/ip4/{}/", town.homes[1]);
    let external = eventually("the provider has a port of its router", || {
        let status = town.json("provider", &["status"]);
        let addresses = status["networks"][0]["external"].as_array()?.clone();
        let texts = addresses.iter().filter_map(|address| address.as_str());
        let mut there = texts.filter(|address| address.starts_with(&home));
        there.next().map(str::to_owned)
    });
    let said = text(&town.run("provider", &["status"]).stdout);
    assert!(said.contains("reach      public"), "{said}");
    eprintln!("{external} is forwarded");
    // Nobody relays, and no hole can be punched: there is no other way in.
    town.until_known();
    assert_done(&town.end(town.begin(&large_job(&town))));
    let links = town.links();
    assert!(!links.is_empty(), "nobody is connected");
    for link in &links {
        assert_eq!(link["relayed"], false, "{links:?}");
        assert!(
            link["address"].as_str().unwrap().starts_with(&home),
            "{links:?}"
        );
    }
}
