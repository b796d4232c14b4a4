//! How a client finds the node that runs in a data directory.
//!
//! `api.json` names the address; the lock says whether a node holds the directory now. Both are
//! asked, so that what a killed node left behind sends no client, and no token, to whatever
//! program has its port today.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::error::HomeError;
use super::{DataDir, holder, secret};

/// What `api.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    /// Where the API answers.
    address: SocketAddr,
    /// The node's process.
    pid: u32,
}

/// Where the API of a running node answers, and what to show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiEndpoint {
    /// Its address, on loopback unless the owner configured another.
    pub addr: SocketAddr,
    /// The bearer token.
    pub token: String,
    /// The node's process id.
    pub pid: u32,
}

impl std::fmt::Debug for ApiEndpoint {
    /// Without the token: this may end up in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiEndpoint")
            .field("addr", &self.addr)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl ApiEndpoint {
    /// The API of the node that runs in `dir`; `None` when none runs there, or its API is not up
    /// (yet, or any more).
    ///
    /// # Errors
    /// The files are there and cannot be used: [`HomeError::Io`] (another user's node, for example),
    /// [`HomeError::Exposed`], [`HomeError::BadToken`] or [`HomeError::BadEndpoint`].
    pub fn read(dir: &DataDir) -> Result<Option<Self>, HomeError> {
        let paths = dir.paths();
        let mut lock = match File::open(&paths.lock) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HomeError::at(&paths.lock)(error)),
        };
        match lock.try_lock_shared() {
            // Nobody holds it; ours is freed with the handle.
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(HomeError::at(&paths.lock)(error)),
        }
        let bytes = match fs::read(&paths.api) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HomeError::at(&paths.api)(error)),
        };
        let published: Published =
            serde_json::from_slice(&bytes).map_err(|source| HomeError::BadEndpoint {
                path: paths.api.clone(),
                source,
            })?;
        if holder(&mut lock) != Some(published.pid) {
            return Ok(None);
        }
        let token = secret::existing_token(&paths.token)?;
        Ok(token.map(|token| Self {
            addr: published.address,
            token,
            pid: published.pid,
        }))
    }
}

/// Writes `api.json` in one step.
pub(super) fn publish(path: &std::path::Path, address: SocketAddr) -> Result<(), HomeError> {
    let published = Published {
        address,
        pid: std::process::id(),
    };
    let bytes = serde_json::to_vec(&published).map_err(|source| HomeError::BadEndpoint {
        path: path.to_owned(),
        source,
    })?;
    secret::replace(path, &bytes, false).map_err(HomeError::at(path))
}
