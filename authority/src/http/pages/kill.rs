//! Security's kill switch: what, why, and the word typed out.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::delegations::wrong_reason;
use super::{Frame, Page, Posted, Visitor, board, page, rendered, same_text};
use crate::domain::human::Role;
use crate::http::{AppState, revocations};

#[derive(Template)]
#[template(path = "kill.html")]
struct Form {
    frame: Frame,
    targets: [(&'static str, &'static str); 7],
    typed: Typed,
    /// The field that is wrong, and why.
    problem: Option<(&'static str, String)>,
    verifiers: usize,
}

impl Form {
    fn wrong(&self, field: &str) -> Option<&str> {
        self.problem.as_ref().filter(|(f, _)| *f == field).map(|(_, says)| says.as_str())
    }
}

/// What somebody typed. The word of confirmation is typed anew each time.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct Typed {
    what: String,
    id: String,
    reason: String,
}

/// `GET /kill?what=&id=`
pub async fn form(State(app): State<AppState>, visitor: Visitor, Query(typed): Query<Typed>) -> Page {
    visitor.needs(Role::Security, ONLY_SECURITY)?;
    page(&filled(&app, &visitor, typed, None))
}

/// `POST /kill`: durable at once, then who has heard.
pub async fn kill(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    visitor.needs(Role::Security, ONLY_SECURITY)?;
    let typed = Typed { what: fields.one("what")?.to_owned(), id: fields.one("id")?.to_owned(), reason: fields.one("reason")?.to_owned() };
    let again = |typed, field, says| {
        let form = filled(&app, &visitor, typed, Some((field, says)));
        Ok::<Response, _>((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response())
    };
    let target = match revocations::target(&typed.what, Some(typed.id.as_str()).filter(|id| !id.is_empty())) {
        Ok(target) => target,
        Err(e) => return again(typed, "id", e.said().1.to_owned()),
    };
    if let Some(problem) = wrong_reason(&typed.reason) {
        return again(typed, "reason", problem);
    }
    // The word names the kind: a slip in the list above it kills nothing.
    let word = format!("kill {}", target.word());
    if !same_text(fields.one("confirmation")?, &word) {
        return again(typed, "confirmation", format!("expected `{word}` typed out"));
    }
    let what = [target.word(), &typed.id].join(" ").trim_end().to_owned();
    board::revoke(&app, &visitor, target, &typed.reason, what, "/kill").await
}

fn filled(app: &AppState, visitor: &Visitor, mut typed: Typed, problem: Option<(&'static str, String)>) -> Form {
    for text in [&mut typed.what, &mut typed.id, &mut typed.reason] {
        *text = text.chars().take(MAX_KEPT).collect();
    }
    let verifiers = app.ctx.watch.runs().len();
    Form { frame: visitor.frame("Kill switch", "/kill"), targets: TARGETS, typed, problem, verifiers }
}

const ONLY_SECURITY: &str = "the kill switch needs the role security";
const MAX_KEPT: usize = 512;
const TARGETS: [(&str, &str); 7] = [
    ("agent", "An agent, as holder of tokens and of links"),
    ("delegation", "A delegation and everything under it"),
    ("token", "One token and all re-minted from it"),
    ("human", "A person: everything resting on their authority"),
    ("key", "A holder key or a root key"),
    ("tenant", "Everything of the tenant"),
    ("all", "Everything"),
];
