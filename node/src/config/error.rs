//! What can be wrong with settings: said all at once, each with its place and its mend.

use std::fmt;
use std::path::PathBuf;

use super::Origin;
use super::value::ValueError;

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error(
        "cannot read the configuration file `{path}`: {source}; check its permissions, and that it is \
         UTF-8 text"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// At least one setting is wrong.
    #[error("{}", summary(faults))]
    Invalid {
        /// All of them, in the order of reading.
        faults: Vec<Fault>,
    },
}

/// One wrong setting.
#[derive(Debug)]
pub struct Fault {
    /// Where it was set.
    pub origin: Origin,
    /// Which key, as written; empty when the file is not TOML at all.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a setting.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// There is no such key.
    #[error("unknown key{}", hint(nearest.as_deref()))]
    Unknown {
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// The value is not one of this key's.
    #[error(transparent)]
    Value(#[from] ValueError),
}

fn hint(nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!(", did you mean `{nearest}`?"),
        None => "; `p2pnode config show` lists the known ones".into(),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::File { .. } if !self.key.is_empty() => {
                write!(f, "{}: `{}`: {}", self.origin, self.key, self.problem)
            }
            _ => write!(f, "{}: {}", self.origin, self.problem),
        }
    }
}

/// One fault is the message; several are counted, and [`ConfigError::lines`] has them.
fn summary(faults: &[Fault]) -> String {
    match faults {
        [one] => one.to_string(),
        several => format!("{} settings are wrong", several.len()),
    }
}

impl ConfigError {
    /// One line for each fault; empty when the file could not be read at all.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } => Vec::new(),
            Self::Invalid { faults } => faults.iter().map(Fault::to_string).collect(),
        }
    }
}
