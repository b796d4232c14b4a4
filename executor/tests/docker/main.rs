//! The Docker runtime against a real engine: the contract that all runtimes share, what a task sees
//! from inside its sandbox, and what becomes of containers when the node does not end as it should.
//!
//! Everything here is ignored unless asked for:
//! `.ci/engine && docker/test-image.sh && cargo test -p p2pnode-executor --test docker -- --ignored`
#![allow(clippy::unwrap_used)]

#[path = "../contract/mod.rs"]
mod contract;
mod egress;
mod engine;
mod images;
mod life;
mod limits;
mod output;
mod registry;
mod sandbox;
mod subject;
mod warm;

use subject::DockerSubject;

contract_tests!(DockerSubject::new, #[ignore = "needs docker"]);
