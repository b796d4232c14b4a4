//! Unix sockets in a sandbox's file system.
//!
//! Found as a file is found, by a thread that has become the task's user: a path leads where it would lead
//! the task's own processes, and whoever may not write to a socket may not connect to it.

use std::io;
use std::os::unix::net::UnixStream as Connected;
use std::sync::Arc;
use std::thread;

use rustix::fs::{FileType, fstat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, oneshot};

use super::file::kind;
use super::files::{TaskFiles, handle_path};
use crate::inside::{Files, InsideError};

/// Connects to the socket at `path`. A thread does it and ends: it has the rights of the task's user, which
/// no other work may meet. It keeps one of `places` for as long as it is there, whoever waits for it.
pub(super) async fn connect(
    mut files: TaskFiles,
    path: Vec<u8>,
    places: &Arc<Semaphore>,
) -> Result<UnixStream, InsideError> {
    let place = Arc::clone(places).acquire_owned().await;
    let (tell, told) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        let connected = files.settle().and_then(|()| files.connect(&path));
        drop(place);
        // Whoever asked may have left.
        let _ = tell.send(connected);
    })?;
    let connected = told.await.map_err(io::Error::other)??;
    Ok(UnixStream::from_std(connected)?)
}

impl TaskFiles {
    fn connect(&self, path: &[u8]) -> io::Result<Connected> {
        let _pass = self.admit()?;
        let found = self.find(path, true)?;
        if kind(&fstat(&found)?) != FileType::Socket {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a socket",
            ));
        }
        // Without waiting: one whose queue is full would hold the thread.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect_to(&socket, &SocketAddrUnix::new(handle_path(&found))?)?;
        Ok(socket.into())
    }
}
