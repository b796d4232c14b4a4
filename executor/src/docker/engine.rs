//! Finding an engine and agreeing with it on an API version.
//!
//! Owns the connection. The engine may start later than the node, stop and come back: nothing is
//! remembered but an engine that answered, and [`Engine::forget`] makes the next call look again.
//! An engine that cannot enforce what a sandbox needs is refused here, once, with the mend: no other
//! module may run a container on trust.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::Mutex;

use super::sandboxes::Sandboxes;
use super::{fitness, words};

/// Longest wait for the head of an answer. Starting a container on a machine with a busy disk has
/// been seen to take half a minute; this is bollard's own default.
const REQUEST_TIMEOUT_S: u64 = 120;

/// Longest wait for a first answer: an engine that is there answers in milliseconds.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an engine may take to describe itself: a busy one counts all its containers for it.
const INFO_TIMEOUT: Duration = Duration::from_secs(20);

/// Where Docker and Podman listen by default, tried in this order after the per-user sockets.
const SYSTEM_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];

/// Where an engine run by the user listens, below `$XDG_RUNTIME_DIR`.
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// Where Docker Desktop listens, below `$HOME`.
const DESKTOP_SOCKETS: [&str; 2] = [".docker/run/docker.sock", ".docker/desktop/docker.sock"];

/// Why there is no usable engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No socket is there.
    #[error(
        "no container engine: none of {tried} is there. Install and start Docker or Podman, or set \
         DOCKER_HOST"
    )]
    NotFound {
        /// Where it was looked for.
        tried: String,
    },
    /// It is there and does not answer.
    #[error("the container engine at {address} does not answer: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        why: String,
    },
    /// It answers and cannot do what a sandbox needs.
    #[error("the container engine at {address} cannot be used: {why}")]
    Unfit {
        /// Where.
        address: String,
        /// What is missing, with the mend.
        why: String,
    },
}

/// An engine that answered and is fit for use.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The client, at the agreed API version.
    pub docker: Docker,
    /// Where it is, in the form of `DOCKER_HOST`.
    pub address: String,
    /// Its version, for people.
    pub version: String,
    /// Whether the engine runs as an ordinary user, so that root in a container is that user.
    pub rootless: bool,
    /// The OCI runtimes that it has.
    pub(super) sandboxes: Sandboxes,
    /// Whether it can freeze containers.
    pub can_pause: bool,
}

/// The engine of this machine.
#[derive(Debug)]
pub struct Engine {
    socket: Option<String>,
    known: Mutex<Option<Arc<Connected>>>,
}

impl Engine {
    /// The engine at `socket` (a path, `unix://...` or `tcp://...`); without one, what `DOCKER_HOST`
    /// names, or else the first default socket that answers. Does not connect yet.
    #[must_use]
    pub fn new(socket: Option<String>) -> Self {
        Self {
            socket,
            known: Mutex::new(None),
        }
    }

    /// The engine, found again when it was not there before.
    ///
    /// # Errors
    /// Why there is none, with the mend.
    pub async fn connect(&self) -> Result<Arc<Connected>, EngineError> {
        let mut known = self.known.lock().await;
        if let Some(engine) = &*known {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(find(self.socket.as_deref()).await?);
        tracing::info!(
            address = engine.address,
            version = engine.version,
            "container engine found"
        );
        *known = Some(Arc::clone(&engine));
        Ok(engine)
    }

    /// Looks for the engine anew at the next call: it has stopped answering.
    pub async fn forget(&self) {
        *self.known.lock().await = None;
    }
}

async fn find(socket: Option<&str>) -> Result<Connected, EngineError> {
    first(socket, hello).await
}

/// What `ask` says of the engine at `socket`, or of the first default one of which it says anything.
pub(super) async fn first<T>(
    socket: Option<&str>,
    ask: impl AsyncFn(&str) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let host = std::env::var("DOCKER_HOST")
        .ok()
        .filter(|host| !host.is_empty());
    if let Some(address) = socket.map(str::to_owned).or(host) {
        return ask(&address).await;
    }
    let variable = |name| std::env::var(name).ok();
    let candidates = default_sockets(
        variable("XDG_RUNTIME_DIR").as_deref(),
        variable("HOME").as_deref(),
    );
    let mut first_error = None;
    for socket in candidates
        .iter()
        .filter(|socket| Path::new(socket).exists())
    {
        match ask(socket).await {
            Ok(engine) => return Ok(engine),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or_else(|| EngineError::NotFound {
        tried: candidates.join(", "),
    }))
}

fn default_sockets(runtime_dir: Option<&str>, home: Option<&str>) -> Vec<String> {
    let below = |dir: Option<&str>, names: [&str; 2]| {
        let sockets = dir.map(|dir| names.map(|name| format!("{dir}/{name}")));
        sockets.into_iter().flatten()
    };
    // The system's engine first: it can enforce limits that a user's engine often can't.
    SYSTEM_SOCKETS
        .map(str::to_owned)
        .into_iter()
        .chain(below(runtime_dir, USER_SOCKETS))
        .chain(below(home, DESKTOP_SOCKETS))
        .collect()
}

/// Connects without asking anything of the engine: for the reaper, which knows that it is fit.
pub(super) async fn dial(address: &str) -> Result<Docker, EngineError> {
    let unreachable = |why: String| EngineError::Unreachable {
        address: address.to_owned(),
        why,
    };
    let host = if address.starts_with('/') {
        format!("unix://{address}")
    } else {
        address.to_owned()
    };
    let client = if let Some(path) = host.strip_prefix("unix://") {
        if !Path::new(path).exists() {
            return Err(EngineError::NotFound {
                tried: path.to_owned(),
            });
        }
        Docker::connect_with_unix(&host, REQUEST_TIMEOUT_S, API_DEFAULT_VERSION)
    } else {
        Docker::connect_with_host(&host)
            .map(|docker| docker.with_timeout(Duration::from_secs(REQUEST_TIMEOUT_S)))
    };
    let client = client.map_err(|error| unreachable(words(&error)))?;
    match tokio::time::timeout(HELLO_TIMEOUT, client.negotiate_version()).await {
        Ok(Ok(docker)) => Ok(docker),
        Ok(Err(error)) => Err(unreachable(with_mend(&words(&error)))),
        Err(_) => Err(unreachable(format!("no answer within {HELLO_TIMEOUT:?}"))),
    }
}

fn with_mend(why: &str) -> String {
    if why.to_ascii_lowercase().contains("permission denied") {
        format!("{why}. Add your user to the group `docker` and log in again")
    } else {
        why.to_owned()
    }
}

/// The engine at `address` and what it says of itself, fit or not.
pub(super) async fn ask(address: &str) -> Result<(Docker, SystemInfo), EngineError> {
    let docker = dial(address).await?;
    let unreachable = |why| EngineError::Unreachable {
        address: address.to_owned(),
        why,
    };
    // One that hangs must not hold up all who wait for it.
    match tokio::time::timeout(INFO_TIMEOUT, docker.info()).await {
        Ok(Ok(info)) => Ok((docker, info)),
        Ok(Err(error)) => Err(unreachable(words(&error))),
        Err(_) => Err(unreachable(format!("no answer within {INFO_TIMEOUT:?}"))),
    }
}

async fn hello(address: &str) -> Result<Connected, EngineError> {
    let (docker, info) = ask(address).await?;
    fitness::check(&info).map_err(|why| EngineError::Unfit {
        address: address.to_owned(),
        why,
    })?;
    Ok(Connected {
        docker,
        address: address.to_owned(),
        version: info.server_version.clone().unwrap_or_default(),
        rootless: fitness::has_option(&info, "rootless"),
        sandboxes: Sandboxes::of(&info),
        can_pause: fitness::can_pause(&info),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_engine_is_tried_first() {
        let sockets = default_sockets(Some("/run/user/7"), Some("/home/a"));
        assert_eq!(sockets[0], "/var/run/docker.sock");
        assert_eq!(sockets[3], "/run/user/7/podman/podman.sock");
        assert_eq!(sockets[4], "/home/a/.docker/run/docker.sock");
        assert_eq!(default_sockets(None, None).len(), 2);
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_with_its_address() {
        let engine = Engine::new(Some("/no/such/docker.sock".into()));
        let error = engine.connect().await.unwrap_err();
        assert!(
            error.to_string().contains("/no/such/docker.sock"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_engine_that_starts_late_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let engine = Engine::new(Some(socket.display().to_string()));
        assert!(matches!(
            engine.connect().await,
            Err(EngineError::NotFound { .. })
        ));
        // Something listens and hangs up: found, but no engine.
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let hang_up = tokio::spawn(async move { drop(listener.accept().await) });
        let error = engine.connect().await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error}");
        hang_up.await.unwrap();
    }
}
