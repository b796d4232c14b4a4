//! Copies files and folders to and from a task, through a tunnel of files.
//!
//! [`Remote`] speaks SFTP with several requests in flight. What a provider says is not believed: a
//! name may not be `..` or lead anywhere, sizes have limits, and all that is written here is written
//! through a handle of the destination folder that follows no link out of it.

mod download;
mod remote;
mod upload;

pub use remote::{Entry, Remote};

use std::io;
use std::path::PathBuf;

/// Requests in flight for one file: with [`PIECE_BYTES`] each 2 MiB, 200 ms at 10 MB/s.
const IN_FLIGHT: usize = 16;

/// Bytes of a file in one request.
const PIECE_BYTES: usize = 128 << 10;

/// Folders within folders that are gone into: deeper ones have no path that a system would take.
const MAX_DEPTH: usize = 1024;

/// Why something could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The tunnel broke.
    #[error("the connection broke while copying")]
    Broken,
    /// The provider breaks the protocol.
    #[error("the provider's answer is not one: {0}")]
    Protocol(&'static str),
    /// The task's system says no.
    #[error("in the task, `{path}`: {message}")]
    Remote {
        /// Of what.
        path: String,
        /// SFTP's code.
        code: u32,
        /// What it said.
        message: String,
    },
    /// This machine says no.
    #[error("here, `{}`: {source}", path.display())]
    Local {
        /// Of what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A name that leads out of the folder.
    #[error("the task has a file named `{0}`, which no file may be: nothing was written for it")]
    Name(String),
    /// Too deep.
    #[error("there are more than {MAX_DEPTH} folders within one another")]
    Deep,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files copied.
    pub bytes: u64,
    /// Files and links that are whole.
    pub files: u64,
    /// Things that are neither file, folder nor link, and were left out.
    pub skipped: u64,
}

/// Is told how far a copy is, after every piece.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Whether a name in a folder is one, and leads nowhere else.
fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// A path for people.
fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Adds a name to a path.
fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b", b"../x"] {
            assert!(!is_plain_name(bad), "{}", lossy(bad));
        }
        for good in [&b"a"[..], b"...", b".hidden", b"caf\xe9", b"a b"] {
            assert!(is_plain_name(good), "{}", lossy(good));
        }
    }
}
