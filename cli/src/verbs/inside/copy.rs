//! `cp`: files in and out of a running task.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use p2pnode_protocol::tunnel::Purpose;
use p2pnode_tunnel::client::files::{CopyError, Entry, Progress, Remote};
use serde_json::json;

use super::{names, open};
use crate::args::Global;
use crate::exit::Failure;
use crate::select::JobSelector;
use crate::{here, output};

/// What SFTP says of a path that is not there (draft-ietf-secsh-filexfer-02, section 7).
const NO_SUCH_FILE: u32 = 2;

/// One side of a copy.
enum Side<'a> {
    Here(&'a Path),
    There(JobSelector, &'a str),
}

impl<'a> Side<'a> {
    /// `TASK:PATH` is there; a path with a colon that is here begins with `./`.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((task, path)) if !task.starts_with(['.', '/']) => match names::parse(task) {
                Ok(selector) => Self::There(selector, path),
                Err(_) => Self::Here(Path::new(text)),
            },
            _ => Self::Here(Path::new(text)),
        }
    }
}

pub async fn copy(global: &Global, from: &str, to: &str) -> Result<ExitCode, Failure> {
    let (selector, way) = match (Side::parse(from), Side::parse(to)) {
        (Side::Here(from), Side::There(task, to)) => (task, Way::In(from, to)),
        (Side::There(task, from), Side::Here(to)) => (task, Way::Out(from, to)),
        _ => {
            return Err(Failure::usage(
                "one side is here and the other in a task: write TASK:PATH for that one, such as last:out/model.pt",
            ));
        }
    };
    let client = here::must_run_for_jobs(global)?;
    let task = client.task_key(&selector).await?;
    let found = client.tunnel(&selector, false).await?;
    let (_, stream) = open(found.stream, &task, Purpose::Files).await?;
    let remote = Remote::open(stream).await.map_err(failed)?;
    let bar = bar(global);
    let tell = |progress: Progress| bar.set_position(progress.bytes);
    let done = match way {
        Way::In(from, to) => {
            let to = inner(&remote, from, to).await?;
            remote.upload(from, &to, &tell).await
        }
        Way::Out(from, to) => {
            let to = outer(from, to)?;
            remote.download(from.as_bytes(), &to, &tell).await
        }
    };
    bar.finish_and_clear();
    let done = done.map_err(failed)?;
    if global.json {
        output::line_json(&json!({
            "bytes": done.bytes, "files": done.files, "skipped": done.skipped,
        }));
    } else if done.skipped > 0 {
        output::note(format!(
            "{} left out: neither files, folders nor links",
            done.skipped
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Which way, from where to where.
enum Way<'a> {
    In(&'a Path, &'a str),
    Out(&'a str, &'a Path),
}

/// Where the copy goes in the task: into a folder that is there, or under the name that is given.
async fn inner(remote: &Remote, from: &Path, to: &str) -> Result<Vec<u8>, Failure> {
    let wanted = if to.is_empty() { "." } else { to };
    let is_folder = match remote.stat(wanted.as_bytes(), true).await {
        Ok(entry) => Entry::is_dir(&entry),
        Err(CopyError::Remote {
            code: NO_SUCH_FILE, ..
        }) => false,
        Err(error) => return Err(failed(error)),
    };
    if !is_folder {
        return Ok(wanted.as_bytes().to_vec());
    }
    use std::os::unix::ffi::OsStrExt;
    let whole = from.canonicalize();
    let whole = whole.map_err(|error| Failure::usage(format!("{}: {error}", from.display())))?;
    let mut path = wanted.trim_end_matches('/').as_bytes().to_vec();
    path.push(b'/');
    path.extend(whole.file_name().unwrap_or_default().as_bytes());
    Ok(path)
}

/// Where the copy goes here: into a folder that is there, or under the name that is given.
fn outer(from: &str, to: &Path) -> Result<PathBuf, Failure> {
    if !to.is_dir() {
        return Ok(to.to_path_buf());
    }
    let name = Path::new(from).file_name().ok_or_else(|| {
        Failure::usage(format!(
            "`{from}` has no name that a copy in {} could have: name the copy",
            to.display()
        ))
    })?;
    Ok(to.join(name))
}

fn failed(error: CopyError) -> Failure {
    match error {
        CopyError::Broken | CopyError::Protocol(_) => Failure::nobody(error.to_string()),
        error => Failure::usage(error.to_string()),
    }
}

fn bar(global: &Global) -> ProgressBar {
    if global.json || !output::is_interactive() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bytes} copied, {bytes_per_sec}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_side_is_a_task() {
        let there = |text: &str| match Side::parse(text) {
            Side::There(task, path) => Some((task.task, path.to_owned())),
            Side::Here(_) => None,
        };
        assert_eq!(there("last:out/x"), Some((None, "out/x".to_owned())));
        assert_eq!(there("3f09/12:"), Some((Some(12), String::new())));
        assert_eq!(there("3f09:/tmp/a:b"), Some((None, "/tmp/a:b".to_owned())));
        for here in ["x", "./last:x", "/a:b", "dir/a", "a b:c"] {
            assert_eq!(there(here), None, "{here}");
        }
        assert_eq!(outer("a/b", Path::new("/tmp")).ok(), Some("/tmp/b".into()));
        assert!(outer("..", Path::new("/tmp")).is_err());
    }
}
