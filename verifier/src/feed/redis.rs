//! The feed over Redis pub/sub, beside the stream (`spec/feed.md`, transport over Redis): where Redis is and how it is spoken to.
//!
//! Redis carries the same signed bytes and is trusted with nothing: whoever can write to it can cause denials at most.

mod budget;
mod subscriber;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, TlsCertificates};
use zeroize::Zeroizing;

use crate::ids::Tenant;

pub use subscriber::RedisStatus;
pub(in crate::feed) use subscriber::{Counts, keep_subscription};

/// Where Redis is, and how the feed travels over it: `[redis]` of a configuration file. Publisher and subscribers must agree on all but the user.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// With user and password.
    pub url: RedisUrl,
    /// The certificates (PEM) that Redis's own must come from, in place of the machine's. Only with `rediss://`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Redis Cluster: sharded channels (`SPUBLISH`, `SSUBSCRIBE`), which stay within the shard that their name falls to. Default false.
    #[serde(default)]
    pub sharded: bool,
    /// What every channel's name begins with: 1 to 64 visible ASCII characters. Default `procura:rev:`.
    #[serde(default = "default_prefix")]
    pub channel_prefix: String,
}

impl RedisConfig {
    /// At this URL, with the defaults.
    pub fn at(url: RedisUrl) -> Self {
        Self { url, ca: None, sharded: false, channel_prefix: default_prefix() }
    }

    /// Reads the certificates, and checks what can be checked without a server.
    pub fn open(&self) -> Result<RedisServer, RedisConfigError> {
        if !(1..=64).contains(&self.channel_prefix.len()) || !self.channel_prefix.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(RedisConfigError::Prefix(self.channel_prefix.len()));
        }
        let info = self.url.info()?;
        let ca = match (&self.ca, info.addr()) {
            (None, _) => None,
            (Some(path), ConnectionAddr::TcpTls { .. }) => {
                Some(std::fs::read(path).map_err(|e| RedisConfigError::Ca { path: path.clone(), why: e.to_string() })?)
            }
            // Certificates that nothing is checked against look like safety and are none.
            (Some(_), _) => return Err(RedisConfigError::CaWithoutTls),
        };
        let server = RedisServer { info, ca, sharded: self.sharded, channel_prefix: self.channel_prefix.clone() };
        server.client(None).map_err(|e| RedisConfigError::Tls(describe(&e)))?;
        Ok(server)
    }
}

fn default_prefix() -> String {
    DEFAULT_PREFIX.to_owned()
}

/// `redis://` or `rediss://`, as a rule with user and password: a secret. `Debug` shows scheme and host alone; no `Display`.
#[derive(Clone)]
pub struct RedisUrl(Zeroizing<String>);

impl RedisUrl {
    fn info(&self) -> Result<ConnectionInfo, RedisConfigError> {
        // The library's own words may repeat the URL, and with it the password.
        self.0.as_str().into_connection_info().map_err(|_| RedisConfigError::Url)
    }
}

impl FromStr for RedisUrl {
    type Err = RedisConfigError;
    fn from_str(text: &str) -> Result<Self, RedisConfigError> {
        let url = Self(Zeroizing::new(text.to_owned()));
        let by_network = text.starts_with("redis://") || text.starts_with("rediss://");
        // `#insecure` would switch the check of certificates off, in one word that is easily missed.
        if !by_network || text.contains('#') || text.len() > MAX_URL_BYTES {
            return Err(RedisConfigError::Url);
        }
        url.info()?;
        Ok(url)
    }
}

impl<'de> serde::Deserialize<'de> for RedisUrl {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info() {
            Ok(info) => match info.addr() {
                ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
                ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}"),
                _ => f.write_str("redis"),
            },
            Err(_) => f.write_str("redis"),
        }
    }
}

/// Why a configuration is none. Never says what stands in the URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisConfigError {
    /// Not a URL of Redis.
    #[error("expected a URL as `redis://user:password@host:port` or `rediss://…`, of at most {MAX_URL_BYTES} bytes and without a fragment")]
    Url,
    /// The prefix does not fit.
    #[error("channel prefix is {0} bytes long, expected 1 to 64 visible ASCII characters")]
    Prefix(usize),
    /// The certificates cannot be read.
    #[error("cannot read the certificates in {path}: {why}")]
    Ca {
        /// Where they should be.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// They would not be used.
    #[error("certificates are given for a connection without TLS, expected a URL with `rediss://`")]
    CaWithoutTls,
    /// They are none.
    #[error("cannot use the certificates: {0}")]
    Tls(String),
}

/// A Redis that can be connected to. `Debug` is that of the library, which shows no password.
#[derive(Clone, Debug)]
pub struct RedisServer {
    info: ConnectionInfo,
    ca: Option<Vec<u8>>,
    sharded: bool,
    channel_prefix: String,
}

impl RedisServer {
    /// The one channel of a tenant: `procura:rev:{acme}`. The braces make the tenant's name what a cluster places the channel by.
    pub fn channel(&self, tenant: &Tenant) -> String {
        format!("{}{{{tenant}}}", self.channel_prefix)
    }

    /// A client of the server itself, or of the cluster's node (host and port) that it named.
    ///
    /// RESP3, so that messages come by a callback of ours and not through a channel without bound; no `CLIENT SETINFO`, so that a user needs no
    /// right to it; Nagle's wait is off, and the kernel gives up a silent peer after seconds.
    pub fn client(&self, node: Option<&Node>) -> redis::RedisResult<Client> {
        let tls = matches!(self.info.addr(), ConnectionAddr::TcpTls { .. });
        let addr = match node {
            None => self.info.addr().clone(),
            Some(Node { host, port }) if tls => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
            Some(Node { host, port }) => ConnectionAddr::Tcp(host.clone(), *port),
        };
        let keepalive = TcpKeepalive::new().with_time(PING_EVERY).with_interval(PING_EVERY).with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(USER_TIMEOUT);
        let redis = self.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        let info = self.info.clone().set_addr(addr).set_tcp_settings(tcp).set_redis_settings(redis);
        if tls { Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: self.ca.clone() }) } else { Client::open(info) }
    }

    /// How long anything is waited for: 1 s for a connection, 500 ms for an answer.
    pub fn patience() -> AsyncConnectionConfig {
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_WAIT)).set_response_timeout(Some(ANSWER_WAIT))
    }

    /// Where a cluster's node says that the channel is, if that is what the error says.
    pub fn moved(&self, error: &redis::RedisError, asked: Option<&Node>) -> Option<Node> {
        let (addr, _) = error.redirect_node()?;
        let (host, port) = addr.rsplit_once(':')?;
        // A node that does not know its own name leaves the place empty: it is the one we asked.
        let host = match (host, asked, self.info.addr()) {
            ("" | "?", Some(node), _) => &node.host,
            ("" | "?", None, ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host,
            (host, ..) => host,
        };
        Some(Node { host: host.to_owned(), port: port.parse().ok()? })
    }

    /// True if channels are sharded.
    pub const fn is_sharded(&self) -> bool {
        self.sharded
    }
}

/// Host and port of a cluster's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    host: String,
    port: u16,
}

/// An error of Redis as one sentence: what the server said is cut short, an address or a password does not stand in it.
pub fn describe(error: &redis::RedisError) -> String {
    let said = match error.code() {
        Some(code) if code.len() <= 16 && code.bytes().all(|b| b.is_ascii_uppercase()) => code,
        _ => error.category(),
    };
    format!("redis: {said}")
}

const DEFAULT_PREFIX: &str = "procura:rev:";
const MAX_URL_BYTES: usize = 1024;
const CONNECT_WAIT: Duration = Duration::from_secs(1);
const ANSWER_WAIT: Duration = Duration::from_millis(500);
const USER_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// A cluster that sends in circles is left alone.
pub const MAX_MOVES: usize = 4;
