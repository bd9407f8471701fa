//! What I have granted, as a tree: by agent, with the links that receipts have shown; and taking back one or a subtree.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{DelegationId, Lid, UtcMillis};

use super::decisions::Names;
use super::{ApiError, Frame, Page, Posted, Visitor, board, page, rendered, span, stamp};
use crate::http::AppState;
use crate::usecase::decisions::{self, DecisionsError, MAX_AT_ONCE, Passed, Use};
use crate::usecase::inspect::{self, DelegationView, Standing};
use crate::usecase::revoke::{MAX_REASON, Target};

#[derive(Template)]
#[template(path = "delegations.html")]
struct Delegations {
    frame: Frame,
    made: Option<DelegationId>,
    agents: Vec<Agent>,
    /// How many receipts were looked at, if there are more.
    newest: Option<u32>,
}

struct Agent {
    id: String,
    name: String,
    rows: Vec<Row>,
}

/// A delegation in the tree.
pub(super) struct Row {
    pub(super) id: DelegationId,
    pub(super) summary: String,
    pub(super) state: &'static str,
    pub(super) class: &'static str,
    pub(super) detail: String,
    /// How much of its time is left, in thousandths.
    pub(super) left: u64,
    pub(super) live: bool,
    pub(super) made: bool,
    pub(super) used: String,
    pub(super) links: Vec<Link>,
}

/// A link under it.
pub(super) struct Link {
    pub(super) lid: Lid,
    /// From 1.
    pub(super) depth: usize,
    pub(super) to: String,
    pub(super) used: String,
    pub(super) leaf: u64,
    pub(super) is_revoked: bool,
}

#[derive(Template)]
#[template(path = "revoke.html")]
struct Ask {
    frame: Frame,
    action: String,
    agent: String,
    /// The link that is taken back, if not all.
    link: Option<String>,
    row: Row,
    reason: String,
    problem: Option<String>,
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
    let mut tree = Tree::of(&app, &visitor).await?;
    let mut agents: BTreeMap<String, Agent> = BTreeMap::new();
    for view in &views {
        let row = tree.row(&app, view, made).await?;
        let agent = || Agent { id: view.agent.id.to_string(), name: view.agent.name.to_string(), rows: Vec::new() };
        agents.entry(view.agent.name.to_string()).or_insert_with(agent).rows.push(row);
    }
    let newest = tree.more.then_some(MAX_AT_ONCE);
    page(&Delegations { frame: visitor.frame("My delegations", "/delegations"), made, agents: agents.into_values().collect(), newest })
}

/// `GET /delegations/{id}/revoke`: what would be taken back.
pub async fn ask(State(app): State<AppState>, visitor: Visitor, Path(id): Path<String>) -> Page {
    page(&asking(&app, &visitor, &id, None, String::new(), None).await?)
}

/// `POST /delegations/{id}/revoke`: with everything under it; then who has heard.
pub async fn revoke(State(app): State<AppState>, Path(id): Path<String>, Posted { visitor, fields }: Posted) -> Page {
    let view = found(&app, &visitor, &id).await?;
    let reason = fields.one("reason")?;
    if let Some(problem) = wrong_reason(reason) {
        return again(&asking(&app, &visitor, &id, None, reason.to_owned(), Some(problem)).await?);
    }
    let what = format!("the delegation to {}", view.agent.name);
    board::revoke(&app, &visitor, Target::Delegation(view.delegation.id), reason, what, "/delegations").await
}

/// `GET /delegations/{id}/links/{leaf}/{lid}/revoke`
pub async fn ask_link(State(app): State<AppState>, visitor: Visitor, Path((id, leaf, lid)): Path<(String, u64, String)>) -> Page {
    page(&asking(&app, &visitor, &id, Some((leaf, &lid)), String::new(), None).await?)
}

/// `POST /delegations/{id}/links/{leaf}/{lid}/revoke`: the link and everything passed on from it.
pub async fn revoke_link(State(app): State<AppState>, Path((id, leaf, text)): Path<(String, u64, String)>, Posted { visitor, fields }: Posted) -> Page {
    let reason = fields.one("reason")?;
    let asked = asking(&app, &visitor, &id, Some((leaf, &text)), reason.to_owned(), wrong_reason(reason)).await?;
    if asked.problem.is_some() {
        return again(&asked);
    }
    let lid: Lid = text.parse().map_err(|_| missing())?;
    let what = format!("the link to {} under the delegation to {}", asked.link.unwrap_or_default(), asked.agent);
    board::revoke(&app, &visitor, Target::Link { lid, shown_by: leaf }, reason, what, "/delegations").await
}

fn again(asked: &Ask) -> Page {
    Ok::<Response, _>((StatusCode::UNPROCESSABLE_ENTITY, rendered(asked)).into_response())
}

pub(super) fn wrong_reason(reason: &str) -> Option<String> {
    if reason.is_empty() {
        return Some("expected a reason: a few words for the record".to_owned());
    }
    (reason.len() > MAX_REASON).then(|| format!("reason is {} bytes long, expected at most {MAX_REASON}", reason.len()))
}

async fn asking(app: &AppState, visitor: &Visitor, id: &str, link: Option<(u64, &str)>, reason: String, problem: Option<String>) -> Result<Ask, ApiError> {
    let view = found(app, visitor, id).await?;
    let row = Tree::of(app, visitor).await?.row(app, &view, None).await?;
    let base = format!("/delegations/{}", view.delegation.id);
    let (action, link) = match link {
        None => (format!("{base}/revoke"), None),
        Some((leaf, lid)) => {
            let shown = row.links.iter().find(|l| l.lid.to_string() == lid).ok_or_else(missing)?;
            (format!("{base}/links/{leaf}/{lid}/revoke"), Some(shown.to.clone()))
        }
    };
    let title = if link.is_some() { "Revoke a link" } else { "Revoke a delegation" };
    let reason = reason.chars().take(MAX_REASON).collect();
    Ok(Ask { frame: visitor.frame(title, "/delegations"), action, agent: view.agent.name.to_string(), link, row, reason, problem })
}

async fn found(app: &AppState, visitor: &Visitor, id: &str) -> Result<DelegationView, ApiError> {
    let id: DelegationId = id.parse().map_err(|_| missing())?;
    inspect::delegation(&app.ctx, &visitor.by, id).await.map_err(ApiError::unavailable)?.ok_or_else(missing)
}

fn missing() -> ApiError {
    ApiError::not_found("there is no such delegation or link of yours")
}

/// What receipts say, read once for a page.
pub(super) struct Tree {
    uses: std::collections::HashMap<DelegationId, Use>,
    names: Names,
    more: bool,
    now: UtcMillis,
}

impl Tree {
    pub(super) async fn of(app: &AppState, visitor: &Visitor) -> Result<Self, ApiError> {
        let (uses, more) = decisions::uses(&app.ctx, &visitor.by).await.map_err(|e| match e {
            DecisionsError::Forbidden => ApiError::forbidden(e.to_string()),
            DecisionsError::Unavailable(e) => ApiError::unavailable(e),
        })?;
        Ok(Self { uses, names: Names::default(), more, now: app.ctx.now() })
    }

    /// When something under this was last asked for.
    pub(super) fn last(&self, id: DelegationId) -> Option<UtcMillis> {
        self.uses.get(&id).map(|u| u.last)
    }

    pub(super) async fn row(&mut self, app: &AppState, view: &DelegationView, made: Option<DelegationId>) -> Result<Row, ApiError> {
        let d = &view.delegation;
        let (now, end) = (self.now.0, d.terms.not_after.0);
        let live = view.standing == Standing::Live;
        let (state, class, detail) = match view.standing {
            Standing::Live => ("live", "good", format!("{} left", span(end.saturating_sub(now)))),
            Standing::Revoked(at) => ("revoked", "bad", format!("at {}", stamp(at))),
            Standing::Killed(scope) => ("killed", "bad", format!("with {}", killed(scope))),
            Standing::Ended(at) => ("ended", "fair", format!("at {}", stamp(at))),
        };
        let used = self.uses.get(&d.id);
        let words = used.map_or_else(
            || "not used yet".to_owned(),
            |u| format!("{} allowed, {} denied, the last {} ago", u.allowed, u.denied, span(now.saturating_sub(u.last.0))),
        );
        let links = used.map(|u| u.links.clone()).unwrap_or_default();
        Ok(Row {
            id: d.id,
            summary: d.terms.summary(&view.agent.name),
            state,
            class,
            detail,
            left: if live { end.saturating_sub(now).saturating_mul(1000) / end.saturating_sub(d.created.0).max(1) } else { 0 },
            live,
            made: Some(d.id) == made,
            used: words,
            links: self.links(app, links).await?,
        })
    }

    async fn links(&mut self, app: &AppState, passed: Vec<Passed>) -> Result<Vec<Link>, ApiError> {
        let mut links = Vec::with_capacity(passed.len());
        for p in passed {
            let Some(lid) = p.path.last().copied() else { continue };
            let to = match p.to.agent {
                Some(agent) => self.names.of(app, agent).await?,
                None => format!("key {}", p.to.key),
            };
            let used = format!("{} {}, the last {} ago", p.uses, if p.uses == 1 { "call" } else { "calls" }, span(self.now.0.saturating_sub(p.last.0)));
            links.push(Link { lid, depth: p.path.len(), to, used, leaf: p.leaf, is_revoked: p.is_revoked });
        }
        Ok(links)
    }
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
