//! Output patterns: which of a task's files go back.
//!
//! A pattern is a glob relative to the work directory: `*` and `?` within one name, `**` for any
//! depth, `[a-z]` and `{a,b}`; a folder that it matches goes back with all that is in it. This module
//! owns what may be a pattern and what comes of its blanks; matching is for whoever has the files,
//! and must read globs with the same two options as `check_pattern`.

use globset::GlobBuilder;

use super::filling::{FillError, Filling};
use super::limits::MAX_PATTERN_BYTES;
use super::template::{Blank, Part, Portion, Template};
use crate::manifest::is_inner_path;

/// Characters that mean something in a glob.
const META: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty.
    #[error("an output pattern is empty: name a file, or write for example \"out/**\"")]
    Empty,
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("an output pattern is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// Ends with a slash.
    #[error("`{0}` names a folder: write `{0}**` for all that is in it")]
    Folder(String),
    /// Not below the work directory.
    #[error("`{0}` is not below the task's work directory: write a relative path without `..`")]
    Outside(String),
    /// Not a glob.
    #[error("`{pattern}` is not a pattern: {why}")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How a pattern is shown in a message: peers send long ones.
fn shown(pattern: &str) -> String {
    pattern.chars().take(200).collect()
}

/// Checks a pattern as a glob would read it: blanks filled in, or text without blanks.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    if pattern.is_empty() {
        return Err(PatternError::Empty);
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(PatternError::TooLong);
    }
    if pattern.ends_with('/') && is_inner_path(&pattern.as_bytes()[..pattern.len() - 1]) {
        return Err(PatternError::Folder(shown(pattern)));
    }
    if !is_inner_path(pattern.as_bytes()) {
        return Err(PatternError::Outside(shown(pattern)));
    }
    // `*` stays within one name and a backslash escapes, as in a shell.
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map(drop)
        .map_err(|error| PatternError::Syntax {
            pattern: shown(pattern),
            why: error.kind().to_string(),
        })
}

/// One pattern of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPattern {
    /// The glob; what came of a blank matches only itself.
    pub glob: String,
    /// The folder that exists before the task starts, relative to the work directory; empty: the work
    /// directory itself.
    pub folder: String,
    /// The one path that it names, when it has no wildcard.
    pub path: Option<String>,
}

impl OutputPattern {
    /// Fills in a pattern.
    ///
    /// # Errors
    /// When a blank cannot be filled, or what comes of it is no pattern.
    pub(super) fn fill(template: &Template, values: &Filling<'_>) -> Result<Self, PatternFault> {
        let mut glob = String::new();
        let mut plain = String::new();
        let mut first_meta = None;
        for part in template.parts() {
            match part {
                Part::Text(text) => {
                    first_meta = first_meta.or_else(|| text.find(META).map(|at| plain.len() + at));
                    glob.push_str(text);
                    plain.push_str(text);
                }
                Part::Blank(blank) => {
                    let before = plain.len();
                    values.write(*blank, &mut plain, MAX_PATTERN_BYTES)?;
                    glob.push_str(&globset::escape(&plain[before..]));
                }
            }
        }
        check_pattern(&glob)?;
        let end = first_meta.unwrap_or(plain.len());
        let folder = plain[..end].rfind('/').map_or("", |at| &plain[..at]);
        Ok(Self {
            folder: folder.to_owned(),
            glob,
            path: first_meta.is_none().then_some(plain),
        })
    }
}

/// Why a pattern could not be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// A blank.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The outcome.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Whether a pattern's template has a wildcard, so that text cannot tell which paths it matches.
#[must_use]
pub fn has_wildcard(template: &Template) -> bool {
    template.parts().iter().any(|part| match part {
        Part::Text(text) => text.contains(META),
        Part::Blank(_) => false,
    })
}

/// The array key of which this pattern needs one value at a time: a chunk's values make it several
/// patterns.
pub(super) fn spread_over(template: &Template, values: &[Vec<String>]) -> usize {
    template
        .blanks()
        .filter_map(|blank| match blank {
            Blank::Key(key, Portion::Only) => values.get(key).map(Vec::len),
            _ => None,
        })
        .max()
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn filled(text: &str, value: &str) -> Result<OutputPattern, PatternFault> {
        let template = Template::parse(text, &["frame".into()]).unwrap();
        let values = [vec![value.to_owned()]];
        let filling = Filling {
            values: &values,
            index: 3,
            job: None,
            pick: None,
        };
        OutputPattern::fill(&template, &filling)
    }

    fn matches(text: &str, value: &str, path: &str) -> bool {
        let pattern = filled(text, value).unwrap();
        GlobBuilder::new(&pattern.glob)
            .literal_separator(true)
            .backslash_escape(true)
            .build()
            .unwrap()
            .compile_matcher()
            .is_match(path)
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, path, expected) in [
            ("out/**", "out/a", true),
            ("out/**", "out/a/b", true),
            ("out/**", "out", false),
            ("out/*.png", "out/1.png", true),
            ("out/*.png", "out/a/1.png", false),
            ("**/*.png", "1.png", true),
            ("**/*.png", "a/b/1.png", true),
            ("*.{png,jpg}", "a.jpg", true),
            ("[ab]?", "b1", true),
            ("out", "out", true),
            ("out", "outer", false),
            ("out/{frame}.png", "out/7.png", true),
            ("out/{frame}.png", "out/8.png", false),
            (".hidden", ".hidden", true),
        ] {
            assert_eq!(matches(pattern, "7", path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn values_match_only_themselves() {
        assert!(matches("out/{frame}", "*", "out/*"));
        assert!(!matches("out/{frame}", "*", "out/a"));
        assert!(matches("{frame}/x", "[a]{b}?", "[a]{b}?/x"));
        assert!(!matches("{frame}/x", "[a]", "a/x"));
    }

    #[test]
    fn the_folder_is_what_stands_before_the_first_wildcard() {
        for (pattern, folder, path) in [
            ("a", "", Some("a")),
            ("out/a", "out", Some("out/a")),
            ("out/**", "out", None),
            ("out/{frame}/*.png", "out/[7]", None),
            ("out/f*/x", "out", None),
            ("*", "", None),
            ("out/{frame}/{a,b}", "out/[7]", None),
            ("o{frame}/x", "o[7]", Some("o[7]/x")),
        ] {
            let pattern = filled(pattern, "[7]").unwrap();
            assert_eq!(pattern.folder, folder);
            assert_eq!(pattern.path.as_deref(), path);
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (pattern, message) in [
            (
                "",
                "an output pattern is empty: name a file, or write for example \"out/**\"",
            ),
            (
                "out/",
                "`out/` names a folder: write `out/**` for all that is in it",
            ),
            (
                "/out",
                "`/out` is not below the task's work directory: write a relative path without `..`",
            ),
            (
                "a/../b",
                "`a/../b` is not below the task's work directory: write a relative path without `..`",
            ),
            (
                "out/[a",
                "`out/[a` is not a pattern: unclosed character class; missing ']'",
            ),
        ] {
            assert_eq!(check_pattern(pattern).unwrap_err().to_string(), message);
        }
        assert_eq!(
            check_pattern(&"x".repeat(MAX_PATTERN_BYTES + 1)),
            Err(PatternError::TooLong)
        );
    }

    #[test]
    fn values_cannot_lead_out_of_the_work_directory() {
        for value in ["..", "../..", "/etc", "a/../b", "", "."] {
            assert!(
                matches!(
                    filled("out/{frame}/x", value),
                    Err(PatternFault::Pattern(_))
                ),
                "{value}"
            );
        }
        assert!(filled("{frame}", "/etc/passwd").is_err());
        assert!(filled("{frame}", "a\0").is_err());
    }
}
