//! One open file of a sandbox, and how its properties are told and changed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;

use rustix::fs::{
    FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat, ftruncate,
    futimens,
};
use rustix::io::Errno;

use super::door::{Door, Pass};
use crate::inside::{FileChange, FileStat, OpenFile, OpenMode};

/// Permission bits that may be set: not those that lend a program its owner's rights.
pub(super) const MODE_BITS: u32 = 0o1777;

/// What every call needs: the leave, on the thread that has the task's rights.
pub(super) fn admit(door: &Door, settled: Option<ThreadId>) -> io::Result<Pass> {
    if settled != Some(std::thread::current().id()) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "files of a task are reached only on the thread that has taken its rights",
        ));
    }
    door.pass()
        .ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the task has ended"))
}

/// What this node may write into memory for one task (16 MiB). The kernel counts such pages for whoever
/// writes them, which is this node, and not for the task with its limit of memory; so it is counted here,
/// and what is deleted is not given back: nobody can tell what the task itself has made of it.
const MEMORY: u64 = 16 << 20;

/// How much of [`MEMORY`] is left.
#[derive(Debug)]
pub(super) struct Memory(AtomicU64);

impl Default for Memory {
    fn default() -> Self {
        Self(AtomicU64::new(MEMORY))
    }
}

impl Memory {
    /// # Errors
    /// When there is not so much.
    pub(super) fn take(&self, bytes: u64) -> io::Result<()> {
        let relaxed = Ordering::Relaxed;
        let taken = self
            .0
            .fetch_update(relaxed, relaxed, |left| left.checked_sub(bytes));
        taken.map(drop).map_err(|_| {
            io::Error::new(
                io::ErrorKind::StorageFull,
                "no more than 16 MiB are copied into a task's memory (/tmp): use its work directory",
            )
        })
    }
}

/// One open file.
#[derive(Debug)]
pub(super) struct TaskFile {
    pub file: std::fs::File,
    /// When what is written takes memory.
    pub memory: Option<Arc<Memory>>,
    pub door: Door,
    pub settled: Option<ThreadId>,
    pub append: bool,
}

impl TaskFile {
    fn admit(&self) -> io::Result<Pass> {
        admit(&self.door, self.settled)
    }
}

impl OpenFile for TaskFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let _pass = self.admit()?;
        std::os::unix::fs::FileExt::read_at(&self.file, into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let _pass = self.admit()?;
        if let Some(memory) = &self.memory {
            memory.take(bytes.len() as u64)?;
        }
        if self.append {
            return io::Write::write_all(&mut &self.file, bytes);
        }
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, offset)
    }

    fn stat(&self) -> io::Result<FileStat> {
        let _pass = self.admit()?;
        Ok(told(&fstat(&self.file)?))
    }

    fn change(&self, change: FileChange) -> io::Result<()> {
        let _pass = self.admit()?;
        if let Some(size) = change.size {
            ftruncate(&self.file, size)?;
        }
        if let Some(mode) = change.mode {
            fchmod(&self.file, mode_of(mode))?;
        }
        if change.times.is_some() {
            futimens(&self.file, &times_of(change))?;
        }
        Ok(())
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & MODE_BITS)
}

pub(super) fn flags_of(how: OpenMode) -> io::Result<OFlags> {
    let writes = how.write || how.append;
    let mut flags = match (how.read, writes) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (true, false) => OFlags::RDONLY,
        (false, false) => return Err(Errno::INVAL.into()),
    };
    flags.set(OFlags::APPEND, how.append);
    // Emptying is writing, whatever else is asked for.
    flags.set(OFlags::TRUNC, how.truncate && writes);
    Ok(flags)
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the fields' types differ between systems"
)]
pub(super) fn told(stat: &Stat) -> FileStat {
    FileStat {
        mode: stat.st_mode as u32,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: i64::try_from(stat.st_atime).unwrap_or(i64::MAX),
        mtime: i64::try_from(stat.st_mtime).unwrap_or(i64::MAX),
    }
}

pub(super) fn times_of(change: FileChange) -> Timestamps {
    let time = |seconds: Option<i64>| Timespec {
        tv_sec: seconds.unwrap_or(0),
        tv_nsec: if seconds.is_some() { 0 } else { UTIME_OMIT },
    };
    Timestamps {
        last_access: time(change.times.map(|(access, _)| access)),
        last_modification: time(change.times.map(|(_, change)| change)),
    }
}
