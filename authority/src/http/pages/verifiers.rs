//! Who checks tokens, and how far each has heard.

use askama::Template;
use axum::extract::State;

use super::{ApiError, Frame, Page, Visitor, page};
use crate::http::AppState;
use crate::usecase::watched::{self, State as Hears, Watched, WatchedError};

#[derive(Template)]
#[template(path = "verifiers.html")]
struct Verifiers {
    frame: Frame,
    head: u64,
    anonymous: usize,
    rows: Vec<Row>,
}

struct Row {
    audience: String,
    id: String,
    state: &'static str,
    class: &'static str,
    mode: String,
    applied: String,
    heard: String,
}

/// `GET /verifiers`
pub async fn list(State(app): State<AppState>, visitor: Visitor) -> Page {
    let all = watched::watched(&app.ctx, &visitor.by).await.map_err(|e| match e {
        WatchedError::Forbidden => ApiError::forbidden(e.to_string()),
        WatchedError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let rows = all.iter().map(|w| row(&app, w)).collect();
    let anonymous = app.ctx.watch.anonymous_streams();
    page(&Verifiers { frame: visitor.frame("Verifiers", "/verifiers"), head: app.ctx.feed.head().seq, anonymous, rows })
}

fn row(app: &AppState, w: &Watched) -> Row {
    let (state, class) = match w.state(&app.ctx) {
        Hears::Current => ("current", "good"),
        Hears::Behind => ("behind", "fair"),
        Hears::Silent => ("silent", "bad"),
        Hears::NeverSeen => ("never seen", "bad"),
    };
    let newest = w.runs.first();
    let seen = newest.and_then(|h| h.seen.as_ref());
    let mode = newest.map_or_else(String::new, |h| match h.mode.bound_ms() {
        Some(ms) => format!("{}, {ms} ms", h.mode.word()),
        None => "best effort".to_owned(),
    });
    Row {
        audience: w.verifier.audience.to_string(),
        id: w.verifier.id.to_string(),
        state,
        class,
        mode,
        applied: seen.map_or_else(String::new, |s| s.ack.seq.to_string()),
        heard: seen.map_or_else(String::new, |s| format!("{} ms ago", app.ctx.now().0.saturating_sub(s.acked.0))),
    }
}
