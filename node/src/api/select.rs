//! Selectors: `last`, a whole id, or a prefix that fits one job.

use p2pnode_protocol::JobId;
use p2pnode_protocol::api::ErrorCode;

use super::error::Refused;
use crate::command::NodeHandle;

/// The most candidates that an ambiguous selector's error lists.
const MAX_CANDIDATES: usize = 10;

/// The job that `selector` names.
pub(super) async fn job(node: &NodeHandle, selector: &str) -> Result<JobId, Refused> {
    // `JOB/INDEX` stands wherever a job is asked for.
    let wanted = selector
        .split('/')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let ids = node.view(|core| core.job_ids()).await?;
    if wanted == "last" {
        return ids.first().copied().ok_or_else(|| {
            Refused::new(
                ErrorCode::NotFound,
                "there are no jobs yet; run: p2pnode submit job.toml",
            )
        });
    }
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refused::new(
            ErrorCode::Invalid,
            format!(
                "`{selector}` does not name a job: give its id, the beginning of it, or `last`"
            ),
        ));
    }
    let fitting: Vec<JobId> = ids
        .into_iter()
        .filter(|id| id.to_string().starts_with(&wanted))
        .collect();
    match fitting.as_slice() {
        [one] => Ok(*one),
        [] => Err(Refused::new(
            ErrorCode::NotFound,
            format!("no job begins with `{wanted}`; `p2pnode jobs` lists them"),
        )),
        several => Err(Refused::new(
            ErrorCode::Ambiguous,
            format!(
                "`{wanted}` fits {} jobs; give more of the id",
                several.len()
            ),
        )
        .with_details(
            several
                .iter()
                .take(MAX_CANDIDATES)
                .map(ToString::to_string)
                .collect(),
        )),
    }
}
