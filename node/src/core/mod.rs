//! Decisions.

pub mod io;
mod quick;

pub use quick::{Core, CoreConfig};
