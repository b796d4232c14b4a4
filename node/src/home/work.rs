//! Clears the work directories that a crashed life left.
//!
//! What stands in them was written by tasks, which are hostile until proven otherwise: links are
//! removed and never followed, and folders without permissions are given them back first.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::warn;

/// Folders deeper than this are not opened up again, only reported: deeper than any path the system
/// takes.
const MAX_DEPTH: u32 = 2_048;

/// Removes everything inside `folder`. What cannot be removed (a filesystem still mounted there) is
/// said in the log and left: it must not keep the node from starting.
pub(super) fn clear(folder: &Path) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return complain(folder, &error),
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if let Err(error) = remove(&path) {
            complain(&path, &error);
        }
    }
}

fn complain(path: &Path, error: &io::Error) {
    warn!(path = %path.display(), %error, "what an earlier run left cannot be removed; remove it by hand");
}

fn remove(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path, MAX_DEPTH)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

/// Gives the owner access to a folder and all below it. No task runs any more, so nothing can put a
/// link in a folder's place between the look and the change.
fn open_up(folder: &Path, depth: u32) -> io::Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path(), depth - 1)?;
        }
    }
    Ok(())
}
