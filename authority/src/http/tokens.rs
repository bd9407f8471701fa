//! What an agent gets for its key: tokens and cards.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::ids::DelegationId;
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::body::Body;
use super::{ApiError, AppState};
use crate::agent_auth::{Assertion, claimed_agent, verify_assertion};
use crate::usecase::card::{self, CardError};
use crate::usecase::issue::{self, IssueError};

/// RFC 7523 §2.2, and the delegation to mint under.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MintBody {
    client_assertion_type: String,
    client_assertion: String,
    delegation: DelegationId,
    #[serde(default)]
    ttl_secs: Option<u64>,
}

/// RFC 7523 §2.2.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardBody {
    client_assertion_type: String,
    client_assertion: String,
}

/// `POST /v1/token`: a token, after its event is committed.
pub async fn mint(State(app): State<AppState>, Body(body): Body<MintBody>) -> Result<Json<Value>, ApiError> {
    let assertion = app.assertion(&body.client_assertion_type, &body.client_assertion).await?;
    let issued = issue::issue(&app.ctx, &assertion, body.delegation, body.ttl_secs).await.map_err(refused)?;
    // No caches of ours or anybody's keep it (RFC 6749 §5.1): `no-store` is on every answer of these routes.
    Ok(Json(json!({ "token": BASE64.encode(&issued.token), "tid": issued.tid, "expires_secs": issued.expires_secs, "leaf_index": issued.leaf_index })))
}

/// `POST /v1/card`: a fresh card for an active agent's living key.
pub async fn card(State(app): State<AppState>, Body(body): Body<CardBody>) -> Result<Json<Value>, ApiError> {
    let assertion = app.assertion(&body.client_assertion_type, &body.client_assertion).await?;
    let card = card::card(&app.ctx, &assertion).await.map_err(|e| match e {
        CardError::NotActive => ApiError::forbidden(e.to_string()),
        CardError::Spent => ApiError::unauthenticated(e.to_string()),
        CardError::Unavailable(_) => ApiError::unavailable(e),
    })?;
    Ok(Json(json!({ "card": BASE64.encode(card.to_bytes()), "expires_secs": card.claimed().expires_secs })))
}

impl AppState {
    /// An agent's `private_key_jwt`, verified under the living keys of the agent it names. Single use is for the use case's commit.
    async fn assertion(&self, kind: &str, jwt: &str) -> Result<Assertion, ApiError> {
        if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
            return Err(ApiError::bad_request("expected the client assertion type of RFC 7523"));
        }
        let refuse = |e: &dyn std::fmt::Display| ApiError::unauthenticated(format!("client assertion: {e}"));
        let agent = claimed_agent(jwt).map_err(|e| refuse(&e))?;
        let keys = crate::usecase::inspect::live_keys(&self.ctx, agent).await.map_err(ApiError::unavailable)?;
        verify_assertion(jwt, &self.authority, &keys, self.ctx.clock.wall()).map_err(|e| refuse(&e))
    }
}

fn refused(e: IssueError) -> ApiError {
    match e {
        IssueError::Spent => ApiError::unauthenticated(e.to_string()),
        IssueError::Unknown => ApiError::not_found(e.to_string()),
        IssueError::Revoked | IssueError::Ended => ApiError::conflict(e.to_string()),
        IssueError::NotActive => ApiError::forbidden(e.to_string()),
        IssueError::Ttl(_) => ApiError::bad_request(e.to_string()),
        IssueError::Unavailable(_) => ApiError::unavailable(e),
    }
}
