//! Revocations: taking back, and the kill switch.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::log::event::Standing;
use crate::usecase::coverage::{self, Coverage, Standpoint};
use crate::usecase::revoke::{self, RevokeError, Target};

/// What, by id where there are several, and why.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    what: String,
    #[serde(default)]
    id: Option<String>,
    reason: String,
    /// How long to wait for verifiers, in milliseconds; not at all if absent.
    #[serde(default)]
    wait_ms: Option<u64>,
}

/// `POST /v1/revocations`: durable before it is answered, on its way to every verifier right after.
pub async fn create(State(app): State<AppState>, caller: Caller, Body(body): Body<CreateBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    if body.reason.trim().is_empty() {
        return Err(ApiError::bad_request("expected a reason"));
    }
    let patience = patience(body.wait_ms)?;
    let target = target(&body.what, body.id.as_deref())?;
    // The kill ends sessions in its own commit (P5), which stands though whoever asked hangs up.
    let (revoked, covered) = match patience {
        None => (revoke::revoke(&app.ctx, &caller.0, target, Some(body.reason), None).await.map_err(refused)?, None),
        Some(patience) => {
            let waited = coverage::revoke_and_wait(&app.ctx, &caller.0, target, Some(body.reason), None, patience).await;
            waited.map(|(revoked, covered)| (revoked, Some(covered))).map_err(refused)?
        }
    };
    let mut answer = json!({ "feed_seq": revoked.feed_seq, "leaf_index": revoked.leaf, "committed_us": revoked.committed.map(|c| c.0) });
    if let (Some(covered), Some(answer)) = (covered, answer.as_object_mut()) {
        // The kill stands, whatever is known of those who are to obey it.
        let told = covered.map_or_else(|_| json!({ "unavailable": true }), |c| describe(&c));
        answer.insert("coverage".to_owned(), told);
    }
    Ok((StatusCode::CREATED, Json(answer)))
}

/// How long somebody wants to wait.
pub(super) fn patience(wait_ms: Option<u64>) -> Result<Option<Duration>, ApiError> {
    match wait_ms.map(Duration::from_millis) {
        Some(long) if long > coverage::MAX_WAIT => Err(ApiError::bad_request("expected to wait at most 15000 ms")),
        wait => Ok(wait),
    }
}

/// The answer by name.
pub(super) fn describe(c: &Coverage) -> Value {
    let (confirmed, fenced, not_covered) = c.counts();
    let run = |s: &Standpoint| {
        let mut row = json!({ "verifier": s.verifier, "audience": s.audience, "run": s.run.map(hex::encode) });
        let more = match &s.standing {
            Standing::Confirmed { after_ms, .. } => json!({ "state": "confirmed", "after_ms": after_ms }),
            Standing::Fenced { bound_ms } => json!({ "state": "fenced", "bound_ms": bound_ms }),
            Standing::NotCovered { why } => json!({ "state": "not_covered", "why": why }),
        };
        if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
            row.extend(more);
        }
        row
    };
    json!({
        "covered": c.is_whole(), "waited_ms": c.waited_ms, "confirmed": confirmed, "fenced": fenced, "not_covered": not_covered,
        "anonymous": c.anonymous, "slowest_ms": c.slowest_ms(), "leaf_index": c.leaf, "verifiers": c.runs.iter().map(run).collect::<Vec<_>>(),
    })
}

pub(super) fn target(what: &str, id: Option<&str>) -> Result<Target, ApiError> {
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

pub(super) fn refused(e: RevokeError) -> ApiError {
    match e {
        RevokeError::Forbidden => ApiError::forbidden(e.to_string()),
        RevokeError::Unknown => ApiError::not_found(e.to_string()),
        RevokeError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        RevokeError::Reason(_) => ApiError::bad_request(e.to_string()),
        RevokeError::OtherRequest(_) => ApiError::conflict(e.to_string()),
        RevokeError::Unavailable(e) => ApiError::unavailable(e),
    }
}
