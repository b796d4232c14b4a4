//! The node itself: status, peers, what it offers and to whom.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use p2pnode_protocol::api::{NodeStatus, OfferRequest, PeerAccess, PeerInfo};

use super::error::Refused;
use super::{ApiState, select};
use crate::command::Command;

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
    let peers = state.node.view(|core| core.allowed_peers()).await?;
    Ok(Json(peers.iter().map(ToString::to_string).collect()))
}

pub(super) async fn allow(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerAccess>, Refused> {
    set_allowed(&state, &peer, true).await
}

pub(super) async fn deny(
    State(state): State<ApiState>,
    Path(peer): Path<String>,
) -> Result<Json<PeerAccess>, Refused> {
    set_allowed(&state, &peer, false).await
}

async fn set_allowed(
    state: &ApiState,
    selector: &str,
    allowed: bool,
) -> Result<Json<PeerAccess>, Refused> {
    let peer = select::peer(&state.node, selector).await?;
    state
        .node
        .ask(|answer| Command::Allow {
            peer,
            allowed,
            answer,
        })
        .await?;
    let peer = peer.to_string();
    Ok(Json(PeerAccess { peer, allowed }))
}

pub(super) async fn stop(State(state): State<ApiState>) -> StatusCode {
    state.node.ask_to_stop();
    StatusCode::ACCEPTED
}

pub(super) async fn metrics(State(state): State<ApiState>) -> impl IntoResponse {
    ([METRICS_TYPE], (state.metrics)().await)
}
