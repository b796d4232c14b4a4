//! Tasks of others that run here, draining, and what ran here: for the owner.

use axum::Json;
use axum::extract::{Query, State};
use p2pnode_protocol::api::{
    DrainRequest, DrainStatus, ErrorCode, HistoryPage, HostedDone, HostedRequest, HostedTasks,
    UsageBy, UsageReport,
};
use serde::Deserialize;

use super::error::Refused;
use super::{ApiState, select, target};
use crate::command::{Answer, Command, OwnerCommand, PastQuery};
use crate::core::io::Meant;

/// The longest reason for a kill, in bytes: what reaches the submitter is cut to a few lines.
const MAX_REASON_BYTES: usize = 2_000;

/// Rows of a page of the history when the client does not say.
const PAGE_ROWS: u32 = 100;

/// The most rows of a page.
const MAX_PAGE_ROWS: u32 = 10_000;

async fn ask<T>(
    state: &ApiState,
    make: impl FnOnce(Answer<T>) -> OwnerCommand,
) -> Result<Json<T>, Refused> {
    let asked = state.node.ask(|answer| Command::Owner(make(answer))).await;
    Ok(Json(asked?))
}

pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<HostedTasks>, Refused> {
    ask(&state, |answer| OwnerCommand::Hosted { answer }).await
}

pub(super) async fn kill(
    State(state): State<ApiState>,
    Json(request): Json<HostedRequest>,
) -> Result<Json<HostedDone>, Refused> {
    let meant = meant(&state, &request).await?;
    if meant == Meant::All {
        return Err(Refused::new(
            ErrorCode::Invalid,
            "name a task, a job or a peer; to be rid of all: DELETE the peers' permission, or PUT /api/v1/offer with none",
        ));
    }
    let reason = request.reason.unwrap_or_default();
    if reason.len() > MAX_REASON_BYTES {
        return Err(Refused::new(
            ErrorCode::Invalid,
            format!("the reason is longer than {MAX_REASON_BYTES} bytes"),
        ));
    }
    let done = ask(&state, |answer| OwnerCommand::Kill {
        meant,
        reason,
        answer,
    });
    something(done.await?)
}

pub(super) async fn pause(
    State(state): State<ApiState>,
    Json(request): Json<HostedRequest>,
) -> Result<Json<HostedDone>, Refused> {
    set_paused(&state, &request, true).await
}

pub(super) async fn resume(
    State(state): State<ApiState>,
    Json(request): Json<HostedRequest>,
) -> Result<Json<HostedDone>, Refused> {
    set_paused(&state, &request, false).await
}

async fn set_paused(
    state: &ApiState,
    request: &HostedRequest,
    on: bool,
) -> Result<Json<HostedDone>, Refused> {
    if request.reason.is_some() {
        return Err(Refused::new(
            ErrorCode::Invalid,
            "a reason is given with kill only: nobody is told of a pause",
        ));
    }
    let meant = meant(state, request).await?;
    let done = ask(state, |answer| OwnerCommand::Pause { meant, on, answer });
    something(done.await?)
}

async fn meant(state: &ApiState, request: &HostedRequest) -> Result<Meant, Refused> {
    target::meant(
        &state.node,
        request.target.as_deref(),
        request.peer.as_deref(),
    )
    .await
}

/// Something was there, unless all was meant, which may be nothing.
fn something(done: Json<HostedDone>) -> Result<Json<HostedDone>, Refused> {
    let nothing = done.tasks.is_empty() && done.waiting == 0 && done.unable.is_empty();
    if nothing && done.meant != "all" {
        return Err(Refused::new(
            ErrorCode::NotFound,
            "nothing of that runs here now; `p2pnode ps` lists what does",
        ));
    }
    Ok(done)
}

pub(super) async fn drain(State(state): State<ApiState>) -> Result<Json<DrainStatus>, Refused> {
    let asked = state.node.view(|core| {
        let view = core.capacity();
        DrainStatus {
            draining: core.is_draining(),
            running: view.running,
            waiting: view.queued,
        }
    });
    Ok(Json(asked.await?))
}

pub(super) async fn set_drain(
    State(state): State<ApiState>,
    Json(request): Json<DrainRequest>,
) -> Result<Json<DrainStatus>, Refused> {
    let on = request.on;
    ask(&state, |answer| OwnerCommand::Drain { on, answer }).await
}

#[derive(Deserialize)]
pub(super) struct PastRange {
    peer: Option<String>,
    job: Option<String>,
    outcome: Option<String>,
    #[serde(default)]
    since_ms: u64,
    before: Option<u64>,
    limit: Option<u32>,
    by: Option<UsageBy>,
}

impl PastRange {
    async fn query(self, state: &ApiState) -> Result<PastQuery, Refused> {
        let peer = match self.peer.as_deref() {
            Some(selector) => Some(select::peer(&state.node, selector).await?),
            None => None,
        };
        let job = self.job.map(|job| job.to_ascii_lowercase());
        if let Some(job) = &job
            && (job.is_empty() || !job.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(Refused::new(
                ErrorCode::Invalid,
                "the job is not the beginning of an id",
            ));
        }
        Ok(PastQuery {
            peer,
            job,
            outcome: self.outcome,
            since_ms: self.since_ms,
            before: self.before,
            limit: self.limit.unwrap_or(PAGE_ROWS).clamp(1, MAX_PAGE_ROWS),
        })
    }
}

pub(super) async fn history(
    State(state): State<ApiState>,
    Query(range): Query<PastRange>,
) -> Result<Json<HistoryPage>, Refused> {
    let query = range.query(&state).await?;
    ask(&state, |answer| OwnerCommand::History { query, answer }).await
}

pub(super) async fn usage(
    State(state): State<ApiState>,
    Query(range): Query<PastRange>,
) -> Result<Json<UsageReport>, Refused> {
    let by = range.by.unwrap_or(UsageBy::Peer);
    let query = range.query(&state).await?;
    ask(&state, |answer| OwnerCommand::Usage { by, query, answer }).await
}
