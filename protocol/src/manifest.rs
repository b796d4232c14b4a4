//! What a file or folder is made of.
//!
//! A blob is a manifest: a list of entries whose files are lists of chunks, each named by its BLAKE3
//! digest. Manifests travel as encoded bytes, themselves named by digest, so that a job refers to any
//! input or output by one [`BlobRef`].
//!
//! Paths are bytes (Unix names need not be UTF-8), relative, and checked by [`Manifest::check`]
//! before anything is written: whoever sends a manifest may be hostile.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// The most entries in one manifest: 1,000,000 files or folders, so that the largest still fits into
/// some 256 MiB of memory while it is checked.
pub const MAX_ENTRIES: usize = 1_000_000;

/// The longest relative path, in bytes: Linux's `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4_096;

/// How deep folders may nest. Walking holds one handle per level open, and a process has 1,024 by
/// default; trees of source code and packages stay below 40.
pub const MAX_DEPTH: usize = 100;

/// The largest encoded manifest that is accepted, in bytes (64 MiB).
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// The largest chunk, in bytes (4 MiB): the receiver allocates no more than this at a time.
pub const MAX_CHUNK_BYTES: u32 = 4 << 20;

/// Names a manifest: its digest and encoded length.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
pub struct BlobRef {
    /// BLAKE3 of the encoded manifest.
    pub digest: Digest,
    /// Length of the encoded manifest, in bytes.
    pub manifest_bytes: u64,
    /// Length of all its files together, in bytes; what a person calls the size.
    pub content_bytes: u64,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ChunkRef {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes, 1 to [`MAX_CHUNK_BYTES`].
    pub bytes: u32,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A file, the chunks in order.
    File {
        /// Whether its owner may execute it. No other permission travels.
        executable: bool,
        /// Its content.
        chunks: Vec<ChunkRef>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, relative to its own folder: any number of `..` that leaves it in the tree, and
        /// then only names ([`link_stays_inside`]).
        target: Vec<u8>,
    },
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Relative path, `/` between names. Empty only when the blob is a single file: then the blob has
    /// this one entry, and stands wherever it is put.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

/// A file or a tree of files. Entries are sorted by path and unique; parents come before children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// A manifest that must not be written out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_ENTRIES`].
    #[error("{0} entries are more than a manifest may have ({MAX_ENTRIES})")]
    TooManyEntries(usize),
    /// Absolute, with `..`, `.`, an empty name or a NUL byte, or too long.
    #[error("`{0}` is not a path inside the folder")]
    Path(String),
    /// Entries not sorted, or two of one path.
    #[error("`{0}` stands twice or out of order")]
    Order(String),
    /// Something lies below what is not a folder of this manifest.
    #[error("`{0}` lies below something that is not a folder")]
    NotInFolder(String),
    /// Folders in folders, over [`MAX_DEPTH`].
    #[error("`{0}` lies more than {MAX_DEPTH} folders deep; flatten the tree or pack it")]
    TooDeep(String),
    /// A link that leads out of the tree, or might through another link.
    #[error(
        "the link `{link}` to `{target}` may lead out of the folder; links must be relative, stay \
         inside, and have `..` only at the head"
    )]
    LinkEscapes {
        /// The link.
        link: String,
        /// What it says.
        target: String,
    },
    /// A chunk of length 0 or over the limit.
    #[error("a chunk of `{path}` has {bytes} bytes; 1 to {MAX_CHUNK_BYTES} are allowed")]
    ChunkSize {
        /// The file.
        path: String,
        /// The length, in bytes.
        bytes: u32,
    },
}

/// A path as a person reads it: bytes that are no text become `�`, control characters are escaped,
/// and it is cut at 200 bytes, for it may come from a hostile peer and go to a terminal.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// How many folders a path lies in.
#[must_use]
pub fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// Whether `path` is relative and stays inside: every name non-empty, not `.` or `..`, no NUL.
#[must_use]
pub fn is_inner_path(path: &[u8]) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH_BYTES
        && path
            .split(|byte| *byte == b'/')
            .all(|name| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0))
}

/// Whether a link at `path` to `target` stays inside the tree, whatever other links the tree holds.
///
/// The folder of a link is a real folder of the tree, so `..` at the head of the target are counted
/// exactly. After a name they are refused: the name may be a link itself, `..` then starts from where that
/// leads, and a chain of links that each look harmless climbs out of the tree.
#[must_use]
pub fn link_stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty()
        || target.len() > MAX_PATH_BYTES
        || target[0] == b'/'
        || target.contains(&0)
    {
        return false;
    }
    let names = || target.split(|byte| *byte == b'/');
    let at_head = |name: &&[u8]| matches!(*name, b"" | b"." | b"..");
    let up = names().take_while(at_head).filter(|name| *name == b"..");
    up.count() <= depth(path) && names().skip_while(at_head).all(|name| name != b"..")
}

impl Manifest {
    /// Checks everything that can be told without touching the disk: whoever makes a manifest calls it, so
    /// that a submitter learns of a fault before a peer does, and so does whoever is about to write one.
    ///
    /// Paths are compared as bytes. Where a disk takes `a` and `A` for one name, that shows when the second
    /// is made.
    ///
    /// # Errors
    /// The first entry that breaks a rule.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooManyEntries(self.entries.len()));
        }
        let single_file = matches!(
            self.entries.as_slice(),
            [Entry { path, kind: EntryKind::File { .. } }] if path.is_empty()
        );
        let mut folders: BTreeSet<&[u8]> = BTreeSet::new();
        let mut previous: Option<&[u8]> = None;
        for entry in &self.entries {
            let path = entry.path.as_slice();
            if !single_file && !is_inner_path(path) {
                return Err(ManifestError::Path(shown(path)));
            }
            if previous.is_some_and(|before| before >= path) {
                return Err(ManifestError::Order(shown(path)));
            }
            previous = Some(path);
            if depth(path) > MAX_DEPTH {
                return Err(ManifestError::TooDeep(shown(path)));
            }
            if let Some(slash) = path.iter().rposition(|byte| *byte == b'/')
                && !folders.contains(&path[..slash])
            {
                return Err(ManifestError::NotInFolder(shown(path)));
            }
            match &entry.kind {
                EntryKind::Folder => {
                    folders.insert(path);
                }
                EntryKind::File { chunks, .. } => check_chunks(path, chunks)?,
                EntryKind::Symlink { target } => {
                    if !link_stays_inside(path, target) {
                        return Err(ManifestError::LinkEscapes {
                            link: shown(path),
                            target: shown(target),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Every chunk of every file, in order, repeats included.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        self.entries
            .iter()
            .flat_map(|entry| match &entry.kind {
                EntryKind::File { chunks, .. } => chunks.as_slice(),
                EntryKind::Folder | EntryKind::Symlink { .. } => &[],
            })
            .copied()
    }

    /// Length of all files together, in bytes.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.chunks()
            .fold(0u64, |sum, chunk| sum.saturating_add(chunk.bytes.into()))
    }
}

fn check_chunks(path: &[u8], chunks: &[ChunkRef]) -> Result<(), ManifestError> {
    match chunks
        .iter()
        .find(|chunk| chunk.bytes == 0 || chunk.bytes > MAX_CHUNK_BYTES)
    {
        Some(chunk) => Err(ManifestError::ChunkSize {
            path: shown(path),
            bytes: chunk.bytes,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let chunks = vec![ChunkRef {
            digest: Digest::of(b"x"),
            bytes: 1,
        }];
        Entry {
            path: path.into(),
            kind: EntryKind::File {
                executable: false,
                chunks,
            },
        }
    }

    fn folder(path: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::Folder,
        }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry {
            path: path.into(),
            kind: EntryKind::Symlink {
                target: target.into(),
            },
        }
    }

    fn check(entries: Vec<Entry>) -> Result<(), ManifestError> {
        Manifest { entries }.check()
    }

    #[test]
    fn ordinary_trees_pass() {
        assert_eq!(check(vec![file("")]), Ok(()));
        assert_eq!(
            check(vec![
                folder("a"),
                file("a/b"),
                link("a/c", "../a/b"),
                file("d")
            ]),
            Ok(())
        );
    }

    #[test]
    fn hostile_trees_are_refused() {
        for path in ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            assert!(
                matches!(check(vec![file(path)]), Err(ManifestError::Path(_))),
                "{path}"
            );
        }
        assert!(matches!(
            check(vec![file("a"), file("a")]),
            Err(ManifestError::Order(_))
        ));
        assert!(matches!(
            check(vec![file("b"), file("a")]),
            Err(ManifestError::Order(_))
        ));
        assert!(matches!(
            check(vec![file("a/b")]),
            Err(ManifestError::NotInFolder(_))
        ));
        // A link that a later entry would write through.
        assert!(matches!(
            check(vec![link("a", "b"), file("a/x")]),
            Err(ManifestError::NotInFolder(_))
        ));
        assert!(matches!(
            check(vec![file(""), file("b")]),
            Err(ManifestError::Path(_))
        ));
        assert!(matches!(
            check(vec![link("", "b")]),
            Err(ManifestError::Path(_))
        ));
    }

    fn refused_as_a_link(entries: Vec<Entry>) -> bool {
        matches!(check(entries), Err(ManifestError::LinkEscapes { .. }))
    }

    #[test]
    fn links_out_of_the_tree_are_refused() {
        let long = "x/".repeat(MAX_PATH_BYTES);
        for target in [
            "/etc",
            "/",
            "//x",
            "..",
            "./..",
            ".//..",
            "../x",
            "a\0b",
            "",
            &long,
            // Inside by its text, and out of the tree when `b` is a link to a folder near the top.
            "b/..",
            "b/../x",
            "b/../../x",
            "./b/./../x",
        ] {
            assert!(refused_as_a_link(vec![link("a", target)]), "{target}");
        }
        for target in ["../..", "../../x", "../b/..", ".././../x"] {
            let entries = vec![folder("d"), link("d/a", target)];
            assert!(refused_as_a_link(entries), "{target}");
        }
        for target in [
            "x",
            "x/y",
            "./x",
            "..",
            "../",
            "./../x/./y",
            "..//x",
            "...",
            "..x",
            "x..",
        ] {
            let entries = vec![folder("d"), link("d/a", target)];
            assert_eq!(check(entries), Ok(()), "{target}");
        }
    }

    #[test]
    fn links_that_climb_through_links_are_refused() {
        // `d/up` leads to the root, so `d/up/../x` leads out of it, while its text stays inside.
        let chain = vec![folder("d"), link("d/up", ".."), link("z", "d/up/../x")];
        assert!(refused_as_a_link(chain));
        // The same in more steps, each of them one folder up.
        let chain = vec![
            folder("d"),
            folder("d/e"),
            link("d/e/one", ".."),
            link("d/e/two", "one/../.."),
        ];
        assert!(refused_as_a_link(chain));
        // A link in a link's folder would be counted from the wrong depth.
        let below = vec![folder("d"), link("d/up", ".."), link("d/up/x", "../..")];
        assert!(matches!(check(below), Err(ManifestError::NotInFolder(_))));
        // Links to links are fine as long as each stays inside.
        let fine = vec![
            folder("d"),
            link("d/one", "../z"),
            link("d/two", "one/x"),
            link("z", "d"),
        ];
        assert_eq!(check(fine), Ok(()));
    }

    #[test]
    fn names_need_not_be_text() {
        let mut entries = vec![link("a", "x"), file("b")];
        entries[1].path = b"b\xff".to_vec();
        for (target, inside) in [
            (&b"\xff\xfe"[..], true),
            (b"\xc0\xae\xc0\xae/x", true), // `..` in overlong UTF-8 is a name like any other
            (b"\xff/../x", false),
            (b"../\xff", false),
        ] {
            entries[0].kind = EntryKind::Symlink {
                target: target.to_vec(),
            };
            assert_eq!(check(entries.clone()).is_ok(), inside, "{target:?}");
        }
        // Names that differ in case only, or in how an accent is written, are different names.
        assert_eq!(check(vec![file("A"), file("a")]), Ok(()));
        assert_eq!(check(vec![file("e\u{301}"), file("\u{e9}")]), Ok(()));
    }

    #[test]
    fn what_is_too_deep_is_refused() {
        let nested = |levels: usize| {
            let folders = (1..=levels).map(|level| folder(&"d/".repeat(level)[..2 * level - 1]));
            check(folders.collect())
        };
        assert_eq!(nested(MAX_DEPTH + 1), Ok(()));
        assert!(matches!(
            nested(MAX_DEPTH + 2),
            Err(ManifestError::TooDeep(_))
        ));
    }

    #[test]
    fn hostile_names_do_not_reach_a_terminal() {
        assert_eq!(shown(b"a\x1b[2Jb\xff"), "a\\u{1b}[2Jb\u{fffd}");
        assert_eq!(shown(&[b'x'; 5_000]).len(), 200);
    }

    #[test]
    fn empty_and_oversized_chunks_are_refused() {
        for bytes in [0, MAX_CHUNK_BYTES + 1] {
            let chunks = vec![ChunkRef {
                digest: Digest::of(b""),
                bytes,
            }];
            let entry = Entry {
                path: b"a".to_vec(),
                kind: EntryKind::File {
                    executable: true,
                    chunks,
                },
            };
            assert!(matches!(
                check(vec![entry]),
                Err(ManifestError::ChunkSize { .. })
            ));
        }
    }
}
