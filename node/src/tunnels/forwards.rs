//! Ports of this machine that lead into tasks, wherever those run.
//!
//! A forward outlives the place of its task: each connection finds out anew who runs it. It ends when
//! it is closed, when its job ends, and with the node.

mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pnode_protocol::api::{ErrorCode, Event, ForwardInfo};
use p2pnode_protocol::tunnel::{Purpose, TunnelHello};
use p2pnode_protocol::{JobId, TaskKey};
use p2pnode_tunnel::client;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{TunnelStream, Tunnels};
use crate::command::{CommandError, NodeHandle};

/// The most forwards of a node: a table that somebody has to read.
const MAX_FORWARDS: usize = 64;

/// The most connections of one forward at a time: what a browser's busiest page opens, many times over.
const MAX_CONNECTIONS: u32 = 128;

/// Buffers between a connection and its tunnel, each way (64 KiB, a pipe's).
const COPY_BYTES: usize = 64 << 10;

/// How long is waited after a connection could not be accepted: the system lacks something, and asking
/// again at once would only take more of it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a new forward is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The job.
    pub job: JobId,
    /// The task in it.
    pub index: u32,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The port in the task.
    pub port: u16,
    /// UDP in place of TCP.
    pub udp: bool,
}

/// Reads `PORT` or `ADDRESS:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse().map_err(|_| {
        format!("`{text}` is no place to listen: write PORT or ADDRESS:PORT, such as 8888 or 127.0.0.1:8888")
    })
}

/// All forwards of a node. Clones are the same table.
#[derive(Clone)]
pub struct Forwards {
    tunnels: Tunnels,
    table: Arc<Mutex<BTreeMap<u32, Forward>>>,
    next: Arc<AtomicU32>,
}

struct Forward {
    wanted: Wanted,
    listen: SocketAddr,
    since_ms: u64,
    state: Arc<State>,
    _closing: DropGuard,
}

/// What a forward's connections tell.
#[derive(Default)]
struct State {
    connections: AtomicU32,
    trouble: Mutex<Option<String>>,
}

impl State {
    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// A place for one more connection.
    fn take(self: &Arc<Self>) -> Option<Place> {
        let more = |open: u32| (open < MAX_CONNECTIONS).then_some(open + 1);
        let taken = self
            .connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| Place(self.clone()))
    }
}

/// A place, given back when dropped.
struct Place(Arc<State>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All that one forward's connections need.
#[derive(Clone)]
struct Way {
    node: NodeHandle,
    tunnels: Tunnels,
    wanted: Wanted,
    state: Arc<State>,
}

impl Way {
    /// Opens a tunnel to the port.
    async fn open(&self) -> Result<Box<dyn TunnelStream>, String> {
        let Wanted {
            job, index, port, ..
        } = self.wanted;
        let opened = self.tunnels.open(&self.node, job, index).await;
        let stream = opened.map_err(|error| error.message)?;
        let purpose = match self.wanted.udp {
            true => Purpose::Udp { port },
            false => Purpose::Tcp { port },
        };
        let hello = TunnelHello {
            job,
            step: 0,
            index,
            purpose,
        };
        match client::open(stream, &hello).await {
            Ok((_, stream)) => Ok(stream),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Carries one connection to its end.
    async fn carry(self, mut near: TcpStream) {
        let Some(_place) = self.state.take() else {
            let why = format!("more than {MAX_CONNECTIONS} connections at a time");
            return self.state.note(Some(why));
        };
        match self.open().await {
            Err(trouble) => {
                tracing::info!(port = self.wanted.port, trouble, "a forwarded connection");
                self.state.note(Some(trouble));
            }
            Ok(mut far) => {
                self.state.note(None);
                let _ = near.set_nodelay(true);
                let copied =
                    copy_bidirectional_with_sizes(&mut near, &mut far, COPY_BYTES, COPY_BYTES);
                // Either side may break off as it likes.
                let _ = copied.await;
            }
        }
    }

    async fn accept(self, listener: TcpListener, closed: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closed.cancelled() => return,
            };
            match accepted {
                Ok((near, _)) => {
                    let (way, closed) = (self.clone(), closed.clone());
                    tokio::spawn(closed.run_until_cancelled_owned(way.carry(near)));
                }
                Err(error) => {
                    tracing::debug!(%error, "a forward cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Forwards {
    /// No forwards yet.
    pub(crate) fn new(tunnels: Tunnels) -> Self {
        Self {
            tunnels,
            table: Arc::default(),
            next: Arc::new(AtomicU32::new(1)),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Forward>> {
        // Nothing that is done under the lock can leave it half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens one.
    ///
    /// # Errors
    /// When the address can't be listened on, or there are too many.
    pub async fn create(
        &self,
        node: &NodeHandle,
        wanted: Wanted,
    ) -> Result<ForwardInfo, CommandError> {
        let in_use = |error: &io::Error| {
            CommandError::new(
                ErrorCode::Invalid,
                format!(
                    "cannot listen on {}: {error}; give another port, or 0 for any that is free",
                    wanted.listen
                ),
            )
        };
        let state = Arc::new(State::default());
        let closed = CancellationToken::new();
        let way = Way {
            node: node.clone(),
            tunnels: self.tunnels.clone(),
            wanted,
            state: state.clone(),
        };
        let ending = closed.clone();
        let listen = if wanted.udp {
            let socket = UdpSocket::bind(wanted.listen).await;
            let socket = socket.map_err(|error| in_use(&error))?;
            let listen = socket.local_addr().map_err(|error| in_use(&error))?;
            tokio::spawn(
                closed
                    .clone()
                    .run_until_cancelled_owned(udp::carry(way, socket)),
            );
            listen
        } else {
            let listener = TcpListener::bind(wanted.listen).await;
            let listener = listener.map_err(|error| in_use(&error))?;
            let listen = listener.local_addr().map_err(|error| in_use(&error))?;
            tokio::spawn(way.accept(listener, closed.clone()));
            listen
        };
        if !listen.ip().is_loopback() {
            tracing::warn!(%listen, "whoever reaches this address reaches the task");
        }
        let since_ms = SystemTime::now().duration_since(UNIX_EPOCH);
        let forward = Forward {
            wanted,
            listen,
            since_ms: since_ms.map_or(0, |since| since.as_millis() as u64),
            state,
            _closing: closed.drop_guard(),
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let info = forward.info(id);
        {
            let mut table = self.table();
            if table.len() >= MAX_FORWARDS {
                let why = format!(
                    "{MAX_FORWARDS} ports are forwarded already; `p2pnode forwards --close ID` closes one"
                );
                return Err(CommandError::new(ErrorCode::Invalid, why));
            }
            table.insert(id, forward);
        }
        tokio::spawn(ending.run_until_cancelled_owned(self.clone().end_with_job(
            node.clone(),
            id,
            wanted.job,
        )));
        Ok(info)
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<ForwardInfo> {
        let table = self.table();
        table
            .iter()
            .map(|(id, forward)| forward.info(*id))
            .collect()
    }

    /// Closes one and its connections.
    #[must_use]
    pub fn close(&self, id: u32) -> Option<ForwardInfo> {
        let forward = self.table().remove(&id)?;
        Some(forward.info(id))
    }

    /// Closes it once its job has ended.
    async fn end_with_job(self, node: NodeHandle, id: u32, job: JobId) {
        let mut events = node.events();
        let name = job.to_string();
        loop {
            // Asked first, so that an end before the first event counts too.
            let info = node.view(move |core| core.job(job)).await;
            if !matches!(info, Ok(Some(info)) if info.finished_ms.is_none()) {
                let _closed = self.close(id);
                return;
            }
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if matches!(&*event, Event::JobFinished { job, .. } if *job == name) {
                            break;
                        }
                    }
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

impl Forward {
    fn info(&self, id: u32) -> ForwardInfo {
        let Wanted {
            job,
            index,
            port,
            udp,
            ..
        } = self.wanted;
        let task = TaskKey {
            job,
            step: 0,
            index,
        };
        let trouble = self.state.trouble.lock();
        ForwardInfo {
            id,
            task: task.to_string(),
            listen: self.listen.to_string(),
            port,
            udp,
            connections: self.state.connections.load(Ordering::Relaxed),
            trouble: trouble.unwrap_or_else(PoisonError::into_inner).clone(),
            since_ms: self.since_ms,
        }
    }
}
