//! The task's work directory as the host sees it: giving it to the task's user, and measuring it.
//!
//! The task may rename and replace anything in it while it is measured, so no step here follows a
//! link or a path of more than one component: folders are opened relative to their parent.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, openat, statat,
};
use rustix::io::Errno;

/// What every entry is charged at least: one block of common file systems. It bounds how many empty
/// files, and so inodes, a task can make within its disk limit.
pub(super) const ENTRY_BYTES: u64 = 4_096;

/// Bytes in the unit of `st_blocks`, by POSIX.
const BLOCK_BYTES: u64 = 512;

/// Entries looked at in one measurement; more count as too much. At about a microsecond each, a
/// measurement stays within a few seconds.
const MAX_ENTRIES: u64 = 2_000_000;

/// Levels of folders; deeper counts as too much. Each level holds one file descriptor of ours.
pub(super) const MAX_DEPTH: u32 = 128;

/// What a work directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// This many bytes.
    Bytes(u64),
    /// More entries or levels than are looked at, or a folder that this process may not open.
    Unbounded,
}

impl Measure {
    /// The same and `bytes` more.
    pub(super) fn and(self, bytes: u64) -> Self {
        match self {
            Self::Bytes(all) => Self::Bytes(all.saturating_add(bytes)),
            Self::Unbounded => Self::Unbounded,
        }
    }

    /// Whether it is over `limit` bytes or cannot be told.
    pub(super) fn is_over(self, limit: u64) -> bool {
        match self {
            Self::Bytes(bytes) => bytes > limit,
            Self::Unbounded => true,
        }
    }
}

/// What a file of `size` bytes in so many `blocks` is charged. Its size beside its blocks: file systems
/// that allocate late show no blocks for a while.
pub(super) fn charged(blocks: u64, size: u64) -> u64 {
    let blocks = blocks.saturating_mul(BLOCK_BYTES);
    blocks.max(size).max(ENTRY_BYTES)
}

/// Measures `dir`, and gives everything in it to `owner` when there is one. Call it before the task
/// starts. A file that has further hard links keeps its owner: it is also somebody else's.
///
/// # Errors
/// When something can't be opened or given away.
pub(super) fn hand_over(dir: &Path, owner: Option<(u32, u32)>) -> io::Result<Measure> {
    let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
    let mut walk = Walk::new(owner);
    let root = open_root(dir)?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(&root, Some(uid), Some(gid))?;
    }
    Ok(walk
        .folder(root, 0)?
        .map_or(Measure::Unbounded, |()| Measure::Bytes(walk.bytes)))
}

/// Measures `dir` while a task may be changing it: what vanishes meanwhile counts nothing, nor do
/// `counted` files (device and inode of each), which had no name a moment ago.
///
/// # Errors
/// When `dir` itself can't be opened.
pub(super) fn measure(dir: &Path, counted: HashSet<(u64, u64)>) -> io::Result<Measure> {
    let mut walk = Walk {
        counted,
        ..Walk::new(None)
    };
    let root = open_root(dir)?;
    Ok(match walk.folder(root, 0) {
        Ok(Some(())) => Measure::Bytes(walk.bytes),
        Ok(None) => Measure::Unbounded,
        Err(error) => {
            tracing::debug!(%error, "a work directory cannot be measured");
            Measure::Unbounded
        }
    })
}

fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, dir, FOLDER, Mode::empty())?)
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

struct Walk {
    owner: Option<(Uid, Gid)>,
    bytes: u64,
    entries: u64,
    /// Files with several names, so that each is charged once.
    linked: HashSet<(u64, u64)>,
    /// Files that were charged before the walk.
    counted: HashSet<(u64, u64)>,
}

impl Walk {
    fn new(owner: Option<(Uid, Gid)>) -> Self {
        Self {
            owner,
            bytes: 0,
            entries: 0,
            linked: HashSet::new(),
            counted: HashSet::new(),
        }
    }

    /// `None` when there is too much to look at.
    fn folder(&mut self, folder: OwnedFd, depth: u32) -> io::Result<Option<()>> {
        if depth >= MAX_DEPTH {
            return Ok(None);
        }
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Ok(None);
            }
            let stat = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            self.charge(&stat, is_folder);
            self.give(&folder, name, &stat, is_folder)?;
            if is_folder {
                let below = match openat(&folder, name, FOLDER, Mode::empty()) {
                    Ok(below) => below,
                    // Removed, or replaced by something else, since it was looked at.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(error) => return Err(error.into()),
                };
                if self.folder(below, depth + 1)?.is_none() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(()))
    }

    fn charge(&mut self, stat: &Stat, is_folder: bool) {
        #[allow(
            clippy::unnecessary_cast,
            reason = "the fields' types differ between systems"
        )]
        let (links, blocks, size) = (
            stat.st_nlink as u64,
            stat.st_blocks as u64,
            stat.st_size as u64,
        );
        if !is_folder && links > 1 && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        if !self.counted.is_empty() && self.counted.contains(&(stat.st_dev, stat.st_ino)) {
            return;
        }
        let size = if is_folder { 0 } else { size };
        self.bytes = self.bytes.saturating_add(charged(blocks, size));
    }

    fn give(
        &self,
        folder: &OwnedFd,
        name: &std::ffi::CStr,
        stat: &Stat,
        is_folder: bool,
    ) -> io::Result<()> {
        let Some((uid, gid)) = self.owner else {
            return Ok(());
        };
        if !is_folder && stat.st_nlink > 1 {
            return Ok(());
        }
        chownat(
            folder.as_fd(),
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn what_is_there_is_charged_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(
            measure(dir.path(), HashSet::new()).unwrap(),
            Measure::Bytes(0)
        );
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/big"), vec![7; 1 << 20]).unwrap();
        fs::hard_link(at("a/b/big"), at("again")).unwrap();
        fs::write(at("empty"), b"").unwrap();
        symlink("/", at("link")).unwrap();
        let expected = (1 << 20) + 4 * ENTRY_BYTES;
        assert_eq!(
            measure(dir.path(), HashSet::new()).unwrap(),
            Measure::Bytes(expected)
        );
        assert!(Measure::Bytes(expected).is_over(expected - 1));
        assert!(!Measure::Bytes(expected).is_over(expected));
    }

    #[test]
    fn a_hole_counts_as_its_size() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert_eq!(
            measure(dir.path(), HashSet::new()).unwrap(),
            Measure::Bytes(1 << 30)
        );
    }

    #[test]
    fn folders_without_end_are_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_path_buf();
        for _ in 0..=MAX_DEPTH {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        assert_eq!(
            measure(dir.path(), HashSet::new()).unwrap(),
            Measure::Unbounded
        );
        assert!(Measure::Unbounded.is_over(u64::MAX));
    }

    #[test]
    fn links_are_neither_followed_nor_their_targets_given_away() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        let outside = dir.path().join("outside");
        fs::create_dir(&work).unwrap();
        fs::write(&outside, b"mine").unwrap();
        symlink(&outside, work.join("soft")).unwrap();
        fs::hard_link(&outside, work.join("hard")).unwrap();
        fs::write(work.join("own"), b"task's").unwrap();
        let root = rustix::process::getuid().is_root();
        let (uid, gid) = if root {
            (65_534, 65_534)
        } else {
            (
                rustix::process::getuid().as_raw(),
                rustix::process::getgid().as_raw(),
            )
        };
        let before = fs::metadata(&outside).unwrap().uid();
        hand_over(&work, Some((uid, gid))).unwrap();
        assert_eq!(fs::metadata(&outside).unwrap().uid(), before);
        assert_eq!(fs::metadata(work.join("own")).unwrap().uid(), uid);
        assert_eq!(fs::symlink_metadata(work.join("soft")).unwrap().uid(), uid);
        assert_eq!(fs::metadata(&work).unwrap().uid(), uid);
        // A link in the place of the work directory itself is refused.
        symlink(&work, dir.path().join("link")).unwrap();
        assert!(hand_over(&dir.path().join("link"), None).is_err());
    }
}
