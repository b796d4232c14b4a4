//! Images that a provider builds.

use std::path::PathBuf;

use crate::bench::{IMAGE, Images, failure, pair_on, refusal, small_job, succeed};
use crate::harness::Lab;

fn build_job(lab: &Lab, name: &str, dockerfile: &str) -> PathBuf {
    let task = "build = \"./context\"\ncommand = [\"cat\", \"/made\"]";
    let files = [
        ("context/Dockerfile", dockerfile.as_bytes()),
        ("context/word", b"a word\n".as_slice()),
    ];
    lab.job(name, &small_job(task, "[policy]\nretries = 0"), &files)
}

#[test]
#[ignore = "needs docker"]
fn a_build_needs_permission_and_its_last_lines_reach_the_submitter() {
    let lab = Lab::new();
    let images = Images::new();
    let label = images.label();
    let good = build_job(
        &lab,
        "good",
        &format!(
            "FROM {IMAGE}\n{label}\nCOPY word /word\nRUN cat /word > /made && echo more >> /made\n"
        ),
    );
    let (_provider, _mine) = pair_on(&lab, &[]);
    let said = refusal(&lab, &good);
    assert!(said.contains("p2pnode offer --allow-build"), "{said}");

    let status = lab.json("provider", &["offer", "--allow-build"]);
    assert_eq!(status["offer"]["rules"]["allow_build"], true, "{status}");
    let ended = lab.submit("me", &good, &["--wait-for-peers", "30s"]);
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.events);
    assert_eq!(ended.log_of(0), "a word\nmore\n");
    // The second time it is at hand.
    let names = images.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(succeed(&lab, &good).log_of(0), "a word\nmore\n");
    assert_eq!(images.names(), names);

    let bad = build_job(
        &lab,
        "bad",
        &format!("FROM {IMAGE}\n{label}\nRUN echo all is well; echo the reason >&2; exit 7\n"),
    );
    let failed = failure(&lab.submit("me", &bad, &[]));
    assert_eq!(failed["failure"]["kind"], "bad_program", "{failed}");
    let message = failed["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("all is well") && message.contains("the reason") && message.contains('7'),
        "{message}"
    );
}
