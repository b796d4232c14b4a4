//! The system's mounts, as far as tasks' disks need them.
//!
//! Every path here is one of the node's own making; the work directory is opened without following a
//! link. Linux only: elsewhere making a disk fails, and limits of disk are watched.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// One line of the table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The filesystem, the same for all places where it is shown.
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// Whether it is one of the overlays that are made here, by its [`SOURCE`].
    pub is_ours: bool,
}

/// What overlays of tasks' disks are called in the table of mounts.
const SOURCE: &str = "p2pnode-disk";

/// All mounts that this process sees, oldest first.
pub(super) fn table() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    parse(&text)
}

/// From the text of `/proc/self/mountinfo`.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    let lines = text.split(|byte| *byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let point = unescape(fields.nth(1)?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let (kind, source) = (fields.next()?, fields.next()?);
        Some(Mount {
            device,
            point,
            is_ours: kind == b"overlay" && source == SOURCE.as_bytes(),
        })
    });
    mounts.collect()
}

/// The table writes blanks and the like as `\` and three octal digits.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let code = digits.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

/// Removes every mount below `dir`, and our overlays among them wherever else they are shown; newest
/// first, since later ones stand on earlier ones.
pub(super) fn remove_below(dir: &Path) {
    for place in places(&table(), dir) {
        remove(&place);
    }
}

fn places(all: &[Mount], dir: &Path) -> Vec<PathBuf> {
    let is_below = |mount: &Mount| mount.point.starts_with(dir) && mount.point != dir;
    let overlays: HashSet<&str> = all
        .iter()
        .filter(|mount| mount.is_ours && is_below(mount))
        .map(|mount| mount.device.as_str())
        .collect();
    // What is shown elsewhere must be ours by its name, too: a mount of the host's own filesystem
    // below `dir`, which nobody should make, must not take the host's filesystem away.
    let is_shown = |mount: &Mount| mount.is_ours && overlays.contains(mount.device.as_str());
    all.iter()
        .rev()
        .filter(|mount| is_below(mount) || is_shown(mount))
        .map(|mount| mount.point.clone())
        .collect()
}

#[cfg(target_os = "linux")]
pub(super) use linux::{join, remove, show};

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CString;
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat};
    use rustix::io::Errno;
    use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

    use super::{Path, SOURCE, io};

    /// A folder, opened without following a link.
    fn open(folder: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(CWD, folder, flags, Mode::empty())?)
    }

    /// Mounts at `merged` what `lower` holds, with all changes going to `upper`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(in super::super) fn join(
        lower: &Path,
        upper: &Path,
        scratch: &Path,
        merged: &Path,
    ) -> io::Result<()> {
        let (lower, upper, scratch) = (open(lower)?, open(upper)?, open(scratch)?);
        // The joined folder is as the upper one is.
        let wanted = fstat(&lower)?;
        fchown(
            &upper,
            Some(Uid::from_raw(wanted.st_uid)),
            Some(Gid::from_raw(wanted.st_gid)),
        )?;
        fchmod(&upper, Mode::from_raw_mode(wanted.st_mode))?;
        // By number, so that no sign in a path can be taken for the end of it.
        let path = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path(&lower),
            path(&upper),
            path(&scratch)
        );
        let options = CString::new(options).map_err(io::Error::other)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount(SOURCE, merged, "overlay", flags, options.as_c_str())?)
    }

    /// Shows what stands at `from` at `to`, too.
    ///
    /// # Errors
    /// When the system refuses.
    pub(in super::super) fn show(from: &Path, to: &Path) -> io::Result<()> {
        Ok(mount_bind(from, to)?)
    }

    /// Removes what is mounted at `at`; a file that is still open keeps the filesystem, but nobody
    /// can reach it any more.
    pub(in super::super) fn remove(at: &Path) {
        match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // No mount, or nothing there.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => {
                tracing::warn!(%error, path = %at.display(), "a task's disk cannot be unmounted");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{join, remove, show};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Path, io};

    pub(in super::super) fn join(_: &Path, _: &Path, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn show(_: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn remove(_: &Path) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 27 254:0 /x /d/disks/life/stray rw - ext4 /dev/vda rw
43 27 7:0 / /d/disks/life/a rw - ext4 /dev/loop0 rw
46 43 0:39 / /d/disks/life/a/merged rw - overlay p2pnode-disk rw
47 27 0:39 / /d/tasks/with\\040blank rw shared:7 - overlay p2pnode-disk rw
48 27 0:41 / /var/lib/docker/x rw - overlay overlay rw
49 27 0:40 / /d/disks/lifetime rw - tmpfs x rw

nonsense
";

    #[test]
    fn our_overlays_are_found_wherever_they_are_shown_and_nothing_else() {
        let all = parse(TABLE);
        assert_eq!(all.len(), 7);
        let found = places(&all, Path::new("/d/disks/life"));
        let expected = [
            "/d/tasks/with blank",
            "/d/disks/life/a/merged",
            "/d/disks/life/a",
            "/d/disks/life/stray",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let none = [] as [PathBuf; 0];
        assert_eq!(places(&all, Path::new("/d/disks/other")), none);
        // A mount at the folder itself is somebody else's, such as the whole data directory.
        assert_eq!(places(&all, Path::new("/d/disks/lifetime")), none);
    }

    #[test]
    fn escapes_are_undone_and_nonsense_is_left() {
        for (text, path) in [
            ("/a\\040b\\134", "/a b\\"),
            ("/a\\9", "/a\\9"),
            ("/a\\", "/a\\"),
            ("/a\\777b", "/a\\777b"),
        ] {
            assert_eq!(unescape(text.as_bytes()), PathBuf::from(path), "{text}");
        }
    }
}
