//! What is left of containers when jobs and nodes end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::bench::containers_of;
use crate::harness::{Lab, TestNode, eventually, program, text};

/// The example that is also the documentation's.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/containers/job.toml")
}

fn sleeping_job(lab: &Lab) -> PathBuf {
    lab.job(
        "sleeping",
        "name = \"sleeping\"\n[task]\nimage = \"p2pnode-test:1\"\ncommand = [\"sleep\", \"600\"]\n[array]\nn = \"1-2\"\n[resources]\ncpus = 0.5\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n",
        &[],
    )
}

#[test]
#[ignore = "needs docker"]
fn the_example_runs_over_two_nodes() {
    let lab = Lab::new();
    let me = lab.id("me");
    let first = lab.provider("first", &me, None);
    let second = lab.provider("second", &me, Some(&first));
    let _mine = lab.start("me", "join", &[], Some(&first));
    lab.wait_until_known("me", &first);
    lab.wait_until_known("me", &second);

    let ended = lab.submit("me", &example(), &[]);
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{} {:?}",
        ended.stderr,
        ended.events
    );
    assert_eq!(
        ended.finished()["peers"].as_object().unwrap().len(),
        2,
        "{}",
        ended.finished()
    );
    for (index, language, words) in [(0, "de", 13), (1, "en", 5), (2, "fr", 7), (3, "it", 4)] {
        let counted =
            std::fs::read_to_string(ended.out.join(format!("counts/{language}.txt"))).unwrap();
        assert_eq!(counted, format!("{language} {words}\n"));
        let log = ended.log_of(index);
        assert!(
            log.contains(&format!("counting {language}")) && log.contains("done"),
            "{log}"
        );
    }
    for node in [&first, &second] {
        eventually("no container is left", || {
            containers_of(&node.id).is_empty().then_some(())
        });
    }
}

#[test]
#[ignore = "needs docker"]
fn an_image_that_nobody_has_fails_the_job_and_says_so() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let _mine = lab.start("me", "join", &[], Some(&provider));
    let toml = "[task]\nimage = \"no-such-image:7\"\ncommand = [\"true\"]\n[resources]\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n";
    let job = lab.job("job", toml, &[]);
    let ended = lab.submit("me", &job, &["--wait-for-peers", "2s"]);
    assert!(
        matches!(ended.status.code(), Some(1 | 3)),
        "{:?}",
        ended.events
    );
    assert!(
        ended.finished().to_string().contains("no-such-image:7"),
        "{}",
        ended.finished()
    );
}

/// A provider that runs two containers of a job which was submitted by the other node.
fn busy_provider(lab: &Lab) -> (TestNode, TestNode) {
    let (provider, mine) = lab.pair();
    let job = sleeping_job(lab);
    let detached = lab.run("me", &["submit", job.to_str().unwrap(), "--detach"]);
    assert_eq!(
        detached.status.code(),
        Some(0),
        "{}",
        text(&detached.stderr)
    );
    eventually("both containers run", || {
        (containers_of(&provider.id).len() == 2).then_some(())
    });
    (provider, mine)
}

#[test]
#[ignore = "needs docker"]
fn a_killed_provider_leaves_no_container() {
    let lab = Lab::new();
    let (mut provider, _mine) = busy_provider(&lab);
    provider.kill();
    let killed = Instant::now();
    eventually("no container is left", || {
        containers_of(&provider.id).is_empty().then_some(())
    });
    assert!(
        killed.elapsed() < Duration::from_secs(30),
        "{:?}",
        killed.elapsed()
    );
}

#[test]
#[ignore = "needs docker"]
fn a_killed_submitter_leaves_no_container() {
    let lab = Lab::new();
    let me = lab.id("me");
    let provider = lab.provider("provider", &me, None);
    let mut submit = program()
        .args([
            "submit",
            sleeping_job(&lab).to_str().unwrap(),
            "--json",
            "--no-mdns",
        ])
        .args([
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--bootstrap",
            &provider.address,
            "--data-dir",
        ])
        .arg(lab.path("me"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("both containers run", || {
        (containers_of(&provider.id).len() == 2).then_some(())
    });
    submit.kill().unwrap();
    submit.wait().unwrap();
    // The lease is 60 s.
    let killed = Instant::now();
    while !containers_of(&provider.id).is_empty() {
        assert!(
            killed.elapsed() < Duration::from_secs(90),
            "containers outlive their submitter"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    lab.wait_until_running("provider", 0);
}

#[test]
#[ignore = "needs docker"]
fn stopping_a_provider_removes_its_containers() {
    let lab = Lab::new();
    let (mut provider, _mine) = busy_provider(&lab);
    let told = Instant::now();
    assert_eq!(provider.terminate().code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(20),
        "{:?}",
        told.elapsed()
    );
    // What the engine is slow with is left to the reaper.
    eventually("no container is left", || {
        containers_of(&provider.id).is_empty().then_some(())
    });
}
