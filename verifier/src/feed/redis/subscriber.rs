//! The subscription: a loop of our own over a connection of its own (`spec/feed.md`, transport over Redis).
//!
//! redis-rs' connection manager silently stops being a subscriber after an outage (measured), and its pub/sub stream buffers without bound.
//! So: one connection for the subscription alone, its messages by a callback into an inbox bounded by bytes, a watchdog on what comes, and
//! retry without end.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::budget::Budget;
use super::{MAX_MOVES, PING_EVERY, RedisServer, describe};
use crate::feed::message::MAX_MESSAGE_BYTES;
use crate::feed::sse::{Shared, lock};

/// How the path over Redis is doing. Nothing here decides anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisStatus {
    /// A subscription stands.
    pub subscribed: bool,
    /// Subscriptions that stood so far.
    pub subscriptions: u64,
    /// Messages that came this way.
    pub received: u64,
    /// Of these: refused.
    pub refused: u64,
    /// Times that more came than was kept, and the connection was dropped for it.
    pub overflows: u64,
    /// Times that too much came to nothing, and Redis was left alone for 5 s.
    pub floods: u64,
    /// What last went wrong, as one sentence without secrets.
    pub last_error: Option<String>,
}

/// The same while it changes.
#[derive(Default)]
pub(in crate::feed) struct Counts {
    subscribed: AtomicBool,
    subscriptions: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    overflows: AtomicU64,
    floods: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Counts {
    pub(in crate::feed) fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    pub(in crate::feed) fn status(&self) -> RedisStatus {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        RedisStatus {
            subscribed: self.is_subscribed(),
            subscriptions: read(&self.subscriptions),
            received: read(&self.received),
            refused: read(&self.refused),
            overflows: read(&self.overflows),
            floods: read(&self.floods),
            last_error: lock(&self.last_error).clone(),
        }
    }
}

/// Why a subscription is over.
#[derive(Debug, Clone, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Redis(String),
    #[error("redis: the connection ended")]
    Closed,
    #[error("redis: no message for too long")]
    Silent,
    #[error("redis: the cluster sends in circles")]
    Circles,
    #[error("redis: more than {MAX_HELD_BYTES} bytes or {MAX_HELD} messages wait")]
    Overflow,
    #[error("redis: too many messages that came to nothing")]
    Flood,
}

/// Subscribes without end.
pub(in crate::feed) async fn keep_subscription(shared: Arc<Shared>, server: RedisServer) {
    // What was kept comes first: messages before it would look like a fork of nothing.
    shared.warmed_up().await;
    let channel = server.channel(shared.view.tenant());
    // Kept over connections: whoever floods gets no new budget by ours.
    let budget = Arc::new(Mutex::new(Budget::new(shared.config.clock.boot())));
    let mut failures = 0_u32;
    loop {
        let (ended, heard) = subscription(&shared, &server, &channel, &budget).await;
        let counts = &shared.redis;
        counts.subscribed.store(false, Ordering::Relaxed);
        *lock(&counts.last_error) = Some(ended.to_string());
        failures = if heard { 1 } else { failures.saturating_add(1) };
        match ended {
            Ended::Flood => {
                counts.floods.fetch_add(1, Ordering::Relaxed);
                sleep(FLOOD_PAUSE).await;
            }
            Ended::Overflow => {
                counts.overflows.fetch_add(1, Ordering::Relaxed);
                // What was thrown away may have been the newest revocation: ask how far the head is.
                drop(shared.start_pull());
                sleep(shared.backoff(failures)).await;
            }
            _ => sleep(shared.backoff(failures)).await,
        }
    }
}

/// One subscription from connecting to its end; and whether anything valid came.
async fn subscription(shared: &Arc<Shared>, server: &RedisServer, channel: &str, budget: &Arc<Mutex<Budget>>) -> (Ended, bool) {
    let mut node = None;
    for _ in 0..=MAX_MOVES {
        let (inbox, mail) = Inbox::new(channel, Arc::clone(shared), Arc::clone(budget));
        let config = RedisServer::patience().set_push_sender(move |push| {
            inbox.put(push);
            Ok::<_, std::convert::Infallible>(())
        });
        let client = match server.client(node.as_ref()) {
            Ok(client) => client,
            Err(error) => return (Ended::Redis(describe(&error)), false),
        };
        // The library's limits hold for its steps; this one for all of them.
        let connected = tokio::time::timeout(SUBSCRIBE_WAIT, async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let command = if server.is_sharded() { "SSUBSCRIBE" } else { "SUBSCRIBE" };
            let answer = redis::cmd(command).arg(channel).query_async::<Value>(&mut connection).await;
            answer.map(|_| connection)
        });
        match connected.await {
            Err(_) => return (Ended::Silent, false),
            Ok(Ok(connection)) => {
                shared.redis.subscribed.store(true, Ordering::Relaxed);
                shared.redis.subscriptions.fetch_add(1, Ordering::Relaxed);
                let mut heard = false;
                let ended = tokio::select! {
                    ended = pings(connection) => ended,
                    ended = listen(shared, mail, budget, &mut heard) => ended,
                };
                return (ended, heard);
            }
            Ok(Err(error)) => match server.moved(&error, node.as_ref()) {
                Some(next) => node = Some(next),
                None => return (Ended::Redis(describe(&error)), false),
            },
        }
    }
    (Ended::Circles, false)
}

/// Ends when Redis no longer answers.
async fn pings(mut connection: redis::aio::MultiplexedConnection) -> Ended {
    loop {
        sleep(PING_EVERY).await;
        if let Err(error) = redis::cmd("PING").query_async::<Value>(&mut connection).await {
            return Ended::Redis(describe(&error));
        }
    }
}

async fn listen(shared: &Arc<Shared>, mail: Mail, budget: &Mutex<Budget>, heard: &mut bool) -> Ended {
    let Mail { mut messages, held_bytes, mut ended } = mail;
    let now = || shared.config.clock.boot();
    let mut valid_at = now();
    let mut looks = tokio::time::interval(WATCH_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            ended = ended.wait_for(Option::is_some) => return ended.ok().and_then(|why| why.clone()).unwrap_or(Ended::Closed),
            _ = looks.tick() => None,
            Some(message) = messages.recv() => Some(message),
        };
        let Some(bytes) = message else {
            // Somebody else hears the authority beat: then it is Redis that is silent.
            let elsewhere = shared.state().last_heard().is_some_and(|at| now().micros_since(at) < WATCH_EVERY_US);
            let patience = if elsewhere { SILENCE_WHILE_HEARD_US } else { SILENCE_US };
            if now().micros_since(valid_at) > patience {
                return Ended::Silent;
            }
            continue;
        };
        held_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
        let (result, moved) = shared.receive_and_tell(&bytes);
        let cost = match result {
            Ok(need) => {
                // A key list is asked for by what is signed alone: here anybody could ask.
                shared.follow_soon(need);
                valid_at = now();
                *heard = true;
                if moved { 0 } else { Budget::useless(bytes.len()) }
            }
            Err(_) => {
                shared.redis.refused.fetch_add(1, Ordering::Relaxed);
                Budget::REFUSED
            }
        };
        if !lock(budget).spend(cost, now()) {
            return Ended::Flood;
        }
    }
}

/// What the connection's task puts messages into. Never waits.
struct Inbox {
    channel: Vec<u8>,
    shared: Arc<Shared>,
    budget: Arc<Mutex<Budget>>,
    sender: mpsc::Sender<Vec<u8>>,
    held_bytes: Arc<AtomicUsize>,
    ended: watch::Sender<Option<Ended>>,
}

struct Mail {
    messages: mpsc::Receiver<Vec<u8>>,
    held_bytes: Arc<AtomicUsize>,
    ended: watch::Receiver<Option<Ended>>,
}

impl Inbox {
    fn new(channel: &str, shared: Arc<Shared>, budget: Arc<Mutex<Budget>>) -> (Self, Mail) {
        let (sender, messages) = mpsc::channel(MAX_HELD);
        let (end, ended) = watch::channel(None);
        let held_bytes = Arc::new(AtomicUsize::new(0));
        let mail = Mail { messages, held_bytes: Arc::clone(&held_bytes), ended };
        (Self { channel: channel.into(), shared, budget, sender, held_bytes, ended: end }, mail)
    }

    fn put(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {}
            // A cluster that moves the channel elsewhere ends the subscription.
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => return self.end(Ended::Closed),
            _ => return,
        }
        self.shared.redis.received.fetch_add(1, Ordering::Relaxed);
        match <[Value; 2]>::try_from(push.data) {
            Ok([Value::BulkString(channel), Value::BulkString(bytes)]) if channel == self.channel && has_the_shape(&bytes) => {
                let size = bytes.len();
                let held = self.held_bytes.fetch_add(size, Ordering::Relaxed).saturating_add(size);
                if held > MAX_HELD_BYTES || self.sender.try_send(bytes).is_err() {
                    self.end(Ended::Overflow);
                }
            }
            _ => {
                self.shared.redis.refused.fetch_add(1, Ordering::Relaxed);
                if !lock(&self.budget).spend(Budget::REFUSED, self.shared.config.clock.boot()) {
                    self.end(Ended::Flood);
                }
            }
        }
    }

    /// The first reason stands.
    fn end(&self, why: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        });
    }
}

/// F4: an array of three that is neither empty nor too long; anything else costs no lock.
fn has_the_shape(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_MESSAGE_BYTES && bytes.first() == Some(&0x83)
}

/// 16 of the longest messages; or half a second of what the budget lets through.
const MAX_HELD_BYTES: usize = 16 * MAX_MESSAGE_BYTES;
const MAX_HELD: usize = 1024;
const FLOOD_PAUSE: Duration = Duration::from_secs(5);
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
const WATCH_EVERY: Duration = Duration::from_millis(100);
const WATCH_EVERY_US: u64 = 100_000;
const SILENCE_US: u64 = 1_000_000;
const SILENCE_WHILE_HEARD_US: u64 = 500_000;
