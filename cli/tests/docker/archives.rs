//! Images that travel as archives.

use std::path::Path;

use crate::bench::{IMAGE, Images, failure, file, noise, pair_on, small_job, succeed};
use crate::harness::{Lab, text};

/// The layer that does not change. A chunk has 1 MiB at most, so this is many.
const LARGE: usize = 12 << 20;

fn archive_job(lab: &Lab, name: &str, archive: &Path) -> std::path::PathBuf {
    let task = format!(
        "image-archive = {archive:?}\ncommand = [\"sh\", \"-c\", \"wc -c < /large; cat /small\"]"
    );
    lab.job(name, &small_job(&task, "[policy]\nretries = 0"), &[])
}

#[test]
#[ignore = "needs docker"]
fn an_archive_runs_takes_no_name_and_a_second_version_sends_what_changed() {
    let lab = Lab::new();
    let images = Images::new();
    let base = images.layer(IMAGE, "base", &file(&lab, "large", &noise(7, LARGE)));
    let mut archives = Vec::new();
    for version in ["one", "two"] {
        let name = images.layer(&base, version, &file(&lab, "small", version.as_bytes()));
        let archive = lab.path(&format!("{version}.tar"));
        images.save(&name, &archive);
        archives.push((version, archive));
    }
    images.forget();

    let (_provider, _mine) = pair_on(&lab, &[]);
    let mut sent = Vec::new();
    for (version, archive) in &archives {
        let ended = succeed(&lab, &archive_job(&lab, version, archive));
        assert_eq!(ended.log_of(0), format!("{LARGE}\n{version}"));
        let usage = &lab.last_job("me").unwrap()["job"]["usage"];
        sent.push(usage["bytes_sent"].as_u64().unwrap());
        // What is in the engine has no name but one of the node's own.
        for name in images.names() {
            assert!(name.starts_with("p2pnode.invalid/archive:"), "{name}");
        }
    }
    assert_eq!(images.names().len(), 2);
    eprintln!("bytes sent: {sent:?}");
    assert!(sent[0] >= LARGE as u64, "{sent:?}");
    assert!(sent[1] * 3 < sent[0], "{sent:?}");
}

#[test]
#[ignore = "needs docker"]
fn an_archive_that_is_none_is_refused_early_and_a_corrupt_one_fails_its_task() {
    let lab = Lab::new();
    let images = Images::new();
    let name = images.layer(IMAGE, "one", &file(&lab, "small", b"small"));
    let whole = lab.path("whole.tar");
    images.save(&name, &whole);
    images.forget();
    let none = archive_job(&lab, "none", &file(&lab, "none.tar", &noise(1, 4_096)));
    let said = lab.run("me", &["validate", none.to_str().unwrap()]);
    assert_eq!(said.status.code(), Some(2), "{}", text(&said.stderr));
    let said = text(&said.stderr) + &text(&said.stdout);
    assert!(
        said.contains("task.image-archive") && said.contains("docker save"),
        "{said}"
    );

    // Bytes within a layer are not what its digest says.
    let mut bytes = std::fs::read(&whole).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].copy_from_slice(&noise(2, 64));
    let corrupt = archive_job(&lab, "corrupt", &file(&lab, "corrupt.tar", &bytes));
    let (_provider, _mine) = pair_on(&lab, &[]);
    let failed = failure(&lab.submit("me", &corrupt, &[]));
    assert_eq!(failed["failure"]["kind"], "bad_program", "{failed}");
    assert_eq!(images.names(), [""; 0]);
}
