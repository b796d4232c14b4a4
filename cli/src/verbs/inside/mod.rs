//! Verbs about what goes on inside a task: `run`, `exec`, `cp`, `ssh`, `forward`.

mod attend;
mod copy;
mod forward;
mod joint;
mod names;
mod run;
mod ssh;
mod terminal;
mod volume;
mod written;

use std::process::ExitCode;

use p2pnode_protocol::TaskKey;
use p2pnode_protocol::tunnel::{Opened, Purpose, TunnelFault, TunnelHello};
use p2pnode_tunnel::client::{self, OpenError};
use tokio::net::TcpStream;

use crate::args::{Global, InsideVerb};
use crate::exit::Failure;

pub async fn inside(global: &Global, verb: InsideVerb) -> Result<ExitCode, Failure> {
    match verb {
        InsideVerb::Run(args) => run::run(global, &args).await,
        InsideVerb::Exec(args) => attend::exec(global, &args).await,
        InsideVerb::Cp { from, to } => copy::copy(global, &from, &to).await,
        InsideVerb::Ssh(args) => ssh::ssh(global, &args).await,
        InsideVerb::SshConfig => ssh::ssh_config(global),
        InsideVerb::Tunnel(args) => ssh::tunnel(global, &args).await,
        InsideVerb::Forward {
            task,
            ports,
            udp,
            later,
        } => forward::forward(global, &task, &ports, udp, later).await,
        InsideVerb::Forwards { close } => forward::forwards(global, close).await,
    }
}

/// Says what a stream to a task's provider is for.
async fn open(
    stream: TcpStream,
    task: &TaskKey,
    purpose: Purpose,
) -> Result<(Opened, TcpStream), Failure> {
    let hello = TunnelHello {
        job: task.job,
        step: task.step,
        index: task.index,
        purpose,
    };
    client::open(stream, &hello).await.map_err(refused)
}

/// Why there is no tunnel, as the program's end.
fn refused(error: OpenError) -> Failure {
    match error {
        OpenError::Refused(refusal) => match refusal.kind {
            TunnelFault::Host | TunnelFault::TooMany => Failure::nobody(refusal.message),
            _ => Failure::usage(refusal.message),
        },
        broken => Failure::nobody(broken.to_string()),
    }
}
