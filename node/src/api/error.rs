//! Errors as HTTP answers.

use axum::Json;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use p2pnode_protocol::api::{ApiError, ErrorCode};

use crate::command::CommandError;

/// A request that was not done.
#[derive(Debug)]
pub(super) struct Refused(ApiError);

impl Refused {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ApiError {
            code,
            message: message.into(),
            details: Vec::new(),
        })
    }

    /// Whether what was named is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.0.code == ErrorCode::NotFound
    }

    pub(super) fn with_details(mut self, details: Vec<String>) -> Self {
        self.0.details = details;
        self
    }
}

impl From<CommandError> for Refused {
    fn from(error: CommandError) -> Self {
        Self::new(error.code, error.message).with_details(error.details)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::Invalid => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Ambiguous | ErrorCode::NoPeer => StatusCode::CONFLICT,
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

/// A path that is not a route.
pub(super) async fn no_route(uri: Uri) -> Refused {
    Refused::new(
        ErrorCode::NotFound,
        format!(
            "no such path: {}; GET /api/v1/openapi.json lists all",
            uri.path()
        ),
    )
}
