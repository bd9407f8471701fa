//! The keys: the signed list for verifiers, the log's keys for everybody's tools. Served, never trusted by themselves.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::key_list::KeyUse;
use serde_json::{Value, json};

use super::{ApiError, AppState};
use crate::log::checkpoint::Vkey;

/// `GET /v1/keys`.
pub async fn list(State(app): State<AppState>) -> Result<Json<Value>, ApiError> {
    let stored = app.ctx.store.key_list().await.map_err(ApiError::unavailable)?;
    let (version, signed) = stored.ok_or_else(|| ApiError::unavailable("no key list"))?;
    let origin = &app.origin;
    let vkeys: Vec<_> = app.ctx.keys.of(KeyUse::Log).map(|k| Vkey { origin: origin.clone(), key: k.key }.to_string()).collect();
    Ok(Json(json!({ "version": version, "key_list": BASE64.encode(signed), "log_vkeys": vkeys })))
}
