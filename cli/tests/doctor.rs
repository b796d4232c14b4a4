//! `doctor` as people run it.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Lab, text};
use serde_json::Value;

/// What `doctor --json` said, and its exit code.
fn doctor(lab: &Lab, name: &str, args: &[&str]) -> (Value, Option<i32>) {
    let args = [&["doctor", "--json"], args].concat();
    let output = lab.run(name, &args);
    let said = serde_json::from_slice(&output.stdout);
    let said = said.unwrap_or_else(|_| panic!("{} {}", text(&output.stdout), text(&output.stderr)));
    (said, output.status.code())
}

/// All findings of one kind.
fn of<'a>(said: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = said["checks"].as_array().unwrap().iter();
    all.filter(|finding| finding["check"] == check).collect()
}

#[test]
fn a_fresh_directory_has_no_fault_of_its_own_and_is_not_made() {
    let lab = Lab::new();
    let (said, code) = doctor(&lab, "me", &[]);
    for (check, state) in [
        ("data", "none"),
        ("identity", "none"),
        ("config", "none"),
        ("node", "none"),
    ] {
        let found = of(&said, check);
        assert_eq!(
            (found.len(), found[0]["state"].as_str()),
            (1, Some(state)),
            "{said}"
        );
    }
    for check in [
        "disk",
        "clock",
        "machine",
        "temperature",
        "energy",
        "engine",
    ] {
        assert!(!of(&said, check).is_empty(), "{check}: {said}");
    }
    assert!(!lab.path("me").exists());
    let faults = said["faults"].as_u64().unwrap();
    assert_eq!(said["ok"], faults == 0);
    assert_eq!(code, Some(i32::from(faults > 0)));
}

#[test]
fn a_fault_is_told_with_its_mend_and_is_1() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    lab.id("me");
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(lab.path("me"), open).unwrap();
    std::fs::write(lab.path("me").join("config.toml"), "nome = \"x\"\n").unwrap();
    let (said, code) = doctor(&lab, "me", &[]);
    assert_eq!((code, &said["ok"]), (Some(1), &Value::Bool(false)));
    let data = of(&said, "data");
    assert_eq!(data[0]["state"], "fault");
    assert!(data[0]["mend"].as_str().unwrap().starts_with("chmod 700"));
    assert!(
        of(&said, "config")[0]["found"]
            .as_str()
            .unwrap()
            .contains("nome")
    );
    let plain = text(&lab.run("me", &["doctor"]).stdout);
    assert!(
        plain.contains("FAULT  data") && plain.contains("mend: chmod 700"),
        "{plain}"
    );
}

#[test]
fn a_running_node_tests_itself() {
    let lab = Lab::new();
    let _node = lab.provider("me", &lab.id("friend"), None);
    let (said, _) = doctor(&lab, "me", &["--self-test"]);
    for check in ["node", "offer", "users", "run wasm"] {
        assert_eq!(of(&said, check)[0]["state"], "ok", "{said}");
    }
    assert!(
        of(&said, "run wasm")[0]["found"]
            .as_str()
            .unwrap()
            .contains(" ms")
    );
    let executors = of(&said, "executor");
    let wasm = |finding: &&&Value| finding["found"].as_str().unwrap().starts_with("wasm");
    assert_eq!(executors.iter().find(wasm).unwrap()["state"], "ok");
    // Nobody is connected, which is a warning.
    assert_eq!(of(&said, "peers")[0]["state"], "warning");
}

#[test]
fn without_a_node_one_of_its_own_is_tested_and_nothing_is_left() {
    let lab = Lab::new();
    let (said, _) = doctor(&lab, "me", &["--self-test"]);
    assert_eq!(of(&said, "run wasm")[0]["state"], "ok", "{said}");
    assert!(!lab.path("me").exists());
}

#[test]
fn a_node_that_offers_nothing_cannot_test_itself_and_says_so() {
    let lab = Lab::new();
    let _node = lab.start("me", "join", &[], None);
    let (said, code) = doctor(&lab, "me", &["--self-test"]);
    assert_eq!(code, Some(1));
    let found = of(&said, "self-test")[0];
    assert!(
        found["mend"].as_str().unwrap().contains("p2pnode offer"),
        "{found}"
    );
}

#[test]
#[ignore = "needs docker"]
fn a_container_is_run_where_an_engine_is() {
    let lab = Lab::new();
    let _node = lab.provider("me", &lab.id("friend"), None);
    let (said, _) = doctor(&lab, "me", &["--self-test"]);
    for check in ["engine", "cgroups", "images", "run docker"] {
        assert_eq!(of(&said, check)[0]["state"], "ok", "{said}");
    }
}
