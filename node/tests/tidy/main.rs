//! The walls of the house: what no compiler checks and every reader relies on.
//!
//! Each test lists all offenders with their lines, so that one run is enough. Rules about code look
//! at code: comments do not count, and test code (`#[cfg(test)]` modules, files in `tests`) may do
//! what tests need.

#![allow(clippy::unwrap_used)]

mod source;

use std::collections::BTreeSet;
use std::fs;

use source::{crate_modules, has_word, root, sources};

/// Everything visible at the top of the repository.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "cli",
    "docker",
    "docs",
    "executor",
    "node",
    "protocol",
    "testground",
];

/// Which of our crates each may depend on: `cli -> node -> executor -> protocol`.
const EDGES: [(&str, &[&str]); 6] = [
    ("protocol", &[]),
    ("executor", &["p2pnode-protocol"]),
    ("node/tunnel", &["p2pnode-executor", "p2pnode-protocol"]),
    (
        "node",
        &["p2pnode-executor", "p2pnode-protocol", "p2pnode-tunnel"],
    ),
    (
        "cli",
        &[
            "p2pnode-executor",
            "p2pnode-node",
            "p2pnode-protocol",
            "p2pnode-tunnel",
        ],
    ),
    (
        "testground",
        &["p2pnode-executor", "p2pnode-node", "p2pnode-protocol"],
    ),
];

/// Modules of `node` that never use one another: they meet in `driver`.
const WORKERS: [&str; 5] = ["api", "blobs", "exec", "net", "store"];

/// External crates that `core` may use.
const CORE_CRATES: [&str; 3] = ["p2pnode_protocol", "thiserror", "tracing"];

/// What would keep a seed from reproducing a run of `core`, or make it touch the world.
const CORE_NEVER: [&str; 10] = [
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "RandomState",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
];

/// The most lines of a file of Rust: above it, look for a second owner.
const MAX_LINES: usize = 400;

/// Where printing is somebody's job.
const PRINTS: [&str; 4] = [
    "cli/src/output.rs",
    // Programs of their own, whose output is their result.
    "testground/src/",
    "executor/examples/",
    "docs/examples/",
];

fn none(offenders: &[String], rule: &str) {
    assert!(offenders.is_empty(), "{rule}:\n{}", offenders.join("\n"));
}

fn in_module(path: &str, module: &str) -> bool {
    path.starts_with(&format!("node/src/{module}/")) || path == format!("node/src/{module}.rs")
}

#[test]
fn the_top_level_is_what_the_readme_says() {
    let root = root();
    // What a build or the demo leaves there is named in .gitignore.
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    let ignored: BTreeSet<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('/'))
        .map(|line| line.trim_end_matches('/'))
        .collect();
    let found: BTreeSet<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !ignored.contains(name.as_str()))
        .collect();
    let expected: BTreeSet<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, expected);
}

#[test]
fn crates_depend_one_way() {
    let mut offenders = Vec::new();
    for (name, allowed) in EDGES {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let target = manifest.get("target").and_then(toml::Value::as_table);
        let targets = target.into_iter().flat_map(toml::Table::values);
        let tables = std::iter::once(&manifest).chain(targets.filter_map(toml::Value::as_table));
        for table in tables {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else {
                    continue;
                };
                for dependency in dependencies.keys() {
                    if dependency.starts_with("p2pnode") && !allowed.contains(&dependency.as_str())
                    {
                        offenders.push(format!("{name} uses {dependency} ({kind})"));
                    }
                }
            }
        }
    }
    none(
        &offenders,
        "dependencies point one way, cli -> node -> executor -> protocol",
    );
}

#[test]
fn what_works_meets_only_in_the_driver() {
    let mut offenders = Vec::new();
    for source in sources(&[".rs"]) {
        for worker in WORKERS {
            if !in_module(&source.path, worker) {
                continue;
            }
            for (line, module) in crate_modules(&source.code()) {
                let other = module != worker && WORKERS.contains(&module.as_str());
                if other || module == "driver" {
                    offenders.push(format!("{}:{line} uses crate::{module}", source.path));
                }
            }
        }
    }
    none(
        &offenders,
        "net, blobs, store, exec and api never use one another, nor the driver",
    );
}

#[test]
fn the_core_decides_and_touches_nothing() {
    let manifest = fs::read_to_string(root().join("node/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let foreign: Vec<String> = manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .map(|name| name.replace('-', "_"))
        .filter(|name| !CORE_CRATES.contains(&name.as_str()))
        .map(|name| format!("{name}::"))
        .collect();
    assert!(foreign.contains(&"tokio::".to_owned()));
    let mut offenders = Vec::new();
    for source in sources(&[".rs"]) {
        if !in_module(&source.path, "core") {
            continue;
        }
        let code = source.code();
        for (number, line) in &code {
            for word in CORE_NEVER {
                if has_word(line, word) {
                    offenders.push(format!("{}:{number} uses {word}", source.path));
                }
            }
            for path in &foreign {
                let name = path.trim_end_matches("::");
                if line.contains(path.as_str()) && has_word(line, name) {
                    offenders.push(format!("{}:{number} uses {name}", source.path));
                }
            }
        }
        for (number, module) in crate_modules(&code) {
            if module != "core" {
                offenders.push(format!("{}:{number} uses crate::{module}", source.path));
            }
        }
    }
    none(
        &offenders,
        "core uses only protocol, std and tracing, and no clock, chance or hash order",
    );
}

#[test]
fn files_are_short() {
    let mut offenders = Vec::new();
    for source in sources(&[".rs"]) {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            offenders.push(format!("{} has {lines} lines", source.path));
        }
    }
    none(
        &offenders,
        "a file of more than 400 lines has a second owner",
    );
}

#[test]
fn only_the_output_prints() {
    let mut offenders = Vec::new();
    for source in sources(&[".rs"]) {
        if PRINTS.iter().any(|path| source.path.starts_with(path))
            || source.path.ends_with("build.rs")
        {
            continue;
        }
        for (number, line) in source.code() {
            for macro_name in ["println", "print", "eprintln", "eprint", "dbg"] {
                if line.contains(&format!("{macro_name}!")) && has_word(line, macro_name) {
                    offenders.push(format!("{}:{number} {macro_name}!", source.path));
                }
            }
        }
    }
    none(&offenders, "printing is done in cli/src/output.rs alone");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not hold them.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
        ["HA", "CK"].concat(),
        ["//! Place", "holder"].concat(),
    ];
    let endings = [
        ".rs",
        ".toml",
        ".md",
        ".yaml",
        ".yml",
        ".sh",
        ".py",
        "Dockerfile",
    ];
    let mut offenders = Vec::new();
    for source in sources(&endings) {
        for (index, line) in source.text.lines().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                offenders.push(format!("{}:{} {}", source.path, index + 1, line.trim()));
            }
        }
    }
    none(
        &offenders,
        "what is not done is an issue, not a note in the code",
    );
}

#[test]
fn every_module_says_what_it_is() {
    let mut offenders = Vec::new();
    for source in sources(&[".rs"]) {
        let first = source.text.lines().find(|line| !line.trim().is_empty());
        if !first.is_some_and(|line| line.starts_with("//!")) {
            offenders.push(source.path);
        }
    }
    none(
        &offenders,
        "a file opens with what it owns, who calls it, and what it must never do",
    );
}
