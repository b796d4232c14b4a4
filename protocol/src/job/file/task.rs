//! Reads `[task]`, `[inputs]` and `[outputs]`.

use super::fault::{Fault, Spot, Written};
use super::program;
use super::reader::{Faults, Item, Section};
use crate::job::form::{RESERVED_ENV, is_env_name};
use crate::job::limits::{self, MAX_ARGUMENT_BYTES, MAX_ARGUMENTS, MAX_ENV};
use crate::job::pattern::check_pattern;
use crate::job::render::twice;
use crate::job::template::is_identifier;
use crate::manifest::{MAX_PATH_BYTES, is_inner_path};
use crate::task::Isolation;

/// What runs, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramSpec {
    /// A container image.
    Image(String),
    /// A WASM module: its path here.
    Wasm(Written),
    /// A container image in an archive: its path here.
    Archive(Written),
    /// A container image to be built: the folder of its context here, and its Dockerfile within.
    Build(Written, String),
}

impl ProgramSpec {
    /// What is to be found on this machine's disk.
    #[must_use]
    pub const fn path(&self) -> Option<&Written> {
        match self {
            Self::Image(_) => None,
            Self::Wasm(path) | Self::Archive(path) | Self::Build(path, _) => Some(path),
        }
    }
}

/// Where the credentials for a private image are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginSpec {
    /// Where `docker login` keeps them.
    Docker,
    /// A user, and a file here that holds the password or token.
    File {
        /// The user.
        username: String,
        /// The file.
        path: Written,
    },
}

/// An input as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Its path in the task, with blanks.
    pub path: Written,
    /// Its path here, relative to the job file, with blanks.
    pub source: Written,
    /// Whether each task has its own, because the path here has a blank.
    pub per_task: bool,
}

/// What `[task]` says.
pub(super) struct Task {
    pub program: ProgramSpec,
    pub command: Vec<Written>,
    pub env: Vec<(String, Written)>,
    pub root: bool,
    pub isolation: Isolation,
    pub sandbox: Option<String>,
    pub attended: bool,
    pub login: Option<LoginSpec>,
}

pub(super) fn task(root: &Section<'_>, faults: &mut Faults<'_>) -> Task {
    let mut task = Task {
        // Stands in for a program that is missing; then there is a fault.
        program: ProgramSpec::Image(String::new()),
        command: Vec::new(),
        env: Vec::new(),
        root: false,
        isolation: Isolation::Task,
        sandbox: None,
        attended: false,
        login: None,
    };
    let mend = "write `image = \"debian:12\"` or `wasm = \"program.wasm\"` under [task]";
    let Some(section) = root.section(faults, "task") else {
        if root.get(faults, "task").is_none() {
            faults.add(
                Spot::START,
                "task",
                format!("does not say what runs: {mend}"),
            );
        }
        return task;
    };
    if let Some(program) = program::read(&section, mend, faults) {
        task.program = program;
    }
    program::beside(&section, &mut task, faults);
    if let Some(item) = section.get(faults, "command") {
        task.command = command(&item, faults);
    }
    if let Some(item) = section.get(faults, "env") {
        task.env = env(&item, faults);
    }
    task.root = section.flag(faults, "root");
    task
}

/// Whether `path` could be a path of this machine; notes it when not.
pub(super) fn is_path(path: &Written, faults: &mut Faults<'_>) -> bool {
    let fault = if path.text.is_empty() {
        "is empty: name a file or folder"
    } else if path.text.contains('\0') {
        "holds a NUL character: no path does"
    } else {
        return true;
    };
    faults.list.push(path.fault(fault));
    false
}

/// Notes what no argument or variable can be.
fn check_word(word: &Written, faults: &mut Faults<'_>) {
    if word.text.contains('\0') {
        faults
            .list
            .push(word.fault("holds a NUL character: programs cannot be given one"));
    }
    if word.text.len() > MAX_ARGUMENT_BYTES {
        faults.list.push(word.fault(format!(
            "is longer than {MAX_ARGUMENT_BYTES} bytes, the most that a program can be given: put it into an input file"
        )));
    }
}

fn command(item: &Item<'_>, faults: &mut Faults<'_>) -> Vec<Written> {
    if item.as_text(faults).is_some() {
        item.fault(
            faults,
            "must be a list, not text: write [\"program\", \"argument\"], or [\"sh\", \"-c\", \"...\"] for a shell",
        );
        return Vec::new();
    }
    let Some(words) = item.texts(faults, "[\"echo\", \"hello\"]") else {
        return Vec::new();
    };
    match words.first() {
        None => item.fault(faults, "is empty: name a program, or leave it out"),
        Some(first) if first.text.is_empty() => {
            faults
                .list
                .push(first.fault("its first element is empty: name the program there"));
        }
        Some(_) => {}
    }
    if words.len() > MAX_ARGUMENTS {
        item.fault(
            faults,
            format!("has more than {MAX_ARGUMENTS} arguments: put them into an input file"),
        );
    }
    for word in &words {
        check_word(word, faults);
    }
    words
}

fn env(item: &Item<'_>, faults: &mut Faults<'_>) -> Vec<(String, Written)> {
    let Some(section) = item.table(faults) else {
        return Vec::new();
    };
    let items = section.items(faults);
    if items.len() > MAX_ENV {
        item.fault(faults, format!("has more than {MAX_ENV} variables"));
    }
    let mut env = Vec::with_capacity(items.len());
    for item in &items {
        if item.name.starts_with(RESERVED_ENV) {
            item.fault(
                faults,
                format!(
                    "variables that begin with {RESERVED_ENV} are set by p2pnode: take another name"
                ),
            );
        } else if !is_env_name(item.name) {
            item.fault(
                faults,
                "is not a variable's name: use letters, digits and `_`, not a digit first",
            );
        }
        if let Some(text) = item.text_like(faults) {
            let value = Written {
                text,
                key: item.key.clone(),
                spot: item.spot,
            };
            check_word(&value, faults);
            env.push((item.name.to_owned(), value));
        }
    }
    env
}

/// Without a leading `./`, which changes nothing.
fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

pub(super) fn inputs(root: &Section<'_>, faults: &mut Faults<'_>) -> Vec<InputSpec> {
    let Some(section) = root
        .get(faults, "inputs")
        .and_then(|item| item.table(faults))
    else {
        return Vec::new();
    };
    let items = section.items(faults);
    if items.len() > limits::MAX_INPUTS {
        let message = format!(
            "has more than {} entries: put the files into a folder",
            limits::MAX_INPUTS
        );
        faults.add(section.spot, "inputs", message);
    }
    let mut inputs: Vec<InputSpec> = Vec::with_capacity(items.len());
    for item in &items {
        if item.as_table().is_some() {
            let message = format!(
                "must be a path here, not a table: when the name has a dot, put it in quotes, such as \"{}.txt\" = \"...\"",
                item.name
            );
            item.fault(faults, message);
            continue;
        }
        let path = Written {
            text: plain(item.name).to_owned(),
            key: item.key.clone(),
            spot: item.spot,
        };
        check_inner(&path, item.name, faults);
        if let Some(source) = item.text(faults).filter(|source| is_path(source, faults)) {
            inputs.push(InputSpec {
                path,
                source,
                per_task: false,
            });
        }
    }
    let paths = inputs.iter().map(|input| input.path.text.as_str());
    if let Some(path) = twice(paths)
        && let Some(input) = inputs.iter().rev().find(|input| input.path.text == path)
    {
        faults.list.push(
            input.path.fault(
                "stands at or inside another input's path: give each input a path of its own",
            ),
        );
    }
    inputs
}

/// Checks an input's path in the task, as far as its blanks let one.
fn check_inner(path: &Written, written: &str, faults: &mut Faults<'_>) {
    if path.text.len() > MAX_PATH_BYTES {
        faults
            .list
            .push(path.fault(format!("is longer than {MAX_PATH_BYTES} bytes")));
    } else if !is_inner_path(path.text.as_bytes()) {
        let mend = match written.trim_end_matches('/') {
            name if name != written && is_inner_path(name.as_bytes()) => {
                format!("write \"{name}\", for a folder too")
            }
            "." | "" => "give the folder a name, such as \"data\"".into(),
            _ => "write a relative path without `..`, such as \"data/scene.blend\"".into(),
        };
        let shown: String = written.chars().take(80).collect();
        faults.list.push(path.fault(format!(
            "`{shown}` is not a path below the task's work directory: {mend}"
        )));
    }
}

pub(super) fn outputs(root: &Section<'_>, faults: &mut Faults<'_>) -> Vec<Written> {
    const EXAMPLE: &str = "[\"out/**\"]";
    let Some(section) = root.section(faults, "outputs") else {
        return Vec::new();
    };
    let Some(item) = section.get(faults, "paths") else {
        faults.add(
            section.spot,
            "outputs",
            format!("has no `paths`: write for example paths = {EXAMPLE}, or remove the section"),
        );
        return Vec::new();
    };
    let mut patterns = item.texts(faults, EXAMPLE).unwrap_or_default();
    if patterns.len() > limits::MAX_PATTERNS {
        item.fault(
            faults,
            format!(
                "has more than {} patterns: use wildcards",
                limits::MAX_PATTERNS
            ),
        );
    }
    for pattern in &mut patterns {
        pattern.text = plain(&pattern.text).to_owned();
        if let Some(fault) = pattern_fault(pattern) {
            faults.list.push(fault);
        }
    }
    patterns
}

/// What is wrong with a pattern whatever its blanks are filled with.
fn pattern_fault(pattern: &Written) -> Option<Fault> {
    // A blank is read as the name in it: that is as good as any value for finding `..`, a leading
    // slash or an unclosed bracket.
    let without_blanks = strip_blanks(&pattern.text);
    check_pattern(&without_blanks)
        .err()
        .map(|error| pattern.fault(error.to_string()))
}

/// The text with the braces of everything that looks like a blank taken away.
fn strip_blanks(text: &str) -> String {
    let mut stripped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        stripped.push_str(before);
        let close = from.find('}').unwrap_or(0);
        let inside = from.get(1..close).unwrap_or_default();
        if inside.split('.').all(is_identifier) {
            stripped.push_str(inside);
            rest = &from[close + 1..];
        } else {
            stripped.push('{');
            rest = &from[1..];
        }
    }
    stripped.push_str(rest);
    stripped
}
