//! Sessions of humans: in memory, so a restart signs everybody out and no database holds one.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use procura_verifier::ids::{HumanId, UtcMillis};
use rand::RngCore;
use secrecy::{ExposeSecret as _, SecretString};

use super::SignedIn;
use crate::expiring::Expiring;
use crate::secret;

/// Who acts, and how they signed in.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// The human.
    pub human: HumanId,
    /// How the provider calls them; for display.
    pub name: Option<String>,
    /// When they last showed who they are, if the provider said.
    pub auth_time: Option<UtcMillis>,
    /// How strongly.
    pub acr: Option<String>,
    /// By which methods.
    pub amr: Vec<String>,
}

impl Session {
    /// The session that a sign-in leads to, once `human` is on record.
    pub fn of(human: HumanId, who: &SignedIn) -> Self {
        Self { human, name: who.name.clone(), auth_time: who.auth_time, acr: who.acr.clone(), amr: who.amr.clone() }
    }
}

// The name is personal.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("human", &self.human).field("acr", &self.acr).finish_non_exhaustive()
    }
}

/// The sessions: at most 8 hours, 1 hour without use, 100,000 in all and 16 of one human (the oldest gives way).
pub struct Sessions(Mutex<Inner>);

struct Inner {
    live: Expiring<[u8; 32], (UtcMillis, Session)>,
    /// (human, created, key), so that one human can neither crowd out the others nor escape a kill.
    by_human: BTreeSet<(HumanId, UtcMillis, [u8; 32])>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Mutex::new(Inner { live: Expiring::new(MAX_SESSIONS), by_human: BTreeSet::new() }))
    }
}

impl Sessions {
    /// A new session; the secret is known only to whom it is given.
    pub fn create(&self, now: UtcMillis, rng: &mut dyn RngCore, session: Session) -> SecretString {
        let text = secret::draw(rng);
        let key = secret::digest(text.expose_secret());
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let human = session.human;
        while inner.of(&human).count() >= MAX_PER_HUMAN {
            let Some(oldest) = inner.of(&human).next() else { break };
            inner.drop_one(now, &oldest);
        }
        let gone = inner.live.insert(now, key, (now, session), now.plus(IDLE_MS));
        inner.forget(gone);
        inner.by_human.insert((human, now, key));
        text
    }

    /// The living session of this secret; finding it is use.
    pub fn find(&self, now: UtcMillis, unverified_secret: &str) -> Option<Session> {
        let key = secret::digest(unverified_secret);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (created, session) = inner.live.find(now, &key).cloned()?;
        inner.live.prolong(&key, now.plus(IDLE_MS).min(created.plus(LIFE_MS)));
        Some(session)
    }

    /// Ends the session of this secret, if there is one.
    pub fn remove(&self, now: UtcMillis, unverified_secret: &str) {
        let key = secret::digest(unverified_secret);
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.drop_one(now, &key);
    }

    /// Ends every session of a human: part of a kill.
    pub fn remove_human(&self, now: UtcMillis, human: &HumanId) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = inner.of(human).collect();
        for key in keys {
            inner.drop_one(now, &key);
        }
    }
}

impl Inner {
    fn of(&self, human: &HumanId) -> impl Iterator<Item = [u8; 32]> {
        let range = (*human, UtcMillis(0), [0; 32])..=(*human, UtcMillis(u64::MAX), [u8::MAX; 32]);
        self.by_human.range(range).map(|(_, _, key)| *key)
    }

    fn drop_one(&mut self, now: UtcMillis, key: &[u8; 32]) {
        let mut gone = self.live.expire(now);
        gone.extend(self.live.take(now, key).map(|old| (*key, old)));
        self.forget(gone);
    }

    fn forget(&mut self, gone: Vec<([u8; 32], (UtcMillis, Session))>) {
        for (key, (created, session)) in gone {
            self.by_human.remove(&(session.human, created, key));
        }
    }
}

/// Longest life of a session.
pub const LIFE_MS: u64 = 8 * 60 * 60 * 1000;
/// Longest life without use.
pub const IDLE_MS: u64 = 60 * 60 * 1000;
const MAX_SESSIONS: usize = 100_000;
const MAX_PER_HUMAN: usize = 16;

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn session(n: u8) -> Session {
        Session { human: HumanId::from_bytes([n; 16]), name: None, auth_time: None, acr: None, amr: vec![] }
    }

    #[test]
    fn a_session_ends_idle_after_an_hour_and_used_after_eight() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let sessions = Sessions::default();
        let idle = sessions.create(UtcMillis(0), &mut rng, session(1));
        assert!(sessions.find(UtcMillis(IDLE_MS), idle.expose_secret()).is_none());
        let used = sessions.create(UtcMillis(0), &mut rng, session(1));
        for t in (0..LIFE_MS).step_by(usize::try_from(IDLE_MS / 2).unwrap()) {
            assert_eq!(sessions.find(UtcMillis(t), used.expose_secret()), Some(session(1)));
        }
        assert!(sessions.find(UtcMillis(LIFE_MS - 1), used.expose_secret()).is_some());
        assert!(sessions.find(UtcMillis(LIFE_MS), used.expose_secret()).is_none());
        assert!(sessions.find(UtcMillis(0), "guess").is_none());
    }

    #[test]
    fn one_human_has_at_most_sixteen_and_a_kill_ends_them_all() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let sessions = Sessions::default();
        let other = sessions.create(UtcMillis(0), &mut rng, session(2));
        let secrets: Vec<_> = (0..17).map(|t| sessions.create(UtcMillis(t), &mut rng, session(1))).collect();
        let alive = |s: &SecretString| sessions.find(UtcMillis(20), s.expose_secret()).is_some();
        assert!(!alive(&secrets[0]), "the oldest gave way");
        assert!(secrets[1..].iter().all(alive));
        sessions.remove(UtcMillis(20), secrets[1].expose_secret());
        assert!(!alive(&secrets[1]) && alive(&secrets[2]));
        sessions.remove_human(UtcMillis(20), &HumanId::from_bytes([1; 16]));
        assert!(!secrets.iter().any(alive));
        assert!(alive(&other));
        let inner = sessions.0.lock().unwrap();
        assert_eq!(inner.by_human.len(), 1);
    }
}
