//! Container jobs over real nodes and a real Docker engine.
//!
//! The tests look at the engine from outside too, by the labels that every container bears.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../harness/mod.rs"]
mod harness;
// Of the executor's tests: one image on loopback, with or without a gate before it.
#[allow(dead_code)]
#[path = "../../../executor/tests/docker/registry.rs"]
mod registry;

mod archives;
mod bench;
mod builds;
mod gpus;
mod inside;
mod life;
mod limits;
mod logins;
mod owner;
mod storm;
mod terms;
