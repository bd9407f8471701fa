//! What `procura serve` runs with: one TOML file, parsed once, each field overridden by `PROCURA_SECTION__FIELD`.
//!
//! Unknown fields are refused: a misspelt bound would otherwise be no bound. A secret stands in a file of its own, which the
//! configuration names; neither the report of `--check` nor an error shows one. A setting that weakens a promise of
//! `DESIGN.md` section 1 is named by [`Config::weaknesses`], at `--check` and at every start.

mod check;
mod dev;
mod env;
mod operation;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use procura_verifier::feed::redis::{RedisConfig, RedisUrl};
use procura_verifier::ids::{Key, Tenant};
use procura_verifier::key_list::Anchors;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

pub use self::dev::{MAX_TTL_SECS, dev_grants, dev_people, dev_tenant};
pub use self::operation::{ForwardedBy, Limits, Log, LogFormat, Network, Proxies, Tls, Traces};
use crate::domain::grants::{Grant, Grants};
use crate::oidc::relying_party::{Algorithm, IssuerConfig};

/// Everything. All replicas of an authority have the same but for `server.listen` and `server.data`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This process.
    pub server: Server,
    /// Where the state is.
    pub database: Database,
    /// Whose signatures count, and where the service keys are.
    #[serde(default)]
    pub keys: Keys,
    /// Who signs people in.
    pub issuer: Issuer,
    /// The fast path of the feed. Without it, streams over HTTP carry the feed alone, and keep the promise.
    pub redis: Option<Redis>,
    /// Who may delegate what; nobody may anything who is not named here.
    #[serde(default)]
    pub grants: Vec<Grant>,
    /// Our own certificate. Without it we speak in the clear.
    pub tls: Option<Tls>,
    /// Who may say on whose behalf a request comes. Without it nobody.
    pub proxies: Option<Proxies>,
    /// How much of anything at once.
    #[serde(default)]
    pub limits: Limits,
    /// What is written to standard error.
    #[serde(default)]
    pub log: Log,
    /// Where spans of requests are sent. Without it nowhere.
    pub traces: Option<Traces>,
}

/// `[server]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on. Without `[tls]` in the clear: then a proxy that speaks TLS stands before any but a loopback address. Default `127.0.0.1:7300`.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// The authority's URL as everybody else knows it: https, or http on a loopback address. It is the issuer of sessions,
    /// what agents sign for, and with the tenant the name of the log: it never changes.
    pub public_url: String,
    /// The tenant. It never changes.
    pub tenant: Tenant,
    /// This replica's own folder: lock, socket of the command line, the checkpoint it released last, `trust.json`, and with
    /// SQLite the database. No two replicas share one.
    pub data: PathBuf,
    /// Longest life of a token in seconds, 60 to 2,678,400 (31 days): written into the first key list that is made here. Default 86,400.
    #[serde(default = "default_max_ttl_secs")]
    pub max_ttl_secs: u64,
}

/// `[database]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite:` for the file `procura.db` in `server.data`, or `postgres://user@host/database?…` without a password.
    pub url: Option<String>,
    /// A file that holds the URL instead: where it has a password.
    pub url_file: Option<PathBuf>,
}

/// Where the state is, read.
#[derive(Debug)]
pub enum DatabaseUrl {
    /// In the data folder.
    Sqlite,
    /// On a server.
    Postgres(SecretString),
}

/// `[keys]`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The folder with the service keys (mode 0600), the same for all replicas. Default `keys` in `server.data`.
    pub folder: Option<PathBuf>,
    /// Public keys of the anchors, who sign key lists offline. Without any, the folder's own `anchor.key` is the one anchor.
    #[serde(default)]
    pub anchors: Vec<Key>,
    /// How many of them must sign. Default: all.
    pub threshold: Option<usize>,
    /// A signed key list (as `procura keys sign` writes it) for the first start; later lists come by `procura keys publish`.
    pub first_list: Option<PathBuf>,
}

/// `[issuer]`: the OpenID provider.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its issuer identifier, letter by letter. It is half of every person's name here: it never changes.
    pub url: String,
    /// Our name there. The callback to register is `<public_url>/oidc/callback`.
    pub client_id: String,
    /// A file with our secret there. Without one we are a public client.
    pub client_secret_file: Option<PathBuf>,
    /// How its ID tokens may be signed: `RS256`, `PS256`, `ES256`, `EdDSA`. Default `["RS256"]`.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<Algorithm>,
}

/// `[redis]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port` or `rediss://host:port` (TLS), without a password.
    pub url: Option<String>,
    /// A file that holds the URL instead: where it has a user and a password.
    pub url_file: Option<PathBuf>,
    /// A file with the certificates (PEM) that may vouch for the server; default: this machine's.
    pub ca: Option<PathBuf>,
    /// Use sharded pub/sub, on a Redis Cluster. Default false.
    #[serde(default)]
    pub sharded: bool,
    /// What channel names begin with: 1 to 64 visible ASCII characters. Default `procura:rev:`.
    #[serde(default = "default_channel_prefix")]
    pub channel_prefix: String,
}

/// Why the configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that it is, or names.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Not TOML of this form. The parser's words without the line that it found, which may hold a secret.
    #[error("{0}: {1}")]
    Form(String, String),
    /// A value that cannot be.
    #[error("{field}: {why}")]
    Value {
        /// `section.field`.
        field: &'static str,
        /// What was expected, and what came.
        why: String,
    },
}

impl Config {
    /// Reads the file and the environment's overrides, and checks both.
    pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let text = read(path, MAX_FILE_BYTES)?;
        let config: Self = env::overridden(&path.display().to_string(), &text, environment)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |field, why: String| Err(ConfigError::Value { field, why });
        let Server { public_url, max_ttl_secs, .. } = &self.server;
        match Url::parse(public_url) {
            Ok(url) if url.path() != "/" || url.query().is_some() || public_url.ends_with('/') => {
                return wrong("server.public_url", format!("expected scheme, host and port alone, got `{public_url}`"));
            }
            Ok(_) => {}
            Err(e) => return wrong("server.public_url", format!("expected a URL, got `{public_url}`: {e}")),
        }
        if let Err(e) = crate::oidc::routes::Cookies::for_address(public_url) {
            return wrong("server.public_url", e.to_string());
        }
        if !(60..=2_678_400).contains(max_ttl_secs) {
            return wrong("server.max_ttl_secs", format!("expected 60 to 2678400 seconds, got {max_ttl_secs}"));
        }
        let Keys { anchors, threshold, .. } = &self.keys;
        if threshold.is_some() && anchors.is_empty() {
            return wrong("keys.threshold", "expected `keys.anchors` beside it".to_owned());
        }
        if !anchors.is_empty() {
            self.anchors()?;
        }
        if self.issuer.algorithms.is_empty() {
            return wrong("issuer.algorithms", "expected at least one".to_owned());
        }
        for (at, grant) in self.grants.iter().enumerate() {
            // The first would be all that counts: the second is a mistake that nobody sees.
            if self.grants.iter().take(at).any(|g| g.human == grant.human) {
                return wrong("grants", format!("two rows for `{}`, expected one", grant.human.subject));
            }
        }
        if let Some(redis) = &self.redis {
            one_of("redis.url", redis.url.as_deref(), redis.url_file.as_deref())?;
            let prefix = &redis.channel_prefix;
            if !(1..=64).contains(&prefix.len()) || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
                return wrong("redis.channel_prefix", format!("expected 1 to 64 visible ASCII characters, got {}", prefix.len()));
            }
        }
        self.validate_operation()?;
        self.database_url().map(drop)
    }

    /// Who may sign key lists, as configured; an error if nobody is named.
    pub fn anchors(&self) -> Result<Anchors, ConfigError> {
        let anchors = self.keys.anchors.clone();
        let threshold = self.keys.threshold.unwrap_or(anchors.len());
        Anchors::new(anchors, threshold).map_err(|e| ConfigError::Value { field: "keys.anchors", why: e.to_string() })
    }

    /// Where the state is.
    pub fn database_url(&self) -> Result<DatabaseUrl, ConfigError> {
        let url = one_of("database.url", self.database.url.as_deref(), self.database.url_file.as_deref())?;
        let wrong = |why: &str| Err(ConfigError::Value { field: "database.url", why: why.to_owned() });
        // Its words are not repeated: there may be a password among them.
        let text = secrecy::ExposeSecret::expose_secret(&url);
        if text == "sqlite:" {
            return Ok(DatabaseUrl::Sqlite);
        }
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return wrong("expected `sqlite:` or `postgres://user@host/database`");
        }
        if self.database.url.is_some() && Url::parse(text).is_ok_and(|u| u.password().is_some() || u.query_pairs().any(|(k, _)| k == "password")) {
            return wrong("expected no password: name a file that holds the URL as `database.url_file`");
        }
        Ok(DatabaseUrl::Postgres(url))
    }

    /// The folder of the service keys.
    pub fn keys_folder(&self) -> PathBuf {
        self.keys.folder.clone().unwrap_or_else(|| self.server.data.join("keys"))
    }

    /// Who may delegate what.
    pub fn grants(&self) -> Grants {
        Grants::new(self.grants.clone())
    }

    /// The provider, with our secret there.
    pub fn issuer(&self) -> Result<IssuerConfig, ConfigError> {
        let client_secret = self.issuer.client_secret_file.as_deref().map(secret).transpose()?;
        Ok(IssuerConfig {
            issuer: self.issuer.url.clone(),
            client_id: self.issuer.client_id.clone(),
            client_secret,
            redirect_url: format!("{}/oidc/callback", self.server.public_url),
            algorithms: self.issuer.algorithms.clone(),
        })
    }
}

impl Redis {
    /// As the feed takes it.
    pub fn transport(&self) -> Result<RedisConfig, ConfigError> {
        let url = one_of("redis.url", self.url.as_deref(), self.url_file.as_deref())?;
        let url = url.expose_secret().parse::<RedisUrl>().map_err(|e| ConfigError::Value { field: "redis.url", why: e.to_string() })?;
        Ok(RedisConfig { url, ca: self.ca.clone(), sharded: self.sharded, channel_prefix: self.channel_prefix.clone() })
    }
}

/// A URL here or in a file, not both.
fn one_of(field: &'static str, here: Option<&str>, file: Option<&Path>) -> Result<SecretString, ConfigError> {
    match (here, file) {
        (Some(url), None) => Ok(url.into()),
        (None, Some(file)) => secret(file),
        _ => Err(ConfigError::Value { field, why: format!("expected either `{field}` or `{field}_file`") }),
    }
}

/// A secret in a file, without the line's end.
fn secret(path: &Path) -> Result<SecretString, ConfigError> {
    let text = zeroize::Zeroizing::new(read(path, MAX_SECRET_BYTES)?);
    Ok(text.trim_end_matches(['\r', '\n']).into())
}

fn read(path: &Path, most: u64) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let file = |e| ConfigError::File(path.to_owned(), e);
    let mut text = String::new();
    let length = std::fs::File::open(path).map_err(file)?.take(most + 1).read_to_string(&mut text).map_err(file)?;
    if length as u64 > most {
        return Err(file(std::io::Error::other(format!("longer than {most} bytes"))));
    }
    Ok(text)
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7300))
}
const fn default_max_ttl_secs() -> u64 {
    MAX_TTL_SECS
}
fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256]
}
fn default_channel_prefix() -> String {
    "procura:rev:".to_owned()
}

const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_SECRET_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests;
