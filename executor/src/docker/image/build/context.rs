//! The build's context: a folder that holds anything, sent to the engine as a tar file of ours.
//!
//! Names of the context are opened one folder at a time and never through a link: a link travels as a
//! link, and what it means inside the image is the image's business. Devices, pipes and sockets are
//! refused. Everything belongs to root there, as Docker's own client has it.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use rustix::fs::OFlags;
use tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;

use super::dockerfile;
use crate::docker::image::body::{Pieces, body, header};

/// Files and folders of a context.
const MAX_ENTRIES: u64 = 1_000_000;

/// Folders within folders: Linux takes paths of 4,096 bytes, and the walk calls itself.
const MAX_DEPTH: usize = 100;

/// What the engine's builder takes the names of, to leave those files out of the context again.
const IGNORE: &str = ".dockerignore";

/// Where the instructions for the engine's builder stand in what it is sent.
pub(super) const INSTRUCTIONS: &str = ".p2pnode-instructions";

/// The permissions of a file that a user may have given: setuid is for programs that are installed.
const PERMISSIONS: u32 = 0o777;

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The parts of a path below the context, when it is one.
fn parts(path: &str) -> Option<Vec<&OsStr>> {
    let parts = Path::new(path).components().filter_map(|part| match part {
        Component::CurDir => None,
        Component::Normal(name) => Some(Some(name)),
        _ => Some(None),
    });
    parts.collect::<Option<Vec<_>>>()
}

/// Finds a path below `root` without following a link.
fn find(root: &Path, path: &str) -> io::Result<(PathBuf, Metadata)> {
    let parts = parts(path).ok_or_else(|| bad("it leads out of the context"))?;
    let mut at = root.to_path_buf();
    let mut found = std::fs::symlink_metadata(&at)?;
    for part in parts {
        if !found.is_dir() {
            return Err(bad("it leads through what is no folder"));
        }
        at.push(part);
        found = std::fs::symlink_metadata(&at)?;
    }
    Ok((at, found))
}

fn open(path: &Path) -> io::Result<File> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    OpenOptions::new()
        .read(true)
        .custom_flags(no_link)
        .open(path)
}

/// The Dockerfile's text.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] and [`io::ErrorKind::NotFound`] when the context is to blame, or
/// the disk's.
pub(super) fn dockerfile(root: &Path, path: &str) -> io::Result<String> {
    let (path, found) = find(root, path)?;
    if !found.is_file() {
        return Err(bad("it is no file"));
    }
    if found.len() > dockerfile::MAX_BYTES {
        return Err(bad("it is too large"));
    }
    let mut text = Vec::new();
    open(&path)?
        .take(dockerfile::MAX_BYTES)
        .read_to_end(&mut text)?;
    String::from_utf8(text).map_err(|_| bad("it is not UTF-8"))
}

/// Whether `ADD` does no more with this source than `COPY`: a folder, or a file that is no archive.
pub(super) fn is_plain(root: &Path, source: &str) -> bool {
    let Ok((path, found)) = find(root, source.trim_start_matches('/')) else {
        return false;
    };
    if !found.is_file() {
        return found.is_dir();
    }
    let mut head = [0; 512];
    let got = open(&path).and_then(|file| file.read_at(&mut head, 0));
    got.is_ok_and(|got| {
        let tar = head[257..].starts_with(b"ustar");
        !tar && crate::docker::image::archive::is_plain(&head[..got])
    })
}

/// Bytes that the context takes on a disk.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when there is something in it that is not taken, or the disk's.
pub(super) fn measure(root: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    walk(root, |_, _, found| {
        bytes = bytes.saturating_add(found.len().saturating_add(4_096));
        Ok(())
    })?;
    Ok(bytes)
}

/// Calls `each` with every path below `root` and its relative name, parents first.
fn walk(
    root: &Path,
    mut each: impl FnMut(&Path, &Path, &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let mut count = 0;
    walk_into(root, Path::new(""), 0, &mut count, &mut each)
}

fn walk_into(
    dir: &Path,
    name: &Path,
    depth: usize,
    count: &mut u64,
    each: &mut impl FnMut(&Path, &Path, &Metadata) -> io::Result<()>,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(bad(format!("it has folders more than {MAX_DEPTH} deep")));
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        *count += 1;
        if *count > MAX_ENTRIES {
            return Err(bad(format!("it has more than {MAX_ENTRIES} files")));
        }
        let found = std::fs::symlink_metadata(&path)?;
        if !(found.is_file() || found.is_dir() || found.is_symlink()) {
            let name = name.display().to_string();
            let shown = name.escape_debug();
            return Err(bad(format!("`{shown}` is no file, folder or link")));
        }
        each(&path, &name, &found)?;
        if found.is_dir() {
            walk_into(&path, &name, depth + 1, count, each)?;
        }
    }
    Ok(())
}

/// What the builder is sent: its instructions and, when it needs it, the context at `root`. Ends with
/// an error when `stop` is cancelled.
pub(super) fn stream(
    root: Option<PathBuf>,
    instructions: String,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    body(move |target| write(root.as_deref(), &instructions, target, &stop))
}

fn write(
    root: Option<&Path>,
    instructions: &str,
    target: &mut Pieces,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut builder = Builder::new(target);
    let ignore = format!("{IGNORE}\n{INSTRUCTIONS}\n");
    for (name, text) in [(INSTRUCTIONS, instructions), (IGNORE, &ignore)] {
        builder.append_data(&mut header(text.len() as u64, 0o644), name, text.as_bytes())?;
    }
    if let Some(root) = root {
        walk(root, |path, name, found| {
            if stop.is_cancelled() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if [IGNORE, INSTRUCTIONS]
                .iter()
                .any(|ours| name == Path::new(ours))
            {
                return Ok(());
            }
            append(&mut builder, path, name, found)
        })?;
    }
    builder.into_inner().map(|_| ())
}

fn append(
    builder: &mut Builder<&mut Pieces>,
    path: &Path,
    name: &Path,
    found: &Metadata,
) -> io::Result<()> {
    let mut header: Header = header(0, found.mode() & PERMISSIONS);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    if found.is_dir() {
        header.set_entry_type(EntryType::Directory);
        return builder.append_data(&mut header, name, io::empty());
    }
    if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        return builder.append_link(&mut header, name, std::fs::read_link(path)?);
    }
    header.set_size(found.len());
    let mut short = found.len();
    let source = open(path)?.take(found.len());
    builder.append_data(&mut header, name, Counting(source, &mut short))?;
    if short > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Counts down what is still to come.
struct Counting<'a, R>(R, &'a mut u64);

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.0.read(buffer)?;
        *self.1 = self.1.saturating_sub(got as u64);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures::StreamExt;

    use super::*;

    #[test]
    fn nothing_outside_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "FROM a").unwrap();
        symlink("../secret", root.join("Dockerfile")).unwrap();
        symlink("..", root.join("up")).unwrap();
        for path in [
            "../secret",
            "/etc/passwd",
            "Dockerfile",
            "up/secret",
            "none",
            "",
        ] {
            assert!(dockerfile(&root, path).is_err(), "{path}");
            assert!(path.is_empty() || !is_plain(&root, path), "{path}");
        }
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/Dockerfile"), "FROM a").unwrap();
        assert_eq!(dockerfile(&root, "./sub/Dockerfile").unwrap(), "FROM a");
        std::fs::write(root.join("sub/Dockerfile"), b"\xff").unwrap();
        assert!(dockerfile(&root, "sub/Dockerfile").is_err());
        std::fs::write(root.join("x.tgz"), [0x1f, 0x8b, 8]).unwrap();
        assert!(!is_plain(&root, "x.tgz") && is_plain(&root, "sub") && is_plain(&root, "/sub"));
    }

    #[tokio::test]
    async fn links_travel_as_links_and_everything_is_roots() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), "text").unwrap();
        std::fs::write(dir.path().join(IGNORE), "mine").unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let stop = CancellationToken::new();
        let stream = stream(Some(dir.path().into()), "FROM x".into(), stop);
        let pieces: Vec<_> = stream.map(|piece| piece.unwrap()).collect().await;
        let bytes = pieces.concat();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().uid().unwrap(), 0);
            let name = entry.path().unwrap().display().to_string();
            let link = entry
                .link_name()
                .unwrap()
                .map(|to| to.display().to_string());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let name = name.trim_end_matches('/');
            seen.push(format!("{name}|{}|{text}", link.unwrap_or_default()));
        }
        seen.sort();
        let ignore = format!("{IGNORE}||{IGNORE}\n{INSTRUCTIONS}\n");
        let instructions = format!("{INSTRUCTIONS}||FROM x");
        let expected = [
            &ignore,
            &instructions,
            "link|/etc/passwd|",
            "sub/file||text",
            "sub||",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn devices_pipes_and_depths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let error = measure(dir.path()).unwrap_err();
        assert!(error.to_string().contains("`s` is no file"), "{error}");
        let deep = tempfile::tempdir().unwrap();
        let mut at = deep.path().to_path_buf();
        for _ in 0..=MAX_DEPTH + 1 {
            at.push("d");
            std::fs::create_dir(&at).unwrap();
        }
        assert!(measure(deep.path()).is_err());
    }
}
