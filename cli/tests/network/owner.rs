//! What an owner offers, and to whom.

use crate::harness::{Lab, modules, text};
use crate::simple_job;

#[test]
fn without_permission_the_refusal_says_which_command_gives_it() {
    let lab = Lab::new();
    let me = lab.id("me");
    let stranger = lab.start(
        "provider",
        "offer",
        &["--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"],
        None,
    );
    let _mine = lab.start("me", "join", &[], Some(&stranger));
    lab.wait_until_known("me", &stranger);
    let job = lab.job(
        "job",
        &simple_job("task.wasm", 1),
        &[("task.wasm", &modules::no_op())],
    );
    let ended = lab.submit("me", &job, &["--wait-for-peers", "2s"]);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    let finished = ended.finished().to_string();
    assert!(
        finished.contains(&format!("p2pnode allow {me}")),
        "{finished}"
    );
    // In words, it is said once.
    let args = ["submit", job.to_str().unwrap(), "--wait-for-peers", "2s"];
    let plain = text(&lab.run("me", &args).stderr);
    assert_eq!(
        plain.matches("has not allowed this node").count(),
        1,
        "{plain}"
    );

    // The owner allows it, by the end of its id, and it runs.
    let allowed = lab.run("provider", &["allow", &me[me.len() - 10..]]);
    assert!(allowed.status.success(), "{}", text(&allowed.stderr));
    assert!(text(&allowed.stdout).contains(&me));
    // The provider has a name that anyone could take, and a short end is as good as none.
    let id = lab.id("provider");
    for unsure in ["provider", &id[id.len() - 8..]] {
        let refused = lab.run("me", &["submit", job.to_str().unwrap(), "--peers", unsure]);
        assert!(!refused.status.success());
        assert!(
            text(&refused.stderr).contains(&id),
            "{}",
            text(&refused.stderr)
        );
    }
    let ended = lab.submit("me", &job, &["--peers", &id[id.len() - 10..]]);
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{} {:?}",
        ended.stderr,
        ended.events
    );
}

#[test]
fn a_peer_is_named_by_its_whole_id_or_by_what_selects_a_known_one() {
    let lab = Lab::new();
    let node = lab.start("me", "join", &[], None);
    let own = node.id.as_str();
    for (selector, code) in [
        ("12D3KooWHfcb", 2),
        ("12D3KooW", 2),
        ("../jobs", 2),
        ("a b", 2),
        (&own[..20], 0),
        ("me", 0),
    ] {
        let output = lab.run("me", &["allow", selector]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{selector}: {said}");
        assert!(!said.contains("uri"), "{said}");
    }
    let allowed = lab.json("me", &["peers", "--allowed"]);
    assert_eq!(allowed.as_array().unwrap().len(), 1);
}

#[test]
fn an_offer_keeps_what_it_does_not_name_and_can_be_withdrawn() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("me")).unwrap();
    let config = "log = \"warn\"\n[offer]\ncpus = 0.5\nmemory = \"64MiB\"\nallow_root = true\n";
    std::fs::write(lab.path("me").join("config.toml"), config).unwrap();
    let node = lab.start("me", "offer", &["--disk", "1GiB"], None);
    let total = |status: &serde_json::Value| {
        let total = &status["offer"]["total"];
        (total["cpus_milli"].as_u64(), total["memory"].as_u64())
    };
    let status = lab.json("me", &["status"]);
    assert_eq!(total(&status), (Some(500), Some(64 << 20)));
    assert_eq!(status["offer"]["rules"]["allow_root"], true);
    let log = std::fs::read_to_string(&node.log).unwrap();
    assert!(!log.contains("INFO"), "the file says `warn`: {log}");
    assert!(log.contains("nobody else may run tasks here yet"), "{log}");

    let status = lab.json("me", &["offer", "--memory", "128MiB", "--allow-any"]);
    assert_eq!(total(&status), (Some(500), Some(128 << 20)));
    let status = lab.json("me", &["offer", "--cpus", "1"]);
    assert_eq!(total(&status), (Some(1_000), Some(128 << 20)));
    assert_eq!(status["offer"]["allow_any"], true);
    let status = lab.json("me", &["offer", "--allow-any=false"]);
    assert_eq!(status["offer"]["allow_any"], false);

    let ignored = lab.run("me", &["offer", "--api-port", "4"]);
    assert!(text(&ignored.stderr).contains("--api-port has no effect"));
    let status = lab.json("me", &["offer", "--none"]);
    assert!(status["offer"].is_null(), "{status}");
}
