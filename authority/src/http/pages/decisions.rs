//! What tools decided: a list with filters, and the same as it happens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use procura_verifier::ids::AgentId;
use reqwest::Url;

use super::{ApiError, Frame, Page, PageError, Visitor, live, page, stamp};
use crate::http::AppState;
use crate::usecase::decisions::{self, Decision, DecisionsError, MAX_AT_ONCE, One, What};

#[derive(Template)]
#[template(path = "decisions.html")]
struct Decisions {
    frame: Frame,
    agents: Vec<Choice>,
    tools: Vec<Choice>,
    verdicts: Vec<Choice>,
    rows: Vec<Row>,
    auditor: bool,
    is_filtered: bool,
    /// Where the next ones come from; none on an older page.
    stream: Option<String>,
    older: Option<String>,
    here: String,
}

struct Choice {
    value: String,
    label: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "decision.html")]
struct Piece {
    row: Row,
    auditor: bool,
}

/// One decision in words.
struct Row {
    leaf: u64,
    at: String,
    verdict: &'static str,
    class: &'static str,
    /// Who, through whom, asked whom for what.
    who: String,
    through: Vec<String>,
    what: String,
    whereto: String,
    delegation: String,
}

/// What the visitor wants to see.
#[derive(serde::Deserialize)]
pub struct Asked {
    #[serde(default)]
    agent: String,
    #[serde(default)]
    tool: String,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    before: Option<u64>,
    #[serde(default)]
    after: Option<u64>,
}

/// `GET /decisions?agent=&tool=&verdict=&before=`
pub async fn list(State(app): State<AppState>, visitor: Visitor, Query(asked): Query<Asked>) -> Page {
    // What comes while the list is read comes in the stream, which goes on after the newest that was read.
    let read = decisions::decisions(&app.ctx, &visitor.by, 0..asked.before.unwrap_or(u64::MAX), MAX_AT_ONCE).await.map_err(refused)?;
    let newest = read.first().map_or(0, |d| d.leaf);
    let scanned_to = read.last().map(|d| d.leaf).filter(|_| read.len() >= MAX_AT_ONCE as usize);
    let mut names = Names::default();
    // One's own are there before they have done anything: the stream fills no list of choices.
    let own = app.ctx.store.agents_of(visitor.human).await.map_err(ApiError::unavailable)?;
    let mut agents: BTreeMap<_, _> = own.into_iter().map(|a| (a.id.to_string(), a.name.to_string())).collect();
    let mut tools = BTreeSet::new();
    for one in read.iter().filter_map(Decision::one) {
        tools.insert(one.tool.to_string());
        for agent in one.hops.iter().filter_map(|h| h.agent) {
            agents.insert(agent.to_string(), names.of(&app, agent).await?);
        }
    }
    let mut matching: Vec<&Decision> = read.iter().filter(|d| asked.matches(d)).collect();
    let more = matching.len() > PAGE;
    matching.truncate(PAGE);
    let older = if more { matching.last().map(|d| d.leaf) } else { scanned_to };
    let mut rows = Vec::with_capacity(matching.len());
    for d in matching {
        rows.push(row(&app, d, &mut names).await?);
    }
    let stream = asked.before.is_none().then(|| asked.url("/decisions/stream", None, Some(newest)));
    let choice = |value: String, label: String, chosen: &str| Choice { chosen: value == chosen, value, label };
    let verdicts = ["allowed", "denied"].into_iter().chain(CAUSES).map(|v| choice(v.to_owned(), label(v), &asked.verdict)).collect();
    page(&Decisions {
        frame: visitor.frame("Decisions", "/decisions"),
        agents: kept(agents, &asked.agent).into_iter().map(|(id, name)| choice(id, name, &asked.agent)).collect(),
        tools: kept(tools.into_iter().map(|t| (t.clone(), t)).collect(), &asked.tool).into_iter().map(|(v, l)| choice(v, l, &asked.tool)).collect(),
        verdicts,
        auditor: visitor.is_auditor(),
        is_filtered: !(asked.agent.is_empty() && asked.tool.is_empty() && asked.verdict.is_empty()),
        rows,
        stream,
        older: older.map(|leaf| asked.url("/decisions", Some(leaf), None)),
        here: asked.url("/decisions", None, None),
    })
}

/// `GET /decisions/stream?…&after=`: what is taken in from now on, a piece of the page each.
pub async fn stream(State(app): State<AppState>, visitor: Visitor, headers: HeaderMap, Query(asked): Query<Asked>) -> Result<Response, PageError> {
    let seat = app.live.seat()?;
    // Opened again after a while, the browser says what it has.
    let has = headers.get("last-event-id").and_then(|h| h.to_str().ok()).and_then(|h| h.parse().ok());
    let after = has.into_iter().chain(asked.after).max().unwrap_or(0);
    let looks = Looks { app, visitor, asked, after, size: 0, names: Names::default() };
    let pieces = stream::unfold(looks, |mut looks| async {
        let pieces = looks.next().await?;
        Some((pieces, looks))
    });
    Ok(live::stream(seat, pieces.flat_map(stream::iter)))
}

struct Looks {
    app: AppState,
    visitor: Visitor,
    asked: Asked,
    /// Up to where everything was sent.
    after: u64,
    /// Of the log, when it was last looked at.
    size: u64,
    names: Names,
}

impl Looks {
    /// The next pieces; none when they cannot be had: the browser opens the stream anew.
    async fn next(&mut self) -> Option<Vec<axum::response::sse::Event>> {
        loop {
            let size = self.app.ctx.writer.checkpoint().tree.size;
            if size == self.size {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            self.size = size;
            let news = self.after.saturating_add(1)..size;
            let read = decisions::decisions(&self.app.ctx, &self.visitor.by, news, AT_ONCE).await.ok()?;
            // Looked at, whether or not anything of it is for this visitor: not again.
            self.after = size.saturating_sub(1).max(self.after);
            let mut pieces = Vec::new();
            for d in read.iter().rev() {
                if self.asked.matches(d) {
                    let row = row(&self.app, d, &mut self.names).await.ok()?;
                    pieces.push(live::piece("row", &Piece { row, auditor: self.visitor.is_auditor() }).id(d.leaf.to_string()));
                }
            }
            if !pieces.is_empty() {
                let sentence = if pieces.len() == 1 { "One new decision.".to_owned() } else { format!("{} new decisions.", pieces.len()) };
                pieces.push(live::status(&sentence));
                return Some(pieces);
            }
        }
    }
}

impl Asked {
    fn matches(&self, d: &Decision) -> bool {
        let wants = |field: &str, is: &dyn Fn(&str) -> bool| field.is_empty() || is(field);
        let one = d.one();
        wants(&self.agent, &|a| one.is_some_and(|o| o.hops.iter().any(|h| h.agent.is_some_and(|id| id.to_string() == a))))
            && wants(&self.tool, &|t| one.is_some_and(|o| o.tool.as_str() == t))
            && wants(&self.verdict, &|v| match &d.what {
                What::One(one) => match one.verdict {
                    Ok(()) => v == "allowed",
                    Err(cause) => v == "denied" || v == cause.word(),
                },
                What::Counted(counts) => v == "denied" || counts.iter().any(|(word, _)| word == v),
                What::NoToken => v == "denied" || v == "signature",
            })
    }

    /// The same filters elsewhere.
    fn url(&self, path: &str, before: Option<u64>, after: Option<u64>) -> String {
        let texts = [("agent", &self.agent), ("tool", &self.tool), ("verdict", &self.verdict)].map(|(name, text)| (name, text.clone()));
        let places = [("before", before), ("after", after)].map(|(name, place)| (name, place.map_or_else(String::new, |p| p.to_string())));
        let said = texts.into_iter().chain(places).filter(|(_, value)| !value.is_empty());
        let query = Url::parse_with_params("x:", said).ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default();
        [path, "?", &query].concat()
    }
}

/// What was chosen stays among the choices though nothing of it is shown.
fn kept(mut choices: BTreeMap<String, String>, chosen: &str) -> BTreeMap<String, String> {
    if !chosen.is_empty() && chosen.len() <= MAX_CHOICE {
        choices.entry(chosen.to_owned()).or_insert_with(|| chosen.to_owned());
    }
    choices
}

/// Agents' names, each asked for once.
#[derive(Default)]
pub(super) struct Names(HashMap<AgentId, String>);

impl Names {
    pub(super) async fn of(&mut self, app: &AppState, id: AgentId) -> Result<String, ApiError> {
        if let Some(name) = self.0.get(&id) {
            return Ok(name.clone());
        }
        let found = app.ctx.store.find_agent(id).await.map_err(ApiError::unavailable)?;
        let name = found.map_or_else(|| id.to_string(), |a| a.name.to_string());
        self.0.insert(id, name.clone());
        Ok(name)
    }
}

impl Decision {
    fn one(&self) -> Option<&One> {
        if let What::One(one) = &self.what { Some(one) } else { None }
    }
}

async fn row(app: &AppState, d: &Decision, names: &mut Names) -> Result<Row, ApiError> {
    let at = stamp(d.at);
    let denied = |word: &'static str| (word, "bad");
    Ok(match &d.what {
        What::One(one) => {
            let mut hops = Vec::with_capacity(one.hops.len());
            for hop in &one.hops {
                hops.push(match hop.agent {
                    Some(agent) => names.of(app, agent).await?,
                    None => format!("key {}\u{2026}", hop.key.to_string().chars().take(8).collect::<String>()),
                });
            }
            let who = hops.pop().unwrap_or_default();
            hops.reverse();
            let (verdict, class) = one.verdict.map_or_else(|cause| denied(cause.word()), |()| ("allowed", "good"));
            let arguments = if one.arguments.is_empty() { String::new() } else { format!(", {}", one.arguments.join(", ")) };
            Row {
                leaf: d.leaf,
                at,
                verdict,
                class,
                who,
                through: hops,
                what: format!("{}: {} on {}{arguments}", one.tool, one.action, one.resource),
                whereto: one.audience.to_string(),
                delegation: one.delegation.to_string(),
            }
        }
        What::Counted(counts) => {
            let total: u64 = counts.iter().map(|(_, n)| n).sum();
            let what = counts.iter().map(|(word, n)| format!("{n} {}", label(word))).collect::<Vec<_>>().join(", ");
            let who = format!("{total} of nobody known");
            Row { leaf: d.leaf, at, verdict: "denied", class: "bad", who, through: vec![], what, whereto: d.verifier.to_string(), delegation: String::new() }
        }
        What::NoToken => Row {
            leaf: d.leaf,
            at,
            verdict: "signature",
            class: "bad",
            who: "nobody known".to_owned(),
            through: vec![],
            what: "with bytes that are no token under the present key list".to_owned(),
            whereto: d.verifier.to_string(),
            delegation: String::new(),
        },
    })
}

/// A cause as people read it.
fn label(word: &str) -> String {
    word.replace('_', " ")
}

fn refused(e: DecisionsError) -> ApiError {
    match e {
        DecisionsError::Forbidden => ApiError::forbidden(e.to_string()),
        DecisionsError::Unavailable(e) => ApiError::unavailable(e),
    }
}

/// What a receipt can say (law 11).
const CAUSES: [&str; 17] = [
    "malformed",
    "signature",
    "tenant",
    "audience",
    "holder",
    "revoked",
    "not_yet_valid",
    "expired",
    "scope",
    "limit",
    "approval",
    "frozen",
    "stale",
    "replay",
    "budget",
    "engine_limit",
    "unavailable",
];
/// Most rows of a page.
const PAGE: usize = 50;
/// Most records that one look of a stream reads: what came beyond them in a fifth of a second is on the page when it is opened again.
const AT_ONCE: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(200);
const MAX_CHOICE: usize = 64;
