//! Jobs that go on while the network under them changes.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Ended, modules, text};
use crate::town::{Town, eventually};
use crate::world::Nat;

/// Tasks of the job, each of a second.
const TASKS: u64 = 24;

fn long_job(town: &Town) -> PathBuf {
    let toml = format!(
        "name = \"long\"\n[task]\nwasm = \"task.wasm\"\n[array]\nn = \"1-{TASKS}\"\n\
         [resources]\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n"
    );
    town.lab
        .job("job", &toml, &[("task.wasm", &modules::sleep(1_000))])
}

/// Every task succeeded, none was counted twice, and nothing was written twice.
fn assert_whole(ended: &Ended) {
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let finished = ended.finished();
    assert_eq!(finished["state"], "succeeded");
    assert_eq!(finished["tasks"]["succeeded"], TASKS, "{finished}");
    let good = ended
        .of_kind("task_finished")
        .filter(|event| event["state"] == "succeeded");
    assert_eq!(good.count() as u64, TASKS);
    // A log is no result: what came of the one task that ran while its provider counted as lost may be
    // refused, and the node then says that this log is not complete.
    let cut = (0..TASKS).filter(|index| !ended.log_of(*index).ends_with("done\n"));
    let cut: Vec<u64> = cut.collect();
    assert!(cut.len() <= 1, "logs of tasks {cut:?} are not complete");
}

/// There is a living way to the provider. Whether it is a hole again is not certain: the router may still hold
/// the ports for the address that is gone.
fn assert_reached(town: &Town) {
    let pinged = town.run("me", &["ping", &town.provider.id, "-c", "1"]);
    let said = text(&pinged.stdout);
    eprintln!("{said}");
    assert_eq!(pinged.status.code(), Some(0), "{said}");
}

/// The relay through which new data goes to the provider.
fn relay_in_use(town: &Town) -> Option<String> {
    let links = town.links();
    let chosen = links.iter().find(|link| link["chosen"] == true)?;
    chosen["relay"].as_str().map(str::to_owned)
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_second_relay_takes_over_from_one_that_dies() {
    let mut town = Town::new(Nat::Symmetric, 2);
    town.until_placed(2);
    town.until_known();
    let submit = town.begin(&long_job(&town));
    town.until_succeeded(3);
    let used = relay_in_use(&town).expect("through a relay");
    let mut relays = town.relays.iter_mut();
    relays.find(|relay| relay.id == used).unwrap().kill();
    eventually("the other relay takes over", || {
        let now = relay_in_use(&town)?;
        (now != used).then_some(())
    });
    assert_whole(&town.end(submit));
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn a_lost_place_at_a_relay_is_replaced_by_one_found_in_the_dht() {
    let mut town = Town::new(Nat::Cone, 3);
    town.until_placed(2);
    let relays = |town: &Town| -> Vec<String> {
        let status = town.json("me", &["status"]);
        let relays = status["networks"][0]["reach"]["relays"].as_array().cloned();
        let texts = relays.unwrap_or_default().into_iter();
        texts
            .filter_map(|relay: Value| relay.as_str().map(str::to_owned))
            .collect()
    };
    let lost = relays(&town).remove(0);
    let mut all = town.relays.iter_mut();
    all.find(|relay| relay.id == lost).unwrap().kill();
    eventually("another place", || {
        let held = relays(&town);
        (held.len() == 2 && !held.contains(&lost)).then_some(())
    });
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn the_submitter_gets_another_address_and_its_job_goes_on() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    let submit = town.begin(&long_job(&town));
    town.until_succeeded(3);
    town.world.readdress("me", 7, Some(2), 77);
    assert_whole(&town.end(submit));
    assert_reached(&town);
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn the_provider_gets_another_address_and_the_job_goes_on() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    let submit = town.begin(&long_job(&town));
    town.until_succeeded(3);
    town.world.readdress("provider", 8, Some(2), 88);
    assert_whole(&town.end(submit));
    assert_reached(&town);
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn half_a_minute_of_silence_loses_nothing() {
    let town = Town::new(Nat::Cone, 1);
    town.until_placed(1);
    town.until_known();
    let submit = town.begin(&long_job(&town));
    town.until_succeeded(3);
    town.world.cut(None);
    let before = town.succeeded();
    // The length of the cut is what is tested.
    std::thread::sleep(Duration::from_secs(30));
    assert!(town.succeeded() >= before, "finished results stay");
    town.world.mend();
    let ended = town.end(submit);
    assert_whole(&ended);
    let done = ended.of_kind("task_finished").count() as u64;
    assert_eq!(done, TASKS, "no task was tried again after it had ended");
}
