//! Whether the authority lives and can work, and who is asking.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::AppState;
use super::auth::Caller;
use crate::usecase::parts::{Condition, Part, parts};

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// `GET /readyz`: each part by name, `ok`, `degraded` or `failed`. 503 if one has failed: the store does not answer, the writer has
/// ended, no heartbeat of this moment can be signed, or there are no keys to take something back with. What is degraded works and
/// promises less than it could, or soon will; `warnings` are its sentences.
pub async fn ready(State(app): State<AppState>) -> (StatusCode, Json<Value>) {
    let ctx = &app.ctx;
    // With a nonce of our own: many who ask at once cost one beat.
    let (head, beaten) = tokio::join!(ctx.store.head(), ctx.feed.answer(ctx.random::<16>().to_vec()));
    let kind = if ctx.store.shared().is_some() { "postgres" } else { "sqlite" };
    let failed = |says: &str| Some((Condition::Failed, says.to_owned()));
    let wrong = match &head {
        Err(e) => {
            // It may name machines: for our log.
            tracing::error!(error = %e, "readyz.database");
            failed("the database does not answer")
        }
        Ok(_) if !ctx.writer.is_running() => failed("the writer has ended: this process has to be started anew"),
        Ok(_) => None,
    };
    let mut all = vec![Part::new("database", wrong, json!({ "kind": kind }))];
    let mut others = parts(ctx);
    if let Err(e) = beaten {
        tracing::error!(error = %e, "readyz.heartbeat");
        let beat = others.iter_mut().find(|p| p.name == "heartbeat");
        beat.into_iter().for_each(|p| {
            (p.condition, p.says) = (Condition::Failed, Some("no heartbeat can be signed: verifiers turn stale and deny".to_owned()));
        });
    }
    all.append(&mut others);
    all.push(provider(&app));
    let ok = all.iter().all(|p| p.condition != Condition::Failed);
    let warnings: Vec<&String> = all.iter().filter_map(|p| p.says.as_ref()).collect();
    let shown: Map<String, Value> = all.iter().map(|p| (p.name.to_owned(), p.shown())).collect();
    let mut answer = json!({ "ok": ok, "parts": shown, "warnings": warnings });
    if let (Ok(head), Some(answer)) = (head, answer.as_object_mut()) {
        answer.insert("tree_size".to_owned(), head.tree.size.into());
        answer.insert("feed_seq".to_owned(), head.feed.seq.into());
    }
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(answer))
}

/// Whether people can sign in. Nothing else waits for that.
pub(super) fn provider(app: &AppState) -> Part {
    let says = |_| (Condition::Degraded, "the OpenID provider does not answer: nobody can sign in".to_owned());
    Part::new("provider", app.oidc.provider().why_not().map(says), json!({}))
}

/// `GET /v1/me`: who is signed in.
pub async fn me(caller: Caller) -> Json<Value> {
    use crate::domain::principal::Principal;
    Json(match caller.0 {
        Principal::Human { id, roles, auth_time, .. } => json!({ "human": id, "roles": roles, "auth_time_ms": auth_time }),
        other => json!({ "principal": other.label() }),
    })
}
