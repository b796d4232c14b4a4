//! Runs one task of p2pnode in a sandbox.
//!
//! [`Runtime`] is the wall between the node and what executes: a runtime is told to prepare an
//! environment once per job step and to run tasks in it, and answers with output while they run and
//! with a [`TaskEnd`] when every process of the task is gone. [`host`] says what the machine has.
//!
//! This crate must never decide who may run what, or when: that is the node's core. It must never let
//! a task see more of the host than its own work directory.

pub mod docker;
pub mod egress;
pub mod host;
pub mod inside;
pub mod runtime;
pub mod wasm;

pub use runtime::{
    Credentials, Environment, Features, Hold, LiveUsage, LogChunk, LogSink, PrepareProgress,
    ProgramFile, Runtime, RuntimeReport, TaskEnd, TaskRun,
};
