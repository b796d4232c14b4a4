//! The owner's rules over real nodes: who waits for an answer, when the offer is open, private networks.

use std::time::Duration;

use crate::harness::{Lab, TestNode, eventually, modules, text};
use crate::simple_job;

const SMALL: [&str; 6] = ["--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"];

/// A provider with these rules, and a node that knows it.
fn with_rules(lab: &Lab, rules: &[&str]) -> (TestNode, TestNode) {
    let provider = lab.start("provider", "offer", &[&SMALL[..], rules].concat(), None);
    let mine = lab.start("me", "join", &[], Some(&provider));
    lab.wait_until_known("me", &provider);
    (provider, mine)
}

fn job(lab: &Lab, name: &str, tasks: u32) -> std::path::PathBuf {
    let files: [(&str, &[u8]); 1] = [("task.wasm", &modules::no_op())];
    lab.job(name, &simple_job("task.wasm", tasks), &files)
}

#[test]
fn who_asks_is_kept_until_the_owner_answers_with_limits() {
    let lab = Lab::new();
    let (_provider, mine) = with_rules(&lab, &[]);
    let first = job(&lab, "first", 2);
    let refused = lab.submit("me", &first, &["--wait-for-peers", "2s"]);
    assert_eq!(refused.status.code(), Some(3), "{}", refused.stderr);
    let requests = lab.json("provider", &["requests"]);
    assert_eq!(requests[0]["peer"], mine.id.as_str(), "{requests}");
    assert_eq!(requests[0]["program"], "wasm");
    let told = text(&lab.run("provider", &["requests"]).stdout);
    assert!(told.contains(&mine.id), "{told}");

    let tail = &mine.id[mine.id.len() - 10..];
    let allowed = lab.run(
        "provider",
        &["allow", tail, "--tasks", "2", "--until", "1h"],
    );
    assert!(
        text(&allowed.stdout).contains("2 tasks, for "),
        "{}",
        text(&allowed.stderr)
    );
    assert_eq!(lab.json("provider", &["requests"]), serde_json::json!([]));
    let ran = lab.submit("me", &first, &[]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
    // The two are used up.
    let again = lab.submit("me", &first, &["--wait-for-peers", "2s"]);
    assert_eq!(again.status.code(), Some(3), "{}", again.stderr);
    for (args, said) in [
        (&["allow", tail, "--tasks", "0"][..], "allows nothing"),
        (&["allow", tail, "--image", "a b"][..], "not a pattern"),
    ] {
        let wrong = lab.run("provider", args);
        assert_eq!(wrong.status.code(), Some(2));
        assert!(
            text(&wrong.stderr).contains(said),
            "{}",
            text(&wrong.stderr)
        );
    }
}

#[test]
fn a_hot_machine_closes_what_it_offers_and_opens_when_it_is_cool() {
    let lab = Lab::new();
    let sensor = lab.path("machine/sys/class/hwmon/hwmon0");
    std::fs::create_dir_all(&sensor).unwrap();
    let heat = |celsius: u32| {
        std::fs::write(sensor.join("temp1_input"), format!("{}\n", celsius * 1_000)).unwrap();
    };
    std::fs::write(sensor.join("name"), "coretemp\n").unwrap();
    heat(50);
    let me = lab.id("me");
    let rules = ["--allow", &me, "--max-temperature", "cpu=80"];
    let (_provider, _mine) = with_rules(&lab, &rules);
    let closed = || {
        let status = lab.json("provider", &["status"]);
        status["offer"]["closed"].as_str().map(str::to_owned)
    };
    eventually("it is measured and open", || {
        closed().is_none().then_some(())
    });
    heat(85);
    let why = eventually("it closes", closed);
    assert!(why.contains("85 °C"), "{why}");
    // The advert says so too, and the submitter does not wait in the dark.
    eventually("the submitter knows", || {
        let peers = lab.json("me", &["peers"]);
        peers[0]["closed"]
            .as_str()
            .filter(|why| why.contains("85 °C"))
            .map(|_| ())
    });
    heat(60);
    eventually("it opens", || closed().is_none().then_some(()));
    let ran = lab.submit("me", &job(&lab, "job", 1), &[]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
}

#[test]
fn an_offer_that_cannot_be_kept_is_refused_with_what_there_is() {
    let lab = Lab::new();
    let _node = lab.start("me", "join", &[], None);
    for (args, said) in [
        (
            &["offer", "--cpus", "100000"][..],
            "more than this machine's",
        ),
        (&["offer", "--memory", "0"], "at least 6 MiB"),
        (&["offer", "--gpus", "GPU-none"], "this machine shows none"),
        (&["offer", "--schedule", "mon 10:00-10:00"], "never opens"),
        (&["offer", "--schedule", "funday"], "not a day"),
        (
            &["offer", "--max-temperature", "gpu=80"],
            "does not tell the temperature",
        ),
        (&["offer", "--label", "a=b\nc"], "a line's end"),
        (&["offer", "--egress", "http://x"], "not a domain"),
        (
            &["offer", "--runtime", "none-such"],
            "the container engine has",
        ),
        (&["offer", "--percent", "0"], "1 to 100"),
    ] {
        let output = lab.run("me", args);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains(said), "{args:?}: {told}");
        let status = lab.json("me", &["status"]);
        assert!(status["offer"].is_null(), "nothing is offered: {status}");
    }
    for size in ["64 MB", "64MiB", "64m"] {
        let status = lab.json("me", &["offer", "--memory", size]);
        assert!(status["offer"]["total"]["memory"].as_u64() >= Some(64_000_000));
    }
    let status = lab.json(
        "me",
        &[
            "offer",
            "--schedule",
            "daily 00:00-24:00",
            "--label",
            "site=lab",
        ],
    );
    assert_eq!(status["offer"]["rules"]["schedule"], "daily 00:00-24:00");
    assert_eq!(status["offer"]["rules"]["labels"]["site"], "lab");
}

#[test]
fn a_private_network_is_joined_by_a_ticket_and_its_members_share() {
    let lab = Lab::new();
    assert!(
        lab.run("provider", &["network", "create", "lab"])
            .status
            .success()
    );
    assert_eq!(
        lab.run("provider", &["network", "create", "lab"])
            .status
            .code(),
        Some(2)
    );
    let provider = lab.start("provider", "offer", &SMALL, None);
    let status = lab.json("provider", &["status"]);
    assert_eq!(status["networks"][0]["private"], true);
    let ticket = lab.json("provider", &["network", "ticket"])["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    // Who has no ticket does not even get a connection.
    let stranger = lab.start("stranger", "join", &["--network", "lab"], Some(&provider));
    let _mine = lab.start("me", "join", &[&ticket], None);
    lab.wait_until_known("me", &provider);
    let ran = lab.submit("me", &job(&lab, "job", 2), &["--peers", &provider.id]);
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
    let met = lab.json("stranger", &["status"])["peers_connected"].as_u64();
    assert_eq!(met, Some(0), "{}", stranger.id);
    // Who has another network's ticket of that name is told why nobody answers.
    let made = lab.run("astray", &["network", "create", "lab"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let twice = lab.run("astray", &["join", &ticket]);
    assert_eq!(twice.status.code(), Some(2), "{}", text(&twice.stderr));
    assert!(text(&twice.stderr).contains("another key"), "{twice:?}");
    let _astray = lab.start("astray", "join", &["--network", "lab"], Some(&provider));
    eventually("the reason is in the status", || {
        let said = text(&lab.run("astray", &["status"]).stdout);
        let mut lines = said.lines().filter(|line| line.starts_with("bootstrap"));
        lines.any(|line| line.contains("another key")).then_some(())
    });
    // For a moment only.
    let short = lab.json("provider", &["network", "ticket", "--until", "1s"]);
    std::thread::sleep(Duration::from_millis(1_200));
    let late = lab.run("late", &["join", short["ticket"].as_str().unwrap()]);
    assert_eq!(late.status.code(), Some(2), "{}", text(&late.stderr));
    assert!(
        text(&late.stderr).contains("expired"),
        "{}",
        text(&late.stderr)
    );
    assert_eq!(text(&late.stderr).trim().lines().count(), 1, "{late:?}");
    let kept = lab.json("late", &["network", "show"]);
    assert!(!kept.to_string().contains("lab"), "{kept}");
    let mut typo = ticket.clone();
    typo.pop();
    let wrong = lab.run("other", &["join", &typo]);
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(text(&wrong.stderr).trim().lines().count(), 1, "{wrong:?}");
    assert!(
        text(&wrong.stderr).contains("typo"),
        "{}",
        text(&wrong.stderr)
    );
}

#[test]
fn who_was_denied_is_allowed_again_with_the_offer() {
    let lab = Lab::new();
    let me = lab.id("me");
    // By name, and where everybody may.
    for (name, first) in [
        ("by-name", &["--allow", &me][..]),
        ("all", &["--allow-any"]),
    ] {
        let provider = lab.start(name, "offer", &[&SMALL[..], first].concat(), None);
        let mine = lab.start("me", "join", &[], Some(&provider));
        lab.wait_until_known("me", &provider);
        let runs = || {
            let wait = ["--peers", &provider.id, "--wait-for-peers", "2s"];
            let ended = lab.submit("me", &job(&lab, name, 1), &wait);
            (ended.status.code(), ended.finished().to_string())
        };
        let allowed = || {
            let peers = lab.json(name, &["peers"]);
            let mut all = peers.as_array().unwrap().iter();
            all.find(|peer| peer["peer"] == me.as_str()).unwrap()["allowed"].clone()
        };
        assert_eq!(runs().0, Some(0), "{name}");
        assert!(lab.run(name, &["deny", &me]).status.success());
        let (code, said) = runs();
        assert_eq!(code, Some(3), "{name}: {said}");
        assert!(
            said.contains("not allowed") || said.contains("p2pnode allow"),
            "{said}"
        );
        assert_eq!(allowed(), false, "{name}");
        let status = lab.json(name, &["status"]);
        assert!(
            !status["offer"]["allowed"].to_string().contains(&me),
            "{status}"
        );

        let status = lab.json(name, &["offer", "--allow", &me]);
        assert_eq!(
            status["offer"]["allowed"],
            serde_json::json!([me]),
            "{name}"
        );
        assert_eq!(allowed(), true, "{name}");
        let (code, said) = runs();
        assert_eq!(code, Some(0), "{name}: {said}");
        drop((provider, mine));
    }
}
