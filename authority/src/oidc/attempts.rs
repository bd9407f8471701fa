//! Sign-ins under way: sealed into a cookie of the browser that began, so that any replica ends what another began and
//! no flood of strangers can crowd one out.

use std::sync::{Mutex, PoisonError};

use procura_verifier::ids::UtcMillis;
use rand::RngCore;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::cli::PendingCli;
use crate::domain::session::{HashedToken, SecretKind, Spend};
use crate::expiring::Expiring;
use crate::seal::{Sealed, Seals};

/// One journey to the provider and back.
pub struct LoginAttempt {
    pub(super) state: SecretString,
    pub(super) nonce: SecretString,
    pub(super) verifier: SecretString,
    pub(super) issuer: String,
    pub(super) created: UtcMillis,
}

/// Where the journey ends.
#[derive(Serialize, Deserialize)]
pub enum Then {
    /// In a session of this browser.
    Browser,
    /// In a code for the command line.
    Cli(PendingCli),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    state: String,
    nonce: String,
    verifier: String,
    issuer: String,
    created: UtcMillis,
    then: Then,
}

impl LoginAttempt {
    /// What the browser carries in its cookie. None if it were longer than a cookie may be.
    pub fn seal(&self, seals: &Seals, rng: &mut dyn RngCore, then: Then) -> Option<SecretString> {
        let text = |s: &SecretString| s.expose_secret().to_owned();
        let (state, nonce, verifier) = (text(&self.state), text(&self.nonce), text(&self.verifier));
        let carried = Carried { state, nonce, verifier, issuer: self.issuer.clone(), created: self.created, then };
        seals.seal(Sealed::Login, rng, &carried).map(Into::into)
    }

    /// The attempt in a cookie, if we sealed it. Whether it is young and belongs to a callback, `RelyingParty::finish` judges.
    pub fn open(seals: &Seals, unverified_cookie: &str) -> Option<(Self, Then)> {
        let Carried { state, nonce, verifier, issuer, created, then } = seals.open(Sealed::Login, unverified_cookie)?;
        Some((Self { state: state.into(), nonce: nonce.into(), verifier: verifier.into(), issuer, created }, then))
    }

    /// What the sign-in uses up: its `state`, remembered as long as the cookie could come back.
    pub fn spends(&self) -> Spend {
        (hashed(self.state.expose_secret()), self.created.plus(LIFE_MS))
    }

    /// Which of several attempts of one browser belongs to this `state`: the end of its cookie's name.
    pub fn cookie_suffix(state: &str) -> String {
        hashed(state).as_bytes().iter().take(8).map(|b| format!("{b:02x}")).collect()
    }

    /// What comes back in the callback.
    pub(super) fn state(&self) -> &str {
        self.state.expose_secret()
    }

    /// When it began.
    pub const fn created(&self) -> UtcMillis {
        self.created
    }
}

fn hashed(state: &str) -> HashedToken {
    HashedToken::of(SecretKind::LoginState, state.as_bytes())
}

/// The attempts that came back to this process: each is taken to the provider once, whatever comes of it. At most 10,000;
/// one that is forgotten costs a second question to the provider, which refuses the code, and the commit the state.
pub struct Tried(Mutex<Expiring<HashedToken, ()>>);

impl Default for Tried {
    fn default() -> Self {
        Self(Mutex::new(Expiring::new(MAX_TRIED)))
    }
}

impl Tried {
    /// True for the first who asks.
    pub fn is_first(&self, now: UtcMillis, attempt: &LoginAttempt) -> bool {
        let (state, until) = attempt.spends();
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = tried.find(now, &state).is_none();
        if first {
            tried.insert(now, state, (), until);
        }
        first
    }
}

const MAX_TRIED: usize = 10_000;
pub(super) const LIFE_MS: u64 = 10 * 60 * 1000;
