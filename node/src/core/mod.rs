//! Placeholder.

pub mod io;

/// Placeholder of the decisions.
pub struct Core;
