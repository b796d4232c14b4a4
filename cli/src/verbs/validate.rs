//! `validate`: everything that can be told of a job file without a node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use p2pnode_node::jobfile::{self, ResolvedJob};
use p2pnode_protocol::job::file::JobFileErrors;
use serde_json::json;

use super::follow::counted;
use crate::args::Global;
use crate::exit::Failure;
use crate::output;

/// A job file as it was read.
pub struct ReadFile {
    /// Its text.
    pub text: String,
    /// The absolute folder that its paths are relative to.
    pub folder: PathBuf,
    /// Its name, for messages.
    pub name: String,
}

/// Reads a job file.
pub fn read(file: &Path) -> Result<ReadFile, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read the job file {shown}: {error}")))?;
    let whole = std::path::absolute(file)
        .map_err(|error| Failure::usage(format!("cannot find the folder of {shown}: {error}")))?;
    let folder = whole
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    Ok(ReadFile {
        text,
        folder,
        name: shown.to_string(),
    })
}

/// Checks a job file and all that it names.
pub fn check(file: &ReadFile) -> Result<ResolvedJob, Failure> {
    let wrong = |errors: JobFileErrors| {
        let details = errors.lines();
        let message = match details.as_slice() {
            [one] => one.clone(),
            several => format!("{} has {} faults", file.name, several.len()),
        };
        Failure::usage(message).with_details(details)
    };
    jobfile::load(&file.text, &file.name, &file.folder).map_err(wrong)
}

pub fn validate(global: &Global, path: &Path) -> Result<ExitCode, Failure> {
    let resolved = check(&read(path)?)?;
    let tasks = resolved.task_count();
    if global.json {
        output::line_json(&json!({ "valid": true, "name": resolved.name(), "tasks": tasks }));
    } else {
        output::line(format!(
            "{} is valid: job `{}`, {}",
            path.display(),
            resolved.name(),
            counted(tasks, "task")
        ));
    }
    Ok(ExitCode::SUCCESS)
}
