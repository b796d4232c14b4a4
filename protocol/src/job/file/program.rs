//! Reads what runs, and what goes with that: `image`, `wasm`, `build`, `image-archive`, `isolation`,
//! `runtime`, `login`.

use super::reader::{Faults, Item, Section};
use super::task::{LoginSpec, ProgramSpec, Task, is_path};
use crate::job::limits;
use crate::manifest::is_inner_path;
use crate::task::Isolation;

/// The keys that say what runs; a task has one of them.
const PROGRAMS: [&str; 4] = ["image", "wasm", "build", "image-archive"];

/// The Dockerfile of a build that names none.
const DOCKERFILE: &str = "Dockerfile";

/// What runs; `None` when that is wrong, which is noted. `mend` says how to name it.
pub(super) fn read(
    section: &Section<'_>,
    mend: &str,
    faults: &mut Faults<'_>,
) -> Option<ProgramSpec> {
    let named: Vec<Item<'_>> = PROGRAMS
        .iter()
        .filter_map(|key| section.get(faults, key))
        .collect();
    let item = match named.as_slice() {
        [one] => one,
        [] => {
            faults.add(
                section.spot,
                "task",
                format!("does not say what runs: {mend}"),
            );
            return None;
        }
        [first, second, ..] => {
            second.fault(
                faults,
                format!(
                    "a task runs one thing: remove `{}` or `{}`",
                    first.name, second.name
                ),
            );
            return None;
        }
    };
    let text = item.text(faults)?;
    if item.name == "image" {
        if let Some(fault) = limits::image_fault(&text.text) {
            faults.list.push(text.fault(fault));
        }
        return Some(ProgramSpec::Image(text.text));
    }
    if !is_path(&text, faults) {
        return None;
    }
    Some(match item.name {
        "wasm" => ProgramSpec::Wasm(text),
        "image-archive" => ProgramSpec::Archive(text),
        _ => ProgramSpec::Build(text, dockerfile(section, faults)),
    })
}

fn dockerfile(section: &Section<'_>, faults: &mut Faults<'_>) -> String {
    let Some(path) = section.text(faults, "dockerfile") else {
        return DOCKERFILE.into();
    };
    if !is_inner_path(path.text.as_bytes()) {
        faults.list.push(path.fault(
            "must be a path within the folder that `build` names, such as \"docker/Dockerfile\"",
        ));
    }
    path.text
}

/// What goes with the program.
pub(super) fn beside(section: &Section<'_>, task: &mut Task, faults: &mut Faults<'_>) {
    let is_container = !matches!(task.program, ProgramSpec::Wasm(_));
    let has = |faults: &Faults<'_>, key: &str| section.get(faults, key);
    if let Some(item) = has(faults, "dockerfile")
        && !matches!(task.program, ProgramSpec::Build(..))
    {
        item.fault(faults, "goes with `build`: name the folder there");
    }
    if let Some(item) = has(faults, "isolation") {
        task.isolation = isolation(&item, faults);
        if task.isolation == Isolation::Job && !is_container {
            item.fault(
                faults,
                "is of containers: tasks of a WASM module share a process anyhow",
            );
        }
    }
    if let Some(item) = has(faults, "runtime") {
        task.sandbox = sandbox(&item, faults);
        if !is_container {
            item.fault(
                faults,
                "is of containers: a WASM module has a sandbox of its own",
            );
        }
    }
    task.attended = section.flag(faults, "attended");
    if let Some(item) = has(faults, "attended")
        && task.attended
        && !is_container
    {
        item.fault(faults, "is of containers: nobody can enter a WASM module");
    }
    if let Some(item) = has(faults, "login") {
        task.login = login(&item, faults);
        if !matches!(task.program, ProgramSpec::Image(_)) {
            item.fault(faults, "goes with `image`: nothing else is pulled");
        }
    }
}

fn isolation(item: &Item<'_>, faults: &mut Faults<'_>) -> Isolation {
    let text = item.text(faults).map(|text| text.text);
    match text.as_deref() {
        Some("job") => Isolation::Job,
        Some("task") | None => Isolation::Task,
        Some(_) => {
            item.fault(
                faults,
                "is \"task\" (a fresh container for each) or \"job\" (tasks follow one another in a warm one)",
            );
            Isolation::Task
        }
    }
}

fn sandbox(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<String> {
    let text = item.text(faults)?;
    if !limits::is_runtime_name(&text.text) {
        faults.list.push(text.fault(
            "is the name of an OCI runtime, such as \"runsc\" (gVisor) or \"kata-runtime\"",
        ));
        return None;
    }
    Some(text.text)
}

fn login(item: &Item<'_>, faults: &mut Faults<'_>) -> Option<LoginSpec> {
    let mend = "write \"docker\" for what `docker login` keeps, or { username = \"me\", password-file = \"token.txt\" }";
    let Some(section) = item.as_table() else {
        let text = item.as_text(faults).map(|text| text.text);
        if text.as_deref() != Some("docker") {
            item.fault(faults, mend);
        }
        return Some(LoginSpec::Docker);
    };
    section.check_keys(faults, "task.login");
    let username = section.text(faults, "username");
    let path = section.text(faults, "password-file");
    let (Some(username), Some(path)) = (username, path) else {
        item.fault(faults, format!("lacks something: {mend}"));
        return None;
    };
    let username = username.text;
    is_path(&path, faults).then_some(LoginSpec::File { username, path })
}
