//! Volumes of `run`: what is sent, and what of it comes back.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use p2pnode_protocol::manifest::link_stays_inside;

use crate::exit::Failure;

/// A file or folder here that stands in the work directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// Absolute.
    pub(super) here: PathBuf,
    /// Relative to the work directory.
    pub(super) there: String,
    /// Whether it stays as it is here.
    pub(super) read_only: bool,
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
        })
    }

    /// Puts what came back in `brought` in the place of what was sent.
    pub(super) fn settle(&self, brought: &Path) -> Result<(), Failure> {
        let from = brought.join(&self.there);
        if self.read_only || from.symlink_metadata().is_err() {
            return Ok(());
        }
        let brought = match self.here.is_dir() {
            true => bring(&from, &self.here, b""),
            // In a file's place stands a file: a link there would lead the next run elsewhere.
            false => bring_file(&from, &self.here),
        };
        brought.map_err(|error| {
            Failure::internal(format!(
                "what came back cannot be written to {}: {error}",
                self.here.display()
            ))
        })
    }
}

/// Moves everything in a folder over what stands there. Links come as links, if they stay within the
/// volume: the provider chose where they lead. `path` is the folder's own in the volume.
fn bring(from: &Path, to: &Path, path: &[u8]) -> io::Result<()> {
    // A link here leads out of the volume, and what came back is not meant for there.
    let stands = to.symlink_metadata();
    if !stands.is_ok_and(|stands| stands.is_dir()) {
        std::fs::create_dir(to)?;
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let mut path = path.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            bring(&from, &to, &path)?;
        } else if kind.is_symlink() {
            bring_link(&from, &to, &path)?;
        } else {
            bring_file(&from, &to)?;
        }
    }
    Ok(())
}

fn bring_link(from: &Path, to: &Path, path: &[u8]) -> io::Result<()> {
    let target = std::fs::read_link(from)?;
    if !link_stays_inside(path, target.as_os_str().as_bytes()) {
        let (path, target) = (String::from_utf8_lossy(path), target.display());
        return Err(io::Error::other(format!(
            "the link {path} leads out of it, to {target}"
        )));
    }
    std::fs::rename(from, to).or_else(|_| {
        // Into another filesystem nothing can be renamed.
        std::fs::remove_file(to).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        std::os::unix::fs::symlink(target, to)
    })
}

fn bring_file(from: &Path, to: &Path) -> io::Result<()> {
    if !from.symlink_metadata()?.is_file() {
        return Err(io::Error::other("a file was to come back, and none came"));
    }
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
        volume.settle(brought.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(here.path().join(name)).unwrap();
        assert_eq!(
            (read("kept"), read("changed"), read("deep/new")),
            ("old".into(), "new".into(), "new".into())
        );
        volume.read_only = true;
        std::fs::write(brought.path().join("data"), "").unwrap_err();
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
        assert!(file.settle(&path("brought")).is_err());
        assert_eq!(std::fs::read_to_string(path("here/one")).unwrap(), "old");
        // A link that leads out of the volume, though not out of what was brought.
        std::fs::create_dir_all(path("brought/data/deep")).unwrap();
        symlink("../../one", path("brought/data/deep/link")).unwrap();
        assert!(folder.settle(&path("brought")).is_err());
        assert!(path("here/data/deep/link").symlink_metadata().is_err());
        std::fs::remove_file(path("brought/data/deep/link")).unwrap();
        symlink("../one", path("brought/data/deep/link")).unwrap();
        folder.settle(&path("brought")).unwrap();
        assert!(path("here/data/deep/link").is_symlink());
        // A link that stands here in a folder's place.
        symlink("../elsewhere", path("here/data/out")).unwrap();
        std::fs::create_dir_all(path("brought/data/out")).unwrap();
        std::fs::write(path("brought/data/out/new"), "").unwrap();
        assert!(folder.settle(&path("brought")).is_err());
        assert!(!path("here/elsewhere/new").exists());
    }

    #[test]
    fn volumes_that_are_none_are_told() {
        assert!(Volume::parse("nowhere-at-all:x").is_err());
        assert!(Volume::parse("/tmp:/data").is_err() && Volume::parse("/tmp").is_err());
    }
}
