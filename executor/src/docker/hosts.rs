//! The table of names that every container gets as `/etc/hosts`.
//!
//! One file for all containers, in the runtime's own folder: it says what `localhost` is and nothing
//! of this machine. Containers see it read-only. It is looked at before every container, since one
//! that misses would look like an engine that doesn't see our files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::container::HOSTNAME;

/// Loopback by its usual names, and the container's own name as Debian does it: programs that look up
/// their own host name must not fail.
fn content() -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {HOSTNAME}\n")
}

/// Makes sure that the table stands in `dir`, which is made when it is missing. Returns its path.
///
/// # Errors
/// When it can't be written, or has a path that is not UTF-8.
pub(super) fn ensure(dir: &Path) -> io::Result<String> {
    let path: PathBuf = std::path::absolute(dir)?.join("hosts");
    let wanted = content();
    if std::fs::read(&path).ok().as_deref() != Some(wanted.as_bytes()) {
        std::fs::create_dir_all(dir)?;
        // A container that starts meanwhile must see all of it.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(wanted.as_bytes())?;
        readable_by_all(file.as_file())?;
        file.persist(&path).map_err(|error| error.error)?;
    }
    path.into_os_string()
        .into_string()
        .map_err(|path| io::Error::other(format!("{} is not UTF-8", path.display())))
}

#[cfg(unix)]
fn readable_by_all(file: &std::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_there_for_every_container_whatever_happened_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("new");
        let path = ensure(&below).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        for damage in [
            &(|path: &str| std::fs::write(path, "8.8.8.8 localhost"))
                as &dyn Fn(&str) -> io::Result<()>,
            &|path| std::fs::remove_file(path),
        ] {
            damage(&path).unwrap();
            assert_eq!(ensure(&below).unwrap(), path);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content());
        }
        // Nothing else is left in the folder.
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 1);
    }
}
