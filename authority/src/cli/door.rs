//! How a command reaches an authority: as the person who signed in, or as its operator, over the socket in the data folder
//! or, where nobody runs, by opening the folder itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt as _;

use super::login::{self, SavedSession};
use crate::app;

/// Which authority, and as whom.
#[derive(clap::Args, Debug, Clone)]
pub struct At {
    /// The data folder of an authority on this machine: ask it over its socket, or open it where nobody runs; as its operator
    #[arg(long, conflicts_with = "session")]
    data: Option<PathBuf>,
    /// The session file that `procura login` wrote
    #[arg(long)]
    session: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A door to one authority's API.
pub struct Door {
    way: Way,
    base: String,
    session: Option<SavedSession>,
}

enum Way {
    Net(reqwest::Client),
    /// The API in this process, on a folder that nobody else has.
    Folder(Box<Router>),
}

/// The authority answered and refused.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({status} {code})")]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// The sentence.
    pub message: String,
    /// What its log knows the request by.
    pub request_id: Option<String>,
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("{what} does not answer: {why}")]
pub struct Unreachable {
    /// Who should have.
    pub what: String,
    /// The last cause.
    pub why: String,
}

impl Unreachable {
    /// From what the HTTP client says: its last cause is the one that helps.
    pub fn from_http(what: impl Into<String>, e: &reqwest::Error) -> Self {
        let mut why: &dyn std::error::Error = e;
        while let Some(next) = why.source() {
            why = next;
        }
        Self { what: what.into(), why: why.to_string() }
    }
}

impl At {
    /// The operator of a data folder.
    pub fn on(data: &Path) -> Self {
        Self { data: Some(data.to_owned()), session: None, json: false }
    }

    /// Opens the door.
    pub async fn open(&self, http: &reqwest::Client) -> anyhow::Result<Door> {
        if let Some(data) = &self.data {
            let base = "http://localhost".to_owned();
            return match running(data).await? {
                Some(http) => Ok(Door { way: Way::Net(http), base, session: None }),
                None => Ok(Door { way: Way::Folder(Box::new(app::api_at_rest(data).await?)), base, session: None }),
            };
        }
        let session = login::load(&self.session_file()?)?;
        Ok(Door { way: Way::Net(http.clone()), base: session.authority.clone(), session: Some(session) })
    }

    /// Where the session is kept.
    pub fn session_file(&self) -> anyhow::Result<PathBuf> {
        self.session.clone().map_or_else(login::default_path, Ok)
    }

    /// The trust file beside the data folder that was named.
    pub fn trust_file(&self) -> Option<PathBuf> {
        self.data.as_ref().map(|d| d.join("trust.json"))
    }
}

/// A client for the authority that runs on this folder; none if none does.
async fn running(data: &Path) -> anyhow::Result<Option<reqwest::Client>> {
    if !data.is_dir() {
        bail!("{} is not an authority's data folder", data.display());
    }
    let http = reqwest::Client::builder().unix_socket(data.join(app::SOCKET)).timeout(LONGEST).build()?;
    // Whether it is well is not asked: whoever answers has the folder.
    Ok(http.get("http://localhost/healthz").timeout(SOON).send().await.is_ok().then_some(http))
}

impl Door {
    /// Over the socket of whoever runs on this folder; none if nobody does.
    pub async fn running_on(data: &Path) -> anyhow::Result<Option<Self>> {
        let http = if data.is_dir() { running(data).await? } else { None };
        Ok(http.map(|http| Self { way: Way::Net(http), base: "http://localhost".to_owned(), session: None }))
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        json(&self.bytes(Method::GET, path, None).await?)
    }

    /// `GET` of something that is not JSON.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.bytes(Method::GET, path, None).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        json(&self.bytes(Method::POST, path, Some(body)).await?)
    }

    async fn bytes(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Vec<u8>> {
        let (status, answer) = match &self.way {
            Way::Net(http) => self.over_net(http, method, path, body).await?,
            Way::Folder(api) => in_process(api, method, path, body).await?,
        };
        if status.is_success() {
            return Ok(answer);
        }
        let said: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let text = |field: &str| said.get(field).and_then(Value::as_str).map(str::to_owned);
        bail!(Refused {
            status: status.as_u16(),
            code: text("code").unwrap_or_else(|| "refused".to_owned()),
            message: text("message").unwrap_or_else(|| "the authority refused and did not say why".to_owned()),
            request_id: text("request_id"),
        })
    }

    async fn over_net(&self, http: &reqwest::Client, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let mut request = http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(session) = &self.session {
            request = request.bearer_auth(&session.session);
        }
        let what = || if self.session.is_some() { format!("the authority at {}", self.base) } else { "the authority".to_owned() };
        let answer = request.send().await.map_err(|e| Unreachable::from_http(what(), &e))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|e| Unreachable::from_http(what(), &e))?;
        Ok((status, bytes.into()))
    }
}

async fn in_process(api: &Router, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    let mut request = Request::builder().method(method).uri(path);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(body.map_or_else(Body::empty, |b| Body::from(b.to_string()))).with_context(|| format!("`{path}` is not a path"))?;
    // A router has no error of its own.
    let answer = match api.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    };
    let status = answer.status();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.context("the answer broke off")?;
    Ok((status, bytes.into()))
}

fn json(bytes: &[u8]) -> anyhow::Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).context("the authority answered something that is not JSON")
}

/// A text field of an answer.
pub fn field<'a>(body: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    body.get(name).and_then(Value::as_str).with_context(|| format!("no `{name}` in the authority's answer"))
}

/// A number of an answer, 0 where there is none.
pub fn number(body: &Value, name: &str) -> u64 {
    body.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// A list of an answer.
pub fn list<'a>(body: &'a Value, name: &str) -> &'a [Value] {
    body.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A person who types a command waits no longer.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(600);
/// Whoever runs answers this at once.
const SOON: std::time::Duration = std::time::Duration::from_secs(5);
