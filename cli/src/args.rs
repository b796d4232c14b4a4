//! What the command line accepts.

mod inside;
mod network;
mod offer;
mod owner;
mod reach;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use inside::{ExecArgs, InsideVerb, RunArgs, SshArgs, TunnelArgs};
pub use network::{JoinArgs, NetworkVerb};
pub use offer::{AllowArgs, OfferArgs};

pub use owner::{
    By, DrainArgs, HistoryArgs, KillArgs, OwnerVerb, PastArgs, PauseArgs, StatsArgs, UsageArgs,
};

pub use reach::{FindArgs, PathArgs, PingArgs, ReachVerb};

/// A peer-to-peer compute network: offer idle machines, send work to others.
#[derive(Parser)]
#[command(name = "p2pnode", version, propagate_version = true)]
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
    /// [env: P2PNODE_DATA_DIR]
    // The variable is read where the directory is found: clap would show it as a required flag.
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for everything
    #[arg(long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    /// Run a node in the foreground
    #[command(
        after_help = "Examples:\n  p2pnode join --bootstrap /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...\n  \
        p2pnode join p2pnode1anrwc...                 # become a member of a private network\n  \
        p2pnode join p2pnode1anrwc... --network main  # and be in the public one as well"
    )]
    Join(JoinArgs),
    /// Make, show and leave private networks, and print the tickets that let others in
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  p2pnode network create lab\n  p2pnode network ticket --qr\n  p2pnode network show"
    )]
    Network(NetworkVerb),
    /// Offer this machine's capacity, under your rules; starts a node unless one runs
    #[command(after_help = offer::EXAMPLES)]
    Offer(Box<OfferArgs>),
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
        after_help = "Files that stand in the folder for the outputs are replaced by outputs of the same name.\n\n\
        Examples:\n  p2pnode submit job.toml\n  p2pnode submit job.toml --peers 12D3KooW...,12D3KooX... --out ./result\n  \
        p2pnode submit job.toml --detach      # needs a running node: p2pnode join\n  p2pnode submit job.toml --dry-run"
    )]
    Submit(SubmitArgs),
    /// Check a job file
    #[command(after_help = "Example:\n  p2pnode validate job.toml")]
    Validate {
        /// The job file
        file: PathBuf,
    },
    /// Job files to begin with
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  p2pnode template list\n  p2pnode template new blender-frames\n  p2pnode template show sweep"
    )]
    Template(TemplateVerb),
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
        /// Leave in what a terminal obeys, beyond colours
        #[arg(long)]
        raw: bool,
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
    #[command(after_help = offer::ALLOW_EXAMPLES)]
    Allow(AllowArgs),
    /// List peers that asked to run tasks here and were not allowed
    #[command(
        after_help = "Examples:\n  p2pnode requests\n  p2pnode allow h7Ka9Qx2Zt --tasks 10    # answers one"
    )]
    Requests,
    /// No longer allow a peer to run tasks here
    #[command(after_help = "Example:\n  p2pnode deny 12D3KooW...")]
    Deny {
        /// Its id, ten or more characters of its end, or the name of a peer that was allowed
        peer: String,
    },
    /// What goes on inside a task.
    #[command(flatten)]
    Inside(InsideVerb),
    /// About tasks of others that run here.
    #[command(flatten)]
    Owner(OwnerVerb),
    /// About ways to peers.
    #[command(flatten)]
    Reach(ReachVerb),
    /// Show the configuration
    #[command(subcommand)]
    #[command(after_help = "Example:\n  p2pnode config show")]
    Config(ConfigVerb),
    /// Start three providers on this machine and render an animation with them
    #[command(
        after_help = "Examples:\n  p2pnode demo\n  p2pnode demo --kill-one     # kill a provider in mid-render"
    )]
    Demo(DemoArgs),
    /// Look for what is wrong with this machine and its node, and say how to mend it
    #[command(
        after_help = "Examples:\n  p2pnode doctor\n  p2pnode doctor --self-test     # runs a task through each executor and each GPU\n  \
        p2pnode doctor --json\n\nThe exit code is 1 when something is wrong; warnings are no faults."
    )]
    Doctor(DoctorArgs),
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
    /// Flags of the node that it may start.
    pub const fn node_flags(&self) -> Option<&NodeFlags> {
        match self {
            Self::Join(args) => Some(&args.node),
            Self::Offer(args) => Some(&args.node),
            Self::Submit(args) => Some(&args.node),
            Self::Inside(InsideVerb::Run(args)) => Some(&args.node),
            _ => None,
        }
    }

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

/// `template`.
#[derive(Subcommand)]
pub enum TemplateVerb {
    /// Name all templates
    List,
    /// Print a template
    Show {
        /// Its name
        name: String,
    },
    /// Write a template to a new file
    New {
        /// Its name
        name: String,
        /// The file
        #[arg(default_value = "job.toml")]
        file: PathBuf,
        /// Replace the file when it exists
        #[arg(long)]
        force: bool,
    },
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
    /// An overlay network to be in; repeatable [default: those joined last, else main]
    #[arg(long = "network", value_name = "NAME")]
    pub networks: Vec<String>,
    /// An address that is known to lead here, such as a forwarded port; repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub external: Vec<String>,
    /// Do not ask the router to forward ports
    #[arg(long)]
    pub no_upnp: bool,
    /// Keep SSH into tasks within the overlay, here and to the tasks of this node's jobs
    #[arg(long)]
    pub no_shortcuts: bool,
    /// Relay for others while the whole Internet can reach this node: on, off or limit [default: limit]
    #[arg(long, value_name = "HOW")]
    pub relay: Option<String>,
    /// A label that jobs can ask for, such as site=lab; repeatable
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Port of the local API [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<String>,
    /// Serve the metrics, and nothing else, to others at this address, such as 0.0.0.0:9464
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// The most disk that stored chunks take [default: 20GiB]
    #[arg(long, value_name = "SIZE")]
    pub blob_quota: Option<String>,
}

impl NodeFlags {
    /// The flags that were given: they count for a node that starts, and for no other.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--listen", !self.listen.is_empty()),
            ("--bootstrap", !self.bootstrap.is_empty()),
            ("--no-mdns", self.no_mdns),
            ("--name", self.name.is_some()),
            ("--network", !self.networks.is_empty()),
            ("--external", !self.external.is_empty()),
            ("--no-upnp", self.no_upnp),
            ("--no-shortcuts", self.no_shortcuts),
            ("--relay", self.relay.is_some()),
            ("--label", !self.labels.is_empty()),
            ("--log", self.log.is_some()),
            ("--api-port", self.api_port.is_some()),
            ("--metrics", self.metrics.is_some()),
            ("--blob-quota", self.blob_quota.is_some()),
        ];
        all.into_iter()
            .filter_map(|(flag, given)| given.then_some(flag))
            .collect()
    }
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
    /// Only on these peers: ids, ten or more characters of their ends, or names of peers allowed here
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peers: Vec<String>,
    /// Folder for the outputs; files there are replaced [default: ./<name>-<job>/]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the job's id and return
    #[arg(long)]
    pub detach: bool,
    /// Say what would be run and where, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for a peer that fits [default: what the job file or config.toml says, else 15s]
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

/// `doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// Run a task through each executor and each GPU that is offered; on a node of its own, which ends
    /// with it, when none runs
    #[arg(long)]
    pub self_test: bool,
}

/// What a node tells its helpers.
#[derive(Args)]
pub struct HelperArgs {
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

pub(crate) fn humantime_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a time: write for example 30s or 5m"))
}
