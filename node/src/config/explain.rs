//! What holds, and why: `p2pnode config show`.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::Config;
use super::keys::KEYS;

/// Every setting. Prints as text for people, serializes as a list for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Explanation(pub Vec<Setting>);

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its dotted key.
    pub key: &'static str,
    /// Its value, as it would be written in the file; `null` when it is not set.
    pub value: Value,
    /// Where the value came from.
    pub from: String,
    /// Its environment variable.
    pub variable: String,
    /// What it means.
    pub help: &'static str,
}

impl Explanation {
    /// Explains all of `config`.
    pub(super) fn of(config: &Config) -> Self {
        let setting = |key: &super::keys::Key| Setting {
            key: key.name,
            value: (key.show)(config),
            from: config.origin(key.name).to_string(),
            variable: key.variable(),
            help: key.help,
        };
        Self(KEYS.iter().map(setting).collect())
    }
}

/// A value as TOML writes it: JSON writes all but tables alike.
fn written(value: &Value) -> String {
    match value {
        // Its line is a comment: TOML has no word for it.
        Value::Null => "(not set)".into(),
        Value::Object(pairs) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(name, value)| format!("{} = {value}", Value::from(name.as_str())))
                .collect();
            if pairs.is_empty() {
                "{}".into()
            } else {
                format!("{{ {} }}", pairs.join(", "))
            }
        }
        value => value.to_string(),
    }
}

impl fmt::Display for Explanation {
    /// One line of TOML a setting: `key = value  # where from`; a comment when it is not set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<(String, &str)> = self
            .0
            .iter()
            .map(|setting| {
                let comment = if setting.value.is_null() { "# " } else { "" };
                let line = format!("{comment}{} = {}", setting.key, written(&setting.value));
                (line, setting.from.as_str())
            })
            .collect();
        // Longer lines (lists of addresses) push their own comment out, not everybody's.
        let column = lines
            .iter()
            .map(|(line, _)| line.chars().count())
            .filter(|length| *length <= 48)
            .max()
            .unwrap_or(0);
        for (line, from) in lines {
            writeln!(f, "{line:column$}  # {from}")?;
        }
        Ok(())
    }
}
