//! Delegations: a human grants.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use procura_verifier::claims::{Capability, DataClass, Hops, Name, Possession};
use procura_verifier::ids::{AgentId, UtcMillis};
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::domain::delegation::Terms;
use crate::usecase::delegate::{self, DelegateError};

/// What is granted; everything that is not said is the strict choice.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    agent: AgentId,
    audiences: Vec<Name>,
    capabilities: Vec<Capability>,
    ttl_secs: u64,
    #[serde(default)]
    not_after_ms: Option<UtcMillis>,
    #[serde(default)]
    depth: u8,
    #[serde(default)]
    class_max: Option<DataClass>,
}

/// `POST /v1/delegations`.
pub async fn create(State(app): State<AppState>, caller: Caller, Body(body): Body<CreateBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let terms = Terms {
        capabilities: body.capabilities,
        audiences: body.audiences,
        ttl_secs: body.ttl_secs,
        // As long as a token: a grant that is to last longer says so.
        not_after: body.not_after_ms.unwrap_or_else(|| app.ctx.clock.wall().plus(body.ttl_secs.saturating_mul(1000))),
        depth: body.depth,
        hops: Hops::Registered,
        possession: Possession::Proof,
        freshness_ms: 150,
        class_max: body.class_max.unwrap_or(DataClass::Restricted),
    };
    let not_after = terms.not_after;
    let granted = delegate::delegate(&app.ctx, &caller.0, body.agent, terms, None).await.map_err(refused)?;
    let answer = json!({ "delegation": granted.delegation, "summary": granted.text, "not_after_ms": not_after, "leaf_index": granted.leaf });
    Ok((StatusCode::CREATED, Json(answer)))
}

fn refused(e: DelegateError) -> ApiError {
    match e {
        DelegateError::Terms(_) | DelegateError::Ttl { .. } => ApiError::bad_request(e.to_string()),
        DelegateError::Beyond(_) | DelegateError::NotHuman => ApiError::forbidden(e.to_string()),
        DelegateError::NoAgent(_) => ApiError::not_found(e.to_string()),
        DelegateError::OtherRequest(_) => ApiError::conflict(e.to_string()),
        DelegateError::Unavailable(e) => ApiError::unavailable(e),
    }
}
