//! Jobs from their inputs to their results.

use std::process::Stdio;

use crate::harness::{Ended, Lab, eventually, modules, program, text};
use crate::simple_job;

const COPY_JOB: &str = r#"
name = "copy"
[task]
wasm = "copy.wasm"
[array]
n = "1-6"
[resources]
memory = "64MiB"
disk = "64MiB"
[inputs]
"in.txt" = "in-{n}.txt"
[outputs]
paths = ["out/out.txt"]
"#;

#[test]
fn peers_find_each_other_through_one_address_and_share_a_job() {
    let lab = Lab::new();
    let me = lab.id("me");
    let first = lab.provider("first", &me, None);
    let second = lab.provider("second", &me, Some(&first));
    let _mine = lab.start("me", "join", &[], Some(&first));
    lab.wait_until_known("me", &first);
    lab.wait_until_known("me", &second);

    let job = lab.job(
        "job",
        &simple_job("task.wasm", 40),
        &[("task.wasm", &modules::sleep(50))],
    );
    let ended = lab.submit("me", &job, &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let finished = ended.finished();
    assert_eq!(finished["state"], "succeeded");
    assert_eq!(finished["tasks"]["total"], 40);
    assert_eq!(finished["tasks"]["succeeded"], 40);
    assert_eq!(
        finished["peers"].as_object().unwrap().len(),
        2,
        "{finished}"
    );
    for index in 0..40 {
        assert_eq!(ended.log_of(index), "done\n", "task {index}");
    }
}

#[test]
fn inputs_go_there_and_outputs_come_back() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    // A task's outputs must not land on another's.
    let toml = COPY_JOB.replace("out/out.txt", "out/{n}.txt");
    let job = lab.job("wrong", &toml, &[("copy.wasm", &modules::copy())]);
    let refused = lab.run("me", &["validate", job.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "the inputs are missing");
    assert!(
        text(&refused.stderr).contains("in-1.txt"),
        "{}",
        text(&refused.stderr)
    );

    let toml = COPY_JOB.replace("n = \"1-6\"", "n = \"4\"");
    let files: [(&str, &[u8]); 2] = [("copy.wasm", &modules::copy()), ("in-4.txt", b"four\n")];
    let job = lab.job("job", &toml, &files);
    // No node runs for `me`: the job gets one of its own.
    let args = [
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--no-mdns",
        "--bootstrap",
        &provider.address,
    ];
    let ended = lab.submit("me", &job, &args);
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{} {:?}",
        ended.stderr,
        ended.events
    );
    assert_eq!(
        std::fs::read_to_string(ended.out.join("out/out.txt")).unwrap(),
        "four\n"
    );
    let sent = ended.finished()["usage"]["bytes_sent"].as_u64();
    assert!(sent > Some(modules::copy().len() as u64), "{sent:?}");
}

#[test]
fn outputs_of_two_tasks_on_one_path_are_noticed() {
    let lab = Lab::new();
    let (_provider, _mine) = lab.pair();
    // The text cannot tell that both tasks write `out/out.txt`.
    let toml = COPY_JOB
        .replace("n = \"1-6\"", "n = \"1-2\"")
        .replace("out/out.txt", "out/*");
    let files: [(&str, &[u8]); 3] = [
        ("copy.wasm", &modules::copy()),
        ("in-1.txt", b"one\n"),
        ("in-2.txt", b"two\n"),
    ];
    let ended = lab.submit("me", &lab.job("job", &toml, &files), &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    let tasks = &ended.finished()["tasks"];
    assert_eq!(
        (&tasks["succeeded"], &tasks["failed"]),
        (&1.into(), &1.into())
    );
    let failed = ended
        .of_kind("task_finished")
        .find(|event| event["state"] == "failed");
    let failure = failed.unwrap()["failure"]["message"].as_str().unwrap();
    assert!(
        failure.contains("`out/out.txt` is also one of task"),
        "{failure}"
    );
}

#[test]
fn a_killed_provider_loses_no_task() {
    let lab = Lab::new();
    let me = lab.id("me");
    let first = lab.provider("first", &me, None);
    let mut second = lab.provider("second", &me, Some(&first));
    let _mine = lab.start("me", "join", &[], Some(&first));
    lab.wait_until_known("me", &first);
    lab.wait_until_known("me", &second);

    let job = lab.job(
        "job",
        &simple_job("task.wasm", 12),
        &[("task.wasm", &modules::sleep(500))],
    );
    let out = lab.path("out");
    let submit = program()
        .args(["submit", job.to_str().unwrap(), "--json", "--data-dir"])
        .arg(lab.path("me"))
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the second provider runs a task", || {
        let job = lab.last_job("me")?;
        let running = job["tasks"]
            .as_array()?
            .iter()
            .any(|task| task["peer"] == second.id.as_str() && task["state"] == "running");
        running.then_some(())
    });
    second.kill();
    let ended = Ended::new(submit.wait_with_output().unwrap(), out);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.finished()["tasks"]["succeeded"], 12);
    assert!(ended.finished()["tasks"]["moved"].as_u64() >= Some(1));
    assert_eq!(ended.of_kind("peer_lost").count(), 1);
}

#[test]
fn a_failing_task_fails_the_job_and_says_why() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let _mine = lab.start("me", "join", &[], Some(&provider));
    let toml = simple_job("task.wasm", 1) + "[policy]\nretries = 1\n";
    let job = lab.job("job", &toml, &[("task.wasm", &modules::exit(7))]);
    let ended = lab.submit("me", &job, &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert_eq!(ended.finished()["tasks"]["failed"], 1);
    assert_eq!(
        ended.of_kind("task_finished").count(),
        2,
        "one try and one more"
    );
    let failure = &ended.of_kind("task_finished").last().unwrap()["failure"];
    assert_eq!(failure["kind"]["exit"], 7, "{failure}");
}

#[test]
fn a_node_runs_tasks_of_its_own() {
    let lab = Lab::new();
    let args = ["--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"];
    let mut node = lab.start("me", "offer", &args, None);
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 3),
        &[("task.wasm", &modules::say("hello\n"))],
    );
    let ended = lab.submit("me", &job, &[]);
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{} {:?}",
        ended.stderr,
        ended.events
    );
    assert_eq!(ended.log_of(2), "hello\n");
    let logs = lab.run("me", &["logs", "last/1"]);
    assert_eq!(text(&logs.stdout), "hello\n");
    for verb in ["job", "logs"] {
        let beyond = lab.run("me", &[verb, "last/3"]);
        assert_eq!(beyond.status.code(), Some(2), "{verb}");
        let said = text(&beyond.stderr);
        assert!(said.contains("has 3 tasks: 0 to 2"), "{said}");
    }
    let one = lab.json("me", &["job", "last/2"]);
    assert_eq!(one["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(node.terminate().code(), Some(0));
}
