//! Placeholder.

pub mod io;
