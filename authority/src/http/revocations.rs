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
    if body.reason.is_empty() {
        return Err(ApiError::bad_request("expected a reason"));
    }
    let target = target(&body.what, body.id.as_deref())?;
    // The kill ends sessions in its own commit (P5), which stands though whoever asked hangs up.
    let revoked = revoke::revoke(&app.ctx, &caller.0, target, Some(body.reason), None).await.map_err(refused)?;
    Ok((StatusCode::CREATED, Json(json!({ "feed_seq": revoked.feed_seq, "leaf_index": revoked.leaf, "committed_us": revoked.committed.map(|c| c.0) }))))
}

fn target(what: &str, id: Option<&str>) -> Result<Target, ApiError> {
    let id = || id.ok_or_else(|| ApiError::bad_request(format!("expected the id of the {what}")));
    let bad = |e: &dyn std::fmt::Display| ApiError::bad_request(e.to_string());
    Ok(match what {
        "token" => Target::Token(id()?.parse().map_err(|e| bad(&e))?),
        "delegation" => Target::Delegation(id()?.parse().map_err(|e| bad(&e))?),
        "agent" => Target::Agent(id()?.parse().map_err(|e| bad(&e))?),
        "human" => Target::Human(id()?.parse().map_err(|e| bad(&e))?),
        "key" => Target::HolderKey(id()?.parse().map_err(|e| bad(&e))?),
        "tenant" => Target::Tenant,
        "all" => Target::Everything,
        _ => return Err(ApiError::bad_request("expected `what` to be token, delegation, agent, human, key, tenant or all")),
    })
}

fn refused(e: RevokeError) -> ApiError {
    match e {
        RevokeError::Forbidden => ApiError::forbidden(e.to_string()),
        RevokeError::Unknown => ApiError::not_found(e.to_string()),
        RevokeError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        RevokeError::Reason(_) => ApiError::bad_request(e.to_string()),
        RevokeError::OtherRequest(_) => ApiError::conflict(e.to_string()),
        RevokeError::Unavailable(e) => ApiError::unavailable(e),
    }
}
