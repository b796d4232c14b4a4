//! What was found of one thing, and how it is said.

use serde::Serialize;

use crate::output;

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Not there, and nothing is wrong with that.
    None,
    /// Something that its owner may not want. Fails nothing.
    Warning,
    /// Something is wrong.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What: one or two words.
    pub check: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    fn new(check: &'static str, state: State, found: impl Into<String>) -> Self {
        Self {
            check,
            state,
            found: found.into(),
            mend: None,
        }
    }

    /// As it should be.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Ok, found)
    }

    /// Not there.
    pub fn none(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::None, found)
    }

    /// A warning.
    pub fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Warning, found)
    }

    /// A fault.
    pub fn fault(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, State::Fault, found)
    }

    /// With what to do about it.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// Prints it, its mend on a line of its own.
    pub fn print(&self) {
        let mark = match self.state {
            State::Ok => "ok",
            State::None => "-",
            State::Warning => "warn",
            State::Fault => "FAULT",
        };
        output::line(format!("{mark:5}  {:12}  {}", self.check, self.found));
        if let Some(mend) = &self.mend {
            output::line(format!("{:21}mend: {mend}", ""));
        }
    }
}

/// How many of `findings` stand so.
pub fn count(findings: &[Finding], state: State) -> usize {
    let all = findings.iter();
    all.filter(|finding| finding.state == state).count()
}
