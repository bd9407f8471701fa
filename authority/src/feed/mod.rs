//! The authority's side of the revocation feed: what is committed goes out signed, and heartbeats say how far it goes.
//!
//! What travels is signed and numbered, so the way it travels need not be trusted or complete: whoever misses a message
//! reads [`Feed::tail`]. A lost message costs delay, never safety.

pub mod beat;
pub mod bus;
mod follow;
pub mod redis;
pub mod snapshot;
pub mod tails;
pub mod turns;

#[cfg(test)]
mod contract;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use procura_verifier::feed::message::{KeyListChange, MAX_NONCES, Message, SignedMessage};
use procura_verifier::ids::{BootTime, UtcMillis};
use procura_verifier::key_list::{KeyList, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, mpsc, oneshot};

use self::beat::Pulse;
use self::bus::{Bus, Subscription, Transport};
use self::redis::RedisBusStatus;
use self::tails::{Page, Tails};
use self::turns::{Client, Crowded, Turn};
use crate::checkpoints::Checkpoints;
use crate::signer::Signer;
use crate::store::{FeedHead, FeedRow, Store, StoreError};

/// How often the head is said while somebody listens.
pub const BEAT_EVERY: Duration = Duration::from_millis(50);
/// Most messages in one answer of [`Feed::page`].
pub const MAX_TAIL: u32 = 256;
/// Most bytes of messages in it: a verifier takes twice as much, in base64url.
pub const MAX_TAIL_BYTES: usize = 4 * 1024 * 1024;

/// Why the feed gives no answer. Verifiers stay stale and deny: nothing is guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedUnavailable {
    /// More questions than one process answers.
    #[error("too many heads or old messages asked for at once, try again")]
    Busy,
    /// The outcome of a commit is unknown or takes too long, so the head is not known either.
    #[error("the head is not known at this moment")]
    HeadUnknown,
    /// This replica's wall clock and the database's are too far apart (L7).
    #[error("this machine's clock says {ours}, the database's {database}: expected at most 1 s between them")]
    Clock {
        /// Ours.
        ours: UtcMillis,
        /// The database's.
        database: UtcMillis,
    },
    /// The database is older than what was released from it.
    #[error("the log forked, nothing is signed any more: run `procura log recover`")]
    Forked,
    /// The nonce is not one.
    #[error("nonce is {0} bytes long, expected 16 to 32")]
    Nonce(usize),
    /// The store does not answer, or holds a message that no key at hand signs.
    #[error("feed unavailable: {0}")]
    Store(String),
}

/// One tenant's feed. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    pulse: Arc<Pulse>,
    bus: Bus,
    /// Redis, where it is configured.
    beside: OnceLock<Arc<dyn Transport>>,
    asking: mpsc::Sender<Ask>,
    published: Mutex<Published>,
    /// Somebody's commit was seen that is not published yet.
    behind: Arc<Notify>,
    /// One reader of the store at a time.
    following: tokio::sync::Mutex<()>,
    /// Old messages, for whoever asks.
    tails: Arc<Tails>,
}

/// What went out last, and the newest of it.
struct Published {
    epoch: u64,
    seq: u64,
    recent: VecDeque<(u64, u64, Arc<SignedMessage>)>,
    /// Counts key lists: what was signed under an earlier one is sent and not kept.
    list: u64,
}

type Ask = (Vec<u8>, oneshot::Sender<Result<Arc<SignedMessage>, FeedUnavailable>>);

impl Feed {
    /// Starts the two tasks that beat and answer. They end when the last clone of the feed is gone.
    pub fn start(store: Arc<dyn Store>, signer: Arc<dyn Signer>, pulse: Arc<Pulse>) -> Self {
        let (asking, asked) = mpsc::channel(MAX_ASKING);
        let head = pulse.head();
        let published = Mutex::new(Published { epoch: head.epoch, seq: head.seq, recent: VecDeque::new(), list: 0 });
        let (behind, following, tails) = (Arc::default(), tokio::sync::Mutex::default(), Arc::new(Tails::new()));
        let feed = Self(Arc::new(Inner { store, signer, pulse, bus: Bus::new(), beside: OnceLock::new(), asking, published, behind, following, tails }));
        tokio::spawn(answer_nonces(asked, Arc::clone(&feed.0.pulse)));
        tokio::spawn(beat(Arc::downgrade(&feed.0)));
        feed
    }

    /// From now on another way carries everything too. The first one given stays; ends with the feed.
    pub fn carry_beside(&self, transport: Arc<dyn Transport>) {
        let _ = self.0.beside.set(transport);
    }

    /// Starts the task that publishes what other processes commit, and shows checkpoints of it.
    pub(crate) fn follow(&self, checkpoints: Arc<Checkpoints>) {
        tokio::spawn(follow::run(Arc::downgrade(&self.0), checkpoints));
    }

    /// Somebody else has committed: look soon.
    pub(crate) fn hint(&self) {
        self.0.behind.notify_one();
    }

    /// Why no heartbeat was signed the last time one was asked for; `None` if one was.
    pub fn trouble(&self) -> Option<FeedUnavailable> {
        self.0.pulse.trouble()
    }

    /// Microseconds since the moment of the newest heartbeat that this process signed; none if it has signed none. Where nobody listens
    /// it signs none.
    pub fn beat_age_us(&self, now: BootTime) -> Option<u64> {
        self.0.pulse.last_beat().map(|at| now.micros_since(at))
    }

    /// How the way over Redis is doing; none where there is none.
    pub fn redis(&self) -> Option<RedisBusStatus> {
        self.0.beside.get()?.redis()
    }

    /// Versions of the newest key list that this process heard is committed: another replica may have published it.
    pub fn key_lists(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.pulse.key_lists()
    }

    /// Everything published from now on. Subscribe first, then ask for the head: nothing falls between.
    pub fn subscribe(&self) -> Subscription {
        self.0.bus.subscribe()
    }

    /// The head, signed over the nonce, at a moment after this call began. All who wait share a signature.
    pub async fn answer(&self, nonce: Vec<u8>) -> Result<Arc<SignedMessage>, FeedUnavailable> {
        if !(16..=32).contains(&nonce.len()) {
            return Err(FeedUnavailable::Nonce(nonce.len()));
        }
        let (tell, told) = oneshot::channel();
        self.0.asking.try_send((nonce, tell)).map_err(|_| FeedUnavailable::Busy)?;
        told.await.unwrap_or(Err(FeedUnavailable::HeadUnknown))
    }

    /// The head as far as this process knows it to be committed.
    pub fn head(&self) -> FeedHead {
        self.0.pulse.head()
    }

    /// A heartbeat of this moment, without a nonce.
    pub async fn beat(&self) -> Result<Arc<SignedMessage>, FeedUnavailable> {
        self.0.pulse.beat(Vec::new()).await.map(Arc::new)
    }

    /// [`Self::page`] for this process's own use.
    pub async fn tail(&self, epoch: u64, seq: u64) -> Result<Vec<Arc<SignedMessage>>, FeedUnavailable> {
        Ok(self.page(Client::Ours, epoch, seq).await?.messages)
    }

    /// Messages after number `seq` of an epoch, in order and across epochs, at most [`MAX_TAIL`] and [`MAX_TAIL_BYTES`]. The start
    /// of an epoch is its number 0.
    ///
    /// What is not in memory any more is read and signed on threads of its own, a bounded number of pages at a time; a client that
    /// asks for too many at once is refused as busy.
    pub async fn page(&self, client: Client, epoch: u64, seq: u64) -> Result<Page, FeedUnavailable> {
        // Short of what others committed, memory would send the reader back for the rest. Where it cannot catch up the store is asked.
        if self.0.is_behind()
            && let Err(e) = self.0.catch_up_once().await
        {
            tracing::debug!(error = %e, "a page of the tail does not wait for the commits of others");
        }
        if !self.0.is_behind()
            && let Some(recent) = self.recent(epoch, seq)
        {
            return Ok(recent);
        }
        if let Some(page) = self.0.tails.page(epoch, seq) {
            return Ok(page);
        }
        let turn = self.turn(client).await?;
        // Those who waited for the same page need not sign it once more.
        if let Some(page) = self.0.tails.page(epoch, seq) {
            return Ok(page);
        }
        let list = self.lists();
        let rows = self.0.read(epoch, seq).await?;
        let inner = Arc::clone(&self.0);
        in_turn(turn, move || inner.sign_page(&rows, list)).await?
    }

    /// Waits until this client may have something costly done: see [`in_turn`].
    pub async fn turn(&self, client: Client) -> Result<Turn, FeedUnavailable> {
        self.0.tails.turns.take(client).await.map_err(|Crowded| FeedUnavailable::Busy)
    }

    /// The hash of the message at this number; none if there is none.
    pub async fn hash_at(&self, epoch: u64, seq: u64) -> Result<Option<[u8; 32]>, StoreError> {
        let known = self.0.published().recent.iter().find(|(e, s, _)| (*e, *s) == (epoch, seq)).map(|(.., m)| Arc::clone(m));
        if let Some(message) = known {
            return Ok(Some(message.hash()));
        }
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        let rows = self.0.store.feed_since(epoch, before, 1).await?;
        Ok(rows.first().filter(|row| row.seq == seq).map(|row| Sha256::digest(&row.payload).into()))
    }

    /// A newer key list is in force: beats name it, and messages kept in memory, signed by keys that may be dead, are signed anew.
    pub(crate) fn key_list_changed(&self, version: u64, hash: [u8; 32]) {
        self.0.pulse.key_list(version, hash);
        let mut published = self.0.published();
        published.recent.clear();
        published.list += 1;
        self.0.tails.forget(published.list);
    }

    /// How many key lists came into force since the start.
    pub(crate) fn lists(&self) -> u64 {
        self.0.published().list
    }

    /// Does not keep the feed alive.
    pub(crate) fn downgrade(&self) -> WeakFeed {
        WeakFeed(Arc::downgrade(&self.0))
    }

    /// Sends what was committed to whoever listens. Called by the writer after the commit, in the order of commits.
    ///
    /// Where another process committed in between, nothing goes out before its messages have been read.
    ///
    /// `list` is what [`Self::lists`] said before they were signed.
    pub(crate) fn publish(&self, epoch: u64, messages: Vec<(u64, SignedMessage)>, list: u64) {
        for (seq, message) in messages {
            if !self.0.send_next(epoch, seq, Arc::new(message), list) {
                self.0.behind.notify_one();
                return;
            }
        }
    }

    /// Pushes an accepted key list to whoever listens, so that nobody waits for the pull. It takes no number and is not kept:
    /// who misses it fetches the list when the next heartbeat names it. `accepted` is what the anchors made of `signed`.
    ///
    /// Signed with the feed key at hand. A verifier whose list does not name that key yet fetches the list instead.
    pub fn announce_key_list(&self, signed: &UnverifiedKeyList, accepted: &KeyList, now: UtcMillis) {
        let payload = accepted.payload();
        let change = KeyListChange { tenant: payload.tenant.clone(), version: payload.version, hash: *accepted.hash(), list: signed.to_bytes(), issued: now };
        self.0.send(Arc::new(self.0.signer.feed(&Message::KeyListChange(change))));
    }

    /// The tail from memory, if it reaches back far enough: a hole then costs neither a query nor a signature.
    fn recent(&self, epoch: u64, seq: u64) -> Option<Page> {
        let recent = &self.0.published().recent;
        let from = recent.iter().position(|(e, s, _)| *e == epoch && *s == seq.saturating_add(1))?;
        Some(Page::of(recent.iter().skip(from).map(|(.., m)| Arc::clone(m))))
    }
}

/// A feed for as long as somebody else holds it.
pub(crate) struct WeakFeed(std::sync::Weak<Inner>);

impl WeakFeed {
    /// The feed, while it is there.
    pub(crate) fn upgrade(&self) -> Option<Feed> {
        self.0.upgrade().map(Feed)
    }
}

impl Inner {
    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stored message, signed: the same bytes whoever signs it.
    fn signed(&self, row: &FeedRow) -> Result<Arc<SignedMessage>, FeedUnavailable> {
        let message = Message::from_bytes(&row.payload).map_err(|e| FeedUnavailable::Store(e.to_string()))?;
        // Rows outlive keys: an ended one still vouches for its time, a dead one's messages are signed again (F3).
        let none = || FeedUnavailable::Store(format!("message {} is of feed key {}, and no key at hand vouches for that time", row.seq, row.key));
        self.signer.feed_again(&message, &row.key).map(Arc::new).ok_or_else(none)
    }

    /// A page of rows, signed where it was not before. `list` counts the key lists before the rows were read.
    fn sign_page(&self, rows: &[FeedRow], list: u64) -> Result<Page, FeedUnavailable> {
        let mut signed = Vec::with_capacity(rows.len());
        for row in rows {
            let place = (row.epoch, row.seq);
            let message = self.tails.find(place).map_or_else(|| self.signed(row), Ok)?;
            signed.push((place, message));
        }
        let page = Page::of(signed.iter().map(|(_, message)| Arc::clone(message)));
        self.tails.keep(signed, list);
        Ok(page)
    }

    fn send(&self, message: Arc<SignedMessage>) {
        if let Some(beside) = self.beside.get() {
            beside.publish(Arc::clone(&message));
        }
        self.bus.publish(message);
    }

    fn has_listeners(&self) -> bool {
        self.bus.has_listeners() || self.beside.get().is_some_and(|b| b.has_listeners())
    }

    /// Sends a message if it is the next one; drops it if it went out before. False if there is a hole before it.
    ///
    /// `list` counts the key lists before it was signed: by one that came since its key may be dead, and whoever asked for
    /// the tail again and again would get it again and again.
    fn send_next(&self, epoch: u64, seq: u64, message: Arc<SignedMessage>, list: u64) -> bool {
        let mut published = self.published();
        if (epoch, seq) <= (published.epoch, published.seq) {
            return true;
        }
        // The start of an epoch comes from the store alone, which gives it after the last message of the one before.
        let is_next = if seq == 0 { epoch > published.epoch } else { (epoch, seq) == (published.epoch, published.seq + 1) };
        if !is_next {
            return false;
        }
        (published.epoch, published.seq) = (epoch, seq);
        if list == published.list {
            if published.recent.len() == RECENT {
                published.recent.pop_front();
            }
            published.recent.push_back((epoch, seq, Arc::clone(&message)));
        } else {
            // What is kept has no holes.
            published.recent.clear();
        }
        // Under the lock: what listeners hear is in order.
        self.send(message);
        true
    }
}

/// Does something costly beside everything else, and gives the turn back when it is done, whether or not anybody still waits for it.
pub async fn in_turn<T: Send + 'static>(turn: Turn, work: impl FnOnce() -> T + Send + 'static) -> Result<T, FeedUnavailable> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    done.await.map_err(|e| FeedUnavailable::Store(format!("the work broke off: {e}")))
}

/// Takes all nonces that wait, then looks at the clock and the head: one look serves them all.
async fn answer_nonces(mut asked: mpsc::Receiver<Ask>, pulse: Arc<Pulse>) {
    while let Some(first) = asked.recv().await {
        let mut waiting = vec![first];
        waiting.extend(std::iter::from_fn(|| asked.try_recv().ok()));
        let mut nonces: Vec<Vec<Vec<u8>>> = Vec::new();
        for asked in waiting.chunks_mut(MAX_NONCES) {
            nonces.push(asked.iter_mut().map(|(nonce, _)| std::mem::take(nonce)).collect());
        }
        let answers = pulse.answer(nonces).await.map(|signed| signed.into_iter().map(Arc::new).collect::<Vec<_>>());
        for (n, (_, tell)) in waiting.into_iter().enumerate() {
            let answer = answers.as_ref().map_err(Clone::clone).and_then(|a| a.get(n / MAX_NONCES).cloned().ok_or(FeedUnavailable::HeadUnknown));
            // Whoever no longer waits has gone away.
            let _ = tell.send(answer);
        }
    }
}

async fn beat(inner: std::sync::Weak<Inner>) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { break };
        // No listener, no signature. A new stream begins with an answer of its own, so it does not wait for this.
        if !inner.has_listeners() {
            continue;
        }
        // Trouble is said where it is found.
        if let Ok(beat) = inner.pulse.beat(Vec::new()).await {
            // What the beat says is committed goes before it, else every listener would ask for it.
            if inner.is_behind() && inner.catch_up().await.is_err() {
                inner.behind.notify_one();
            }
            inner.send(Arc::new(beat));
        }
    }
}

/// Most questions that wait at once.
const MAX_ASKING: usize = 4096;
/// Messages kept in memory for whoever fell behind a little.
const RECENT: usize = 1024;
