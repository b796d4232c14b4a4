//! What verbs about ways to peers accept.

use std::time::Duration;

use clap::{Args, Subcommand};
use p2pnode_protocol::MilliCpus;

use super::humantime_duration;

/// Verbs about ways to peers.
#[derive(Subcommand)]
pub enum ReachVerb {
    /// Measure round trips to a peer
    #[command(
        after_help = "Examples:\n  p2pnode ping desk -c 4\n  p2pnode ping 12D3KooW... --json      # a line for each, and one that sums up\n\n\
        Each says whether it went directly or through a relay. The exit code is 1 when nothing came back, and 3 when there is no way to the peer."
    )]
    Ping(PingArgs),
    /// Ask the network where a peer is, or who offers capacity
    #[command(
        after_help = "Examples:\n  p2pnode find 12D3KooW...\n  p2pnode find --cpus 8\n  p2pnode find --gpus 1 --json\n\n\
        The DHT is asked, so a peer need never have been met. The exit code is 1 when nothing is found."
    )]
    Find(FindArgs),
    /// Show the connections to a peer
    #[command(
        after_help = "Examples:\n  p2pnode path desk\n  p2pnode path 12D3KooW... --json\n\n\
        A star marks the one that new data takes. Bytes are those of inputs, outputs and logs."
    )]
    Path(PathArgs),
}

/// `ping`.
#[derive(Args)]
pub struct PingArgs {
    /// The peer: its id, the beginning or the end of it, or the name of one allowed here
    pub peer: String,
    /// How many round trips [default: until Ctrl-C on a terminal, else 4]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub count: Option<u32>,
    /// Time between two
    #[arg(short, long, value_name = "TIME", value_parser = humantime_duration, default_value = "1s")]
    pub interval: Duration,
}

/// `find`.
#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct FindArgs {
    /// The peer: its whole id, or, when it is known here, the beginning or the end of it, or the name of one allowed here
    #[arg(conflicts_with_all = ["cpus", "gpus"])]
    pub peer: Option<String>,
    /// Peers that offer so many CPUs at least
    #[arg(long, value_name = "N")]
    pub cpus: Option<MilliCpus>,
    /// Peers that offer so many GPUs at least
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
}

/// `path`.
#[derive(Args)]
pub struct PathArgs {
    /// The peer: its id, the beginning or the end of it, or the name of one allowed here
    pub peer: String,
}
