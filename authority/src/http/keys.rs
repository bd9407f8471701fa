//! The keys: the signed list for verifiers, the log's keys for everybody's tools. Served, never trusted by themselves.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::key_list::{KeyUse, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::log::checkpoint::Vkey;
use crate::usecase::publish_keys::{self, PublishError};

/// `GET /v1/keys`.
pub async fn list(State(app): State<AppState>) -> Result<Json<Value>, ApiError> {
    let stored = app.ctx.store.key_list().await.map_err(ApiError::unavailable)?;
    let (version, signed) = stored.ok_or_else(|| ApiError::unavailable("no key list"))?;
    let origin = &app.origin;
    let vkeys: Vec<_> = app.ctx.keys.load().of(KeyUse::Log).map(|k| Vkey { origin: origin.clone(), key: k.key }.to_string()).collect();
    let keys = publish_keys::shown(&app.ctx);
    Ok(Json(json!({ "version": version, "key_list": BASE64.encode(signed), "log_vkeys": vkeys, "keys": keys })))
}

/// A list that enough anchors signed, and the problems that are meant.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishBody {
    key_list: String,
    #[serde(default)]
    force: Vec<String>,
}

/// `POST /v1/keys`: in force, and committed with its leaf, when it is answered. Verifiers hear of it with the next heartbeat.
pub async fn publish(State(app): State<AppState>, caller: Caller, Body(body): Body<PublishBody>) -> Result<Json<Value>, ApiError> {
    let malformed = |e: &dyn std::fmt::Display| ApiError::bad_request(format!("key list: {e}"));
    let bytes = BASE64.decode(&body.key_list).map_err(|_| malformed(&"expected base64url without padding"))?;
    let signed = UnverifiedKeyList::from_bytes(&bytes).map_err(|e| malformed(&e))?;
    let done = publish_keys::publish(&app.ctx, &caller.0, &signed, &body.force).await.map_err(refused)?;
    Ok(Json(json!({ "version": done.version, "hash": hex::encode(done.hash), "leaf_index": done.leaf })))
}

fn refused(e: PublishError) -> ApiError {
    match e {
        PublishError::Forbidden => ApiError::forbidden(e.to_string()),
        PublishError::KeyList(_) => ApiError::bad_request(e.to_string()),
        PublishError::Version { .. } | PublishError::Problems(_) => ApiError::conflict(e.to_string()),
        PublishError::Keys(e) => ApiError::unavailable(e),
        PublishError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        PublishError::Unavailable(e) => ApiError::unavailable(e),
    }
}
