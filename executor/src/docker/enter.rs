//! Short visits to a container's namespaces.
//!
//! A thread of its own enters the namespace, does one thing and ends, so that no thread that does
//! other work is ever anywhere but at home. Who calls names the container's first process: whatever runs
//! in a container has no right to change its namespaces. Needs a node that is root. Everything here blocks.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;

/// What System V calls shared memory, queues and semaphores: they stay when their makers have ended.
const SHARED: [&str; 3] = ["shm", "msg", "sem"];

/// The names of the two namespaces in `/proc/PID/ns`.
const NETWORK: (&str, LinkNameSpaceType) = ("net", LinkNameSpaceType::Network);
const IPC: (&str, LinkNameSpaceType) = ("ipc", LinkNameSpaceType::InterProcessCommunication);

/// Listens on a port of the container's loopback, on which nobody else may listen.
///
/// # Errors
/// When the namespace can't be entered or is the host's own, or the port is taken.
pub(super) fn listen(init: Pid, port: u16) -> io::Result<TcpListener> {
    visit(init, NETWORK, move || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
}

/// A TCP socket in the container's network, to be connected by whoever calls: that may take time.
///
/// # Errors
/// When the namespace can't be entered or is the host's own, or has no such sockets.
pub(super) fn tcp(init: Pid, v6: bool) -> io::Result<TcpSocket> {
    visit(init, NETWORK, move || match v6 {
        false => TcpSocket::new_v4(),
        true => TcpSocket::new_v6(),
    })
}

/// A UDP socket on the container's loopback, connected to `port`.
///
/// # Errors
/// When the namespace can't be entered or is the host's own.
pub(super) fn udp(init: Pid, port: u16) -> io::Result<UdpSocket> {
    visit(init, NETWORK, move || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

/// Whether nothing of System V's shared memory, queues and semaphores is left in the container.
///
/// # Errors
/// When the namespace can't be entered or is the host's own.
pub(super) fn has_no_shared_memory(init: Pid) -> io::Result<bool> {
    visit(init, IPC, || {
        for kind in SHARED {
            match std::fs::read_to_string(format!("/proc/sysvipc/{kind}")) {
                // The first line is the table's head.
                Ok(table) if table.lines().count() > 1 => return Ok(false),
                Ok(_) => {}
                // A kernel without any of it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    })
}

/// Does `work` in a namespace of the process `init`.
fn visit<T: Send + 'static>(
    init: Pid,
    (name, kind): (&'static str, LinkNameSpaceType),
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = open(init, name)?;
    let visitor = std::thread::Builder::new().name(format!("visit-{name}"));
    let visitor = visitor.spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        work()
    })?;
    visitor
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the visit broke off")))
}

/// A namespace of a process, which must not be this node's own.
fn open(init: Pid, name: &str) -> io::Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{name}", init.as_raw_nonzero());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let theirs = std::fs::File::from(openat(CWD, path, flags, Mode::empty())?);
    let seen = theirs.metadata()?;
    let own = std::fs::metadata(format!("/proc/self/ns/{name}"))?;
    if (seen.dev(), seen.ino()) == (own.dev(), own.ino()) {
        return Err(io::Error::other(format!(
            "the container has no {name} namespace of its own"
        )));
    }
    Ok(theirs.into())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process with namespaces of its own, in which `script` has run.
    struct Elsewhere(Child);

    impl Elsewhere {
        fn new(script: &str) -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            let script = format!("{script}; echo ready; exec sleep 1000");
            let mut child = Command::new("unshare")
                .args(["--ipc", "--net", "sh", "-c", &script])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            let elsewhere = Self(child);
            assert!(output.lines().any(|line| line.unwrap() == "ready"));
            Some(elsewhere)
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.0)
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_port_elsewhere_is_not_one_here() {
        let Some(elsewhere) = Elsewhere::new("ip link set lo up") else {
            return;
        };
        let listener = listen(elsewhere.pid(), 0).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err());
        let port = address.port();
        assert!(listen(elsewhere.pid(), port).is_err(), "the port is taken");
        drop(listener);
        listen(elsewhere.pid(), port).unwrap();
    }

    #[test]
    fn what_system_v_keeps_is_found() {
        let Some(clean) = Elsewhere::new("true") else {
            return;
        };
        assert!(has_no_shared_memory(clean.pid()).unwrap());
        for kind in ["-M 4096", "-Q", "-S 1"] {
            let used = Elsewhere::new(&format!("ipcmk {kind}")).unwrap();
            assert!(!has_no_shared_memory(used.pid()).unwrap(), "{kind}");
        }
    }

    #[test]
    fn the_hosts_own_namespaces_are_not_entered() {
        let own = rustix::process::getpid();
        let error = listen(own, 0).unwrap_err();
        assert!(error.to_string().contains("of its own"), "{error}");
        assert!(has_no_shared_memory(own).is_err());
    }
}
