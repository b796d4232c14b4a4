//! The Docker runtime against a real engine: the contract that all runtimes share, what a task sees
//! from inside its sandbox, and what becomes of containers when the node does not end as it should.
//!
//! Everything here is ignored unless asked for:
//! `.ci/engine && docker/test-image.sh && cargo test -p p2pnode-executor --test docker -- --ignored`
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "figures, and what could not be tested")]

mod archives;
mod bench;
mod builds;
mod cache;
#[path = "../contract/mod.rs"]
mod contract;
mod disks;
mod egress;
mod engine;
mod gpus;
mod hold;
mod holes;
mod hostile;
mod images;
mod inside;
mod interrupted;
mod life;
mod limits;
mod output;
mod private;
mod registry;
mod sandbox;
mod sandboxes;
#[path = "../gpu/stand_in.rs"]
mod stand_in;
mod storm;
mod subject;
mod together;
mod warm;

use subject::DockerSubject;

contract_tests!(DockerSubject::new, #[ignore = "needs docker"]);
