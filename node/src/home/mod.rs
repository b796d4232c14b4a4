//! The data directory: everything of one node that outlives its process.
//!
//! [`DataDir`] says where it is; [`Home`] holds it for a running node (one at a time, by a lock);
//! [`ApiEndpoint`] is how a client in another process finds the node that runs there. Called by
//! whoever starts a node and by every client of one.
//!
//! A directory and not a file of settings: several nodes live on one machine when each has its own.
//! Secrets in it are mode 0600 and made whole or not at all (temporary name, then rename). Nothing
//! here reads the network or knows what the files of other modules hold; it only says where they are.

mod endpoint;
mod error;
mod network;
mod secret;
mod work;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use directories::ProjectDirs;
use libp2p::identity::Keypair;

pub use endpoint::ApiEndpoint;
pub use error::HomeError;
pub use network::{PrivateNetwork, TicketError};
pub(crate) use work::remove_tree;

/// The environment variable that names the data directory.
pub const DATA_DIR_VARIABLE: &str = "P2PNODE_DATA_DIR";

/// How often, and how long apart, a starting node tries the lock: a client that looks whether a node
/// runs holds it for some microseconds.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Where a node's data directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
    is_default: bool,
}

impl DataDir {
    /// The directory that `flag` names, else the environment variable [`DATA_DIR_VARIABLE`], else
    /// the user's own (on Linux `~/.local/share/p2pnode`). Touches nothing.
    ///
    /// # Errors
    /// [`HomeError::NoHome`] when nothing names one.
    pub fn find(flag: Option<PathBuf>) -> Result<Self, HomeError> {
        let variable = || std::env::var_os(DATA_DIR_VARIABLE).filter(|path| !path.is_empty());
        match flag.or_else(|| variable().map(PathBuf::from)) {
            Some(path) => Self::at(&path),
            None => Ok(Self {
                path: project().ok_or(HomeError::NoHome)?.data_dir().to_path_buf(),
                is_default: true,
            }),
        }
    }

    /// This directory.
    ///
    /// # Errors
    /// [`HomeError::Io`] when the path is empty, or relative and there is no current folder.
    pub fn at(path: &Path) -> Result<Self, HomeError> {
        let path = std::path::absolute(path).map_err(|source| HomeError::Io {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path,
            is_default: false,
        })
    }

    /// Its absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration file that counts: `config.toml` inside, and only for the user's default
    /// directory, when that is absent, the one in the user's configuration folder (on Linux
    /// `~/.config/p2pnode/config.toml`). So nodes with directories of their own share nothing.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        let inside = self.path.join("config.toml");
        match project() {
            Some(project) if self.is_default && !inside.exists() => {
                project.config_dir().join("config.toml")
            }
            _ => inside,
        }
    }

    /// The identity of the node that this directory has or will have; both are made when absent.
    ///
    /// # Errors
    /// [`HomeError::Exposed`], [`HomeError::BadIdentity`] or [`HomeError::Io`].
    pub fn identity(&self) -> Result<Keypair, HomeError> {
        make_private_folder(&self.path)?;
        secret::identity(&self.paths().identity)
    }

    /// Where everything in it stands.
    #[must_use]
    pub fn paths(&self) -> Paths {
        let inside = |name: &str| self.path.join(name);
        Paths {
            lock: inside("lock"),
            identity: inside("identity"),
            token: inside("token"),
            api: inside("api.json"),
            database: inside("state.db"),
            claims: inside("claims.db"),
            logs: inside("logs"),
            blobs: inside("blobs"),
            jobs: inside("jobs"),
            work: inside("work"),
            networks: inside("networks"),
            network: inside("network"),
        }
    }
}

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "p2pnode")
}

/// The files and folders of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Locked while a node runs; holds its process id.
    pub lock: PathBuf,
    /// The node's secret key, 0600.
    pub identity: PathBuf,
    /// What a client of the local API must show, 0600.
    pub token: PathBuf,
    /// Where the local API is, while it is up.
    pub api: PathBuf,
    /// SQLite.
    pub database: PathBuf,
    /// Which task brought which output.
    pub claims: PathBuf,
    /// One log a job.
    pub logs: PathBuf,
    /// Chunks.
    pub blobs: PathBuf,
    /// Outputs of jobs that name no folder for them.
    pub jobs: PathBuf,
    /// Work directories of tasks that run; emptied when a node starts.
    pub work: PathBuf,
    /// One file for each private network that was joined, 0600.
    pub networks: PathBuf,
    /// The name of the one that was joined last.
    pub network: PathBuf,
}

/// A data directory that this process alone uses. Dropping it withdraws the API's address and gives
/// the directory free.
#[derive(Debug)]
pub struct Home {
    dir: DataDir,
    paths: Paths,
    /// Holds the lock; the system frees it however the process ends.
    _lock: File,
}

impl Home {
    /// Makes the directory when it is absent (mode 0700), takes it for this process, and clears
    /// the API address that a crashed life left. Its tasks' work directories stay until
    /// [`Home::clear_work`]: some of its tasks may still run.
    ///
    /// # Errors
    /// [`HomeError::InUse`] when another node has it; [`HomeError::Exposed`] when others may write in
    /// it; [`HomeError::Foreign`] when it is another user's; [`HomeError::Io`].
    pub fn open(dir: &DataDir) -> Result<Self, HomeError> {
        let paths = dir.paths();
        make_private_folder(dir.path())?;
        let mut lock = take_lock(&paths.lock)?;
        // In this order: a client that finds our process id must not find an earlier life's address.
        lock.set_len(0).map_err(HomeError::at(&paths.lock))?;
        remove_if_there(&paths.api)?;
        write!(lock, "{}", std::process::id()).map_err(HomeError::at(&paths.lock))?;
        for folder in [&paths.logs, &paths.blobs, &paths.jobs, &paths.work] {
            make_folder(folder)?;
        }
        Ok(Self {
            dir: dir.clone(),
            paths,
            _lock: lock,
        })
    }

    /// Which directory this is.
    #[must_use]
    pub const fn dir(&self) -> &DataDir {
        &self.dir
    }

    /// Where everything in it stands.
    #[must_use]
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The node's identity, made at the first call of the directory's life.
    ///
    /// # Errors
    /// [`HomeError::Exposed`], [`HomeError::BadIdentity`] or [`HomeError::Io`].
    pub fn identity(&self) -> Result<Keypair, HomeError> {
        secret::identity(&self.paths.identity)
    }

    /// What clients of the local API must show: 64 hexadecimal digits, made at the first call of the
    /// directory's life.
    ///
    /// # Errors
    /// [`HomeError::Exposed`], [`HomeError::BadToken`] or [`HomeError::Io`].
    pub fn token(&self) -> Result<String, HomeError> {
        secret::token(&self.paths.token)
    }

    /// Tells clients that the API answers at `address`.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn publish_api(&self, address: SocketAddr) -> Result<(), HomeError> {
        endpoint::publish(&self.paths.api, address)
    }

    /// Tells clients that the API no longer answers.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn withdraw_api(&self) -> Result<(), HomeError> {
        remove_if_there(&self.paths.api)
    }

    /// Empties the folder of tasks' work directories of what a crashed life left. To be called once
    /// nothing of that life runs any more: a task could put a link where a folder was just seen. What
    /// cannot be removed is said in the log and left.
    pub fn clear_work(&self) {
        work::clear(&self.paths.work);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw_api() {
            tracing::warn!(%error, "the address of the local API could not be withdrawn");
        }
    }
}

fn take_lock(path: &Path) -> Result<File, HomeError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(HomeError::at(path))?;
    for attempt in 1.. {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if attempt < LOCK_TRIES => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(HomeError::InUse {
                    path: path.parent().unwrap_or(path).to_owned(),
                    pid: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => {
                let path = path.to_owned();
                return Err(HomeError::Io { path, source });
            }
        }
    }
    Ok(file)
}

/// The process id in a lock file.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().ok()?;
    lock.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn make_folder(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(HomeError::at(path))
}

/// Makes the data directory itself; one that is there must be this user's own and nobody else's to write
/// in, or others could put an identity there, or a database.
fn make_private_folder(path: &Path) -> Result<(), HomeError> {
    make_folder(path)?;
    let found = fs::metadata(path).map_err(HomeError::at(path))?;
    check_private(path, &found, 0o022, "700")
}

/// Checks that a file or folder is this user's and that nobody else has the permissions `forbidden`.
fn check_private(
    path: &Path,
    found: &fs::Metadata,
    forbidden: u32,
    mend: &'static str,
) -> Result<(), HomeError> {
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        return Err(HomeError::Foreign {
            path: path.to_owned(),
            owner: found.uid(),
            me,
        });
    }
    if found.mode() & forbidden != 0 {
        return Err(HomeError::Exposed {
            path: path.to_owned(),
            mode: found.mode() & 0o777,
            mend,
        });
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), HomeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HomeError::at(path)(error)),
        _ => Ok(()),
    }
}
