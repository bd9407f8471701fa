//! An agent's calls to a tool: present the sealed token, sign the call, learn the instance's challenge.

use std::sync::{Mutex, PoisonError};

use ed25519_dalek::SigningKey;
use procura_verifier::call::{Arguments, Call};
use procura_verifier::claims::{Audience, DataClass, Name, Resource};
use procura_verifier::ids::{Tenant, UtcMillis};
use procura_verifier::proof::Challenge;
use rand::CryptoRng;

use crate::client::{ClientError, Refused, bounded};
use crate::held::SealedToken;

/// What the agent wants done, in the words of the tool's mapping.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The tenant of the resource.
    pub tenant: Tenant,
    /// The tool.
    pub tool: Name,
    /// The action.
    pub action: Name,
    /// The resource.
    pub resource: Resource,
    /// Every argument.
    pub args: Arguments,
}

/// One instance of a tool.
pub struct ToolInstance {
    http: reqwest::Client,
    url: String,
    audience: Audience,
    challenge: Mutex<Challenge>,
}

/// What a tool answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answered {
    /// It was done; the tool's JSON.
    Done(String),
    /// It was not: status and the word that the tool tells this presenter (`spec/token.md`, causes).
    Refused {
        /// The HTTP status.
        status: u16,
        /// The cause, or `denied` for a stranger.
        code: String,
    },
}

impl ToolInstance {
    /// The instance at `url` that decides as `audience`.
    pub fn new(http: reqwest::Client, url: impl Into<String>, audience: Audience) -> Self {
        Self { http, url: url.into(), audience, challenge: Mutex::default() }
    }

    /// The audience of its proofs.
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// The proof for a call under the challenge known so far.
    pub fn prove(&self, token: &SealedToken, key: &SigningKey, wish: &Wish, now: UtcMillis, rng: &mut impl CryptoRng) -> String {
        let call = Call {
            tenant: &wish.tenant,
            audience: &self.audience,
            tool: &wish.tool,
            action: &wish.action,
            resource: &wish.resource,
            args: &wish.args,
            data_class: DataClass::Restricted,
        };
        token.prove(&call, key, &self.challenge(), now, rng)
    }

    /// Signs and sends a call to `path` with the arguments as body. Where the instance has drawn another challenge than the
    /// one known, signs once more.
    pub async fn call(
        &self,
        path: &str,
        token: &SealedToken,
        key: &SigningKey,
        wish: &Wish,
        now: UtcMillis,
        rng: &mut impl CryptoRng,
    ) -> Result<Answered, ClientError> {
        let known = self.challenge();
        let proof = self.prove(token, key, wish, now, rng);
        let first = self.send(path, &token.authorization(), Some(&proof), &wish.args).await?;
        // Only a refusal of the guard: behind it the effect may have begun, and a second proof would do it twice.
        let refused = matches!(first, Answered::Refused { status: 401 | 403, .. });
        if self.challenge() == known || !refused {
            return Ok(first);
        }
        let proof = self.prove(token, key, wish, now, rng);
        self.send(path, &token.authorization(), Some(&proof), &wish.args).await
    }

    /// Sends exactly these headers and arguments, and keeps the challenge that comes back.
    pub async fn send(&self, path: &str, authorization: &str, proof: Option<&str>, args: &Arguments) -> Result<Answered, ClientError> {
        let mut request = self.http.post(format!("{}{path}", self.url)).header("authorization", authorization).json(&args.to_json());
        if let Some(proof) = proof {
            request = request.header("procura-proof", proof);
        }
        let answer = request.send().await.map_err(ClientError::Unreachable)?;
        let status = answer.status();
        let told = answer.headers().get("procura-challenge").and_then(|v| v.to_str().ok()).and_then(challenge);
        if let Some(challenge) = told {
            *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = challenge;
        }
        let body = bounded(answer).await?;
        if status.is_success() {
            return Ok(Answered::Done(String::from_utf8_lossy(&body).into_owned()));
        }
        let refused: Refused = serde_json::from_slice(&body).map_err(|_| ClientError::Unexpected(format!("status {status} without an error body")))?;
        Ok(Answered::Refused { status: status.as_u16(), code: refused.code })
    }

    fn challenge(&self) -> Challenge {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn challenge(text: &str) -> Option<Challenge> {
    let mut out = [0; 16];
    if text.len() != 32 {
        return None;
    }
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}
