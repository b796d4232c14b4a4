//! The inside of a task's container, for whoever owns its job.
//!
//! [`Entry`] is what the task's [`Hold`] shows while the task's process runs; `run` and `warm` begin
//! and end that with a [`Place`], its [`Presence`] and its [`Door`]. Commands are started by the engine
//! (`start`; `wanted` says what exactly), so that they have the walls and limits of the container by
//! construction; `session` follows one to its end, `pump` carries its output, `process` signals it,
//! `pty` is its terminal. `ports`, `files` (`file`: an open one) and `sockets` among them are reached from this host, where it
//! sees its containers (`view`); where it does not, `relay` is what is left of ports and `shell` of files.
//! `attend` lets the first command be the task.
//!
//! It must never do anything for a task that has ended, nor anything with more rights than the task has.

mod attend;
mod door;
mod file;
mod files;
mod place;
mod ports;
mod process;
mod pty;
mod pump;
mod relay;
mod session;
mod shell;
mod sockets;
mod start;
mod view;
mod wanted;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::InspectContainerOptions;
use p2pnode_protocol::tunnel::ExecSpec;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{OnceCell, Semaphore, watch};

pub(super) use self::attend::{Attendance, LEAST_PIDS, let_wait, own_command, pids_for};
pub(super) use self::door::Presence;
use self::door::{Door, Pass};
pub(super) use self::place::{Place, body};
pub(super) use self::view::View;
use super::words;
use crate::host::cgroup::Mounts;
use crate::inside::{Duplex, Files, Inside, InsideError, Session};
use crate::{Hold, LiveUsage};

/// Commands from outside in one task at once: a hundred people at a time, and what their editors start
/// beside.
const MOST_SESSIONS: usize = 128;

/// Threads that connect to sockets of one task at once. Each is there for microseconds, unless a file system
/// hangs.
const MOST_KNOCKING: usize = 16;

/// What this host sees of a container.
#[derive(Debug)]
enum Sight {
    /// All of it.
    Clear(Arc<View>),
    /// Nothing is known yet: it is looked at when somebody asks for the first time, so that it costs
    /// nothing when nobody does.
    Unknown {
        mounts: Mounts,
        /// The folder of this host that is the task's work directory.
        work_dir: PathBuf,
        seen: OnceCell<Arc<View>>,
    },
    /// Nothing, with the reason.
    None(String),
}

/// The way into one task's container.
pub(super) struct Entry(Arc<Core>);

struct Core {
    docker: Docker,
    /// The container's id.
    id: String,
    place: Place,
    usage: Arc<watch::Sender<LiveUsage>>,
    sessions: Arc<Semaphore>,
    /// For threads that connect to sockets.
    knocking: Arc<Semaphore>,
    /// For all that copies files into the task.
    memory: Arc<file::Memory>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.0.id)
    }
}

impl Entry {
    fn new(docker: &Docker, id: &str, place: Place, hold: &Hold) -> Self {
        Self(Arc::new(Core {
            docker: docker.clone(),
            id: id.to_owned(),
            place,
            usage: Arc::clone(&hold.usage),
            sessions: Arc::new(Semaphore::new(MOST_SESSIONS)),
            knocking: Arc::new(Semaphore::new(MOST_KNOCKING)),
            memory: Arc::default(),
        }))
    }

    fn door(&self) -> &Door {
        &self.0.place.door
    }
}

impl Core {
    fn pass(&self) -> Result<Pass, InsideError> {
        self.place.door.pass().ok_or(InsideError::Ended)
    }

    /// The same, for what begins: whoever has paused a task wants nothing to begin in it.
    fn pass_in(&self) -> Result<Pass, InsideError> {
        let pass = self.pass()?;
        match self.usage.borrow().paused {
            true => Err(InsideError::Paused),
            false => Ok(pass),
        }
    }

    /// What this host sees of the container.
    ///
    /// # Errors
    /// Why it sees nothing, with the mend.
    async fn view(&self) -> Result<Arc<View>, String> {
        match &self.place.sight {
            Sight::Clear(view) => Ok(Arc::clone(view)),
            Sight::None(why) => Err(why.clone()),
            Sight::Unknown {
                mounts,
                work_dir,
                seen,
            } => {
                let look = || self.look(mounts.clone(), work_dir.clone());
                seen.get_or_try_init(look).await.cloned()
            }
        }
    }

    async fn look(&self, mounts: Mounts, work_dir: PathBuf) -> Result<Arc<View>, String> {
        let id = self.id.clone();
        let options = None::<InspectContainerOptions>;
        let inspected = self.docker.inspect_container(&id, options).await;
        let state = inspected.map_err(|error| words(&error))?.state;
        let init = state.and_then(|state| state.pid).unwrap_or(0);
        let look = move || View::of_running(&mounts, &id, init, &work_dir).map(Arc::new);
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn files(&self, view: Arc<View>) -> files::TaskFiles {
        let (user, door) = (self.place.user, self.place.door.clone());
        files::TaskFiles::new(view, user, door, self.memory.clone())
    }

    /// The same for what can't be done otherwise.
    async fn must_see(&self, what: &str) -> Result<Arc<View>, InsideError> {
        let view = self.view().await;
        view.map_err(|why| match self.place.door.is_shut() {
            true => InsideError::Ended,
            false => InsideError::Unsupported(format!("{what}: {why}")),
        })
    }
}

#[async_trait]
impl Inside for Entry {
    async fn exec(&self, command: ExecSpec) -> Result<Session, InsideError> {
        start::exec(&self.0, command, true).await
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, InsideError> {
        let _pass = self.0.pass_in()?;
        match self.0.view().await {
            Ok(view) => {
                self.0.place.door.leaves_sockets();
                Ok(Box::new(ports::connect(&view, port).await?))
            }
            Err(why) => {
                tracing::debug!(why, "a program in the task passes a connection on");
                Ok(Box::new(relay::connect(&self.0, port).await?))
            }
        }
    }

    async fn connect_path(&self, path: &[u8]) -> Result<Box<dyn Duplex>, InsideError> {
        let _pass = self.0.pass_in()?;
        let view = self
            .0
            .must_see("sockets in this task's file system cannot be reached");
        let files = self.0.files(view.await?);
        Ok(Box::new(
            sockets::connect(files, path.to_vec(), &self.0.knocking).await?,
        ))
    }

    async fn datagrams(&self, port: u16) -> Result<UdpSocket, InsideError> {
        let _pass = self.0.pass_in()?;
        let view = self.0.must_see("UDP ports of this task cannot be reached");
        let view = view.await?;
        self.0.place.door.leaves_sockets();
        ports::datagrams(&view, port).await
    }

    async fn listen(&self, port: u16) -> Result<TcpListener, InsideError> {
        let _pass = self.0.pass_in()?;
        let view = self.0.must_see("nobody can listen within this task");
        let view = view.await?;
        self.0.place.door.leaves_sockets();
        ports::listen(&view, port).await
    }

    async fn files(&self) -> Result<Box<dyn Files>, InsideError> {
        let _pass = self.0.pass_in()?;
        match self.0.view().await {
            Ok(view) => Ok(Box::new(self.0.files(view))),
            Err(why) => {
                tracing::debug!(why, "a shell in the task reaches its files");
                Ok(Box::new(shell::files(&self.0).await?))
            }
        }
    }
}

/// What was asked for can't be, whoever asks.
fn invalid(why: impl Into<String>) -> InsideError {
    io::Error::new(io::ErrorKind::InvalidInput, why.into()).into()
}
