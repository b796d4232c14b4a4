//! Walks the folders of a tree in order, with the current one open.
//!
//! Owns the handles of the folders on the way down to the current one, so that a tree of sorted
//! entries costs one `open` per folder and never more handles than it is deep. Used by everything
//! that reads or writes a tree. It must never follow a link: [`Folder`] sees to that.

use std::io;

use super::folder::{Folder, split};

/// A path that could not be entered: how much of it, and why.
#[derive(Debug)]
pub(super) struct NoEntry {
    /// The folder that failed, from the root.
    pub at: Vec<u8>,
    /// Why.
    pub source: io::Error,
}

/// The current folder below a root.
pub(super) struct Cursor {
    root: Folder,
    /// Length of each open folder's path within `path`, and its handle.
    open: Vec<(usize, Folder)>,
    path: Vec<u8>,
}

impl Cursor {
    /// Starts at `root`.
    pub(super) const fn new(root: Folder) -> Self {
        Self {
            root,
            open: Vec::new(),
            path: Vec::new(),
        }
    }

    /// Opens the folder at `path` from the root; the empty path is the root itself. `make` is called
    /// with the parent and the name before each folder that is not open yet is entered.
    pub(super) fn enter(
        &mut self,
        path: &[u8],
        mut make: impl FnMut(&Folder, &[u8]) -> io::Result<()>,
    ) -> Result<&Folder, NoEntry> {
        self.leave_to_common(path);
        while self.path.len() < path.len() {
            let start = if self.path.is_empty() {
                0
            } else {
                self.path.len() + 1
            };
            let end = path[start..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(path.len(), |slash| start + slash);
            let name = &path[start..end];
            let above = self.current();
            let entered = make(above, name).and_then(|()| above.folder(name));
            let folder = entered.map_err(|source| NoEntry {
                at: path[..end].to_vec(),
                source,
            })?;
            self.path.clear();
            self.path.extend_from_slice(&path[..end]);
            self.open.push((end, folder));
        }
        Ok(self.current())
    }

    /// Opens the folder that `path` lies in, making nothing; returns it with the last name.
    pub(super) fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<(&Folder, &'p [u8]), NoEntry> {
        let (above, name) = split(path);
        Ok((self.enter(above, |_, _| Ok(()))?, name))
    }

    fn current(&self) -> &Folder {
        self.open.last().map_or(&self.root, |(_, folder)| folder)
    }

    /// Closes what is not on the way to `path`.
    fn leave_to_common(&mut self, path: &[u8]) {
        while let Some((length, _)) = self.open.last() {
            let stays = path.starts_with(&self.path[..*length])
                && matches!(path.get(*length), None | Some(b'/'));
            if stays {
                break;
            }
            self.open.pop();
        }
        self.path
            .truncate(self.open.last().map_or(0, |(length, _)| *length));
    }
}
