//! Request bodies: JSON with one meaning, bounded, unknown fields refused.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;

use super::ApiError;
use crate::strict_json;

/// A JSON body, strictly read: no duplicate keys, no floats, at most 32 levels, at most [`MAX_BODY_BYTES`].
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let json = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        // A form of another site cannot be sent with this type unasked (CORS preflight).
        if !json.is_some_and(|t| t.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")) {
            return Err(ApiError::bad_request("expected a body of type application/json"));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|e| ApiError::bad_request(format!("body: {e}")))?;
        strict_json::from_slice(&bytes, MAX_BODY_BYTES).map(Self).map_err(|e| ApiError::bad_request(format!("body: {e}")))
    }
}

/// Longest body, in bytes: 64 receipts with their tokens.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Longest body of every other route, in bytes: eight capabilities with all their limits.
pub const MAX_SMALL_BODY_BYTES: usize = 64 * 1024;
