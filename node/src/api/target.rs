//! What an owner means by a task, a job or a peer, of those that are here.
//!
//! `JOB/INDEX` is a task, `JOB` the beginning of a job's id, everything else a peer. Ids of jobs are
//! their submitters' own, so two submitters may have the same one; then the owner says whose.

use p2pnode_protocol::PeerId;
use p2pnode_protocol::api::ErrorCode;
use p2pnode_protocol::id::{StepIndex, TaskIndex};

use super::error::Refused;
use super::select;
use crate::command::NodeHandle;
use crate::core::io::{HostedJob, Meant};

/// The most candidates that an ambiguous selector's error lists.
const MAX_CANDIDATES: usize = 10;

/// What `text` means; all that is here, or all of `peer`'s, when it is absent.
pub(super) async fn meant(
    node: &NodeHandle,
    text: Option<&str>,
    peer: Option<&str>,
) -> Result<Meant, Refused> {
    let only = match peer {
        Some(selector) => Some(select::peer(node, selector).await?),
        None => None,
    };
    let Some(text) = text.map(str::trim) else {
        return Ok(only.map_or(Meant::All, Meant::Peer));
    };
    let mut here = node.view(|core| core.hosted_jobs()).await?;
    here.retain(|hosted| only.is_none_or(|only| hosted.submitter == only));
    if let Some((job, task)) = text.split_once('/') {
        let (step, index) = parse_task(task).ok_or_else(|| {
            Refused::new(
                ErrorCode::Invalid,
                format!("`{text}` is not a task: write JOB/INDEX, as `p2pnode ps` shows it"),
            )
        })?;
        let hosted = one_job(job, &here, || {
            Refused::new(
                ErrorCode::NotFound,
                format!("no job that is here begins with `{job}`; `p2pnode ps` lists what runs"),
            )
        })?;
        return Ok(Meant::Task(hosted, step, index));
    }
    let jobs = fitting(text, &here);
    match select::peer(node, text).await {
        Ok(_) if only.is_some() => Err(Refused::new(
            ErrorCode::Invalid,
            format!("`{text}` is a peer already: name a job or a task of it, or nothing more"),
        )),
        Ok(peer) if jobs.is_empty() => Ok(Meant::Peer(peer)),
        Ok(peer) => Err(ambiguous(text, &jobs, Some(peer))),
        Err(not_peer) => one_job(text, &here, || not_here(text, not_peer)).map(Meant::Job),
    }
}

/// What is said of a name that is neither a job's here nor a peer's.
fn not_here(text: &str, not_peer: Refused) -> Refused {
    if !not_peer.is_not_found() {
        return not_peer;
    }
    let shown: String = text.chars().take(80).collect();
    Refused::new(
        ErrorCode::NotFound,
        format!(
            "`{shown}` names no job that is here and no peer that is known; `p2pnode ps` lists what runs"
        ),
    )
}

/// `INDEX`, or `STEP.INDEX` in later steps.
fn parse_task(text: &str) -> Option<(StepIndex, TaskIndex)> {
    match text.split_once('.') {
        Some((step, index)) => Some((step.parse().ok()?, index.parse().ok()?)),
        None => Some((0, text.parse().ok()?)),
    }
}

/// Jobs here whose ids begin so.
fn fitting(prefix: &str, here: &[HostedJob]) -> Vec<HostedJob> {
    let wanted = prefix.to_ascii_lowercase();
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Vec::new();
    }
    let fits = |hosted: &&HostedJob| hosted.job.to_string().starts_with(&wanted);
    here.iter().filter(fits).copied().collect()
}

fn one_job(
    prefix: &str,
    here: &[HostedJob],
    none: impl FnOnce() -> Refused,
) -> Result<HostedJob, Refused> {
    match fitting(prefix, here).as_slice() {
        [one] => Ok(*one),
        [] => Err(none()),
        several => Err(ambiguous(prefix, several, None)),
    }
}

fn ambiguous(text: &str, jobs: &[HostedJob], peer: Option<PeerId>) -> Refused {
    let jobs = jobs.iter().take(MAX_CANDIDATES);
    let jobs = jobs.map(|hosted| format!("job {} of {}", hosted.job, hosted.submitter));
    let details: Vec<String> = jobs
        .chain(peer.map(|peer| format!("peer {peer}")))
        .collect();
    Refused::new(
        ErrorCode::Ambiguous,
        format!("`{text}` can mean several; give more of the id, or say whose job with --peer"),
    )
    .with_details(details)
}

#[cfg(test)]
mod tests {
    use p2pnode_protocol::JobId;

    use super::*;

    #[test]
    fn a_job_is_named_by_what_begins_its_id_alone() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let job = |submitter, first| HostedJob {
            submitter,
            job: JobId([first, 0, 0, 0, 0, 0, 0, 1]),
        };
        let here = [job(one, 0xab), job(one, 0xac), job(other, 0xab)];
        assert_eq!(fitting("AC", &here), [here[1]]);
        assert_eq!(fitting("ab", &here), [here[0], here[2]]);
        assert!(fitting("", &here).is_empty() && fitting("x", &here).is_empty());
        let none = || Refused::new(ErrorCode::NotFound, "none");
        assert!(one_job("ab", &here, none).is_err());
        assert_eq!(one_job("ab", &here[..1], none).ok(), Some(here[0]));
    }

    #[test]
    fn tasks_are_named_as_they_are_shown() {
        assert_eq!(parse_task("12"), Some((0, 12)));
        assert_eq!(parse_task("2.7"), Some((2, 7)));
        for wrong in ["", "x", "1.", "-1", "1.2.3"] {
            assert_eq!(parse_task(wrong), None, "{wrong}");
        }
    }
}
