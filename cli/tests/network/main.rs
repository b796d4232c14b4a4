//! Jobs over real nodes: separate processes that find each other on loopback.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod charge;
mod ending;
mod jobs;
mod owner;
mod rules;
mod several;

use std::path::Path;
use std::process::{Child, Stdio};

use harness::{Lab, TestNode, program};

/// A job of one WASM module, `count` tasks.
fn simple_job(wasm: &str, count: u32) -> String {
    format!(
        "name = \"simple\"\n[task]\nwasm = \"{wasm}\"\n[array]\nn = \"1-{count}\"\n[resources]\nmemory = \"64MiB\"\ndisk = \"64MiB\"\n"
    )
}

/// Starts a `submit` on a node of its own, which goes on by itself.
fn submit_on_own_node(lab: &Lab, name: &str, job: &Path, bootstrap: &TestNode) -> Child {
    program()
        .args(["submit", job.to_str().unwrap(), "--json", "--no-mdns"])
        .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--bootstrap"])
        .arg(&bootstrap.address)
        .arg("--data-dir")
        .arg(lab.path(name))
        .current_dir(lab.root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}
