//! Delegating: a form, then what it comes to in plain words, then the grant of exactly that.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use procura_verifier::claims::{Capability, DataClass, Hops, Limit, Name, Pattern, Possession};
use procura_verifier::ids::{AgentId, DelegationId};
use sha2::{Digest as _, Sha256};

use super::{ApiError, Fields, Frame, Page, Posted, Visitor, page, rendered, same_text};
use crate::domain::agent::AgentState;
use crate::domain::delegation::Terms;
use crate::domain::limit_text;
use crate::http::{AppState, delegations};
use crate::secret;
use crate::usecase::Once;
use crate::usecase::{delegate, inspect};

#[derive(Template)]
#[template(path = "delegate.html")]
struct Form {
    frame: Frame,
    problem: Option<Problem>,
    /// What the visitor may delegate, in words, and the form filled in with each.
    maxima: Vec<(String, String)>,
    agents: Vec<Choice>,
    rows: Vec<Row>,
    may_add: bool,
    services: String,
    ttl_minutes: String,
    lasts_hours: String,
    depth: String,
    classes: Vec<Choice>,
}

/// What is wrong, and with which field.
struct Problem {
    field: String,
    says: String,
}

impl Problem {
    fn of(field: impl Into<String>, says: impl std::fmt::Display) -> Self {
        Self { field: field.into(), says: says.to_string() }
    }
}

impl Form {
    /// What is wrong with this field, if it is this one.
    fn wrong(&self, field: &str) -> Option<&str> {
        self.problem.as_ref().filter(|p| p.field == field).map(|p| p.says.as_str())
    }

    /// The same for a field of a capability.
    fn wrong_in(&self, field: &str, row: &usize) -> Option<&str> {
        self.wrong(&format!("{field}-{row}"))
    }
}

struct Choice {
    value: String,
    label: String,
    chosen: bool,
}

/// One capability as typed.
#[derive(Default)]
struct Row {
    tool: String,
    action: String,
    resource: String,
    limits: String,
    unlimited: bool,
}

#[derive(Template)]
#[template(path = "delegate_preview.html")]
struct Preview<'a> {
    frame: Frame,
    summary: &'a str,
    agent: AgentId,
    terms: &'a str,
    shown: String,
    once: String,
}

/// For which agent the form opens, and with what: one of the visitor's maxima, by number, or an earlier delegation.
#[derive(serde::Deserialize)]
pub struct For {
    #[serde(default)]
    agent: Option<AgentId>,
    #[serde(default)]
    template: Option<usize>,
    #[serde(default)]
    like: Option<DelegationId>,
}

/// `GET /delegate`: filled in with the most that the visitor may give, or with what they gave before.
pub async fn form(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<For>) -> Page {
    let most = delegate::maxima(&app.ctx, &visitor.by).await.map_err(delegations::refused)?;
    let mut services: Vec<_> = most.capabilities.iter().map(|c| c.tool().to_string()).collect();
    services.dedup();
    let template = asked.template.unwrap_or(0);
    let mut typed = Typed {
        agent: asked.agent.map(|a| a.to_string()).unwrap_or_default(),
        rows: most.capabilities.iter().skip(template).take(1).map(Row::of).collect(),
        services: services.into_iter().skip(template).take(1).collect(),
        ttl_minutes: (most.max_ttl_secs / 60).min(60).to_string(),
        lasts_hours: "8".to_owned(),
        depth: "0".to_owned(),
        class: word(most.class_max).to_owned(),
    };
    if let Some(id) = asked.like {
        let found = inspect::delegation(&app.ctx, &visitor.by, id).await.map_err(ApiError::unavailable)?;
        let view = found.ok_or_else(|| ApiError::not_found("there is no such delegation of yours"))?;
        let terms = &view.delegation.terms;
        typed = Typed {
            agent: view.agent.id.to_string(),
            rows: terms.capabilities.iter().map(Row::of).collect(),
            services: terms.audiences.iter().map(Name::as_str).collect::<Vec<_>>().join(" "),
            ttl_minutes: (terms.ttl_secs / 60).max(1).to_string(),
            depth: terms.depth.to_string(),
            class: word(terms.class_max).to_owned(),
            ..typed
        };
    }
    page(&filled(&app, &visitor, typed, None).await?)
}

/// `POST /delegate/preview`: nothing is granted yet.
pub async fn preview(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    let mut typed = Typed::read(&fields)?;
    if !fields.one("add")?.is_empty() {
        typed.rows.push(Row::default());
        return page(&filled(&app, &visitor, typed, None).await?);
    }
    let (agent, terms) = match typed.terms(&app) {
        Ok(read) => read,
        Err(problem) => return again(&app, &visitor, typed, problem).await,
    };
    let summary = match delegate::preview(&app.ctx, &visitor.by, agent, terms.clone()).await.map_err(delegations::refused) {
        Ok(summary) => summary,
        Err(e) if e.said().0.is_client_error() && e.said().0 != StatusCode::UNAUTHORIZED => {
            return again(&app, &visitor, typed, Problem::of("terms", e.said().1)).await;
        }
        Err(e) => return Err(e.into()),
    };
    let terms = serde_json::to_string(&terms).map_err(ApiError::unavailable)?;
    let shown = visitor.tag(&app, &[&agent.to_string(), &terms, &summary]);
    let once = secret::base64url(&app.ctx.random::<16>());
    page(&Preview { frame: visitor.frame("Is this what you give?", "/delegate"), summary: &summary, agent, terms: &terms, shown, once })
}

/// `POST /delegate`: grants what was shown to this session, word for word, or nothing. Pressed twice it grants once.
pub async fn confirm(State(app): State<AppState>, Posted { visitor, fields }: Posted) -> Page {
    let moved = || ApiError::conflict("this is not what you were shown: fill in the form again");
    let (agent, text, once) = (fields.one("agent")?, fields.one("terms")?, fields.one("once")?);
    let id: AgentId = agent.parse().map_err(|_| moved())?;
    let terms: Terms = serde_json::from_str(text).map_err(|_| moved())?;
    let summary = delegate::preview(&app.ctx, &visitor.by, id, terms.clone()).await.map_err(delegations::refused)?;
    // The event holds the hash of this text (`usecase::delegate`): consent is to these words.
    if !same_text(fields.one("shown")?, &visitor.tag(&app, &[agent, text, &summary])) {
        return Err(moved().into());
    }
    let hash = |parts: &[&str]| -> [u8; 32] {
        parts
            .iter()
            .fold(Sha256::new_with_prefix(b"procura/page-once/1\0"), |h, p| h.chain_update((p.len() as u64).to_be_bytes()).chain_update(p))
            .finalize()
            .into()
    };
    let once = Once { key: hash(&[&visitor.human.to_string(), once]), request: hash(&[agent, text]) };
    let granted = delegate::delegate(&app.ctx, &visitor.by, id, terms, Some(once)).await.map_err(delegations::refused)?;
    Ok(Redirect::to(&format!("/delegations?made={}", granted.delegation)).into_response())
}

/// The form as somebody typed it.
struct Typed {
    agent: String,
    rows: Vec<Row>,
    services: String,
    ttl_minutes: String,
    lasts_hours: String,
    depth: String,
    class: String,
}

impl Typed {
    fn read(fields: &Fields) -> Result<Self, ApiError> {
        let text = |name: &str| fields.one(name).map(str::to_owned);
        let mut rows = Vec::new();
        for n in 0..MAX_ROWS {
            let row = Row {
                tool: text(&format!("tool.{n}"))?,
                action: text(&format!("action.{n}"))?,
                resource: text(&format!("resource.{n}"))?,
                limits: text(&format!("limits.{n}"))?,
                unlimited: !text(&format!("unlimited.{n}"))?.is_empty(),
            };
            if !(row.tool.is_empty() && row.action.is_empty() && row.resource.is_empty() && row.limits.is_empty()) {
                rows.push(row);
            }
        }
        Ok(Self {
            agent: text("agent")?,
            rows,
            services: text("services")?,
            ttl_minutes: text("ttl_minutes")?,
            lasts_hours: text("lasts_hours")?,
            depth: text("depth")?,
            class: text("class")?,
        })
    }

    /// What it says, or the first thing that it does not.
    fn terms(&self, app: &AppState) -> Result<(AgentId, Terms), Problem> {
        let agent = self.agent.parse().map_err(|_| Problem::of("agent", "expected an agent: choose one of yours"))?;
        if self.rows.is_empty() {
            return Err(Problem::of("tool-0", "expected a capability: a tool, an action and resources"));
        }
        let capabilities = (0..).zip(&self.rows).map(|(n, row)| row.capability(n)).collect::<Result<_, _>>()?;
        let service = |s: &str| s.parse::<Name>().map_err(|e| Problem::of("services", e));
        let audiences = self.services.split([' ', ',']).filter(|s| !s.is_empty()).map(service).collect::<Result<_, _>>()?;
        let number = |text: &str, field: &str, max: u64| {
            let read = text.parse::<u64>().ok().filter(|n| (1..=max).contains(n));
            let got = || text.chars().take(20).collect::<String>();
            read.ok_or_else(|| Problem::of(field, format!("expected a whole number from 1 to {max}, got `{}`", got())))
        };
        let lasts_ms = number(&self.lasts_hours, "lasts", MAX_HOURS)? * 3_600_000;
        let terms = Terms {
            capabilities,
            audiences,
            ttl_secs: number(&self.ttl_minutes, "ttl", MAX_MINUTES)? * 60,
            not_after: app.ctx.now().plus(lasts_ms),
            depth: self.depth.parse().ok().filter(|d| *d <= 8).ok_or_else(|| Problem::of("depth", "expected a whole number from 0 to 8"))?,
            hops: Hops::Registered,
            possession: Possession::Proof,
            freshness_ms: 150,
            class_max: CLASSES.into_iter().find(|c| word(*c) == self.class).ok_or_else(|| Problem::of("class", "expected a class of data"))?,
        };
        Ok((agent, terms))
    }
}

impl Row {
    fn of(c: &Capability) -> Self {
        Self {
            tool: c.tool().to_string(),
            action: c.action().to_string(),
            resource: c.resource().to_string(),
            limits: c.limits().iter().filter_map(limit_text::text).collect::<Vec<_>>().join(" "),
            unlimited: c.limits().is_empty(),
        }
    }

    fn capability(&self, n: usize) -> Result<Capability, Problem> {
        let wrong = |field: &str, says: &dyn std::fmt::Display| Problem::of(format!("{field}-{n}"), says);
        let name = |text: &str, field: &str| text.parse::<Name>().map_err(|e| wrong(field, &e));
        let (tool, action) = (name(&self.tool, "tool")?, name(&self.action, "action")?);
        let resource: Pattern = self.resource.parse().map_err(|e| wrong("resource", &e))?;
        let limits: Result<Vec<Limit>, String> = self.limits.split([' ', ',']).filter(|s| !s.is_empty()).map(limit_text::at_most).collect();
        let limits = limits.map_err(|e| wrong("limits", &e))?;
        if limits.is_empty() != self.unlimited {
            return Err(wrong("limits", &"expected a limit, or \u{201c}without a limit\u{201d} said by name, not both"));
        }
        Capability::new(tool, action, resource, limits).map_err(|e| wrong("tool", &e))
    }
}

async fn again(app: &AppState, visitor: &Visitor, typed: Typed, problem: Problem) -> Page {
    let form = filled(app, visitor, typed, Some(problem)).await?;
    Ok::<Response, _>((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response())
}

async fn filled(app: &AppState, visitor: &Visitor, typed: Typed, problem: Option<Problem>) -> Result<Form, ApiError> {
    let most = delegate::maxima(&app.ctx, &visitor.by).await.map_err(delegations::refused)?;
    let agents = app.ctx.store.agents_of(visitor.human).await.map_err(ApiError::unavailable)?;
    let choice = |value: String, label: String, chosen: &str| Choice { chosen: value == chosen, value, label };
    let agents = agents.into_iter().filter(|a| a.state == AgentState::Active).map(|a| choice(a.id.to_string(), a.name.to_string(), &typed.agent)).collect();
    let classes = CLASSES.into_iter().filter(|c| *c <= most.class_max).map(|c| choice(word(c).to_owned(), format!("{c:?}"), &typed.class)).collect();
    // Into an address only what is an agent.
    let chosen = typed.agent.parse::<AgentId>().map_or_else(|_| String::new(), |a| a.to_string());
    let mut rows = typed.rows;
    rows.truncate(MAX_ROWS);
    if rows.is_empty() {
        rows.push(Row::default());
    }
    Ok(Form {
        frame: visitor.frame("Delegate", "/delegate"),
        problem,
        maxima: (0..).zip(&most.capabilities).map(|(n, c): (usize, _)| (c.to_string(), format!("/delegate?template={n}&agent={chosen}"))).collect(),
        agents,
        may_add: rows.len() < MAX_ROWS,
        rows,
        services: typed.services,
        ttl_minutes: typed.ttl_minutes,
        lasts_hours: typed.lasts_hours,
        depth: typed.depth,
        classes,
    })
}

const fn word(class: DataClass) -> &'static str {
    match class {
        DataClass::Public => "public",
        DataClass::Internal => "internal",
        DataClass::Confidential => "confidential",
        DataClass::Restricted => "restricted",
    }
}

const CLASSES: [DataClass; 4] = [DataClass::Public, DataClass::Internal, DataClass::Confidential, DataClass::Restricted];
/// Most capabilities of a delegation.
const MAX_ROWS: usize = 8;
const MAX_MINUTES: u64 = 366 * 24 * 60;
const MAX_HOURS: u64 = 366 * 24;
