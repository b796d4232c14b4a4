//! What the command line accepts.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use p2pnode_protocol::{Bytes, MilliCpus};

/// A peer-to-peer compute network: offer idle machines, send work to others.
#[derive(Parser)]
#[command(
    name = "p2pnode",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Examples:\n  \
    p2pnode demo                                   see three peers render an animation\n  \
    p2pnode offer --cpus 8 --allow 12D3KooW...     let a peer use 8 CPUs of this machine\n  \
    p2pnode submit job.toml                        run a job and wait for it\n\n\
    Exit codes: 0 done, 1 the job failed, 2 bad usage or job file, 3 no node or no fitting peer, 130 interrupted")]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every verb.
#[derive(Args, Clone)]
pub struct Global {
    /// Where the node keeps its identity and state; several nodes on one machine need several
    #[arg(long, global = true, env = "P2PNODE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Run a node in the foreground
    #[command(
        after_help = "Example:\n  p2pnode join --bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
    )]
    Join(NodeFlags),
    /// Offer this machine's capacity; starts a node unless one runs
    #[command(
        after_help = "Examples:\n  p2pnode offer --cpus 8 --memory 16GiB --allow 12D3KooW...\n  p2pnode offer --gpus 1 --allow-any\n\n\
        What is left out: all CPUs but one, three quarters of the memory, half of the free disk, no GPU."
    )]
    Offer(OfferArgs),
    /// Stop the running node
    #[command(after_help = "Example:\n  p2pnode stop")]
    Stop,
    /// Say what the running node does
    #[command(after_help = "Example:\n  p2pnode status --json")]
    Status,
    /// Print this node's peer id
    #[command(after_help = "Example:\n  p2pnode id")]
    Id,
    /// List peers that are known
    #[command(after_help = "Examples:\n  p2pnode peers --watch\n  p2pnode peers --allowed")]
    Peers(PeersArgs),
    /// Run a job and wait for it
    #[command(
        after_help = "Examples:\n  p2pnode submit job.toml\n  p2pnode submit job.toml --peers 12D3KooW...,12D3KooX... --out ./result\n  \
        p2pnode submit job.toml --detach      # needs a running node: p2pnode join\n  p2pnode submit job.toml --dry-run"
    )]
    Submit(SubmitArgs),
    /// Check a job file
    #[command(after_help = "Example:\n  p2pnode validate job.toml")]
    Validate {
        /// The job file
        file: PathBuf,
    },
    /// List jobs
    #[command(after_help = "Example:\n  p2pnode jobs")]
    Jobs,
    /// Show a job and its tasks
    #[command(after_help = "Examples:\n  p2pnode job last\n  p2pnode job 3f09")]
    Job {
        /// Its id, the beginning of it, or `last`
        job: String,
    },
    /// Print what a job's tasks wrote
    #[command(after_help = "Examples:\n  p2pnode logs last -f\n  p2pnode logs 3f09/12")]
    Logs {
        /// The job, or JOB/INDEX for one task
        job: String,
        /// Go on until the job ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Cancel a job
    #[command(after_help = "Example:\n  p2pnode cancel last")]
    Cancel {
        /// Its id, the beginning of it, or `last`
        job: String,
    },
    /// Wait until a job ends; the exit code is the job's
    #[command(after_help = "Example:\n  p2pnode wait 3f09")]
    Wait {
        /// Its id, the beginning of it, or `last`
        #[arg(default_value = "last")]
        job: String,
    },
    /// Allow a peer to run tasks here
    #[command(after_help = "Example:\n  p2pnode allow 12D3KooW...")]
    Allow {
        /// Its id
        peer: String,
    },
    /// No longer allow a peer to run tasks here
    #[command(after_help = "Example:\n  p2pnode deny 12D3KooW...")]
    Deny {
        /// Its id
        peer: String,
    },
    /// Show the configuration
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2pnode config show")]
    Config(ConfigVerb),
    /// Start three providers on this machine and render an animation with them
    #[command(
        after_help = "Examples:\n  p2pnode demo\n  p2pnode demo --kill-one     # kill a provider in mid-render"
    )]
    Demo(DemoArgs),
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  p2pnode completions bash > ~/.local/share/bash-completion/completions/p2pnode"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// A node's helper that runs WASM modules
    #[command(hide = true)]
    WasmWorker,
    /// A node's helper that removes its containers when it dies
    #[command(hide = true)]
    Reaper(HelperArgs),
}

impl Verb {
    /// Whether it runs a node in this process for as long as it runs.
    pub const fn is_node(&self) -> bool {
        matches!(self, Self::Join(_) | Self::Offer(_) | Self::Demo(_))
    }
}

/// `config`.
#[derive(Subcommand)]
pub enum ConfigVerb {
    /// Print every value and where it came from
    Show,
}

/// How a node that this process starts finds others.
#[derive(Args, Clone, Default)]
pub struct NodeFlags {
    /// Listen here; repeatable [default: all interfaces, a free port, TCP and QUIC]
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// A node to begin with; repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// Do not look for peers on the local network
    #[arg(long)]
    pub no_mdns: bool,
    /// This node's name, for people [default: the host's]
    #[arg(long)]
    pub name: Option<String>,
}

/// `offer`.
#[derive(Args)]
pub struct OfferArgs {
    /// CPUs to offer
    #[arg(long)]
    pub cpus: Option<MilliCpus>,
    /// Memory to offer, such as 16GiB
    #[arg(long)]
    pub memory: Option<Bytes>,
    /// Disk to offer, such as 100GiB
    #[arg(long)]
    pub disk: Option<Bytes>,
    /// GPUs to offer
    #[arg(long)]
    pub gpus: Option<u16>,
    /// Allow this peer to run tasks here, from now on; repeatable
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Let anyone run tasks here
    #[arg(long)]
    pub allow_any: bool,
    /// Of the node, when none runs yet.
    #[command(flatten)]
    pub node: NodeFlags,
}

/// `peers`.
#[derive(Args)]
pub struct PeersArgs {
    /// Print the list again when it changes
    #[arg(long)]
    pub watch: bool,
    /// Only those that may run tasks here
    #[arg(long)]
    pub allowed: bool,
}

/// `submit`.
#[derive(Args)]
pub struct SubmitArgs {
    /// The job file
    pub file: PathBuf,
    /// Only on these peers
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Folder for the outputs [default: ./<name>-<job>/]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the job's id and return
    #[arg(long)]
    pub detach: bool,
    /// Say what would be run and where, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for a peer that fits [default: 15s]
    #[arg(long, value_name = "TIME", value_parser = humantime_duration)]
    pub wait_for_peers: Option<Duration>,
    /// Of the node, when none runs yet.
    #[command(flatten)]
    pub node: NodeFlags,
}

/// `demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// Kill a provider in mid-render
    #[arg(long)]
    pub kill_one: bool,
    /// Folder for the frames
    #[arg(long, value_name = "DIR", default_value = "p2pnode-demo")]
    pub out: PathBuf,
}

/// What a node tells its helpers.
#[derive(Args)]
pub struct HelperArgs {
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

fn humantime_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time: write for example 30s or 5m"))
}
