//! From a task to here.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::io::AsyncWriteExt;

use super::remote::{ENDLESS, MAX_NAMES, RemoteHandle};
use super::{
    CopyError, Entry, IN_FLIGHT, MAX_DEPTH, OnProgress, PIECE_BYTES, Progress, Remote,
    is_plain_name, join,
};

/// A folder that is being filled.
struct Folder {
    remote: Vec<u8>,
    local: PathBuf,
    dir: Dir,
    entry: Entry,
    left: Vec<(Vec<u8>, Entry)>,
}

impl Remote {
    /// Copies the file or folder `from` of the task to `to`, which is the path of the copy itself.
    /// Files that stand there are overwritten, folders are filled; modes and times of change are kept.
    /// Links in a folder are copied as links.
    ///
    /// # Errors
    /// [`CopyError`]; what was copied before it stays.
    pub async fn download(
        &self,
        from: &[u8],
        to: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<Progress, CopyError> {
        let mut progress = Progress::default();
        let entry = self.stat(from, true).await?;
        let here = |source: io::Error| CopyError::Local {
            path: to.to_owned(),
            source,
        };
        let name = to.file_name().ok_or_else(|| here(no_name()))?;
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = Dir::open_ambient_dir(parent, ambient_authority()).map_err(here)?;
        if !entry.is_dir() {
            let tell = &mut progress;
            self.fetch(from, &parent, name, to, &entry, tell, on_progress)
                .await?;
            return Ok(progress);
        }
        // The copy's own folder may be a link that its owner made; what is below may not lead out.
        let made = parent.create_dir(name);
        let dir = match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(here(error)),
            _ => Dir::open_ambient_dir(to, ambient_authority()).map_err(here)?,
        };
        let left = self.list(from).await?;
        let mut open = vec![Folder {
            remote: from.to_vec(),
            local: to.to_owned(),
            dir,
            entry,
            left,
        }];
        while let Some(folder) = open.last_mut() {
            let Some((name, entry)) = folder.left.pop() else {
                if let Some(folder) = open.pop() {
                    finish_folder(folder)?;
                }
                continue;
            };
            let inner = self
                .enter(folder, &name, entry, &mut progress, on_progress)
                .await?;
            if open.len() >= MAX_DEPTH {
                return Err(CopyError::Deep);
            }
            open.extend(inner);
            let waiting: usize = open.iter().map(|folder| folder.left.len()).sum();
            if waiting > MAX_NAMES {
                return Err(ENDLESS);
            }
        }
        Ok(progress)
    }

    /// Copies one thing of a folder; a folder is made and returned, to be filled.
    async fn enter(
        &self,
        folder: &Folder,
        name: &[u8],
        entry: Entry,
        progress: &mut Progress,
        on_progress: OnProgress<'_>,
    ) -> Result<Option<Folder>, CopyError> {
        if !is_plain_name(name) {
            return Err(CopyError::Name(super::lossy(name)));
        }
        let remote = join(&folder.remote, name);
        let name = OsStr::from_bytes(name);
        let local = folder.local.join(name);
        let here = |source: io::Error| CopyError::Local {
            path: local.clone(),
            source,
        };
        if entry.is_dir() {
            let left = self.list(&remote).await?;
            match folder.dir.create_dir(name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(here(error));
                }
                _ => {}
            }
            let dir = open_real_dir(&folder.dir, name).map_err(here)?;
            return Ok(Some(Folder {
                remote,
                local,
                dir,
                entry,
                left,
            }));
        }
        if entry.is_link() {
            let target = self.read_link(&remote).await?;
            let _ = folder.dir.remove_file(name);
            folder
                .dir
                .symlink_contents(OsStr::from_bytes(&target), name)
                .map_err(here)?;
            progress.files += 1;
            on_progress(*progress);
        } else if entry.is_file() {
            self.fetch(
                &remote,
                &folder.dir,
                name,
                &local,
                &entry,
                progress,
                on_progress,
            )
            .await?;
        } else {
            progress.skipped += 1;
        }
        Ok(None)
    }

    /// Copies a file's bytes, mode and times.
    #[expect(
        clippy::too_many_arguments,
        reason = "where from, where to, and who is told"
    )]
    async fn fetch(
        &self,
        remote: &[u8],
        dir: &Dir,
        name: &OsStr,
        local: &Path,
        entry: &Entry,
        progress: &mut Progress,
        on_progress: OnProgress<'_>,
    ) -> Result<(), CopyError> {
        let here = |source: io::Error| CopyError::Local {
            path: local.to_owned(),
            source,
        };
        let from = self.open_to_read(remote).await?;
        let mut how = OpenOptions::new();
        how.write(true).create(true).truncate(true);
        let file = dir.open_with(name, &how).map_err(here)?.into_std();
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE_BYTES);
        let copied = self
            .fetch_bytes(
                &from,
                remote,
                entry.size,
                &mut file,
                local,
                progress,
                on_progress,
            )
            .await;
        // Close it in any case: the task may hold only so many.
        let closed = self.close(from).await;
        copied?;
        closed?;
        file.flush().await.map_err(here)?;
        let file = file.into_std().await;
        settle(&file, entry).map_err(here)?;
        progress.files += 1;
        on_progress(*progress);
        Ok(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "where from, where to, and who is told"
    )]
    async fn fetch_bytes(
        &self,
        from: &RemoteHandle,
        remote: &[u8],
        size: u64,
        file: &mut tokio::fs::File,
        local: &Path,
        progress: &mut Progress,
        on_progress: OnProgress<'_>,
    ) -> Result<(), CopyError> {
        let piece = PIECE_BYTES as u64;
        let mut pieces = stream::iter((0..size.div_ceil(piece)).map(|number| number * piece))
            .map(|offset| self.read(from, remote, offset, PIECE_BYTES))
            .buffered(IN_FLIGHT);
        let mut at = 0_u64;
        let mut whole = true;
        while let Some(bytes) = pieces.try_next().await? {
            whole = bytes.len() == PIECE_BYTES;
            at += bytes.len() as u64;
            write(file, local, &bytes, progress, on_progress).await?;
            if !whole {
                break;
            }
        }
        drop(pieces);
        // A file that grew meanwhile, or one of those that say they are empty and are not.
        while whole {
            let bytes = self.read(from, remote, at, PIECE_BYTES).await?;
            whole = bytes.len() == PIECE_BYTES;
            at += bytes.len() as u64;
            write(file, local, &bytes, progress, on_progress).await?;
        }
        Ok(())
    }
}

async fn write(
    file: &mut tokio::fs::File,
    local: &Path,
    bytes: &[u8],
    progress: &mut Progress,
    on_progress: OnProgress<'_>,
) -> Result<(), CopyError> {
    let written = file.write_all(bytes).await;
    written.map_err(|source| CopyError::Local {
        path: local.to_owned(),
        source,
    })?;
    progress.bytes += bytes.len() as u64;
    on_progress(*progress);
    Ok(())
}

fn no_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the copy needs a name")
}

/// Mode and times, once everything is in it.
fn finish_folder(folder: Folder) -> Result<(), CopyError> {
    let path = folder.local;
    // A `Dir` is only a place to begin at; what changes it must be open.
    let open = folder.dir.open(".");
    open.and_then(|open| settle(&open.into_std(), &folder.entry))
        .map_err(|source| CopyError::Local { path, source })
}

fn settle(file: &std::fs::File, entry: &Entry) -> io::Result<()> {
    // Set-user-id bits, and files that others may change, are a stranger's wish that nobody here has.
    let mode = entry.mode & 0o755;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    if let Some((_, mtime)) = entry.times {
        let since = Duration::from_secs(u64::try_from(mtime).unwrap_or(0));
        let times = std::fs::FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since);
        file.set_times(times)?;
    }
    Ok(())
}

/// A folder that is one: a link in its place is refused, even if it stays within the copy.
fn open_real_dir(parent: &Dir, name: &OsStr) -> io::Result<Dir> {
    if !parent.symlink_metadata(name)?.is_dir() {
        let why = "there is something else in the folder's place: move it away";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    parent.open_dir(name)
}
