//! What an agent gets for its key: tokens and cards.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::claims::Name;
use procura_verifier::ids::{DelegationId, Key};
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::body::Body;
use super::rates::{Door, Who};
use super::{ApiError, AppState};
use crate::agent_auth::{Assertion, AssertionError, claimed_agent, verify_assertion};
use crate::usecase::card::{self, CardError};
use crate::usecase::issue::{self, IssueError, Mint};

/// RFC 7523 §2.2, and the delegation to mint under.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MintBody {
    client_assertion_type: String,
    client_assertion: String,
    delegation: DelegationId,
    #[serde(default)]
    audiences: Vec<Name>,
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
pub async fn mint(State(app): State<AppState>, Body(body): Body<MintBody>) -> Result<Response, ApiError> {
    let (assertion, holder) = app.assertion(&body.client_assertion_type, &body.client_assertion).await?;
    let asked = Mint { delegation: body.delegation, holder, audiences: body.audiences, ttl_secs: body.ttl_secs };
    let issued = issue::issue(&app.ctx, &assertion, &asked).await.map_err(refused)?;
    Ok(unkept(json!({ "token": BASE64.encode(&issued.token), "tid": issued.tid, "expires_secs": issued.expires_secs, "leaf_index": issued.leaf })))
}

/// `POST /v1/card`: a fresh card for an active agent's living key.
pub async fn card(State(app): State<AppState>, Body(body): Body<CardBody>) -> Result<Response, ApiError> {
    let (assertion, holder) = app.assertion(&body.client_assertion_type, &body.client_assertion).await?;
    let card = card::card(&app.ctx, &assertion, holder).await.map_err(|e| match e {
        CardError::NotActive => ApiError::forbidden(e.to_string()),
        CardError::Revoked => ApiError::conflict(e.to_string()),
        CardError::Replayed => ApiError::unauthenticated(e.to_string()),
        CardError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    Ok(unkept(json!({ "card": BASE64.encode(card.to_bytes()), "expires_secs": card.claimed().expires_secs })))
}

/// An answer that no cache on the way may keep (RFC 6749 §5.1).
fn unkept(answer: Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

impl AppState {
    /// An agent's `private_key_jwt`, and which of the agent's living keys signed it. Single use is for the use case's commit.
    async fn assertion(&self, kind: &str, jwt: &str) -> Result<(Assertion, Key), ApiError> {
        if kind != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
            return Err(ApiError::bad_request("expected the client assertion type of RFC 7523"));
        }
        let refuse = |e: AssertionError| ApiError::unauthenticated(format!("client assertion: {e}"));
        let agent = claimed_agent(jwt).map_err(refuse)?;
        let keys = self.ctx.store.keys_of(agent).await.map_err(ApiError::unavailable)?;
        let mut refused = None;
        for key in keys.iter().filter(|k| k.holds_at(self.ctx.now())).map(|k| k.key) {
            match verify_assertion(jwt, &self.authority, &[key], self.ctx.now()) {
                Ok(assertion) => {
                    self.rates.take(Door::Mint, Who::Agent(assertion.agent), self.ctx.clock.boot())?;
                    return Ok((assertion, key));
                }
                Err(e) => refused = Some(e),
            }
        }
        // Whether an agent exists is not for those who cannot sign for it.
        Err(refused.map_or_else(|| ApiError::unauthenticated("client assertion: expected a signature by a living key of the agent"), refuse))
    }
}

fn refused(e: IssueError) -> ApiError {
    match e {
        IssueError::Replayed => ApiError::unauthenticated(e.to_string()),
        IssueError::NoDelegation(_) => ApiError::not_found(e.to_string()),
        IssueError::Revoked | IssueError::Ended(_) => ApiError::conflict(e.to_string()),
        IssueError::NotActive => ApiError::forbidden(e.to_string()),
        IssueError::Audience(_) | IssueError::Request => ApiError::bad_request(e.to_string()),
        IssueError::RootKeyRevoked => ApiError::unavailable_because(e.to_string()),
        IssueError::Unavailable(e) => ApiError::unavailable(e),
    }
}
