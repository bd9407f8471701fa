//! What `procura dev` and the demo run with: one tenant, three people, and what each may delegate.

use procura_verifier::ids::Tenant;
use serde_json::json;

use crate::dev_idp::Person;
use crate::domain::grants::{Grant, Grants};

/// Longest life of a token, in seconds: a day.
pub const MAX_TTL_SECS: u64 = 24 * 60 * 60;

/// The tenant of an authority for development.
pub fn dev_tenant() -> anyhow::Result<Tenant> {
    Ok("acme".parse()?)
}

/// Who may sign in at the provider for development.
pub fn dev_people() -> Vec<Person> {
    let person = |username: &str, name: &str| Person { username: username.to_owned(), display_name: name.to_owned(), subject: format!("dev-{username}") };
    vec![person("alice", "Alice"), person("bob", "Bob"), person("sam", "Sam")]
}

/// What they may do: Alice delegates payments, Sam sees to security, Bob neither.
pub fn dev_grants(provider: &str) -> anyhow::Result<Grants> {
    let row = |subject: &str, more: serde_json::Value| -> Result<Grant, serde_json::Error> {
        let mut row = json!({ "human": { "issuer": provider, "subject": subject } });
        if let (Some(row), Some(more)) = (row.as_object_mut(), more.as_object()) {
            row.extend(more.clone());
        }
        serde_json::from_value(row)
    };
    let alice = json!({
        "capabilities": [{ "tool": "payments", "action": "transfer", "resource": "acct/*",
            "limits": [{ "kind": "at_most", "arg": "amount", "max": 100_000, "unit": "EUR" }] }],
        "max_ttl_secs": 8 * 3600,
        "max_depth": 3,
        "class_max": "restricted",
    });
    let sam = json!({ "roles": ["security", "admin", "auditor"] });
    Ok(Grants::new(vec![row("dev-alice", alice)?, row("dev-sam", sam)?]))
}
