//! The demo's providers: child processes of this program.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::exit::Failure;

/// Where all of the demo's nodes listen: a free port on loopback.
pub const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// Longest wait for a provider's `ready`.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Longest wait for a provider to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(10);

struct Provider {
    name: String,
    id: String,
    child: Child,
}

/// See the module. Children are killed when this is dropped.
pub struct Providers {
    all: Vec<Provider>,
    bootstrap: String,
}

impl Providers {
    /// Starts `count` providers that let `submitter` run tasks. The first is the others' bootstrap.
    pub async fn start(scratch: &Path, count: usize, submitter: &str) -> Result<Self, Failure> {
        let (first, bootstrap) = launch(scratch, 1, submitter, None).await?;
        let mut all = vec![first];
        for number in 2..=count {
            let (provider, _address) = launch(scratch, number, submitter, Some(&bootstrap)).await?;
            all.push(provider);
        }
        Ok(Self { all, bootstrap })
    }

    /// The address that everyone begins with.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Peer ids.
    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.all.iter().map(|provider| &provider.id)
    }

    /// Peer ids and names.
    pub fn named(&self) -> impl Iterator<Item = (&String, &String)> {
        self.all
            .iter()
            .map(|provider| (&provider.id, &provider.name))
    }

    /// A provider's name.
    pub fn name_of(&self, peer: &str) -> String {
        let found = self.all.iter().find(|provider| provider.id == peer);
        found.map_or_else(|| peer.to_owned(), |provider| provider.name.clone())
    }

    /// Ends a provider with SIGKILL.
    pub async fn kill(&mut self, peer: &str) -> Result<(), Failure> {
        let Some(provider) = self.all.iter_mut().find(|provider| provider.id == peer) else {
            return Err(Failure::internal(format!(
                "{peer} is none of the demo's providers"
            )));
        };
        let killed = provider.child.kill().await;
        killed.map_err(|error| {
            Failure::internal(format!("{} could not be killed: {error}", provider.name))
        })
    }

    /// Ends all providers.
    pub async fn stop(&mut self) {
        for provider in &self.all {
            if let Some(pid) = provider
                .child
                .id()
                .and_then(|id| Pid::from_raw(id.cast_signed()))
            {
                // It may have ended by itself.
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
        for provider in &mut self.all {
            if tokio::time::timeout(STOP_LIMIT, provider.child.wait())
                .await
                .is_err()
            {
                let _gone = provider.child.kill().await;
            }
        }
    }
}

async fn launch(
    scratch: &Path,
    number: usize,
    submitter: &str,
    bootstrap: Option<&str>,
) -> Result<(Provider, String), Failure> {
    let name = format!("provider-{number}");
    let program = std::env::current_exe().map_err(|error| {
        Failure::internal(format!("this program's own file is not found: {error}"))
    })?;
    let mut command = Command::new(program);
    command
        .arg("offer")
        .arg("--data-dir")
        .arg(scratch.join(&name))
        .args([
            "--listen",
            LISTEN,
            "--no-mdns",
            "--name",
            &name,
            "--allow",
            submitter,
        ])
        .args(["--cpus", "1", "--memory", "1GiB", "--disk", "1GiB"])
        .env_remove("P2PNODE_DATA_DIR")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(address) = bootstrap {
        command.args(["--bootstrap", address]);
    }
    let failed = |why: String| Failure::internal(format!("{name} did not start: {why}"));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| failed("no stdout".into()))?;
    let mut lines = BufReader::new(stdout).lines();
    let ready = tokio::time::timeout(READY_LIMIT, lines.next_line()).await;
    let line = match ready {
        Ok(Ok(Some(line))) => line,
        Ok(Ok(None)) => return Err(failed("it ended".into())),
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("it was not ready after {READY_LIMIT:?}"))),
    };
    let mut words = line.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("ready"), Some(id), Some(address)) => {
            let full = if address.contains("/p2p/") {
                address.to_owned()
            } else {
                format!("{address}/p2p/{id}")
            };
            Ok((
                Provider {
                    name,
                    id: id.to_owned(),
                    child,
                },
                full,
            ))
        }
        _ => Err(failed(format!("it said `{line}`"))),
    }
}
