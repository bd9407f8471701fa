//! What receipts have shown of a delegation: its tokens, the links under them, when each was used last.

use std::collections::HashMap;

use procura_verifier::ids::{AgentId, DelegationId, Key, Lid, Tid, UtcMillis};

/// One token, or one link under it, as receipts have shown it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Used {
    /// What it rests on.
    pub delegation: DelegationId,
    /// The token.
    pub tid: Tid,
    /// The link; none for the token as it was minted.
    pub lid: Option<Lid>,
    /// The link before it, if there is one.
    pub parent: Option<Lid>,
    /// Who holds it; none for a bare key.
    pub agent: Option<AgentId>,
    /// The key that it works with.
    pub holder: Key,
    /// First second after its validity.
    pub expires_secs: u64,
    /// How often it was presented itself and allowed.
    pub allowed: u64,
    /// How often it was presented itself and denied.
    pub denied: u64,
    /// When it, or a link under it, was presented last: as the verifier dates it.
    pub last: UtcMillis,
    /// The leaf of that receipt; given by the commit.
    pub leaf: u64,
}

/// Many, each token and link once: one statement cannot write a row twice.
#[derive(Default)]
pub(super) struct Merged(HashMap<(DelegationId, Tid, Option<Lid>), Used>);

impl Merged {
    /// Adds one that stands in this leaf.
    pub(super) fn push(&mut self, used: &Used, leaf: u64) {
        let seen = Used { leaf, ..used.clone() };
        self.0
            .entry((used.delegation, used.tid, used.lid))
            .and_modify(|known| {
                known.allowed = known.allowed.saturating_add(seen.allowed);
                known.denied = known.denied.saturating_add(seen.denied);
                if seen.last >= known.last {
                    (known.last, known.leaf) = (seen.last, leaf);
                }
            })
            .or_insert(seen);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Used> {
        self.0.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As a database has it.
#[derive(sqlx::FromRow)]
pub(super) struct UsedRow {
    pub tid: Vec<u8>,
    pub lid: Vec<u8>,
    pub parent: Vec<u8>,
    pub agent: Option<Vec<u8>>,
    pub holder: Vec<u8>,
    pub expires_secs: i64,
    pub allowed: i64,
    pub denied: i64,
    pub last_ms: i64,
    pub last_leaf: i64,
}

impl UsedRow {
    pub(super) fn into_domain(self, delegation: DelegationId) -> Result<Used, super::StoreError> {
        use super::rows::{fixed, number};
        let link = |bytes: &[u8], column| if bytes.is_empty() { Ok(None) } else { fixed(bytes, "used", column).map(|id| Some(Lid::from_bytes(id))) };
        Ok(Used {
            delegation,
            tid: Tid::from_bytes(fixed(&self.tid, "used", "tid")?),
            lid: link(&self.lid, "lid")?,
            parent: link(&self.parent, "parent")?,
            agent: self.agent.map(|id| fixed(&id, "used", "agent").map(AgentId::from_bytes)).transpose()?,
            holder: Key::from_bytes(fixed(&self.holder, "used", "holder")?),
            expires_secs: number(self.expires_secs, "used", "expires_secs")?,
            allowed: number(self.allowed, "used", "allowed")?,
            denied: number(self.denied, "used", "denied")?,
            last: UtcMillis(number(self.last_ms, "used", "last_ms")?),
            leaf: number(self.last_leaf, "used", "last_leaf")?,
        })
    }
}

/// A link as databases key it.
pub(super) fn link_bytes(lid: Option<Lid>) -> Vec<u8> {
    lid.map(|id| id.as_bytes().to_vec()).unwrap_or_default()
}

/// How long after its expiry a use is remembered, in milliseconds.
pub(super) const KEPT_MS: i64 = 30 * 24 * 3_600_000;
