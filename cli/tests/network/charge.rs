//! The owner in charge of what runs on its machine.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::harness::{Ended, Lab, TestNode, eventually, modules, program, text};
use crate::simple_job;

/// Starts a `submit` on the running node called `name`, which goes on by itself.
fn submit(lab: &Lab, name: &str, job: &std::path::Path, args: &[&str]) -> Child {
    program()
        .args(["submit", job.to_str().unwrap(), "--json", "--data-dir"])
        .arg(lab.path(name))
        .args(args)
        .current_dir(lab.root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(lab: &Lab, child: Child) -> Ended {
    Ended::new(child.wait_with_output().unwrap(), lab.path("out"))
}

/// Providers `left` and `right` of one CPU each, and `me`, which may use and knows both.
fn two_providers(lab: &Lab) -> (TestNode, TestNode, TestNode) {
    let me = lab.id("me");
    let left = lab.provider("left", &me, None);
    let right = lab.provider("right", &me, Some(&left));
    let mine = lab.start("me", "join", &[], Some(&left));
    lab.wait_until_known("me", &left);
    lab.wait_until_known("me", &right);
    for provider in ["left", "right"] {
        eventually("its name is known", || {
            let peers = lab.json(provider, &["peers"]);
            let named = peers.as_array().unwrap().iter();
            named.filter(|peer| peer["name"] == "me").map(|_| ()).next()
        });
    }
    (left, right, mine)
}

/// The task that runs at a provider, once its process has started.
fn running(lab: &Lab, provider: &str) -> Value {
    eventually("a task runs", || {
        let here = lab.json(provider, &["ps"]);
        let task = here["tasks"].as_array().unwrap().first()?.clone();
        (task["state"] == "running").then_some(task)
    })
}

/// Why tasks left their providers, and whose doing that was, as their submitter was told.
fn told(ended: &Ended) -> Vec<(String, String)> {
    let events = ended.of_kind("task_finished");
    let failures = events.filter(|event| !event["failure"].is_null());
    failures
        .map(|event| {
            assert_eq!(event["state"], "pending", "no try is counted: {event}");
            (
                event["failure"]["message"].as_str().unwrap().to_owned(),
                event["decided_by"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

/// Runs a job, has it killed where it runs, and checks what everybody is told.
fn kill_one(lab: &Lab, submitter: &TestNode, by: &str) {
    let began = now_ms();
    let file = lab.job(
        by,
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::sleep(8_000))],
    );
    let both = format!("{},{}", lab.id("left"), lab.id("right"));
    let job = submit(lab, "me", &file, &["--peers", &both]);
    let (at, task) = eventually("it runs", || {
        ["left", "right"].into_iter().find_map(|provider| {
            let here = lab.json(provider, &["ps"]);
            let task = here["tasks"].as_array().unwrap().first()?.clone();
            (task["state"] == "running").then_some((provider, task))
        })
    });
    assert_eq!(task["peer"], submitter.id.as_str());
    assert_eq!(
        (&task["peer_name"], &task["job_name"]),
        (&"me".into(), &"simple".into())
    );
    assert_eq!(
        (&task["runtime"], &task["cpus_milli"]),
        (&"wasm".into(), &1_000.into())
    );
    assert!(task["since_ms"].as_u64() >= Some(began));
    let target = match by {
        "task" => task["task"].as_str().unwrap(),
        "job" => &task["job"].as_str().unwrap()[..8],
        _ => "me",
    };
    let killed = lab.run(at, &["kill", target, "--reason", &format!("by {by}")]);
    assert!(killed.status.success(), "{}", text(&killed.stderr));
    assert!(text(&killed.stdout).contains(task["task"].as_str().unwrap()));
    let said = text(&killed.stderr);
    assert_eq!(by == "peer", said.contains("p2pnode deny"), "{said}");
    let ended = end(lab, job);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let expected = format!("killed by the owner of {at}: by {by}");
    assert_eq!(told(&ended), [(expected, "owner".to_owned())]);
    let elsewhere = match at == "left" {
        true => "right",
        false => "left",
    };
    let peers = ended.finished()["peers"].as_object().unwrap();
    assert_eq!(peers.keys().collect::<Vec<_>>(), [&lab.id(elsewhere)]);
}

/// Attempts by outcome in a provider's history, which its usage must agree with.
fn look_back(lab: &Lab, provider: &str, submitter: &TestNode) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let page = lab.json(provider, &["history"]);
    for row in page["rows"].as_array().unwrap() {
        assert_eq!(row["peer"], submitter.id.as_str());
        let outcome = row["outcome"].as_str().unwrap();
        *counts.entry(outcome.to_owned()).or_insert(0) += row["tasks"].as_u64().unwrap();
        if outcome == "killed" {
            let why = row["message"].as_str().unwrap();
            assert!(why.contains(&format!("the owner of {provider}")), "{row}");
        } else {
            assert!(row["usage"]["wall_us"].as_u64() >= Some(2_500_000), "{row}");
            assert!(
                row["usage"]["memory_mib_s"].as_u64() >= Some(2 * 64),
                "{row}"
            );
        }
    }
    for by in ["peer", "job", "day"] {
        let usage = lab.json(provider, &["usage", "--by", by]);
        let total: BTreeMap<String, u64> =
            serde_json::from_value(usage["total"]["tasks"].clone()).unwrap();
        assert_eq!(total, counts, "{usage}");
    }
    counts
}

#[test]
fn what_is_killed_runs_elsewhere_and_its_submitter_reads_who_decided_and_why() {
    let lab = Lab::new();
    let (_left, _right, mine) = two_providers(&lab);
    for by in ["task", "job", "peer"] {
        kill_one(&lab, &mine, by);
    }
    let mut all = look_back(&lab, "left", &mine);
    for (outcome, count) in look_back(&lab, "right", &mine) {
        *all.entry(outcome).or_insert(0) += count;
    }
    let expected = [("killed".to_owned(), 3), ("succeeded".to_owned(), 3)];
    assert_eq!(all, BTreeMap::from(expected));
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

#[test]
fn a_job_whose_only_provider_kills_it_says_why_it_waits() {
    let lab = Lab::new();
    let (_provider, _mine) = lab.pair();
    let file = lab.job(
        "job",
        &simple_job("task.wasm", 3),
        &[("task.wasm", &modules::spin())],
    );
    let job = submit(&lab, "me", &file, &["--wait-for-peers", "2s"]);
    let task = running(&lab, "provider");
    let id = task["job"].as_str().unwrap();
    let wrong = lab.run("provider", &["kill", &format!("{id}/77")]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong.stderr));
    let none = lab.run("provider", &["kill", "0000"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
    assert!(text(&none.stderr).contains("p2pnode ps"));
    let paused = lab.run("provider", &["pause", id]);
    assert_eq!(paused.status.code(), Some(1));
    let said = text(&paused.stderr);
    assert!(said.contains("wasm tasks cannot be frozen"), "{said}");
    let done = lab.json("provider", &["kill", id, "--reason", "not here"]);
    assert_eq!(done["meant"], "job");
    // It ran there once, so the job waits for a provider; and says why.
    let why = "killed by the owner of provider: not here";
    eventually("the job says why it waits", || {
        let shown = lab.last_job("me")?;
        shown["job"]["notes"]
            .to_string()
            .contains(why)
            .then_some(())
    });
    let shown = text(&lab.run("me", &["job", "last"]).stdout);
    assert!(
        shown.contains(&format!("the provider's owner: {why}")),
        "{shown}"
    );
    assert!(lab.run("me", &["cancel", "last"]).status.success());
    let ended = end(&lab, job);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let waits = ended.of_kind("job_waiting").map(Value::to_string);
    assert!(waits.last().unwrap().contains(why));
}

#[test]
fn a_drain_lets_finish_refuses_what_is_new_and_survives_a_restart() {
    let lab = Lab::new();
    let me = lab.id("me");
    let mut provider = lab.provider("provider", &me, None);
    let mine = lab.start("me", "join", &[], Some(&provider));
    lab.wait_until_known("me", &provider);
    let slow = lab.job(
        "slow",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::sleep(3_000))],
    );
    let first = submit(&lab, "me", &slow, &[]);
    running(&lab, "provider");
    let waiting = program()
        .args(["drain", "--wait", "--json", "--data-dir"])
        .arg(lab.path("provider"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it drains", || {
        (lab.json("provider", &["status"])["draining"] == true).then_some(())
    });
    // What is new is refused, in words.
    let quick = lab.job(
        "quick",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::no_op())],
    );
    let refused = lab.submit("me", &quick, &["--wait-for-peers", "2s"]);
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    let finished = refused.finished().to_string();
    assert!(finished.contains("its owner drains it"), "{finished}");
    // What runs ends well, and then the one who waits is told.
    let ended = end(&lab, first);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(waited.status.code(), Some(0));
    let status: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!(
        (&status["running"], &status["draining"]),
        (&0.into(), &true.into())
    );

    // A restart does not end it.
    provider.terminate();
    let again = lab.start("provider", "join", &[], Some(&mine));
    let status = lab.json("provider", &["status"]);
    assert_eq!(status["draining"], true, "{status}");
    assert_eq!(status["offer"]["free"]["cpus_milli"], 0, "{status}");
    let refused = lab.submit("me", &quick, &["--wait-for-peers", "5s"]);
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    let off = lab.json("provider", &["drain", "--off"]);
    assert_eq!(off["draining"], false);
    let ended = lab.submit("me", &quick, &["--wait-for-peers", "30s"]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);

    // The history outlives the restart, too.
    let days = lab.json("provider", &["usage", "--by", "day"]);
    assert_eq!(days["total"]["tasks"]["succeeded"], 2, "{days}");
    let killed = lab.json("provider", &["history", "--outcome", "killed"]);
    assert!(killed["rows"].as_array().unwrap().is_empty());
    drop(again);
}
