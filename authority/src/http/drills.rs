//! Drills: the kill switch, tried.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState, revocations};
use crate::usecase::drill::{self, DrillError};

/// How long to wait for verifiers, in milliseconds; a second if absent.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    #[serde(default)]
    wait_ms: Option<u64>,
}

/// `POST /v1/drills`: answered when everyone has confirmed or the wait is over, with the record in the log.
pub async fn create(State(app): State<AppState>, caller: Caller, Body(body): Body<CreateBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let patience = revocations::patience(body.wait_ms.or(Some(1_000)))?.unwrap_or_default();
    // A task of its own: a drill that was begun is recorded, though whoever asked hangs up.
    let done = tokio::spawn(async move { drill::drill(&app.ctx, &caller.0, patience).await });
    let d = done.await.map_err(ApiError::unavailable)?.map_err(|e| match e {
        DrillError::Forbidden => ApiError::forbidden(e.to_string()),
        DrillError::NameTaken | DrillError::Canary(_) => ApiError::conflict(e.to_string()),
        DrillError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        DrillError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let answer = json!({
        "delegation": d.delegation, "token": d.tid, "feed_seq": d.revoked.feed_seq, "leaf_index": d.revoked.leaf,
        "coverage": revocations::describe(&d.coverage),
    });
    Ok((StatusCode::CREATED, Json(answer)))
}
