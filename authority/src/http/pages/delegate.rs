//! Delegating: a form, then what it comes to in plain words, then the grant of exactly that.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use procura_verifier::claims::{Capability, DataClass, Hops, Limit, Name, Pattern, Possession};
use procura_verifier::ids::AgentId;
use sha2::{Digest as _, Sha256};

use super::{ApiError, Fields, Frame, Page, Posted, Visitor, page, rendered, same_text};
use crate::domain::agent::AgentState;
use crate::domain::delegation::Terms;
use crate::domain::limit_text;
use crate::http::{AppState, delegations};
use crate::secret;
use crate::usecase::Once;
use crate::usecase::delegate;

#[derive(Template)]
#[template(path = "delegate.html")]
struct Form {
    frame: Frame,
    problem: Option<String>,
    /// What the visitor may delegate, in words.
    maxima: Vec<String>,
    agents: Vec<Choice>,
    rows: Vec<Row>,
    may_add: bool,
    services: String,
    ttl_minutes: String,
    lasts_hours: String,
    depth: String,
    classes: Vec<Choice>,
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

/// For which agent the form opens.
#[derive(serde::Deserialize)]
pub struct For {
    #[serde(default)]
    agent: Option<AgentId>,
}

/// `GET /delegate`: filled in with the most that the visitor may give.
pub async fn form(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<For>) -> Page {
    let most = delegate::maxima(&app.ctx, &visitor.by).await.map_err(delegations::refused)?;
    let row = |c: &Capability| Row {
        tool: c.tool().to_string(),
        action: c.action().to_string(),
        resource: c.resource().to_string(),
        limits: c.limits().iter().filter_map(limit_text::text).collect::<Vec<_>>().join(" "),
        unlimited: false,
    };
    let mut services: Vec<_> = most.capabilities.iter().map(|c| c.tool().to_string()).collect();
    services.dedup();
    let typed = Typed {
        agent: asked.agent.map(|a| a.to_string()).unwrap_or_default(),
        rows: most.capabilities.iter().take(1).map(row).collect(),
        services: services.into_iter().take(1).collect(),
        ttl_minutes: (most.max_ttl_secs / 60).min(60).to_string(),
        lasts_hours: "8".to_owned(),
        depth: "0".to_owned(),
        class: word(most.class_max).to_owned(),
    };
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
            return again(&app, &visitor, typed, e.said().1.to_owned()).await;
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
    fn terms(&self, app: &AppState) -> Result<(AgentId, Terms), String> {
        let agent = self.agent.parse().map_err(|_| "expected an agent: choose one of yours".to_owned())?;
        let capabilities = (1..).zip(&self.rows).map(|(n, row)| row.capability().map_err(|e| format!("capability {n}: {e}"))).collect::<Result<_, _>>()?;
        let service = |s: &str| s.parse::<Name>().map_err(|e| format!("services: {e}"));
        let audiences = self.services.split([' ', ',']).filter(|s| !s.is_empty()).map(service).collect::<Result<_, _>>()?;
        let number = |text: &str, what: &str, max: u64| {
            let read = text.parse::<u64>().ok().filter(|n| (1..=max).contains(n));
            read.ok_or_else(|| format!("{what}: expected a whole number from 1 to {max}, got `{}`", text.chars().take(20).collect::<String>()))
        };
        let lasts_ms = number(&self.lasts_hours, "the delegation ends after", MAX_HOURS)? * 3_600_000;
        let terms = Terms {
            capabilities,
            audiences,
            ttl_secs: number(&self.ttl_minutes, "each token lives", MAX_MINUTES)? * 60,
            not_after: app.ctx.now().plus(lasts_ms),
            depth: self.depth.parse().map_err(|_| "passing on: expected a whole number from 0 to 8".to_owned())?,
            hops: Hops::Registered,
            possession: Possession::Proof,
            freshness_ms: 150,
            class_max: CLASSES.into_iter().find(|c| word(*c) == self.class).ok_or("expected a class of data")?,
        };
        Ok((agent, terms))
    }
}

impl Row {
    fn capability(&self) -> Result<Capability, String> {
        let name = |text: &str, what: &str| text.parse::<Name>().map_err(|e| format!("{what}: {e}"));
        let resource: Pattern = self.resource.parse().map_err(|e| format!("resources: {e}"))?;
        let limits: Vec<Limit> = self.limits.split([' ', ',']).filter(|s| !s.is_empty()).map(limit_text::at_most).collect::<Result<_, _>>()?;
        if limits.is_empty() != self.unlimited {
            return Err("expected a limit, or \u{201c}without a limit\u{201d} said by name, not both".to_owned());
        }
        Capability::new(name(&self.tool, "tool")?, name(&self.action, "action")?, resource, limits).map_err(|e| e.to_string())
    }
}

async fn again(app: &AppState, visitor: &Visitor, typed: Typed, problem: String) -> Page {
    let form = filled(app, visitor, typed, Some(problem)).await?;
    Ok::<Response, _>((StatusCode::UNPROCESSABLE_ENTITY, rendered(&form)).into_response())
}

async fn filled(app: &AppState, visitor: &Visitor, typed: Typed, problem: Option<String>) -> Result<Form, ApiError> {
    let most = delegate::maxima(&app.ctx, &visitor.by).await.map_err(delegations::refused)?;
    let agents = app.ctx.store.agents_of(visitor.human).await.map_err(ApiError::unavailable)?;
    let choice = |value: String, label: String, chosen: &str| Choice { chosen: value == chosen, value, label };
    let agents = agents.into_iter().filter(|a| a.state == AgentState::Active).map(|a| choice(a.id.to_string(), a.name.to_string(), &typed.agent)).collect();
    let classes = CLASSES.into_iter().filter(|c| *c <= most.class_max).map(|c| choice(word(c).to_owned(), format!("{c:?}"), &typed.class)).collect();
    let mut rows = typed.rows;
    rows.truncate(MAX_ROWS);
    if rows.is_empty() {
        rows.push(Row::default());
    }
    Ok(Form {
        frame: visitor.frame("Delegate", "/delegate"),
        problem,
        maxima: most.capabilities.iter().map(ToString::to_string).collect(),
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
