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
    /// The authority refused; trying the same again does not help, unless `code` is `unavailable` or `rate_limited`.
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

    fn add_assertion(&self, body: &mut serde_json::Value, rng: &mut impl CryptoRng) {
        let signed = assertion(&self.authority, self.agent, &self.key, &self.clock, rng);
        if let Some(body) = body.as_object_mut() {
            body.insert("client_assertion_type".into(), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into());
            body.insert("client_assertion".into(), signed.into());
        }
    }

    async fn post<T: serde::de::DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, ClientError> {
        let answer = self.http.post(format!("{}{path}", self.authority)).json(body).send().await.map_err(ClientError::Unreachable)?;
        let status = answer.status();
        let bytes = bounded(answer).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|e| ClientError::Unexpected(e.to_string()));
        }
        let refused: Refused = serde_json::from_slice(&bytes).map_err(|_| ClientError::Unexpected(format!("status {status} without an error body")))?;
        Err(ClientError::Refused { status: status.as_u16(), code: refused.code, message: refused.message })
    }
}

/// `private_key_jwt` (RFC 7523): audience is the issuer, one minute, used once.
pub fn assertion(authority: &str, agent: AgentId, key: &SigningKey, clock: &impl Clock, rng: &mut impl CryptoRng) -> String {
    let mut jti = [0; 16];
    rng.fill_bytes(&mut jti);
    let now = clock.wall().secs();
    let claims = serde_json::json!({ "iss": agent, "sub": agent, "aud": authority, "iat": now, "exp": now + 60, "jti": BASE64.encode(jti) });
    let signed = format!("{}.{}", BASE64.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#), BASE64.encode(claims.to_string()));
    let signature = BASE64.encode(key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

/// The body of an answer, at most 1 MiB.
pub(crate) async fn bounded(mut answer: reqwest::Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(ClientError::Unreachable)? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(ClientError::Unexpected(format!("answer is longer than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

const MAX_ANSWER_BYTES: usize = 1024 * 1024;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The authority's tests hold its answers to the same files: drift fails on one side or the other.
    #[test]
    fn the_answers_of_the_spec_are_read() {
        let file = |name: &str| std::fs::read(format!("{}/../spec/http/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert_eq!(serde_json::from_slice::<Minted>(&file("token")).unwrap().token, "CgIIAQ");
        assert_eq!(serde_json::from_slice::<Carded>(&file("card")).unwrap().card, "g1hA");
        let refused: Refused = serde_json::from_slice(&file("error")).unwrap();
        assert_eq!(refused.code, "forbidden");
        assert!(refused.message.contains("beyond your maximum"));
    }

    #[test]
    fn an_assertion_is_for_the_issuer_short_and_signed() {
        struct At(u64);
        impl Clock for At {
            fn boot(&self) -> procura_verifier::ids::BootTime {
                procura_verifier::ids::BootTime(0)
            }
            fn wall(&self) -> procura_verifier::ids::UtcMillis {
                procura_verifier::ids::UtcMillis(self.0)
            }
        }
        use rand::SeedableRng as _;
        let key = SigningKey::from_bytes(&[7; 32]);
        let signed = assertion("http://127.0.0.1:1", AgentId::from_bytes([1; 16]), &key, &At(5_000), &mut rand::rngs::StdRng::seed_from_u64(1));
        let parts: Vec<_> = signed.split('.').collect();
        let claims: serde_json::Value = serde_json::from_slice(&BASE64.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(claims["aud"], "http://127.0.0.1:1");
        assert_eq!((claims["iat"].as_u64(), claims["exp"].as_u64()), (Some(5), Some(65)));
        let signature: [u8; 64] = BASE64.decode(parts[2]).unwrap().try_into().unwrap();
        assert!(procura_verifier::ids::Key::of(&key).verifies(format!("{}.{}", parts[0], parts[1]).as_bytes(), &signature));
    }
}
