//! `docs/jobs.md` mentions every key, and its examples are right.

use std::path::Path;

use p2pnode_protocol::job::JobFile;
use p2pnode_protocol::job::file::{known_keys, reserved_keys};

fn documentation() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/jobs.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_key_is_documented() {
    let text = documentation();
    // Sections have a heading, and their keys stand as a path in backquotes.
    let missing: Vec<_> = known_keys()
        .into_iter()
        .chain(reserved_keys())
        .filter(|key| !text.contains(&format!("`{key}`")) && !text.contains(&format!("## [{key}]")))
        .collect();
    assert_eq!(missing, [""; 0], "not in docs/jobs.md");
}

#[test]
fn every_documented_key_is_known() {
    let known: Vec<String> = known_keys().into_iter().chain(reserved_keys()).collect();
    let sections: Vec<_> = known.iter().filter(|key| !key.contains('.')).collect();
    let text = documentation();
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| {
        word.split_once('.').is_some_and(|(section, _)| {
            sections.iter().any(|known| *known == section) && !word.contains([' ', '='])
        })
    };
    let strange: Vec<_> = quoted
        .filter(is_path)
        .filter(|word| !known.iter().any(|key| key == word) && *word != "job.toml")
        .collect();
    assert_eq!(strange, [""; 0], "in docs/jobs.md, but no key");
}

#[test]
fn every_example_is_right() {
    let text = documentation();
    let examples: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(examples.len() >= 5);
    for example in examples {
        if let Err(errors) = JobFile::parse(example, "example.toml") {
            panic!("{errors}\n{example}");
        }
    }
}

#[test]
fn the_example_jobs_are_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    // Examples come and go; each that is there is read.
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path().join("job.toml");
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Err(errors) = JobFile::parse(&text, &path.to_string_lossy())
        {
            panic!("{errors}");
        }
    }
}
