//! The people of the demo at the authority's API, and the agents they registered.

use anyhow::{Context as _, bail};
use ed25519_dalek::{Signer as _, SigningKey};
use procura_sdk::client::AgentClient;
use procura_verifier::card::SignedCard;
use procura_verifier::challenge;
use procura_verifier::ids::{AgentId, DelegationId, Key, SystemClock, Tenant, VerifierId};
use serde_json::{Value, json};

use crate::cli::login::SavedSession;

/// Somebody who has signed in.
pub struct Person {
    http: reqwest::Client,
    session: SavedSession,
}

/// What the authority answered: a success's body, or status, code and sentence.
pub type Answer = Result<Value, (u16, String, String)>;

impl Person {
    /// Signs in with the command line's own flow and the demo's browser.
    pub async fn sign_in(http: &reqwest::Client, authority: &str, username: &str) -> anyhow::Result<Self> {
        let session = crate::cli::login::sign_in(http, authority, |url| super::browser::sign_in_at(url, username)).await?;
        Ok(Self { http: http.clone(), session })
    }

    /// The session: a credential.
    pub const fn session(&self) -> &SavedSession {
        &self.session
    }

    /// The pseudonym.
    pub fn human(&self) -> String {
        self.session.human.to_string()
    }

    /// One call on the API.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let answer = self.http.post(format!("{}{path}", self.session.authority)).bearer_auth(&self.session.session).json(body).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.context("the authority answered something that is not JSON")?;
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(if status.is_success() { Ok(body) } else { Err((status.as_u16(), text("code"), text("message"))) })
    }

    /// Registers an agent with a key, after showing that the key is held.
    pub async fn register(&self, name: &str, key: &SigningKey, tenant: &Tenant) -> anyhow::Result<Agent> {
        let public = Key::of(key);
        let drawn = expect(self.post("/v1/agents/challenges", &json!({})).await?)?;
        let mut nonce = [0; 32];
        hex::decode_to_slice(field(&drawn, "challenge")?, &mut nonce)?;
        let signature = hex::encode(key.sign(&challenge::message(tenant, &nonce, &public)).to_bytes());
        let body = json!({ "name": name, "key": public, "challenge": hex::encode(nonce), "signature": signature });
        let registered = expect(self.post("/v1/agents", &body).await?)?;
        let card = procura_sdk::client::card_from_text(field(&registered, "card")?)?;
        Ok(Agent { id: field(&registered, "agent")?.parse()?, key: key.clone(), card })
    }

    /// Enrols a verifier.
    pub async fn enrol(&self, audience: &str, key: &SigningKey) -> anyhow::Result<VerifierId> {
        let answer = expect(self.post("/v1/verifiers", &json!({ "audience": audience, "key": Key::of(key) })).await?)?;
        Ok(field(&answer, "verifier")?.parse()?)
    }

    /// Delegates; the answer holds id and summary.
    pub async fn delegate(&self, agent: &Agent, max_minor: i64) -> anyhow::Result<Answer> {
        let body = json!({
            "agent": agent.id,
            "audiences": ["payments"],
            "capabilities": [{ "tool": "payments", "action": "transfer", "resource": "acct/eu/*",
                "limits": [{ "kind": "at_most", "arg": "amount", "max": max_minor, "unit": "EUR" }] }],
            "ttl_secs": 3600,
            "depth": 2,
        });
        self.post("/v1/delegations", &body).await
    }

    /// Revokes something.
    pub async fn revoke(&self, what: &str, id: &str, reason: &str) -> anyhow::Result<Answer> {
        self.post("/v1/revocations", &json!({ "what": what, "id": id, "reason": reason })).await
    }
}

/// A registered agent.
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its key.
    pub key: SigningKey,
    /// Its card.
    pub card: SignedCard,
}

impl Agent {
    /// The agent at its authority.
    pub fn at(&self, http: &reqwest::Client, authority: &str) -> AgentClient<SystemClock> {
        AgentClient::new(http.clone(), authority, self.id, self.key.clone(), SystemClock)
    }
}

/// The body of a success.
pub fn expect(answer: Answer) -> anyhow::Result<Value> {
    match answer {
        Ok(body) => Ok(body),
        Err((status, code, message)) => bail!("the authority refused with {status} {code}: {message}"),
    }
}

/// A text field of an answer.
pub fn field<'a>(body: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    body.get(name).and_then(Value::as_str).with_context(|| format!("no `{name}` in the authority's answer"))
}

/// The delegation of an answer.
pub fn delegation(body: &Value) -> anyhow::Result<DelegationId> {
    Ok(field(body, "delegation")?.parse()?)
}
