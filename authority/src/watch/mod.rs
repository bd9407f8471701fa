//! Who listens to the feed and how far each has applied it: signed acknowledgements, kept in memory, and shared between
//! replicas on one database through a [`Board`] (`spec/feed.md`, acknowledgements).
//!
//! Nothing here decides anything: verifiers deny by what they know. It is what a kill can say about them.

pub mod postgres;

use std::collections::{BTreeMap, btree_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use procura_verifier::decision::Mode;
use procura_verifier::feed::ack::{Ack, Signed};
use procura_verifier::ids::{BootTime, Clock, UtcMillis, VerifierId};
use procura_verifier::wire::{Canonical as _, Malformed};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::expiring::Expiring;
use crate::store::{Answering, StoreError};

/// Most streams of verifiers that have not signed in, of all that this process holds.
pub const MAX_ANONYMOUS_STREAMS: usize = 256;
/// Most streams of one run of a verifier: one stands, one replaces it, and two that a broken network left.
pub const MAX_STREAMS_EACH: usize = 4;
/// Most runs remembered of one verifier.
pub const MAX_RUNS: usize = 4;
/// Most streams of one verifier, whatever runs it names: one key that leaked must not take the others' places.
pub const MAX_STREAMS_OF_ONE: usize = MAX_STREAMS_EACH * MAX_RUNS;
/// A run that was silent for so long, and for its own bound beside, is forgotten when a later one has been heard.
pub const RUN_MEMORY_MS: u64 = 60_000;

/// How long a silent run is remembered: it may have heard the feed until a moment ago without a word to us, and until its
/// bound is over it may go on allowing what it does not know to be revoked. One without a bound is remembered for a day.
pub fn memory_ms(mode: Mode) -> u64 {
    mode.bound_ms().map_or(BEST_EFFORT_MEMORY_MS, |bound_ms| RUN_MEMORY_MS + u64::from(bound_ms))
}

/// One process of a verifier, as its newest acknowledgement says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The acknowledgement, opened under the enrolled key.
    pub ack: Ack,
    /// The same as it was signed.
    pub signed: Vec<u8>,
    /// When this run was first heard of, by the clock of the replica that heard.
    pub since: UtcMillis,
    /// When the newest acknowledgement came in, by the same.
    pub acked: UtcMillis,
    /// True if it has a stream; else its messages come another way.
    pub streams: bool,
}

impl Seen {
    /// From stored bytes, whose signature was checked when they came in.
    pub(crate) fn stored(signed: Vec<u8>, since: UtcMillis, acked: UtcMillis, streams: bool) -> Result<Self, Malformed> {
        let ack = Signed::<Ack>::from_bytes(&signed)?.claimed()?;
        Ok(Self { ack, signed, since, acked, streams })
    }

    /// True if everything up to that number of that epoch is applied there.
    pub fn has(&self, epoch: u64, seq: u64) -> bool {
        (self.ack.epoch, self.ack.seq) >= (epoch, seq)
    }
}

/// What another replica says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// It waits: whoever hears something is to post it at once for a while.
    Asked,
    /// It has posted.
    Posted,
}

/// Where replicas share what they heard. At most once, unordered, late or never: a lost row makes a kill say
/// *presumed fenced* of somebody who has confirmed, never the other way round.
pub trait Board: Send + Sync {
    /// Writes rows and tells the others. A row whose number is not above the one there changes nothing.
    fn post<'a>(&'a self, rows: &'a [Seen]) -> Answering<'a, ()>;
    /// The rows posted within this time; where that is a day or more, those too that are remembered for longer.
    fn read(&self, within: Duration) -> Answering<'_, Vec<Seen>>;
    /// Asks the others to post at once for [`EAGER`].
    fn ask(&self) -> Answering<'_, ()>;
    /// Forgets runs that later ones have replaced, and verifiers that are retired.
    fn collect(&self) -> Answering<'_, ()>;
    /// The next thing that another replica says. To be called by one task, again and again.
    fn heard(&self) -> BoxFuture<'_, Result<Notice, StoreError>>;
}

/// How long a replica posts at once after another has asked.
pub const EAGER: Duration = Duration::from_secs(5);

/// A verifier's process.
pub type Run = (VerifierId, [u8; 16]);

/// The ledger of one process. Cheap to clone.
#[derive(Clone)]
pub struct Watch(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    board: Option<Arc<dyn Board>>,
    ledger: Mutex<Ledger>,
    changed: watch::Sender<u64>,
    post: Notify,
    anonymous: Arc<Semaphore>,
    /// Sign-ins that opened a stream: good once.
    spent: Mutex<Expiring<(VerifierId, Vec<u8>), ()>>,
}

#[derive(Default)]
struct Ledger {
    runs: BTreeMap<Run, Entry>,
    /// Runs that had to make room while they may still have allowed: one entry a verifier.
    gone: BTreeMap<VerifierId, Gone>,
    /// By verifier, also of runs that were forgotten.
    streams: BTreeMap<VerifierId, usize>,
    waiting: usize,
    eager_until: BootTime,
}

struct Entry {
    seen: Option<Seen>,
    /// When the newest acknowledgement was here, on this process's boot-time clock.
    heard: BootTime,
    streams: usize,
    to_post: bool,
    mode: Mode,
}

/// Why a stream has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The part for strangers is full.
    #[error("no more streams for verifiers that do not sign in")]
    Anonymous,
    /// This run has its streams.
    #[error("a run of a verifier has at most {MAX_STREAMS_EACH} streams")]
    Run,
    /// This verifier has its streams, of whatever runs.
    #[error("a verifier has at most {MAX_STREAMS_OF_ONE} streams")]
    Verifier,
    /// The sign-in has opened a stream before.
    #[error("the sign-in was used before")]
    Used,
}

/// A stream's place in the ledger; given back when dropped.
pub enum Place {
    /// One of the strangers'.
    Anonymous(OwnedSemaphorePermit),
    /// A signed-in run's.
    Run(Watch, Run),
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self::Run(watch, run) = self else { return };
        let mut ledger = watch.ledger();
        if let Some(entry) = ledger.runs.get_mut(run) {
            entry.streams = entry.streams.saturating_sub(1);
        }
        if let btree_map::Entry::Occupied(mut held) = ledger.streams.entry(run.0) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl Watch {
    /// An empty ledger. With a board, its two tasks run until the last clone is gone.
    pub fn start(clock: Arc<dyn Clock>, board: Option<Arc<dyn Board>>) -> Self {
        let watch = Self(Arc::new(Inner {
            clock,
            board,
            ledger: Mutex::default(),
            changed: watch::Sender::new(0),
            post: Notify::new(),
            anonymous: Arc::new(Semaphore::new(MAX_ANONYMOUS_STREAMS)),
            spent: Mutex::new(Expiring::new(MAX_SPENT)),
        }));
        if let Some(board) = &watch.0.board {
            tokio::spawn(keep_posting(Arc::downgrade(&watch.0)));
            tokio::spawn(keep_hearing(Arc::downgrade(&watch.0), Arc::clone(board)));
        }
        watch
    }

    /// A place for a stream of nobody known.
    pub fn admit_anonymous(&self) -> Result<Place, NoPlace> {
        self.0.anonymous.clone().try_acquire_owned().map(Place::Anonymous).map_err(|_| NoPlace::Anonymous)
    }

    /// A place for a stream of a signed-in run. The nonce is spent until `until`, when the sign-in's own time has passed.
    pub fn admit(&self, run: Run, nonce: &[u8], until: UtcMillis, mode: Mode) -> Result<Place, NoPlace> {
        let now = self.0.clock.wall();
        let mut spent = self.0.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (run.0, nonce.to_vec());
        if spent.find(now, &key).is_some() {
            return Err(NoPlace::Used);
        }
        let mut ledger = self.ledger();
        if ledger.streams.get(&run.0).is_some_and(|held| *held >= MAX_STREAMS_OF_ONE) {
            return Err(NoPlace::Verifier);
        }
        let entry = ledger.entry(run, self.0.clock.boot(), mode);
        if entry.streams >= MAX_STREAMS_EACH {
            return Err(NoPlace::Run);
        }
        entry.streams += 1;
        *ledger.streams.entry(run.0).or_default() += 1;
        drop(ledger);
        spent.insert(now, key, (), until);
        Ok(Place::Run(self.clone(), run))
    }

    /// Enters an acknowledgement whose signature holds. False if a newer one of the same run was here before.
    pub fn enter(&self, ack: Ack, signed: Vec<u8>) -> bool {
        let (now, boot) = (self.0.clock.wall(), self.0.clock.boot());
        let mut ledger = self.ledger();
        let entry = ledger.entry((ack.verifier, ack.run), boot, ack.mode);
        if entry.seen.as_ref().is_some_and(|s| s.ack.number >= ack.number) {
            return false;
        }
        let moved = entry.seen.as_ref().is_none_or(|s| !s.has(ack.epoch, ack.seq));
        let since = entry.seen.as_ref().map_or(now, |s| s.since);
        entry.mode = ack.mode;
        entry.seen = Some(Seen { ack, signed, since, acked: now, streams: entry.streams > 0 });
        (entry.heard, entry.to_post) = (boot, true);
        let eager = moved && boot < ledger.eager_until;
        drop(ledger);
        if moved {
            self.0.changed.send_modify(|n| *n += 1);
        }
        if eager {
            self.0.post.notify_one();
        }
        true
    }

    /// Every run that was heard of, by verifier.
    pub fn runs(&self) -> Vec<Heard> {
        let ledger = self.ledger();
        let heard = |((verifier, run), e): (&Run, &Entry)| Heard {
            verifier: *verifier,
            run: *run,
            seen: e.seen.clone(),
            heard: e.heard,
            streams: e.streams,
            mode: e.mode,
        };
        ledger.runs.iter().map(heard).collect()
    }

    /// Runs that had no place any more, and may still allow what they do not know to be revoked. At most one for each verifier.
    pub fn gone(&self) -> Vec<(VerifierId, Gone)> {
        let now = self.0.clock.boot();
        self.ledger().gone.iter().filter(|(_, g)| now < g.until).map(|(v, g)| (*v, *g)).collect()
    }

    /// Streams of nobody known.
    pub fn anonymous_streams(&self) -> usize {
        MAX_ANONYMOUS_STREAMS.saturating_sub(self.0.anonymous.available_permits())
    }

    /// Streams that were signed in to.
    pub fn signed_in_streams(&self) -> usize {
        self.ledger().runs.values().map(|e| e.streams).sum()
    }

    /// Forgets a verifier: it was retired. Its streams end by themselves within 20 s, and are no longer counted as its.
    pub fn forget(&self, verifier: VerifierId) {
        let mut ledger = self.ledger();
        ledger.runs.retain(|(v, _), _| *v != verifier);
        ledger.gone.remove(&verifier);
    }

    /// Somebody waits from now on: what other replicas hear is fetched as they hear it.
    pub async fn begin_wait(&self) -> Waiting {
        self.ledger().waiting += 1;
        // Subscribed before the first look.
        let waiting = Waiting { watch: self.clone(), changed: self.0.changed.subscribe() };
        if let Some(board) = &self.0.board {
            // Not asked, they post once a second.
            if let Err(e) = board.ask().await {
                tracing::warn!(error = %e, "watch.not_asked");
            }
            self.fetch(&**board, READ_BACK).await;
        }
        waiting
    }

    /// What other replicas have posted, as far as the board answers. Called before somebody looks.
    pub async fn refresh(&self) {
        if let Some(board) = &self.0.board {
            self.fetch(&**board, READ_BACK).await;
        }
    }

    async fn fetch(&self, board: &dyn Board, within: Duration) {
        match board.read(within).await {
            Ok(rows) => self.merge(rows),
            Err(e) => tracing::warn!(error = %e, "watch.not_read"),
        }
    }

    fn merge(&self, mut rows: Vec<Seen>) {
        // The oldest first: it is the oldest that makes room.
        rows.sort_by_key(|row| row.acked);
        let (boot, wall) = (self.0.clock.boot(), self.0.clock.wall());
        let mut ledger = self.ledger();
        let mut moved = false;
        for row in rows {
            let entry = ledger.entry((row.ack.verifier, row.ack.run), boot, row.ack.mode);
            if entry.seen.as_ref().is_some_and(|s| s.ack.number >= row.ack.number) {
                continue;
            }
            moved |= entry.seen.as_ref().is_none_or(|s| !s.has(row.ack.epoch, row.ack.seq));
            // As old as the other replica's clock says: a row of yesterday is not news.
            let heard = BootTime(boot.0.saturating_sub(wall.0.saturating_sub(row.acked.0).saturating_mul(1000)));
            (entry.mode, entry.heard, entry.to_post) = (row.ack.mode, heard, false);
            entry.seen = Some(row);
        }
        drop(ledger);
        if moved {
            self.0.changed.send_modify(|n| *n += 1);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run as this process knows it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Whose.
    pub verifier: VerifierId,
    /// Which.
    pub run: [u8; 16],
    /// Its newest acknowledgement; none yet from one that has only signed in.
    pub seen: Option<Seen>,
    /// When that came in, or when it signed in, on this process's boot-time clock.
    pub heard: BootTime,
    /// Its streams at this process.
    pub streams: usize,
    /// As it last said.
    pub mode: Mode,
}

/// Runs of a verifier that made room for later ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// Until when one of them may still allow, on this process's boot-time clock.
    pub until: BootTime,
    /// The weakest mode among them.
    pub mode: Mode,
}

/// Somebody who waits for acknowledgements; until dropped.
pub struct Waiting {
    watch: Watch,
    changed: watch::Receiver<u64>,
}

impl Waiting {
    /// Returns when some watermark has moved since the last call.
    pub async fn moved(&mut self) {
        // The sender lives as long as `watch`.
        _ = self.changed.changed().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut ledger = self.watch.ledger();
        ledger.waiting = ledger.waiting.saturating_sub(1);
    }
}

impl Ledger {
    /// The run's entry. Makes room among the runs of its verifier: the one that was silent longest goes, streams or not.
    fn entry(&mut self, run: Run, now: BootTime, mode: Mode) -> &mut Entry {
        if !self.runs.contains_key(&run) {
            let of = (run.0, [0; 16])..=(run.0, [0xff; 16]);
            self.runs.extract_if(of.clone(), |_, e| e.streams == 0 && now.micros_since(e.heard) > memory_ms(e.mode) * 1000).for_each(drop);
            if self.gone.get(&run.0).is_some_and(|g| g.until <= now) {
                self.gone.remove(&run.0);
            }
            if self.runs.range(of.clone()).count() >= MAX_RUNS
                && let Some(oldest) = self.runs.range(of).min_by_key(|(_, e)| e.heard).map(|(r, _)| *r)
                && let Some(e) = self.runs.remove(&oldest)
            {
                let until = e.heard.plus_micros(memory_ms(e.mode) * 1000);
                let gone = self.gone.entry(run.0).or_insert(Gone { until, mode: e.mode });
                *gone = Gone { until: gone.until.max(until), mode: weaker(gone.mode, e.mode) };
            }
        }
        self.runs.entry(run).or_insert(Entry { seen: None, heard: now, streams: 0, to_post: false, mode })
    }
}

fn weaker(a: Mode, b: Mode) -> Mode {
    let bound_ms = |mode: Mode| mode.bound_ms().unwrap_or(u32::MAX);
    if bound_ms(b) > bound_ms(a) { b } else { a }
}

/// Posts what was heard here: once a second, and at once while another replica waits.
async fn keep_posting(inner: std::sync::Weak<Inner>) {
    let mut rounds: u32 = 0;
    loop {
        let Some(inner) = inner.upgrade() else { break };
        let watch = Watch(inner);
        let Some(board) = watch.0.board.clone() else { break };
        let rows: Vec<Seen> = watch.ledger().runs.values_mut().filter_map(|e| std::mem::take(&mut e.to_post).then(|| e.seen.clone())?).collect();
        // What does not get through is said again by the next acknowledgement, a second later.
        for rows in rows.chunks(MAX_POST) {
            if let Err(e) = board.post(rows).await {
                tracing::warn!(error = %e, "watch.not_posted");
            }
        }
        if rounds.is_multiple_of(60)
            && let Err(e) = board.collect().await
        {
            tracing::warn!(error = %e, "watch.not_collected");
        }
        rounds = rounds.wrapping_add(1);
        let wake = async { watch.0.post.notified().await };
        _ = tokio::time::timeout(POST_EVERY, wake).await;
        // What the others of a crowd have to say at this moment goes with it.
        tokio::time::sleep(COALESCE).await;
    }
}

async fn keep_hearing(inner: std::sync::Weak<Inner>, board: Arc<dyn Board>) {
    while inner.strong_count() > 0 {
        let notice = tokio::time::timeout(POST_EVERY, board.heard()).await;
        let Some(inner) = inner.upgrade() else { break };
        let watch = Watch(inner);
        match notice {
            Ok(Ok(Notice::Asked)) => {
                let until = watch.0.clock.boot().plus_micros(u64::try_from(EAGER.as_micros()).unwrap_or(u64::MAX));
                watch.ledger().eager_until = until;
                watch.0.post.notify_one();
            }
            Ok(Ok(Notice::Posted)) => {
                if watch.ledger().waiting > 0 {
                    watch.fetch(&*board, JUST_POSTED).await;
                }
            }
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "watch.deaf");
                tokio::time::sleep(POST_EVERY).await;
            }
            Err(_) => {}
        }
    }
}

/// Sign-ins within their 60 s of time: 4096 streams, each anew every 20 s.
const MAX_SPENT: usize = 16_384;
/// Rows in one statement.
const MAX_POST: usize = 1024;
const POST_EVERY: Duration = Duration::from_secs(1);
const COALESCE: Duration = Duration::from_millis(5);
/// Whoever was silent for longer, and for longer than it is remembered, is known by its enrolment alone.
const READ_BACK: Duration = Duration::from_secs(24 * 3600);
/// One without a bound never stops of itself: after a day of silence it is taken for ended.
const BEST_EFFORT_MEMORY_MS: u64 = 24 * 3_600_000;
/// After a notice; a transaction that took longer is found by the next one who looks.
const JUST_POSTED: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
