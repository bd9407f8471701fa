//! My agents, and a new one: a name and a key, then the challenge that the key signs.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect};
use procura_verifier::challenge;
use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, Key};

use super::{ApiError, Fields, Frame, Page, PageError, Posted, Visitor, page, rendered};
use crate::domain::agent::AgentState;
use crate::http::{AppState, agents};
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
    problem: Option<String>,
    name: String,
    key: String,
    /// Once name and key are there.
    drawn: Option<Drawn>,
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
    let row = |a: crate::domain::agent::Agent| {
        let state = match a.state {
            AgentState::Active => "active",
            AgentState::Suspended => "suspended",
            AgentState::Retired => "retired",
        };
        Row { id: a.id, name: a.name, state, active: a.state == AgentState::Active, since: a.created.to_string() }
    };
    page(&Agents { frame: visitor.frame("My agents", "/agents"), made, agents: agents.into_iter().map(row).collect() })
}

/// `GET /agents/new`
pub async fn form(State(app): State<AppState>, visitor: Visitor) -> Page {
    page(&New {
        frame: visitor.frame("Register an agent", "/agents"),
        authority: &app.authority,
        problem: None,
        name: String::new(),
        key: String::new(),
        drawn: None,
    })
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
    let frame = visitor.frame("Register an agent", "/agents");
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
        return again(&app, &visitor, &fields, "expected a signature of 64 bytes in hex: 128 digits".to_owned());
    }
    let registered = register_agent::register_agent(&app.ctx, &visitor.by, &Registration { name, key, nonce, signature }).await;
    match registered.map_err(agents::refused) {
        Ok(registered) => Ok(Redirect::to(&format!("/agents?made={}", registered.agent)).into_response()),
        Err(e) if e.said().0 == StatusCode::CONFLICT => again(&app, &visitor, &fields, e.said().1.to_owned()),
        Err(e) => Err(e.into()),
    }
}

fn named(fields: &Fields) -> Result<(Name, Key), String> {
    let name = fields.one("name").map_err(|e| e.said().1.to_owned())?.parse::<Name>().map_err(|e| e.to_string())?;
    let key = fields.one("key").map_err(|e| e.said().1.to_owned())?.parse::<Key>().map_err(|e| format!("public key: {e}"))?;
    Ok((name, key))
}

fn again(app: &AppState, visitor: &Visitor, fields: &Fields, problem: String) -> Page {
    let kept = |name| -> Result<String, PageError> { Ok(fields.one(name)?.chars().take(MAX_KEPT).collect()) };
    let frame = visitor.frame("Register an agent", "/agents");
    let form = New { frame, authority: &app.authority, problem: Some(problem), name: kept("name")?, key: kept("key")?, drawn: None };
    Ok((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response())
}

/// Most characters of a field shown again.
const MAX_KEPT: usize = 256;
