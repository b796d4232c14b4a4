//! Tasks as host names, for OpenSSH: `JOB.p2pnode` and `JOB.INDEX.p2pnode`.

use p2pnode_protocol::TaskKey;

use crate::exit::Failure;
use crate::select::JobSelector;

/// What such names end with.
pub const SUFFIX: &str = ".p2pnode";

/// The task that a host name, or `JOB/INDEX`, means. Checked: it becomes a file's name, too.
pub fn parse(text: &str) -> Result<JobSelector, Failure> {
    let plain = text.strip_suffix(SUFFIX).unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/';
    let written = match plain.split_once('.') {
        Some((job, index)) => format!("{job}/{index}"),
        None => plain.to_owned(),
    };
    if written.is_empty() || !written.bytes().all(fits) {
        return Err(Failure::usage(format!(
            "`{text}` names no task: write JOB/INDEX, or JOB.INDEX{SUFFIX} for ssh"
        )));
    }
    JobSelector::parse(&written)
}

/// The host name of a task.
pub fn host(task: &TaskKey) -> String {
    format!("{}.{}{SUFFIX}", task.job, task.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_tasks() {
        for (text, task) in [
            ("last.p2pnode", None),
            ("3f09.12.p2pnode", Some(12)),
            ("3f09/12", Some(12)),
            ("last", None),
        ] {
            assert_eq!(
                parse(text).map(|found| found.task).ok(),
                Some(task),
                "{text}"
            );
        }
        for wrong in [
            "",
            ".p2pnode",
            "../../etc.p2pnode",
            "a.b.c",
            "-oProxy",
            "a b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
