//! The log's newest leaves, and how to check them without us.

use askama::Template;
use axum::extract::{Query, State};

use super::{ApiError, Frame, Page, Visitor, page};
use crate::http::AppState;
use crate::log::event::Event;
use crate::usecase::events::{self, Entry, EventsError};

#[derive(Template)]
#[template(path = "events.html")]
struct Events<'a> {
    frame: Frame,
    origin: String,
    size: u64,
    root: String,
    rows: Vec<Row>,
    older: Option<u64>,
    authority: &'a str,
}

struct Row {
    index: u64,
    kind: &'static str,
    says: String,
    at: String,
    hash: String,
}

/// From where on.
#[derive(serde::Deserialize)]
pub struct From {
    #[serde(default)]
    before: Option<u64>,
}

/// `GET /events`
pub async fn list(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<From>) -> Page {
    let stretch = events::events(&app.ctx, &visitor.by, asked.before).await.map_err(|e| match e {
        EventsError::Forbidden => ApiError::forbidden(e.to_string()),
        EventsError::Unavailable(e) => ApiError::unavailable(e),
    })?;
    let older = stretch.entries.last().map(|e| e.index).filter(|first| *first > 0);
    page(&Events {
        frame: visitor.frame("Events", "/events"),
        origin: app.origin.to_string(),
        size: stretch.tree.size,
        root: hex::encode(stretch.tree.root),
        rows: stretch.entries.iter().map(row).collect(),
        older,
        authority: &app.authority,
    })
}

fn row(e: &Entry) -> Row {
    Row { index: e.index, kind: e.event.kind(), says: says(&e.event), at: e.at.to_string(), hash: hex::encode(e.hash) }
}

/// Whom it is about: pseudonyms and ids, as the leaf has them.
fn says(event: &Event) -> String {
    match event {
        Event::KeyListRecorded(e) => format!("key list {}", e.version),
        Event::SignIn(e) => format!("{}{}", e.human, if e.first { ", for the first time" } else { "" }),
        Event::Agent(e) => format!("{} of {}", e.agent, e.owner),
        Event::AgentKey(e) => format!("{} has key {} by {}", e.agent, e.key, e.by),
        Event::AgentState(e) => format!("{} is {} by {}", e.agent, e.state.word(), e.by),
        Event::Delegation(e) => format!("{} from {} to {}", e.delegation, e.human, e.agent),
        Event::Issue(e) => format!("{} under {}", e.tid, e.delegation),
        Event::Revoke(e) => format!("by {}{}", e.by, e.delegation.map_or_else(String::new, |d| format!(", {d}"))),
        Event::Verifier(e) => format!("{} for {} by {}", e.verifier, e.service, e.by),
        Event::Receipt(e) => format!("from {}", e.verifier),
        Event::Denials(e) => format!("from {}", e.verifier),
        Event::EpochStart(e) => format!("epoch {} by {}", e.epoch, e.by),
        Event::Recovered(e) => format!("{} goes on from {} by {}", e.origin, e.previous, e.by),
        Event::VerifierRetired(e) => format!("{} by {}", e.verifier, e.by),
        Event::Coverage(e) => {
            format!("of leaf {}: {} confirmed, {} fenced, {} not covered after {} ms", e.revocation, e.confirmed, e.fenced, e.not_covered, e.waited_ms)
        }
        Event::Canary(e) => format!("{} by {}", e.human, e.by),
        Event::Drill(e) => format!("{} confirmed, {} fenced, {} not covered", e.confirmed, e.fenced, e.not_covered),
    }
}
