//! The way out of a task: a small HTTP proxy of the node's, one for each task that may have it.
//!
//! Owns what may pass. A task reaches names that its job lists and the node's owner permits, on the
//! ports of the web, and only at public addresses: never this machine, its neighbours, private
//! networks, or where clouds tell secrets to whoever asks. `head` reads requests and refuses what two
//! readers could understand differently, `domains` says which names a job may reach, `addresses` and
//! `neighbours` which addresses anyone may, `connection` carries one request, `relay` its bytes.
//!
//! It must never connect to an address other than the one that was checked, nor ask for a name twice:
//! the second answer may differ. It knows nothing of containers: who calls it hands it a listener that
//! only the task can reach. It sees names and addresses and not what is said inside TLS.

mod addresses;
mod connection;
mod domains;
mod head;
mod neighbours;
mod relay;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use self::addresses::Public;
use self::connection::Connection;
use self::domains::Domains;

/// Connections that one task may have open: what a browser has, several times over.
const MOST_CONNECTIONS: usize = 64;

/// Connections of all tasks together, as a part of the files that this process may have open: each
/// needs two, and the node has other work.
const FILES_PER_CONNECTION: u64 = 8;

/// The least and the most of them, whatever the limit of open files.
const TOGETHER: (u64, u64) = (64, 4_096);

/// Names asked for at once by all tasks together: each occupies a thread, of which there are 512.
const MOST_LOOKUPS: usize = 32;

/// The web, plain and in TLS.
const PORTS: [u16; 2] = [80, 443];

/// Pause after the system refused a connection to us, usually for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Finds the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync + std::fmt::Debug {
    /// The addresses of `name`, which may be an address in text.
    ///
    /// # Errors
    /// When there are none.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Says which addresses may be reached.
pub trait Addresses: Send + Sync + std::fmt::Debug {
    /// # Errors
    /// Why `address` may not be reached, in words that go before a comma.
    fn check(&self, address: IpAddr) -> Result<(), String>;
}

/// What all proxies of a node have in common.
#[derive(Debug)]
pub struct Gate {
    resolver: Box<dyn Resolve>,
    addresses: Box<dyn Addresses>,
    ports: Vec<u16>,
    lookups: Semaphore,
    together: Arc<Semaphore>,
}

impl Default for Gate {
    /// The system's resolver, public addresses, the ports of the web. What a node uses.
    fn default() -> Self {
        Self::with(Box::new(System), Box::new(Public), PORTS.to_vec())
    }
}

impl Gate {
    /// Other rules, for tests: only code can set them. No configuration and no peer leads here.
    #[must_use]
    pub fn with(
        resolver: Box<dyn Resolve>,
        addresses: Box<dyn Addresses>,
        ports: Vec<u16>,
    ) -> Self {
        Self {
            resolver,
            addresses,
            ports,
            lookups: Semaphore::new(MOST_LOOKUPS),
            together: Arc::new(Semaphore::new(most_together())),
        }
    }
}

/// Why a host is none that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// It has no address that this machine knows, or none in time.
    Unknown,
    /// It leads to an address that is refused.
    Refused,
}

impl Gate {
    /// Whether every address of `host` is one that may be reached.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn check_host(&self, host: &str) -> Result<(), Unreachable> {
        let found = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => {
                let found = async {
                    let _turn = self.lookups.acquire().await;
                    self.resolver.resolve(host).await
                };
                let found = tokio::time::timeout(connection::RESOLVING, found).await;
                found.ok().and_then(Result::ok).unwrap_or_default()
            }
        };
        if found.is_empty() {
            return Err(Unreachable::Unknown);
        }
        match found.iter().all(|at| self.addresses.check(*at).is_ok()) {
            true => Ok(()),
            false => Err(Unreachable::Refused),
        }
    }
}

/// Connections that all tasks of this node may have open.
fn most_together() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = files.map_or(TOGETHER.1, |files| files / FILES_PER_CONNECTION);
    usize::try_from(most.clamp(TOGETHER.0, TOGETHER.1)).unwrap_or(MOST_CONNECTIONS)
}

/// The names as this machine knows them.
#[derive(Debug)]
struct System;

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // The port has no part in it.
        let found = lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// One task's proxy. Dropping it closes its port and every connection.
#[derive(Debug)]
pub struct Proxy {
    serving: JoinHandle<()>,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// Serves `listener`, which does not block and which only the task may reach, with a way to
    /// `domains`. Needs an async runtime.
    ///
    /// # Errors
    /// When the runtime can't watch the listener.
    pub fn start(
        listener: std::net::TcpListener,
        domains: &[String],
        gate: Arc<Gate>,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        let bytes = Arc::new(AtomicU64::new(0));
        let connection = Connection {
            gate,
            domains: Arc::new(Domains::new(domains)),
            bytes: Arc::clone(&bytes),
        };
        let serving = tokio::spawn(serve(listener, connection));
        Ok(Self { serving, bytes })
    }

    /// Bytes that have passed so far, both ways: what connections carry, without what is said to the
    /// proxy itself.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are in a set that this task holds, and end with it.
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, connection: Connection) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if open.len() < MOST_CONNECTIONS => {
                    match Arc::clone(&connection.gate.together).try_acquire_owned() {
                        Ok(permit) => {
                            let served = connection.clone().serve(client);
                            open.spawn(async move {
                                served.await;
                                drop(permit);
                            });
                        }
                        Err(_) => connection::turn_away(&client, "this provider's tasks have"),
                    }
                }
                Ok((client, _)) => connection::turn_away(&client, "this task has"),
                Err(error) => {
                    tracing::debug!(%error, "a task's connection to its proxy failed");
                    tokio::time::sleep(BREATH).await;
                }
            },
            Some(_ended) = open.join_next() => {}
        }
    }
}
