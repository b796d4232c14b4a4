//! The place at which one task's work directory after the other appears in a warm container.
//!
//! A container's mounts are fixed when it is made. So its work directory is a slot: a folder of the
//! node's that is mounted onto itself, shared, and that the container holds as a slave. What the node
//! mounts on top of it appears in the container, and nothing that happens in there comes back. Between
//! two tasks the folder is empty. The task's own directory stays where it is and is never moved or
//! emptied: removing a slot unmounts first and then removes a folder only when it is empty.
//!
//! Needs a node that may mount: root. Everything here blocks; `room` calls it off the async threads.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

/// The folder of all slots, within the runtime's own.
const SLOTS: &str = "warm";

/// Mounts that are taken off one place at most: its own, a task's, and those of a damaged life.
const MOST_MOUNTS: usize = 16;

/// One slot. Dropping it takes it down.
#[derive(Debug)]
pub(super) struct Slot {
    dir: PathBuf,
}

impl Slot {
    /// A new slot called `name` in the runtime's folder.
    ///
    /// # Errors
    /// When the node may not mount, or the folder is there already.
    pub(super) fn make(runtime_dir: &Path, name: &str) -> io::Result<Self> {
        let all = std::path::absolute(runtime_dir)?.join(SLOTS);
        // Only the node looks into it from outside; containers do through their mounts.
        let mut private = std::fs::DirBuilder::new();
        private.mode(0o700).recursive(true).create(&all)?;
        let dir = all.join(name);
        private.recursive(false).create(&dir)?;
        let slot = Self { dir };
        mount_bind(&slot.dir, &slot.dir)?;
        // Private first: it must not be a copy of mounts elsewhere, whatever its parent is.
        mount_change(&slot.dir, MountPropagationFlags::PRIVATE)?;
        mount_change(&slot.dir, MountPropagationFlags::SHARED)?;
        Ok(slot)
    }

    /// Its folder, to be mounted into the container as a slave.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether what is mounted here is seen, asked with an empty folder in the place of a work
    /// directory.
    ///
    /// # Errors
    /// When it can't be tried.
    pub(super) fn rehearse(&self, sees: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        let folder = tempfile::tempdir_in(self.dir.parent().unwrap_or(&self.dir))?;
        self.enter(folder.path())?;
        let seen = sees(folder.path());
        self.leave()?;
        seen
    }

    /// Lets `work_dir` appear. The container must hold the slot already.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub(super) fn enter(&self, work_dir: &Path) -> io::Result<()> {
        Ok(mount_bind(work_dir, &self.dir)?)
    }

    /// Lets the work directory disappear. No process of the task's may be left.
    ///
    /// # Errors
    /// When nothing was mounted.
    pub(super) fn leave(&self) -> io::Result<()> {
        // Detached: even a file that somebody holds open does not keep it in the container.
        Ok(unmount(&self.dir, UnmountFlags::DETACH)?)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Err(error) = take_down(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "a warm container's folder stays behind");
        }
    }
}

/// Unmounts whatever is mounted at `dir` and removes it. Never removes anything in it.
fn take_down(dir: &Path) -> io::Result<()> {
    for _ in 0..MOST_MOUNTS {
        match unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there any more, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes down the slots that an earlier life of this node left: those whose names `pick` picks. Their
/// containers must be gone.
pub(super) fn sweep(runtime_dir: &Path, pick: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(runtime_dir.join(SLOTS)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(&pick)
            && let Err(error) = take_down(&entry.path())
        {
            tracing::warn!(dir = %entry.path().display(), %error, "a folder of an earlier life stays behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_work_directory_appears_and_disappears_and_keeps_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, work) = (dir.path().join("runtime"), dir.path().join("work"));
        std::fs::create_dir(&work).unwrap();
        std::fs::write(work.join("input"), b"1").unwrap();
        let slot = Slot::make(&runtime, "a");
        if !root() {
            assert!(slot.is_err(), "only root may mount");
            return;
        }
        let slot = slot.unwrap();
        let count = || std::fs::read_dir(slot.dir()).unwrap().count();
        for _ in 0..3 {
            assert_eq!(count(), 0);
            slot.enter(&work).unwrap();
            assert_eq!(std::fs::read(slot.dir().join("input")).unwrap(), b"1");
            slot.leave().unwrap();
        }
        assert_eq!(count(), 0);
        assert!(
            slot.rehearse(|dir| Ok(dir != work && dir.exists()))
                .unwrap()
        );
        assert_eq!(std::fs::read_dir(runtime.join(SLOTS)).unwrap().count(), 1);
        slot.enter(&work).unwrap();
        let place = slot.dir().to_path_buf();
        drop(slot);
        assert!(!place.exists());
        assert_eq!(std::fs::read(work.join("input")).unwrap(), b"1");
    }

    #[test]
    fn only_picked_slots_of_a_killed_node_are_swept() {
        if !root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        std::fs::write(work.join("input"), b"1").unwrap();
        let [old, new] = ["old-1", "new-1"].map(|name| Slot::make(dir.path(), name).unwrap());
        old.enter(&work).unwrap();
        let place = old.dir().to_path_buf();
        std::mem::forget(old);
        sweep(dir.path(), |name| name.starts_with("old-"));
        assert!(!place.exists());
        assert!(new.dir().exists());
        assert!(work.join("input").exists());
        // A folder with something in it is never emptied.
        let full = dir.path().join(SLOTS).join("old-2");
        std::fs::create_dir_all(full.join("precious")).unwrap();
        sweep(dir.path(), |name| name.starts_with("old-"));
        assert!(full.join("precious").exists());
    }
}
