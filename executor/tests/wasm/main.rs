//! The WASM runtime with real worker processes: the contract that all runtimes share, its sandbox, the
//! life of its workers, and load.
//!
//! `cargo test -p p2pnode-executor --test wasm -- --ignored --nocapture` prints how fast it is.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod bench;
#[path = "../contract/mod.rs"]
mod contract;
mod life;
mod load;
mod programs;
mod sandbox;
mod subject;

use subject::WasmSubject;

contract_tests!(WasmSubject::new,);
