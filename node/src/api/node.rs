//! The node itself: status, peers, what it offers and to whom.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use p2pnode_protocol::api::{
    AccessRequest, ErrorCode, NodeStatus, OfferRequest, PeerAccess, PeerInfo,
};
use p2pnode_protocol::offer::{Grant, MAX_PATTERNS, image_pattern_fault};

use super::error::Refused;
use super::{ApiState, select};
use crate::command::Command;
use crate::core::Core;

/// What the metrics are written in.
pub(super) const METRICS_TYPE: (HeaderName, &str) = (
    CONTENT_TYPE,
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
);

pub(super) async fn status(State(state): State<ApiState>) -> Result<Json<NodeStatus>, Refused> {
    Ok(Json(
        state.node.ask(|answer| Command::Status { answer }).await?,
    ))
}

pub(super) async fn peers(State(state): State<ApiState>) -> Result<Json<Vec<PeerInfo>>, Refused> {
    Ok(Json(
        state.node.ask(|answer| Command::Peers { answer }).await?,
    ))
}

pub(super) async fn offer(
    State(state): State<ApiState>,
    Json(mut request): Json<OfferRequest>,
) -> Result<Json<NodeStatus>, Refused> {
    request.allow = select::peers(&state.node, &request.allow).await?;
    state
        .node
        .ask(|answer| Command::Offer { request, answer })
        .await?;
    status(State(state)).await
}

pub(super) async fn allowed(State(state): State<ApiState>) -> Result<Json<Vec<String>>, Refused> {
    let now = now_ms();
    let allowed = move |core: &Core| core.allowed_by_name(now).map(ToString::to_string).collect();
    Ok(Json(state.node.view(allowed).await?))
}

/// The body says how much the peer may do; without one there is no limit.
pub(super) async fn allow(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
    grant: Option<Json<Option<Grant>>>,
) -> Result<Json<PeerAccess>, Refused> {
    let grant = grant.and_then(|Json(grant)| grant).unwrap_or_default();
    check_grant(&grant)?;
    set_allowed(&state, &peer, Some(grant)).await
}

/// The time of day, in milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

fn check_grant(grant: &Grant) -> Result<(), Refused> {
    let wrong = |message: &str| Err(Refused::new(ErrorCode::Invalid, message));
    if grant.tasks == Some(0) {
        return wrong("--tasks 0 allows nothing: give 1 or more, or run `p2pnode deny PEER`");
    }
    if grant.until_ms.is_some_and(|until| until <= now_ms()) {
        return wrong("--until lies in the past: give a time such as 2h");
    }
    if grant.images.len() > MAX_PATTERNS {
        return wrong("--image is given too often");
    }
    let mut faults = grant
        .images
        .iter()
        .filter_map(|pattern| image_pattern_fault(pattern));
    faults
        .next()
        .map_or(Ok(()), |fault| wrong(&format!("--image {fault}")))
}

pub(super) async fn requests(
    State(state): State<ApiState>,
) -> Result<Json<Vec<AccessRequest>>, Refused> {
    let requests = state.node.view(|core| {
        let all = core.requests().iter().map(|(peer, asked)| AccessRequest {
            peer: peer.to_string(),
            name: core.peer_name(peer).unwrap_or_default().to_owned(),
            job: asked.job.to_string(),
            job_name: asked.name.clone(),
            program: asked.program.clone(),
            resources: asked.resources.clone(),
            first_ms: asked.first_ms,
            last_ms: asked.last_ms,
        });
        let mut all: Vec<AccessRequest> = all.collect();
        all.sort_by_key(|asked| std::cmp::Reverse(asked.last_ms));
        all
    });
    Ok(Json(requests.await?))
}

pub(super) async fn deny(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerAccess>, Refused> {
    set_allowed(&state, &peer, None).await
}

async fn set_allowed(
    state: &ApiState,
    selector: &str,
    grant: Option<Grant>,
) -> Result<Json<PeerAccess>, Refused> {
    let peer = select::peer(&state.node, selector).await?;
    state
        .node
        .ask(|answer| Command::Allow {
            peer,
            grant: grant.clone(),
            answer,
        })
        .await?;
    Ok(Json(PeerAccess {
        peer: peer.to_string(),
        allowed: grant.is_some(),
        grant,
    }))
}

pub(super) async fn stop(State(state): State<ApiState>) -> StatusCode {
    state.node.ask_to_stop();
    StatusCode::ACCEPTED
}

pub(super) async fn metrics(State(state): State<ApiState>) -> impl IntoResponse {
    ([METRICS_TYPE], (state.metrics)().await)
}
