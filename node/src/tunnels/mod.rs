//! Inside running tasks: this node's owner inside tasks elsewhere, and others inside tasks here.
//!
//! The protocol and all that is done with it stand in [`p2pnode_tunnel`]. This module is what joins
//! it to a node: [`doors`] says which tasks run here and whose they are, [`Tunnels`] opens a stream to
//! wherever a task of ours runs, and [`forwards`] keeps ports of this machine that lead into tasks.

mod doors;
mod forwards;

use std::net::SocketAddr;
use std::sync::Arc;

use p2pnode_protocol::api::{ErrorCode, TaskInfo, TaskState};
use p2pnode_protocol::tunnel::{PUBLIC_KEY_LEN, Purpose, TunnelFault, TunnelHello};
use p2pnode_protocol::{JobId, PeerId, TaskKey};
use p2pnode_tunnel::client::{self, OpenError};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub use self::doors::Doors;
pub use self::forwards::{Forwards, Wanted, parse_listen};
use crate::command::{CommandError, NodeHandle};
use crate::net::{self, NetStream, StreamKind};
use crate::networks::Networks;

/// Bytes between this node and itself that wait to be read, when it runs its own task (256 KiB, as
/// much as a stream of the network begins with).
const OWN_BUFFER: usize = 256 << 10;

/// A stream to the provider of a task.
pub trait TunnelStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> TunnelStream for T {}

/// Opens streams to wherever tasks run, and serves those that others open. Clones are cheap.
#[derive(Clone)]
pub struct Tunnels {
    net: Networks,
    provider: Arc<p2pnode_tunnel::Tunnels>,
    shortcuts: bool,
}

impl Tunnels {
    /// `secret` is known to this node alone and stays the same: host keys follow from it. `shortcuts` says
    /// whether any are taken.
    pub(crate) fn new(net: Networks, doors: Doors, secret: [u8; 32], shortcuts: bool) -> Self {
        Self {
            net,
            provider: p2pnode_tunnel::Tunnels::new(Arc::new(doors), secret),
            shortcuts,
        }
    }

    /// Serves a stream that `peer` opened.
    pub(crate) fn serve(&self, peer: PeerId, stream: NetStream) {
        let provider = self.provider.clone();
        tokio::spawn(async move { provider.serve(stream, peer).await });
    }

    /// Opens a stream to `peer`, which may be this node itself.
    ///
    /// # Errors
    /// When the peer can't be reached.
    pub async fn to(&self, peer: PeerId) -> Result<Box<dyn TunnelStream>, CommandError> {
        if peer == self.net.local_peer_id() {
            return Ok(Box::new(self.to_itself()));
        }
        match self.net.open_stream(peer, StreamKind::Tunnel).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(unreachable(peer, &error, &self.net.troubles(peer).await)),
        }
    }

    fn to_itself(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(OWN_BUFFER);
        let (provider, me) = (self.provider.clone(), self.net.local_peer_id());
        tokio::spawn(async move { provider.serve(far, me).await });
        near
    }

    /// Opens a stream to the provider that runs a task of this node's.
    ///
    /// # Errors
    /// When nobody runs it at the moment, or its provider can't be reached.
    pub async fn open(
        &self,
        node: &NodeHandle,
        job: JobId,
        index: u32,
    ) -> Result<Box<dyn TunnelStream>, CommandError> {
        let peer = place(node, job, index).await?;
        self.to(peer).await
    }

    /// Where `peer` is likely to take a [shortcut](p2pnode_tunnel::client::shortcut). No tunnel to this
    /// node itself has one: there is no way that could be shorter.
    pub async fn shortcut(&self, peer: PeerId) -> Option<SocketAddr> {
        if !self.shortcuts {
            return None;
        }
        self.net.tcp_address(peer).await
    }

    /// Serves the connections that ask for shortcuts until there can be no more.
    pub(crate) async fn take_shortcuts(self, mut connections: mpsc::Receiver<TcpStream>) {
        while let Some(connection) = connections.recv().await {
            let provider = self.provider.clone();
            tokio::spawn(async move { provider.take_shortcut(connection).await });
        }
    }

    /// Asks at a task's door whether this node may come in for `purpose`, and goes away. Without one, for an
    /// SSH connection that never begins: that passes the door and touches nothing behind it.
    ///
    /// # Errors
    /// As [`Tunnels::open`], and what the provider says.
    pub async fn knock(
        &self,
        node: &NodeHandle,
        task: TaskKey,
        purpose: Option<Purpose>,
    ) -> Result<(), CommandError> {
        let stream = self.open(node, task.job, task.index).await?;
        let hello = TunnelHello {
            job: task.job,
            step: task.step,
            index: task.index,
            purpose: purpose.unwrap_or(Purpose::Ssh {
                client_key: [0; PUBLIC_KEY_LEN],
                shortcut: false,
            }),
        };
        match client::open(stream, &hello).await {
            Ok(_) => Ok(()),
            Err(OpenError::Refused(refusal)) => {
                let mut why = refusal.to_string();
                if refusal.kind == TunnelFault::NobodyListens {
                    why.push_str(
                        ": start its server, or forward with --later if it will yet start",
                    );
                }
                Err(CommandError::new(ErrorCode::Invalid, why))
            }
            Err(error) => Err(CommandError::new(ErrorCode::Unavailable, error.to_string())),
        }
    }
}

/// Who runs a task of this node's.
///
/// # Errors
/// When nobody does at the moment.
pub async fn place(node: &NodeHandle, job: JobId, index: u32) -> Result<PeerId, CommandError> {
    let task = task(node, job, index).await?;
    match unfit(&task) {
        Some(why) => Err(why),
        None => provider(&task),
    }
}

/// Who runs a task of this node's, or did last.
///
/// # Errors
/// When nobody has begun it.
pub async fn last_place(node: &NodeHandle, job: JobId, index: u32) -> Result<PeerId, CommandError> {
    provider(&task(node, job, index).await?)
}

async fn task(node: &NodeHandle, job: JobId, index: u32) -> Result<TaskInfo, CommandError> {
    let until = index.saturating_add(1);
    let found = node.view(move |core| core.tasks(job, index..until)).await?;
    found.into_iter().next().ok_or_else(|| {
        let why = format!("job {job} has no task {index}; `p2pnode job {job}` lists them");
        CommandError::new(ErrorCode::NotFound, why)
    })
}

fn provider(task: &TaskInfo) -> Result<PeerId, CommandError> {
    let peer = task.peer.as_deref().and_then(|peer| peer.parse().ok());
    peer.ok_or_else(|| not_yet(&task.task))
}

/// Why nobody can be inside a task in this state.
fn unfit(task: &TaskInfo) -> Option<CommandError> {
    let name = &task.task;
    match task.state {
        // After a restart here, or a lost link, a task that runs counts as queued: its provider knows better.
        TaskState::Running | TaskState::Queued => None,
        TaskState::Pending => Some(not_yet(name)),
        TaskState::Collecting | TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
            Some(CommandError::new(
                ErrorCode::Invalid,
                format!(
                    "task {name} has ended; its outputs and `p2pnode logs {name}` are what is left"
                ),
            ))
        }
    }
}

fn not_yet(name: &str) -> CommandError {
    CommandError::new(
        ErrorCode::Unavailable,
        format!("task {name} does not run yet; `p2pnode job` shows what it waits for"),
    )
}

/// Says why there is no stream to a provider: what the network met with on the way says more than the
/// stream's own error.
fn unreachable(peer: PeerId, error: &net::OpenError, troubles: &[String]) -> CommandError {
    let why = match (error, troubles) {
        (net::OpenError::Unreachable, [_, ..]) => troubles.join("; "),
        (error, _) => error.to_string(),
    };
    CommandError::new(
        ErrorCode::Unavailable,
        format!("the task's provider {peer} cannot be reached: {why}"),
    )
}
