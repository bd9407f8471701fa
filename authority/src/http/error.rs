//! The one table from what went wrong to what the outside sees: `{ "code", "message", "request_id" }`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A refusal on its way out: status, stable code, one sentence. Its request id is added by the outermost layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after_secs: Option<u64>,
}

impl ApiError {
    /// The bytes are not what the route takes.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// Nobody is signed in, or the key's assertion does not hold.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    /// Known, and not entitled.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// Asked for something that is not there, or not for this asker.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// It cannot be so any more: revoked, taken, used before.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// Asked more often than this client may.
    pub fn too_many(retry_after_secs: u64) -> Self {
        let said = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", format!("too many requests, expected the next one in {retry_after_secs} s"));
        Self { retry_after_secs: Some(retry_after_secs), ..said }
    }

    /// The body did not come.
    pub fn too_slow(expected_in: std::time::Duration) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", format!("expected the whole body within {} s", expected_in.as_secs()))
    }

    /// Ours to mend; trying again may help.
    pub fn unavailable(cause: impl std::fmt::Display) -> Self {
        // The cause is for our log, once, here at the edge; the outside learns that it was us.
        tracing::error!(%cause, "request.unavailable");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the authority cannot do this just now; try again")
    }

    /// Ours to mend, in words that an operator on the other side needs.
    pub fn unavailable_because(sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        tracing::error!(cause = %sentence, "request.unavailable");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", sentence)
    }

    /// For what the framework refused before a handler saw it.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("not_found", "no such route"),
            StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "the route is there, the method is not"),
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is longer than this route takes"),
            StatusCode::REQUEST_TIMEOUT => ("too_slow", "the body came too slowly"),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limited", "too many requests, try again in a moment"),
            StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "the authority cannot do this just now; try again"),
            s if s.is_client_error() => ("bad_request", "expected the parameters that the route takes, once each, in UTF-8"),
            _ => ("internal", "the authority failed; the request id is in its log"),
        };
        Self::new(status, code, message)
    }

    /// Status and sentence, for pages.
    pub(super) fn said(&self) -> (StatusCode, &str) {
        (self.status, &self.message)
    }

    /// The whole answer.
    pub(super) fn with_request_id(self, id: Option<String>) -> Response {
        let mut response = (self.status, Json(serde_json::json!({ "code": self.code, "message": self.message, "request_id": id }))).into_response();
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
        }
        response
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_secs: None }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(serde_json::json!({ "code": self.code, "message": self.message }))).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
