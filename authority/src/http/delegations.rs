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
use crate::usecase::inspect::{self, Standing};

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

/// `GET /v1/delegations`: what the caller has granted, newest first.
pub async fn list(State(app): State<AppState>, caller: Caller) -> Result<Json<Value>, ApiError> {
    let views = inspect::delegations_of(&app.ctx, &caller.0).await.map_err(ApiError::unavailable)?;
    let views: Vec<_> = views
        .iter()
        .map(|v| {
            let d = &v.delegation;
            json!({
                "delegation": d.id, "agent": d.agent, "agent_name": v.agent.name, "standing": standing(v.standing),
                "summary": d.terms.summary(&v.agent.name), "not_after_ms": d.terms.not_after, "version": d.version,
            })
        })
        .collect();
    Ok(Json(json!({ "delegations": views })))
}

pub(super) fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Live => "live",
        Standing::Revoked(_) => "revoked",
        Standing::Killed(_) => "killed",
        Standing::Ended(_) => "ended",
    }
}

pub(super) fn refused(e: DelegateError) -> ApiError {
    match e {
        DelegateError::Terms(_) | DelegateError::Ttl { .. } => ApiError::bad_request(e.to_string()),
        DelegateError::Beyond(_) | DelegateError::NotHuman => ApiError::forbidden(e.to_string()),
        DelegateError::NoAgent(_) => ApiError::not_found(e.to_string()),
        DelegateError::OtherRequest(_) => ApiError::conflict(e.to_string()),
        DelegateError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        DelegateError::Unavailable(e) => ApiError::unavailable(e),
    }
}
