//! A human's recorded grant to an agent.

use std::fmt::Write as _;

use procura_verifier::claims::{Block0, Capability, DataClass, Generations, Hops, Name, Possession};
use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Tenant, UtcMillis};

/// What is granted: the bounds of every token under a delegation.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// What the agent may do, any one of them: 1 to 8, sorted.
    pub capabilities: Vec<Capability>,
    /// The services that may accept its tokens: 1 to 8, sorted.
    pub audiences: Vec<Name>,
    /// Longest life of one token, in seconds.
    pub ttl_secs: u64,
    /// First moment after the delegation: no token outlives it.
    pub not_after: UtcMillis,
    /// How many links a token may carry.
    pub depth: u8,
    /// Who may receive them.
    pub hops: Hops,
    /// Whether each call is signed.
    pub possession: Possession,
    /// How old a verifier's knowledge of revocations may be, in milliseconds.
    pub freshness_ms: u32,
    /// Ceiling on the class of data.
    pub class_max: DataClass,
}

/// Why terms make no delegation. The caller's fault, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TermsError(&'static str);

impl Terms {
    /// Puts the lists in order and refuses what no token could say (laws 2, 3, 5, 7).
    pub fn normal(mut self, now: UtcMillis) -> Result<Self, TermsError> {
        let wrong = |sentence| Err(TermsError(sentence));
        self.capabilities.sort_unstable();
        self.audiences.sort_unstable();
        if !(1..=8).contains(&self.capabilities.len()) || self.capabilities.windows(2).any(|w| w.first() == w.last()) {
            return wrong("expected 1 to 8 capabilities, none twice");
        }
        if !(1..=8).contains(&self.audiences.len()) || self.audiences.windows(2).any(|w| w.first() == w.last()) {
            return wrong("expected 1 to 8 audiences, none twice");
        }
        if self.ttl_secs == 0 || self.not_after <= now {
            return wrong("expected a token life of at least one second and an end in the future");
        }
        if self.depth > Block0::MAX_DEPTH || (self.possession == Possession::Bearer && self.depth > 0) {
            return wrong("expected a link depth of at most 8, and 0 for bearer use");
        }
        if self.freshness_ms == 0 || self.freshness_ms > Block0::MAX_FRESHNESS_MS {
            return wrong("expected a freshness bound of 1 ms to 5 minutes");
        }
        Ok(self)
    }

    /// What a person is shown before they consent: every bound, in plain words. Its salted hash stands in the event.
    pub fn summary(&self, agent: &Name) -> String {
        let mut text = format!("Until {}, agent {agent} may act for you:\n", self.not_after);
        for c in &self.capabilities {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "- with {}: {} on {}", c.tool(), c.action(), c.resource());
            let _ = match c.limits() {
                [] => text.write_str(", without a limit"),
                limits => limits.iter().try_for_each(|l| write!(text, ", {l} per call")),
            };
            text.push('\n');
        }
        let _ = write!(text, "at {}, with data up to {:?}, by tokens that live at most {}", list(&self.audiences), self.class_max, duration(self.ttl_secs));
        text.push_str(match self.possession {
            Possession::Proof => "; the agent signs each call",
            Possession::Bearer => "; WHOEVER HAS A TOKEN may use it",
        });
        let _ = match (self.depth, self.hops) {
            (0, _) => text.write_str("; it may not pass them on"),
            (n, Hops::Registered) => write!(text, "; it may pass them on, narrowed, over at most {n} registered agents"),
            (n, Hops::Any) => write!(text, "; it may pass them on, narrowed, over at most {n} agents, REGISTERED OR NOT"),
        };
        if self.freshness_ms > 150 {
            let _ = write!(text, "; a revocation may take {} ms to reach tools that accept this", self.freshness_ms);
        }
        if self.freshness_ms == Block0::BEST_EFFORT_MS {
            text.push_str(", and tools that say BEST EFFORT may go on without ever hearing of it");
        }
        text.push('.');
        text
    }
}

/// Whether tokens may be minted under a delegation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DelegationState {
    /// They may, while no recorded generation is below its floor.
    Live,
    /// Never again.
    Revoked {
        /// When.
        at: UtcMillis,
    },
}

/// A human's recorded grant to an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegation {
    /// Its id.
    pub id: DelegationId,
    /// Under whose authority.
    pub tenant: Tenant,
    /// Who granted.
    pub human: HumanId,
    /// To which agent.
    pub agent: AgentId,
    /// What.
    pub terms: Terms,
    /// The generations at the grant. A mint copies these, so after a kill only a new grant gives life.
    pub generations: Generations,
    /// Rises with each narrower version, from 1.
    pub version: u32,
    /// Whether it lives.
    pub state: DelegationState,
    /// When it was granted.
    pub created: UtcMillis,
}

/// The scopes whose floors a token under a delegation depends on.
pub const fn scopes(human: HumanId, agent: AgentId, delegation: DelegationId) -> [FloorScope; 5] {
    [FloorScope::Global, FloorScope::Tenant, FloorScope::Human(human), FloorScope::Agent(agent), FloorScope::Delegation(delegation)]
}

impl Delegation {
    /// Each scope with the generation recorded at the grant.
    pub const fn recorded(&self) -> [(FloorScope, u64); 5] {
        let [global, tenant, human, agent, delegation] = scopes(self.human, self.agent, self.id);
        let g = &self.generations;
        [(global, g.global), (tenant, g.tenant), (human, g.human), (agent, g.agent), (delegation, g.delegation)]
    }

    /// The delegation after its revocation; revoking twice keeps the first moment.
    #[must_use]
    pub fn revoked(self, at: UtcMillis) -> Self {
        match self.state {
            DelegationState::Live => Self { state: DelegationState::Revoked { at }, ..self },
            DelegationState::Revoked { .. } => self,
        }
    }
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

fn duration(secs: u64) -> String {
    match secs {
        s if s % 3600 == 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn terms() -> Terms {
        Terms {
            capabilities: vec![
                serde_json::from_str(
                    r#"{"tool":"payments","action":"transfer","resource":"acct/eu/*","limits":[{"kind":"at_most","arg":"amount","max":50000,"unit":"EUR"}]}"#,
                )
                .unwrap(),
            ],
            audiences: vec!["payments".parse().unwrap()],
            ttl_secs: 3600,
            not_after: UtcMillis(4_000_000_000_000),
            depth: 2,
            hops: Hops::Registered,
            possession: Possession::Proof,
            freshness_ms: 150,
            class_max: DataClass::Confidential,
        }
    }

    #[test]
    fn the_summary_says_every_bound() {
        assert_eq!(
            terms().summary(&"invoice-bot".parse().unwrap()),
            "Until 2096-10-02T07:06:40Z, agent invoice-bot may act for you:\n\
             - with payments: transfer on acct/eu/*, amount at most 500.00 EUR per call\n\
             at payments, with data up to Confidential, by tokens that live at most 1 h; the agent signs each call; \
             it may pass them on, narrowed, over at most 2 registered agents."
        );
    }

    #[test]
    fn terms_that_no_token_could_say_are_refused() {
        let now = UtcMillis(1);
        assert!(terms().normal(now).is_ok());
        assert!(Terms { depth: 9, ..terms() }.normal(now).is_err());
        assert!(Terms { possession: Possession::Bearer, ..terms() }.normal(now).is_err());
        assert!(Terms { capabilities: vec![], ..terms() }.normal(now).is_err());
        assert!(Terms { not_after: now, ..terms() }.normal(now).is_err());
        assert!(Terms { audiences: vec!["a".parse().unwrap(), "a".parse().unwrap()], ..terms() }.normal(now).is_err());
    }
}
