//! Templates are right, by the same code that checks every job file.

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use harness::{Lab, text};
use serde_json::Value;

/// What a template expects beside it; a slash at the end is a folder. And how many tasks it has.
fn expected() -> BTreeMap<&'static str, (Vec<String>, u64)> {
    let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    BTreeMap::from([
        ("command", (files(&["lines.txt"]), 1)),
        ("sweep", (files(&["simulate.py"]), 120)),
        ("blender-frames", (files(&["scene.blend"]), 24)),
        ("blender-tiles", (files(&["scene.blend"]), 16)),
        ("ffmpeg-segments", (files(&["film.mkv"]), 60)),
        ("pytorch-train", (files(&["train.py", "data/"]), 5)),
        (
            "simulation",
            ((1..=8).map(|n| format!("replicas/{n}/md.tpr")).collect(), 8),
        ),
        (
            "jupyter",
            (
                files(&[
                    "notebooks/analysis.ipynb",
                    "notebooks/figures.ipynb",
                    "data/",
                ]),
                2,
            ),
        ),
    ])
}

fn stand_in(folder: &Path, name: &str) {
    let path = folder.join(name);
    if name.ends_with('/') {
        return std::fs::create_dir_all(path).unwrap();
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "").unwrap();
}

#[test]
fn every_template_is_a_valid_job_once_its_files_are_there() {
    let lab = Lab::new();
    let listed = lab.json("me", &["template", "list"]);
    let names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let mut expected = expected();
    for name in names {
        let (files, tasks) = expected.remove(name).unwrap();
        std::fs::create_dir(lab.path(name)).unwrap();
        let file = format!("{name}/job.toml");
        let written = lab.run("me", &["template", "new", name, &file]);
        assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
        let next = format!("p2pnode validate {file}");
        assert!(text(&written.stdout).contains(&next), "{name}");
        let early = lab.run("me", &["validate", &file]);
        assert_eq!(early.status.code(), Some(2), "{name} needs {files:?}");
        assert!(text(&early.stderr).contains("does not exist"), "{name}");
        for file in files {
            stand_in(&lab.path(name), &file);
        }
        let valid = lab.json("me", &["validate", &file]);
        assert_eq!(valid["name"], name);
        assert_eq!(valid["tasks"], tasks, "{name}");
    }
    assert!(expected.is_empty(), "not listed: {expected:?}");
}

#[test]
fn templates_teach() {
    let lab = Lab::new();
    let listed = lab.json("me", &["template", "list"]);
    for one in listed.as_array().unwrap() {
        assert!(one["title"].as_str().unwrap().ends_with('.'), "{one}");
        let name = one["name"].as_str().unwrap();
        let shown = lab.run("me", &["template", "show", name]);
        let toml = text(&shown.stdout);
        assert!(toml.contains("p2pnode submit job.toml"), "{name}");
        for line in toml.lines().filter(|line| line.starts_with('[')) {
            assert!(line.contains(" # "), "{name}: `{line}` says nothing");
        }
        assert_eq!(
            lab.json("me", &["template", "show", name])["toml"],
            Value::from(toml)
        );
    }
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force() {
    let lab = Lab::new();
    let new = |args: &[&str]| lab.run("me", &[&["template", "new"], args].concat());
    assert_eq!(new(&["sweep"]).status.code(), Some(0));
    let mine = lab.path("job.toml");
    std::fs::write(&mine, "mine").unwrap();
    let refused = new(&["command"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--force"));
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
    assert_eq!(new(&["command", "--force"]).status.code(), Some(0));
    let now = std::fs::read_to_string(&mine).unwrap();
    assert!(now.starts_with("# One command"), "{now}");
    assert_eq!(
        new(&["command", "no/folder/job.toml"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_name_that_is_none_is_told_the_nearest() {
    let lab = Lab::new();
    let refused = lab.run("me", &["template", "show", "blender-frame"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("did you mean `blender-frames`?"));
    let refused = lab.run("me", &["template", "new", "x"]);
    assert!(text(&refused.stderr).contains("p2pnode template list"));
}
