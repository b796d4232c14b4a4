//! The configuration file: TOML, tables and dotted keys alike.

use std::io;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Origin;
use super::error::{ConfigError, Fault, Problem};
use super::keys::{self, KEYS, Set};
use super::value::{Raw, ValueError};

/// Reads the file at `path`, if it is there, into `settings` and what is wrong with it into
/// `faults`.
pub(super) fn read(
    path: &Path,
    settings: &mut Vec<Set>,
    faults: &mut Vec<Fault>,
) -> Result<(), ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(ConfigError::Unreadable { path, source });
        }
    };
    let mut reader = Reader {
        path,
        text: &text,
        settings,
        faults,
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        let problem = Problem::Syntax(error.message().to_owned());
        reader.fault(at, "", problem);
    }
    reader.table("", table.get_ref());
    Ok(())
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    settings: &'a mut Vec<Set>,
    faults: &'a mut Vec<Fault>,
}

impl Reader<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        Origin::File {
            path: self.path.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }

    fn fault(&mut self, at: usize, key: &str, problem: Problem) {
        self.faults.push(Fault {
            origin: self.origin(at),
            key: key.to_owned(),
            problem,
        });
    }

    /// Reads the keys of the table that `section` names, and of those inside it.
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let part = key.get_ref();
            let name = if section.is_empty() {
                part.to_string()
            } else {
                format!("{section}.{part}")
            };
            self.entry(&name, key.span().start, value);
        }
    }

    fn entry(&mut self, name: &str, at: usize, value: &Spanned<DeValue<'_>>) {
        if let Some(key) = keys::find(name) {
            let origin = self.origin(value.span().start);
            self.settings.push((key, raw(value.get_ref()), origin));
            return;
        }
        let inside = format!("{name}.");
        let is_section = KEYS.iter().any(|key| key.name.starts_with(&inside));
        match value.get_ref() {
            DeValue::Table(table) if is_section || !table.is_empty() => self.table(name, table),
            _ if is_section => {
                let problem = ValueError::Kind("a table of keys");
                self.fault(at, name, problem.into());
            }
            _ => {
                let nearest = keys::nearest_key(name).map(str::to_owned);
                self.fault(at, name, Problem::Unknown { nearest });
            }
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        // Digits may be grouped by underscores; other bases than ten are nobody's habit here.
        DeValue::Integer(number) if number.radix() == 10 => {
            Raw::Number(number.as_str().replace('_', ""))
        }
        DeValue::Float(number) => Raw::Number(number.as_str().replace('_', "")),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Table(table) => Raw::Table(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), raw(value.get_ref())))
                .collect(),
        ),
        DeValue::Integer(_) | DeValue::Datetime(_) => Raw::Other,
    }
}
