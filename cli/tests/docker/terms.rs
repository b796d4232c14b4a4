//! What the owner permits: ways out, images, and OCI runtimes.

use crate::bench::{docker, pair_on, refusal, shell, small_job, succeed};
use crate::harness::{Lab, text};

/// Asks the proxy for a name and prints the first line of its answer, or nothing.
fn ask(method: &str, target: &str) -> String {
    let host = target.trim_start_matches("http://").trim_end_matches('/');
    format!(
        "p=${{HTTP_PROXY#http://}}; p=${{p%/}}; \
         printf '{method} {target} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n' | nc -w 20 ${{p%:*}} ${{p##*:}} | head -n 1"
    )
}

#[test]
#[ignore = "needs docker"]
fn a_way_out_needs_permission_and_leads_to_no_private_address() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &[]);
    let lines = [
        "echo $HTTP_PROXY".to_owned(),
        ask("CONNECT", "nowhere.invalid:443"),
        ask("CONNECT", "localhost:22"),
        ask("GET", "http://localhost/"),
        ask("CONNECT", "elsewhere.invalid:443"),
        "ls /sys/class/net".to_owned(),
    ];
    let network = "[network]\nmode = \"egress\"\ndomains = [\"nowhere.invalid\", \"localhost\"]";
    let task = shell(&lines.join("; "));
    let job = lab.job("out", &small_job(&task, network), &[]);
    let said = refusal(&lab, &job);
    assert!(said.contains("p2pnode offer --egress"), "{said}");

    lab.json("provider", &["offer", "--egress", "nowhere.invalid"]);
    let said = refusal(&lab, &job);
    assert!(said.contains("p2pnode offer --egress localhost"), "{said}");

    lab.json(
        "provider",
        &[
            "offer",
            "--egress",
            "nowhere.invalid",
            "--egress",
            "localhost",
        ],
    );
    let ended = lab.submit("me", &job, &["--wait-for-peers", "30s"]);
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.events);
    let log = ended.log_of(0);
    let said: Vec<_> = log.lines().map(str::trim).collect();
    assert!(said[0].starts_with("http://"), "{log}");
    let refused = |line: &str| line.contains(" 403") || line.contains(" 502");
    for line in &said[1..5] {
        assert!(line.starts_with("HTTP/1.1 ") && refused(line), "{log}");
    }
    assert_eq!(said[5..], ["lo"], "{log}");
}

#[test]
#[ignore = "needs docker"]
fn only_images_that_the_owner_names_run() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &["--image", "p2pnode-test:*"]);
    let task = "image = \"p2pnode-test-odd:1\"\ncommand = [\"true\"]";
    let said = refusal(&lab, &lab.job("odd", &small_job(task, ""), &[]));
    assert!(
        said.contains("p2pnode-test-odd:1") && said.contains("p2pnode offer --image"),
        "{said}"
    );
    succeed(&lab, &lab.job("good", &small_job(&shell("true"), ""), &[]));
}

#[test]
#[ignore = "needs docker"]
fn an_oci_runtime_is_one_that_the_engine_lists() {
    let lab = Lab::new();
    let (_provider, _mine) = pair_on(&lab, &[]);
    let with = |runtime: &str| {
        let task = format!("{}\nruntime = {runtime:?}", shell("echo ran"));
        lab.job(runtime, &small_job(&task, ""), &[])
    };
    let said = refusal(&lab, &with("no-such-runtime"));
    assert!(
        said.contains("no-such-runtime") && said.contains("task.runtime"),
        "{said}"
    );
    let wrong = lab.run("provider", &["offer", "--runtime", "no-such-runtime"]);
    let said = text(&wrong.stderr);
    assert!(
        !wrong.status.success() && said.contains("no-such-runtime"),
        "{said}"
    );

    // What the owner chose is never weakened by a job.
    let chosen = lab.json("provider", &["offer", "--runtime", "io.containerd.runc.v2"]);
    assert_eq!(chosen["offer"]["rules"]["runtime"], "io.containerd.runc.v2");
    let said = refusal(&lab, &with("runc"));
    assert!(
        said.contains("under nothing weaker (offer --runtime)"),
        "{said}"
    );
    let plain = lab.job("plain", &small_job(&shell("echo ran"), ""), &[]);
    assert_eq!(succeed(&lab, &plain).log_of(0), "ran\n");
    lab.json("provider", &["offer", "--runtime", "default"]);

    let listed = docker(&[
        "info",
        "--format",
        "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}",
    ]);
    let known: Vec<_> = listed.split_whitespace().collect();
    assert!(known.contains(&"runc"), "{listed}");
    for runtime in ["runc", "io.containerd.runc.v2"] {
        if known.contains(&runtime) {
            assert_eq!(
                succeed(&lab, &with(runtime)).log_of(0),
                "ran\n",
                "{runtime}"
            );
        }
    }
}
