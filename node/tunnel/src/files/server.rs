//! Answers SFTP's requests from the files of a sandbox. Blocks: it has a thread to itself.

use std::collections::HashMap;
use std::io;

use p2pnode_executor::inside::{Files, OpenFile, OpenMode};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::listing;
use super::room::{Listed, Room};
use super::wire::{
    Attributes, MAX_PACKET_BYTES, MAX_PIECE_BYTES, Malformed, Reader, VERSION, Writer, flag, kind,
    status,
};

/// Files and directories that one client may have open: OpenSSH's client has one or two, sshfs one for each
/// file that a program has open. With [`super::Rooms`] no more than 16,384 for all clients.
const MAX_HANDLES: usize = 64;

/// Names that are listed of one directory: more would be held in memory for each open directory.
const MAX_LISTED: usize = 100_000;

/// Names in one answer, as OpenSSH's server has it.
const NAMES_IN_AN_ANSWER: usize = 100;

/// Something open.
enum Handle {
    File(Box<dyn OpenFile>),
    Directory {
        path: Vec<u8>,
        names: std::vec::IntoIter<Vec<u8>>,
        _held: OwnedSemaphorePermit,
    },
}

/// Why a request is not answered with what it asked for.
enum Refusal {
    Code(u32, &'static str),
    System(io::Error),
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Self::Code(status::BAD_MESSAGE, "malformed")
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

struct Server {
    files: Box<dyn Files>,
    room: Room,
    handles: HashMap<u32, Handle>,
    next: u32,
}

/// Answers requests until there are no more.
pub(super) fn run(
    mut files: Box<dyn Files>,
    room: Room,
    mut requests: mpsc::Receiver<Vec<u8>>,
    answers: &mpsc::Sender<Vec<u8>>,
) {
    if let Err(error) = files.settle() {
        tracing::warn!(%error, "the rights of a task's user could not be taken");
        return;
    }
    let mut server = Server {
        files,
        room,
        handles: HashMap::new(),
        next: 0,
    };
    while let Some(packet) = requests.blocking_recv() {
        let Some(answer) = server.answer(&packet) else {
            return;
        };
        if answers.blocking_send(answer).is_err() {
            return;
        }
    }
}

impl Server {
    /// The answer; none to what is no request at all, after which nothing more can be understood.
    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut reader = Reader(packet);
        let request = reader.u8().ok()?;
        if request == kind::INIT {
            return Some(greeting());
        }
        let id = reader.u32().ok()?;
        let answer = self.perform(request, id, reader);
        Some(answer.unwrap_or_else(|refusal| refused(id, &refusal)))
    }

    fn perform(&mut self, request: u8, id: u32, mut r: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        match request {
            kind::OPEN => return self.open(id, r),
            kind::CLOSE => {
                let handle = handle_number(&mut r)?;
                self.handles.remove(&handle).ok_or(no_handle())?;
            }
            kind::READ => return self.read(id, r),
            kind::WRITE => {
                let file = self.file(&mut r)?;
                let offset = r.u64()?;
                file.write_at(offset, r.bytes()?)?;
            }
            kind::STAT => {
                let stat = self.files.stat(r.path()?, true)?;
                return Ok(attributes(id, &Attributes::from(&stat)));
            }
            kind::LSTAT => {
                let stat = self.files.stat(r.path()?, false)?;
                return Ok(attributes(id, &Attributes::from(&stat)));
            }
            kind::FSTAT => {
                let stat = self.file(&mut r)?.stat()?;
                return Ok(attributes(id, &Attributes::from(&stat)));
            }
            kind::SETSTAT => {
                let path = r.path()?;
                self.files.change(path, r.attributes()?.change())?;
            }
            kind::FSETSTAT => {
                let file = self.file(&mut r)?;
                file.change(r.attributes()?.change())?;
            }
            kind::OPENDIR => return self.open_directory(id, r.path()?),
            kind::READDIR => return self.read_directory(id, handle_number(&mut r)?),
            kind::REMOVE => self.files.remove_file(r.path()?)?,
            kind::MKDIR => {
                let path = r.path()?;
                let mode = r.attributes()?.mode.unwrap_or(0o777);
                self.files.make_dir(path, mode & 0o1777)?;
            }
            kind::RMDIR => self.files.remove_dir(r.path()?)?,
            kind::REALPATH => {
                let path = self.files.real_path(r.path()?)?;
                return Ok(one_name(id, &path));
            }
            kind::RENAME => self.files.rename(r.path()?, r.path()?, false)?,
            kind::READLINK => {
                let target = self.files.read_link(r.path()?)?;
                return Ok(one_name(id, &target));
            }
            // OpenSSH has the two the other way round than the draft, and everybody follows OpenSSH.
            kind::SYMLINK => self.files.make_link(r.path()?, r.path()?)?,
            kind::EXTENDED => return self.extended(id, r),
            _ => return Err(unsupported()),
        }
        Ok(done(id))
    }

    fn extended(&mut self, id: u32, mut r: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        match r.bytes()? {
            b"posix-rename@openssh.com" => {
                self.files.rename(r.path()?, r.path()?, true)?;
                Ok(done(id))
            }
            b"limits@openssh.com" => Ok(Writer::new(kind::EXTENDED_REPLY, 36)
                .u32(id)
                .u64(MAX_PACKET_BYTES as u64)
                .u64(MAX_PIECE_BYTES as u64)
                .u64(MAX_PIECE_BYTES as u64)
                .u64(MAX_HANDLES as u64)
                .finish()),
            _ => Err(unsupported()),
        }
    }

    fn open(&mut self, id: u32, mut r: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        let path = r.path()?;
        let flags = r.u32()?;
        let mode = r.attributes()?.mode.unwrap_or(0o666);
        let has = |wanted: u32| flags & wanted != 0;
        let how = OpenMode {
            read: has(flag::READ),
            write: has(flag::WRITE) || has(flag::APPEND),
            append: has(flag::APPEND),
            create: has(flag::CREATE),
            truncate: has(flag::TRUNCATE),
            exclusive: has(flag::EXCLUSIVE),
        };
        self.may_open()?;
        let file = self.files.open(path, how, mode & 0o1777)?;
        Ok(self.hand_out(id, Handle::File(file)))
    }

    fn open_directory(&mut self, id: u32, path: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.may_open()?;
        let files = &self.files;
        let listed = self
            .room
            .list(MAX_LISTED, || files.list(path, MAX_LISTED))?;
        let Some(Listed { names, held }) = listed else {
            let why = "this node lists too many folders at the moment: close some, or try again";
            return Err(Refusal::Code(status::FAILURE, why));
        };
        let directory = Handle::Directory {
            path: path.to_vec(),
            names: names.into_iter(),
            _held: held,
        };
        Ok(self.hand_out(id, directory))
    }

    fn may_open(&self) -> Result<(), Refusal> {
        if self.handles.len() < MAX_HANDLES {
            return Ok(());
        }
        Err(Refusal::Code(status::FAILURE, "too many open files"))
    }

    fn hand_out(&mut self, id: u32, handle: Handle) -> Vec<u8> {
        // There are far more numbers than handles.
        while self.handles.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.handles.insert(number, handle);
        Writer::new(kind::HANDLE, 12)
            .u32(id)
            .bytes(&number.to_be_bytes())
            .finish()
    }

    fn file(&self, r: &mut Reader<'_>) -> Result<&dyn OpenFile, Refusal> {
        match self.handles.get(&handle_number(r)?) {
            Some(Handle::File(file)) => Ok(file.as_ref()),
            _ => Err(no_handle()),
        }
    }

    fn read(&self, id: u32, mut r: Reader<'_>) -> Result<Vec<u8>, Refusal> {
        let file = self.file(&mut r)?;
        let offset = r.u64()?;
        let wanted = (r.u32()? as usize).min(MAX_PIECE_BYTES);
        let (answer, count) = Writer::new(kind::DATA, 8 + wanted)
            .u32(id)
            .filled(wanted, |into| file.read_at(offset, into))?;
        if count == 0 && wanted > 0 {
            return Err(Refusal::Code(status::EOF, "end of file"));
        }
        Ok(answer.finish())
    }

    fn read_directory(&mut self, id: u32, number: u32) -> Result<Vec<u8>, Refusal> {
        let Some(Handle::Directory { path, names, .. }) = self.handles.get_mut(&number) else {
            return Err(no_handle());
        };
        let mut count = 0;
        let mut listed = Writer::new(kind::NAME, 0);
        while count < NAMES_IN_AN_ANSWER && listed.len() < MAX_PACKET_BYTES / 2 {
            let Some(name) = names.next() else { break };
            let mut whole = path.clone();
            whole.push(b'/');
            whole.extend_from_slice(&name);
            // What has gone since it was listed is not there.
            let Ok(stat) = self.files.stat(&whole, false) else {
                continue;
            };
            listed = listed
                .bytes(&name)
                .bytes(&listing::line(&name, &stat))
                .attributes(&Attributes::from(&stat));
            count += 1;
        }
        if count == 0 {
            return Err(Refusal::Code(status::EOF, "no more names"));
        }
        let listed = listed.finish();
        let mut answer = Writer::new(kind::NAME, listed.len() + 8)
            .u32(id)
            .u32(count as u32);
        answer.append(listed.get(5..).unwrap_or_default());
        Ok(answer.finish())
    }
}

fn handle_number(r: &mut Reader<'_>) -> Result<u32, Refusal> {
    let bytes: [u8; 4] = r.bytes()?.try_into().map_err(|_| no_handle())?;
    Ok(u32::from_be_bytes(bytes))
}

fn no_handle() -> Refusal {
    Refusal::Code(status::FAILURE, "no such handle")
}

fn unsupported() -> Refusal {
    Refusal::Code(status::UNSUPPORTED, "unsupported")
}

/// The answer to a greeting: the version and what is understood beyond it.
fn greeting() -> Vec<u8> {
    Writer::new(kind::VERSION, 96)
        .u32(VERSION)
        .bytes(b"posix-rename@openssh.com")
        .bytes(b"1")
        .bytes(b"limits@openssh.com")
        .bytes(b"1")
        .finish()
}

fn status_answer(id: u32, code: u32, message: &str) -> Vec<u8> {
    Writer::new(kind::STATUS, 20 + message.len())
        .u32(id)
        .u32(code)
        .bytes(message.as_bytes())
        .bytes(b"")
        .finish()
}

fn done(id: u32) -> Vec<u8> {
    status_answer(id, status::OK, "")
}

fn refused(id: u32, refusal: &Refusal) -> Vec<u8> {
    match refusal {
        Refusal::Code(code, message) => status_answer(id, *code, message),
        Refusal::System(error) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound => status::NO_SUCH_FILE,
                io::ErrorKind::PermissionDenied => status::PERMISSION_DENIED,
                io::ErrorKind::Unsupported => status::UNSUPPORTED,
                _ => status::FAILURE,
            };
            status_answer(id, code, &error.to_string())
        }
    }
}

fn attributes(id: u32, of: &Attributes) -> Vec<u8> {
    Writer::new(kind::ATTRS, 40).u32(id).attributes(of).finish()
}

fn one_name(id: u32, name: &[u8]) -> Vec<u8> {
    Writer::new(kind::NAME, 32 + 2 * name.len())
        .u32(id)
        .u32(1)
        .bytes(name)
        .bytes(name)
        .attributes(&Attributes::default())
        .finish()
}
