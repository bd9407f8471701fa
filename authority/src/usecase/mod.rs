//! What the authority does, one verb a file. Use cases see the store's trait, the writer and the signer; never a database, never HTTP.

pub mod acknowledge;
pub mod bootstrap;
pub mod card;
pub mod confirm_delegation;
pub mod coverage;
pub mod decisions;
pub mod delegate;
pub mod drill;
pub mod end_keys;
pub mod enroll_verifier;
pub mod events;
pub mod inspect;
pub mod inspect_agent;
pub mod issue;
pub mod parts;
pub mod prove;
pub mod publish_keys;
pub mod receipts;
pub mod recover;
pub mod register_agent;
pub mod resume_agent;
pub mod retire_verifier;
pub mod revoke;
pub mod rotate_key;
mod seen;
pub mod session;
pub mod show_agent;
pub mod sign_in;
pub mod stop_agent;
pub mod take_back;
pub mod tree;
pub mod watched;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod killed_root;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod replays;

use std::sync::{Arc, Mutex, PoisonError};

use procura_verifier::claims::Generations;
use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{AgentId, Clock, DelegationId, HumanId, Tenant, UtcMillis};
use rand::RngCore;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::delegation::scopes;
use crate::domain::grants::Grants;
use crate::domain::opening::Opening;
use crate::domain::principal::Principal;
use crate::feed::Feed;
use crate::keys::Keys;
use crate::log::event::{self, Event};
use crate::metrics::Metrics;
use crate::seal::Seals;
use crate::signer::Signer;
use crate::store::{Answer, Placed, Require, Row, Store, StoreError};
use crate::watch::Watch;
use crate::writer::{WriteError, Writer};

/// What every use case works with: one tenant's. Cheap to share behind an `Arc`.
pub struct Context {
    /// Whose authority.
    pub tenant: Tenant,
    /// What is durable.
    pub store: Arc<dyn Store>,
    /// The only way to change it.
    pub writer: Writer,
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// What time it is. The authority's wall clock *is* authority UTC.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, seeds and salts.
    pub rng: Mutex<Box<dyn RngCore + Send>>,
    /// The key list in force: [`Keys::load`] it at the moment of need.
    pub keys: Arc<Keys>,
    /// Who may delegate what.
    pub grants: Grants,
    /// Seals what is handed out and must come back, under a key that all replicas share.
    pub seals: Seals,
    /// The feed.
    pub feed: Feed,
    /// Who listens to it, and how far each has applied it.
    pub watch: Watch,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The store or the writer cannot serve. Our fault; the caller may try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too much to do at the moment; nothing was done.
    #[error("too many requests at once, try again")]
    Busy,
    /// The store does not answer, or what happened is not known.
    #[error("unavailable: {0}")]
    Store(String),
}

impl From<StoreError> for Unavailable {
    fn from(e: StoreError) -> Self {
        Self::Store(e.to_string())
    }
}

impl Unavailable {
    /// For write errors that no use case expects: a condition it did not set, or the store itself.
    fn from_write(e: WriteError) -> Self {
        match e {
            WriteError::Busy => Self::Busy,
            WriteError::Unavailable(why) => Self::Store(why),
            WriteError::Refused(refused) => Self::Store(refused.to_string()),
        }
    }
}

/// A request that may come twice: the same key with the same request gets the same answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Once {
    /// Hash of who asks and the idempotency key.
    pub key: [u8; 32],
    /// Hash of the request.
    pub request: [u8; 32],
}

/// The key was used with another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the idempotency key was used with another request")]
pub struct OtherRequest;

/// A human, tenant or everything was killed since this person signed in. They sign in again before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("your sign-in was revoked: sign in again")]
pub struct SignedOut;

/// What the commit of a person's act requires: that no kill came between their sign-in and this transaction (P5). Refused
/// as [`crate::store::Refused::Killed`]. Put first, so that the killed hear that and nothing else.
pub fn standing(by: &Principal) -> Vec<Require> {
    match by {
        Principal::Human { id, generations, .. } => generations.of(*id).map(|(scope, g)| Require::NotBelowFloor(scope, g)).to_vec(),
        Principal::Agent(_) | Principal::LocalOperator | Principal::Verifier(_) => Vec::new(),
    }
}

impl Context {
    /// Authority UTC.
    pub fn now(&self) -> UtcMillis {
        self.clock.wall()
    }

    /// Fresh random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
        bytes
    }

    /// A signed leaf, to be held in memory until it is committed.
    fn leaf(&self, event: impl Into<Event>, at: UtcMillis) -> Result<Vec<u8>, Unavailable> {
        // One leaf outside its key's window and no auditor could open the log ever again: the signer finds a key or refuses.
        let signed = self.signer.leaf(&event.into(), &self.tenant, at).map_err(|e| Unavailable::Store(e.to_string()))?;
        Ok(signed.into_bytes())
    }

    /// A salted text: its row, and the hash for the leaf.
    fn salted(&self, text: String) -> (Row, event::Digest) {
        let opening = Opening { salt: self.random(), text };
        let hash = event::Digest(opening.hash());
        (Row::Opening(opening), hash)
    }

    /// The generations that a grant made now would record.
    async fn generations(&self, human: HumanId, agent: AgentId, delegation: DelegationId) -> Result<Generations, StoreError> {
        match self.store.generations(&scopes(human, agent, delegation)).await?.as_slice() {
            &[global, tenant, human, agent, delegation] => Ok(Generations { global, tenant, human, agent, delegation }),
            _ => Err(StoreError::Unavailable("expected five generations".to_owned())),
        }
    }

    async fn generation(&self, scope: FloorScope) -> Result<u64, StoreError> {
        Ok(self.store.generations(&[scope]).await?.first().copied().unwrap_or(0))
    }

    /// What was answered to this request before, with its places.
    async fn recall<T: DeserializeOwned>(&self, once: Option<Once>) -> Result<Option<(T, Placed)>, RecallError> {
        let Some(once) = once else { return Ok(None) };
        let Some(answered) = self.store.find_answer(once.key).await.map_err(|e| RecallError::Unavailable(e.into()))? else { return Ok(None) };
        if answered.answer.request != once.request {
            return Err(RecallError::OtherRequest);
        }
        // Whoever committed it may not have been allowed to answer yet.
        crate::store::shared::settled(&*self.store).await.map_err(|e| RecallError::Unavailable(e.into()))?;
        let body = serde_json::from_str(&answered.answer.body).map_err(|e| RecallError::Unavailable(Unavailable::Store(e.to_string())))?;
        Ok(Some((body, answered.placed)))
    }

    /// The row that remembers an answer for a day. Never a secret.
    fn remember(&self, once: Option<Once>, body: &impl Serialize) -> Option<Row> {
        let once = once?;
        let body = serde_json::to_string(body).ok()?;
        Some(Row::Answer(Answer { key: once.key, request: once.request, body, expires: self.now().plus(24 * 3_600_000) }))
    }
}

/// Why an earlier answer is not given.
enum RecallError {
    OtherRequest,
    Unavailable(Unavailable),
}

/// How often a use case reads again when others write the same thing at the same time.
const ATTEMPTS: usize = 16;

const fn log_generations(g: &Generations) -> event::Generations {
    event::Generations { global: g.global, tenant: g.tenant, human: g.human, agent: g.agent, delegation: g.delegation }
}
