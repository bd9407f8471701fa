//! What a verifier begins with, and what it hands back (`spec/feed.md`, transport).

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::feed::SignedMessage;
use procura_verifier::ids::Tenant;
use procura_verifier::wire::Canonical as _;

use super::body::Body;
use super::feed::From;
use super::{ApiError, AppState};
use crate::feed::snapshot::signed;
use crate::usecase::take_back::{self, TakeBackError};

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

/// What a verifier holds: messages, or a manifest with one of its segments.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostBody {
    #[serde(default)]
    messages: Vec<String>,
    #[serde(default)]
    manifest: Option<String>,
    #[serde(default)]
    segment: Option<String>,
}

/// `POST /v1/feed/lost`: anyone may hand in what a feed key signed. `wanted` if the manifest's segments are.
pub async fn lost(
    State(app): State<AppState>,
    From(client): From,
    Query(asked): Query<Asked>,
    Body(body): Body<LostBody>,
) -> Result<Json<serde_json::Value>, ApiError> {
    app.is_ours(&asked.tenant)?;
    // Hundreds of signatures to check and places to look up, for any stranger.
    let _turn = app.lost.take(client).await.map_err(ApiError::unavailable)?;
    let read = |text: &String| {
        BASE64
            .decode(text)
            .ok()
            .and_then(|bytes| SignedMessage::from_bytes(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("expected signed feed messages in base64url without padding"))
    };
    let messages = body.messages.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut taken = take_back::messages(&app.ctx, &messages).await.map_err(refused)?;
    let mut wanted = false;
    if let Some(manifest) = body.manifest.as_ref().map(read).transpose()? {
        wanted = take_back::is_wanted(&app.ctx, &manifest).await.map_err(refused)?;
        if let Some(segment) = body.segment {
            let bytes = BASE64.decode(segment).map_err(|_| ApiError::bad_request("expected a segment in base64url without padding"))?;
            let more = take_back::segment(&app.ctx, &manifest, &bytes).await.map_err(refused)?;
            (taken.taken, taken.known) = (taken.taken + more.taken, taken.known + more.known);
        }
    }
    Ok(Json(serde_json::json!({ "taken": taken.taken, "known": taken.known, "wanted": wanted })))
}

fn refused(e: TakeBackError) -> ApiError {
    match e {
        TakeBackError::Unavailable(e) => ApiError::unavailable(e),
        e => ApiError::bad_request(e.to_string()),
    }
}
