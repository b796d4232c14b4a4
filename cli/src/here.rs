//! The node of this data directory: the one that runs, or one started in this process.

use std::ffi::OsString;

use p2pnode_executor::docker::reaper::ReaperCommand;
use p2pnode_executor::wasm::WorkerCommand;
use p2pnode_node::config::{Config, Overrides, Sources};
use p2pnode_node::driver::{Helpers, Node, NodeError};
use p2pnode_node::home::{ApiEndpoint, DataDir, Home, HomeError};
use p2pnode_protocol::PeerId;

use crate::args::{Global, NodeFlags};
use crate::client::Client;
use crate::exit::Failure;

/// The running node's API; `None` when no node runs.
pub fn running(global: &Global) -> Result<Option<Client>, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    let endpoint = ApiEndpoint::read(&dir).map_err(home_failure)?;
    Ok(endpoint.map(Client::new))
}

/// The running node's API.
pub fn must_run(global: &Global) -> Result<Client, Failure> {
    running(global)?.ok_or_else(|| {
        Failure::nobody("no node runs here; start one with `p2pnode join` or `p2pnode offer`")
    })
}

/// The configuration: file, environment, flags.
pub fn config(global: &Global, flags: &NodeFlags) -> Result<Config, Failure> {
    let overrides = Overrides {
        listen: flags.listen.clone(),
        bootstrap: flags.bootstrap.clone(),
        no_mdns: flags.no_mdns,
        name: flags.name.clone(),
        ..Overrides::default()
    };
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    Config::load(&Sources::of_process(&dir, overrides))
        .map_err(|error| Failure::usage(error.to_string()))
}

/// The identity of the node that this data directory has or will have.
pub fn peer_id(global: &Global) -> Result<PeerId, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    let identity = dir.identity().map_err(home_failure)?;
    Ok(identity.public().to_peer_id())
}

/// Starts a node in this process.
pub async fn start(global: &Global, flags: &NodeFlags) -> Result<Node, Failure> {
    let config = config(global, flags)?;
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    let home = Home::open(&dir).map_err(home_failure)?;
    Node::start(home, config, helpers()?)
        .await
        .map_err(node_failure)
}

/// This program itself, as the node's helper processes.
fn helpers() -> Result<Helpers, Failure> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::internal(format!("this program's own file is not found: {error}"))
    })?;
    Ok(Helpers {
        worker: WorkerCommand {
            program: program.clone(),
            args: vec![OsString::from("wasm-worker")],
        },
        reaper: ReaperCommand {
            program,
            args: vec![OsString::from("reaper")],
        },
    })
}

/// A fault of the data directory as the program's end.
pub fn home_failure(error: HomeError) -> Failure {
    Failure::usage(error.to_string())
}

/// A node that cannot start as the program's end.
pub fn node_failure(error: NodeError) -> Failure {
    match error {
        NodeError::Net(_) | NodeError::Config(_) => Failure::usage(error.to_string()),
        other => Failure::internal(other.to_string()),
    }
}
