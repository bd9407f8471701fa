//! Sign-ins under way, kept here and not in the browser.

use std::sync::{Mutex, PoisonError};

use procura_verifier::ids::UtcMillis;
use secrecy::{ExposeSecret as _, SecretString};

use super::cli::PendingCli;
use crate::expiring::Expiring;
use crate::secret;

/// One journey to the provider and back.
pub struct LoginAttempt {
    pub(super) state: SecretString,
    pub(super) nonce: SecretString,
    pub(super) verifier: SecretString,
    pub(super) issuer: String,
    pub(super) created: UtcMillis,
    /// Digest of the cookie in the browser that began.
    pub(super) browser: [u8; 32],
}

/// Where the journey ends.
pub enum Then {
    /// In a session of this browser.
    Browser,
    /// In a code for the command line.
    Cli(PendingCli),
}

/// The journeys under way: at most 10,000, each 10 minutes, found once by its `state`.
pub struct LoginAttempts(Mutex<Expiring<[u8; 32], (LoginAttempt, Then)>>);

impl Default for LoginAttempts {
    fn default() -> Self {
        Self(Mutex::new(Expiring::new(MAX_ATTEMPTS)))
    }
}

impl LoginAttempts {
    /// Keeps an attempt until its end.
    pub fn insert(&self, attempt: LoginAttempt, then: Then) {
        let (key, now) = (secret::digest(attempt.state.expose_secret()), attempt.created);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(now, key, (attempt, then), now.plus(LIFE_MS));
    }

    /// The attempt with this `state`; it is spent whatever comes of it.
    pub fn take(&self, now: UtcMillis, state: &str) -> Option<(LoginAttempt, Then)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now, &secret::digest(state))
    }
}

const MAX_ATTEMPTS: usize = 10_000;
pub(super) const LIFE_MS: u64 = 10 * 60 * 1000;
