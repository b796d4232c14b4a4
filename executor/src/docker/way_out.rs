//! The way out of one task: the node's proxy on the loopback of the task's container.
//!
//! The container has no network of its own, in the engine's eyes and in the kernel's: its namespace
//! holds a loopback and no route. The node enters that namespace for as long as it takes to listen on
//! one port there, and serves that port with [`crate::egress`]. The port is open before the task's
//! command starts and closed when the task has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use p2pnode_protocol::task::NetworkMode;
use rustix::process::Pid;
use tokio::sync::watch;
use tokio::time::sleep;

use super::enter;
use crate::egress::{Gate, Proxy};
use crate::{LiveUsage, TaskRun};

/// The port by custom of proxies; also in the documentation of jobs.
const PORT: u16 = 3_128;

/// What programs are told of the proxy, in both spellings that they look for.
const NAMES: [&str; 4] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
const DIRECT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// How often the owner is told of the bytes.
const TELL: Duration = Duration::from_millis(500);

/// A task's way out, or its lack of one. Dropping it closes it.
#[derive(Debug)]
pub(super) struct WayOut {
    proxy: Option<Proxy>,
    env: Vec<String>,
}

impl WayOut {
    /// Opens what `task` may have in the container whose first process is `init`.
    ///
    /// # Errors
    /// When the node can't listen in the container.
    pub(super) async fn open(gate: &Arc<Gate>, task: &TaskRun, init: Pid) -> Result<Self, String> {
        let NetworkMode::Egress { domains } = &task.network else {
            return Ok(Self {
                proxy: None,
                env: Vec::new(),
            });
        };
        let listening = tokio::task::spawn_blocking(move || enter::listen(init, PORT)).await;
        let proxy = listening
            .unwrap_or_else(|error| Err(error.into()))
            .and_then(|listener| Proxy::start(listener, domains, Arc::clone(gate)))
            .map_err(|error| format!("the node's proxy cannot listen in the container: {error}"))?;
        Ok(Self {
            proxy: Some(proxy),
            env: env(task),
        })
    }

    /// What the task's environment is given beside its own.
    pub(super) fn env(&self) -> &[String] {
        &self.env
    }

    /// Bytes that have passed, both ways.
    pub(super) fn bytes(&self) -> u64 {
        self.proxy.as_ref().map_or(0, Proxy::bytes)
    }

    /// Tells the owner of the bytes, again and again.
    pub(super) async fn tell(&self, usage: &watch::Sender<LiveUsage>) -> Infallible {
        let Some(proxy) = &self.proxy else {
            return std::future::pending().await;
        };
        loop {
            sleep(TELL).await;
            let bytes = proxy.bytes();
            usage.send_if_modified(|usage| {
                std::mem::replace(&mut usage.network_bytes, bytes) != bytes
            });
        }
    }
}

/// The variables of the proxy that the task does not set itself.
fn env(task: &TaskRun) -> Vec<String> {
    let own = |name: &str| task.env.iter().any(|(given, _)| given == name);
    let proxy = NAMES.map(|name| (name, format!("http://127.0.0.1:{PORT}")));
    let direct = DIRECT.map(|name| (name, "localhost,127.0.0.1".to_owned()));
    let all = proxy.into_iter().chain(direct);
    all.filter(|(name, _)| !own(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}
