//! Reads the files of a listed tree into the store.
//!
//! Owns the second half of taking a tree in: [`super::ingest`] and [`super::outputs`] list it, each by
//! its own rules; this opens the listed files, one at a time and never through a link, and has them cut.

use std::io;
use std::os::unix::fs::PermissionsExt;

use p2pnode_protocol::manifest::{Entry, EntryKind};

use super::cursor::Cursor;
use super::cut::{CutError, Cutting, Source, cut_files};

/// What stopped the reading, and the path of the file that is to blame, if one is.
#[derive(Debug)]
pub(super) struct GatherFailure {
    pub path: Option<Vec<u8>>,
    pub error: CutError,
}

/// A file that is listed and not read yet.
pub(super) const fn unread_file() -> EntryKind {
    EntryKind::File {
        executable: false,
        chunks: Vec::new(),
    }
}

/// Reads every file of `entries` below the cursor's root and fills in its chunks.
pub(super) fn gather(
    cutting: &Cutting<'_>,
    cursor: &mut Cursor,
    entries: &mut [Entry],
) -> Result<(), GatherFailure> {
    let files: Vec<usize> = (0..entries.len())
        .filter(|at| matches!(entries[*at].kind, EntryKind::File { .. }))
        .collect();
    let mut executables = vec![false; files.len()];
    let open_next = |number: usize| {
        let (source, executable) = open(cursor, &entries[files[number]].path)?;
        executables[number] = executable;
        Ok(source)
    };
    let chunks = cut_files(cutting, files.len(), open_next).map_err(|failure| GatherFailure {
        path: failure
            .file
            .map(|number| entries[files[number]].path.clone()),
        error: failure.error,
    })?;
    for ((at, chunks), executable) in files.into_iter().zip(chunks).zip(executables) {
        entries[at].kind = EntryKind::File { executable, chunks };
    }
    Ok(())
}

fn open(cursor: &mut Cursor, path: &[u8]) -> io::Result<(Source, bool)> {
    let (folder, name) = cursor.parent_of(path).map_err(|stuck| stuck.source)?;
    let file = folder.file(name)?;
    let metadata = file.metadata()?;
    let bytes = metadata.len();
    Ok((Source { file, bytes }, is_executable(&metadata)))
}

/// Whether its owner may execute a file.
pub(super) fn is_executable(metadata: &std::fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o100 != 0
}
