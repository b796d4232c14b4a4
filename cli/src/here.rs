//! The node of this data directory: the one that runs, or one started in this process.

use std::ffi::OsString;

use p2pnode_executor::docker::reaper::ReaperCommand;
use p2pnode_executor::wasm::WorkerCommand;
use p2pnode_node::config::{Config, Overrides};
use p2pnode_node::driver::{Helpers, Node, NodeError};
use p2pnode_node::home::{ApiEndpoint, Home, HomeError};

use crate::args::{Global, NodeFlags};
use crate::client::Client;
use crate::exit::Failure;

/// The running node's API; `None` when no node runs.
pub fn running(global: &Global) -> Result<Option<Client>, Failure> {
    let dir = Home::locate(global.data_dir.as_deref()).map_err(home_failure)?;
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
        listen: (!flags.listen.is_empty()).then(|| flags.listen.clone()),
        bootstrap: (!flags.bootstrap.is_empty()).then(|| flags.bootstrap.clone()),
        mdns: flags.no_mdns.then_some(false),
        name: flags.name.clone(),
        ..Overrides::default()
    };
    let dir = Home::locate(global.data_dir.as_deref()).map_err(home_failure)?;
    Config::load(&dir, overrides).map_err(|error| Failure::usage(error.to_string()))
}

/// Starts a node in this process.
pub async fn start(global: &Global, flags: &NodeFlags) -> Result<Node, Failure> {
    let config = config(global, flags)?;
    let dir = Home::locate(global.data_dir.as_deref()).map_err(home_failure)?;
    let home = Home::open(&dir).map_err(home_failure)?;
    Node::start(home, config, helpers()?).await.map_err(node_failure)
}

/// This program itself, as the node's helper processes.
fn helpers() -> Result<Helpers, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::internal(format!("this program's own file is not found: {error}")))?;
    let args = |verb: &str| vec![OsString::from(verb), OsString::from("--")];
    Ok(Helpers {
        worker: WorkerCommand { program: program.clone(), args: args("wasm-worker") },
        reaper: ReaperCommand { program, args: args("reaper") },
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
