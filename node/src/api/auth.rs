//! The bearer token: whoever can read the node's data directory may use its API.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use p2pnode_protocol::Digest;
use p2pnode_protocol::api::ErrorCode;

use super::error::Refused;

/// The digest of the right token. Comparing digests takes the same time wherever two tokens differ.
#[derive(Clone)]
pub(super) struct Token(Arc<Digest>);

impl Token {
    pub(super) fn new(token: &str) -> Self {
        Self(Arc::new(Digest::of(token.as_bytes())))
    }
}

/// Lets a request pass that carries the token.
pub(super) async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(|given| Digest::of(given.as_bytes()));
    if given == Some(*token.0) {
        return next.run(request).await;
    }
    Refused::new(
        ErrorCode::Unauthorized,
        "send the header `Authorization: Bearer TOKEN`; the token is in the file `token` of the node's data directory",
    )
    .into_response()
}
