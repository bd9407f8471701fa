//! Security's kill switch: what, why, and the word typed out.

use askama::Template;
use axum::extract::State;

use super::board::Board;
use super::delegations::{PATIENCE, done};
use super::{ApiError, Frame, Page, Posted, Visitor, page, same_text};
use crate::domain::human::Role;
use crate::http::{AppState, revocations};
use crate::usecase::coverage;

#[derive(Template)]
#[template(path = "kill.html")]
struct Form {
    frame: Frame,
    targets: [(&'static str, &'static str); 7],
}

/// `GET /kill`
pub async fn form(visitor: Visitor) -> Page {
    visitor.needs(Role::Security, ONLY_SECURITY)?;
    page(&Form { frame: visitor.frame("Kill switch", "/kill"), targets: TARGETS })
}

/// `POST /kill`: durable at once, then who has heard.
pub async fn kill(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    visitor.needs(Role::Security, ONLY_SECURITY)?;
    let (what, id, reason) = (fields.one("what")?, fields.one("id")?, fields.one("reason")?);
    let target = revocations::target(what, Some(id).filter(|id| !id.is_empty()))?;
    // The word names the kind: a slip in the list above it kills nothing.
    let word = format!("kill {}", target.word());
    if !same_text(fields.one("confirmation")?, &word) {
        return Err(ApiError::bad_request(format!("nothing was killed: expected `{word}` typed out as confirmation")).into());
    }
    if reason.is_empty() {
        return Err(ApiError::bad_request("nothing was killed: expected a reason").into());
    }
    let killed = coverage::revoke_and_wait(&app.ctx, &visitor.by, target, Some(reason.to_owned()), None, PATIENCE).await;
    let (revoked, covered) = killed.map_err(revocations::refused)?;
    let what = [target.word(), id].join(" ");
    done(visitor.frame("Killed", "/kill"), what.trim_end().to_owned(), Board::of(&revoked, covered), "/kill")
}

const ONLY_SECURITY: &str = "the kill switch needs the role security";
const TARGETS: [(&str, &str); 7] = [
    ("agent", "An agent, as holder of tokens and of links"),
    ("delegation", "A delegation and everything under it"),
    ("token", "One token and all re-minted from it"),
    ("human", "A person: everything resting on their authority"),
    ("key", "A holder key or a root key"),
    ("tenant", "Everything of the tenant"),
    ("all", "Everything"),
];
