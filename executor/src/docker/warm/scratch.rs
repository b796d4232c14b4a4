//! Emptying what a task could write to beside its work directory: file systems in memory.
//!
//! It is done from the host as root, in a tree that a stranger's program has filled. So every step is
//! one name relative to an open folder, links are removed and never followed, and only file systems
//! that live in memory are touched: were anything else mounted there, it would be somebody's disk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatfs, openat, unlinkat};
use rustix::io::Errno;

use super::super::container::SCRATCH;
use super::inside::Inside;

/// Places that every container of ours has: the scratch, shared memory, message queues.
const ALWAYS: [&str; 3] = [SCRATCH, "/dev/shm", "/dev/mqueue"];

/// Kinds of file systems, from the kernel's `magic.h`: tmpfs and that of message queues.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x1980_0202];

/// Entries removed in one place, and levels of folders. A task that leaves more costs a new container,
/// which takes less time than removing them.
const MOST_ENTRIES: usize = 10_000;
const MOST_LEVELS: usize = 64;

/// Every place that a task can write to, given the folders that its image declares as volumes.
pub(super) fn places(volumes: &[String]) -> Vec<String> {
    let always = ALWAYS.into_iter().map(str::to_owned);
    always.chain(volumes.iter().cloned()).collect()
}

/// Empties one place of a container in which no task runs.
///
/// # Errors
/// When something is left, or the place is not in memory.
pub(super) fn clear(inside: &Inside, place: &str) -> io::Result<()> {
    let folder = match inside.open(place, FOLDER) {
        // Engines without message queues, and volumes that are the work directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    in_memory(&folder)?;
    empty(folder, &mut 0, 0)
}

/// Whether nothing stands in a place: what an engine copied there from the image would be missed by
/// the second task.
pub(super) fn is_empty(inside: &Inside, place: &str) -> io::Result<bool> {
    let folder = match inside.open(place, FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    in_memory(&folder)?;
    for entry in Dir::read_from(&folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

fn in_memory(folder: &OwnedFd) -> io::Result<()> {
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the field's type differs between systems"
    )]
    let kind = fstatfs(folder)?.f_type as i64;
    if IN_MEMORY.contains(&kind) {
        Ok(())
    } else {
        Err(io::Error::other("it is not in memory"))
    }
}

fn empty(folder: OwnedFd, entries: &mut usize, level: usize) -> io::Result<()> {
    if level > MOST_LEVELS {
        return Err(io::Error::other("its folders are too deep"));
    }
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *entries += 1;
        if *entries > MOST_ENTRIES {
            return Err(io::Error::other("it holds too many files"));
        }
        match unlinkat(folder.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(Errno::PERM) if entry.file_type() == FileType::Directory => {}
            Err(error) => return Err(error.into()),
        }
        let below = openat(folder.as_fd(), name, FOLDER, Mode::empty())?;
        empty(below, entries, level + 1)?;
        unlinkat(folder.as_fd(), name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        openat(rustix::fs::CWD, path, FOLDER, Mode::empty()).unwrap()
    }

    #[test]
    fn a_tree_is_emptied_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), b"1").unwrap();
        std::fs::write(tree.join("a/file"), b"1").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        std::fs::hard_link(outside.join("precious"), tree.join("hard")).unwrap();
        empty(open(&tree), &mut 0, 0).unwrap();
        assert_eq!(std::fs::read_dir(&tree).unwrap().count(), 0);
        assert_eq!(std::fs::read(outside.join("precious")).unwrap(), b"1");
    }

    #[test]
    fn what_is_too_much_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_path_buf();
        for _ in 0..=MOST_LEVELS + 1 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert!(empty(open(dir.path()), &mut 0, 0).is_err());
        let many = tempfile::tempdir().unwrap();
        std::fs::write(many.path().join("one"), b"").unwrap();
        assert!(empty(open(many.path()), &mut MOST_ENTRIES.clone(), 0).is_err());
    }

    #[test]
    fn a_disk_is_not_touched() {
        // Where the sources are is no file system in memory.
        let here = open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")));
        assert!(in_memory(&here).is_err());
    }

    #[test]
    fn volumes_are_places_too() {
        let places = places(&["/data".to_owned()]);
        assert_eq!(places.len(), ALWAYS.len() + 1);
        assert!(places.contains(&"/data".to_owned()));
    }
}
