//! A strict reader of OpenMetrics text: whatever breaks the format's rules panics.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::{BTreeMap, BTreeSet};

/// A family as it is declared.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    unit: Option<String>,
}

impl Family {
    /// Names that its samples may have.
    fn names(&self) -> Vec<String> {
        let endings: &[&str] = match self.kind.as_str() {
            "counter" => &["_total", "_created"],
            "histogram" => &["_bucket", "_sum", "_count", "_created"],
            "info" => &["_info"],
            "gauge" | "unknown" => &[""],
            kind => panic!("`{kind}` is no type"),
        };
        let named = |ending: &&str| format!("{}{ending}", self.name);
        endings.iter().map(named).collect()
    }
}

/// All samples, by name and labels.
pub fn parse(text: &str) -> BTreeMap<String, f64> {
    read(text).0
}

/// All names that samples have or could have.
pub fn families(text: &str) -> BTreeSet<String> {
    read(text).1
}

fn read(text: &str) -> (BTreeMap<String, f64>, BTreeSet<String>) {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut samples, mut names) = (BTreeMap::new(), BTreeSet::new());
    let mut seen = BTreeSet::new();
    let mut family = Family::default();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().unwrap(), words.next());
            if name != family.name {
                assert!(seen.insert(name.to_owned()), "{name} stands there twice");
                family = Family {
                    name: name.to_owned(),
                    ..Family::default()
                };
            }
            match what.unwrap() {
                "HELP" => assert!(rest.is_some_and(|help| help.ends_with('.')), "{line}"),
                "TYPE" => {
                    family.kind = rest.unwrap().to_owned();
                    names.extend(family.names());
                }
                "UNIT" => {
                    let unit = rest.unwrap();
                    assert!(name.ends_with(&format!("_{unit}")), "{line}");
                    family.unit = Some(unit.to_owned());
                }
                other => panic!("`{other}` is nothing: {line}"),
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').expect("a name and a value");
        let (name, labels) = match key.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
            None => (key, ""),
        };
        assert!(
            family.names().contains(&name.to_owned()),
            "{line} is in {family:?}"
        );
        check_labels(labels);
        let value: f64 = value.parse().unwrap();
        let double = samples.insert(key.to_owned(), value);
        assert_eq!(double, None, "{key} stands there twice");
    }
    (samples, names)
}

/// `name="text",name="text"`, with quotes, backslashes and line ends escaped.
fn check_labels(labels: &str) {
    let mut rest = labels;
    let mut seen = BTreeSet::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a label has a value");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(!name.is_empty() && name.chars().all(is_name), "{labels}");
        assert!(seen.insert(name), "`{name}` stands there twice: {labels}");
        let mut escaped = false;
        let end = value.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let after = &value[end.expect("a value ends") + 1..];
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None => {
                assert_eq!(after, "", "{labels}");
                after
            }
        };
    }
}
