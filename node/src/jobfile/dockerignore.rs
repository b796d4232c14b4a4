//! What a build's context leaves out, as `.dockerignore` says it.
//!
//! The rules are Docker's: a line is a pattern from the context's root, `*` and `?` stay within a name,
//! `**` goes any depth, a later line wins over an earlier one, `!` takes back in, and what lies in a
//! folder that is left out is left out with it. A pattern that cannot be read is a fault, never
//! nothing: what was meant to stay at home must not travel.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

/// The file that holds the patterns.
const FILE: &str = ".dockerignore";

/// The longest such file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// One line.
#[derive(Debug, Clone)]
struct Rule {
    pattern: GlobMatcher,
    takes_in: bool,
}

/// The patterns of a context.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored {
    rules: Vec<Rule>,
}

impl Ignored {
    /// Those of the context in `folder`; none when it has no such file.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn of(folder: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let read = File::open(folder.join(FILE))
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("its {FILE} cannot be read: {error}")),
            Ok(_) if text.len() as u64 > MAX_BYTES => {
                return Err(format!("its {FILE} is longer than {MAX_BYTES} bytes"));
            }
            Ok(_) => {}
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (takes_in, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            // The root itself can be neither left out nor taken in.
            if pattern.is_empty() || pattern == "." {
                continue;
            }
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| format!("line {number} of its {FILE} is no pattern: {error}"))?;
            rules.push(Rule {
                pattern: glob.compile_matcher(),
                takes_in,
            });
        }
        Ok(Self { rules })
    }

    /// Whether a path of the context stays at home. A folder is kept as long as something in it may
    /// be taken back in.
    pub(crate) fn leaves_out(&self, path: &[u8], is_folder: bool) -> bool {
        if is_folder && self.rules.iter().any(|rule| rule.takes_in) {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(path));
        let matches = |rule: &Rule| {
            path.ancestors()
                .filter(|above| !above.as_os_str().is_empty())
                .any(|above| rule.pattern.is_match(above))
        };
        let last = self.rules.iter().rev().find(|rule| matches(rule));
        last.is_some_and(|rule| !rule.takes_in)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn out(rules: &str, path: &str) -> bool {
        Ignored::parse(rules)
            .unwrap()
            .leaves_out(path.as_bytes(), false)
    }

    #[test]
    fn patterns_are_dockers() {
        let rules = "# secrets\n\n.git\n/target/\n**/*.key\n*.log\n!keep.log\ntemp?\n";
        for path in [
            ".git",
            ".git/config",
            "target/x/y",
            "a.key",
            "deep/er/b.key",
            "x.log",
            "temp1/z",
        ] {
            assert!(out(rules, path), "{path}");
        }
        for path in [
            "keep.log",
            "src/x.log",
            "src/target/x",
            "temperature",
            "Dockerfile",
            "a.keys",
        ] {
            assert!(!out(rules, path), "{path}");
        }
    }

    #[test]
    fn the_last_line_that_matches_wins() {
        assert!(!out("*\n!src\n", "src/main.rs"));
        assert!(out("*\n!src\nsrc/secret\n", "src/secret"));
        assert!(out("!a\na\n", "a"));
    }

    #[test]
    fn a_folder_is_looked_into_only_when_something_may_be_taken_back() {
        let plain = Ignored::parse("node_modules\n").unwrap();
        assert!(plain.leaves_out(b"node_modules", true));
        let back = Ignored::parse("node_modules\n!node_modules/one\n").unwrap();
        assert!(!back.leaves_out(b"node_modules", true));
        assert!(back.leaves_out(b"node_modules/two", false));
        assert!(!back.leaves_out(b"node_modules/one", false));
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        assert!(Ignored::parse("ok\n[a\n").unwrap_err().contains("line 2"));
        let dir = tempfile::tempdir().unwrap();
        assert!(!Ignored::of(dir.path()).unwrap().leaves_out(b"x", false));
        std::fs::write(dir.path().join(FILE), [0xff]).unwrap();
        assert!(Ignored::of(dir.path()).is_err());
    }
}
