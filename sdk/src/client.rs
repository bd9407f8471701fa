//! An agent's calls to its authority: authenticate by key, mint, fetch a card.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::card::SignedCard;
use procura_verifier::ids::{AgentId, Clock, DelegationId};
use procura_verifier::wire::Canonical as _;
use rand::CryptoRng;

use crate::held::HeldToken;

/// An agent at its authority.
pub struct AgentClient<C> {
    http: reqwest::Client,
    authority: String,
    agent: AgentId,
    key: SigningKey,
    clock: C,
}

/// Why a call to the authority gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authority did not answer; trying again may help.
    #[error("authority did not answer: {0}")]
    Unreachable(#[source] reqwest::Error),
    /// The authority refused; trying the same again does not help, unless `code` is `unavailable`.
    #[error("authority refused with {status} `{code}`: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// The sentence for a person.
        message: String,
    },
    /// The answer is not what `spec/http.md` says.
    #[error("authority answered something unexpected: {0}")]
    Unexpected(String),
}

/// What to mint.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MintRequest {
    /// The delegation to mint under.
    pub delegation: DelegationId,
    /// How long the token should live; the delegation's rest if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u64>,
}

impl<C: Clock> AgentClient<C> {
    /// A client for the agent whose key this is. `http` is built by the caller (TLS provider, proxies, timeouts).
    pub fn new(http: reqwest::Client, authority: impl Into<String>, agent: AgentId, key: SigningKey, clock: C) -> Self {
        Self { http, authority: authority.into(), agent, key, clock }
    }

    /// The agent's key.
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The agent.
    pub const fn agent(&self) -> AgentId {
        self.agent
    }

    /// Mints a token: it is committed to the authority's log before it is answered.
    pub async fn mint(&self, request: &MintRequest, rng: &mut impl CryptoRng) -> Result<HeldToken, ClientError> {
        let mut body = serde_json::to_value(request).map_err(|e| ClientError::Unexpected(e.to_string()))?;
        self.add_assertion(&mut body, rng);
        let answer: Minted = self.post("/v1/token", &body).await?;
        HeldToken::from_text(&answer.token).map_err(|e| ClientError::Unexpected(e.to_string()))
    }

    /// A fresh agent card, good for at most 24 hours.
    pub async fn card(&self, rng: &mut impl CryptoRng) -> Result<SignedCard, ClientError> {
        let mut body = serde_json::json!({});
        self.add_assertion(&mut body, rng);
        let answer: Carded = self.post("/v1/card", &body).await?;
        card_from_text(&answer.card)
    }

    /// `private_key_jwt` (RFC 7523): audience is the issuer, one minute, used once.
    fn add_assertion(&self, body: &mut serde_json::Value, rng: &mut impl CryptoRng) {
        let mut jti = [0; 16];
        rng.fill_bytes(&mut jti);
        let now = self.clock.wall().secs();
        let claims = serde_json::json!({ "iss": self.agent, "sub": self.agent, "aud": self.authority, "iat": now, "exp": now + 60, "jti": BASE64.encode(jti) });
        let signed = format!("{}.{}", BASE64.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#), BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(self.key.sign(signed.as_bytes()).to_bytes());
        if let Some(body) = body.as_object_mut() {
            body.insert("client_assertion_type".into(), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into());
            body.insert("client_assertion".into(), format!("{signed}.{signature}").into());
        }
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, ClientError> {
        let answer = self.http.post(format!("{}{path}", self.authority)).json(body).send().await.map_err(ClientError::Unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(ClientError::Unreachable)?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| ClientError::Unexpected(e.to_string()));
        }
        let refused: Refused = serde_json::from_slice(&bytes).map_err(|_| ClientError::Unexpected(format!("status {status} without an error body")))?;
        Err(ClientError::Refused { status: status.as_u16(), code: refused.code, message: refused.message })
    }
}

/// A card from its text form, Base64url without padding.
pub fn card_from_text(text: &str) -> Result<SignedCard, ClientError> {
    let bytes = BASE64.decode(text).map_err(|_| ClientError::Unexpected("card is not base64url".to_owned()))?;
    SignedCard::from_bytes(&bytes).map_err(|e| ClientError::Unexpected(e.to_string()))
}

/// The answer of `POST /v1/token` (`spec/http/token.json`).
#[derive(serde::Deserialize)]
pub(crate) struct Minted {
    pub(crate) token: String,
}

/// The answer of `POST /v1/card` (`spec/http/card.json`).
#[derive(serde::Deserialize)]
pub(crate) struct Carded {
    pub(crate) card: String,
}

/// The one error form (`spec/http/error.json`).
#[derive(serde::Deserialize)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) message: String,
}
