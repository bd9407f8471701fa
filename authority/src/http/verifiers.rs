//! Verifiers: enrolment, and what they deliver.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::claims::Audience;
use procura_verifier::ids::Key;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::Body;
use super::{ApiError, AppState};
use crate::usecase::enroll_verifier::{self, EnrollError};
use crate::usecase::receipts::{self, ReceiptError, Record};

/// For which service and instance, and the key that will sign its receipts.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolBody {
    audience: Audience,
    key: Key,
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
    let enrolled = enroll_verifier::enroll_verifier(&app.ctx, &caller.0, body.audience, body.key).await.map_err(|e| match e {
        EnrollError::Forbidden => ApiError::forbidden(e.to_string()),
        EnrollError::AudienceTaken(_) | EnrollError::KeyTaken(_) => ApiError::conflict(e.to_string()),
        EnrollError::SignedOut(e) => ApiError::unauthenticated(e.to_string()),
        EnrollError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    Ok((StatusCode::CREATED, Json(json!({ "verifier": enrolled.verifier, "leaf_index": enrolled.leaf }))))
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
