//! What the program says to wrong use, and its exit codes.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Lab, modules, program, text};

#[test]
fn every_verb_has_help_with_an_example_where_it_takes_arguments() {
    let help = program().arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let verbs = "join network offer stop status id peers submit validate template jobs job logs cancel wait allow requests deny ps stats kill pause resume drain history usage ping find path config demo doctor completions";
    for verb in verbs.split(' ') {
        assert!(
            text(&help.stdout).contains(&format!("\n  {verb}")),
            "{verb} is not in --help"
        );
        let help = program().args([verb, "--help"]).output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{verb}");
        assert!(
            text(&help.stdout).contains("Example"),
            "{verb} --help has no example"
        );
    }
}

#[test]
fn help_is_a_verb_too() {
    let help = program().args(["help", "submit"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Example"));
}

#[test]
fn wrong_usage_is_2() {
    assert_eq!(
        program()
            .arg("no-such-verb")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        program()
            .args(["offer", "--memory", "8 apples"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    let lab = Lab::new();
    assert_eq!(
        lab.run("me", &["validate", "absent.toml"]).status.code(),
        Some(2)
    );
}

#[test]
fn wrong_usage_is_json_for_programs() {
    for args in [
        &["--json", "no-such-verb"][..],
        &["offer", "--cpus", "-1", "--json"],
        &["job", "", "--json"],
    ] {
        let output = program().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["event"], "error", "{said}");
        assert_eq!(said["code"], 2);
    }
}

#[test]
fn selectors_that_name_nothing_are_refused_before_a_node_is_asked() {
    let lab = Lab::new();
    for args in [
        &["allow", ""][..],
        &["job", ""],
        &["job", "3/../x"],
        &["logs", "last/x"],
        &["cancel", "last/1"],
    ] {
        let output = lab.run("me", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn settings_of_the_file_count_and_all_faults_are_told() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("me")).unwrap();
    let file = lab.path("me").join("config.toml");
    std::fs::write(&file, "[submit]\nwait_for_peers = \"1s\"\n").unwrap();
    let job = lab.job(
        "job",
        "[task]\nwasm = \"a.wasm\"\n",
        &[("a.wasm", &modules::no_op())],
    );
    let args = ["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let ended = lab.submit("me", &job, &args);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    let notes = ended.finished()["notes"].to_string();
    assert!(notes.contains("within 1 s"), "{notes}");

    std::fs::write(&file, "log = \"p2p=[\"\n").unwrap();
    let output = lab.run("me", &["join"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`log`"));

    std::fs::write(&file, "mdns = 3\nnome = \"x\"\n").unwrap();
    let output = lab.run("me", &["config", "show", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["details"].as_array().unwrap().len(), 2, "{said}");
}

#[test]
fn without_a_node_it_is_3_and_says_how_to_start_one() {
    let lab = Lab::new();
    for args in [
        &["status"][..],
        &["peers"],
        &["jobs"],
        &["stop"],
        &["wait", "last"],
    ] {
        let output = lab.run("me", args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        assert!(text(&output.stderr).contains("p2pnode join"), "{args:?}");
    }
    let job = lab.job(
        "job",
        "[task]\nwasm = \"a.wasm\"\n",
        &[("a.wasm", &modules::no_op())],
    );
    let output = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_bad_job_file_names_every_fault_at_once() {
    let lab = Lab::new();
    let toml = "name = \"x\"\n[task]\nwasm = \"absent.wasm\"\ncomand = [\"a\"]\n[array]\nn = \"9-1\"\n[resources]\nmemory = \"lots\"\n";
    let job = lab.job("job", toml, &[]);
    let output = lab.run("me", &["validate", job.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for part in [
        "job.toml:4",
        "comand",
        "command",
        "job.toml:6",
        "job.toml:8",
        "lots",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn no_peer_is_3_and_says_so() {
    let lab = Lab::new();
    let job = lab.job(
        "job",
        "[task]\nwasm = \"a.wasm\"\n",
        &[("a.wasm", &modules::no_op())],
    );
    let args = [
        "--no-mdns",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--wait-for-peers",
        "1s",
    ];
    let ended = lab.submit("me", &job, &args);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    assert_eq!(ended.finished()["no_peer"], true);
}

#[test]
fn a_data_directory_serves_one_node_and_a_port_too() {
    let lab = Lab::new();
    let node = lab.start("me", "join", &[], None);
    let second = lab.run("me", &["join", "--no-mdns"]);
    assert_eq!(second.status.code(), Some(2));
    assert!(
        text(&second.stderr).contains("already runs"),
        "{}",
        text(&second.stderr)
    );
    let address = node.address.split("/p2p/").next().unwrap();
    let taken = lab.run("other", &["join", "--no-mdns", "--listen", address]);
    assert_eq!(taken.status.code(), Some(2), "{}", text(&taken.stderr));
    assert!(
        text(&taken.stderr).contains("in use"),
        "{}",
        text(&taken.stderr)
    );
}

#[test]
fn an_offer_larger_than_the_machine_is_refused_with_what_it_has() {
    let lab = Lab::new();
    let output = lab.run(
        "me",
        &[
            "offer",
            "--cpus",
            "9999",
            "--memory",
            "1",
            "--no-mdns",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("more than this machine's"), "{said}");
    assert!(
        said.contains("--memory 1 B is less than any task needs"),
        "{said}"
    );
}

#[test]
fn stop_ends_the_node_and_offer_tells_a_running_one() {
    let lab = Lab::new();
    let mut node = lab.start("me", "join", &[], None);
    let status = lab.json(
        "me",
        &["offer", "--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"],
    );
    assert_eq!(status["offer"]["total"]["cpus_milli"], 1_000);
    let stopped = lab.run("me", &["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped.stderr));
    assert_eq!(
        harness::eventually("the node ends", || node.child.try_wait().unwrap()).code(),
        Some(0)
    );
}

#[test]
fn completions_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = program().args(["completions", shell]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        assert!(script.contains("p2pnode") && script.contains("submit"));
        assert!(!script.contains("wasm-worker"), "{shell}");
    }
}
