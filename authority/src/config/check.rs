//! What a configuration comes to, and what it weakens.

use serde_json::{Value, json};

use super::{Config, ConfigError, DatabaseUrl};
use crate::oidc::relying_party::Algorithm;

impl Config {
    /// The settings in effect, defaults included and secrets left out.
    pub fn effective(&self) -> Result<Value, ConfigError> {
        let file = |path: &Option<std::path::PathBuf>| path.as_ref().map_or(Value::Null, |p| json!(p));
        let database = match self.database_url()? {
            DatabaseUrl::Sqlite => json!("sqlite"),
            DatabaseUrl::Postgres(_) => json!("postgres"),
        };
        let mut settings = json!({
            "server": {
                "listen": self.server.listen, "public_url": self.server.public_url, "tenant": self.server.tenant,
                "data": self.server.data, "max_ttl_secs": self.server.max_ttl_secs,
            },
            "database": { "kind": database, "url": self.database.url, "url_file": file(&self.database.url_file) },
            "keys": {
                "folder": self.keys_folder(), "anchors": self.keys.anchors, "first_list": file(&self.keys.first_list),
                "threshold": if self.keys.anchors.is_empty() { Value::Null } else { json!(self.anchors()?.threshold()) },
            },
            "issuer": {
                "url": self.issuer.url, "client_id": self.issuer.client_id, "client_secret_file": file(&self.issuer.client_secret_file),
                "algorithms": self.issuer.algorithms.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>(),
                "redirect_url": format!("{}/oidc/callback", self.server.public_url),
            },
            "redis": self.redis.as_ref().map(|r| json!({
                "url": r.url, "url_file": file(&r.url_file), "ca": file(&r.ca), "sharded": r.sharded, "channel_prefix": r.channel_prefix,
            })),
            "grants": self.grants.len(),
        });
        if let (Value::Object(settings), Value::Object(more)) = (&mut settings, self.effective_operation()) {
            settings.extend(more);
        }
        Ok(settings)
    }

    /// What promises less than the defaults, one sentence each; which promise stands in `DESIGN.md` section 1.
    pub fn weaknesses(&self) -> Result<Vec<String>, ConfigError> {
        let mut said = self.operation_weaknesses();
        let Config { server, keys, issuer, redis, .. } = self;
        if server.public_url.starts_with("http://") {
            said.push("server.public_url: http on a loopback address is for one machine (P3)".to_owned());
        }
        if keys.anchors.is_empty() {
            said.push("keys.anchors: none is named, so the anchor is a file beside the service keys: who takes them takes it, too (P8)".to_owned());
        } else if self.anchors()?.threshold() < 2 {
            said.push("keys.threshold: one anchor alone signs key lists (P8)".to_owned());
        }
        if issuer.client_secret_file.is_none() {
            said.push("issuer.client_secret_file: none, so the provider does not know us by a secret (P1)".to_owned());
        }
        if issuer.algorithms.contains(&Algorithm::RS256) && issuer.algorithms.len() > 1 {
            said.push("issuer.algorithms: more than one, so the weakest of them vouches for people (P1)".to_owned());
        }
        if let DatabaseUrl::Postgres(url) = self.database_url()? {
            let url = secrecy::ExposeSecret::expose_secret(&url);
            if ["disable", "allow", "require", "verify-ca"].iter().any(|mode| url.contains(&format!("sslmode={mode}"))) {
                said.push("database.url: its sslmode lets the server be somebody else (P4, P8)".to_owned());
            }
        }
        if redis.as_ref().is_some_and(|r| r.url.as_deref().is_some_and(|u| !u.starts_with("rediss://"))) {
            said.push("redis.url: not rediss, so whoever is on the way may cause denials (P4)".to_owned());
        }
        Ok(said)
    }
}
