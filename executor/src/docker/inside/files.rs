//! Files of a sandbox, as the task's own user would meet them there.
//!
//! Two things keep a path where it belongs. The kernel resolves it within the container's root, in the
//! container's own mounts: no link and no `..` leads out, and what is read-only there is so here. And
//! the thread that asks has become the task's user, without any capability, so that the kernel's own
//! checks of rights apply. Nothing is decided here by looking at a path.
//!
//! What is opened is looked at first through a handle that opens nothing, because opening a device or a
//! pipe does something by itself.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::ThreadId;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, chmodat, fstat,
    fstatfs, ftruncate, mkdirat, openat, openat2, readlinkat, renameat_with, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::super::container::WORK;
use super::View;
use super::door::{Door, Pass};
use super::file::{Memory, TaskFile, admit, flags_of, kind, mode_of, times_of, told};
use crate::inside::{FileChange, FileStat, Files, OpenFile, OpenMode};

/// File systems whose files say what they say by who reads them: this thread is not in the container,
/// and would be told about the host.
const OF_THE_KERNEL: [i64; 3] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
];

/// The file system of /tmp, /dev/shm and an image's volumes in a container (`TMPFS_MAGIC`).
const TMPFS: i64 = 0x0102_1994;

/// What making a file, folder or link costs of the memory that is counted for it, in bytes: an inode and
/// its name.
const INODE_COST: u64 = 1 << 10;

/// How often making a file is tried when somebody makes and removes it meanwhile.
const TRIES: usize = 4;

/// Files of one task.
#[derive(Debug)]
pub(super) struct TaskFiles {
    view: Arc<View>,
    user: (u32, u32),
    door: Door,
    memory: Arc<Memory>,
    settled: Option<ThreadId>,
}

/// The place that a path names: the open folder, and a name in it.
struct Spot {
    folder: OwnedFd,
    name: Vec<u8>,
}

impl TaskFiles {
    pub(super) fn new(view: Arc<View>, user: (u32, u32), door: Door, memory: Arc<Memory>) -> Self {
        Self {
            view,
            user,
            door,
            memory,
            settled: None,
        }
    }

    pub(super) fn admit(&self) -> io::Result<Pass> {
        admit(&self.door, self.settled)
    }

    /// A handle of what stands at a path, which opens nothing.
    pub(super) fn find(&self, path: &[u8], follow: bool) -> io::Result<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = absolute(path);
        Ok(openat2(
            self.view.root(),
            path,
            flags,
            Mode::empty(),
            resolve,
        )?)
    }

    /// Where something is to be made, removed or renamed.
    fn spot(&self, path: &[u8]) -> io::Result<Spot> {
        let (folder, name) = parted(path)?;
        let folder = self.find(&folder, true)?;
        if kind(&fstat(&folder)?) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        not_the_kernels(&folder)?;
        Ok(Spot { folder, name })
    }

    /// Where something is to be made; it is counted where it takes memory.
    fn spot_to_make(&self, path: &[u8]) -> io::Result<Spot> {
        let spot = self.spot(path)?;
        if self.is_memory(&spot.folder)? {
            self.memory.take(INODE_COST)?;
        }
        Ok(spot)
    }

    /// Whether what is written there takes memory. The work directory takes disk, as far as tasks are
    /// concerned, wherever the owner keeps it.
    fn is_memory(&self, handle: &OwnedFd) -> io::Result<bool> {
        if fstatfs(handle)?.f_type != TMPFS {
            return Ok(false);
        }
        let work = self.find(WORK.as_bytes(), true)?;
        Ok(fstat(&work)?.st_dev != fstat(handle)?.st_dev)
    }

    /// Opens what a handle stands for.
    fn reopen(found: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
        let stat = fstat(found)?;
        if !matches!(kind(&stat), FileType::RegularFile | FileType::Directory) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "devices, sockets and pipes are not opened",
            ));
        }
        not_the_kernels(found)?;
        // Not to wait for whoever holds a lease on it.
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat(CWD, handle_path(found), flags, Mode::empty())?)
    }

    fn make_or_open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags_of(how)?;
        for _ in 0..TRIES {
            if !how.exclusive {
                match self.find(path, true) {
                    Ok(found) => return Self::reopen(&found, flags),
                    Err(error) if how.create && error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            let spot = self.spot_to_make(path)?;
            let making = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(
                &spot.folder,
                spot.name.as_slice(),
                // An empty file needs no emptying.
                (flags - OFlags::TRUNC) | making,
                mode_of(mode),
            );
            match made {
                Err(Errno::EXIST) if !how.exclusive => {}
                made => return Ok(made?),
            }
        }
        // It comes and goes, or is a link to what is not there.
        Err(Errno::NOENT.into())
    }
}

impl Files for TaskFiles {
    fn settle(&mut self) -> io::Result<()> {
        if self.settled.is_some() {
            return Err(Errno::ALREADY.into());
        }
        let (uid, gid) = (Uid::from_raw(self.user.0), Gid::from_raw(self.user.1));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        // Leaving root has taken them; a task that is root in its container has none either.
        set_capabilities(
            None,
            CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            },
        )?;
        self.settled = Some(std::thread::current().id());
        Ok(())
    }

    fn open(&self, path: &[u8], how: OpenMode, mode: u32) -> io::Result<Box<dyn OpenFile>> {
        let _pass = self.admit()?;
        let file = self.make_or_open(path, how, mode)?;
        if kind(&fstat(&file)?) == FileType::Directory {
            return Err(Errno::ISDIR.into());
        }
        let memory = self.is_memory(&file)?.then(|| self.memory.clone());
        Ok(Box::new(TaskFile {
            file: file.into(),
            memory,
            door: self.door.clone(),
            settled: self.settled,
            append: how.append,
        }))
    }

    fn stat(&self, path: &[u8], follow: bool) -> io::Result<FileStat> {
        let _pass = self.admit()?;
        Ok(told(&fstat(self.find(path, follow)?)?))
    }

    fn list(&self, path: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        let _pass = self.admit()?;
        let folder = self.find(path, true)?;
        if kind(&fstat(&folder)?) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let folder = Self::reopen(&folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() >= limit {
                break;
            }
            names.push(name.to_vec());
        }
        Ok(names)
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()> {
        let _pass = self.admit()?;
        let spot = self.spot_to_make(path)?;
        Ok(mkdirat(&spot.folder, spot.name.as_slice(), mode_of(mode))?)
    }

    fn remove_dir(&self, path: &[u8]) -> io::Result<()> {
        let _pass = self.admit()?;
        let spot = self.spot(path)?;
        let flags = AtFlags::REMOVEDIR;
        Ok(unlinkat(&spot.folder, spot.name.as_slice(), flags)?)
    }

    fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        let _pass = self.admit()?;
        let spot = self.spot(path)?;
        let flags = AtFlags::empty();
        Ok(unlinkat(&spot.folder, spot.name.as_slice(), flags)?)
    }

    fn rename(&self, from: &[u8], to: &[u8], replace: bool) -> io::Result<()> {
        let _pass = self.admit()?;
        let (from, to) = (self.spot(from)?, self.spot(to)?);
        let flags = match replace {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        let (old, new) = (from.name.as_slice(), to.name.as_slice());
        Ok(renameat_with(&from.folder, old, &to.folder, new, flags)?)
    }

    fn read_link(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let _pass = self.admit()?;
        let link = self.find(path, false)?;
        if kind(&fstat(&link)?) != FileType::Symlink {
            return Err(Errno::INVAL.into());
        }
        Ok(readlinkat(link, c"", Vec::new())?.into_bytes())
    }

    fn make_link(&self, target: &[u8], path: &[u8]) -> io::Result<()> {
        let _pass = self.admit()?;
        let spot = self.spot_to_make(path)?;
        Ok(symlinkat(target, &spot.folder, spot.name.as_slice())?)
    }

    fn change(&self, path: &[u8], change: FileChange) -> io::Result<()> {
        let _pass = self.admit()?;
        let found = self.find(path, true)?;
        not_the_kernels(&found)?;
        if let Some(size) = change.size {
            let file = Self::reopen(&found, OFlags::WRONLY)?;
            ftruncate(file, size)?;
        }
        if let Some(mode) = change.mode {
            chmodat(CWD, handle_path(&found), mode_of(mode), AtFlags::empty())?;
        }
        if change.times.is_some() {
            let times = times_of(change);
            utimensat(CWD, handle_path(&found), &times, AtFlags::empty())?;
        }
        Ok(())
    }

    fn real_path(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let _pass = self.admit()?;
        match self.find(path, true) {
            Ok(found) => path_of(&found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let spot = self.spot(path)?;
                let mut folder = path_of(&spot.folder)?;
                if !folder.ends_with(b"/") {
                    folder.push(b'/');
                }
                folder.extend_from_slice(&spot.name);
                Ok(folder)
            }
            Err(error) => Err(error),
        }
    }
}

/// # Errors
/// When it is a file of the kernel: this thread is not in the container, and would read and change the
/// host's.
fn not_the_kernels(handle: &OwnedFd) -> io::Result<()> {
    if OF_THE_KERNEL.contains(&fstatfs(handle)?.f_type) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "files of the kernel are not opened",
        ));
    }
    Ok(())
}

/// The absolute path of a folder, and a name in it, that a path stands for.
///
/// # Errors
/// When it ends with no name.
pub(super) fn parted(path: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let path = absolute(path);
    let end = path.iter().rposition(|byte| *byte != b'/');
    let path = &path[..end.map_or(0, |end| end + 1)];
    let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (folder, name) = (&path[..at], path.get(at + 1..).unwrap_or_default());
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::INVAL.into());
    }
    let folder = if folder.is_empty() { b"/" } else { folder };
    Ok((folder.to_vec(), name.to_vec()))
}

/// Relative paths begin at the work directory.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    [WORK.as_bytes(), b"/", path].concat()
}

/// The path in this process's own `/proc` that stands for a handle.
pub(super) fn handle_path(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// The path of what a handle stands for, in the container's eyes: the kernel tells it from the root of
/// the mounts in which it is.
fn path_of(handle: &OwnedFd) -> io::Result<Vec<u8>> {
    let path = readlinkat(CWD, handle_path(handle), Vec::new())?.into_bytes();
    match path.first() {
        Some(b'/') => Ok(path),
        _ => Err(Errno::NOENT.into()),
    }
}
