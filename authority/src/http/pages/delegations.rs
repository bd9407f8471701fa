//! What I have granted, by agent, and taking one back.

use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, Query, State};
use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::DelegationId;

use super::board::Board;
use super::{ApiError, Frame, Page, Posted, Visitor, page, span};
use crate::http::{AppState, revocations};
use crate::usecase::coverage;
use crate::usecase::inspect::{self, DelegationView, Standing};
use crate::usecase::revoke::Target;

#[derive(Template)]
#[template(path = "delegations.html")]
struct Delegations {
    frame: Frame,
    made: Option<DelegationId>,
    agents: Vec<Agent>,
}

struct Agent {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    id: DelegationId,
    summary: String,
    state: &'static str,
    class: &'static str,
    detail: String,
    live: bool,
    made: bool,
}

#[derive(Template)]
#[template(path = "revoke.html")]
struct Ask {
    frame: Frame,
    agent: String,
    row: Row,
}

#[derive(Template)]
#[template(path = "revoked.html")]
struct Done {
    frame: Frame,
    what: String,
    board: Board,
    back: &'static str,
}

/// Which delegation was made just now.
#[derive(serde::Deserialize)]
pub struct Made {
    #[serde(default)]
    made: Option<DelegationId>,
}

/// `GET /delegations`: newest first under each agent.
pub async fn list(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<Made>) -> Page {
    let views = inspect::delegations_of(&app.ctx, &visitor.by).await.map_err(ApiError::unavailable)?;
    let made = views.iter().map(|v| v.delegation.id).find(|id| Some(*id) == asked.made);
    let mut agents: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for view in &views {
        agents.entry(view.agent.name.to_string()).or_default().push(row(&app, view, made));
    }
    let agents = agents.into_iter().map(|(name, rows)| Agent { name, rows }).collect();
    page(&Delegations { frame: visitor.frame("My delegations", "/delegations"), made, agents })
}

/// `GET /delegations/{id}/revoke`: what would be taken back.
pub async fn ask(State(app): State<AppState>, visitor: Visitor, Path(id): Path<String>) -> Page {
    let view = found(&app, &visitor, &id).await?;
    page(&Ask { frame: visitor.frame("Revoke a delegation", "/delegations"), agent: view.agent.name.to_string(), row: row(&app, &view, None) })
}

/// `POST /delegations/{id}/revoke`: with everything under it; then who has heard.
pub async fn revoke(State(app): State<AppState>, Path(id): Path<String>, Posted { visitor, fields }: Posted) -> Page {
    let view = found(&app, &visitor, &id).await?;
    let reason = fields.one("reason")?;
    if reason.is_empty() {
        return Err(ApiError::bad_request("expected a reason: go back and give one").into());
    }
    let target = Target::Delegation(view.delegation.id);
    let revoked = coverage::revoke_and_wait(&app.ctx, &visitor.by, target, Some(reason.to_owned()), None, PATIENCE).await;
    let (revoked, covered) = revoked.map_err(revocations::refused)?;
    let board = Board::of(&revoked, covered);
    page(&Done { frame: visitor.frame("Revoked", "/delegations"), what: format!("the delegation to {}", view.agent.name), board, back: "/delegations" })
}

/// The page after a revocation of any kind.
pub(super) fn done(frame: Frame, what: String, board: Board, back: &'static str) -> Page {
    page(&Done { frame, what, board, back })
}

async fn found(app: &AppState, visitor: &Visitor, id: &str) -> Result<DelegationView, ApiError> {
    let missing = || ApiError::not_found("there is no such delegation of yours");
    let id: DelegationId = id.parse().map_err(|_| missing())?;
    inspect::delegation(&app.ctx, &visitor.by, id).await.map_err(ApiError::unavailable)?.ok_or_else(missing)
}

fn row(app: &AppState, view: &DelegationView, made: Option<DelegationId>) -> Row {
    let d = &view.delegation;
    let (state, class, detail) = match view.standing {
        Standing::Live => ("live", "good", format!("{} left", span(d.terms.not_after.0.saturating_sub(app.ctx.now().0)))),
        Standing::Revoked(at) => ("revoked", "bad", format!("at {at}")),
        Standing::Killed(scope) => ("killed", "bad", format!("with {}", killed(scope))),
        Standing::Ended(at) => ("ended", "fair", format!("at {at}")),
    };
    let summary = d.terms.summary(&view.agent.name);
    Row { id: d.id, summary, state, class, detail, live: view.standing == Standing::Live, made: Some(d.id) == made }
}

const fn killed(scope: FloorScope) -> &'static str {
    match scope {
        FloorScope::Global => "everything",
        FloorScope::Tenant => "everything of the tenant",
        FloorScope::Human(_) => "the person's whole authority",
        FloorScope::Agent(_) => "the agent",
        FloorScope::Delegation(_) => "the delegation",
    }
}

/// How long the page waits for verifiers.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
