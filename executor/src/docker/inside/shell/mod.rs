//! Files of a task that this host does not see: a shell in the task does what is asked, with the
//! programs of its image.
//!
//! The way that is left with an engine on another machine, one that is rootless, or a node that is not
//! root. Whatever is done is done in the container by the task's user: no path can lead out and no right
//! be lent, because nothing outside is ever touched. Each step costs a process or two in the task, and
//! an open file is no more than its path.

mod talk;

use std::io;
use std::sync::Arc;
use std::thread::ThreadId;

use p2pnode_protocol::tunnel::ExecSpec;
use rustix::io::Errno;

use self::talk::{Request, Talk, WORDS};
use super::door::{Door, Pass};
use super::file::{MODE_BITS, admit};
use super::files::{absolute, parted};
use super::{Core, start};
use crate::inside::{FileChange, FileStat, Files, InsideError, OpenFile, OpenMode};

/// What runs in the task.
const SCRIPT: &str = include_str!("files.sh");

/// The most that is read or written at once, in bytes: what `dd` holds in the task's memory.
const PIECE: usize = 256 << 10;

/// The most bytes of all names in a folder: 100,000 names of ordinary length.
const NAMES: usize = 4 << 20;

/// Files of one task.
#[derive(Debug)]
pub(super) struct ShellFiles {
    talk: Talk,
    door: Door,
    settled: Option<ThreadId>,
}

/// Starts the shell.
///
/// # Errors
/// [`InsideError::Unsupported`] when the image lacks what is needed; as for any command.
pub(super) async fn files(core: &Arc<Core>) -> Result<ShellFiles, InsideError> {
    let missing = |what: &str| {
        InsideError::Unsupported(format!(
            "files of this task cannot be reached: its provider does not see into its containers, and \
             the image lacks what could reach them instead: {what}"
        ))
    };
    let spec = ExecSpec {
        command: ["/bin/sh", "-c", SCRIPT].map(str::to_owned).into(),
        ..ExecSpec::default()
    };
    let started = start::exec(core, spec, false).await;
    let session = started.map_err(|error| match error {
        InsideError::NoCommand(_) => missing("/bin/sh"),
        other => other,
    })?;
    let talk = Talk::begin(session);
    match talk.asks(Request::new("ready", b"/")?).await {
        Ok(_) => Ok(ShellFiles {
            talk,
            door: core.place.door.clone(),
            settled: None,
        }),
        Err(_) if core.place.door.is_shut() => Err(InsideError::Ended),
        Err(error) if error.kind() == io::ErrorKind::Other => Err(missing(&error.to_string())),
        Err(error) => Err(error.into()),
    }
}

impl ShellFiles {
    fn ask(&self, request: Request) -> io::Result<Vec<u8>> {
        let _pass: Pass = admit(&self.door, self.settled)?;
        self.talk.ask(request)
    }

    /// For what is done and has nothing to say.
    fn order(&self, request: Request) -> io::Result<()> {
        self.ask(request).map(|_| ())
    }
}

/// A path that is to be made, removed or renamed.
fn spot(path: &[u8]) -> io::Result<Vec<u8>> {
    let (mut folder, name) = parted(path)?;
    if !folder.ends_with(b"/") {
        folder.push(b'/');
    }
    folder.extend_from_slice(&name);
    Ok(folder)
}

fn rights(mode: u32) -> String {
    format!("{:o}", mode & MODE_BITS)
}

/// What of a change is asked for, one after the other.
fn requests(path: &[u8], change: FileChange) -> io::Result<Vec<Request>> {
    let mut all = Vec::new();
    if let Some(size) = change.size {
        all.push(Request::new("resize", path)?.word(size));
    }
    if let Some(mode) = change.mode {
        all.push(Request::new("chmod", path)?.word(rights(mode)));
    }
    if let Some((read, changed)) = change.times {
        all.push(Request::new("times", path)?.word(read).word(changed));
    }
    Ok(all)
}

/// `stat -c '%f %s %u %g %X %Y'`.
fn told(said: &[u8]) -> io::Result<FileStat> {
    let said = String::from_utf8_lossy(said);
    let words: Vec<&str> = said.split_whitespace().collect();
    let parsed = match words[..] {
        [mode, size, uid, gid, atime, mtime] => (|| {
            Some(FileStat {
                mode: u32::from_str_radix(mode, 16).ok()?,
                size: size.parse().ok()?,
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                atime: atime.parse().ok()?,
                mtime: mtime.parse().ok()?,
            })
        })(),
        _ => None,
    };
    let wrong = "the task's `stat` says something else than was asked";
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, wrong))
}

impl Files for ShellFiles {
    /// The rights are the shell's own from the start: only the thread is remembered.
    fn settle(&mut self) -> io::Result<()> {
        if self.settled.is_some() {
            return Err(Errno::ALREADY.into());
        }
        self.settled = Some(std::thread::current().id());
        Ok(())
    }

    fn open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let path = absolute(path);
        let writes = how.write || how.append;
        if !how.read && !writes {
            return Err(Errno::INVAL.into());
        }
        let letters = [
            (how.read, 'r'),
            (writes, 'w'),
            (how.create || how.exclusive, 'c'),
            (how.truncate && writes, 't'),
            (how.exclusive, 'e'),
        ];
        let letters = letters.iter().filter(|(on, _)| *on);
        let letters: String = letters.map(|(_, letter)| letter).collect();
        let request = Request::new("open", &path)?;
        self.order(request.word(letters).word(rights(mode & !0o022)))?;
        Ok(Box::new(ShellFile {
            talk: self.talk.clone(),
            door: self.door.clone(),
            settled: self.settled,
            path,
            append: how.append,
        }))
    }

    fn stat(&self, path: &[u8], follow: bool) -> io::Result<FileStat> {
        let op = if follow { "stat" } else { "lstat" };
        told(&self.ask(Request::new(op, &absolute(path))?)?)
    }

    fn list(&self, path: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let request = Request::new("list", &absolute(path))?;
        let request = request.word(limit).word(NAMES);
        let names = self.ask(request.most(NAMES + WORDS))?;
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        // A name is all that is let through, whatever the task says.
        let names = names.filter(|name| !name.contains(&b'/') && !matches!(*name, b"." | b".."));
        Ok(names.take(limit).map(<[u8]>::to_vec).collect())
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let request = Request::new("mkdir", &spot(path)?)?;
        self.order(request.word(rights(mode & !0o022)))
    }

    fn remove_dir(&self, path: &[u8]) -> io::Result<()> {
        self.order(Request::new("rmdir", &spot(path)?)?)
    }

    fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        self.order(Request::new("remove", &spot(path)?)?)
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let request = Request::new("rename", &spot(from)?)?.path(&spot(to)?)?;
        self.order(request.word(if replace { "replace" } else { "keep" }))
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        self.ask(Request::new("readlink", &absolute(path))?)
    }

    fn make_link(&self, target: &[u8], path: &[u8]) -> io::Result<()> {
        self.order(Request::new("link", &spot(path)?)?.path(target)?)
    }

    fn change(&self, path: &[u8], change: FileChange) -> io::Result<()> {
        for request in requests(&absolute(path), change)? {
            self.order(request)?;
        }
        Ok(())
    }

    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let real = self.ask(Request::new("real", &absolute(path))?)?;
        match real.first() {
            Some(b'/') => Ok(real),
            _ => Err(Errno::NOENT.into()),
        }
    }
}

/// One open file: nothing but its path is known.
#[derive(Debug)]
struct ShellFile {
    talk: Talk,
    door: Door,
    settled: Option<ThreadId>,
    path: Vec<u8>,
    append: bool,
}

impl ShellFile {
    fn ask(&self, request: Request) -> io::Result<Vec<u8>> {
        let _pass: Pass = admit(&self.door, self.settled)?;
        self.talk.ask(request)
    }
}

impl OpenFile for ShellFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        for piece in into.chunks_mut(PIECE) {
            let request = Request::new("read", &self.path)?;
            let request = request.word(offset + count as u64).word(piece.len());
            let bytes = self.ask(request.most(piece.len()))?;
            let length = bytes.len().min(piece.len());
            piece[..length].copy_from_slice(&bytes[..length]);
            count += length;
            if length < piece.len() {
                break;
            }
        }
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            let request = Request::new("write", &self.path)?;
            let request = match self.append {
                true => request.word("end"),
                false => request.word(at),
            };
            self.ask(request.word(piece.len()).with(piece))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn stat(&self) -> io::Result<FileStat> {
        told(&self.ask(Request::new("stat", &self.path)?)?)
    }

    fn change(&self, change: FileChange) -> io::Result<()> {
        for request in requests(&self.path, change)? {
            self.ask(request)?;
        }
        Ok(())
    }
}
