//! What the owner of a job may do inside a task of it that runs here.
//!
//! A runtime whose sandbox can be entered hands out an [`Inside`] with the task's
//! [`Hold`](crate::Hold) while the task's process runs. Everything done through it stays within the
//! sandbox: a command has the task's user, limits and confinement, ports are those of the sandbox's
//! own loopback, files are those that the sandbox shows, with the rights of the task's user.
//!
//! Who may do it is not asked here: that is for whoever holds the [`Inside`].

use std::fmt;
use std::io;

use async_trait::async_trait;
use futures::future::BoxFuture;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal, WindowSize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;

use crate::LogChunk;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The inside of a running task's sandbox.
#[async_trait]
pub trait Inside: fmt::Debug + Send + Sync + 'static {
    /// Starts a command.
    ///
    /// # Errors
    /// [`InsideError::NoCommand`] when the sandbox has no such program, [`InsideError::Paused`],
    /// [`InsideError::TooMany`].
    async fn exec(&self, command: ExecSpec) -> Result<Session, InsideError>;

    /// Connects to a TCP port of its loopback.
    ///
    /// # Errors
    /// [`InsideError::NobodyListens`].
    async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, InsideError>;

    /// Connects to a Unix socket in its file system, with the rights of the task's user.
    ///
    /// # Errors
    /// [`InsideError::Unsupported`] where the sandbox's files are out of reach, [`InsideError::Io`] as the
    /// system says.
    async fn connect_path(&self, path: &[u8]) -> Result<Box<dyn Duplex>, InsideError>;

    /// A UDP socket on its loopback, connected to `port`.
    ///
    /// # Errors
    /// [`InsideError::Unsupported`] where the sandbox's loopback is out of reach.
    async fn datagrams(&self, port: u16) -> Result<UdpSocket, InsideError>;

    /// Listens on a TCP port of its loopback; 0: any.
    ///
    /// # Errors
    /// [`InsideError::Io`] when the port is taken.
    async fn listen(&self, port: u16) -> Result<TcpListener, InsideError>;

    /// Its files.
    ///
    /// # Errors
    /// [`InsideError::Unsupported`] where the sandbox's files are out of reach.
    async fn files(&self) -> Result<Box<dyn Files>, InsideError>;
}

/// A running command. Dropping it kills the command and what it started: all processes of its session.
/// What it has left behind when it ends by itself lives on, until the task ends.
pub struct Session {
    /// Its stdin. Shut down: it sees the end.
    pub input: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes, until it has ended. Bounded: who doesn't read slows it down. When this is
    /// dropped its output is, too, and it goes on.
    pub output: mpsc::Receiver<LogChunk>,
    /// The hand on it.
    pub control: Box<dyn SessionControl>,
    /// Ready once it has ended and all of its output is in `output`. It is this future that, dropped
    /// before it is ready, kills the command.
    pub end: BoxFuture<'static, ExecEnd>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session(..)")
    }
}

/// The hand on a running command.
#[async_trait]
pub trait SessionControl: Send + Sync {
    /// Its terminal has another size. Nothing happens without a terminal.
    async fn resize(&self, size: WindowSize);

    /// Sends it, and the processes of its session, a signal. Nothing happens when it has ended.
    async fn signal(&self, signal: TaskSignal);
}

/// What is known of a file, as SFTP tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// In bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last read, in seconds since the Unix epoch.
    pub atime: i64,
    /// Last change, in seconds since the Unix epoch.
    pub mtime: i64,
}

/// Changes to a file; absent: as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileChange {
    /// Permission bits. Set-user-id and set-group-id are left out.
    pub mode: Option<u32>,
    /// In bytes.
    pub size: Option<u64>,
    /// Last read and last change, in seconds since the Unix epoch.
    pub times: Option<(i64, i64)>,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// Every write goes to its end.
    pub append: bool,
    /// Made when it isn't there.
    pub create: bool,
    /// Emptied.
    pub truncate: bool,
    /// Refused when it is there.
    pub exclusive: bool,
}

/// One file of a sandbox, open.
pub trait OpenFile: Send + Sync {
    /// Reads at `offset`; as many bytes as there are, none at its end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// What is known of it.
    ///
    /// # Errors
    /// As the system says.
    fn stat(&self) -> io::Result<FileStat>;

    /// Changes it.
    ///
    /// # Errors
    /// As the system says.
    fn change(&self, change: FileChange) -> io::Result<()>;
}

/// Files of a sandbox: paths are bytes, and are resolved as the sandbox's own processes would, its
/// root being theirs; relative ones begin at the work directory. Every call blocks, and is to be made
/// from one thread only, that has nothing else to do: it may take the rights of the task's user.
pub trait Files: Send {
    /// Takes the rights of the task's user, once, on the thread that will make all other calls.
    ///
    /// # Errors
    /// When it can't: then no other call may be made.
    fn settle(&mut self) -> io::Result<()>;

    /// Opens a file; `mode` are the permission bits of a new one.
    ///
    /// # Errors
    /// As the system says; devices, sockets and pipes are refused.
    fn open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<Box<dyn OpenFile>>;

    /// What is known of a path; the link itself when `follow` is off.
    ///
    /// # Errors
    /// As the system says.
    fn stat(&self, path: &[u8], follow: bool) -> io::Result<FileStat>;

    /// Names in a directory, without `.` and `..`; at most `limit`.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, path: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>>;

    /// Makes a directory.
    ///
    /// # Errors
    /// As the system says.
    fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As the system says.
    fn remove_dir(&self, path: &[u8]) -> io::Result<()>;

    /// Removes a file or link.
    ///
    /// # Errors
    /// As the system says.
    fn remove_file(&self, path: &[u8]) -> io::Result<()>;

    /// Renames; what stands at `to` is replaced when `replace` is on.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()>;

    /// What a link says.
    ///
    /// # Errors
    /// As the system says.
    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>>;

    /// Makes a symbolic link at `path` that says `target`.
    ///
    /// # Errors
    /// As the system says.
    fn make_link(&self, target: &[u8], path: &[u8]) -> io::Result<()>;

    /// Changes what stands at a path, links followed.
    ///
    /// # Errors
    /// As the system says.
    fn change(&self, path: &[u8], change: FileChange) -> io::Result<()>;

    /// The absolute path of what stands at `path`, in the sandbox's eyes; the last part may be missing.
    ///
    /// # Errors
    /// As the system says.
    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>>;
}

/// Why something can't be done inside.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The task has ended.
    #[error("the task has ended")]
    Ended,
    /// There is no such program; the field says which.
    #[error("`{0}` cannot be started: it is not in the image, or is no program")]
    NoCommand(String),
    /// Nobody listens on that port.
    #[error("nobody in the task listens on port {0}")]
    NobodyListens(u16),
    /// As many commands run in the task as one task may have at once; the field says how many.
    #[error("{0} commands run in the task already, which is as many as one task may have: end one")]
    TooMany(usize),
    /// The machine's owner has frozen the task.
    #[error("the owner of the machine has paused this task")]
    Paused,
    /// Not possible on this host; the field says why, with the mend.
    #[error("{0}")]
    Unsupported(String),
    /// The system's or the engine's fault.
    #[error("{0}")]
    Io(#[from] io::Error),
}
