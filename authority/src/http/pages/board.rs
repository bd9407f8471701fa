//! Who has heard of a revocation: a table that fills while one looks, and stands in the log afterwards.

use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use futures_util::{StreamExt as _, stream};

use super::live::{self, Kept};
use super::{ApiError, Frame, Page, PageError, Visitor, page, same_text, stamp};
use crate::http::{AppState, revocations};
use crate::log::event::{NotCovered, Standing};
use crate::secret;
use crate::usecase::coverage::live::{Progress, recorded, revoke_and_follow};
use crate::usecase::coverage::{Coverage, Standpoint};
use crate::usecase::revoke::Target;

#[derive(Template)]
#[template(path = "board.html")]
struct BoardPage {
    frame: Frame,
    leaf: u64,
    what: Option<String>,
    back: &'static str,
    /// Where the rest will come from, if there is more to come.
    stream: Option<String>,
    board: Board,
    sentence: String,
}

#[derive(Template)]
#[template(path = "board_part.html")]
struct Part {
    board: Board,
}

/// How it stands, ready to be shown.
struct Board {
    /// None if it could not be asked: the revocation stands all the same.
    answer: Option<Answer>,
    is_over: bool,
}

struct Answer {
    is_whole: bool,
    waited_ms: u64,
    confirmed: usize,
    fenced: usize,
    waiting: usize,
    not_covered: usize,
    anonymous: u64,
    slowest_ms: Option<u64>,
    leaf: Option<u64>,
    rows: Vec<Row>,
}

struct Row {
    audience: String,
    verifier: String,
    state: &'static str,
    class: &'static str,
    detail: String,
}

/// Lets whoever asked look on though the kill has ended their own session.
#[derive(serde::Deserialize)]
pub struct Sealed {
    #[serde(default)]
    seal: String,
}

/// Revokes for a page, and leads to the board.
pub(super) async fn revoke(app: &AppState, visitor: &Visitor, target: Target, reason: &str, what: String, back: &'static str) -> Page {
    let (revoked, shown) = revoke_and_follow(&app.ctx, &visitor.by, target, reason.to_owned(), PATIENCE).await.map_err(revocations::refused)?;
    app.live.keep(app.ctx.now(), revoked.leaf, Kept { by: visitor.human, what, back, shown });
    Ok(Redirect::to(&format!("/revocations/{}?seal={}", revoked.leaf, seal(app, revoked.leaf))).into_response())
}

/// `GET /revocations/{leaf}`
pub async fn show(State(app): State<AppState>, headers: HeaderMap, Path(leaf): Path<u64>, Query(asked): Query<Sealed>) -> Page {
    let visitor = Visitor::find(&app, &headers).await?;
    let frame = |v: &Option<Visitor>| v.as_ref().map_or(Frame { title: TITLE, here: "", visitor: None }, |v| v.frame(TITLE, ""));
    if let Some(kept) = kept(&app, visitor.as_ref(), leaf, &asked)? {
        let progress = kept.shown.borrow().clone();
        let (board, sentence) = (Board::of(&progress), said(&progress));
        let stream = (!progress.is_over).then(|| format!("/revocations/{leaf}/stream?seal={}", asked.seal));
        return page(&BoardPage { frame: frame(&visitor), leaf, what: Some(kept.what), back: kept.back, stream, board, sentence });
    }
    let Some(visitor) = visitor else { return Err(ApiError::unauthenticated("sign in to see this page").into()) };
    let found = recorded(&app.ctx, &visitor.by, leaf).await.map_err(ApiError::unavailable)?;
    let found = found.ok_or_else(|| ApiError::not_found("the log has no revocation at this place that concerns you"))?;
    let progress = match found.coverage {
        Some(coverage) => Progress { coverage: Ok(coverage), is_over: true },
        None => return Err(ApiError::not_found(format!("revoked at {}; the log does not say that anybody waited for verifiers", stamp(found.at))).into()),
    };
    let (board, sentence) = (Board::of(&progress), said(&progress));
    page(&BoardPage { frame: frame(&Some(visitor)), leaf, what: None, back: "/delegations", stream: None, board, sentence })
}

/// `GET /revocations/{leaf}/stream`
pub async fn stream(State(app): State<AppState>, headers: HeaderMap, Path(leaf): Path<u64>, Query(asked): Query<Sealed>) -> Result<Response, PageError> {
    let visitor = Visitor::find(&app, &headers).await?;
    let kept = kept(&app, visitor.as_ref(), leaf, &asked)?.ok_or_else(|| ApiError::not_found("no board fills at this place"))?;
    let seat = app.live.seat()?;
    let moves = stream::unfold(Some((kept.shown, true)), |state| async move {
        let (mut shown, first) = state?;
        if !first {
            shown.changed().await.ok()?;
        }
        let progress = shown.borrow_and_update().clone();
        let mut pieces = vec![live::piece("whole", &Part { board: Board::of(&progress) })];
        if progress.is_over {
            pieces.extend([live::status(&said(&progress)), live::end()]);
        }
        Some((pieces, (!progress.is_over).then_some((shown, false))))
    });
    Ok(live::stream(seat, moves.flat_map(stream::iter)))
}

/// The board that fills here, for whoever asked for it, who watches verifiers, or who has the address.
fn kept(app: &AppState, visitor: Option<&Visitor>, leaf: u64, asked: &Sealed) -> Result<Option<Kept>, ApiError> {
    let Some(kept) = app.live.find(app.ctx.now(), leaf) else { return Ok(None) };
    let may = same_text(&asked.seal, &seal(app, leaf)) || visitor.is_some_and(|v| v.human == kept.by || v.watches());
    if may { Ok(Some(kept)) } else { Err(ApiError::not_found("the log has no revocation at this place that concerns you")) }
}

fn seal(app: &AppState, leaf: u64) -> String {
    secret::base64url(&app.ctx.seals.form_tag(&[b"board\0", &leaf.to_be_bytes()]))
}

impl Board {
    fn of(progress: &Progress) -> Self {
        let is_over = progress.is_over;
        let answer = progress.coverage.as_ref().inspect_err(|e| tracing::error!(error = %e, "page.no_coverage")).ok();
        Self { answer: answer.map(|c| Answer::of(c, is_over)), is_over }
    }
}

impl Answer {
    fn of(c: &Coverage, is_over: bool) -> Self {
        let mut rows: Vec<Row> = c.runs.iter().map(|s| row(s, is_over)).collect();
        if !is_over {
            // Exceptions come first in the end; while it moves nobody changes places.
            rows.sort_by(|a, b| a.audience.cmp(&b.audience));
        }
        let of = |state| rows.iter().filter(|r| r.state == state).count();
        Self {
            is_whole: c.is_whole(),
            waited_ms: c.waited_ms,
            confirmed: of(APPLIED),
            fenced: of(FENCED),
            waiting: of(WAITING),
            not_covered: of(NOT_COVERED),
            anonymous: c.anonymous,
            slowest_ms: c.slowest_ms(),
            leaf: c.leaf,
            rows,
        }
    }
}

fn row(s: &Standpoint, is_over: bool) -> Row {
    let (state, class, detail) = match &s.standing {
        Standing::Confirmed { after_ms, .. } => (APPLIED, "good", format!("denies since {after_ms} ms after the commit at the latest")),
        Standing::Fenced { bound_ms } => (FENCED, "fair", format!("silent for longer than its own bound of {bound_ms} ms: it has heard, or it denies")),
        Standing::NotCovered { why: NotCovered::LongerBound | NotCovered::BestEffort } if !is_over => (WAITING, "plain", "has not answered yet".to_owned()),
        Standing::NotCovered { why } => (NOT_COVERED, "bad", format!("may go on allowing: {}", reason(*why))),
    };
    Row { audience: s.audience.to_string(), verifier: s.verifier.to_string(), state, class, detail }
}

/// The same in a sentence.
fn said(progress: &Progress) -> String {
    let Ok(c) = &progress.coverage else { return "Who has heard could not be asked.".to_owned() };
    if !progress.is_over {
        return "Waiting for verifiers.".to_owned();
    }
    let (confirmed, fenced, not_covered) = c.counts();
    let slowest = c.slowest_ms().map_or_else(String::new, |ms| format!(", the slowest after {ms} ms"));
    format!("{confirmed} applied{slowest}; {fenced} fenced; {not_covered} not covered.")
}

const fn reason(why: NotCovered) -> &'static str {
    match why {
        NotCovered::LongerBound => "its bound is longer than was waited",
        NotCovered::BestEffort => "it is set to best effort",
        NotCovered::NeverSeen => "it is enrolled and was never heard of",
    }
}

const TITLE: &str = "Revoked";
const APPLIED: &str = "applied";
const FENCED: &str = "fenced";
const WAITING: &str = "waiting";
const NOT_COVERED: &str = "not covered";
/// How long verifiers are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
