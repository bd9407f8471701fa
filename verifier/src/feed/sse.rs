//! The feed over HTTP: one event stream, the tail, and one pull for all decisions (`spec/feed.md`, transport).
//!
//! Needs a tokio runtime. Whatever the network does, the worst outcome is a stale view.

mod acknowledging;
mod config;
mod events;
mod following;
mod pulls;
mod resync;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::clock::read_both;
use super::message::{FeedError, MAX_MESSAGE_BYTES};
use super::state::{Alarm, FeedCounters, FeedState, Need, Nonce};
use crate::key_list::KeyListError;
use crate::revocation::{KeyListStays, RevocationView as _, View};
use crate::trust::KeepError;
use crate::wire::Malformed;
pub use config::{Enrolment, FeedConfig, StreamUse, http_client};
use events::EventReader;
use pulls::Pulls;

/// How a client is doing.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    /// Epoch, number and hash up to which everything is applied.
    pub watermark: (u64, u64, [u8; 32]),
    /// Streams that have answered; 2 for an instant while one replaces the other.
    pub streams: usize,
    /// Pulls begun.
    pub pulls: u64,
    /// The path over Redis.
    #[cfg(feature = "redis")]
    pub redis: super::redis::RedisStatus,
    /// Acknowledgements that the authority has taken.
    pub acks: u64,
    /// Counts of the state machine.
    pub counters: FeedCounters,
    /// What last went wrong, as one sentence without secrets.
    pub last_error: Option<String>,
}

/// Keeps a [`View`] fresh until it is dropped.
pub struct FeedClient {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) config: FeedConfig,
    base: String,
    pub(super) view: Arc<View>,
    state: Mutex<FeedState>,
    pulls: Mutex<Pulls>,
    /// One walk of the tail, or fetch of the key list, at a time.
    following: tokio::sync::Mutex<()>,
    follower_spawned: AtomicBool,
    streams: AtomicUsize,
    #[cfg(feature = "redis")]
    pub(super) redis: super::redis::Counts,
    /// The watermark moved: there is something to acknowledge.
    moved: Notify,
    acks: AtomicU64,
    last_error: Mutex<Option<String>>,
    disk: Option<Arc<resync::Disk>>,
    /// False until the folder is loaded.
    warm: watch::Sender<bool>,
    merging: AtomicBool,
}

impl FeedClient {
    /// Starts following the feed of the view's tenant. The view is stale until the first answer is here.
    ///
    /// One client per view: it is the view's only writer.
    pub fn start(config: FeedConfig, view: Arc<View>) -> Self {
        let disk = config.folder.as_deref().map(resync::Disk::open);
        let refused = disk.as_ref().and_then(|d| d.as_ref().err()).map(ToString::to_string);
        let disk = disk.and_then(Result::ok).map(Arc::new);
        let shared = Arc::new(Shared {
            warm: watch::Sender::new(disk.is_none()),
            disk: disk.clone(),
            merging: AtomicBool::new(false),
            base: config.authority.trim_end_matches('/').to_owned(),
            state: Mutex::new(FeedState::new(Arc::clone(&view))),
            view,
            config,
            pulls: Mutex::default(),
            following: tokio::sync::Mutex::new(()),
            follower_spawned: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            #[cfg(feature = "redis")]
            redis: super::redis::Counts::default(),
            moved: Notify::new(),
            acks: AtomicU64::new(0),
            last_error: Mutex::new(refused),
        });
        if shared.config.folder.is_some() && disk.is_none() {
            shared.report(&[Alarm::Folder]);
        }
        let mut tasks = vec![tokio::spawn(watch_over(Arc::clone(&shared)))];
        if shared.config.stream == StreamUse::Held {
            tasks.push(tokio::spawn(keep_stream(Arc::clone(&shared))));
        }
        #[cfg(feature = "redis")]
        if let Some(server) = shared.config.redis.clone() {
            tasks.push(tokio::spawn(super::redis::keep_subscription(Arc::clone(&shared), server)));
        }
        if let Some(disk) = disk {
            shared.state().keep();
            tasks.push(tokio::spawn(resync::keep_folder(Arc::clone(&shared), disk)));
        }
        if shared.config.enrolment.is_some() {
            tasks.push(tokio::spawn(acknowledging::keep_acknowledging(Arc::clone(&shared))));
        }
        Self { shared, tasks }
    }

    /// The view it keeps fresh.
    pub fn view(&self) -> &Arc<View> {
        &self.shared.view
    }

    /// One pull for all who ask at once: returns when it is done, tail and all, and after 150 ms at the latest. Then decide again.
    ///
    /// Cancel at will: the pull goes on for the others.
    pub async fn refresh(&self) {
        let mut ended = self.shared.start_pull();
        // Late or failed makes no difference here: the next decision says `stale`.
        let _ = timeout(PULL_WAIT, ended.wait_for(|ended| *ended)).await;
    }

    /// Starts a pull, or joins the one under way, and waits for nothing. For whoever must not hold the client.
    pub fn puller(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || drop(shared.start_pull())
    }

    /// How it is doing.
    pub fn status(&self) -> FeedStatus {
        let (watermark, counters) = {
            let state = self.shared.state();
            (state.watermark(), state.counters())
        };
        FeedStatus {
            watermark,
            counters,
            streams: self.shared.streams.load(Ordering::Relaxed),
            acks: self.shared.acks.load(Ordering::Relaxed),
            pulls: lock(&self.shared.pulls).begun,
            #[cfg(feature = "redis")]
            redis: self.shared.redis.status(),
            last_error: lock(&self.shared.last_error).clone(),
        }
    }
}

impl Drop for FeedClient {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl std::fmt::Debug for FeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedClient").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("feed request failed: {0}")]
    Http(#[from] reqwest::Error),
    #[error("answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("answer is not the documented JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("expected base64url without padding")]
    Base64(#[from] base64::DecodeError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    KeyList(#[from] KeyListError),
    #[error(transparent)]
    KeyListStays(#[from] KeyListStays),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Segment(#[from] crate::feed::snapshot::SegmentError),
    #[error("folder: {0}")]
    Disk(#[from] std::io::Error),
    #[error("{0}")]
    Broken(&'static str),
}

/// Opens streams without end, each before the one it replaces is closed.
async fn keep_stream(shared: Arc<Shared>) {
    shared.warmed_up().await;
    let mut current: Option<AbortOnDrop> = None;
    let mut failures = 0;
    loop {
        let (ready, is_ready) = oneshot::channel();
        let reader = Arc::clone(&shared);
        let mut next = AbortOnDrop(tokio::spawn(async move {
            if let Err(error) = reader.read_stream(ready).await {
                reader.note(&error);
            }
        }));
        if timeout(OPEN_WAIT, is_ready).await.is_ok_and(|r| r.is_ok()) {
            // Ends the old one: break after make.
            drop(current.take());
            let opened = shared.config.clock.boot();
            if timeout(shared.reopen_after(), &mut next.0).await.is_err() {
                current = Some(next);
                failures = 0;
                continue;
            }
            // One that answers and ends at once is no better than one that fails.
            if shared.config.clock.boot().micros_since(opened) > STEADY_US {
                failures = 0;
            }
        } else {
            drop(next);
        }
        failures += 1;
        sleep(shared.backoff(failures)).await;
    }
}

/// Looks at the clocks every 25 ms, and pulls where the stream falls silent or is not there.
async fn watch_over(shared: Arc<Shared>) {
    shared.warmed_up().await;
    loop {
        sleep(TICK).await;
        shared.merge_soon();
        let (now, need, heard, alarms) = {
            let mut state = shared.state();
            let (now, wall) = read_both(&*shared.config.clock);
            (now, state.tick(now, wall), state.last_heard(), state.take_alarms())
        };
        shared.report(&alarms);
        if shared.view.is_stuck() {
            continue;
        }
        let bound = micros(shared.config.bound);
        // With a stream, one lost beat is forgiven; without, two pulls fit into the bound.
        let patience = if shared.is_listening() { SILENCE_US } else { bound / 2 };
        let silent = heard.is_none_or(|h| now.micros_since(h) > patience);
        let stale = shared.view.fresh_as_of().is_none_or(|f| now.micros_since(f) > bound);
        let due = silent || stale || (shared.config.stream == StreamUse::None && shared.is_mapping_due(now));
        if need == Need::Pull || (due && now >= lock(&shared.pulls).retry_at) {
            drop(shared.start_pull());
        }
    }
}

impl Shared {
    /// True while beats are to be expected without being asked for.
    fn is_listening(&self) -> bool {
        #[cfg(feature = "redis")]
        if self.redis.is_subscribed() {
            return true;
        }
        self.streams.load(Ordering::Relaxed) > 0
    }

    async fn read_stream(self: &Arc<Self>, ready: oneshot::Sender<()>) -> Result<(), FetchError> {
        let nonce = self.ask();
        let mut request = self.request("/v1/feed", &[("nonce", hex::encode(nonce))]).header("accept", "text/event-stream");
        if let Some(sign_in) = self.sign_in(&nonce) {
            request = request.header("procura-verifier", sign_in);
        }
        let mut response = request.send().await?.error_for_status()?;
        let is_events = response.headers().get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
        if !is_events {
            return Err(FetchError::Broken("expected content type `text/event-stream`"));
        }
        let mut ready = Some(ready);
        let mut up = None;
        let mut events = EventReader::new(MAX_EVENT_BYTES);
        let mut refused = 0;
        // Silence is the watchdog's matter first; a stream that stays silent is not worth keeping.
        while let Some(chunk) = timeout(STREAM_WAIT, response.chunk()).await.map_err(|_| FetchError::Broken("stream fell silent"))?? {
            for data in events.push(&chunk).ok_or(FetchError::TooLong(MAX_EVENT_BYTES))? {
                let result = BASE64_URL_SAFE_NO_PAD.decode(data).map_err(FetchError::from).and_then(|bytes| Ok(self.receive(&bytes)?));
                match result {
                    Ok(need) => self.follow_soon(need),
                    Err(error) => {
                        if matches!(error, FetchError::Feed(FeedError::UnknownKey { .. })) {
                            self.follow_soon(Need::KeyList);
                        }
                        refused += 1;
                        if refused > MAX_REFUSED {
                            return Err(error);
                        }
                        self.note(&error);
                    }
                }
                if let Some(ready) = ready.take() {
                    if self.state().awaits(&nonce) {
                        return Err(FetchError::Broken("expected the first event to answer the nonce"));
                    }
                    up = Some(Up::new(Arc::clone(self)));
                    let _ = ready.send(());
                }
            }
        }
        drop(up);
        Err(FetchError::Broken("stream ended"))
    }

    fn receive(self: &Arc<Self>, bytes: &[u8]) -> Result<Need, FeedError> {
        self.receive_and_tell(bytes).0
    }

    /// Also whether anything moved: the watermark, or freshness.
    pub(super) fn receive_and_tell(self: &Arc<Self>, bytes: &[u8]) -> (Result<Need, FeedError>, bool) {
        let (result, (forward, moved), announced, alarms, kept) = {
            let mut state = self.state();
            // Read inside: who reads first and comes in second would bring a clock that went back, which is a pause (F13).
            let (now, wall) = read_both(&*self.config.clock);
            let before = (state.watermark(), state.counters().published);
            let result = state.receive(bytes, now, wall);
            let forward = before.0 != state.watermark();
            let moved = forward || before.1 != state.counters().published;
            (result, (forward, moved), state.take_announced(), state.take_alarms(), state.take_kept())
        };
        if let Some(disk) = &self.disk {
            disk.push(kept);
        }
        if forward {
            self.moved.notify_one();
        }
        self.report(&alarms);
        (result.and_then(|need| announced.map_or(Ok(need), |list| self.hear_list(need, &list))), moved)
    }

    /// The clock is read inside: right before the request is sent (F11).
    fn ask(&self) -> Nonce {
        let mut rng = lock(&self.config.rng);
        self.state().ask(self.config.clock.boot(), &mut **rng)
    }

    fn request(&self, path: &str, query: &[(&str, String)]) -> reqwest::RequestBuilder {
        self.config.http.get(format!("{}{path}", self.base)).query(&[("tenant", self.view.tenant().as_str())]).query(query)
    }

    async fn get(&self, path: &str, query: &[(&str, String)], max: usize) -> Result<Vec<u8>, FetchError> {
        self.get_within(path, query, max, FETCH_WAIT).await
    }

    async fn get_within(&self, path: &str, query: &[(&str, String)], max: usize, wait: Duration) -> Result<Vec<u8>, FetchError> {
        bounded(self.request(path, query).timeout(wait).send().await?.error_for_status()?, max).await
    }

    pub(super) fn state(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // A panic left the state half written: nothing may be published from it again.
            self.view.stick();
            poisoned.into_inner()
        })
    }

    fn report(&self, alarms: &[Alarm]) {
        for alarm in alarms {
            if let (Alarm::Fork { .. } | Alarm::Loss { .. }, Some(disk)) = (alarm, &self.disk) {
                disk.note_loss();
            }
            (self.config.on_alarm)(alarm);
        }
    }

    fn note(&self, error: &FetchError) {
        let sentence = match error {
            // The URL holds the nonce, and says nothing new.
            FetchError::Http(e) if e.is_timeout() => "feed request timed out".to_owned(),
            FetchError::Http(e) if e.is_connect() => "feed connection failed".to_owned(),
            FetchError::Http(e) => match e.status() {
                Some(status) => format!("feed request answered with status {}", status.as_u16()),
                None => "feed request broke off".to_owned(),
            },
            other => other.to_string(),
        };
        *lock(&self.last_error) = Some(sentence);
    }

    /// Between three quarters and all of the time: what was started together is not opened anew together, for the answers
    /// to a crowd come late, and a mapping is as good as its answer was quick (F11).
    fn reopen_after(&self) -> Duration {
        let quarter = self.config.reopen_every / 4;
        let share = f64::from(lock(&self.config.rng).next_u32()) / f64::from(u32::MAX);
        self.config.reopen_every - quarter.mul_f64(share)
    }

    /// 50 ms doubling to 1 s, and of that between half and all.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let most = BACKOFF_MS.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_BACKOFF_MS);
        let jitter = u64::from(lock(&self.config.rng).next_u32()) % (most / 2 + 1);
        Duration::from_millis(most / 2 + jitter)
    }
}

/// The body, of at most so many bytes: whoever is on the way says how long it gets.
async fn bounded(mut response: reqwest::Response, max: usize) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Err(FetchError::TooLong(max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Counts a stream while it is up.
struct Up(Arc<Shared>);

impl Up {
    fn new(shared: Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lowers a flag that says that somebody is at it, when they end: by a panic too, after which it would never be done again.
struct Lowered {
    shared: Arc<Shared>,
    flag: fn(&Shared) -> &AtomicBool,
}

impl Drop for Lowered {
    fn drop(&mut self) {
        (self.flag)(&self.shared).store(false, Ordering::Release);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// For what is replaced as a whole: a panic elsewhere leaves no half of it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

const TICK: Duration = Duration::from_millis(25);
/// Two beats and some: the pull that follows lands about when the view would be stale.
const SILENCE_US: u64 = 100_000;
const PULL_WAIT: Duration = Duration::from_millis(150);
const FETCH_WAIT: Duration = Duration::from_secs(1);
const OPEN_WAIT: Duration = Duration::from_secs(2);
const STREAM_WAIT: Duration = Duration::from_secs(2);
const STEADY_US: u64 = 1_000_000;
const BACKOFF_MS: u64 = 50;
const MAX_BACKOFF_MS: u64 = 1000;
/// Bad messages after which a stream is given up.
const MAX_REFUSED: u32 = 16;
/// Base64 of the longest message.
const MAX_EVENT_BYTES: usize = MAX_MESSAGE_BYTES.div_ceil(3) * 4;
