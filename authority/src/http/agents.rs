//! Agents: a challenge, then registration with the key that answered it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::claims::Name;
use procura_verifier::ids::Key;
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::usecase::register_agent::{self, RegisterError, Registration};

/// `{}`
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeBody {}

/// Name, key, the challenge drawn, and its signature by the key.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterBody {
    name: Name,
    key: Key,
    challenge: String,
    signature: String,
}

/// `POST /v1/agents/challenges`: 32 bytes to sign, good once, for five minutes, for this human.
pub async fn challenge(State(app): State<AppState>, caller: Caller, Body(ChallengeBody {}): Body<ChallengeBody>) -> Result<Json<Value>, ApiError> {
    let nonce = register_agent::challenge(&app.ctx, &caller.0).map_err(refused)?;
    Ok(Json(json!({ "challenge": hex::encode(nonce), "tenant": app.ctx.tenant })))
}

/// `POST /v1/agents`: registers an agent of the caller.
pub async fn register(State(app): State<AppState>, caller: Caller, Body(body): Body<RegisterBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (mut nonce, mut signature) = ([0; 32], [0; 64]);
    hex::decode_to_slice(&body.challenge, &mut nonce).map_err(|_| ApiError::bad_request("expected a challenge of 32 bytes in hex"))?;
    hex::decode_to_slice(&body.signature, &mut signature).map_err(|_| ApiError::bad_request("expected a signature of 64 bytes in hex"))?;
    let asked = Registration { name: body.name, key: body.key, nonce, signature };
    let registered = register_agent::register_agent(&app.ctx, &caller.0, &asked).await.map_err(refused)?;
    let answer = json!({ "agent": registered.agent, "card": BASE64.encode(registered.card.to_bytes()), "leaf_index": registered.leaf });
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `GET /v1/agents`: the caller's agents, by name.
pub async fn list(State(app): State<AppState>, caller: Caller) -> Result<Json<Value>, ApiError> {
    let owner = caller.0.human().ok_or_else(|| ApiError::forbidden("expected a person who is signed in"))?;
    let agents = app.ctx.store.agents_of(owner).await.map_err(ApiError::unavailable)?;
    let agents: Vec<_> = agents.iter().map(|a| json!({ "agent": a.id, "name": a.name, "state": a.state, "created_ms": a.created })).collect();
    Ok(Json(json!({ "agents": agents })))
}

pub(super) fn refused(e: RegisterError) -> ApiError {
    match e {
        RegisterError::NotHuman | RegisterError::Possession(_) => ApiError::forbidden(e.to_string()),
        RegisterError::NameTaken(_) | RegisterError::KeyTaken(_) => ApiError::conflict(e.to_string()),
        RegisterError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        RegisterError::Unavailable(e) => ApiError::unavailable(e),
    }
}
