//! Walks a parsed TOML document and notes every fault on the way.
//!
//! Used by the sections of the job file. It must never stop at the first fault: whoever mends a file
//! wants to see all of them.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Spot, Written};
use super::keys;

/// Finds lines and collects faults.
pub(super) struct Faults<'t> {
    text: &'t str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    pub list: Vec<Fault>,
}

impl<'t> Faults<'t> {
    pub fn new(text: &'t str) -> Self {
        let after = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(after).collect(),
            list: Vec::new(),
        }
    }

    /// The place of a byte of the text.
    pub fn spot(&self, byte: usize) -> Spot {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..byte).unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Spot {
            line: number(line),
            column: number(before.chars().count() + 1),
        }
    }

    pub fn add(&mut self, spot: Spot, key: &str, message: impl Into<String>) {
        self.list.push(Fault::new(spot, key, message));
    }
}

/// One table of the document.
pub(super) struct Section<'a> {
    /// Its path; empty at the top.
    pub path: String,
    pub spot: Spot,
    table: &'a DeTable<'a>,
}

/// One value, or the whole entry of a table.
pub(super) struct Item<'a> {
    /// Its path.
    pub key: String,
    /// The last part of its path.
    pub name: &'a str,
    /// Where its key stands.
    pub spot: Spot,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Section<'a> {
    /// The top of the document.
    pub const fn root(table: &'a DeTable<'a>) -> Self {
        Self {
            path: String::new(),
            spot: Spot::START,
            table,
        }
    }

    fn path_of(&self, key: &str) -> String {
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key = if plain && !key.is_empty() {
            key.to_owned()
        } else {
            format!("{key:?}")
        };
        match self.path.as_str() {
            "" => key,
            path => format!("{path}.{key}"),
        }
    }

    /// The value at `key`, if there is one.
    pub fn get(&self, faults: &Faults<'_>, key: &str) -> Option<Item<'a>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(Item {
            key: self.path_of(key.get_ref()),
            name: key.get_ref(),
            spot: faults.spot(key.span().start),
            value,
        })
    }

    /// All values in the order of the file.
    pub fn items(&self, faults: &Faults<'_>) -> Vec<Item<'a>> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let item = |(key, value): (&'a Spanned<_>, &'a Spanned<_>)| {
            let name: &'a std::borrow::Cow<'a, str> = key.get_ref();
            Item {
                key: self.path_of(name),
                name,
                spot: faults.spot(key.span().start),
                value,
            }
        };
        entries.into_iter().map(item).collect()
    }

    /// The table at `key`, whose keys must be those of the section `known_as`.
    pub fn section(&self, faults: &mut Faults<'_>, key: &str) -> Option<Self> {
        let item = self.get(faults, key)?;
        let section = item.table(faults)?;
        section.check_keys(faults, &section.path);
        Some(section)
    }

    /// Notes every key that the section `known_as` does not have.
    pub fn check_keys(&self, faults: &mut Faults<'_>, known_as: &str) {
        let Some(keys) = keys::of(known_as) else {
            return;
        };
        for item in self.items(faults) {
            if !keys.known.contains(&item.name) {
                let message = keys::unknown(keys, item.name);
                faults.add(item.spot, &item.key, message);
            }
        }
    }

    /// The text at `key`.
    pub fn text(&self, faults: &mut Faults<'_>, key: &str) -> Option<Written> {
        self.get(faults, key)?.text(faults)
    }

    /// The truth value at `key`, false when there is none.
    pub fn flag(&self, faults: &mut Faults<'_>, key: &str) -> bool {
        self.get(faults, key)
            .and_then(|item| item.flag(faults))
            .unwrap_or(false)
    }
}

/// What a value is, for messages.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl<'a> Item<'a> {
    pub fn fault(&self, faults: &mut Faults<'_>, message: impl Into<String>) {
        faults.add(self.spot, &self.key, message);
    }

    /// Notes that the value is not `wanted`.
    pub fn wrong_kind(&self, faults: &mut Faults<'_>, wanted: &str) {
        let found = kind(self.value.get_ref());
        self.fault(faults, format!("must be {wanted}, not {found}"));
    }

    fn at(&self, faults: &Faults<'_>, value: &Spanned<DeValue<'_>>, text: &str) -> Written {
        Written {
            text: text.to_owned(),
            key: self.key.clone(),
            spot: faults.spot(value.span().start),
        }
    }

    /// The text, when the value is one.
    pub fn as_text(&self, faults: &Faults<'_>) -> Option<Written> {
        let text = self.value.get_ref().as_str()?;
        Some(self.at(faults, self.value, text))
    }

    pub fn text(&self, faults: &mut Faults<'_>) -> Option<Written> {
        let text = self.as_text(faults);
        if text.is_none() {
            self.wrong_kind(faults, "text in quotes");
        }
        text
    }

    /// Text, or a whole number or truth value as it would be written.
    pub fn text_like(&self, faults: &mut Faults<'_>) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            _ => {
                self.wrong_kind(faults, "text in quotes");
                None
            }
        }
    }

    pub fn flag(&self, faults: &mut Faults<'_>) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_kind(faults, "true or false");
        }
        flag
    }

    /// The whole number, when the value is one that 64 bits hold.
    pub fn as_whole(&self) -> Option<i64> {
        let number = self.value.get_ref().as_integer()?;
        i64::from_str_radix(number.as_str(), number.radix()).ok()
    }

    /// The number, when it is one with a point.
    pub fn as_fraction(&self) -> Option<f64> {
        self.value.get_ref().as_float()?.as_str().parse().ok()
    }

    /// A whole number of at most `most`.
    pub fn count(&self, faults: &mut Faults<'_>, most: u32) -> Option<u32> {
        if !self.value.get_ref().is_integer() {
            let found = kind(self.value.get_ref());
            let message = format!("must be a whole number, not {found}: write for example 3");
            self.fault(faults, message);
            return None;
        }
        let count = self
            .as_whole()
            .and_then(|number| u32::try_from(number).ok());
        let count = count.filter(|count| *count <= most);
        if count.is_none() {
            self.fault(faults, format!("must be a whole number from 0 to {most}"));
        }
        count
    }

    /// Reads text or a number as people write it.
    pub fn quantity<T>(&self, faults: &mut Faults<'_>) -> Option<T>
    where
        T: std::str::FromStr<Err = crate::units::UnitError>,
    {
        let text = match self.value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            _ => {
                self.wrong_kind(faults, "a number or text");
                return None;
            }
        };
        text.parse()
            .map_err(|error| self.fault(faults, format!("{error}")))
            .ok()
    }

    /// Reads a time such as `"10m"`, in milliseconds, at most
    /// [`MAX_TIME_MS`](crate::job::limits::MAX_TIME_MS).
    pub fn time_ms(&self, faults: &mut Faults<'_>) -> Option<u64> {
        const MEND: &str = "write for example \"30s\", \"10m\" or \"1h 30m\"";
        let Some(text) = self.value.get_ref().as_str() else {
            let found = kind(self.value.get_ref());
            self.fault(faults, format!("must be a time, not {found}: {MEND}"));
            return None;
        };
        let parsed = humantime::parse_duration(text.trim());
        let millis = parsed.as_ref().map(Duration::as_millis).ok();
        let Some(millis) = millis.and_then(|millis| u64::try_from(millis).ok()) else {
            let shown: String = text.chars().take(40).collect();
            self.fault(faults, format!("`{shown}` is not a time: {MEND}"));
            return None;
        };
        if millis > crate::job::limits::MAX_TIME_MS {
            self.fault(faults, "is longer than a year: write a shorter time");
            return None;
        }
        Some(millis)
    }

    /// A list of texts. Elements that are none are noted and left out.
    pub fn texts(&self, faults: &mut Faults<'_>, example: &str) -> Option<Vec<Written>> {
        let Some(list) = self.value.get_ref().as_array() else {
            let found = kind(self.value.get_ref());
            let message = format!("must be a list, not {found}: write for example {example}");
            self.fault(faults, message);
            return None;
        };
        let mut texts = Vec::with_capacity(list.len());
        for (position, value) in list.iter().enumerate() {
            match value.get_ref().as_str() {
                Some(text) => texts.push(self.at(faults, value, text)),
                None => {
                    let spot = faults.spot(value.span().start);
                    let found = kind(value.get_ref());
                    let number = position + 1;
                    let message = format!("element {number} must be text in quotes, not {found}");
                    faults.add(spot, &self.key, message);
                }
            }
        }
        Some(texts)
    }

    /// A list of texts and whole numbers, when the value is a list.
    pub fn as_values(&self, faults: &mut Faults<'_>) -> Option<Vec<String>> {
        let list = self.value.get_ref().as_array()?;
        let mut values = Vec::with_capacity(list.len());
        for (position, value) in list.iter().enumerate() {
            match value.get_ref() {
                DeValue::String(text) => values.push(text.to_string()),
                DeValue::Integer(number) => values.push(number.to_string()),
                other => {
                    let spot = faults.spot(value.span().start);
                    let (number, found) = (position + 1, kind(other));
                    let message =
                        format!("element {number} must be text or a whole number, not {found}");
                    faults.add(spot, &self.key, message);
                }
            }
        }
        Some(values)
    }

    /// The table, when the value is one.
    pub fn as_table(&self) -> Option<Section<'a>> {
        let table = self.value.get_ref().as_table()?;
        Some(Section {
            path: self.key.clone(),
            spot: self.spot,
            table,
        })
    }

    pub fn table(&self, faults: &mut Faults<'_>) -> Option<Section<'a>> {
        let table = self.as_table();
        if table.is_none() {
            let found = kind(self.value.get_ref());
            let message = format!("must be a table, not {found}: write [{}]", self.key);
            self.fault(faults, message);
        }
        table
    }
}
