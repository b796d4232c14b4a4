//! Container jobs over real nodes and a real Docker engine.
//!
//! The tests look at the engine from outside too, by the labels that every container bears.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../harness/mod.rs"]
mod harness;

mod archives;
mod bench;
mod builds;
mod inside;
mod life;
mod limits;
mod owner;
mod terms;
