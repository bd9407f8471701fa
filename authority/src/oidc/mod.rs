//! Signing people in: the relying party of a company's OpenID provider, the sessions that follow, and the
//! login of the command line. Nothing of it hangs on a process: what is under way is sealed, what is done is in the store.
//!
//! A browser comes to `/login`, goes to the provider and back to `/oidc/callback`; the human is recorded in the
//! transaction that begins the session. `procura login` does the same from `/login/cli` and receives,
//! on a loopback redirect, a code that only it can turn into a session.

pub mod attempts;
pub mod cli;
mod http;
pub mod provider;
pub mod relying_party;
pub mod routes;

use procura_verifier::ids::UtcMillis;

/// Who a provider says has signed in. Made only by [`relying_party::RelyingParty::finish`].
#[derive(Clone, PartialEq, Eq)]
pub struct SignedIn {
    issuer: String,
    subject: String,
    name: Option<String>,
    auth_time: Option<UtcMillis>,
    acr: Option<String>,
    amr: Vec<String>,
}

impl SignedIn {
    /// The provider. With [`SignedIn::subject`] it names the person; neither does alone.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
    /// The person's name at that provider, 1 to 255 bytes. Personal: never into leaf, feed, token or process log.
    pub fn subject(&self) -> &str {
        &self.subject
    }
    /// For display only: what the provider calls the person, at most 128 characters, none of them a control.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    /// When the person last showed who they are, if the provider says.
    pub const fn auth_time(&self) -> Option<UtcMillis> {
        self.auth_time
    }
    /// How strongly, in the provider's words.
    pub fn acr(&self) -> Option<&str> {
        self.acr.as_deref()
    }
    /// By which methods (RFC 8176).
    pub fn amr(&self) -> &[String] {
        &self.amr
    }
}

// Subject and name are personal, and Debug ends in logs.
impl std::fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedIn").field("issuer", &self.issuer).field("acr", &self.acr).field("amr", &self.amr).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
