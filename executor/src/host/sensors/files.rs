//! Bounded reads of small files below a root. Every other file of this module goes through here, and
//! nothing else of the process does.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest value that is read, in bytes: the kernel's own limit of a file in sysfs is a page.
const MAX_VALUE: u64 = 4_096;

/// The longest table that is read, in bytes: `/proc/interrupts` of 512 CPUs with 500 interrupts.
const MAX_TABLE: u64 = 4 << 20;

/// Names that are taken from one directory. Machines have tens of sensors; terminals are the most
/// numerous (`kernel.pty.max` is 4,096).
const MAX_NAMES: usize = 4_096;

/// Where `sys/`, `proc/` and `dev/` stand.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Whether it is the machine itself and no stand-in.
    #[cfg(target_os = "macos")]
    pub(super) fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The path of a file below it.
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    /// A value without the white space around it; `None` when the file is missing, too long, or not
    /// text.
    pub(super) fn text(&self, relative: &str) -> Option<String> {
        let text = read(&self.path(relative), MAX_VALUE)?;
        (text.len() as u64 <= MAX_VALUE).then(|| text.trim().to_owned())
    }

    /// A number.
    pub(super) fn number<T: FromStr>(&self, relative: &str) -> Option<T> {
        self.text(relative)?.parse().ok()
    }

    /// A file of many lines, of which what is beyond the limit is left out.
    pub(super) fn table(&self, relative: &str) -> Option<String> {
        read(&self.path(relative), MAX_TABLE)
    }

    /// Names in a directory that are text, in order; none when it is not there.
    pub(super) fn names(&self, relative: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(relative)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .take(MAX_NAMES)
            .collect();
        names.sort();
        names
    }
}

/// At most `limit` bytes and one more, by which the caller sees that there was more.
fn read(path: &Path, limit: u64) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}
