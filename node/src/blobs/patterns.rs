//! What `outputs` of a job file selects.
//!
//! Owns the meaning of output patterns: relative paths in which `*` and `?` stand for anything within a
//! name, `**` for any number of folders, `[ab]` and `{a,b}` for a choice. A pattern that names a folder
//! takes all of it. Matching is on bytes: a name need not be text to match `*`.
//!
//! Used by [`super::outputs`]; the driver compiles a step's patterns once when they are the same for
//! all its tasks. Beyond matching it says which folders can be left unread, so that a task's large
//! inputs are not walked to find `out/result.txt`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use p2pnode_protocol::manifest::{EntryKind, Manifest};

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not relative to the work directory, or leads out of it.
    #[error(
        "the output pattern `{0}` must be a path within the task's work directory, such as `out/**`"
    )]
    NotInside(String),
    /// Not a pattern.
    #[error("the output pattern `{pattern}` cannot be read: {why}")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// Why not.
        why: String,
    },
}

/// Compiled patterns.
#[derive(Debug, Clone)]
pub struct OutputPatterns(Vec<Pattern>);

#[derive(Debug, Clone)]
struct Pattern {
    /// The folders before the first name that has a wildcard; the whole path when none has.
    fixed: Vec<u8>,
    /// How many names deep a match can lie, `None` when `**` makes it any.
    deepest: Option<usize>,
    rest: Rest,
}

/// What follows the fixed part.
#[derive(Debug, Clone)]
enum Rest {
    /// Nothing: the fixed part is the path.
    Nothing,
    /// `**` alone: everything below.
    Everything,
    /// A pattern for the whole path. Compiling one takes some 50 µs, the others nothing.
    Glob(Box<GlobMatcher>),
}

/// Characters that make a name a pattern.
const WILD: [char; 6] = ['*', '?', '[', ']', '{', '\\'];

impl OutputPatterns {
    /// Compiles patterns.
    ///
    /// # Errors
    /// [`PatternError`], naming the pattern.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> Result<Self, PatternError> {
        patterns
            .iter()
            .map(|pattern| Pattern::new(pattern.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether what stands at `path` is selected, with all that is below it.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.0.iter().any(|pattern| pattern.matches(path))
    }

    /// The first thing in `manifest` that these patterns do not select, with the folders above what they
    /// do: no honest provider sends one.
    #[must_use]
    pub fn first_foreign<'m>(&self, manifest: &'m Manifest) -> Option<&'m [u8]> {
        let paths = manifest.entries.iter().map(|entry| {
            let is_folder = entry.kind == EntryKind::Folder;
            (entry.path.as_slice(), is_folder)
        });
        paths
            .filter(|(path, is_folder)| {
                let selected = self.matches(path) || above(path).any(|folder| self.matches(folder));
                !(selected || *is_folder && self.may_match_below(path))
            })
            .map(|(path, _)| path)
            .next()
    }

    /// Whether anything below the folder at `path` may be selected.
    #[must_use]
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        self.0.iter().any(|pattern| pattern.may_match_below(path))
    }
}

impl Pattern {
    fn new(written: &str) -> Result<Self, PatternError> {
        let names: Vec<&str> = written
            .split('/')
            .enumerate()
            .filter(|(at, name)| !(*name == "." || name.is_empty() && *at > 0))
            .map(|(_, name)| name)
            .collect();
        if names.is_empty() || names[0].is_empty() || names.contains(&"..") {
            return Err(PatternError::NotInside(written.to_owned()));
        }
        let fixed = names.iter().take_while(|name| !name.contains(WILD)).count();
        let rest = match &names[fixed..] {
            [] => Rest::Nothing,
            ["**"] => Rest::Everything,
            _ => {
                let glob = GlobBuilder::new(&names.join("/"))
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
                    .map_err(|error| PatternError::Syntax {
                        pattern: written.to_owned(),
                        why: error.kind().to_string(),
                    })?;
                Rest::Glob(Box::new(glob.compile_matcher()))
            }
        };
        Ok(Self {
            fixed: names[..fixed].join("/").into_bytes(),
            deepest: (!written.contains("**")).then_some(names.len()),
            rest,
        })
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.rest {
            Rest::Nothing => path == self.fixed,
            Rest::Everything => is_below(path, &self.fixed),
            Rest::Glob(glob) => glob.is_match(Path::new(OsStr::from_bytes(path))),
        }
    }

    fn may_match_below(&self, path: &[u8]) -> bool {
        // On the way to the fixed part, or within it and not too deep.
        if is_below(&self.fixed, path) {
            return true;
        }
        let names = path.split(|byte| *byte == b'/').count();
        (path == self.fixed || is_below(path, &self.fixed))
            && self.deepest.is_none_or(|deepest| names < deepest)
    }
}

/// The folders that `path` lies in.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &path[..at])
}

/// Whether `path` lies below the folder `above`; everything lies below the empty path.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    if above.is_empty() {
        return !path.is_empty();
    }
    path.len() > above.len() && path.starts_with(above) && path[above.len()] == b'/'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::manifest::Entry;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        OutputPatterns::new(&[pattern])
            .unwrap()
            .matches(path.as_bytes())
    }

    #[test]
    fn patterns_mean_what_people_expect() {
        for (pattern, path) in [
            ("out/**", "out/a"),
            ("out/**", "out/a/b"),
            ("out", "out"),
            ("./out/", "out"),
            ("out//a", "out/a"),
            ("out/*.png", "out/1.png"),
            ("**/*.png", "a/b/1.png"),
            ("**/*.png", "1.png"),
            ("**", "x"),
            ("*", "x"),
            ("a/**/z", "a/z"),
            ("a/**/z", "a/b/c/z"),
            ("{a,b}/x", "b/x"),
            ("[ab]/x", "a/x"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("out/**", "out"),
            ("out/**", "outer/a"),
            ("out/*", "out/a/b"),
            ("*.png", "a/1.png"),
            ("out", "out/a"),
            ("*", "a/b"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn names_that_are_not_text_match() {
        let patterns = OutputPatterns::new(&["out/*.png"]).unwrap();
        assert!(patterns.matches(b"out/\xff\xfe.png"));
    }

    #[test]
    fn patterns_stay_inside() {
        for pattern in ["/etc/*", "../x", "out/../../x", "", "."] {
            assert!(
                matches!(
                    OutputPatterns::new(&[pattern]),
                    Err(PatternError::NotInside(_))
                ),
                "{pattern}"
            );
        }
        assert!(matches!(
            OutputPatterns::new(&["out/[a"]),
            Err(PatternError::Syntax { .. })
        ));
    }

    #[test]
    fn folders_without_a_match_are_left_unread() {
        let patterns = OutputPatterns::new(&["out/x/*.png", "logs/**", "*.txt"]).unwrap();
        for folder in ["out", "out/x", "logs", "logs/deep/er"] {
            assert!(patterns.may_match_below(folder.as_bytes()), "{folder}");
        }
        for folder in ["in", "out/y", "out/x/y", "ou", "logs2"] {
            assert!(!patterns.may_match_below(folder.as_bytes()), "{folder}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_foreign() {
        let entry = |path: &str, kind| Entry {
            path: path.as_bytes().to_vec(),
            kind,
        };
        let link = || EntryKind::Symlink {
            target: b"a".to_vec(),
        };
        let patterns = OutputPatterns::new(&["out/*.png", "logs", "deep/**/x"]).unwrap();
        for (path, kind, is_foreign) in [
            ("out", EntryKind::Folder, false),
            ("out/1.png", link(), false),
            ("out/1.txt", link(), true),
            ("out/more", EntryKind::Folder, true),
            ("logs", EntryKind::Folder, false),
            ("logs/a/b", link(), false),
            ("logs2", link(), true),
            ("deep/a/b", EntryKind::Folder, false),
            ("deep/a/b/x", link(), false),
            ("deep/a/b/y", link(), true),
            (".bashrc", link(), true),
            ("other", EntryKind::Folder, true),
        ] {
            let manifest = Manifest {
                entries: vec![entry(path, kind)],
            };
            assert_eq!(
                patterns.first_foreign(&manifest).is_some(),
                is_foreign,
                "{path}"
            );
        }
    }
}
