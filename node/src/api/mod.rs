//! The local API: HTTP and JSON on loopback, for the command line, the web page and any program of
//! the owner's.
//!
//! Handlers translate between HTTP and [`NodeHandle`]; they decide nothing. Every route but none is
//! behind the bearer token of the data directory ([`auth`]), because loopback is shared by all users
//! of a machine. A path on the node's disk is taken only here, from the owner.

mod auth;
mod error;
mod events;
mod few;
mod hosted;
mod jobs;
mod node;
mod openapi;
mod reach;
mod scrape;
mod select;
mod target;
mod tunnels;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::command::NodeHandle;
use crate::tunnels::{Forwards, Tunnels};
use few::{Few, Limit};

pub use scrape::serve_metrics;

/// The largest request body, in bytes: a job file with a million listed values (16 MiB).
const MAX_BODY_BYTES: usize = 16 << 20;

/// Connections at a time: many clients that follow jobs, and far fewer than a process has descriptors.
const MAX_CONNECTIONS: usize = 256;

/// How long the header of a connection's first request may take: on loopback it is there at once.
const MAX_HEADER: Duration = Duration::from_secs(10);

/// Writes the node's metrics as OpenMetrics text.
pub type MetricsText = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What handlers share.
#[derive(Clone)]
struct ApiState {
    node: NodeHandle,
    metrics: MetricsText,
    tunnels: Tunnels,
    forwards: Forwards,
    /// Cancelled when the server ends: open event streams end then.
    ending: CancellationToken,
}

/// All routes, behind `token`.
fn router(token: &str, state: ApiState) -> Router {
    let jobs = Router::new()
        .route("/", get(jobs::list).post(jobs::create))
        .route("/{job}", get(jobs::show))
        .route("/{job}/tasks", get(jobs::tasks))
        .route("/{job}/logs", get(jobs::logs))
        .route("/{job}/cancel", post(jobs::cancel))
        .route("/{job}/tunnel", post(tunnels::open))
        .route("/{job}/events", get(events::of_job));
    let hosted = Router::new()
        .route("/", get(hosted::list))
        .route("/kill", post(hosted::kill))
        .route("/pause", post(hosted::pause))
        .route("/resume", post(hosted::resume));
    let api = Router::new()
        .nest("/jobs", jobs)
        .nest("/hosted", hosted)
        .route("/forwards", get(tunnels::list).post(tunnels::create))
        .route("/forwards/{id}", delete(tunnels::close))
        .route("/drain", get(hosted::drain).put(hosted::set_drain))
        .route("/history", get(hosted::history))
        .route("/usage", get(hosted::usage))
        .route("/status", get(node::status))
        .route("/peers", get(node::peers))
        .route("/peers/{peer}/ping", post(reach::ping))
        .route("/peers/{peer}/path", get(reach::path))
        .route("/peers/{peer}/find", get(reach::find))
        .route("/find", post(reach::offers))
        .route("/offer", put(node::offer))
        .route("/fit", post(jobs::fit))
        .route("/allowed", get(node::allowed))
        .route("/allowed/{peer}", put(node::allow).delete(node::deny))
        .route("/requests", get(node::requests))
        .route("/stop", post(node::stop))
        .route("/events", get(events::all))
        .route("/openapi.json", get(openapi::document));
    Router::new()
        .nest("/api/v1", api)
        .route("/metrics", get(node::metrics))
        .fallback(error::no_route)
        .layer(axum::middleware::from_fn_with_state(
            auth::Token::new(token),
            auth::require,
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state)
}

/// Answers requests on `listener` until `stop` is cancelled; open event streams end then too.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    node: NodeHandle,
    tunnels: Tunnels,
    token: String,
    metrics: MetricsText,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let state = ApiState {
        node,
        metrics,
        forwards: Forwards::new(tunnels.clone()),
        tunnels,
        ending: stop.clone(),
    };
    let app = router(&token, state);
    let listener = Few::new(listener, MAX_CONNECTIONS, Limit::Header(MAX_HEADER));
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}
