//! `docker/compose.yaml` and what stands beside it fit together, and fit this program.
//!
//! No engine is asked. The files are written in a small part of YAML (nested keys, lists, lists in one
//! line), which is what is read here; anything else panics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::harness::{program, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker")
}

/// All values of a file by their path, such as `services.grafana.image`. Items of a list have the
/// list's path.
fn read(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut values = BTreeMap::<String, Vec<String>>::new();
    // Keys that are open, each with its indentation.
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let content = line.trim_start_matches(' ');
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut indent = line.len() - content.len();
        assert!(!line.contains('\t') && indent % 2 == 0, "{line}");
        let mut content = content.split(" # ").next().unwrap().trim_end();
        open.retain(|(at, _)| *at < indent);
        if let Some(item) = content.strip_prefix("- ") {
            indent += 2;
            content = item;
        }
        let path = |open: &[(usize, String)]| {
            let keys: Vec<&str> = open.iter().map(|(_, key)| key.as_str()).collect();
            keys.join(".")
        };
        let is_key = |key: &str| !key.is_empty() && !key.contains([' ', '"', '[', '/', '.']);
        let pair = content.split_once(": ");
        let (key, value) = match (pair, content.strip_suffix(':')) {
            (Some((key, value)), _) if is_key(key) => (key, value),
            (_, Some(key)) if is_key(key) => (key, ""),
            _ => {
                values.entry(path(&open)).or_default().push(plain(content));
                continue;
            }
        };
        open.push((indent, key.to_owned()));
        values.entry(path(&open)).or_default().extend(list(value));
    }
    values
}

fn plain(value: &str) -> String {
    value.trim_matches('"').to_owned()
}

/// A value, or those of a list in one line.
fn list(value: &str) -> Vec<String> {
    if value.is_empty() || value == "{}" {
        return Vec::new();
    }
    match value.strip_prefix('[') {
        Some(items) => {
            let items = items.strip_suffix(']').expect("a list ends in its line");
            items.split(", ").map(plain).collect()
        }
        None => vec![plain(value)],
    }
}

fn one<'a>(values: &'a BTreeMap<String, Vec<String>>, path: &str) -> &'a str {
    match values.get(path).map(Vec::as_slice) {
        Some([one]) => one,
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn the_nodes_are_started_with_flags_that_there_are() {
    let compose = read(&folder().join("compose.yaml"));
    let services: BTreeSet<&str> = compose
        .keys()
        .filter_map(|path| path.strip_prefix("services.")?.split('.').next())
        .collect();
    let expected = [
        "grafana",
        "prometheus",
        "provider-1",
        "provider-2",
        "submitter",
    ];
    assert_eq!(services, BTreeSet::from(expected));
    let mut scraped = BTreeSet::new();
    for node in ["submitter", "provider-1", "provider-2"] {
        assert_eq!(one(&compose, &format!("services.{node}.<<")), "*node");
        let command = &compose[&format!("services.{node}.command")];
        // Flags are read before help is given, so a wrong one is told.
        let help = program().args(command).arg("--help").output().unwrap();
        assert!(help.status.success(), "{node}: {}", text(&help.stderr));
        let wrong = program()
            .args(command)
            .args(["--no-such-flag", "--help"])
            .output();
        assert_eq!(wrong.unwrap().status.code(), Some(2));
        let after = |flag: &str| {
            let at = command.iter().position(|word| word == flag);
            at.and_then(|at| command.get(at + 1))
        };
        assert_eq!(after("--name").map(String::as_str), Some(node));
        let port = after("--metrics")
            .unwrap()
            .strip_prefix("0.0.0.0:")
            .unwrap();
        scraped.insert(format!("{node}:{port}"));
    }
    let prometheus = read(&folder().join("prometheus.yml"));
    let targets = &prometheus["scrape_configs.static_configs.targets"];
    assert_eq!(targets.iter().cloned().collect::<BTreeSet<_>>(), scraped);
}

#[test]
fn what_is_mounted_is_there_and_what_is_open_is_for_this_machine_alone() {
    let compose = read(&folder().join("compose.yaml"));
    let named: BTreeSet<&str> = compose
        .keys()
        .filter_map(|path| path.strip_prefix("volumes."))
        .collect();
    let networks: BTreeSet<&str> = compose
        .keys()
        .filter_map(|path| path.strip_prefix("networks."))
        .collect();
    let (mut mounts, mut ports) = (0, 0);
    for (path, values) in &compose {
        for value in values {
            if path.starts_with("services.") && path.ends_with(".volumes") {
                mounts += 1;
                let (from, _) = value.split_once(':').unwrap();
                if from.starts_with('.') {
                    assert!(folder().join(from).exists(), "{value} is not there");
                    assert!(value.ends_with(":ro"), "{value} may be written to");
                } else {
                    assert!(named.contains(from), "{from} is no volume");
                }
            }
            if path.ends_with(".networks") {
                assert!(networks.contains(value.as_str()), "{value} is no network");
            }
            if path.ends_with(".ports") {
                ports += 1;
                assert!(value.starts_with("127.0.0.1:"), "{value} is open to others");
            }
        }
    }
    assert!(mounts >= 7 && ports == 1, "{compose:#?}");
    // Built from the Dockerfile beside it, as seen from the folder of the program.
    let file = one(&compose, "x-node.build.dockerfile");
    assert_eq!(file, "../../docker/Dockerfile");
    assert_eq!(one(&compose, "x-node.build.context"), "../target/release");
}

#[test]
fn dashboards_find_their_source_and_are_found() {
    let compose = read(&folder().join("compose.yaml"));
    let grafana = folder().join("grafana");
    let source = read(&grafana.join("provisioning/datasources/prometheus.yaml"));
    let uid = one(&source, "datasources.uid");
    assert_eq!(one(&source, "datasources.url"), "http://prometheus:9090");
    let provider = read(&grafana.join("provisioning/dashboards/p2pnode.yaml"));
    let path = one(&provider, "providers.options.path");
    let mounted = format!("./grafana/dashboards:{path}:ro");
    assert!(compose["services.grafana.volumes"].contains(&mounted));
    let home = one(
        &compose,
        "services.grafana.environment.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
    );
    assert_eq!(home, format!("{path}/provider.json"));
    for name in ["provider", "submitter"] {
        let file = grafana.join(format!("dashboards/{name}.json"));
        let text = std::fs::read_to_string(file).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels
            .iter()
            .filter_map(|panel| panel["id"].as_u64())
            .collect();
        assert_eq!(ids.len(), panels.len(), "{name}: ids differ");
        for panel in panels {
            assert_eq!(panel["datasource"]["uid"], uid, "{}", panel["title"]);
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], uid, "{}", panel["title"]);
            }
        }
    }
}
