//! What a client is given.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::claims::Audience;
use crate::decision::Mode;
use crate::feed::state::Alarm;
use crate::ids::{Clock, VerifierId};
use crate::key_list::Anchors;

/// What a [`FeedClient`](super::FeedClient) needs. The tenant is the view's.
pub struct FeedConfig {
    /// Base URL of the authority, as the trust file has it; `/v1/...` is appended.
    pub authority: String,
    /// The HTTP client; [`http_client`] makes a fitting one.
    pub http: reqwest::Client,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Who signs key lists.
    pub anchors: Anchors,
    /// For nonces and jitter; from the operating system in production.
    pub rng: Mutex<Box<dyn rand::RngCore + Send>>,
    /// The shortest freshness bound of the tool: without a stream the view is pulled twice as often, at most 20 times a second.
    pub bound: Duration,
    /// When the stream is opened anew, with a new nonce, before the old one ends. 20 s by the protocol. Without a stream: when a pull maps anew.
    pub reopen_every: Duration,
    /// Whether an event stream is held open.
    pub stream: StreamUse,
    /// Redis beside the stream, as [`RedisConfig::open`](crate::feed::redis::RedisConfig::open) gives it; none by default.
    #[cfg(feature = "redis")]
    pub redis: Option<crate::feed::redis::RedisServer>,
    /// Who signs in to streams and acknowledges. Nobody: one of few strangers, whom no kill waits for.
    pub enrolment: Option<Enrolment>,
    /// The trust file that keeps each key list that is accepted; none keeps nothing, and a restart begins with the list of its start.
    pub trust_path: Option<PathBuf>,
    /// Where the feed is kept over restarts, and for handing back what an authority lost; one verifier's alone. None: every start is cold.
    pub folder: Option<PathBuf>,
    /// Called once per alarm, from the client's tasks; must not block. [`Alarm::Paused`] asks for a new replay challenge.
    pub on_alarm: Box<dyn Fn(&Alarm) + Send + Sync>,
}

impl FeedConfig {
    /// The machine's clock, the operating system's randomness, 150 ms, 20 s, no sign-in, alarms unheard.
    pub fn new(authority: impl Into<String>, anchors: Anchors, http: reqwest::Client) -> Self {
        use rand::SeedableRng as _;
        Self {
            authority: authority.into(),
            http,
            clock: Arc::new(crate::ids::SystemClock),
            anchors,
            rng: Mutex::new(Box::new(rand::rngs::StdRng::from_os_rng())),
            bound: Duration::from_millis(150),
            reopen_every: Duration::from_secs(20),
            stream: StreamUse::Held,
            #[cfg(feature = "redis")]
            redis: None,
            enrolment: None,
            trust_path: None,
            folder: None,
            on_alarm: Box::new(|_| {}),
        }
    }
}

/// Whether a client holds an event stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamUse {
    /// One, at all times.
    Held,
    /// None: for a verifier that cannot hold one. It lives of Redis, with a pull every [`FeedConfig::reopen_every`] to map the authority's
    /// clock; without Redis too, of pulls alone, one in half a bound.
    None,
}

/// An enrolled verifier, as the authority knows it.
pub struct Enrolment {
    /// Its id.
    pub verifier: VerifierId,
    /// The service and instance it was enrolled for.
    pub audience: Audience,
    /// Drawn at random when the process starts; the same as in its receipts.
    pub run: [u8; 16],
    /// Its key.
    pub key: ed25519_dalek::SigningKey,
    /// The weakest mode in force there: after its bound of silence it is presumed to deny.
    pub mode: Mode,
}

// No derive: it holds a private key.
impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolment({})", self.verifier)
    }
}

/// An HTTP client with what the feed wants: TCP_NODELAY, connections within 1 s, no redirects.
///
/// A process-wide rustls provider must have been installed before.
pub fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().tcp_nodelay(true).connect_timeout(Duration::from_secs(1)).redirect(reqwest::redirect::Policy::none()).build()
}
