//! Revocations: taking back, and the kill switch.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::usecase::revoke::{self, RevokeError, Target};

/// What, by id where there are several, and why.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    what: String,
    #[serde(default)]
    id: Option<String>,
    reason: String,
}

/// `POST /v1/revocations`: durable before it is answered, on its way to every verifier right after.
pub async fn create(State(app): State<AppState>, caller: Caller, Body(body): Body<CreateBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    if body.reason.is_empty() || body.reason.len() > 500 {
        return Err(ApiError::bad_request("expected a reason of 1 to 500 bytes"));
    }
    let target = target(&body.what, body.id.as_deref())?;
    let revoked = revoke::revoke(&app.ctx, &caller.0, target, &body.reason).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(json!({ "feed_seq": revoked.feed_seq, "leaf_index": revoked.leaf_index, "committed_us": revoked.committed.0 }))))
}

fn target(what: &str, id: Option<&str>) -> Result<Target, ApiError> {
    let id = || id.ok_or_else(|| ApiError::bad_request(format!("expected the id of the {what}")));
    let bad = |e: &dyn std::fmt::Display| ApiError::bad_request(e.to_string());
    Ok(match what {
        "token" => Target::Token(id()?.parse().map_err(|e| bad(&e))?),
        "delegation" => Target::Delegation(id()?.parse().map_err(|e| bad(&e))?),
        "agent" => Target::Agent(id()?.parse().map_err(|e| bad(&e))?),
        "human" => Target::Human(id()?.parse().map_err(|e| bad(&e))?),
        "key" => Target::Key(id()?.parse().map_err(|e| bad(&e))?),
        "tenant" => Target::Tenant,
        "all" => Target::All,
        _ => return Err(ApiError::bad_request("expected `what` to be token, delegation, agent, human, key, tenant or all")),
    })
}

fn refused(e: RevokeError) -> ApiError {
    match e {
        RevokeError::Forbidden => ApiError::forbidden(e.to_string()),
        RevokeError::Unknown => ApiError::not_found(e.to_string()),
        RevokeError::Unavailable(_) => ApiError::unavailable(e),
    }
}
