//! The log over HTTP: checkpoint and tiles as C2SP says, the bundle for whoever may export it.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::auth::Caller;
use super::{ApiError, AppState};
use crate::domain::human::Role;
use crate::log::tile::{Layer, TilePath, push_entry};
use crate::log::tree::TILE_WIDTH;

/// `GET /checkpoint`: the newest signed note.
pub async fn checkpoint(State(app): State<AppState>) -> Response {
    let note = app.ctx.writer.checkpoint().note.to_string();
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")], note).into_response()
}

/// `GET /tile/…`: a hash tile for anyone, an entry bundle for auditors (leaves name agents and, by pseudonym, humans).
pub async fn tile(State(app): State<AppState>, caller: Option<Caller>, Path(path): Path<String>) -> Result<Response, ApiError> {
    let path: TilePath = format!("tile/{path}").parse().map_err(|_| ApiError::not_found("no such tile"))?;
    let size = app.ctx.writer.checkpoint().tree.size;
    // Only what a released checkpoint covers.
    if !path.is_within(size) {
        return Err(ApiError::not_found("no such tile"));
    }
    let bytes = match path.layer() {
        Layer::Hashes(level) => {
            let stored = app.ctx.store.tile(level, path.index()).await.map_err(ApiError::unavailable)?;
            let stored = stored.ok_or_else(|| ApiError::not_found("no such tile"))?;
            // Stored as far as it has grown; a narrower one is its prefix.
            stored.get(..path.width() as usize * 32).map(<[u8]>::to_vec).ok_or_else(|| ApiError::not_found("no such tile"))?
        }
        Layer::Entries => {
            let caller = caller.ok_or_else(|| ApiError::unauthenticated("sign in to read entries"))?;
            if !caller.0.has(Role::Auditor) {
                return Err(ApiError::forbidden("entries need the role auditor"));
            }
            let leaves = app.ctx.store.leaves(path.index() * TILE_WIDTH, u32::try_from(path.width()).unwrap_or(0)).await.map_err(ApiError::unavailable)?;
            let mut bundle = Vec::new();
            for leaf in &leaves {
                push_entry(&mut bundle, leaf).map_err(ApiError::unavailable)?;
            }
            bundle
        }
    };
    // Full tiles never change.
    let cache = if path.width() < TILE_WIDTH { "no-cache" } else { "public, max-age=31536000, immutable" };
    let cache = if path.layer() == Layer::Entries { "private, no-cache" } else { cache };
    Ok(([(header::CONTENT_TYPE, "application/octet-stream"), (header::CACHE_CONTROL, cache)], bytes).into_response())
}

/// `GET /v1/log/bundle`: the whole log in one file that replays offline.
pub async fn bundle(State(app): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    if !caller.0.has(Role::Auditor) {
        return Err(ApiError::forbidden("an export needs the role auditor"));
    }
    let bytes = app.export().await.map_err(ApiError::unavailable)?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar"), (header::CACHE_CONTROL, "no-store")], bytes).into_response())
}
