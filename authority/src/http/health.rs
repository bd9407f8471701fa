//! Whether the authority lives and can work, and who is asking.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::auth::Caller;
use super::{ApiError, AppState};
use crate::store::shared::{Shared, Standby};

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// `GET /readyz`: the store answers, the writer runs, a heartbeat of this moment can be signed, and there are keys to take something back
/// with. `warnings` are of what works and promises less than it could, or soon will.
pub async fn ready(State(app): State<AppState>) -> Result<Json<Value>, ApiError> {
    let head = app.ctx.store.head().await.map_err(ApiError::unavailable)?;
    if !app.ctx.writer.is_running() {
        return Err(ApiError::unavailable("the writer has ended"));
    }
    let keys = app.ctx.key_warnings();
    if keys.cannot_take_back {
        return Err(ApiError::unavailable(keys.sentences.join("; ")));
    }
    // With a nonce of our own: many who ask at once cost one beat.
    app.ctx.feed.answer(app.ctx.random::<16>().to_vec()).await.map_err(ApiError::unavailable)?;
    let standby = app.ctx.store.shared().map(Shared::standby);
    let database = match standby {
        None => json!({ "kind": "sqlite" }),
        Some(Standby::None) => json!({ "kind": "postgres", "synchronous_standbys": 0 }),
        Some(Standby::Synchronous(n)) => json!({ "kind": "postgres", "synchronous_standbys": n }),
    };
    let mut warnings = keys.sentences;
    if standby == Some(Standby::None) {
        warnings.push("no synchronous standby: a failover of the database may lose what was answered".to_owned());
    }
    let feed = json!({ "heartbeats": true });
    Ok(Json(json!({ "ok": true, "tree_size": head.tree.size, "feed_seq": head.feed.seq, "database": database, "feed": feed, "warnings": warnings })))
}

/// `GET /v1/me`: who is signed in.
pub async fn me(caller: Caller) -> Json<Value> {
    use crate::domain::principal::Principal;
    Json(match caller.0 {
        Principal::Human { id, roles, auth_time, .. } => json!({ "human": id, "roles": roles, "auth_time_ms": auth_time }),
        other => json!({ "principal": other.label() }),
    })
}
