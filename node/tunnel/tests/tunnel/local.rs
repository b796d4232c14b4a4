//! A test double of a sandbox: commands are processes of this machine, files are those of a folder,
//! ports are the machine's loopback. It confines nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink,
};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use p2pnode_executor::LogChunk;
use p2pnode_executor::inside::{
    Duplex, FileChange, FileStat, Files, Inside, InsideError, OpenFile, OpenMode, Session,
    SessionControl,
};
use p2pnode_protocol::task::Stream;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec, TaskSignal, Terminal, WindowSize};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

#[derive(Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
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
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(_) => Err(InsideError::NobodyListens(port)),
        }
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

struct LocalFiles(PathBuf);

impl LocalFiles {
    /// Absolute paths are the machine's: this double confines nothing.
    fn path(&self, path: &[u8]) -> PathBuf {
        self.0.join(std::ffi::OsStr::from_bytes(path))
    }
}

fn stat(metadata: &fs::Metadata) -> FileStat {
    FileStat {
        mode: metadata.mode(),
        size: metadata.size(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        atime: metadata.atime(),
        mtime: metadata.mtime(),
    }
}

fn change_file(file: &File, change: FileChange) -> io::Result<()> {
    if let Some(size) = change.size {
        file.set_len(size)?;
    }
    if let Some(mode) = change.mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if let Some((atime, mtime)) = change.times {
        let at = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
        };
        let times = fs::FileTimes::new()
            .set_accessed(at(atime))
            .set_modified(at(mtime));
        file.set_times(times)?;
    }
    Ok(())
}

struct LocalFile(Arc<File>);

impl OpenFile for LocalFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < into.len() {
            match self.0.read_at(&mut into[count..], offset + count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn stat(&self) -> io::Result<FileStat> {
        Ok(stat(&self.0.metadata()?))
    }

    fn change(&self, change: FileChange) -> io::Result<()> {
        change_file(&self.0, change)
    }
}

impl Files for LocalFiles {
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let file = OpenOptions::new()
            .read(how.read)
            .write(how.write)
            .create(how.create && !how.exclusive)
            .create_new(how.create && how.exclusive)
            .truncate(how.truncate)
            .mode(mode)
            .open(self.path(path))?;
        Ok(Box::new(LocalFile(Arc::new(file))))
    }

    fn stat(&self, path: &[u8], follow: bool) -> io::Result<FileStat> {
        let path = self.path(path);
        Ok(stat(&if follow {
            fs::metadata(path)?
        } else {
            fs::symlink_metadata(path)?
        }))
    }

    fn list(&self, path: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        fs::read_dir(self.path(path))?
            .take(limit)
            .map(|entry| Ok(entry?.file_name().as_bytes().to_vec()))
            .collect()
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(self.path(path))
    }

    fn remove_dir(&self, path: &[u8]) -> io::Result<()> {
        fs::remove_dir(self.path(path))
    }

    fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let to = self.path(to);
        if !replace && to.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(self.path(from), to)
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        Ok(fs::read_link(self.path(path))?
            .as_os_str()
            .as_bytes()
            .to_vec())
    }

    fn make_link(&self, target: &[u8], path: &[u8]) -> io::Result<()> {
        symlink(std::ffi::OsStr::from_bytes(target), self.path(path))
    }

    fn change(&self, path: &[u8], change: FileChange) -> io::Result<()> {
        change_file(&File::open(self.path(path))?, change)
    }

    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let path = self.path(path);
        let real = path.canonicalize().or_else(|error| {
            let parent = path.parent().ok_or(error)?.canonicalize()?;
            io::Result::Ok(parent.join(path.file_name().unwrap_or_default()))
        })?;
        Ok(real.as_os_str().as_bytes().to_vec())
    }
}
