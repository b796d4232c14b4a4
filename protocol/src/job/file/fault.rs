//! What is wrong with a job file, and where.

use std::fmt;

/// The most faults that are listed; the rest is counted. More than fit on a screen help nobody.
const MAX_FAULTS: usize = 50;

/// A place in the file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The line.
    pub line: u32,
    /// The character within the line.
    pub column: u32,
}

impl Spot {
    /// The beginning of the file, for what has no better place.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong. `Display` is one line: `job.toml:12: resources.memory: ...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// Where.
    pub spot: Spot,
    /// The key, with the sections it is in: `resources.memory`. Empty: the file as such.
    pub key: String,
    /// What is wrong and how to mend it, in one line.
    pub message: String,
}

impl Fault {
    /// A fault at `spot` of a file that [`JobFileErrors::of`] names.
    #[must_use]
    pub fn new(spot: Spot, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: String::new(),
            spot,
            key: key.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.spot.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a job file, by line. `Display` is one line a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFileErrors {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// The faults, by line; at least one.
    pub faults: Vec<Fault>,
    /// How many more there are than are listed.
    pub more: usize,
}

impl JobFileErrors {
    /// `faults` (at least one) in the order of the file, without repeats.
    #[must_use]
    pub fn of(file: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort();
        faults.dedup();
        let more = faults.len().saturating_sub(MAX_FAULTS);
        faults.truncate(MAX_FAULTS);
        for fault in &mut faults {
            file.clone_into(&mut fault.file);
        }
        Self {
            file: file.to_owned(),
            faults,
            more,
        }
    }

    /// One line for each fault.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.faults.iter().map(Fault::to_string).collect();
        if self.more > 0 {
            lines.push(format!("{}: and {} more", self.file, self.more));
        }
        lines
    }
}

impl fmt::Display for JobFileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for JobFileErrors {}

/// A text of the job file that is looked at again after parsing (a path, a pattern), with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// The key it stands at.
    pub key: String,
    /// Its place.
    pub spot: Spot,
}

impl Written {
    /// A fault of this text.
    #[must_use]
    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.spot, self.key.clone(), message)
    }
}
