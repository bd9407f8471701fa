//! Rows as both databases hold them, and back. What does not read as a domain value is an error, never a default.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};

use crate::domain::agent::{Agent, AgentKey, AgentState, KeyState};
use crate::domain::delegation::{Delegation, DelegationState};
use crate::domain::session::{HashedToken, Session, SignInGenerations};
use crate::domain::verifier::Verifier;
use crate::signer::released::TreeHead;
use crate::store::{Answer, Answered, FeedHead, FeedRow, Head, Placed, StoreError, TokenRecord};

/// A count or a time as SQL's signed integer. Nothing of ours comes near 2^63; what does is pinned there, not wrapped.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn number(n: i64, table: &'static str, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(n).map_err(|_| StoreError::Inconsistent { table, column, id: n.to_string() })
}

/// One message of the feed: epoch, number, payload, key.
pub(super) fn feed_row((epoch, seq, payload, key): (i64, i64, Vec<u8>, Vec<u8>)) -> Result<FeedRow, StoreError> {
    let (epoch, seq) = (number(epoch, "feed", "epoch")?, number(seq, "feed", "seq")?);
    Ok(FeedRow { epoch, seq, payload, key: Key::from_bytes(fixed(&key, "feed", "key")?) })
}

pub(super) fn fixed<const N: usize>(bytes: &[u8], table: &'static str, column: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Inconsistent { table, column, id: hex::encode(bytes) })
}

/// A scope as a key: one byte of kind, then the id.
pub(super) fn scope_bytes(scope: &FloorScope) -> Vec<u8> {
    let with = |kind: u8, id: &[u8]| [&[kind], id].concat();
    match scope {
        FloorScope::Global => with(0, &[]),
        FloorScope::Tenant => with(1, &[]),
        FloorScope::Human(id) => with(2, id.as_bytes()),
        FloorScope::Agent(id) => with(3, id.as_bytes()),
        FloorScope::Delegation(id) => with(4, id.as_bytes()),
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct HeadRow {
    tree_size: i64,
    tree_root: Vec<u8>,
    feed_epoch: i64,
    feed_seq: i64,
    feed_hash: Vec<u8>,
}

impl TryFrom<HeadRow> for Head {
    type Error = StoreError;
    fn try_from(r: HeadRow) -> Result<Self, StoreError> {
        Ok(Self {
            tree: TreeHead { size: number(r.tree_size, "head", "tree_size")?, root: fixed(&r.tree_root, "head", "tree_root")? },
            feed: FeedHead {
                epoch: number(r.feed_epoch, "head", "feed_epoch")?,
                seq: number(r.feed_seq, "head", "feed_seq")?,
                hash: fixed(&r.feed_hash, "head", "feed_hash")?,
            },
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AgentRow {
    id: Vec<u8>,
    name: String,
    owner: Vec<u8>,
    state: String,
    generation: i64,
    created_ms: i64,
    stopped_by: Option<Vec<u8>>,
}

impl TryFrom<AgentRow> for Agent {
    type Error = StoreError;
    fn try_from(r: AgentRow) -> Result<Self, StoreError> {
        let state = agent_state(&r.state).ok_or_else(|| StoreError::Inconsistent { table: "agent", column: "state", id: hex::encode(&r.id) })?;
        Ok(Self {
            id: AgentId::from_bytes(fixed(&r.id, "agent", "id")?),
            name: r.name.parse().map_err(|_| StoreError::Inconsistent { table: "agent", column: "name", id: hex::encode(&r.id) })?,
            owner: HumanId::from_bytes(fixed(&r.owner, "agent", "owner")?),
            state,
            generation: number(r.generation, "agent", "generation")?,
            created: UtcMillis(number(r.created_ms, "agent", "created_ms")?),
            stopped_by: r.stopped_by.map(|id| fixed(&id, "agent", "stopped_by").map(HumanId::from_bytes)).transpose()?,
        })
    }
}

pub(super) const fn agent_state_text(state: AgentState) -> &'static str {
    match state {
        AgentState::Active => "active",
        AgentState::Suspended => "suspended",
        AgentState::Retired => "retired",
    }
}

pub(super) fn agent_state(text: &str) -> Option<AgentState> {
    [AgentState::Active, AgentState::Suspended, AgentState::Retired].into_iter().find(|s| agent_state_text(*s) == text)
}

pub(super) const fn key_state_text(state: KeyState) -> &'static str {
    match state {
        KeyState::Live => "live",
        KeyState::Revoked => "revoked",
    }
}

pub(super) fn key_state(text: &str) -> Option<KeyState> {
    [KeyState::Live, KeyState::Revoked].into_iter().find(|s| key_state_text(*s) == text)
}

#[derive(sqlx::FromRow)]
pub(super) struct AgentKeyRow {
    key: Vec<u8>,
    agent: Vec<u8>,
    state: String,
    added_ms: i64,
    ends_ms: Option<i64>,
}

impl TryFrom<AgentKeyRow> for AgentKey {
    type Error = StoreError;
    fn try_from(r: AgentKeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            key: Key::from_bytes(fixed(&r.key, "agent_key", "key")?),
            agent: AgentId::from_bytes(fixed(&r.agent, "agent_key", "agent")?),
            state: key_state(&r.state).ok_or_else(|| StoreError::Inconsistent { table: "agent_key", column: "state", id: hex::encode(&r.key) })?,
            added: UtcMillis(number(r.added_ms, "agent_key", "added_ms")?),
            ends: r.ends_ms.map(|at| number(at, "agent_key", "ends_ms")).transpose()?.map(UtcMillis),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct DelegationRow {
    id: Vec<u8>,
    human: Vec<u8>,
    agent: Vec<u8>,
    terms: String,
    generations: String,
    version: i64,
    revoked_ms: Option<i64>,
    created_ms: i64,
}

impl DelegationRow {
    pub(super) fn into_domain(self, tenant: &Tenant) -> Result<Delegation, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "delegation", column, id: hex::encode(&self.id) };
        Ok(Delegation {
            id: DelegationId::from_bytes(fixed(&self.id, "delegation", "id")?),
            tenant: tenant.clone(),
            human: HumanId::from_bytes(fixed(&self.human, "delegation", "human")?),
            agent: AgentId::from_bytes(fixed(&self.agent, "delegation", "agent")?),
            terms: serde_json::from_str(&self.terms).map_err(|_| wrong("terms"))?,
            generations: serde_json::from_str(&self.generations).map_err(|_| wrong("generations"))?,
            version: u32::try_from(self.version).map_err(|_| wrong("version"))?,
            state: delegation_state(self.revoked_ms)?,
            created: UtcMillis(number(self.created_ms, "delegation", "created_ms")?),
        })
    }
}

pub(super) fn delegation_state(revoked_ms: Option<i64>) -> Result<DelegationState, StoreError> {
    Ok(match revoked_ms {
        None => DelegationState::Live,
        Some(at) => DelegationState::Revoked { at: UtcMillis(number(at, "delegation", "revoked_ms")?) },
    })
}

#[derive(sqlx::FromRow)]
pub(super) struct TokenRow {
    delegation: Vec<u8>,
    expires_secs: i64,
    ancestors: Vec<u8>,
    revoked_ms: Option<i64>,
}

impl TokenRow {
    pub(super) fn into_domain(self, tid: Tid) -> Result<TokenRecord, StoreError> {
        let ancestor = |bytes: &[u8]| Ok(Tid::from_bytes(fixed(bytes, "token", "ancestors")?));
        Ok(TokenRecord {
            tid,
            delegation: DelegationId::from_bytes(fixed(&self.delegation, "token", "delegation")?),
            expires_secs: number(self.expires_secs, "token", "expires_secs")?,
            ancestors: self.ancestors.chunks(16).map(ancestor).collect::<Result<_, StoreError>>()?,
            revoked: self.revoked_ms.map(|at| number(at, "token", "revoked_ms")).transpose()?.map(UtcMillis),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct VerifierRow {
    id: Vec<u8>,
    key: Vec<u8>,
    audience: String,
    enrolled_ms: i64,
    retired_ms: Option<i64>,
}

impl TryFrom<VerifierRow> for Verifier {
    type Error = StoreError;
    fn try_from(r: VerifierRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: VerifierId::from_bytes(fixed(&r.id, "verifier", "id")?),
            key: Key::from_bytes(fixed(&r.key, "verifier", "key")?),
            audience: r.audience.parse().map_err(|_| StoreError::Inconsistent { table: "verifier", column: "audience", id: hex::encode(&r.id) })?,
            enrolled: UtcMillis(number(r.enrolled_ms, "verifier", "enrolled_ms")?),
            retired: r.retired_ms.map(|at| number(at, "verifier", "retired_ms")).transpose()?.map(UtcMillis),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct AnswerRow {
    request: Vec<u8>,
    body: String,
    expires_ms: i64,
    leaf_from: i64,
    leaf_until: i64,
    feed_seq: Option<i64>,
}

impl AnswerRow {
    pub(super) fn into_domain(self, key: [u8; 32]) -> Result<Answered, StoreError> {
        Ok(Answered {
            answer: Answer {
                key,
                request: fixed(&self.request, "answer", "request")?,
                body: self.body,
                expires: UtcMillis(number(self.expires_ms, "answer", "expires_ms")?),
            },
            placed: Placed {
                leaves: number(self.leaf_from, "answer", "leaf_from")?..number(self.leaf_until, "answer", "leaf_until")?,
                feed_seq: self.feed_seq.map(|s| number(s, "answer", "feed_seq")).transpose()?,
            },
        })
    }
}

#[derive(sqlx::FromRow)]
pub(super) struct SessionRow {
    secret: Vec<u8>,
    human: Vec<u8>,
    how: String,
    global_generation: i64,
    tenant_generation: i64,
    human_generation: i64,
    created_ms: i64,
    idle_until_ms: i64,
    ends_ms: i64,
}

impl TryFrom<SessionRow> for Session {
    type Error = StoreError;
    fn try_from(r: SessionRow) -> Result<Self, StoreError> {
        let at = |ms, column| number(ms, "session", column).map(UtcMillis);
        Ok(Self {
            secret: HashedToken::from_bytes(fixed(&r.secret, "session", "secret")?),
            human: HumanId::from_bytes(fixed(&r.human, "session", "human")?),
            assurance: serde_json::from_str(&r.how).map_err(|_| StoreError::Inconsistent { table: "session", column: "how", id: hex::encode(&r.human) })?,
            generations: SignInGenerations {
                global: number(r.global_generation, "session", "global_generation")?,
                tenant: number(r.tenant_generation, "session", "tenant_generation")?,
                human: number(r.human_generation, "session", "human_generation")?,
            },
            created: at(r.created_ms, "created_ms")?,
            idle_until: at(r.idle_until_ms, "idle_until_ms")?,
            ends: at(r.ends_ms, "ends_ms")?,
        })
    }
}

/// The floors that a session depends on.
#[derive(sqlx::FromRow)]
pub(super) struct FloorRow {
    global_floor: i64,
    tenant_floor: i64,
    human_floor: i64,
}

impl TryFrom<FloorRow> for SignInGenerations {
    type Error = StoreError;
    fn try_from(r: FloorRow) -> Result<Self, StoreError> {
        let floor = |n| number(n, "generation", "generation");
        Ok(Self { global: floor(r.global_floor)?, tenant: floor(r.tenant_floor)?, human: floor(r.human_floor)? })
    }
}
