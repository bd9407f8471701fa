//! A non-human identity with an owner and keys.

use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, HumanId, Key, UtcMillis};

/// Whether an agent may act. A kill is not a state: it is a generation (law 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// May mint and receive cards.
    Active,
    /// Neither, until resumed.
    Suspended,
    /// Neither, ever again; the id is never used again.
    Retired,
}

/// An agent as registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// What people call it; one of a kind in its tenant.
    pub name: Name,
    /// The human accountable for it.
    pub owner: HumanId,
    /// Whether it may act.
    pub state: AgentState,
    /// Its generation at registration or at the last resume. After a kill it lies below the floor, and there is no card.
    pub generation: u64,
    /// When it was registered.
    pub created: UtcMillis,
}

/// One of an agent's holder keys. A key is one agent's, ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentKey {
    /// The public key.
    pub key: Key,
    /// Whose it is.
    pub agent: AgentId,
    /// Whether it may be used.
    pub state: KeyState,
    /// When it was added.
    pub added: UtcMillis,
}

/// Whether a holder key may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// Proves possession.
    Live,
    /// Revoked: in the feed, for ever.
    Revoked,
}
