//! Who is signed in: a session, what it hangs on, and how long it lives.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{HumanId, UtcMillis};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::human::Subject;

/// A secret used up, and how long that is remembered: at least until it has expired.
pub type Spend = (HashedToken, UtcMillis);

/// What is kept of a secret that was handed out: its tagged SHA-256. A database that leaks lets nobody in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashedToken([u8; 32]);

/// What a secret is for. A hash of one kind is none of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretKind {
    /// A session's secret.
    Session,
    /// The `state` of a sign-in under way.
    LoginState,
    /// The code that a command line turns into a session.
    CliCode,
    /// The nonce that an agent's key signs at registration.
    Challenge,
}

impl HashedToken {
    /// Of a secret with at least 128 bits of randomness in it.
    pub fn of(kind: SecretKind, secret: &[u8]) -> Self {
        let tag: &[u8] = match kind {
            SecretKind::Session => b"procura/hashed/session/1\0",
            SecretKind::LoginState => b"procura/hashed/login-state/1\0",
            SecretKind::CliCode => b"procura/hashed/cli-code/1\0",
            SecretKind::Challenge => b"procura/hashed/challenge/1\0",
        };
        Self(Sha256::new_with_prefix(tag).chain_update(secret).finalize().into())
    }

    /// As it is stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for HashedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashedToken")
    }
}

/// The generations of a sign-in: who is killed afterwards is signed out, and nothing they had begun commits (P5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignInGenerations {
    /// Of everything.
    pub global: u64,
    /// Of the tenant.
    pub tenant: u64,
    /// Of the human.
    pub human: u64,
}

impl SignInGenerations {
    /// The scopes whose floors a session depends on.
    pub const fn scopes(human: HumanId) -> [FloorScope; 3] {
        [FloorScope::Global, FloorScope::Tenant, FloorScope::Human(human)]
    }

    /// Each scope with its generation.
    pub const fn of(&self, human: HumanId) -> [(FloorScope, u64); 3] {
        let [global, tenant, person] = Self::scopes(human);
        [(global, self.global), (tenant, self.tenant), (person, self.human)]
    }

    /// True if one has risen by now.
    pub const fn is_below(&self, floors: &Self) -> bool {
        self.global < floors.global || self.tenant < floors.tenant || self.human < floors.human
    }
}

/// How somebody showed the provider who they are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assurance {
    /// When, if the provider said.
    pub auth_time: Option<UtcMillis>,
    /// How strongly: at most 256 bytes of the provider's words.
    pub acr: Option<String>,
    /// By which methods: at most 16 of 64 bytes.
    pub amr: Vec<String>,
}

/// A session as it is stored. It holds no name: who the human is stands in one erasable table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// What it is found by.
    pub secret: HashedToken,
    /// Whose it is.
    pub human: HumanId,
    /// How they signed in.
    pub assurance: Assurance,
    /// The generations at that moment.
    pub generations: SignInGenerations,
    /// When it began.
    pub created: UtcMillis,
    /// First moment after it, unless it is used before.
    pub idle_until: UtcMillis,
    /// First moment after it, however much it is used.
    pub ends: UtcMillis,
}

impl Session {
    /// A session that begins now.
    pub fn begin(secret: HashedToken, human: HumanId, assurance: Assurance, generations: SignInGenerations, now: UtcMillis) -> Self {
        Self { secret, human, assurance, generations, created: now, idle_until: now.plus(IDLE_MS), ends: now.plus(LIFE_MS) }
    }
}

/// A session with what decides whether it lives: all read at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundSession {
    /// As stored.
    pub session: Session,
    /// Who the human is, unless erased.
    pub subject: Option<Subject>,
    /// The floors of that moment.
    pub floors: SignInGenerations,
}

impl FoundSession {
    /// True until it has ended by itself, or by a kill of human, tenant or everything.
    pub fn is_alive(&self, now: UtcMillis) -> bool {
        now < self.session.idle_until && now < self.session.ends && !self.session.generations.is_below(&self.floors)
    }

    /// Until when this use keeps it, if that is worth a write: within an hour's grace it is written every five minutes.
    pub fn prolonged(&self, now: UtcMillis) -> Option<UtcMillis> {
        let until = now.plus(IDLE_MS).min(self.session.ends);
        (until >= self.session.idle_until.plus(USE_EVERY_MS) || (until == self.session.ends && until > self.session.idle_until)).then_some(until)
    }
}

/// What happens to sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionChange {
    /// One begins; of the human's more than [`MAX_PER_HUMAN`] the oldest go.
    Began(Session),
    /// One was used: it idles until then, never shorter than before. One that has ended stays ended.
    Used(HashedToken, UtcMillis),
    /// One ends, if it is there.
    Ended(HashedToken),
    /// All of a human end.
    AllEnded(HumanId),
}

/// Longest life of a session.
pub const LIFE_MS: u64 = 8 * 60 * 60 * 1000;
/// Longest life without use.
pub const IDLE_MS: u64 = 60 * 60 * 1000;
/// Most sessions of one human.
pub const MAX_PER_HUMAN: usize = 16;
const USE_EVERY_MS: u64 = 5 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_idle_after_an_hour_used_after_eight_and_by_a_risen_generation() {
        let at = UtcMillis;
        let (human, generations) = (HumanId::from_bytes([1; 16]), SignInGenerations { global: 1, tenant: 2, human: 3 });
        let session = Session::begin(HashedToken::of(SecretKind::Session, b"x"), human, Assurance::default(), generations, at(0));
        let mut found = FoundSession { session, subject: None, floors: generations };
        assert!(found.is_alive(at(IDLE_MS - 1)) && !found.is_alive(at(IDLE_MS)));
        assert_eq!(found.prolonged(at(USE_EVERY_MS - 1)), None, "not each request is a write");
        let mut writes = 0;
        for t in (0..LIFE_MS).step_by(1000) {
            assert!(found.is_alive(at(t)), "{t}");
            if let Some(until) = found.prolonged(at(t)) {
                (found.session.idle_until, writes) = (until, writes + 1);
            }
        }
        assert!(found.is_alive(at(LIFE_MS - 1)) && !found.is_alive(at(LIFE_MS)));
        assert!((80..100).contains(&writes), "{writes} writes");
        for floors in
            [SignInGenerations { global: 2, ..generations }, SignInGenerations { tenant: 3, ..generations }, SignInGenerations { human: 4, ..generations }]
        {
            assert!(!FoundSession { floors, ..found.clone() }.is_alive(at(LIFE_MS - 1)));
        }
    }

    #[test]
    fn a_hash_of_one_kind_is_none_of_another() {
        let kinds = [SecretKind::Session, SecretKind::LoginState, SecretKind::CliCode, SecretKind::Challenge];
        let hashes: std::collections::BTreeSet<_> = kinds.map(|k| HashedToken::of(k, b"x")).into();
        assert_eq!(hashes.len(), 4);
    }
}
