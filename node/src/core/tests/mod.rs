//! The rules of the core one by one: an input, and the effects that must follow.

#![allow(clippy::unwrap_used)]

mod charge;
mod eviction;
#[path = "../../../tests/sim/fixture.rs"]
pub(super) mod fixture;
mod hosting;
mod leases;
mod losses;
mod outputs;
mod owner;
mod placing;
mod reporting;
mod restart;
mod results;
mod rig;
mod rules;
mod seen;
mod waiting;
mod words;
