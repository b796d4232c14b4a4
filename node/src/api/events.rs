//! Event streams (SSE): everything, or one job's.
//!
//! A reader that is too slow loses the oldest events, is told how many, and gets the job's state
//! anew, so that it always learns of the end.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::stream;
use p2pnode_protocol::JobId;
use p2pnode_protocol::api::{Event, JobInfo, JobState};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_util::sync::CancellationToken;

use super::error::Refused;
use super::{ApiState, select};
use crate::command::{EventReceiver, NodeHandle};

/// The most events in one chunk of the answer, so that a burst of small ones costs few writes.
const MAX_EVENTS_PER_CHUNK: usize = 256;

pub(super) async fn all(State(state): State<ApiState>) -> Response {
    let events = state.node.events();
    respond(Feed {
        node: state.node,
        ending: state.ending,
        job: None,
        events,
        pending: Vec::new(),
        done: false,
    })
}

pub(super) async fn of_job(
    State(state): State<ApiState>,
    Path(selector): Path<String>,
) -> Result<Response, Refused> {
    let job = select::job(&state.node, &selector).await?;
    let events = state.node.events();
    Ok(stream_of_job(state, job, events, true))
}

/// The events of one job up to its end; `with_state` first says how far it is.
pub(super) fn stream_of_job(
    state: ApiState,
    job: JobId,
    events: EventReceiver,
    with_state: bool,
) -> Response {
    let watched = Watched {
        id: job,
        name: job.to_string(),
        refresh: with_state,
    };
    respond(Feed {
        node: state.node,
        ending: state.ending,
        job: Some(watched),
        events,
        pending: Vec::new(),
        done: false,
    })
}

struct Watched {
    id: JobId,
    name: String,
    /// Whether the reader must be told the job's state before anything else.
    refresh: bool,
}

struct Feed {
    node: NodeHandle,
    ending: CancellationToken,
    job: Option<Watched>,
    events: EventReceiver,
    pending: Vec<u8>,
    done: bool,
}

fn respond(feed: Feed) -> Response {
    let chunks = stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next_chunk().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(chunk)), feed))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(chunks)).into_response()
}

impl Feed {
    async fn next_chunk(&mut self) -> Option<Vec<u8>> {
        while self.pending.is_empty() {
            if self.done {
                return None;
            }
            if self.job.as_ref().is_some_and(|job| job.refresh) {
                self.tell_state().await;
                continue;
            }
            let event = tokio::select! {
                biased;
                event = self.events.recv() => event,
                () = self.ending.cancelled() => return None,
            };
            match event {
                Ok(event) => self.take(&event),
                Err(RecvError::Lagged(missed)) => self.missed(missed),
                Err(RecvError::Closed) => self.done = true,
            }
            self.take_waiting();
        }
        Some(std::mem::take(&mut self.pending))
    }

    fn take_waiting(&mut self) {
        for _ in 0..MAX_EVENTS_PER_CHUNK {
            if self.done {
                return;
            }
            match self.events.try_recv() {
                Ok(event) => self.take(&event),
                Err(TryRecvError::Lagged(missed)) => return self.missed(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn take(&mut self, event: &Arc<Event>) {
        if let Some(job) = &self.job {
            if event.job() != Some(job.name.as_str()) {
                return;
            }
            self.done |= matches!(**event, Event::JobFinished { .. });
        }
        self.write(event);
    }

    fn missed(&mut self, events: u64) {
        self.write(&Event::Missed { events });
        if let Some(job) = &mut self.job {
            job.refresh = true;
        }
    }

    async fn tell_state(&mut self) {
        let Some(job) = &mut self.job else { return };
        job.refresh = false;
        let id = job.id;
        match self.node.view(move |core| core.job(id)).await {
            Ok(Some(info)) if is_over(info.state) => {
                self.done = true;
                self.write(&finished(info));
            }
            Ok(Some(info)) => self.write(&Event::JobProgress {
                info: Box::new(info),
            }),
            Ok(None) | Err(_) => self.done = true,
        }
    }

    fn write(&mut self, event: &Event) {
        self.pending.extend_from_slice(b"data: ");
        if let Err(error) = serde_json::to_writer(&mut self.pending, event) {
            tracing::error!(%error, "an event cannot be written as JSON");
        }
        self.pending.extend_from_slice(b"\n\n");
    }
}

const fn is_over(state: JobState) -> bool {
    matches!(
        state,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled
    )
}

/// The last event of a job that ended before the reader came.
fn finished(info: JobInfo) -> Event {
    Event::JobFinished {
        wall_ms: info
            .finished_ms
            .unwrap_or(info.created_ms)
            .saturating_sub(info.created_ms),
        job: info.job,
        state: info.state,
        tasks: info.tasks,
        peers: info.peers,
        usage: info.usage,
        out: info.out,
        notes: info.notes,
        no_peer: info.no_peer,
    }
}
