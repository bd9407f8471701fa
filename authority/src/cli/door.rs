//! How a command reaches an authority: as the person who signed in, or over the socket in the data folder as its operator.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::login::{self, SavedSession};
use crate::app;

/// Which authority, and as whom.
#[derive(clap::Args, Debug, Clone)]
pub struct At {
    /// The data folder of an authority on this machine: ask it over its socket, as its operator
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
    http: reqwest::Client,
    base: String,
    session: Option<SavedSession>,
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
}

impl At {
    /// Opens the door.
    pub fn open(&self, http: &reqwest::Client) -> anyhow::Result<Door> {
        if let Some(data) = &self.data {
            let http = reqwest::Client::builder().unix_socket(data.join(app::SOCKET)).build()?;
            return Ok(Door { http, base: "http://localhost".to_owned(), session: None });
        }
        let session = login::load(&self.session_file()?)?;
        Ok(Door { http: http.clone(), base: session.authority.clone(), session: Some(session) })
    }

    /// The data folder, if one was named and nobody runs there.
    pub async fn at_rest(&self) -> Option<&std::path::Path> {
        let data = self.data.as_deref()?;
        let http = reqwest::Client::builder().unix_socket(data.join(app::SOCKET)).build().ok()?;
        if http.get("http://localhost/healthz").send().await.is_ok() { None } else { Some(data) }
    }

    /// Where the session is kept.
    pub fn session_file(&self) -> anyhow::Result<PathBuf> {
        self.session.clone().map_or_else(login::default_path, Ok)
    }
}

impl Door {
    /// The authority's URL, as agents know it.
    pub fn authority(&self) -> &str {
        &self.base
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    async fn send(&self, mut request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        if let Some(session) = &self.session {
            request = request.bearer_auth(&session.session);
        }
        let answer = request.send().await.context("the authority does not answer")?;
        let status = answer.status();
        if status == reqwest::StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let body: Value = answer.json().await.context("the authority answered something that is not JSON")?;
        if status.is_success() {
            return Ok(body);
        }
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        bail!(Refused { status: status.as_u16(), code: text("code"), message: text("message") })
    }
}

/// A text field of an answer.
pub fn field<'a>(body: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    body.get(name).and_then(Value::as_str).with_context(|| format!("no `{name}` in the authority's answer"))
}
