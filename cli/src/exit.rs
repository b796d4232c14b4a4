//! Every end of the program as an exit code.

use std::process::ExitCode;

use p2pnode_protocol::api::{ApiError, ErrorCode, JobState};

/// The job failed, or something went wrong that is nobody's usage.
pub const JOB_FAILED: u8 = 1;
/// Bad usage or a bad job file.
pub const USAGE: u8 = 2;
/// No node, or no peer that fits.
pub const NOBODY: u8 = 3;
/// A command of `run` or `exec` never ran, or the way to it was lost; as `docker run` has it.
pub const NEVER_RAN: u8 = 125;
/// A command of `run` ran longer than it may, as `timeout` of GNU's coreutils has it.
pub const TIMED_OUT: u8 = 124;
/// A command of `run` was killed for its memory, as shells count SIGKILL.
pub const OUT_OF_MEMORY: u8 = 137;
/// Nobody reads on, as shells count SIGPIPE.
pub const BROKEN_PIPE: u8 = 141;
/// Interrupted, as shells count SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    /// One sentence.
    pub message: String,
    /// One line for each fault.
    pub details: Vec<String>,
    /// What the node said was wrong, when it was the node that refused.
    pub refused: Option<ErrorCode>,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            refused: None,
        }
    }

    /// Something that is not the user's doing.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(JOB_FAILED, message)
    }

    /// Bad usage or bad input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// No node runs, or no peer fits.
    pub fn nobody(message: impl Into<String>) -> Self {
        Self::new(NOBODY, message)
    }

    /// A command elsewhere never ran, or the way to it was lost.
    pub fn never_ran(message: impl Into<String>) -> Self {
        Self::new(NEVER_RAN, message)
    }

    /// Adds one line for each fault.
    pub fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The exit code as a number.
    pub const fn number(&self) -> u8 {
        self.code
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let code = match error.code {
            ErrorCode::Invalid | ErrorCode::NotFound | ErrorCode::Ambiguous => USAGE,
            ErrorCode::NoPeer | ErrorCode::Unavailable | ErrorCode::Unauthorized => NOBODY,
            ErrorCode::Internal => JOB_FAILED,
        };
        let refused = Some(error.code);
        Self {
            refused,
            ..Self::new(code, error.message).with_details(error.details)
        }
    }
}

/// The exit code of a job's end.
pub fn of_job(state: JobState, no_peer: bool, interrupted: bool) -> ExitCode {
    ExitCode::from(match state {
        _ if interrupted => INTERRUPTED,
        JobState::Succeeded => 0,
        JobState::Failed if no_peer => NOBODY,
        JobState::Failed | JobState::Cancelled | JobState::Waiting | JobState::Running => {
            JOB_FAILED
        }
    })
}
