//! My agents, one of them, and a new one: a name and a key, then the challenge that the key signs.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use procura_verifier::challenge;
use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, Key};

use super::delegations::{Row as Granted, Tree};
use super::{ApiError, Fields, Frame, Page, PageError, Posted, Visitor, page, rendered, span, stamp};
use crate::domain::agent::{AgentState, KeyState};
use crate::http::{AppState, agents};
use crate::usecase::inspect_agent;
use crate::usecase::register_agent::{self, Registration};

#[derive(Template)]
#[template(path = "agents.html")]
struct Agents {
    frame: Frame,
    made: Option<String>,
    agents: Vec<Row>,
}

struct Row {
    id: AgentId,
    name: Name,
    state: &'static str,
    active: bool,
    since: String,
}

#[derive(Template)]
#[template(path = "agent_new.html")]
struct New<'a> {
    frame: Frame,
    authority: &'a str,
    problem: Option<Problem>,
    name: String,
    key: String,
    /// Once name and key are there.
    drawn: Option<Drawn>,
}

/// What is wrong with which field.
struct Problem {
    field: &'static str,
    says: String,
}

impl New<'_> {
    /// What is wrong with this field, if it is this one.
    fn wrong(&self, field: &str) -> Option<&str> {
        self.problem.as_ref().filter(|p| p.field == field).map(|p| p.says.as_str())
    }
}

#[derive(Template)]
#[template(path = "agent.html")]
struct One {
    frame: Frame,
    name: Name,
    id: AgentId,
    state: &'static str,
    class: &'static str,
    active: bool,
    own: bool,
    security: bool,
    since: String,
    last: String,
    keys: Vec<KeyRow>,
    rows: Vec<Granted>,
}

struct KeyRow {
    key: Key,
    live: bool,
    added: String,
}

struct Drawn {
    challenge: String,
    message: String,
}

/// Which agent was made just now.
#[derive(serde::Deserialize)]
pub struct Made {
    #[serde(default)]
    made: Option<AgentId>,
}

/// `GET /agents`
pub async fn list(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<Made>) -> Page {
    let agents = app.ctx.store.agents_of(visitor.human).await.map_err(ApiError::unavailable)?;
    let made = agents.iter().find(|a| Some(a.id) == asked.made).map(|a| a.name.to_string());
    let row =
        |a: crate::domain::agent::Agent| Row { id: a.id, name: a.name, state: word(a.state), active: a.state == AgentState::Active, since: stamp(a.created) };
    page(&Agents { frame: visitor.frame("My agents", "/agents"), made, agents: agents.into_iter().map(row).collect() })
}

/// `GET /agents/{id}`: its state, its keys, what was delegated to it, and when that was last used.
pub async fn show(State(app): State<AppState>, visitor: Visitor, Path(id): Path<String>) -> Page {
    let missing = || ApiError::not_found("there is no such agent that you answer for");
    let id: AgentId = id.parse().map_err(|_| missing())?;
    let seen = inspect_agent::agent(&app.ctx, &visitor.by, id).await.map_err(ApiError::unavailable)?.ok_or_else(missing)?;
    let mut tree = Tree::of(&app, &visitor).await?;
    let last = seen.delegations.iter().filter_map(|d| tree.last(d.delegation.id)).max();
    let mut rows = Vec::with_capacity(seen.delegations.len());
    for view in &seen.delegations {
        rows.push(tree.row(&app, view, None).await?);
    }
    let active = seen.agent.state == AgentState::Active && !seen.is_killed;
    let (state, class) = match (seen.is_killed, active) {
        (true, _) => ("killed", "bad"),
        (false, true) => (word(seen.agent.state), "good"),
        (false, false) => (word(seen.agent.state), "fair"),
    };
    let own = seen.agent.owner == visitor.human;
    let key = |k: crate::domain::agent::AgentKey| KeyRow { key: k.key, live: k.state == KeyState::Live, added: stamp(k.added) };
    page(&One {
        frame: visitor.frame("Agent", "/agents"),
        name: seen.agent.name,
        id,
        state,
        class,
        active,
        own,
        security: visitor.is_security(),
        since: stamp(seen.agent.created),
        last: last.map_or_else(|| "not seen in the newest receipts".to_owned(), |at| format!("{} ago", span(app.ctx.now().0.saturating_sub(at.0)))),
        keys: seen.keys.into_iter().map(key).collect(),
        rows,
    })
}

const fn word(state: AgentState) -> &'static str {
    match state {
        AgentState::Active => "active",
        AgentState::Suspended => "suspended",
        AgentState::Retired => "retired",
    }
}

/// `GET /agents/new`
pub async fn form(State(app): State<AppState>, visitor: Visitor) -> Page {
    page(&New { frame: visitor.frame(TITLE, "/agents"), authority: &app.authority, problem: None, name: String::new(), key: String::new(), drawn: None })
}

/// `POST /agents/new`: what the key is to sign, good once, for five minutes, for this human.
pub async fn challenge(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    let (name, key) = match named(&fields) {
        Ok(named) => named,
        Err(problem) => return again(&app, &visitor, &fields, problem),
    };
    let nonce = register_agent::challenge(&app.ctx, &visitor.by).map_err(agents::refused)?;
    let message = hex::encode(challenge::message(&app.ctx.tenant, &nonce, &key));
    let drawn = Some(Drawn { challenge: hex::encode(nonce), message });
    let frame = visitor.frame(TITLE, "/agents");
    page(&New { frame, authority: &app.authority, problem: None, name: name.to_string(), key: key.to_string(), drawn })
}

/// `POST /agents`
pub async fn register(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    let (name, key) = match named(&fields) {
        Ok(named) => named,
        Err(problem) => return again(&app, &visitor, &fields, problem),
    };
    let (mut nonce, mut signature) = ([0; 32], [0; 64]);
    if hex::decode_to_slice(fields.one("challenge")?, &mut nonce).is_err() || hex::decode_to_slice(fields.one("signature")?, &mut signature).is_err() {
        // With the same challenge: it is good until it is used.
        let problem = Problem { field: "signature", says: "expected a signature of 64 bytes in hex: 128 digits".to_owned() };
        let message = hex::encode(challenge::message(&app.ctx.tenant, &nonce, &key));
        let drawn = Some(Drawn { challenge: hex::encode(nonce), message });
        let frame = visitor.frame(TITLE, "/agents");
        let form = New { frame, authority: &app.authority, problem: Some(problem), name: name.to_string(), key: key.to_string(), drawn };
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response());
    }
    let registered = register_agent::register_agent(&app.ctx, &visitor.by, &Registration { name, key, nonce, signature }).await;
    match registered.map_err(agents::refused) {
        Ok(registered) => Ok(Redirect::to(&format!("/agents?made={}", registered.agent)).into_response()),
        Err(e) if e.said().0 == StatusCode::CONFLICT => {
            let field = if e.said().1.contains("key") { "key" } else { "name" };
            again(&app, &visitor, &fields, Problem { field, says: e.said().1.to_owned() })
        }
        Err(e) => Err(e.into()),
    }
}

fn named(fields: &Fields) -> Result<(Name, Key), Problem> {
    fn read<T: std::str::FromStr<Err: std::fmt::Display>>(fields: &Fields, field: &'static str) -> Result<T, Problem> {
        let text = fields.one(field).map_err(|e| Problem { field, says: e.said().1.to_owned() })?;
        text.parse().map_err(|e: T::Err| Problem { field, says: e.to_string() })
    }
    Ok((read(fields, "name")?, read(fields, "key")?))
}

fn again(app: &AppState, visitor: &Visitor, fields: &Fields, problem: Problem) -> Page {
    let kept = |name| -> Result<String, PageError> { Ok(fields.one(name)?.chars().take(MAX_KEPT).collect()) };
    let frame = visitor.frame(TITLE, "/agents");
    let form = New { frame, authority: &app.authority, problem: Some(problem), name: kept("name")?, key: kept("key")?, drawn: None };
    Ok((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response())
}

const TITLE: &str = "Register an agent";
/// Most characters of a field shown again.
const MAX_KEPT: usize = 256;
