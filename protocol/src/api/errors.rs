//! Why a request failed.

use serde::{Deserialize, Serialize};

/// Why a request failed. Sent with a 4xx or 5xx status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence for people.
    pub message: String,
    /// One line for each fault.
    #[serde(default)]
    pub details: Vec<String>,
}

/// Sorts of error; the command line's exit code follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Copy, Eq)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request or the job file is wrong.
    Invalid,
    /// No such job, task or peer.
    NotFound,
    /// A selector fits several.
    Ambiguous,
    /// The token is missing or wrong.
    Unauthorized,
    /// No peer fits.
    NoPeer,
    /// The node is stopping or too busy.
    Unavailable,
    /// A fault of the node's own.
    Internal,
}
