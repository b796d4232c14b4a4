//! Volumes of `run`: what is sent, and what of it comes back.

use std::fs::{File, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use p2pnode_protocol::manifest::link_stays_inside;

use crate::exit::Failure;
use crate::output;

/// What stands behind the name of a file that was changed here and there meanwhile.
const THEIRS: &str = ".p2pnode";

/// How many such copies of one file stand side by side, at most.
const MOST_BESIDE: u32 = 1_000;

/// A file or folder here that stands in the work directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// Absolute.
    pub(super) here: PathBuf,
    /// Relative to the work directory.
    pub(super) there: String,
    /// Whether it stays as it is here.
    pub(super) read_only: bool,
    /// What changed here after this was not sent.
    sent: SystemTime,
}

impl Volume {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let wrong = |why: String| Failure::usage(format!("--volume {text}: {why}"));
        let (here, there) = rest
            .rsplit_once(':')
            .filter(|(here, there)| !here.is_empty() && !there.is_empty())
            .ok_or_else(|| wrong("write HERE:THERE, such as ./data:data".to_owned()))?;
        if there.starts_with('/') {
            return Err(wrong(format!(
                "{there} is absolute; the other side is a path in the task's work directory, such as data"
            )));
        }
        let here = Path::new(here)
            .canonicalize()
            .map_err(|error| wrong(format!("{here}: {error}")))?;
        Ok(Self {
            here,
            there: there.trim_end_matches('/').to_owned(),
            read_only,
            sent: SystemTime::now(),
        })
    }

    /// Puts what came back in `brought` in the place of what was sent. What is the same stays as it is; what
    /// was changed here meanwhile stays, and what came back stands beside it. Returns what could not be put
    /// anywhere, and why: it is left where it came in.
    pub(super) fn settle(&self, brought: &Path) -> Vec<String> {
        let from = brought.join(&self.there);
        let mut left = Vec::new();
        if !self.read_only && from.symlink_metadata().is_ok() {
            // In a file's place stands a file: a link there would lead the next run elsewhere.
            match self.here.is_dir() {
                true => self.bring(&from, &self.here, b"", &mut left),
                false => note(self.bring_file(&from, &self.here), &self.here, &mut left),
            }
        }
        left
    }

    /// Moves everything in a folder over what stands there. Links come as links, if they stay within the
    /// volume: the provider chose where they lead. `path` is the folder's own in the volume.
    fn bring(&self, from: &Path, to: &Path, path: &[u8], left: &mut Vec<String>) {
        // A link here leads out of the volume, and what came back is not meant for there.
        let stands = to.symlink_metadata();
        if !stands.is_ok_and(|stands| stands.is_dir())
            && let Err(error) = std::fs::create_dir(to)
        {
            return note(Err(error), to, left);
        }
        let entries = match std::fs::read_dir(from) {
            Ok(entries) => entries,
            Err(error) => return note(Err(error), to, left),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return note(Err(error), to, left),
            };
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            let mut path = path.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.file_name().as_bytes());
            let moved = match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    self.bring(&from, &to, &path, left);
                    Ok(())
                }
                Ok(kind) if kind.is_symlink() => self.bring_link(&from, &to, &path),
                Ok(_) => self.bring_file(&from, &to),
                Err(error) => Err(error),
            };
            note(moved, &to, left);
        }
    }

    /// A file takes its place.
    fn bring_file(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !from.symlink_metadata()?.is_file() {
            return Err(io::Error::other("a file was to come back, and none came"));
        }
        if let Ok(stands) = to.symlink_metadata()
            && stands.is_file()
        {
            if same(from, to)? {
                return Ok(());
            }
            let executable = from.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = mode_of(stands.permissions().mode(), executable);
            std::fs::set_permissions(from, Permissions::from_mode(mode))?;
        }
        place(from, &self.seat(to)?)
    }

    /// A link takes its place.
    fn bring_link(&self, from: &Path, to: &Path, path: &[u8]) -> io::Result<()> {
        let target = std::fs::read_link(from)?;
        if !link_stays_inside(path, target.as_os_str().as_bytes()) {
            let target = target.display();
            return Err(io::Error::other(format!(
                "the link leads out of it, to {target}"
            )));
        }
        if std::fs::read_link(to).is_ok_and(|stands| stands == target) {
            return Ok(());
        }
        let to = &self.seat(to)?;
        std::fs::rename(from, to).or_else(|_| {
            // Into another filesystem nothing can be renamed.
            std::fs::remove_file(to).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            std::os::unix::fs::symlink(target, to)
        })
    }

    /// Where what belongs to `to` is put: beside it when something stands there that was changed here after
    /// it was sent. The time of its last change in any way tells, which nobody sets at will.
    fn seat(&self, to: &Path) -> io::Result<PathBuf> {
        let changed = match to.symlink_metadata() {
            Ok(stands) => {
                UNIX_EPOCH + Duration::new(stands.ctime() as u64, stands.ctime_nsec() as u32)
            }
            Err(_) => return Ok(to.to_owned()),
        };
        if changed <= self.sent {
            return Ok(to.to_owned());
        }
        let beside = |number: u32| {
            let mut name = to.as_os_str().to_owned();
            name.push(THEIRS);
            if number > 1 {
                name.push(format!("-{number}"));
            }
            PathBuf::from(name)
        };
        let free = (1..MOST_BESIDE)
            .map(beside)
            .find(|path| path.symlink_metadata().is_err())
            .ok_or_else(|| io::Error::other("too many copies stand beside it"))?;
        output::note(format!(
            "p2pnode: {} was changed here meanwhile; what came back is in {}",
            to.display(),
            free.display()
        ));
        Ok(free)
    }
}

/// Notes what could not be put in its place.
fn note(moved: io::Result<()>, to: &Path, left: &mut Vec<String>) {
    if let Err(error) = moved {
        left.push(format!("{}: {error}", to.display()));
    }
}

/// The rights of a file that stands here, and whether it is to be a program. What the provider has written
/// runs with nobody's rights but those of who starts it.
const fn mode_of(stands: u32, executable: bool) -> u32 {
    let stands = stands & 0o777;
    match executable {
        // Whoever may read it may execute it.
        true => stands | (stands & 0o444) >> 2,
        false => stands & !0o111,
    }
}

/// Whether two files have the same content and are programs or not alike.
fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let (a, b) = (one.metadata()?, other.metadata()?);
    let program = |file: &std::fs::Metadata| file.permissions().mode() & 0o100 != 0;
    if a.len() != b.len() || program(&a) != program(&b) {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (a, b) = (one.fill_buf()?, other.fill_buf()?);
        let length = a.len().min(b.len());
        if a[..length] != b[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(a.is_empty() && b.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Moves a file to where it belongs, over what stands there.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    // Beside its place first, so that what stands there is whole at any moment and no link is followed.
    let folder = to.parent().unwrap_or_else(|| Path::new("."));
    let copy = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::copy(from, copy.path())?;
    copy.persist(to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_comes_back_takes_its_place_and_nothing_else_goes() {
        let here = tempfile::tempdir().unwrap();
        let brought = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("kept"), "old").unwrap();
        std::fs::write(here.path().join("changed"), "old").unwrap();
        std::fs::create_dir_all(brought.path().join("data/deep")).unwrap();
        std::fs::write(brought.path().join("data/changed"), "new").unwrap();
        std::fs::write(brought.path().join("data/deep/new"), "new").unwrap();
        let mut volume = Volume::parse(&format!("{}:data", here.path().display())).unwrap();
        assert_eq!(volume.settle(brought.path()), [""; 0]);
        let read = |name: &str| std::fs::read_to_string(here.path().join(name)).unwrap();
        assert_eq!(
            (read("kept"), read("changed"), read("deep/new")),
            ("old".into(), "new".into(), "new".into())
        );
        volume.read_only = true;
        std::fs::write(brought.path().join("data/kept"), "new").unwrap();
        assert_eq!(volume.settle(brought.path()), [""; 0]);
        assert_eq!(read("kept"), "old");
    }

    #[test]
    fn what_is_the_same_stays_and_what_changed_on_both_sides_is_kept_twice() {
        let here = tempfile::tempdir().unwrap();
        let brought = tempfile::tempdir().unwrap();
        let at = |name: &str| here.path().join(name);
        let mode = |name: &str| std::fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        std::fs::create_dir(brought.path().join("data")).unwrap();
        for name in ["same", "secret", "program", "both"] {
            std::fs::write(at(name), "old").unwrap();
            std::fs::set_permissions(at(name), Permissions::from_mode(0o640)).unwrap();
            let back = brought.path().join("data").join(name);
            std::fs::write(&back, if name == "same" { "old" } else { "new" }).unwrap();
        }
        let back = brought.path().join("data/program");
        std::fs::set_permissions(back, Permissions::from_mode(0o755)).unwrap();
        let touched = std::fs::metadata(at("same")).unwrap().modified().unwrap();
        let mut volume = Volume::parse(&format!("{}:data", here.path().display())).unwrap();
        // The clock of files is a little behind.
        std::thread::sleep(Duration::from_millis(50));
        for round in 1..=2 {
            // With an old date, as `cp -p` gives one.
            std::fs::write(at("both"), format!("mine {round}")).unwrap();
            let both = File::options().write(true).open(at("both")).unwrap();
            both.set_modified(UNIX_EPOCH).unwrap();
            std::fs::write(brought.path().join("data/both"), "new").unwrap();
            assert_eq!(volume.settle(brought.path()), [""; 0]);
        }
        // What finds no place stays where it came in, and keeps nothing else from its own.
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(brought.path().join("data/folder"), "new").unwrap();
        std::fs::write(brought.path().join("data/last"), "new").unwrap();
        volume.sent = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(volume.settle(brought.path()).len(), 1);
        assert!(brought.path().join("data/folder").exists() && at("last").exists());
        let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
        let same = std::fs::metadata(at("same")).unwrap();
        assert_eq!(same.modified().unwrap(), touched);
        assert_eq!((read("secret"), mode("secret")), ("new".into(), 0o640));
        assert_eq!((read("program"), mode("program")), ("new".into(), 0o750));
        assert_eq!(
            (read("both"), read("both.p2pnode"), read("both.p2pnode-2")),
            ("mine 2".into(), "new".into(), "new".into())
        );
    }

    #[test]
    fn what_comes_back_leads_nowhere_else() {
        use std::os::unix::fs::symlink;
        let whole = tempfile::tempdir().unwrap();
        let path = |name: &str| whole.path().join(name);
        for folder in ["here/data", "here/elsewhere", "brought"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        std::fs::write(path("here/one"), "old").unwrap();
        let parse = |name: &str, there: &str| {
            Volume::parse(&format!("{}:{there}", path(name).display())).unwrap()
        };
        let (file, folder) = (parse("here/one", "one"), parse("here/data", "data"));
        // A link in a file's place.
        symlink(".", path("brought/one")).unwrap();
        assert_eq!(file.settle(&path("brought")).len(), 1);
        assert_eq!(std::fs::read_to_string(path("here/one")).unwrap(), "old");
        // A link that leads out of the volume, though not out of what was brought.
        std::fs::create_dir_all(path("brought/data/deep")).unwrap();
        symlink("../../one", path("brought/data/deep/link")).unwrap();
        assert_eq!(folder.settle(&path("brought")).len(), 1);
        assert!(path("here/data/deep/link").symlink_metadata().is_err());
        std::fs::remove_file(path("brought/data/deep/link")).unwrap();
        symlink("../one", path("brought/data/deep/link")).unwrap();
        assert_eq!(folder.settle(&path("brought")), [""; 0]);
        assert!(path("here/data/deep/link").is_symlink());
        // A link that stands here in a folder's place.
        symlink("../elsewhere", path("here/data/out")).unwrap();
        std::fs::create_dir_all(path("brought/data/out")).unwrap();
        std::fs::write(path("brought/data/out/new"), "").unwrap();
        assert_eq!(folder.settle(&path("brought")).len(), 1);
        assert!(!path("here/elsewhere/new").exists());
    }

    #[test]
    fn volumes_that_are_none_are_told() {
        assert!(Volume::parse("nowhere-at-all:x").is_err());
        assert!(Volume::parse("/tmp:/data").is_err() && Volume::parse("/tmp").is_err());
    }
}
