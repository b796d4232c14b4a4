//! Work directories that cannot be overrun: a filesystem of its own for each task.
//!
//! A sparse image in the runtime's folder holds an ext4 filesystem of the task's size. An overlay
//! joins it with the inputs that stand in the work directory already, so that nothing is copied, and
//! is shown to the container and, in the place of the work directory, to the node. That takes some
//! 60 ms for each task, so it is the owner's choice, and it takes root.
//!
//! `run` makes a [`Disk`] before the container and closes it when the task has failed; after a
//! success the node still has to read the outputs, so it stays until [`Disks::release`]. What a crash
//! left is found in the table of mounts (`mounts`) by [`sweep`]. Nothing here may resolve a path that
//! a task could have made.

mod mounts;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

/// What the folder of all lives is called in the runtime's own folder.
const FOLDER: &str = "disks";

/// The names within one disk's filesystem: what the task changed, what the overlay works with, where
/// it stands, and what takes up the room beyond the limit.
const UPPER: &str = "upper";
const SCRATCH: &str = "scratch";
const MERGED: &str = "merged";
const BALLAST: &str = "ballast";

/// Bytes for each inode: what `workdir` charges an entry, so that no task runs out of inodes first.
const BYTES_PER_INODE: u64 = super::workdir::ENTRY_BYTES;

/// The filesystem needs a sixteenth for inodes at that rate, a fiftieth that it keeps back, and some
/// for its maps; what is more than the limit in the end is taken up by [`BALLAST`].
const OVERHEAD_PART: u64 = 8;
const OVERHEAD_BYTES: u64 = 8 << 20;

/// The smallest and largest disk that is made, in bytes: ext4's own limits leave no use for others.
const LEAST: u64 = 1 << 20;
const MOST: u64 = 8 << 40;

/// The filesystems of one life of the node.
#[derive(Debug)]
pub(super) struct Disks {
    /// Whether the owner wants them.
    wanted: bool,
    /// The folder of this life.
    dir: PathBuf,
    /// Whether this machine can.
    able: OnceCell<bool>,
    /// Those of tasks that have succeeded, by work directory, until the node has read the outputs.
    kept: Mutex<HashMap<PathBuf, Disk>>,
}

impl Disks {
    /// `dir` is the runtime's folder, `label` names this life of the node.
    pub(super) fn new(wanted: bool, dir: &Path, label: &str) -> Self {
        let all = folder_of_all(dir);
        Self {
            wanted,
            dir: all.join(name_of(label)),
            able: OnceCell::new(),
            kept: Mutex::default(),
        }
    }

    /// Whether tasks get them: the owner wants it, and a first one could be made.
    pub(super) async fn are_on(&self) -> bool {
        self.wanted && *self.able.get_or_init(|| self.try_out()).await
    }

    async fn try_out(&self) -> bool {
        let dir = self.dir.clone();
        let tried = tokio::task::spawn_blocking(move || {
            // Root's own: what tasks that run as root make is nobody else's to use.
            let mut folders = fs::DirBuilder::new();
            folders.recursive(true).mode(0o700).create(&dir)?;
            let work_dir = tempfile::tempdir_in(&dir)?;
            Disk::make(&dir, "trial", work_dir.path(), LEAST).map(Disk::close)
        });
        match tried.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(
                    %error,
                    "this machine cannot make disks of their own for tasks, which need root, loop \
                     devices, mkfs.ext4 and mount: limits of disk are watched instead"
                );
                false
            }
            Err(_) => false,
        }
    }

    /// A disk for the task that works in `work_dir`, named like its container, with room for `bytes`
    /// beside what stands there already.
    ///
    /// # Errors
    /// When the system refuses; nothing of it is left then.
    pub(super) fn make(&self, name: &str, work_dir: &Path, bytes: u64) -> io::Result<Disk> {
        Disk::make(&self.dir, name, work_dir, bytes)
    }

    /// The task has succeeded: keeps its disk for the node.
    pub(super) fn keep(&self, work_dir: &Path, disk: Disk) {
        self.kept().insert(work_dir.to_path_buf(), disk);
    }

    /// The node has read what it wanted.
    pub(super) fn release(&self, work_dir: &Path) {
        let disk = self.kept().remove(work_dir);
        if let Some(disk) = disk {
            disk.close();
        }
    }

    /// Whether a disk is kept for this work directory.
    pub(super) fn holds(&self, work_dir: &Path) -> bool {
        self.kept().contains_key(work_dir)
    }

    /// Takes away all that is left. Call it when no task runs.
    pub(super) fn close(&self) {
        let kept = std::mem::take(&mut *self.kept());
        kept.into_values().for_each(Disk::close);
        // Not there when there never was a disk.
        let _ = fs::remove_dir(&self.dir);
        let _ = self.dir.parent().map(fs::remove_dir);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<PathBuf, Disk>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder of all lives, in the runtime's own.
pub(super) fn folder_of_all(dir: &Path) -> PathBuf {
    // Mounts are found by path, so it must be the one that the system knows.
    let dir = dir.canonicalize().or_else(|_| std::path::absolute(dir));
    dir.unwrap_or_default().join(FOLDER)
}

/// A life's folder is named by its label; a label holds no other signs.
fn name_of(label: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == ':';
    label.chars().filter(plain).collect()
}

/// One task's filesystem. It must be closed; dropping it does that, too.
#[derive(Debug)]
pub(super) struct Disk {
    /// The image.
    image: PathBuf,
    /// Where the image is mounted.
    root: PathBuf,
    /// Where it is shown to the node; absent until it is.
    shown: Option<PathBuf>,
    closed: bool,
}

impl Disk {
    fn make(dir: &Path, name: &str, work_dir: &Path, bytes: u64) -> io::Result<Self> {
        let bytes = bytes.clamp(LEAST, MOST);
        let root = dir.join(name);
        fs::create_dir(&root)?;
        let mut disk = Self {
            image: dir.join(format!("{name}.ext4")),
            root,
            shown: None,
            closed: false,
        };
        // Whatever fails from here on, dropping the disk takes away what was made.
        fs::File::create_new(&disk.image)?
            .set_len(bytes + bytes / OVERHEAD_PART + OVERHEAD_BYTES)?;
        format(&disk.image)?;
        attach(&disk.image, &disk.root)?;
        cut(&disk.root, bytes)?;
        for folder in [UPPER, SCRATCH, MERGED] {
            fs::create_dir(disk.root.join(folder))?;
        }
        mounts::join(
            work_dir,
            &disk.root.join(UPPER),
            &disk.root.join(SCRATCH),
            &disk.root.join(MERGED),
        )?;
        mounts::show(&disk.root.join(MERGED), work_dir)?;
        disk.shown = Some(work_dir.to_path_buf());
        Ok(disk)
    }

    /// What the container is given. It is there only for who sees the mount: an engine that does not
    /// cannot give the task the host's disk by mistake.
    pub(super) fn merged(&self) -> PathBuf {
        self.root.join(MERGED)
    }

    /// Takes it away with all that is in it.
    pub(super) fn close(mut self) {
        self.take_away();
    }

    fn take_away(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Some(shown) = &self.shown {
            mounts::remove(shown);
        }
        mounts::remove(&self.root.join(MERGED));
        mounts::remove(&self.root);
        for removed in [fs::remove_file(&self.image), fs::remove_dir(&self.root)] {
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, disk = %self.root.display(), "cannot remove a task's disk");
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.take_away();
    }
}

/// No journal: what a crash leaves is thrown away. Nothing is written that need not be, so that it
/// takes no longer for large disks.
fn format(image: &Path) -> io::Result<()> {
    let inodes = BYTES_PER_INODE.to_string();
    let mut command = Command::new("mkfs.ext4");
    command
        .args([
            "-q", "-F", "-b", "4096", "-m", "0", "-I", "256", "-i", &inodes,
        ])
        .args(["-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg"])
        .args(["-E", "lazy_itable_init=1,nodiscard"])
        .arg(image);
    done(command)
}

/// `mount` finds a free loop device and frees it with the mount.
fn attach(image: &Path, at: &Path) -> io::Result<()> {
    let mut command = Command::new("mount");
    command
        .args([
            "-t",
            "ext4",
            "-o",
            "loop,nosuid,nodev,noatime,noinit_itable",
        ])
        .args([image, at]);
    done(command)
}

fn done(mut command: Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{}: {}",
        command.get_program().display(),
        said.lines().next().unwrap_or_default()
    )))
}

/// Takes up the room of a new filesystem beyond `bytes`.
fn cut(root: &Path, bytes: u64) -> io::Result<()> {
    let space = rustix::fs::statvfs(root)?;
    let spare = crate::host::space::available(&space).checked_sub(bytes);
    let Some(spare) = spare else {
        return Err(io::Error::other(
            "the filesystem has less room than the limit",
        ));
    };
    let ballast = fs::File::create_new(root.join(BALLAST))?;
    if spare > 0 {
        let none = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&ballast, none, 0, spare)?;
    }
    Ok(())
}

/// Removes the disks of all lives in the runtime's folder `dir` whose label is picked, mounts
/// first. Returns how many there were. It goes by the table of mounts and by names in folders of the
/// node's own, so it sees nothing that a task has made.
pub(super) fn sweep(dir: &Path, pick: impl Fn(&str) -> bool) -> usize {
    let Ok(lives) = fs::read_dir(folder_of_all(dir)) else {
        return 0;
    };
    let mut count = 0;
    for life in lives.flatten() {
        if life.file_name().to_str().is_none_or(|name| !pick(name)) {
            continue;
        }
        mounts::remove_below(&life.path());
        let Ok(disks) = fs::read_dir(life.path()) else {
            continue;
        };
        for disk in disks.flatten() {
            let path = disk.path();
            // What is still a mount cannot be removed, nor can a folder that holds anything.
            let removed = match path.extension() {
                Some(_) => fs::remove_file(&path).map(|()| count += 1),
                None => fs::remove_dir(&path),
            };
            if let Err(error) = removed {
                tracing::warn!(%error, path = %path.display(), "a leftover disk stays");
            }
        }
        let _ = fs::remove_dir(life.path());
    }
    count
}

#[cfg(test)]
mod tests;
