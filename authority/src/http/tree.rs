//! Delegations with what receipts have shown of them.

use axum::Json;
use axum::extract::{Path, State};
use procura_verifier::ids::DelegationId;
use serde_json::{Value, json};

use super::auth::Caller;
use super::{ApiError, AppState, delegations};
use crate::usecase::inspect::Standing;
use crate::usecase::tree::{self, Branch, Grown};

/// `GET /v1/delegations/tree`: the caller's newest delegations, at most 100, with tokens and links.
pub async fn all(State(app): State<AppState>, caller: Caller) -> Result<Json<Value>, ApiError> {
    let grown = tree::tree(&app.ctx, &caller.0).await.map_err(ApiError::unavailable)?;
    Ok(Json(json!({ "now_ms": app.ctx.now(), "delegations": grown.iter().map(describe).collect::<Vec<_>>() })))
}

/// `GET /v1/delegations/{id}`: one, for its delegator, the agent's owner, roles security and auditor.
pub async fn one(State(app): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id: DelegationId = id.parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
    let grown = tree::delegation(&app.ctx, &caller.0, id).await.map_err(ApiError::unavailable)?;
    let grown = grown.ok_or_else(|| ApiError::not_found(format!("no delegation {id} of yours")))?;
    let mut body = describe(&grown);
    let (d, terms) = (&grown.view.delegation, &grown.view.delegation.terms);
    if let (Some(body), Value::Object(more)) = (
        body.as_object_mut(),
        json!({
            "now_ms": app.ctx.now(), "capabilities": terms.capabilities, "audiences": terms.audiences, "ttl_secs": terms.ttl_secs, "depth": terms.depth,
            "hops": terms.hops, "possession": terms.possession, "freshness_ms": terms.freshness_ms, "class_max": terms.class_max, "generations": d.generations,
        }),
    ) {
        body.extend(more);
    }
    Ok(Json(body))
}

fn describe(grown: &Grown) -> Value {
    let (v, d) = (&grown.view, &grown.view.delegation);
    let since = match v.standing {
        Standing::Revoked(at) | Standing::Ended(at) => Some(at),
        Standing::Live | Standing::Killed(_) => None,
    };
    let last = grown.tokens.iter().map(|b| b.used.last).max();
    json!({
        "delegation": d.id, "human": d.human, "agent": d.agent, "agent_name": v.agent.name, "agent_state": v.agent.state,
        "standing": delegations::standing(v.standing), "since_ms": since, "summary": d.terms.summary(&v.agent.name), "version": d.version,
        "created_ms": d.created, "not_after_ms": d.terms.not_after, "last_used_ms": last,
        "tokens": grown.tokens.iter().map(branch).collect::<Vec<_>>(), "whole": grown.is_whole,
    })
}

fn branch(b: &Branch) -> Value {
    let u = &b.used;
    json!({
        "tid": u.tid, "lid": u.lid, "agent": u.agent, "holder": u.holder, "expires_secs": u.expires_secs, "allowed": u.allowed, "denied": u.denied,
        "last_used_ms": u.last, "leaf_index": u.leaf, "links": b.links.iter().map(branch).collect::<Vec<_>>(),
    })
}
