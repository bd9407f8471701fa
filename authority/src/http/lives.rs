//! The life of an agent: shown, its next key, suspended, resumed, retired; and the delegations that a resume brings back.

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::ids::{AgentId, DelegationId, Key};
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState, delegations};
use crate::domain::delegation::Delegation;
use crate::usecase::confirm_delegation::{self, ConfirmError};
use crate::usecase::resume_agent::{self, ResumeError};
use crate::usecase::rotate_key::{self, RotateError, Rotation};
use crate::usecase::show_agent;
use crate::usecase::stop_agent::{self, StopError, Stopped};

/// Why; only its salted hash stands in the log.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReasonBody {
    reason: String,
}

/// The next key, the challenge drawn, and its signature by that key.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateBody {
    key: Key,
    challenge: String,
    signature: String,
    /// How long the keys of now go on, in milliseconds; 0 revokes them at once.
    overlap_ms: u64,
}

/// `{}`
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyBody {}

/// `GET /v1/agents/{id}`: state, keys, and what waits for a confirmation.
pub async fn show(State(app): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = agent_id(&id)?;
    let view = show_agent::show(&app.ctx, &caller.0, id).await.map_err(ApiError::unavailable)?;
    let view = view.ok_or_else(|| ApiError::not_found(format!("no agent {id} of yours")))?;
    let keys: Vec<_> = view.keys.iter().map(|k| json!({ "key": k.key, "state": k.state, "added_ms": k.added, "ends_ms": k.ends })).collect();
    let a = &view.agent;
    Ok(Json(json!({
        "agent": a.id, "name": a.name, "owner": a.owner, "state": a.state, "revoked": view.is_killed() && a.state == crate::domain::agent::AgentState::Active,
        "generation": view.generation, "created_ms": a.created, "stopped_by": a.stopped_by, "keys": keys, "waiting": waiting(&view.waiting),
    })))
}

/// `POST /v1/agents/{id}/keys`: the next key of an agent of the caller's.
pub async fn rotate(State(app): State<AppState>, caller: Caller, Path(id): Path<String>, Body(body): Body<RotateBody>) -> Result<Json<Value>, ApiError> {
    let (mut nonce, mut signature) = ([0; 32], [0; 64]);
    hex::decode_to_slice(&body.challenge, &mut nonce).map_err(|_| ApiError::bad_request("expected a challenge of 32 bytes in hex"))?;
    hex::decode_to_slice(&body.signature, &mut signature).map_err(|_| ApiError::bad_request("expected a signature of 64 bytes in hex"))?;
    let asked = Rotation { agent: agent_id(&id)?, key: body.key, nonce, signature, overlap_ms: body.overlap_ms };
    let rotated = rotate_key::rotate(&app.ctx, &caller.0, &asked).await.map_err(|e| match e {
        RotateError::Forbidden | RotateError::Possession(_) => ApiError::forbidden(e.to_string()),
        RotateError::Overlap(_) => ApiError::bad_request(e.to_string()),
        RotateError::Retired | RotateError::TooMany | RotateError::KeyTaken(_) => ApiError::conflict(e.to_string()),
        RotateError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        RotateError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let replaces: Vec<_> = rotated.replaces.iter().map(|r| json!({ "key": r.key, "until_ms": r.until })).collect();
    let card = rotated.card.map(|c| BASE64.encode(c.to_bytes()));
    Ok(Json(json!({ "agent": asked.agent, "key": asked.key, "replaces": replaces, "card": card, "leaf_index": rotated.leaf })))
}

/// `POST /v1/agents/{id}/suspend`: stopped until it is resumed.
pub async fn suspend(State(app): State<AppState>, caller: Caller, Path(id): Path<String>, Body(body): Body<ReasonBody>) -> Result<Json<Value>, ApiError> {
    let id = agent_id(&id)?;
    stopped(id, "suspended", stop_agent::suspend(&app.ctx, &caller.0, id, body.reason).await)
}

/// `POST /v1/agents/{id}/retire`: stopped for ever, its keys revoked.
pub async fn retire(State(app): State<AppState>, caller: Caller, Path(id): Path<String>, Body(body): Body<ReasonBody>) -> Result<Json<Value>, ApiError> {
    let id = agent_id(&id)?;
    stopped(id, "retired", stop_agent::retire(&app.ctx, &caller.0, id, body.reason).await)
}

/// `POST /v1/agents/{id}/resume`: active again. Lists the delegations that wait for their delegators.
pub async fn resume(State(app): State<AppState>, caller: Caller, Path(id): Path<String>, Body(body): Body<ReasonBody>) -> Result<Json<Value>, ApiError> {
    let id = agent_id(&id)?;
    let resumed = resume_agent::resume(&app.ctx, &caller.0, id, body.reason).await.map_err(|e| match e {
        ResumeError::Forbidden | ResumeError::NotTheirStop => ApiError::forbidden(e.to_string()),
        ResumeError::Unknown(_) => ApiError::not_found(e.to_string()),
        ResumeError::Active | ResumeError::Retired => ApiError::conflict(e.to_string()),
        ResumeError::Reason(_) => ApiError::bad_request(e.to_string()),
        ResumeError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        ResumeError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let waiting = waiting(&resumed.waiting);
    Ok(Json(json!({ "agent": id, "state": "active", "generation": resumed.generation, "leaf_index": resumed.leaf, "waiting": waiting })))
}

/// `POST /v1/delegations/{id}/confirm`: what was killed lives again, as its next version.
pub async fn confirm(
    State(app): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Body(EmptyBody {}): Body<EmptyBody>,
) -> Result<Json<Value>, ApiError> {
    let id: DelegationId = id.parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
    let confirmed = confirm_delegation::confirm(&app.ctx, &caller.0, id).await.map_err(|e| match e {
        ConfirmError::Forbidden => ApiError::forbidden(e.to_string()),
        ConfirmError::Live | ConfirmError::Over | ConfirmError::AgentStopped => ApiError::conflict(e.to_string()),
        ConfirmError::Grant(e) => delegations::refused(e),
    })?;
    Ok(Json(json!({ "delegation": id, "version": confirmed.version, "summary": confirmed.text, "leaf_index": confirmed.leaf })))
}

fn stopped(id: AgentId, state: &str, done: Result<Stopped, StopError>) -> Result<Json<Value>, ApiError> {
    let done = done.map_err(|e| match e {
        StopError::Forbidden => ApiError::forbidden(e.to_string()),
        StopError::Unknown(_) => ApiError::not_found(e.to_string()),
        StopError::Already(_) => ApiError::conflict(e.to_string()),
        StopError::Reason(_) => ApiError::bad_request(e.to_string()),
        StopError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        StopError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    Ok(Json(json!({ "agent": id, "state": state, "generation": done.generation, "feed_seq": done.feed_seq, "leaf_index": done.leaf })))
}

fn waiting(all: &[Delegation]) -> Vec<Value> {
    all.iter().map(|d| json!({ "delegation": d.id, "human": d.human, "not_after_ms": d.terms.not_after })).collect()
}

fn agent_id(text: &str) -> Result<AgentId, ApiError> {
    text.parse().map_err(|e| ApiError::bad_request(format!("{e}")))
}
