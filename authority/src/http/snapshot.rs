//! What a verifier begins with, and what it hands back (`spec/feed.md`, transport).

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::ids::Tenant;
use procura_verifier::wire::Canonical as _;

use super::{ApiError, AppState};
use crate::feed::snapshot::signed;

/// `?tenant=`.
#[derive(serde::Deserialize)]
pub struct Asked {
    tenant: Tenant,
}

/// `GET /v1/feed/snapshot`: the newest manifest, signed.
pub async fn manifest(State(app): State<AppState>, Query(asked): Query<Asked>) -> Result<Json<serde_json::Value>, ApiError> {
    app.is_ours(&asked.tenant)?;
    let row = app.ctx.store.snapshot().await.map_err(ApiError::unavailable)?.ok_or_else(|| ApiError::not_found("no snapshot yet: read the tail"))?;
    let message = signed(&row, &*app.ctx.signer).ok_or_else(|| ApiError::unavailable("the snapshot's feed key is not at hand"))?;
    Ok(Json(serde_json::json!({ "message": BASE64.encode(message.to_bytes()) })))
}

/// `GET /v1/feed/segment/{sha256}`: its bytes, the same for ever.
pub async fn segment(State(app): State<AppState>, Path(hash): Path<String>, Query(asked): Query<Asked>) -> Result<impl IntoResponse, ApiError> {
    app.is_ours(&asked.tenant)?;
    let mut sha256 = [0; 32];
    let expected = || ApiError::bad_request("expected a SHA-256 of 64 lower-case hex digits");
    hex::decode_to_slice(&hash, &mut sha256).map_err(|_| expected())?;
    // One name for one segment, for caches too.
    if hex::encode(sha256) != hash {
        return Err(expected());
    }
    let bytes = app.ctx.store.segment(sha256).await.map_err(ApiError::unavailable)?.ok_or_else(|| ApiError::not_found("no such segment"))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")], bytes))
}
