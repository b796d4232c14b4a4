//! The owner in charge of containers that run.

use std::time::{Duration, Instant};

use crate::bench::{begin, end, hosted, pair_on, refusal, shell, small_job};
use crate::harness::{Lab, eventually, text};

#[test]
#[ignore = "needs docker"]
fn a_container_is_seen_paused_resumed_and_killed_with_a_reason() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &[]);
    let line = "while true; do :; done";
    let job = lab.job("spin", &small_job(&shell(line), ""), &[]);
    let submitted = begin(&lab, &job, &["--wait-for-peers", "3s"]);
    let task = hosted(&lab, "its use is known", |task| {
        task["now"]["cpu_us"].as_u64() > Some(0) && task["now"]["memory"].as_u64() > Some(0)
    });
    assert_eq!(task["state"], "running");
    assert_eq!(task["network"], "none");
    assert_eq!(task["program"], "p2pnode-test:1");
    let id = task["task"].as_str().unwrap().to_owned();

    let paused = lab.run("provider", &["pause", &id]);
    assert_eq!(paused.status.code(), Some(0), "{}", text(&paused.stderr));
    hosted(&lab, "it is paused", |task| task["state"] == "paused");
    let cpu = |lab: &Lab| {
        let task = hosted(lab, "it is there", |_| true);
        task["now"]["cpu_us"].as_u64().unwrap_or_default()
    };
    // That is the owner's word; the engine does it a moment later, and what was sampled before comes in still.
    let before = eventually("it stands still", || {
        let before = cpu(&lab);
        std::thread::sleep(Duration::from_secs(2));
        (cpu(&lab) == before).then_some(before)
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(500));
        assert!(cpu(&lab) < before + 50_000, "it runs on");
    }
    let resumed = lab.run("provider", &["resume", &id]);
    assert_eq!(resumed.status.code(), Some(0), "{}", text(&resumed.stderr));
    hosted(&lab, "it goes on", |task| {
        task["state"] == "running" && task["now"]["cpu_us"].as_u64() > Some(before + 200_000)
    });

    let killed = lab.run("provider", &["kill", &id, "--reason", "it heats the room"]);
    assert_eq!(killed.status.code(), Some(0), "{}", text(&killed.stderr));
    let why = "killed by the owner of provider: it heats the room";
    eventually("the job says why it waits", || {
        let shown = lab.last_job("me")?;
        let notes = shown["job"]["notes"].to_string();
        notes.contains(why).then_some(())
    });
    assert!(lab.run("me", &["cancel", "last"]).status.success());
    let ended = end(&lab, submitted);
    let told = ended.of_kind("task_finished").next().unwrap();
    assert_eq!(told["failure"]["message"], why, "{told}");
    assert_eq!(told["decided_by"], "owner", "{told}");
}

#[test]
#[ignore = "needs docker"]
fn a_task_runs_no_longer_than_the_owner_says() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &["--max-task-time", "2s"]);
    // A time that the job itself names is compared before anything starts.
    let policy = "[policy]\ntimeout = \"1m\"";
    let long = lab.job("long", &small_job(&shell("sleep 30"), policy), &[]);
    let said = refusal(&lab, &long);
    assert!(said.contains("--max-task-time"), "{said}");

    let job = lab.job("sleep", &small_job(&shell("sleep 30"), ""), &[]);
    let submitted = begin(&lab, &job, &["--wait-for-peers", "2s"]);
    let why = "lets no task run longer than 2s (offer --max-task-time)";
    eventually("the job says why it waits", || {
        let shown = lab.last_job("me")?;
        shown["job"]["notes"]
            .to_string()
            .contains(why)
            .then_some(())
    });
    let _may_be_over = lab.run("me", &["cancel", "last"]);
    let ended = end(&lab, submitted);
    let told = ended.of_kind("task_finished").next().unwrap();
    assert_eq!(told["decided_by"], "owner", "{told}");
    assert!(
        told["failure"]["message"].as_str().unwrap().contains(why),
        "{told}"
    );
}
