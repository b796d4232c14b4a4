//! Network benchmarks of p2pnode, and its Testground plan.
//!
//! Without Testground the cases run here: real nodes as processes on loopback, figures side by side
//! with what they are to be compared with, in one run. `docs/benchmarks.md` holds the results and the
//! commands. With the feature `testground` the program is a plan's instance instead.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(feature = "testground"))]
mod cases;
#[cfg(not(feature = "testground"))]
mod interactive;
#[cfg(not(feature = "testground"))]
mod lab;
#[cfg(not(feature = "testground"))]
mod local;
#[cfg(feature = "testground")]
mod plan;

#[cfg(not(feature = "testground"))]
fn main() -> anyhow::Result<()> {
    local::run()
}

#[cfg(feature = "testground")]
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    plan::run().await
}
