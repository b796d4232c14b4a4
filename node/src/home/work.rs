//! Removes the work directories of tasks: what a crashed life left, and what a task that ended did.
//!
//! What stands in them was written by tasks, which are hostile until proven otherwise: links are
//! removed and never followed, and folders without permissions are given them back first.

use std::fs;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
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
/// files, nor the stack, nor the length of paths grows with how deep a task went.
///
/// # Errors
/// What the first thing that stays says: it belongs to another user, or a filesystem is mounted there.
pub(crate) fn remove_tree(top: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(top)?.is_dir() {
        return fs::remove_file(top);
    }
    let mut moved = 0;
    for _pass in 0..MAX_PASSES {
        open_up(top);
        for entry in fs::read_dir(top)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove_folder(&entry.path(), top, &mut moved)?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        match fs::remove_dir(top) {
            // Folders that were moved up after they would have been listed.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}

/// Removes `folder`, which stands in `top`, once the folders in it are moved to `top`.
fn remove_folder(folder: &Path, top: &Path, moved: &mut u64) -> io::Result<()> {
    open_up(folder);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path());
            move_up(&entry.path(), top, moved)?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Moves a folder to a name in `top` that is free, or another empty folder's.
fn move_up(folder: &Path, top: &Path, moved: &mut u64) -> io::Result<()> {
    loop {
        let to = top.join(moved.to_string());
        *moved += 1;
        match fs::rename(folder, to).map_err(|error| (error.kind(), error)) {
            Ok(()) => return Ok(()),
            Err((
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory,
                _,
            )) => {}
            Err((_, error)) => return Err(error),
        }
    }
}

/// Gives the owner access to a folder, if it can be had; otherwise what comes next fails. What stands at
/// the path is changed only if it is a folder itself: were it a link by now, root would change whatever
/// the link names.
fn open_up(folder: &Path) {
    let _not_ours = set_own(folder);
}

fn set_own(folder: &Path) -> rustix::io::Result<()> {
    let is = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(folder, OFlags::RDONLY | is, Mode::empty()) {
        Ok(open) => rustix::fs::fchmod(open, Mode::RWXU),
        Err(Errno::ACCESS) => set_closed(folder, is),
        Err(error) => Err(error),
    }
}

/// Of a folder that its owner may not look into.
#[cfg(target_os = "linux")]
fn set_closed(folder: &Path, is: OFlags) -> rustix::io::Result<()> {
    // Such a handle only names the folder, and its name in /proc leads to it and nothing else.
    let named = rustix::fs::open(folder, OFlags::PATH | is, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", named.as_raw_fd());
    rustix::fs::chmod(name, Mode::RWXU)
}

/// Of a folder that its owner may not look into.
#[cfg(not(target_os = "linux"))]
fn set_closed(folder: &Path, _is: OFlags) -> rustix::io::Result<()> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chmodat(rustix::fs::CWD, folder, Mode::RWXU, flags)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::Permissions;
    use std::os::fd::OwnedFd;
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
            open_up(&link);
            assert_eq!(mode(&precious), closed);
            set_closed(&link, OFlags::DIRECTORY | OFlags::NOFOLLOW).unwrap_err();
            assert_eq!(mode(&precious), closed);
            set_closed(&precious, OFlags::DIRECTORY | OFlags::NOFOLLOW).unwrap();
            assert_eq!(mode(&precious), 0o700);
            fs::set_permissions(&precious, Permissions::from_mode(closed)).unwrap();
            open_up(&precious);
            assert_eq!(mode(&precious), 0o700);
            fs::remove_file(&link).unwrap();
        }
    }
}
