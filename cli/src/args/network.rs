//! What `join` and `network` accept.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{NodeFlags, humantime_duration};

/// `join`.
#[derive(Args)]
pub struct JoinArgs {
    /// The ticket of a private network, to become a member of it
    pub ticket: Option<String>,
    /// Of the node.
    #[command(flatten)]
    pub node: NodeFlags,
}

/// `network`.
#[derive(Subcommand)]
pub enum NetworkVerb {
    /// Make a private network; this node is its first member
    #[command(after_help = "Example:\n  p2pnode network create lab && p2pnode join")]
    Create {
        /// Its name: a-z, 0-9, `-`, `_` and `.`
        name: String,
    },
    /// Print the ticket of this node's private network. Whoever has it is a member
    #[command(
        after_help = "Examples:\n  p2pnode network ticket                 # on the other machine: p2pnode join TICKET\n  \
        p2pnode network ticket --until 1h --qr  # for a camera, and not for long"
    )]
    Ticket {
        /// The network's name [default: the one this node is in]
        name: Option<String>,
        /// Nobody joins with it after so long, such as 1h or 7d [default: it holds for ever]. The key in
        /// it stays the network's, so it is no less a secret
        #[arg(long, value_name = "TIME", value_parser = humantime_duration)]
        until: Option<Duration>,
        /// Print it as a QR code, too
        #[arg(long)]
        qr: bool,
    },
    /// List the networks that this node is a member of
    #[command(after_help = "Example:\n  p2pnode network show --json")]
    Show,
    /// Be no member of a private network any more
    #[command(after_help = "Example:\n  p2pnode network leave lab")]
    Leave {
        /// Its name
        name: String,
    },
}
