//! SFTP from the side that asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2pnode_executor::inside::Duplex;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{CopyError, lossy};
use crate::files::read_packet;
use crate::files::wire::{Attributes, Reader, VERSION, Writer, flag, kind, status};

/// Requests that wait to be written.
const QUEUE: usize = 32;

/// Names that wait to be copied, of one directory and of all that stand open above it: a million of them is
/// no folder that anybody copies, and memory is not endless.
pub(super) const MAX_NAMES: usize = 1_000_000;

/// The longest name of a file, in bytes (Linux's `NAME_MAX`, and that of nearly all file systems).
const MAX_NAME_BYTES: usize = 255;

/// More than [`MAX_NAMES`].
pub(super) const ENDLESS: CopyError = CopyError::Protocol("a folder without end");

/// Answers that are waited for. None once the stream has broken.
type Waiting = Arc<Mutex<Option<HashMap<u32, oneshot::Sender<Vec<u8>>>>>>;

/// The files of a task.
#[derive(Debug)]
pub struct Remote {
    calls: mpsc::Sender<(Writer, u32)>,
    next: std::sync::atomic::AtomicU32,
    waiting: Waiting,
    _reader: AbortOnDropHandle<()>,
    _writer: AbortOnDropHandle<()>,
}

/// What is known of a file in a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// In bytes.
    pub size: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Last read and last change, in seconds since the Unix epoch.
    pub times: Option<(i64, i64)>,
}

impl Entry {
    fn new(of: &Attributes) -> Self {
        Self {
            size: of.size.unwrap_or(0),
            mode: of.mode.unwrap_or(0),
            times: of.times,
        }
    }

    /// Whether it is a folder.
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether it is a plain file.
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }
}

/// An open file or folder in a task.
#[derive(Debug, Clone)]
pub(super) struct RemoteHandle(Vec<u8>);

impl Remote {
    /// Greets the other side of a tunnel of files.
    ///
    /// # Errors
    /// [`CopyError::Broken`] or [`CopyError::Protocol`].
    pub async fn open<S: Duplex + 'static>(stream: S) -> Result<Self, CopyError> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let hello = Writer::new(kind::INIT, 4).u32(VERSION).finish();
        let greeting = async {
            writer.write_all(&hello).await?;
            writer.flush().await?;
            read_packet(&mut reader).await
        };
        let greeting = greeting.await.map_err(|_| CopyError::Broken)?;
        let mut greeting = Reader(&greeting);
        if greeting.u8() != Ok(kind::VERSION) || greeting.u32() != Ok(VERSION) {
            return Err(CopyError::Protocol("not SFTP version 3"));
        }
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (calls, mut called) = mpsc::channel::<(Writer, u32)>(QUEUE);
        let answers = Arc::clone(&waiting);
        let reading = tokio::spawn(async move {
            while let Ok(packet) = read_packet(&mut reader).await {
                let Some(id) = packet.get(1..5).and_then(|id| id.try_into().ok()) else {
                    break;
                };
                let id = u32::from_be_bytes(id);
                let mut waiting = answers.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(asker) = waiting.as_mut().and_then(|table| table.remove(&id)) else {
                    break;
                };
                let _ = asker.send(packet);
            }
            // Whoever waits hears that nothing comes.
            *answers.lock().unwrap_or_else(PoisonError::into_inner) = None;
        });
        let writing = tokio::spawn(async move {
            while let Some((call, _)) = called.recv().await {
                if writer.write_all(&call.finish()).await.is_err() {
                    return;
                }
                while let Ok((call, _)) = called.try_recv() {
                    if writer.write_all(&call.finish()).await.is_err() {
                        return;
                    }
                }
                if writer.flush().await.is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            calls,
            next: std::sync::atomic::AtomicU32::new(0),
            waiting,
            _reader: AbortOnDropHandle::new(reading),
            _writer: AbortOnDropHandle::new(writing),
        })
    }

    /// Sends a request and waits for its answer; a status that is not fine is an error.
    async fn call(
        &self,
        request: u8,
        path: &[u8],
        body: impl FnOnce(Writer) -> Writer,
    ) -> Result<Vec<u8>, CopyError> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let call = body(Writer::new(request, 64).u32(id));
        let (asker, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let table = waiting.as_mut().ok_or(CopyError::Broken)?;
            table.insert(id, asker);
        }
        self.calls
            .send((call, id))
            .await
            .map_err(|_| CopyError::Broken)?;
        let answer = answer.await.map_err(|_| CopyError::Broken)?;
        let mut reader = Reader(&answer);
        if reader.u8() == Ok(kind::STATUS) {
            let wrong = |_| CopyError::Protocol("a broken status");
            reader.u32().map_err(wrong)?;
            let code = reader.u32().map_err(wrong)?;
            if code != status::OK {
                let message = reader.bytes().map(lossy).unwrap_or_default();
                return Err(CopyError::Remote {
                    path: lossy(path),
                    code,
                    message: message.chars().take(200).collect(),
                });
            }
        }
        Ok(answer)
    }

    /// What is known of a path.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn stat(&self, path: &[u8], follow: bool) -> Result<Entry, CopyError> {
        let request = if follow { kind::STAT } else { kind::LSTAT };
        let answer = self.call(request, path, |w| w.bytes(path)).await?;
        let mut reader = expect(&answer, kind::ATTRS)?;
        let found = reader.attributes().map_err(malformed)?;
        Ok(Entry::new(&found))
    }

    /// The absolute path of what stands at `path`; an empty one is the work directory.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn real_path(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let answer = self.call(kind::REALPATH, path, |w| w.bytes(path)).await?;
        one_name(&answer)
    }

    pub(super) async fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        let answer = self.call(kind::READLINK, path, |w| w.bytes(path)).await?;
        one_name(&answer)
    }

    /// What is in a folder, without `.` and `..`; names are as the provider says them.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Entry)>, CopyError> {
        let answer = self.call(kind::OPENDIR, path, |w| w.bytes(path)).await?;
        let handle = handle(&answer)?;
        let mut found = Vec::new();
        loop {
            let answer = match self.call(kind::READDIR, path, |w| w.bytes(&handle.0)).await {
                Err(CopyError::Remote { code, .. }) if code == status::EOF => break,
                answer => answer?,
            };
            let mut reader = expect(&answer, kind::NAME)?;
            let count = reader.u32().map_err(malformed)?;
            for _ in 0..count {
                let name = reader.bytes().map_err(malformed)?;
                reader.bytes().map_err(malformed)?;
                let entry = Entry::new(&reader.attributes().map_err(malformed)?);
                if name.len() > MAX_NAME_BYTES {
                    return Err(CopyError::Name(lossy(&name[..MAX_NAME_BYTES])));
                }
                if name != b"." && name != b".." {
                    found.push((name.to_vec(), entry));
                }
            }
            if count == 0 || found.len() > MAX_NAMES {
                return Err(ENDLESS);
            }
        }
        self.close(handle).await?;
        Ok(found)
    }

    pub(super) async fn open_file(
        &self,
        path: &[u8],
        flags: u32,
        mode: Option<u32>,
    ) -> Result<RemoteHandle, CopyError> {
        let attributes = Attributes {
            mode,
            ..Attributes::default()
        };
        let answer = self
            .call(kind::OPEN, path, |w| {
                w.bytes(path).u32(flags).attributes(&attributes)
            })
            .await?;
        handle(&answer)
    }

    pub(super) async fn open_to_read(&self, path: &[u8]) -> Result<RemoteHandle, CopyError> {
        self.open_file(path, flag::READ, None).await
    }

    pub(super) async fn open_to_write(
        &self,
        path: &[u8],
        mode: u32,
    ) -> Result<RemoteHandle, CopyError> {
        let flags = flag::WRITE | flag::CREATE | flag::TRUNCATE;
        self.open_file(path, flags, Some(mode & 0o777)).await
    }

    pub(super) async fn close(&self, handle: RemoteHandle) -> Result<(), CopyError> {
        self.call(kind::CLOSE, b"", |w| w.bytes(&handle.0)).await?;
        Ok(())
    }

    /// Reads `length` bytes at `offset`, fewer only at the file's end.
    pub(super) async fn read(
        &self,
        handle: &RemoteHandle,
        path: &[u8],
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, CopyError> {
        let mut read = Vec::new();
        while read.len() < length {
            let wanted = length - read.len();
            let at = offset + read.len() as u64;
            let asked = self
                .call(kind::READ, path, |w| {
                    w.bytes(&handle.0).u64(at).u32(wanted as u32)
                })
                .await;
            let answer = match asked {
                Err(CopyError::Remote { code, .. }) if code == status::EOF => break,
                answer => answer?,
            };
            let bytes = expect(&answer, kind::DATA)?.bytes().map_err(malformed)?;
            if bytes.is_empty() || bytes.len() > wanted {
                return Err(CopyError::Protocol(
                    "more or less bytes than were asked for",
                ));
            }
            if read.is_empty() && bytes.len() == wanted {
                return Ok(bytes.to_vec());
            }
            read.extend_from_slice(bytes);
        }
        Ok(read)
    }

    pub(super) async fn write(
        &self,
        handle: &RemoteHandle,
        path: &[u8],
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CopyError> {
        self.call(kind::WRITE, path, |w| {
            w.bytes(&handle.0).u64(offset).bytes(bytes)
        })
        .await?;
        Ok(())
    }

    pub(super) async fn make_dir(&self, path: &[u8]) -> Result<(), CopyError> {
        let attributes = Attributes {
            mode: Some(0o700),
            ..Attributes::default()
        };
        self.call(kind::MKDIR, path, |w| w.bytes(path).attributes(&attributes))
            .await?;
        Ok(())
    }

    /// Makes a link, in the place of one that stands there.
    pub(super) async fn put_link(&self, target: &[u8], path: &[u8]) -> Result<(), CopyError> {
        let Err(error) = self.make_link(target, path).await else {
            return Ok(());
        };
        match self.stat(path, false).await {
            Ok(stands) if stands.is_link() => {
                self.call(kind::REMOVE, path, |w| w.bytes(path)).await?;
                self.make_link(target, path).await
            }
            _ => Err(error),
        }
    }

    async fn make_link(&self, target: &[u8], path: &[u8]) -> Result<(), CopyError> {
        self.call(kind::SYMLINK, path, |w| w.bytes(target).bytes(path))
            .await?;
        Ok(())
    }

    pub(super) async fn change(
        &self,
        path: &[u8],
        mode: u32,
        times: Option<(i64, i64)>,
    ) -> Result<(), CopyError> {
        let attributes = Attributes {
            mode: Some(mode & 0o777),
            times,
            ..Attributes::default()
        };
        self.call(kind::SETSTAT, path, |w| {
            w.bytes(path).attributes(&attributes)
        })
        .await?;
        Ok(())
    }
}

/// The rest of an answer of the kind, after its id.
fn expect(answer: &[u8], wanted: u8) -> Result<Reader<'_>, CopyError> {
    let mut reader = Reader(answer);
    if reader.u8() != Ok(wanted) || reader.u32().is_err() {
        return Err(CopyError::Protocol("the answer to something else"));
    }
    Ok(reader)
}

fn malformed(_: crate::files::wire::Malformed) -> CopyError {
    CopyError::Protocol("it ends too early")
}

fn handle(answer: &[u8]) -> Result<RemoteHandle, CopyError> {
    let bytes = expect(answer, kind::HANDLE)?.bytes().map_err(malformed)?;
    // The draft's limit.
    if bytes.len() > 256 {
        return Err(CopyError::Protocol("a handle of more than 256 bytes"));
    }
    Ok(RemoteHandle(bytes.to_vec()))
}

fn one_name(answer: &[u8]) -> Result<Vec<u8>, CopyError> {
    let mut reader = expect(answer, kind::NAME)?;
    if reader.u32() != Ok(1) {
        return Err(CopyError::Protocol("not one name"));
    }
    Ok(reader.path().map_err(malformed)?.to_vec())
}
