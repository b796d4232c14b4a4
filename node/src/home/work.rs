//! Removes the work directories of tasks: what a crashed life left, and what a task that ended did.
//!
//! What stands in them was written by tasks, which are hostile until proven otherwise: links are
//! removed and never followed, and folders without permissions are given them back first.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::path::Arg;
use tracing::warn;

/// How often a folder is gone through. Once is enough where folders that were moved up are listed at
/// once, and elsewhere once for each level; a gigabyte holds some 260,000 folders.
const MAX_PASSES: u32 = 1 << 20;

/// Removes everything inside `folder`. What cannot be removed (a filesystem still mounted there) is
/// said in the log and left: it must not keep the node from starting.
pub(super) fn clear(folder: &Path) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return complain(folder, &error),
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if let Err(error) = remove_tree(&path) {
            complain(&path, &error);
        }
    }
}

fn complain(path: &Path, error: &io::Error) {
    warn!(path = %path.display(), %error, "what an earlier run left cannot be removed; remove it by hand");
}

/// Removes a file, a link, or a folder with all in it, whatever a task that has ended made of it.
///
/// Every folder is moved up and given back its permissions before it is looked into: so neither open
/// files, nor the stack, nor the length of paths grows with how deep a task went. Everything below `top`
/// is named from the open folder that it stands in, so that a link which takes a folder's place meanwhile
/// leads nowhere.
///
/// # Errors
/// What the first thing that stays says: it belongs to another user, or a filesystem is mounted there.
pub(crate) fn remove_tree(top: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(top)?.is_dir() {
        return fs::remove_file(top);
    }
    let mut moved = 0;
    for _pass in 0..MAX_PASSES {
        open_up(CWD, top);
        let open = rustix::fs::open(top, OFlags::RDONLY | FOLDER, Mode::empty())?;
        for (name, is_folder) in listed(&open)? {
            if is_folder {
                remove_folder(&open, &name, &mut moved)?;
            } else {
                unlinkat(&open, &name, AtFlags::empty())?;
            }
        }
        match fs::remove_dir(top) {
            // Folders that were moved up after they were listed.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}

/// Entries of a folder that are gone through at a time, so that one with millions takes no memory.
const MAX_LISTED: usize = 4_096;

/// Some of the entries of a folder, and whether each is a folder itself.
fn listed(folder: &OwnedFd) -> io::Result<Vec<(CString, bool)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let looked = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(looked.st_mode) == FileType::Directory
            }
            known => known == FileType::Directory,
        };
        found.push((name.to_owned(), is_folder));
        if found.len() == MAX_LISTED {
            break;
        }
    }
    Ok(found)
}

/// Removes the folder `name` of `top`, once the folders in it are moved to `top`.
fn remove_folder(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    open_up(top, name);
    let folder = openat(top, name, OFlags::RDONLY | FOLDER, Mode::empty())?;
    loop {
        let entries = listed(&folder)?;
        if entries.is_empty() {
            return Ok(unlinkat(top, name, AtFlags::REMOVEDIR)?);
        }
        for (inner, is_folder) in entries {
            if is_folder {
                open_up(&folder, inner.as_c_str());
                move_up(&folder, &inner, top, moved)?;
            } else {
                unlinkat(&folder, &inner, AtFlags::empty())?;
            }
        }
    }
}

/// Moves the folder `name` of `from` to a name in `top` that is free, or another empty folder's.
fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        let to = moved.to_string();
        *moved += 1;
        match renameat(from, name, top, to) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return Ok(done?),
        }
    }
}

/// Opens a folder itself, never what a link in its place names.
const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Gives the owner access to the folder `name` of `from`, if it can be had; otherwise what comes next
/// fails. What stands there is changed only if it is a folder itself: were it a link by now, root would
/// change whatever the link names.
fn open_up(from: impl AsFd, name: impl Arg + Copy) {
    let set_own = || match openat(&from, name, OFlags::RDONLY | FOLDER, Mode::empty()) {
        Ok(open) => rustix::fs::fchmod(open, Mode::RWXU),
        Err(Errno::ACCESS) => set_closed(&from, name),
        Err(error) => Err(error),
    };
    let _not_ours = set_own();
}

/// Of a folder that its owner may not look into.
#[cfg(target_os = "linux")]
fn set_closed(from: impl AsFd, name: impl Arg) -> rustix::io::Result<()> {
    // Such a handle only names the folder, and its name in /proc leads to it and nothing else.
    let named = openat(from, name, OFlags::PATH | FOLDER, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", named.as_raw_fd()), Mode::RWXU)
}

/// Of a folder that its owner may not look into.
#[cfg(not(target_os = "linux"))]
fn set_closed(from: impl AsFd, name: impl Arg) -> rustix::io::Result<()> {
    rustix::fs::chmodat(from, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// Makes `name` in a folder that may be deeper than any path reaches, and opens it.
    fn enter(above: &OwnedFd, name: &str) -> OwnedFd {
        rustix::fs::mkdirat(above, name, Mode::from_bits_truncate(0o700)).unwrap();
        rustix::fs::openat(above, name, OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn nothing_that_a_task_makes_stays() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        // In the way of what is moved up.
        fs::write(top.join("0"), "x").unwrap();
        fs::create_dir_all(top.join("1/2/3")).unwrap();
        symlink(&precious, top.join("1/2/link")).unwrap();
        // Deeper than a path, the stack and the usual number of open files allow; then closed.
        let mut deepest = OwnedFd::from(fs::File::open(&top).unwrap());
        for _ in 0..2_000 {
            deepest = enter(&deepest, "deep");
        }
        let closed = enter(&deepest, "closed");
        enter(&closed, "inside");
        rustix::fs::fchmod(&closed, Mode::empty()).unwrap();
        fs::set_permissions(top.join("1/2"), Permissions::from_mode(0o0)).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(precious.join("file").exists());
    }

    #[test]
    fn files_and_links_go_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(file.exists());
        remove_tree(&file).unwrap();
        let gone = remove_tree(&file).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn permissions_are_given_to_folders_and_through_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, link) = (folder.path().join("precious"), folder.path().join("link"));
        fs::create_dir(&precious).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for closed in [0o000, 0o555] {
            fs::set_permissions(&precious, Permissions::from_mode(closed)).unwrap();
            symlink(&precious, &link).unwrap();
            // As it would be when a task puts the link there between a look and the change.
            open_up(CWD, &link);
            assert_eq!(mode(&precious), closed);
            set_closed(CWD, &link).unwrap_err();
            assert_eq!(mode(&precious), closed);
            set_closed(CWD, &precious).unwrap();
            assert_eq!(mode(&precious), 0o700);
            fs::set_permissions(&precious, Permissions::from_mode(closed)).unwrap();
            open_up(CWD, &precious);
            assert_eq!(mode(&precious), 0o700);
            fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_link_in_a_folders_place_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir_all(precious.join("inside")).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        let top = folder.path().join("top");
        fs::create_dir(&top).unwrap();
        // A task that still runs puts it there after the folder was listed.
        symlink(&precious, top.join("task")).unwrap();
        let open = OwnedFd::from(fs::File::open(&top).unwrap());
        assert!(remove_folder(&open, c"task", &mut 0).is_err());
        assert!(precious.join("file").exists() && precious.join("inside").exists());
        remove_tree(&top).unwrap();
        assert!(precious.join("file").exists() && !top.exists());
    }

    #[test]
    fn more_entries_than_are_listed_at_a_time_go_too() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join("many")).unwrap();
        for number in 0..=MAX_LISTED {
            fs::write(top.join("many").join(number.to_string()), "").unwrap();
            fs::write(top.join(number.to_string()), "").unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }
}
