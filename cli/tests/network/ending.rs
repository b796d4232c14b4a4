//! How jobs and nodes end, and who is told.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Ended, Lab, eventually, modules, program, signal, text};
use crate::{simple_job, submit_on_own_node};

#[test]
fn cancel_reaches_the_provider() {
    let lab = Lab::new();
    let (_provider, _mine) = lab.pair();
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 3),
        &[("task.wasm", &modules::spin())],
    );
    let detached = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
    assert_eq!(
        detached.status.code(),
        Some(0),
        "{}",
        text(&detached.stderr)
    );
    let id = text(&detached.stdout).trim().to_owned();
    lab.wait_until_running("provider", 1);
    let cancelled = lab.run("me", &["cancel", &id[..6]]);
    assert_eq!(
        cancelled.status.code(),
        Some(0),
        "{}",
        text(&cancelled.stderr)
    );
    let waited = lab.run("me", &["wait", "last"]);
    assert_eq!(
        waited.status.code(),
        Some(1),
        "a cancelled job did not succeed"
    );
    lab.wait_until_running("provider", 0);
}

#[test]
fn interrupting_submit_cancels_the_job() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::spin())],
    );
    let submit = submit_on_own_node(&lab, "me", &job, &provider);
    lab.wait_until_running("provider", 1);
    signal(&submit, Signal::INT);
    let ended = Ended::new(submit.wait_with_output().unwrap(), lab.path("out"));
    assert_eq!(ended.status.code(), Some(130), "{}", ended.stderr);
    assert_eq!(ended.finished()["state"], "cancelled");
    lab.wait_until_running("provider", 0);
}

#[test]
fn a_detached_job_survives_its_node() {
    let lab = Lab::new();
    let (provider, mut mine) = lab.pair();
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 8),
        &[("task.wasm", &modules::sleep(300))],
    );
    let detached = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
    assert_eq!(
        detached.status.code(),
        Some(0),
        "{}",
        text(&detached.stderr)
    );
    eventually("a first task is done", || {
        let job = lab.json("me", &["job", "last"]);
        (job["job"]["tasks"]["succeeded"].as_u64() >= Some(1)).then_some(())
    });
    mine.kill();
    let _again = lab.start("me", "join", &[], Some(&provider));
    let waited = lab.run("me", &["wait", "last", "--json"]);
    assert_eq!(waited.status.code(), Some(0), "{}", text(&waited.stdout));
    let job = lab.json("me", &["job", "last"]);
    assert_eq!(job["job"]["tasks"]["succeeded"], 8);
}

#[test]
fn stop_ends_a_node_that_submit_started_and_cancels_its_job() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let job = spinning(&lab);
    let submit = submit_on_own_node(&lab, "me", &job, &provider);
    lab.wait_until_running("provider", 1);
    let began = Instant::now();
    let stopped = lab.run("me", &["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped.stderr));
    assert!(began.elapsed() < Duration::from_secs(10));
    let ended = Ended::new(submit.wait_with_output().unwrap(), lab.path("out"));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert_eq!(ended.finished()["state"], "cancelled");
    lab.wait_until_running("provider", 0);
}

#[test]
fn a_job_left_open_is_told_of_when_the_next_node_goes_on_with_it() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let job = spinning(&lab);
    let mut submit = submit_on_own_node(&lab, "me", &job, &provider);
    lab.wait_until_running("provider", 1);
    submit.kill().unwrap();
    submit.wait().unwrap();
    let node = lab.start("me", "join", &[], Some(&provider));
    eventually("the node says which job goes on", || {
        let log = std::fs::read_to_string(&node.log).unwrap();
        log.contains("resuming 1 job of an earlier run")
            .then_some(())
    });
    assert!(lab.run("me", &["cancel", "last"]).status.success());
    let again = lab.run("me", &["cancel", "last"]);
    assert!(text(&again.stdout).contains("had already ended: cancelled"));
}

#[test]
fn whoever_watches_a_job_is_told_that_it_outlives_its_node() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let _mine = lab.start("me", "join", &[], Some(&provider));
    let job = spinning(&lab);
    let detached = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
    assert!(detached.status.success());
    lab.wait_until_running("provider", 1);
    let watch = |args: &[&str]| {
        let mut command = program();
        command.args(args).arg("--data-dir").arg(lab.path("me"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let watchers = [watch(&["wait", "last"]), watch(&["logs", "-f", "last"])];
    let (mut interrupted, terminated) =
        (watch(&["peers", "--watch"]), watch(&["logs", "-f", "last"]));
    let mut line = String::new();
    // Held to the end: a watcher whose reader has gone ends by that.
    let mut shown = BufReader::new(interrupted.stdout.take().unwrap());
    shown.read_line(&mut line).unwrap();
    // They have all begun by now: each takes a few milliseconds when idle.
    std::thread::sleep(Duration::from_secs(5));
    for (watcher, with) in [(interrupted, Signal::INT), (terminated, Signal::TERM)] {
        signal(&watcher, with);
        assert_eq!(watcher.wait_with_output().unwrap().status.code(), Some(130));
    }
    assert!(lab.run("me", &["stop"]).status.success());
    for watcher in watchers {
        let output = watcher.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("the node was stopped; job "), "{said}");
        assert!(said.contains("goes on when it starts again"), "{said}");
    }
}

#[test]
fn an_interrupt_before_the_job_is_there_ends_submit_in_order() {
    let lab = Lab::new();
    let provider = lab.provider("provider", &lab.id("me"), None);
    let job = spinning(&lab);
    let submit = submit_on_own_node(&lab, "me", &job, &provider);
    eventually("the node begins to start", || {
        lab.path("me").join("lock").exists().then_some(())
    });
    signal(&submit, Signal::INT);
    let ended = submit.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert!(!lab.path("me").join("api.json").exists());
}

#[test]
fn a_task_that_never_stops_writing_keeps_no_slot_when_nobody_reads() {
    let lab = Lab::new();
    let (_provider, mut mine) = lab.pair();
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::chatter())],
    );
    let submit = || {
        let detached = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
        assert!(detached.status.success(), "{}", text(&detached.stderr));
        let id = text(&detached.stdout).trim().to_owned();
        let log = lab.path(&format!("me/logs/{id}.log"));
        eventually("a megabyte of its log", || {
            let log = log.metadata().ok()?;
            (log.len() > 1 << 20).then_some(())
        });
    };
    submit();
    assert!(lab.run("me", &["cancel", "last"]).status.success());
    lab.wait_until_running("provider", 0);
    // A node that stops leaves its jobs a lease of 10 s.
    submit();
    mine.terminate();
    lab.wait_until_running("provider", 0);
}

/// A job of one task that never ends.
fn spinning(lab: &Lab) -> PathBuf {
    let module = modules::spin();
    lab.job(
        "job",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &module)],
    )
}

#[test]
fn a_reader_that_has_enough_ends_what_it_reads() {
    let lab = Lab::new();
    let (provider, _mine) = lab.pair();
    std::fs::write(lab.path("chatter.wasm"), modules::chatter()).unwrap();
    let own = lab.id("own");
    let allow = lab.run("provider", &["offer", "--allow", &own, "--cpus", "1"]);
    assert!(allow.status.success(), "{}", text(&allow.stderr));
    for (name, bootstrap) in [("me", None), ("own", Some(&provider.address))] {
        let mut command = program();
        command
            .args(["run", "--wasm", "chatter.wasm", "--data-dir"])
            .arg(lab.path(name))
            .current_dir(lab.root.path());
        if let Some(address) = bootstrap {
            command.args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
            command.args(["--bootstrap", address]);
        }
        let stdout = Stdio::piped();
        let mut run = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut head = [1; 64];
        let mut reader = run.stdout.take().unwrap();
        reader.read_exact(&mut head).unwrap();
        assert_eq!(head, [0; 64]);
        drop(reader);
        let ended = run.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(141), "{}", text(&ended.stderr));
        lab.wait_until_running("provider", 0);
        let left = std::fs::read_dir(lab.root.path()).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| name.starts_with(".p2pnode")).count(), 0);
    }
    let job = lab.last_job("me").unwrap();
    assert_eq!(job["job"]["state"], "cancelled", "{job}");
}
