//! From here to a task.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::task::spawn_blocking;

use super::remote::RemoteHandle;
use super::{CopyError, IN_FLIGHT, MAX_DEPTH, OnProgress, PIECE_BYTES, Progress, Remote, join};

/// A folder that is being copied.
struct Folder {
    remote: Vec<u8>,
    metadata: Metadata,
    left: VecDeque<PathBuf>,
}

impl Remote {
    /// Copies the file or folder `from` to `to` in the task, which is the path of the copy itself.
    /// Files that stand there are overwritten, folders are filled; modes and times of change are kept.
    /// Links in a folder are copied as links.
    ///
    /// # Errors
    /// [`CopyError`]; what was copied before it stays.
    pub async fn upload(
        &self,
        from: &Path,
        to: &[u8],
        on_progress: OnProgress<'_>,
    ) -> Result<Progress, CopyError> {
        let mut progress = Progress::default();
        let metadata = fs::metadata(from).map_err(|source| local(from, source))?;
        if !metadata.is_dir() {
            self.send(from, to, &metadata, &mut progress, on_progress)
                .await?;
            return Ok(progress);
        }
        let mut open = vec![self.open_folder(from, to.to_vec(), metadata).await?];
        while let Some(folder) = open.last_mut() {
            let Some(path) = folder.left.pop_front() else {
                if let Some(done) = open.pop() {
                    self.change(&done.remote, done.metadata.mode(), times(&done.metadata))
                        .await?;
                }
                continue;
            };
            let name = path.file_name().unwrap_or_default();
            let remote = join(&folder.remote, name.as_bytes());
            let metadata = fs::symlink_metadata(&path).map_err(|source| local(&path, source))?;
            if metadata.is_dir() {
                if open.len() >= MAX_DEPTH {
                    return Err(CopyError::Deep);
                }
                open.push(self.open_folder(&path, remote, metadata).await?);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).map_err(|source| local(&path, source))?;
                self.put_link(target.as_os_str().as_bytes(), &remote)
                    .await?;
                progress.files += 1;
                on_progress(progress);
            } else if metadata.is_file() {
                self.send(&path, &remote, &metadata, &mut progress, on_progress)
                    .await?;
            } else {
                progress.skipped += 1;
            }
        }
        Ok(progress)
    }

    /// Makes a folder in the task, unless it is there, and lists the one here.
    async fn open_folder(
        &self,
        path: &Path,
        remote: Vec<u8>,
        metadata: Metadata,
    ) -> Result<Folder, CopyError> {
        let left = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(|source| local(path, source))?;
        if let Err(refused) = self.make_dir(&remote).await {
            let there = self.stat(&remote, true).await;
            if !there.is_ok_and(|entry| entry.is_dir()) {
                return Err(refused);
            }
        }
        Ok(Folder {
            remote,
            metadata,
            left,
        })
    }

    /// Copies a file's bytes, mode and times.
    async fn send(
        &self,
        path: &Path,
        remote: &[u8],
        metadata: &Metadata,
        progress: &mut Progress,
        on_progress: OnProgress<'_>,
    ) -> Result<(), CopyError> {
        let file = Arc::new(File::open(path).map_err(|source| local(path, source))?);
        let to = self.open_to_write(remote, metadata.mode()).await?;
        let sent = self
            .send_bytes(&file, path, &to, remote, progress, on_progress)
            .await;
        // Close it in any case: the task may hold only so many.
        let closed = self.close(to).await;
        sent?;
        closed?;
        self.change(remote, metadata.mode(), times(metadata))
            .await?;
        progress.files += 1;
        on_progress(*progress);
        Ok(())
    }

    async fn send_bytes(
        &self,
        file: &Arc<File>,
        path: &Path,
        to: &RemoteHandle,
        remote: &[u8],
        progress: &mut Progress,
        on_progress: OnProgress<'_>,
    ) -> Result<(), CopyError> {
        let mut flying = FuturesUnordered::new();
        let mut at = 0_u64;
        let mut ended = false;
        while !ended || !flying.is_empty() {
            while !ended && flying.len() < IN_FLIGHT {
                let bytes = read_piece(file, at)
                    .await
                    .map_err(|source| local(path, source))?;
                ended = bytes.is_empty();
                if !ended {
                    let offset = at;
                    at += bytes.len() as u64;
                    flying.push(async move {
                        self.write(to, remote, offset, &bytes).await?;
                        Ok::<u64, CopyError>(bytes.len() as u64)
                    });
                }
            }
            if let Some(written) = flying.next().await {
                progress.bytes += written?;
                on_progress(*progress);
            }
        }
        Ok(())
    }
}

/// Reads at an offset; nothing at the end.
async fn read_piece(file: &Arc<File>, at: u64) -> io::Result<Vec<u8>> {
    let file = Arc::clone(file);
    let read = spawn_blocking(move || {
        let mut bytes = vec![0; PIECE_BYTES];
        let count = file.read_at(&mut bytes, at)?;
        bytes.truncate(count);
        Ok(bytes)
    });
    read.await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn times(metadata: &Metadata) -> Option<(i64, i64)> {
    Some((metadata.atime(), metadata.mtime()))
}

fn local(path: &Path, source: io::Error) -> CopyError {
    CopyError::Local {
        path: path.to_owned(),
        source,
    }
}
