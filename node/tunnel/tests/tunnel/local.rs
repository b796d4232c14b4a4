//! A test double of a sandbox: commands are processes of this machine, files are those of a folder,
//! ports are the machine's loopback. It confines nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use async_trait::async_trait;
use p2pnode_executor::LogChunk;
use p2pnode_executor::inside::{Duplex, Files, Inside, InsideError, Session, SessionControl};
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal, Terminal, WindowSize};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::folder::LocalFiles;

#[derive(Debug)]
pub struct Local {
    root: PathBuf,
    /// Where the way out listens, if there is one: in a sandbox always at [`PROXY_PORT`].
    proxy: Option<u16>,
}

/// Where a sandbox's way out listens.
const PROXY_PORT: u16 = 3128;

impl Local {
    pub fn new(root: &Path, proxy: Option<u16>) -> Self {
        let root = root.to_owned();
        Self { root, proxy }
    }

    fn command(&self, spec: &ExecSpec, terminal: bool) -> Command {
        let mut words = spec.command.clone();
        if words.is_empty() {
            words = vec!["/bin/sh".to_owned()];
        }
        let mut command = if terminal {
            let mut command = Command::new("setsid");
            command.arg("--ctty").args(&words);
            command
        } else {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).process_group(0);
            command
        };
        command
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", &self.root)
            .envs(spec.env.iter().cloned())
            .kill_on_drop(true);
        command
    }
}

/// Kills the whole group when dropped.
struct Group(Child, Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(self.1, Signal::KILL);
    }
}

impl Group {
    fn new(child: Child) -> Self {
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        Self(child, Pid::from_raw(pid).unwrap())
    }

    async fn end(mut self) -> ExecEnd {
        match self.0.wait().await {
            Ok(status) => ExecEnd::Exited(
                status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            ),
            Err(error) => ExecEnd::Lost(error.to_string()),
        }
    }
}

struct Control {
    group: Pid,
    terminal: Option<OwnedFd>,
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

#[async_trait]
impl SessionControl for Control {
    async fn resize(&self, size: WindowSize) {
        if let Some(terminal) = &self.terminal {
            tcsetwinsize(terminal, winsize(size)).unwrap();
        }
    }

    async fn signal(&self, signal: TaskSignal) {
        let signal = match signal {
            TaskSignal::Int => Signal::INT,
            TaskSignal::Term => Signal::TERM,
            TaskSignal::Hup => Signal::HUP,
            TaskSignal::Usr1 => Signal::USR1,
            TaskSignal::Usr2 => Signal::USR2,
            _ => Signal::KILL,
        };
        let _ = kill_process_group(self.group, signal);
    }
}

/// Hands on what a pipe says.
async fn drain(mut pipe: impl AsyncRead + Unpin, stream: Stream, sink: mpsc::Sender<LogChunk>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = pipe.read(&mut buffer).await {
        let bytes = buffer[..count].to_vec();
        if count == 0 || sink.send(LogChunk { stream, bytes }).await.is_err() {
            return;
        }
    }
}

impl Local {
    fn piped(&self, spec: &ExecSpec) -> io::Result<Session> {
        let mut child = self
            .command(spec, false)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (sink, output) = mpsc::channel(4);
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        tokio::spawn(drain(stdout, Stream::Stdout, sink.clone()));
        tokio::spawn(drain(stderr, Stream::Stderr, sink));
        let input: Box<dyn AsyncWrite + Send + Unpin> = Box::new(child.stdin.take().unwrap());
        let group = Group::new(child);
        Ok(Session {
            input,
            output,
            control: Box::new(Control {
                group: group.1,
                terminal: None,
            }),
            end: Box::pin(group.end()),
        })
    }

    fn on_terminal(&self, spec: &ExecSpec, terminal: &Terminal) -> io::Result<Session> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        tcsetwinsize(&master, winsize(terminal.size))?;
        let path = ptsname(&master, Vec::new())?;
        let slave = File::options()
            .read(true)
            .write(true)
            .open(path.to_str().unwrap())?;
        let child = self
            .command(spec, true)
            .env("TERM", &terminal.term)
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .spawn()?;
        let (sink, output) = mpsc::channel(4);
        let mut reader = File::from(master.as_fd().try_clone_to_owned()?);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(count) = reader.read(&mut buffer)
                && count > 0
            {
                let bytes = buffer[..count].to_vec();
                let stream = Stream::Stdout;
                if sink.blocking_send(LogChunk { stream, bytes }).is_err() {
                    return;
                }
            }
        });
        let input = tokio::fs::File::from_std(File::from(master.as_fd().try_clone_to_owned()?));
        let group = Group::new(child);
        Ok(Session {
            input: Box::new(input),
            output,
            control: Box::new(Control {
                group: group.1,
                terminal: Some(master),
            }),
            end: Box::pin(group.end()),
        })
    }
}

#[async_trait]
impl Inside for Local {
    async fn exec(&self, command: ExecSpec) -> Result<Session, InsideError> {
        let started = match &command.terminal {
            Some(terminal) => self.on_terminal(&command, terminal),
            None => self.piped(&command),
        };
        started.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => InsideError::NoCommand(command.command.join(" ")),
            _ => error.into(),
        })
    }

    async fn connect(&self, port: u16) -> Result<Box<dyn Duplex>, InsideError> {
        let port = match port {
            PROXY_PORT => self.proxy.ok_or(InsideError::NobodyListens(port))?,
            port => port,
        };
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) => Err(InsideError::NobodyListens(port)),
        }
    }

    async fn connect_path(&self, path: &[u8]) -> Result<Box<dyn Duplex>, InsideError> {
        let path = self.root.join(OsStr::from_bytes(path));
        Ok(Box::new(UnixStream::connect(path).await?))
    }

    async fn datagrams(&self, port: u16) -> Result<UdpSocket, InsideError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect((Ipv4Addr::LOCALHOST, port)).await?;
        Ok(socket)
    }

    async fn listen(&self, port: u16) -> Result<TcpListener, InsideError> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?)
    }

    async fn files(&self) -> Result<Box<dyn Files>, InsideError> {
        Ok(Box::new(LocalFiles(self.root.clone())))
    }
}
