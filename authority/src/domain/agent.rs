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

impl AgentState {
    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Retired => "retired",
        }
    }
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
    /// Who stopped it, if it is stopped and a person did: they may resume it, and the role security.
    pub stopped_by: Option<HumanId>,
}

impl Agent {
    /// The agent after somebody stopped it; `killed` says whether it was stopped before. An owner who stops again what
    /// security has stopped does not become the one who may resume it.
    #[must_use]
    pub fn stopped(self, by: Option<HumanId>, state: AgentState, killed: bool) -> Self {
        let before = killed || self.state != AgentState::Active;
        let keeps = before && by == Some(self.owner);
        Self { stopped_by: if keeps { self.stopped_by } else { by }, state, ..self }
    }
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
    /// When it ends, if another has followed it: from then on it is not accepted, and it is revoked soon after.
    pub ends: Option<UtcMillis>,
}

impl AgentKey {
    /// True if it proves possession at that moment.
    pub fn holds_at(&self, t: UtcMillis) -> bool {
        self.state == KeyState::Live && self.ends.is_none_or(|ends| t < ends)
    }
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

/// Longest that a key goes on after another has followed it.
pub const MAX_OVERLAP_MS: u64 = 24 * 3_600_000;
/// Most keys of an agent that live at a time.
pub const MAX_LIVE_KEYS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_who_stops_again_what_security_stopped_may_not_resume_it() {
        let (alice, sam) = (HumanId::from_bytes([1; 16]), HumanId::from_bytes([2; 16]));
        let agent = Agent {
            id: AgentId::from_bytes([3; 16]),
            name: "bot".parse().unwrap(),
            owner: alice,
            state: AgentState::Active,
            generation: 0,
            created: UtcMillis(1),
            stopped_by: None,
        };
        let by_alice = agent.clone().stopped(Some(alice), AgentState::Suspended, false);
        assert_eq!(by_alice.stopped_by, Some(alice));
        assert_eq!(by_alice.stopped(Some(sam), AgentState::Suspended, false).stopped_by, Some(sam));
        let by_sam = agent.clone().stopped(Some(sam), AgentState::Active, false);
        assert_eq!(by_sam.clone().stopped(Some(alice), AgentState::Suspended, true).stopped_by, Some(sam));
        assert_eq!(agent.stopped(None, AgentState::Suspended, false).stopped(Some(alice), AgentState::Retired, false).stopped_by, None);
    }

    #[test]
    fn a_key_holds_until_its_end() {
        let key = AgentKey { key: Key::from_bytes([1; 32]), agent: AgentId::from_bytes([3; 16]), state: KeyState::Live, added: UtcMillis(1), ends: None };
        assert!(key.holds_at(UtcMillis(u64::MAX)));
        let ending = AgentKey { ends: Some(UtcMillis(10)), ..key.clone() };
        assert!(ending.holds_at(UtcMillis(9)) && !ending.holds_at(UtcMillis(10)));
        assert!(!AgentKey { state: KeyState::Revoked, ..key }.holds_at(UtcMillis(1)));
    }
}
