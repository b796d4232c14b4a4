//! The job file: what is accepted, and the exact words for what is not.
#![allow(clippy::unwrap_used)]

mod bad;
mod bad_batch;
mod bad_settings;
mod batch;
mod documented;
mod good;
mod render;

use p2pnode_protocol::job::JobFile;

/// A job that is read without a fault.
fn job(text: &str) -> JobFile {
    JobFile::parse(text, "job.toml").unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// What is said of a job that is wrong, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let errors = JobFile::parse(text, "job.toml").expect_err(text);
    let lines = errors.lines();
    let lines = lines.iter().map(|line| line.strip_prefix("job.toml:"));
    lines.map(|line| line.unwrap().to_owned()).collect()
}

/// A file that is right but for `text`, which begins on line 2.
fn with(text: &str) -> Vec<String> {
    faults(&format!("task.image = 'a'\n{text}"))
}

fn one(text: &str, expected: &str) {
    assert_eq!(with(text), [expected], "{text}");
}

fn one_of_task(text: &str, expected: &str) {
    assert_eq!(faults(&format!("[task]\n{text}")), [expected], "{text}");
}
