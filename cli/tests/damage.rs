//! A provider whose disk loses what it had.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Lab, modules};

const JOB: &str = r#"
name = "damage"
[task]
wasm = "task.wasm"
[resources]
memory = "64MiB"
disk = "64MiB"
[inputs]
"big" = "big"
"#;

#[test]
fn inputs_that_the_provider_lost_are_fetched_again() {
    let lab = Lab::new();
    let (_provider, _mine) = lab.pair();
    // Several chunks, so that more than one is missing at a time.
    let big: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let files: [(&str, &[u8]); 2] = [("task.wasm", &modules::sleep(0)), ("big", &big)];
    let job = lab.job("job", JOB, &files);
    for round in 0..2 {
        let ended = lab.submit("me", &job, &[]);
        assert_eq!(ended.status.code(), Some(0), "{round}: {}", ended.stderr);
        // The provider keeps the inputs for the next job that needs them; that job must notice.
        let packs = lab.path("provider").join("blobs/packs");
        let mut lost = 0;
        for entry in std::fs::read_dir(packs).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "pack")
            {
                lost += std::fs::metadata(&path).unwrap().len();
                std::fs::remove_file(path).unwrap();
            }
        }
        assert!(lost > 4_000_000, "{round}: {lost}");
    }
}
