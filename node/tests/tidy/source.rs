//! Reads source files as the rules of this test look at them: without comments, and without what
//! only tests compile. It knows the layout that rustfmt gives, not the grammar.

use std::fs;
use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A source file, by its path from the root.
pub struct Source {
    /// Where, from the root.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// All files below the five crates, `docs` and `docker` whose name ends so.
pub fn sources(endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "protocol",
        "executor",
        "node",
        "cli",
        "testground",
        "docs",
        "docker",
    ]
    .iter()
    .map(|name| root.join(name))
    .filter(|folder| folder.exists())
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !path.is_symlink() {
                if name != "target" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    fn is_test(&self) -> bool {
        let parts = || self.path.split('/');
        parts().any(|part| part == "tests" || part == "benches") || self.path.ends_with("tests.rs")
    }

    /// Its lines of code, numbered from 1, without comments and without what only tests compile.
    pub fn code(&self) -> Vec<(usize, &str)> {
        if self.is_test() {
            return Vec::new();
        }
        let mut code = Vec::new();
        // How far an inline test module is indented while we are in it; it ends at its brace.
        let mut skipping: Option<usize> = None;
        let mut test_only = false;
        for (index, line) in self.text.lines().enumerate() {
            let bare = line.trim_start();
            let indent = line.len() - bare.len();
            if let Some(outer) = skipping {
                if indent == outer && bare.starts_with('}') {
                    skipping = None;
                }
                continue;
            }
            if bare.starts_with("#[cfg(test)]") {
                test_only = true;
                continue;
            }
            if test_only && bare.starts_with("#[") {
                continue;
            }
            if std::mem::take(&mut test_only) {
                if bare.ends_with('{') {
                    skipping = Some(indent);
                }
                continue;
            }
            let end = comment_start(line);
            code.push((index + 1, &line[..end]));
        }
        code
    }
}

/// Where a comment starts in `line`: at `//` that no letter and no colon (an URL) stands before.
fn comment_start(line: &str) -> usize {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| at + from) {
        let before = line[..at].chars().next_back();
        if before.is_none_or(|c| c.is_whitespace() || "{}();,".contains(c)) {
            return at;
        }
        from = at + 2;
    }
    line.len()
}

/// Whether `word` stands in `line` with nothing attached before or after it that would make it part
/// of a longer name.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// The modules that `code` reaches by `crate::name`, or by `crate::{name, ...}` over several lines.
pub fn crate_modules(code: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (position, (number, line)) in code.iter().enumerate() {
        for (at, _) in line.match_indices("crate::") {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &line[at + "crate::".len()..];
            if rest.starts_with('{') {
                let following = code[position + 1..].iter().map(|(_, line)| *line);
                let text: Vec<&str> = std::iter::once(rest).chain(following).collect();
                for name in group(&text.join("\n")) {
                    found.push((*number, name));
                }
            } else {
                let name = |c: char| !(c.is_alphanumeric() || c == '_');
                let end = rest.find(name).unwrap_or(rest.len());
                found.push((*number, rest[..end].to_owned()));
            }
        }
    }
    found
}

/// First names in a group of imports `{a::b, c, d::{e, f}}`, up to its closing brace.
fn group(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut name, mut fresh) = (0, String::new(), true);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if depth == 1 && fresh && (c.is_alphanumeric() || c == '_') => name.push(c),
            _ if !name.is_empty() => fresh = false,
            _ => {}
        }
        if (!fresh || depth == 0 || c == ',') && !name.is_empty() {
            names.push(std::mem::take(&mut name));
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn the_rules_see_what_they_look_for() {
    let source = |path: &str, text: &str| Source {
        path: path.into(),
        text: text.into(),
    };
    let sample = source(
        "node/src/net/x.rs",
        "use crate::{\n    blobs::Store,\n    core::{io, x}, store,\n};\n// crate::api\n\
         let x = crate::exec::run(); let url = \"http://x\"; // println!\n\
         #[cfg(test)]\nmod tests {\n    use crate::driver;\n}\nfn after() { crate::api::f() }\n\
         #[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\nuse my_crate::net;\n",
    );
    let modules: Vec<String> = crate_modules(&sample.code())
        .into_iter()
        .map(|(line, module)| format!("{line} {module}"))
        .collect();
    assert_eq!(
        modules,
        ["1 blobs", "1 core", "1 store", "6 exec", "11 api"]
    );
    assert!(
        sample
            .code()
            .iter()
            .all(|(_, line)| !line.contains("println"))
    );
    assert!(
        source("node/src/core/tests/sim.rs", "tokio::spawn()")
            .code()
            .is_empty()
    );
    assert!(has_word("a HashMap<u8>", "HashMap") && !has_word("MyHashMap", "HashMap"));
}
