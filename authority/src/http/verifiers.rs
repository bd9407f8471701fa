//! Verifiers: enrolment, and what they deliver.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::claims::Audience;
use procura_verifier::ids::{Key, VerifierId};
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::usecase::enroll_verifier::{self, EnrollError};
use crate::usecase::receipts::{self, ReceiptError, Record};
use crate::usecase::retire_verifier::{self, RetireError};
use crate::usecase::watched::{self, Watched, WatchedError};
use crate::watch::Heard;

/// For which service and instance, and the key that will sign its receipts.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolBody {
    audience: Audience,
    key: Key,
    /// The id that it had before a restored backup lost its enrolment.
    #[serde(default)]
    verifier: Option<VerifierId>,
}

/// Signed receipts and counts, in the order of their numbers.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsBody {
    receipts: Vec<String>,
    denials: Vec<String>,
}

/// `POST /v1/verifiers`.
pub async fn enrol(State(app): State<AppState>, caller: Caller, Body(body): Body<EnrolBody>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let enrolled = match body.verifier {
        None => enroll_verifier::enroll_verifier(&app.ctx, &caller.0, body.audience, body.key).await,
        Some(id) => enroll_verifier::enroll_again(&app.ctx, &caller.0, id, body.audience, body.key).await,
    };
    let enrolled = enrolled.map_err(|e| match e {
        EnrollError::Forbidden => ApiError::forbidden(e.to_string()),
        EnrollError::AudienceTaken(_) | EnrollError::KeyTaken(_) | EnrollError::IdTaken(_) => ApiError::conflict(e.to_string()),
        EnrollError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        EnrollError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    Ok((StatusCode::CREATED, Json(json!({ "verifier": enrolled.verifier, "leaf_index": enrolled.leaf }))))
}

/// `GET /v1/verifiers`: who is enrolled, who listens, and how far each has applied the feed.
pub async fn list(State(app): State<AppState>, caller: Caller) -> Result<Json<Value>, ApiError> {
    let all = watched::watched(&app.ctx, &caller.0).await.map_err(|e| match e {
        WatchedError::Forbidden => ApiError::forbidden(e.to_string()),
        WatchedError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let (now, head) = (app.ctx.clock.boot(), app.ctx.feed.head());
    let run = |h: &Heard| {
        json!({
            "run": hex::encode(h.run), "mode": h.mode.word(), "bound_ms": h.mode.bound_ms(), "streams": h.streams,
            "path": if h.streams > 0 || h.seen.as_ref().is_some_and(|s| s.streams) { "stream" } else { "acknowledgements" },
            "heard_ms_ago": now.micros_since(h.heard) / 1000,
            "acknowledged": h.seen.as_ref().map(|s| json!({
                "epoch": s.ack.epoch, "seq": s.ack.seq, "fresh_age_ms": s.ack.fresh_age_ms, "at_ms": s.acked, "since_ms": s.since,
            })),
        })
    };
    let row = |w: &Watched| {
        json!({
            "verifier": w.verifier.id, "audience": w.verifier.audience, "enrolled_ms": w.verifier.enrolled, "state": w.state(&app.ctx).word(),
            "runs": w.runs.iter().map(run).collect::<Vec<_>>(),
        })
    };
    Ok(Json(json!({
        "head": { "epoch": head.epoch, "seq": head.seq }, "anonymous_streams": app.ctx.watch.anonymous_streams(),
        "verifiers": all.iter().map(row).collect::<Vec<_>>(),
    })))
}

/// Which, and why.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireBody {
    verifier: VerifierId,
    reason: String,
}

/// `POST /v1/verifiers/retire`: nothing that its key signs is taken any more.
pub async fn retire(State(app): State<AppState>, caller: Caller, Body(body): Body<RetireBody>) -> Result<Json<Value>, ApiError> {
    let leaf = retire_verifier::retire_verifier(&app.ctx, &caller.0, body.verifier, body.reason).await.map_err(|e| match e {
        RetireError::Forbidden => ApiError::forbidden(e.to_string()),
        RetireError::Unknown(_) => ApiError::not_found(e.to_string()),
        RetireError::Reason(_) => ApiError::bad_request(e.to_string()),
        RetireError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        RetireError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    Ok(Json(json!({ "verifier": body.verifier, "leaf_index": leaf })))
}

/// `POST /v1/receipts`: each signed by the verifier's enrolled key, so nobody else can deliver for it. Delivering twice is delivering once.
pub async fn receipts(State(app): State<AppState>, Body(body): Body<ReceiptsBody>) -> Result<Json<Value>, ApiError> {
    if body.receipts.len() > MAX_AT_ONCE || body.denials.len() > MAX_AT_ONCE {
        return Err(ApiError::bad_request("expected at most 64 receipts and 64 counts at once"));
    }
    let decode = |all: Vec<String>| {
        all.iter().map(|t| BASE64.decode(t)).collect::<Result<Vec<_>, _>>().map_err(|_| ApiError::bad_request("expected receipts in base64url without padding"))
    };
    let (signed, counts) = (decode(body.receipts)?, decode(body.denials)?);
    let records: Vec<_> = signed.iter().map(|r| Record::Receipt(r)).chain(counts.iter().map(|c| Record::Denials(c))).collect();
    let outcomes = receipts::take(&app.ctx, &records).await.map_err(refused)?;
    let leaves = outcomes.into_iter().collect::<Result<Vec<_>, _>>().map_err(refused)?;
    Ok(Json(json!({ "leaves": leaves })))
}

fn refused(e: ReceiptError) -> ApiError {
    match e {
        ReceiptError::NotEnrolled(_) | ReceiptError::Elsewhere => ApiError::forbidden(e.to_string()),
        ReceiptError::Malformed(_) | ReceiptError::TooLong(_) | ReceiptError::TooMany(_) => ApiError::bad_request(e.to_string()),
        ReceiptError::Gap(_) | ReceiptError::Conflict(_) => ApiError::conflict(e.to_string()),
        ReceiptError::Unavailable(e) => ApiError::unavailable(e),
    }
}

const MAX_AT_ONCE: usize = 64;
