//! The way of signed messages over Redis (`spec/feed.md`, transport over Redis): one connection, one channel per tenant.
//!
//! A queue that drops its oldest stands between the feed and the connection, so neither the writer nor a stream ever waits for Redis. Where
//! Redis is down, what was to go this way is dropped and verifiers hear by their streams.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use procura_verifier::feed::SignedMessage;
use procura_verifier::feed::redis::{MAX_MOVES, Node, RedisConfig, RedisConfigError, RedisServer, describe};
use procura_verifier::ids::Tenant;
use procura_verifier::wire::Canonical as _;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::bus::Transport;
use crate::secret::Rng;

/// Publishes to Redis until it is dropped. Give it to [`Feed::carry_beside`](super::Feed::carry_beside).
pub struct RedisBus {
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

/// How the way over Redis is doing, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisBusStatus {
    /// A connection stands.
    pub connected: bool,
    /// Subscribers of the channel, as Redis last said: those of one node.
    pub listeners: u64,
    /// Messages that Redis took.
    pub published: u64,
    /// Messages dropped because they waited too long.
    pub dropped: u64,
    /// What last went wrong, as one sentence without secrets.
    pub last_error: Option<String>,
}

struct Inner {
    queue: Mutex<VecDeque<Arc<SignedMessage>>>,
    filled: Notify,
    connected: AtomicBool,
    listeners: AtomicU64,
    published: AtomicU64,
    dropped: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl RedisBus {
    /// Begins to publish a tenant's messages; needs a tokio runtime. An error is one of configuration: a Redis that is down is tried without end.
    ///
    /// `rng` is for the jitter of retries.
    pub fn start(config: &RedisConfig, tenant: &Tenant, rng: Rng) -> Result<Self, RedisConfigError> {
        let server = config.open()?;
        let inner = Arc::new(Inner {
            queue: Mutex::default(),
            filled: Notify::new(),
            connected: AtomicBool::new(false),
            listeners: AtomicU64::new(0),
            published: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            last_error: Mutex::default(),
        });
        let task = tokio::spawn(carry(Arc::clone(&inner), server.channel(tenant), server, rng));
        Ok(Self { inner, task })
    }

    /// How it is doing.
    pub fn status(&self) -> RedisBusStatus {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        RedisBusStatus {
            connected: self.inner.connected.load(Ordering::Relaxed),
            listeners: read(&self.inner.listeners),
            published: read(&self.inner.published),
            dropped: read(&self.inner.dropped),
            last_error: lock(&self.inner.last_error).clone(),
        }
    }
}

impl Transport for RedisBus {
    fn publish(&self, message: Arc<SignedMessage>) {
        let mut queue = lock(&self.inner.queue);
        if queue.len() == MAX_QUEUED {
            // The oldest is worth least: whoever misses it reads the tail.
            queue.pop_front();
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(message);
        drop(queue);
        self.inner.filled.notify_one();
    }

    fn has_listeners(&self) -> bool {
        self.inner.listeners.load(Ordering::Relaxed) > 0
    }

    fn redis(&self) -> Option<RedisBusStatus> {
        Some(self.status())
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects without end.
async fn carry(inner: Arc<Inner>, channel: String, server: RedisServer, mut rng: Rng) {
    let (mut node, mut moves, mut failures) = (None, 0, 0_u32);
    loop {
        let published = inner.published.load(Ordering::Relaxed);
        let error = match connected(&inner, &channel, &server, node.as_ref()).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        inner.connected.store(false, Ordering::Relaxed);
        inner.listeners.store(0, Ordering::Relaxed);
        *lock(&inner.last_error) = Some(describe(&error));
        if inner.published.load(Ordering::Relaxed) > published {
            (moves, failures) = (0, 0);
        }
        node = server.moved(&error, node.as_ref());
        if node.is_some() && moves < MAX_MOVES {
            moves += 1;
            continue;
        }
        // A node that is gone, or a cluster that sends in circles: begin where the configuration says.
        (node, moves, failures) = (None, 0, failures.saturating_add(1));
        if failures == 1 {
            tracing::warn!(error = %describe(&error), "feed.redis.lost");
        }
        sleep(backoff(failures, &mut rng)).await;
    }
}

enum Never {}

/// One connection until it breaks.
async fn connected(inner: &Inner, channel: &str, server: &RedisServer, node: Option<&Node>) -> RedisResult<Never> {
    let mut connection = server.client(node)?.get_multiplexed_async_connection_with_config(&RedisServer::patience()).await?;
    inner.connected.store(true, Ordering::Relaxed);
    let (publish, count) = if server.is_sharded() { ("SPUBLISH", "SHARDNUMSUB") } else { ("PUBLISH", "NUMSUB") };
    // A node of a cluster counts to zero where the channel is another's, and only `SPUBLISH` says so: until then somebody may listen, and the
    // first beat finds out.
    let mut is_placed = !server.is_sharded();
    inner.listeners.store(u64::from(!is_placed), Ordering::Relaxed);
    loop {
        let next: Vec<_> = {
            let mut queue = lock(&inner.queue);
            let many = queue.len().min(MAX_AT_ONCE);
            queue.drain(..many).collect()
        };
        if next.is_empty() {
            // Where beats rest because nobody listens, somebody may begin to.
            if is_placed {
                let (_, listeners): (String, u64) = redis::cmd("PUBSUB").arg(count).arg(channel).query_async(&mut connection).await?;
                inner.listeners.store(listeners, Ordering::Relaxed);
            }
            // Filled or not: look.
            let _ = timeout(ASK_EVERY, inner.filled.notified()).await;
            continue;
        }
        // All are under way before the first is answered, on one connection and in this order.
        let sent = try_join_all(next.iter().map(|m| send(connection.clone(), publish, channel, m))).await;
        match sent {
            Ok(listeners) => {
                is_placed = true;
                inner.published.fetch_add(listeners.len() as u64, Ordering::Relaxed);
                inner.listeners.store(listeners.last().copied().unwrap_or(0), Ordering::Relaxed);
            }
            Err(error) => {
                // Refused for its place alone: the right node shall have it.
                if error.redirect_node().is_some() {
                    let mut queue = lock(&inner.queue);
                    for message in next.into_iter().rev().take(MAX_QUEUED.saturating_sub(queue.len())) {
                        queue.push_front(message);
                    }
                }
                return Err(error);
            }
        }
    }
}

async fn send(mut connection: MultiplexedConnection, publish: &str, channel: &str, message: &SignedMessage) -> Result<u64, RedisError> {
    redis::cmd(publish).arg(channel).arg(message.to_bytes()).query_async(&mut connection).await
}

/// 50 ms doubling to 1 s, and of that between half and all.
fn backoff(failures: u32, rng: &mut Rng) -> Duration {
    let most = 50_u64.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(1000);
    Duration::from_millis(most / 2 + u64::from(rng.next_u32()) % (most / 2 + 1))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages that wait for the connection: at the most 16 MiB, as a rule 60 KB.
const MAX_QUEUED: usize = 256;
const MAX_AT_ONCE: usize = 30;
/// How soon a first subscriber is noticed, and with it the first beat sent.
const ASK_EVERY: Duration = Duration::from_millis(200);
