//! The node of this data directory: the one that runs, or one started in this process.

use std::ffi::OsString;

use p2pnode_executor::docker::reaper::ReaperCommand;
use p2pnode_executor::wasm::WorkerCommand;
use p2pnode_node::config::{Config, Overrides, Sources};
use p2pnode_node::driver::{Helpers, Node, NodeError};
use p2pnode_node::home::{ApiEndpoint, DataDir, Home, HomeError};
use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::{JobInfo, JobState};
use serde_json::json;

use crate::args::{Cli, Global, NodeFlags};
use crate::client::Client;
use crate::exit::Failure;
use crate::output;

/// Files and sockets that a node may have open, where the system permits: above all that its own limits on
/// peers' connections, streams and tunnels add up to.
const MANY_FILES: u64 = 65_536;

/// The most jobs of earlier runs that are named.
const MAX_RESUMED: usize = 5;

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

/// The running node's API, for a verb about jobs.
pub fn must_run_for_jobs(global: &Global) -> Result<Client, Failure> {
    running(global)?.ok_or_else(|| {
        Failure::nobody(
            "no node runs here; start one with `p2pnode join` or `p2pnode offer`: jobs of earlier runs are shown once it runs",
        )
    })
}

/// The configuration: file, environment, flags.
pub fn config(global: &Global, flags: &NodeFlags) -> Result<Config, Failure> {
    let flags = flags.clone();
    let overrides = Overrides {
        listen: flags.listen,
        bootstrap: flags.bootstrap,
        no_mdns: flags.no_mdns,
        name: flags.name,
        networks: flags.networks,
        external: flags.external,
        no_upnp: flags.no_upnp,
        no_shortcuts: flags.no_shortcuts,
        relay: flags.relay,
        labels: flags.labels,
        log: flags.log,
        api_port: flags.api_port,
        metrics: flags.metrics,
        blob_quota: flags.blob_quota,
        ..Overrides::default()
    };
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    Config::load(&Sources::of_process(&dir, overrides))
        .map_err(|error| Failure::usage(error.to_string()).with_details(error.lines()))
}

/// What is to be logged, when a setting says so: of a verb that may start a node, from all sources; of
/// the others, from the environment.
pub fn log_filter(cli: &Cli) -> Result<Option<String>, Failure> {
    let Some(flags) = cli.verb.node_flags() else {
        return Ok(std::env::var("P2PNODE_LOG").ok());
    };
    Ok(config(&cli.global, flags)?.log_filter().map(str::to_owned))
}

/// Says that flags of a node do nothing when one runs already, but for those in `heeded`.
pub fn note_ignored(flags: &NodeFlags, heeded: &[&str]) {
    let mut given = flags.given();
    given.retain(|flag| !heeded.contains(flag));
    if !given.is_empty() {
        let (have, them) = match given.len() {
            1 => ("has", "it"),
            _ => ("have", "them"),
        };
        output::note(format!(
            "a node already runs here, so {} {have} no effect; stop it with `p2pnode stop` to start one with {them}",
            given.join(", ")
        ));
    }
}

/// Says which jobs of earlier runs the node goes on with: they take its peers' time.
pub async fn note_resumed(global: &Global, client: &Client) -> Result<(), Failure> {
    let jobs: Vec<JobInfo> = client.get("/jobs").await?;
    let open: Vec<&JobInfo> = jobs
        .iter()
        .filter(|job| matches!(job.state, JobState::Waiting | JobState::Running))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    if global.json {
        let jobs: Vec<&String> = open.iter().map(|job| &job.job).collect();
        output::line_json(&json!({ "event": "resuming", "jobs": jobs }));
        return Ok(());
    }
    let names: Vec<String> = open
        .iter()
        .take(MAX_RESUMED)
        .map(|job| format!("{} ({})", job.job, job.name))
        .collect();
    let more = if open.len() > names.len() {
        ", ..."
    } else {
        ""
    };
    let noun = if open.len() == 1 { "job" } else { "jobs" };
    output::note(format!(
        "resuming {} {noun} of an earlier run: {}{more}; `p2pnode cancel {}` ends it",
        open.len(),
        names.join(", "),
        open[0].job.get(..6).unwrap_or(&open[0].job)
    ));
    Ok(())
}

/// The identity of the node that this data directory has or will have.
pub fn peer_id(global: &Global) -> Result<PeerId, Failure> {
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    let identity = dir.identity().map_err(home_failure)?;
    Ok(identity.public().to_peer_id())
}

/// Starts a node in this process.
pub async fn start(global: &Global, config: Config) -> Result<Node, Failure> {
    output::outlives_readers();
    allow_many_files();
    let dir = DataDir::find(global.data_dir.clone()).map_err(home_failure)?;
    let home = Home::open(&dir).map_err(home_failure)?;
    Node::start(home, config, helpers()?)
        .await
        .map_err(node_failure)
}

/// Raises this process's limit of open files to what the system lets it have, [`MANY_FILES`] at most: a
/// shell's usual 1,024 are fewer than the connections, chunks and tunnels that a busy node has open.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(MANY_FILES).min(MANY_FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// This program itself, as the node's helper processes.
pub fn helpers() -> Result<Helpers, Failure> {
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
        NodeError::Net(_)
        | NodeError::Config(_)
        | NodeError::Api { .. }
        | NodeError::Metrics { .. } => Failure::usage(error.to_string()),
        other => Failure::internal(other.to_string()),
    }
}
