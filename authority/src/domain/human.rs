//! A person: known outside by (issuer, subject), everywhere inside by a pseudonym.

use std::collections::BTreeSet;

use procura_verifier::ids::HumanId;

/// Who an OpenID provider says a person is. Never an e-mail address: those are handed on to other people.
///
/// Stands in one erasable table and nowhere else: tokens, feed and log name a person by [`HumanId`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The provider.
    pub issuer: String,
    /// The provider's name for the person.
    pub subject: String,
}

impl Subject {
    /// Longest issuer or subject, in bytes (OpenID Connect Core §2 bounds `sub` at 255).
    pub const MAX_BYTES: usize = 255;

    /// True if both parts are present and bounded.
    pub fn fits(&self) -> bool {
        [&self.issuer, &self.subject].into_iter().all(|t| (1..=Self::MAX_BYTES).contains(&t.len()) && !t.chars().any(char::is_control))
    }
}

// Personal data: logs and error chains must not carry it.
impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subject")
    }
}

/// A person who has signed in at least once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Human {
    /// The pseudonym, drawn at first sign-in.
    pub id: HumanId,
    /// Who the provider says it is.
    pub subject: Subject,
}

/// What a person may do besides delegating.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Revoke anything.
    Security,
    /// Read the log's entries.
    Auditor,
    /// Enrol verifiers, rotate keys.
    Admin,
}

/// The roles of one person.
pub type Roles = BTreeSet<Role>;
