//! What people write to name a job, a task or a peer, checked before it becomes a path of the API.

use std::fmt::Write;

use p2pnode_protocol::TaskKey;

use crate::exit::Failure;

/// A job, and perhaps one task of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSelector {
    job: String,
    /// The task's position, counted from 0.
    pub task: Option<u32>,
}

impl JobSelector {
    /// Reads `JOB` or `JOB/INDEX`; which job that is, the node decides.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (job, task) = match text.split_once('/') {
            None => (text, None),
            Some((job, index)) => {
                let index = index.parse().map_err(|_| {
                    Failure::usage(format!(
                        "`{text}` is not a task: write JOB/INDEX, such as last/3"
                    ))
                })?;
                (job, Some(index))
            }
        };
        if job.is_empty() {
            return Err(Failure::usage(
                "no job is named: give its id, the beginning of it, or `last`",
            ));
        }
        Ok(Self {
            job: job.to_owned(),
            task,
        })
    }

    /// Reads `JOB`, for what is done to whole jobs only.
    pub fn parse_whole(text: &str) -> Result<Self, Failure> {
        let selector = Self::parse(text)?;
        match selector.task {
            None => Ok(selector),
            Some(_) => Err(Failure::usage(format!(
                "`{text}` is a task, and this is done to whole jobs: write {}",
                selector.job
            ))),
        }
    }

    /// Names this task.
    pub fn of(task: &TaskKey) -> Self {
        Self {
            job: task.job.to_string(),
            task: Some(task.index),
        }
    }

    /// The job's path in the API.
    pub fn path(&self) -> String {
        format!("/jobs/{}", escaped(&self.job))
    }

    /// Refuses a task that a job of `total` tasks has not got.
    pub fn check(&self, job: &str, total: u64) -> Result<(), Failure> {
        match self.task {
            Some(index) if u64::from(index) >= total => {
                let has = match total {
                    1 => "1 task: 0".to_owned(),
                    total => format!("{total} tasks: 0 to {}", total.saturating_sub(1)),
                };
                Err(Failure::usage(format!("job {job} has {has}")))
            }
            _ => Ok(()),
        }
    }
}

/// The path of a peer's permission in the API.
pub fn access_path(peer: &str) -> Result<String, Failure> {
    if peer.trim().is_empty() {
        return Err(Failure::usage(
            "no peer is named: give its id, ten or more characters of its end, or the name of a peer that was allowed",
        ));
    }
    Ok(format!("/allowed/{}", escaped(peer)))
}

/// The path of what the API knows of the way to a peer: `ping`, `path` or `find`.
pub fn way_path(peer: &str, what: &str) -> Result<String, Failure> {
    access_path(peer).map(|_| format!("/peers/{}/{what}", escaped(peer)))
}

/// A part of a path with everything escaped that means something in one.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_taken_as_it_is_or_refused() {
        let last = JobSelector::parse("last/3").unwrap();
        assert_eq!((last.path().as_str(), last.task), ("/jobs/last", Some(3)));
        // The node refuses it: nothing is stripped.
        assert_eq!(
            JobSelector::parse("34-e0:35").unwrap().path(),
            "/jobs/34-e0%3A35"
        );
        for wrong in ["", "/3", "3/../x", "3/", "last/1/2"] {
            assert!(JobSelector::parse(wrong).is_err(), "{wrong}");
        }
        assert!(JobSelector::parse_whole("last/0").is_err());
        assert_eq!(access_path("../jobs").unwrap(), "/allowed/%2E%2E%2Fjobs");
        assert!(access_path(" ").is_err());
        assert_eq!(way_path("a/b", "ping").unwrap(), "/peers/a%2Fb/ping");
        assert!(way_path("", "ping").is_err());
    }

    #[test]
    fn a_task_that_is_not_there_is_told() {
        let said = JobSelector::parse("last/99")
            .unwrap()
            .check("34e035", 4)
            .unwrap_err();
        assert_eq!(said.message, "job 34e035 has 4 tasks: 0 to 3");
        assert!(JobSelector::parse("last/3").unwrap().check("x", 4).is_ok());
    }
}
