//! Ways into tasks: a tunnel for a client of this API, and forwarded ports.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use p2pnode_protocol::api::{CreateForward, ErrorCode, ForwardInfo};
use p2pnode_protocol::tunnel::Purpose;
use p2pnode_protocol::{JobId, TaskKey};
use serde::Deserialize;
use tokio::io::copy_bidirectional_with_sizes;

use super::error::Refused;
use super::{ApiState, select};
use crate::tunnels::{Wanted, last_place, parse_listen, place};

/// What a client that wants a tunnel upgrades to.
const PROTOCOL: &str = "p2pnode-tunnel";

/// The header of the answer that says which task was meant, `JOB/INDEX`.
const TASK: &str = "p2pnode-task";

/// The header of the answer that says where the provider may be reached over TCP, `ADDRESS:PORT`.
const SHORTCUT: &str = "p2pnode-shortcut";

/// Buffers between a client and its tunnel, each way (64 KiB).
const COPY_BYTES: usize = 64 << 10;

/// The task that `JOB` or `JOB/INDEX` names; without an index the first.
async fn task(state: &ApiState, text: &str) -> Result<(JobId, u32), Refused> {
    let job = select::job(&state.node, text).await?;
    let index = match text.split_once('/') {
        None => 0,
        Some((_, index)) => index.parse().map_err(|_| {
            Refused::new(
                ErrorCode::Invalid,
                format!("`{text}` is not a task: write JOB/INDEX, such as last/0"),
            )
        })?,
    };
    Ok((job, index))
}

#[derive(Deserialize)]
pub(super) struct Which {
    /// The task's position, counted from 0.
    #[serde(default)]
    task: u32,
    /// Whether it is to go on with a command, whose end may be waiting where its task has ended.
    #[serde(default)]
    resume: bool,
}

/// Joins the client's connection to a stream to the task's provider. What the client then says is
/// `tunnel/2`, the hello first: this node only hands it on.
pub(super) async fn open(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
    Query(which): Query<Which>,
    mut request: Request,
) -> Result<Response, Refused> {
    let wants = request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok());
    if wants != Some(PROTOCOL) {
        return Err(Refused::new(
            ErrorCode::Invalid,
            format!("a tunnel is opened with the header `Upgrade: {PROTOCOL}`"),
        ));
    }
    let job = select::job(&state.node, &selector).await?;
    let index = which.task;
    let peer = match which.resume {
        true => last_place(&state.node, job, index).await?,
        false => place(&state.node, job, index).await?,
    };
    let mut far = state.tunnels.to(peer).await?;
    let shortcut = state.tunnels.shortcut(peer).await;
    let (upgraded, ending) = (hyper::upgrade::on(&mut request), state.ending.clone());
    tokio::spawn(ending.run_until_cancelled_owned(async move {
        let near = match upgraded.await {
            Ok(near) => near,
            Err(error) => return tracing::debug!(%error, "a client left before its tunnel"),
        };
        let mut near = TokioIo::new(near);
        // Either side may break off as it likes.
        let _ = copy_bidirectional_with_sizes(&mut near, &mut far, COPY_BYTES, COPY_BYTES).await;
    }));
    let name = TaskKey {
        job,
        step: 0,
        index,
    };
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    if let Ok(name) = HeaderValue::from_str(&name.to_string()) {
        headers.insert(TASK, name);
    }
    if let Some(Ok(address)) = shortcut.map(|address| HeaderValue::from_str(&address.to_string())) {
        headers.insert(SHORTCUT, address);
    }
    Ok(answer)
}

pub(super) async fn create(
    State(state): State<ApiState>,
    Json(request): Json<CreateForward>,
) -> Result<Response, Refused> {
    let invalid = |message: String| Refused::new(ErrorCode::Invalid, message);
    let (job, index) = task(&state, &request.task).await?;
    if request.port == 0 {
        return Err(invalid(
            "port 0 of a task is none: name the port that it listens on".into(),
        ));
    }
    let wanted = Wanted {
        job,
        index,
        listen: parse_listen(&request.listen).map_err(invalid)?,
        port: request.port,
        udp: request.udp,
    };
    // What can't be reached is said now, and not to the first connection.
    let key = TaskKey {
        job,
        step: 0,
        index,
    };
    let purpose = match (request.later, request.udp) {
        (true, _) => None,
        (false, true) => Some(Purpose::Udp { port: wanted.port }),
        (false, false) => Some(Purpose::Tcp { port: wanted.port }),
    };
    state.tunnels.knock(&state.node, key, purpose).await?;
    let info = state.forwards.create(&state.node, wanted).await?;
    Ok((StatusCode::CREATED, Json(info)).into_response())
}

pub(super) async fn list(State(state): State<ApiState>) -> Json<Vec<ForwardInfo>> {
    Json(state.forwards.list())
}

pub(super) async fn close(
    State(state): State<ApiState>,
    Path(id): Path<u32>,
) -> Result<Json<ForwardInfo>, Refused> {
    let closed = state.forwards.close(id);
    closed.map(Json).ok_or_else(|| {
        Refused::new(
            ErrorCode::NotFound,
            format!("no forward {id}; `p2pnode forwards` lists them"),
        )
    })
}
