//! Jobs: create, list, show, logs, cancel.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use p2pnode_protocol::api::{
    CreateJob, ErrorCode, JobCreated, JobInfo, LogEntries, LogEntry, PeerFit, TaskInfo,
};
use serde::Deserialize;

use super::error::Refused;
use super::{ApiState, events, select};
use crate::command::Command;

/// The most tasks in one answer; a client asks again with `from`.
const MAX_TASKS_PER_PAGE: u32 = 10_000;

pub(super) async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Json(mut job): Json<CreateJob>,
) -> Result<Response, Refused> {
    job.peers = select::peers(&state.node, &job.peers).await?;
    let job = Box::new(job);
    let submitted = state
        .node
        .ask(|answer| Command::Submit { job, answer })
        .await?;
    let wants_events = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"));
    if wants_events {
        return Ok(events::stream_of_job(
            state,
            submitted.job,
            submitted.events,
            false,
        ));
    }
    let created = JobCreated {
        job: submitted.job.to_string(),
    };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

pub(super) async fn fit(
    State(state): State<ApiState>,
    Json(mut job): Json<CreateJob>,
) -> Result<Json<Vec<PeerFit>>, Refused> {
    job.peers = select::peers(&state.node, &job.peers).await?;
    Ok(Json(state.node.fit(job).await?))
}

pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<JobInfo>>, Refused> {
    Ok(Json(state.node.view(|core| core.jobs()).await?))
}

pub(super) async fn show(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
) -> Result<Json<JobInfo>, Refused> {
    let job = select::job(&state.node, &selector).await?;
    let info = state.node.view(move |core| core.job(job)).await?;
    info.map(Json)
        .ok_or_else(|| Refused::new(ErrorCode::NotFound, "the job was just forgotten"))
}

#[derive(Deserialize)]
pub(super) struct TaskRange {
    #[serde(default)]
    from: u32,
    count: Option<u32>,
}

pub(super) async fn tasks(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
    Query(range): Query<TaskRange>,
) -> Result<Json<Vec<TaskInfo>>, Refused> {
    let job = select::job(&state.node, &selector).await?;
    let count = range
        .count
        .unwrap_or(MAX_TASKS_PER_PAGE)
        .min(MAX_TASKS_PER_PAGE);
    let until = range.from.saturating_add(count);
    Ok(Json(
        state
            .node
            .view(move |core| core.tasks(job, range.from..until))
            .await?,
    ))
}

#[derive(Deserialize)]
pub(super) struct LogRange {
    task: Option<u32>,
    #[serde(default)]
    from: u64,
}

pub(super) async fn logs(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
    Query(range): Query<LogRange>,
) -> Result<Json<LogEntries>, Refused> {
    let job = select::job(&state.node, &selector).await?;
    let LogRange { task, from } = range;
    let page = state
        .node
        .ask(|answer| Command::Logs {
            job,
            task,
            from,
            answer,
        })
        .await?;
    let entries = page
        .frames
        .into_iter()
        .map(|frame| LogEntry::of(job, &frame))
        .collect();
    Ok(Json(LogEntries {
        entries,
        next: page.next,
    }))
}

pub(super) async fn cancel(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
) -> Result<Json<JobInfo>, Refused> {
    let job = select::job(&state.node, &selector).await?;
    state
        .node
        .ask(|answer| Command::Cancel { job, answer })
        .await?;
    let info = state.node.view(move |core| core.job(job)).await?;
    info.map(Json)
        .ok_or_else(|| Refused::new(ErrorCode::NotFound, "the job was just forgotten"))
}
