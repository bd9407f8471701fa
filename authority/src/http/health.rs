//! Whether the authority lives and can work, and who is asking.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::auth::Caller;
use super::{ApiError, AppState};

/// `GET /`: where a browser ends up after signing in.
pub async fn root(State(app): State<AppState>, caller: Option<Caller>) -> String {
    let who = caller.map_or_else(|| "Nobody is signed in: /login".to_owned(), |c| format!("Signed in as {}.", c.0.label()));
    format!("Procura, authority of tenant {}.\n{who}\n", app.ctx.tenant)
}

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// `GET /readyz`: the store answers, the writer runs, and there are keys to take something back with. Warns of keys that end.
pub async fn ready(State(app): State<AppState>) -> Result<Json<Value>, ApiError> {
    let head = app.ctx.store.head().await.map_err(ApiError::unavailable)?;
    if !app.ctx.writer.is_running() {
        return Err(ApiError::unavailable("the writer has ended"));
    }
    let keys = app.ctx.key_warnings();
    if keys.cannot_take_back {
        return Err(ApiError::unavailable(keys.sentences.join("; ")));
    }
    Ok(Json(json!({ "ok": true, "tree_size": head.tree.size, "feed_seq": head.feed.seq, "warnings": keys.sentences })))
}

/// `GET /v1/me`: who is signed in.
pub async fn me(caller: Caller) -> Json<Value> {
    use crate::domain::principal::Principal;
    Json(match caller.0 {
        Principal::Human { id, roles, auth_time, .. } => json!({ "human": id, "roles": roles, "auth_time_ms": auth_time }),
        other => json!({ "principal": other.label() }),
    })
}
