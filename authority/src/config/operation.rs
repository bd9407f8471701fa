//! The settings of a server that one operates: its certificate, who stands before it, how much of anything, what it writes.

use std::path::PathBuf;

use ipnet::IpNet;
use reqwest::Url;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Config, ConfigError};

/// `[tls]`: TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2 as the client chooses. Both files are read again on SIGHUP and when they change.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The chain, PEM, our own certificate first.
    pub certificate: PathBuf,
    /// Its private key, PEM. Nobody but owner and group may read it, and only the owner write.
    pub key: PathBuf,
}

/// `[proxies]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxies {
    /// Addresses and networks (`10.0.0.0/8`) whose word on the client's address and on the request's id is taken.
    pub trusted: Vec<Network>,
    /// The one header that they write; the other is not looked at, since a proxy passes on what it does not know. Default `x-forwarded-for`.
    #[serde(default)]
    pub header: ForwardedBy,
}

/// A network, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(pub IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let net = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
        let net = net.map_err(|_| serde::de::Error::custom(format!("expected an address or a network such as `10.0.0.0/8`, got `{text}`")))?;
        if net.trunc() != net {
            return Err(serde::de::Error::custom(format!("expected a network, got the address `{text}` in one: did you mean `{}`", net.trunc())));
        }
        Ok(Self(net))
    }
}

/// How a proxy says who the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedBy {
    /// Addresses with commas between, the nearest last.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident: $default:literal in $least:literal..=$most:literal,)*) => {
        /// `[limits]`. Rates are of a token bucket each: so many a second, and twice that at once.
        #[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Limits {
            $($(#[$doc])* pub $field: u32,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Limits {
            fn validate(&self) -> Result<(), ConfigError> {
                $(if !($least..=$most).contains(&self.$field) {
                    let why = format!("expected {} to {}, got {}", $least, $most, self.$field);
                    return Err(ConfigError::Value { field: concat!("limits.", stringify!($field)), why });
                })*
                Ok(())
            }

            fn effective(&self) -> Value {
                json!({ $(stringify!($field): self.$field,)* })
            }
        }
    };
}

limits! {
    /// Connections at once. A stream of the feed holds one. Default 8192.
    connections: 8192 in 16..=1_000_000,
    /// Connections at once of one client address (IPv6: of one /64); a trusted proxy has no such bound. Default 2048.
    connections_per_client: 2048 in 1..=1_000_000,
    /// Seconds for a TLS handshake, for the head of a request, and for an idle connection to wait for one. Default 20.
    header_secs: 20 in 1..=300,
    /// Seconds for the body of a request. Default 10.
    body_secs: 10 in 1..=20,
    /// Seconds that a connection may take nothing of an answer before it is ended. Default 20.
    stall_secs: 20 in 1..=300,
    /// Seconds that requests under way have when the server is asked to stop. Default 10.
    stop_secs: 10 in 1..=300,
    /// Requests of signing in a second, per client address. Default 20.
    sign_in_per_second: 20 in 1..=1_000_000,
    /// Requests for tokens and cards a second, per client address. Default 4000.
    mint_per_second: 4000 in 1..=1_000_000,
    /// Requests for tokens and cards a second, per agent. Default 1000.
    mint_per_agent_per_second: 1000 in 1..=1_000_000,
    /// Pulls of the feed's head a second, per client address: 20 for each verifier there (`DESIGN.md` section 8). Default 2000.
    head_per_second: 2000 in 20..=1_000_000,
    /// Requests for the feed's tail, snapshot, lost items and the key list a second, per client address. Default 500.
    tail_per_second: 500 in 20..=1_000_000,
    /// Streams opened a second, per client address. Default 200.
    stream_per_second: 200 in 1..=1_000_000,
    /// Streams opened a second, per signed-in verifier: one every 20 s for each of its processes. Default 10.
    stream_per_verifier_per_second: 10 in 1..=1_000_000,
    /// Acknowledgements and receipts a second, per client address. Default 5000.
    deliver_per_second: 5000 in 20..=1_000_000,
    /// Requests of a person who is signed in a second. Default 50.
    person_per_second: 50 in 1..=1_000_000,
    /// Requests of everything else a second, per client address. Default 500.
    other_per_second: 500 in 1..=1_000_000,
}

/// `[log]`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` or `json`, one event a line. Default `text`.
    pub format: LogFormat,
    /// What is written, in the form of `RUST_LOG`; `procura::request=info` adds a line for each request. `PROCURA_LOG` in the environment goes first. Default `warn`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "warn".to_owned() }
    }
}

/// How an event is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `[traces]`: OTLP over HTTP, protobuf. What the collector does not take in time is dropped; no request waits for it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// The collector's URL for traces, such as `http://127.0.0.1:4318/v1/traces`, without a password.
    pub endpoint: String,
    /// The part of requests that is sent, above 0 and at most 1. Default 1.
    #[serde(default = "all")]
    pub ratio: f64,
}

const fn all() -> f64 {
    1.0
}

impl Config {
    pub(super) fn validate_operation(&self) -> Result<(), ConfigError> {
        let wrong = |field, why: String| Err(ConfigError::Value { field, why });
        if self.tls.is_some() && self.server.public_url.starts_with("http://") {
            return wrong("tls", format!("expected a `server.public_url` of https beside it, got `{}`", self.server.public_url));
        }
        if self.proxies.as_ref().is_some_and(|p| p.trusted.is_empty()) {
            return wrong("proxies.trusted", "expected at least one address or network; without proxies, leave `[proxies]` out".to_owned());
        }
        self.limits.validate()?;
        if self.limits.connections_per_client > self.limits.connections {
            return wrong(
                "limits.connections_per_client",
                format!("expected at most `limits.connections`, which is {}, got {}", self.limits.connections, self.limits.connections_per_client),
            );
        }
        if let Err(e) = self.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            return wrong("log.filter", format!("expected a filter such as `warn,procura::request=info`, got `{}`: {e}", self.log.filter));
        }
        let Some(traces) = &self.traces else { return Ok(()) };
        match Url::parse(&traces.endpoint) {
            Ok(url) if !["http", "https"].contains(&url.scheme()) => wrong("traces.endpoint", "expected a URL of http or https".to_owned()),
            // It stands in the report of `--check`.
            Ok(url) if url.password().is_some() || !url.username().is_empty() => wrong("traces.endpoint", "expected no user and no password in it".to_owned()),
            Ok(_) if !(traces.ratio > 0.0 && traces.ratio <= 1.0) => wrong("traces.ratio", format!("expected above 0 and at most 1, got {}", traces.ratio)),
            Ok(_) => Ok(()),
            Err(e) => wrong("traces.endpoint", format!("expected a URL: {e}")),
        }
    }

    /// These settings in effect, for the report of `--check`.
    pub(super) fn effective_operation(&self) -> Value {
        json!({
            "tls": self.tls.as_ref().map(|t| json!({ "certificate": t.certificate, "key": t.key })),
            "proxies": self.proxies.as_ref().map(|p| json!({
                "trusted": p.trusted.iter().map(|n| n.0.to_string()).collect::<Vec<_>>(), "header": p.header.name(),
            })),
            "limits": self.limits.effective(),
            "log": { "format": if self.log.format == LogFormat::Json { "json" } else { "text" }, "filter": self.log.filter },
            "traces": self.traces.as_ref().map(|t| json!({ "endpoint": t.endpoint, "ratio": t.ratio })),
        })
    }

    /// What of these settings promises less than it could.
    pub(super) fn operation_weaknesses(&self) -> Vec<String> {
        let mut said = Vec::new();
        let Config { server, tls, proxies, issuer, database, redis, traces, .. } = self;
        if !server.listen.ip().is_loopback() && tls.is_none() {
            said.push(format!("server.listen: {} is reached in the clear: only a proxy that speaks TLS may reach it (P3)", server.listen));
        }
        // A network this wide holds clients as well as proxies.
        let wide = |net: &IpNet| net.prefix_len() < if net.addr().is_ipv4() { 8 } else { 16 };
        for Network(net) in proxies.iter().flat_map(|p| &p.trusted).filter(|n| wide(&n.0)) {
            said.push(format!(
                "proxies.trusted: {net} is most of the internet: whoever is in it names itself anew at each request, and no limit per client holds (P4)"
            ));
        }
        if traces.as_ref().is_some_and(|t| Url::parse(&t.endpoint).is_ok_and(|u| u.scheme() == "http" && !is_loopback(&u))) {
            said.push("traces.endpoint: in the clear: whoever is on the way reads which routes are asked when".to_owned());
        }
        let files = [
            ("issuer.client_secret_file", issuer.client_secret_file.as_ref(), "P1"),
            ("database.url_file", database.url_file.as_ref(), "P8"),
            ("redis.url_file", redis.as_ref().and_then(|r| r.url_file.as_ref()), "P4"),
        ];
        for (field, path, promise) in files {
            if let Some((path, mode)) = path.and_then(|p| Some((p, mode(p)?))).filter(|(_, mode)| mode & 0o077 != 0) {
                said.push(format!("{field}: {} has mode {mode:o}, expected 600: others may read it ({promise})", path.display()));
            }
        }
        said
    }
}

impl ForwardedBy {
    /// The header's name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback()))
}

/// A file's mode; none if there is no such file, which is said when it is read.
fn mode(path: &std::path::Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|m| m.mode() & 0o777)
}
