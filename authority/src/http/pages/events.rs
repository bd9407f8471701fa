//! The log's leaves, one with its proof, and how to check them without us.

use askama::Template;
use axum::extract::{Path, Query, State};

use super::{ApiError, Frame, Page, Visitor, page, stamp};
use crate::http::AppState;
use crate::log::event::Event;
use crate::usecase::events::{self, Entry, EventsError};
use crate::usecase::prove;

#[derive(Template)]
#[template(path = "events.html")]
struct Events<'a> {
    frame: Frame,
    origin: String,
    size: u64,
    root: String,
    rows: Vec<Row>,
    kinds: Vec<(&'static str, bool)>,
    older: Option<String>,
    authority: &'a str,
}

struct Row {
    index: u64,
    kind: &'static str,
    says: String,
    at: String,
}

#[derive(Template)]
#[template(path = "event.html")]
struct One<'a> {
    frame: Frame,
    row: Row,
    statement: String,
    hash: String,
    size: u64,
    root: String,
    path: Vec<String>,
    is_included: bool,
    signed_by: Option<String>,
    authority: &'a str,
    newer: Option<u64>,
    older: Option<u64>,
    board: Option<u64>,
}

/// From where on, and of which kind.
#[derive(serde::Deserialize)]
pub struct From {
    #[serde(default)]
    before: Option<u64>,
    #[serde(default)]
    kind: String,
}

/// `GET /events?before=&kind=`
pub async fn list(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<From>) -> Page {
    let kind = KINDS.into_iter().find(|k| *k == asked.kind);
    let (mut rows, mut before) = (Vec::new(), asked.before);
    let (mut tree, mut looked) = (None, 0);
    // Of one kind: so far as a page may take.
    let older = loop {
        let stretch = events::events(&app.ctx, &visitor.by, before).await.map_err(refused)?;
        rows.extend(stretch.entries.iter().filter(|e| kind.is_none_or(|k| e.event.kind() == k)).map(row));
        before = stretch.entries.last().map(|e| e.index).filter(|first| *first > 0);
        looked += stretch.entries.len();
        tree = tree.or(Some(stretch.tree));
        if before.is_none() || kind.is_none() || rows.len() >= events::MAX_AT_ONCE as usize || looked >= MAX_LOOKED {
            break before;
        }
    };
    let tree = tree.unwrap_or_else(|| app.ctx.writer.checkpoint().tree);
    let of_kind = kind.map_or_else(String::new, |k| format!("&kind={k}"));
    page(&Events {
        frame: visitor.frame("Events", "/events"),
        origin: app.origin.to_string(),
        size: tree.size,
        root: hex::encode(tree.root),
        rows,
        kinds: KINDS.into_iter().map(|k| (k, Some(k) == kind)).collect(),
        older: older.map(|before| format!("/events?before={before}{of_kind}")),
        authority: &app.authority,
    })
}

/// `GET /events/{index}`: one leaf, whether it stands in the released tree, and how to see that for oneself.
pub async fn show(State(app): State<AppState>, visitor: Visitor, Path(index): Path<u64>) -> Page {
    let proven = prove::prove(&app.ctx, &visitor.by, index).await.map_err(refused)?;
    let p = proven.ok_or_else(|| ApiError::not_found("the log has no leaf at this place"))?;
    page(&One {
        frame: visitor.frame("Event", "/events"),
        row: row(&p.entry),
        statement: p.statement,
        hash: hex::encode(p.entry.hash),
        size: p.tree.size,
        root: hex::encode(p.tree.root),
        path: p.path.iter().map(hex::encode).collect(),
        is_included: p.is_included,
        signed_by: p.signed_by.map(|k| k.to_string()),
        authority: &app.authority,
        newer: Some(index + 1).filter(|n| *n < p.tree.size),
        older: index.checked_sub(1),
        board: matches!(p.entry.event, Event::Revoke(_)).then_some(index),
    })
}

fn refused(e: EventsError) -> ApiError {
    match e {
        EventsError::Forbidden => ApiError::forbidden(e.to_string()),
        EventsError::Unavailable(e) => ApiError::unavailable(e),
    }
}

fn row(e: &Entry) -> Row {
    Row { index: e.index, kind: e.event.kind(), says: says(&e.event), at: stamp(e.at) }
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

const KINDS: [&str; 15] = [
    "sign_in",
    "agent",
    "delegation",
    "issue",
    "receipt",
    "denials",
    "revoke",
    "coverage",
    "drill",
    "verifier",
    "verifier_retired",
    "key_list",
    "canary",
    "epoch_start",
    "recovered",
];
/// Most leaves that one page looks through.
const MAX_LOOKED: usize = 1_000;
