//! Access to the names of one open folder, and to nothing beyond them.
//!
//! Owns: the only system calls by which this module reaches files that a task, a peer or the owner
//! put somewhere. Each takes a single name below an open folder and never follows a link, so a path
//! that is walked name by name cannot leave the folder it started in, whatever happens meanwhile to
//! what it passes through. (This is the primitive that cap-std's sandboxed paths are made of. Manifests
//! are walked in order, with the current folder open, so a resolver for whole paths would only repeat
//! work; a `cap_std::fs::Dir` is accepted wherever a folder is.)
//!
//! Names are bytes: on Unix they need not be text.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, Uid};
use rustix::io::Errno;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// What stands at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: Vec<u8>,
    /// What it is, a link being a link.
    pub kind: FileType,
}

/// Flags of every folder that is opened.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Refuses what is not a single name, before the kernel would walk it.
fn single(name: &[u8]) -> io::Result<&[u8]> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a single file name",
        ));
    }
    Ok(name)
}

impl Folder {
    /// Opens a folder that the owner of this node named: links on the way to it are followed.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, FOLDER, Mode::empty())?))
    }

    /// Another handle of an open folder.
    ///
    /// # Errors
    /// As the system says.
    pub fn of(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(
            folder,
            ".",
            FOLDER,
            Mode::empty(),
        )?))
    }

    /// Opens the folder of this name.
    ///
    /// # Errors
    /// `NotADirectory` also when the name is a link, wherever that points.
    pub fn folder(&self, name: &[u8]) -> io::Result<Self> {
        let flags = FOLDER | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.0, single(name)?, flags, Mode::empty()) {
            Ok(folder) => Ok(Self(folder)),
            // What some systems say of a link.
            Err(Errno::LOOP) => Err(Errno::NOTDIR.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a folder. Its permissions are `mode` less the process's umask.
    ///
    /// # Errors
    /// `AlreadyExists`, and whatever else the system says.
    pub fn make_folder(&self, name: &[u8], mode: RawMode) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(
            &self.0,
            single(name)?,
            Mode::from_raw_mode(mode),
        )?)
    }

    /// Opens a regular file for reading; anything else is `InvalidInput`. Never waits for the other
    /// end of a pipe.
    ///
    /// # Errors
    /// As the system says; of a link, that there are too many.
    pub fn file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            &self.0,
            single(name)?,
            flags,
            Mode::empty(),
        )?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        Ok(file)
    }

    /// Makes a file that was not there and opens it for writing. Its permissions are `mode` less the
    /// process's umask.
    ///
    /// # Errors
    /// `AlreadyExists` also when the name is a link, even one that points nowhere.
    pub fn new_file(&self, name: &[u8], mode: RawMode) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            &self.0,
            single(name)?,
            flags,
            Mode::from_raw_mode(mode),
        )?))
    }

    /// Makes a link that says `target`.
    ///
    /// # Errors
    /// `AlreadyExists`, and whatever else the system says.
    pub fn new_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, single(name)?)?)
    }

    /// What the link of this name says.
    ///
    /// # Errors
    /// `InvalidInput` when it is no link.
    pub fn link_target(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, single(name)?, Vec::new())?.into_bytes())
    }

    /// Gives what stands at `from` the name `to`, in place of a file or link that had it. A link is
    /// replaced itself, not what it points to.
    ///
    /// # Errors
    /// `IsADirectory` when `to` is a folder.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &self.0,
            single(from)?,
            &self.0,
            single(to)?,
        )?)
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// As the system says.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.0,
            single(name)?,
            AtFlags::empty(),
        )?)
    }

    /// What stands at a name, and its size in bytes.
    ///
    /// # Errors
    /// As the system says.
    pub fn look(&self, name: &[u8]) -> io::Result<(FileType, u64)> {
        let stat = rustix::fs::statat(&self.0, single(name)?, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((
            FileType::from_raw_mode(stat.st_mode),
            u64::try_from(stat.st_size).unwrap_or(0),
        ))
    }

    /// Everything in this folder, in no order; at most `limit` names, then `None`.
    ///
    /// # Errors
    /// As the system says.
    pub fn list(&self, limit: usize) -> io::Result<Option<Vec<Named>>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if found.len() == limit {
                return Ok(None);
            }
            let kind = match entry.file_type() {
                // Some filesystems do not say in the listing.
                FileType::Unknown => self.look(name)?.0,
                kind => kind,
            };
            found.push(Named {
                name: name.to_vec(),
                kind,
            });
        }
        Ok(Some(found))
    }

    /// Gives a name, link or not, to another user.
    ///
    /// # Errors
    /// As the system says: only root may.
    pub fn give(&self, name: &[u8], owner: Owner) -> io::Result<()> {
        let (uid, gid) = owner.ids();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(
            &self.0,
            single(name)?,
            uid,
            gid,
            flags,
        )?)
    }

    /// Makes the names in this folder survive a loss of power.
    ///
    /// # Errors
    /// As the system says.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes everything that was written to the filesystem of `file` survive a loss of power.
///
/// # Errors
/// As the system says.
pub fn sync_filesystem(file: impl AsFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(file)?;
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        rustix::fs::sync();
    }
    Ok(())
}

/// A user and group that files are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number; never `u32::MAX`, which means nobody to the system.
    pub uid: u32,
    /// The group's number; never `u32::MAX`.
    pub gid: u32,
}

impl Owner {
    fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (
            Some(Uid::from_raw_unchecked(self.uid)),
            Some(Gid::from_raw_unchecked(self.gid)),
        )
    }

    /// Gives an open file or folder to this user.
    ///
    /// # Errors
    /// As the system says: only root may.
    pub fn take(self, file: impl AsFd) -> io::Result<()> {
        let (uid, gid) = self.ids();
        Ok(rustix::fs::fchown(file, uid, gid)?)
    }
}

/// Sets the permissions of an open file or folder, whatever the umask.
///
/// # Errors
/// As the system says.
pub fn set_mode(file: impl AsFd, mode: RawMode) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// The part of a path before its last name, and that name.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// `below` under `above`; either may be empty.
#[must_use]
pub fn join(above: &[u8], below: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(above.len() + below.len() + 1);
    path.extend_from_slice(above);
    if !above.is_empty() && !below.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(below);
    path
}
