//! Heartbeats, and what proves them (`DESIGN.md` section 8). Two proofs: the head in memory where this process is the only
//! writer (SQLite), and a transaction of its own for each beat where others write, too (PostgreSQL).
//!
//! # The head in memory
//! A beat says: *at my clock's t the head was n*. Two things would break the promise to verifiers: an n that is not
//! committed, and a t later than the return of a COMMIT that n does not contain.
//!
//! The writer marks the state *in flight* with a clock reading s before it hands a batch to the database, and clears the
//! mark together with entering the new head, after COMMIT has returned, under one lock. A beat reads the clock **first**
//! (t₀), then takes the lock; if the mark is set it claims t = s, else t = t₀, and the head it finds. Then:
//! - The head found was entered after its COMMIT had returned, so it is committed.
//! - Suppose a beat claims (t, n) and the COMMIT of n+1 returned at c ≤ t. The mark of that batch was set before its
//!   COMMIT began, so s < c, and the beat took the lock after t₀ ≥ t ≥ c, hence after the mark was set. If it found the
//!   mark, then t = s < c: a contradiction. If it found it cleared, then n+1 had been entered in the same step and the
//!   beat would have found n+1: a contradiction. So no such beat is signed.
//!
//! A commit whose outcome is unknown leaves the mark: beats go on claiming s, verifiers go stale and deny until it is known.
//!
//! An answer to a nonce must claim a t **after the nonce arrived**, because the verifier maps t to the moment its request
//! left: an earlier t would make everything look fresher than it is. So it waits until the mark it finds is cleared or is
//! one that was set after the nonce arrived; with commits back to back that is one commit at most.
//!
//! Signing needs no further check against the database's clock: database and process share one machine and one clock.
//!
//! # A beat transaction
//! The clock is read first (t), then a transaction begins on the primary, writes this replica's row, reads the head (n) and
//! commits; only then is the beat signed.
//! - n is committed: a transaction sees nothing else; and n is on the synchronous standbys, since the beat's own record,
//!   which comes after it, is.
//! - Suppose the COMMIT of n+1 returned at c ≤ t. On this primary it was visible to every transaction that began after c:
//!   the beat would have read it. On another one, promoted before c, it cannot have been while the standbys still took this
//!   one's records, written after t. A primary that is cut off gets no such answer from its standby, a hot standby cannot
//!   write, and a pooler that sends reads elsewhere does not split a transaction.
//! - t is read before the transaction begins, so an answer's t is after its nonce arrived.
//! - A replica whose wall clock is more than a second off the database's signs nothing: heartbeats carry authority UTC (L7).
//!
//! Either way a head below a checkpoint that is out means that the database lost what was released: nothing is signed any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use procura_verifier::feed::message::{Heartbeat, Message, SignedMessage};
use procura_verifier::ids::{BootTime, Clock, ClockId, Tenant, UtcMillis};
use tokio::sync::{Notify, watch};

use super::FeedUnavailable;
use crate::signer::Signer;
use crate::signer::released::{ReleaseError, TreeHead};
use crate::store::shared::Beaten;
use crate::store::{FeedHead, Store};

/// The head as far as this process knows it to be committed, and the signer of heartbeats about it.
pub struct Pulse {
    tenant: Tenant,
    clock: Arc<dyn Clock>,
    signer: Arc<dyn Signer>,
    id: ClockId,
    state: Mutex<State>,
    settled: Notify,
    /// The store whose transactions prove beats, where others write it, too.
    shared: Option<Arc<dyn Store>>,
    /// That of the feed when this process started.
    epoch: u64,
    stopped: AtomicBool,
    /// The moment of the newest heartbeat that was signed, 0 if none was.
    last_beat: AtomicU64,
    /// Why there was no beat the last time one was asked for.
    trouble: Mutex<Option<FeedUnavailable>>,
    key_list: watch::Sender<u64>,
}

#[derive(Clone, Copy)]
struct State {
    head: FeedHead,
    in_flight: Option<Moment>,
    checkpoint: TreeHead,
    key_list: (u64, [u8; 32]),
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    boot: BootTime,
    utc: UtcMillis,
}

impl Pulse {
    /// A pulse about a head just read from the store. `id` is drawn at random when the process starts; `key_list` is version and hash.
    pub fn new(
        tenant: Tenant,
        clock: Arc<dyn Clock>,
        signer: Arc<dyn Signer>,
        id: ClockId,
        head: FeedHead,
        checkpoint: TreeHead,
        key_list: (u64, [u8; 32]),
    ) -> Self {
        Self {
            tenant,
            clock,
            signer,
            id,
            state: Mutex::new(State { head, in_flight: None, checkpoint, key_list }),
            settled: Notify::new(),
            shared: None,
            epoch: head.epoch,
            stopped: AtomicBool::new(false),
            last_beat: AtomicU64::new(0),
            trouble: Mutex::default(),
            key_list: watch::Sender::new(key_list.0),
        }
    }

    /// The same, proven by transactions of the store if other processes write it, too.
    #[must_use]
    pub fn proven_by(self, store: &Arc<dyn Store>) -> Self {
        Self { shared: store.shared().is_some().then(|| Arc::clone(store)), ..self }
    }

    /// A batch is about to be handed to the database.
    pub(crate) fn begin(&self) {
        let now = self.now();
        self.state().in_flight = Some(now);
        // Whoever waits for a moment after its nonce may take this one.
        self.settled.notify_waiters();
    }

    /// Its COMMIT has returned.
    pub(crate) fn settle(&self, head: FeedHead) {
        self.stay(head.epoch);
        let mut state = self.state();
        state.head = head;
        state.in_flight = None;
        drop(state);
        self.settled.notify_waiters();
    }

    /// It is certain that nothing was written.
    pub(crate) fn abandon(&self) {
        self.state().in_flight = None;
        self.settled.notify_waiters();
    }

    /// A checkpoint was released: beats carry it from now on.
    pub(crate) fn released(&self, checkpoint: TreeHead) {
        self.state().checkpoint = checkpoint;
    }

    /// A newer key list is committed: beats carry its version and hash from now on.
    pub(crate) fn key_list(&self, version: u64, hash: [u8; 32]) {
        let mut state = self.state();
        if version > state.key_list.0 {
            state.key_list = (version, hash);
            self.key_list.send_replace(version);
        }
    }

    /// Versions of the newest key list that this process heard is committed, another's commits included.
    pub fn key_lists(&self) -> watch::Receiver<u64> {
        self.key_list.subscribe()
    }

    /// The head that is known to be committed.
    pub fn head(&self) -> FeedHead {
        self.state().head
    }

    /// Stops where another process has begun an epoch: the log has another origin by now, and this one would fork the old.
    pub(crate) fn stay(&self, epoch: u64) {
        if epoch != self.epoch {
            self.stop(&ReleaseError::Recovered(epoch));
        }
    }

    /// Signs nothing any more: the database is not the one that was signed for. Only a person can tell what is true now.
    pub(crate) fn stop(&self, why: &ReleaseError) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            tracing::error!(error = %why, "nothing is signed any more");
        }
        // Whoever waits for a moment hears that there will be none.
        self.settled.notify_waiters();
    }

    /// True once nothing is signed any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The moment of the newest heartbeat that was signed, by this process's boot-time clock.
    pub fn last_beat(&self) -> Option<BootTime> {
        let at = self.last_beat.load(Ordering::Relaxed);
        (at > 0).then_some(BootTime(at))
    }

    /// Why the last beat that was asked for was not signed, if it was not.
    pub fn trouble(&self) -> Option<FeedUnavailable> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A heartbeat of this moment; in memory, of the moment before the commit under way.
    pub async fn beat(&self, nonces: Vec<Vec<u8>>) -> Result<SignedMessage, FeedUnavailable> {
        let proven = match &self.shared {
            Some(store) => self.transact(&**store).await,
            None => Ok(self.look()),
        };
        let (at, state) = self.noted(proven)?;
        Ok(self.sign(at, &state, nonces))
    }

    /// The moment that may be claimed, and what was so at it.
    fn look(&self) -> (Moment, State) {
        // INVARIANT: the clock first, then the head (see the module).
        let now = self.now();
        let state = *self.state();
        (state.in_flight.unwrap_or(now), state)
    }

    /// Heartbeats of one moment after this call began, one for each list of nonces.
    pub(super) async fn answer(&self, nonces: Vec<Vec<Vec<u8>>>) -> Result<Vec<SignedMessage>, FeedUnavailable> {
        let proven = match &self.shared {
            Some(store) => self.transact(&**store).await,
            None => self.settle_down().await,
        };
        let (at, state) = self.noted(proven)?;
        Ok(nonces.into_iter().map(|nonces| self.sign(at, &state, nonces)).collect())
    }

    /// A moment after this call began at which no commit was under way, or the beginning of one since.
    async fn settle_down(&self) -> Result<(Moment, State), FeedUnavailable> {
        let arrived = self.clock.boot();
        let waited = tokio::time::timeout(MAX_WAIT, async {
            loop {
                // Registered before the look, so that no change falls between look and wait.
                let changed = self.settled.notified();
                let (at, state) = self.look();
                if at.boot >= arrived || self.is_stopped() {
                    return (at, state);
                }
                changed.await;
            }
        });
        waited.await.map_err(|_| FeedUnavailable::HeadUnknown)
    }

    /// One beat transaction.
    async fn transact(&self, store: &dyn Store) -> Result<(Moment, State), FeedUnavailable> {
        let known = self.state().checkpoint;
        // INVARIANT: the clock first, then the transaction (see the module, F10).
        let at = self.now();
        let shared = store.shared().ok_or(FeedUnavailable::HeadUnknown)?;
        let Beaten { head, key_list, database_clock } = shared.beat(self.id).await.map_err(|e| FeedUnavailable::Store(e.to_string()))?;
        let until = self.now().utc;
        if database_clock.0 + MAX_CLOCK_ERROR_MS < at.utc.0 || database_clock.0 > until.0 + MAX_CLOCK_ERROR_MS {
            return Err(FeedUnavailable::Clock { ours: at.utc, database: database_clock });
        }
        if let Err(fork) = known.may_precede(head.tree, true) {
            self.stop(&fork);
        }
        self.stay(head.feed.epoch);
        self.key_list(key_list.0, key_list.1);
        let mut state = self.state();
        if (head.feed.epoch, head.feed.seq) > (state.head.epoch, state.head.seq) {
            state.head = head.feed;
        }
        Ok((at, State { head: head.feed, ..*state }))
    }

    /// Said when it changes, not twenty times a second.
    fn noted(&self, proven: Result<(Moment, State), FeedUnavailable>) -> Result<(Moment, State), FeedUnavailable> {
        let proven = if self.is_stopped() { Err(FeedUnavailable::Forked) } else { proven };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let now = proven.as_ref().err().cloned();
        match (&*trouble, &now) {
            (None, Some(e)) => tracing::error!(error = %e, "no heartbeat is signed: verifiers turn stale and deny"),
            (Some(_), None) => tracing::warn!("heartbeats are signed again"),
            _ => {}
        }
        *trouble = now;
        proven
    }

    fn sign(&self, at: Moment, state: &State, nonces: Vec<Vec<u8>>) -> SignedMessage {
        let beat = Heartbeat {
            tenant: self.tenant.clone(),
            epoch: state.head.epoch,
            head_seq: state.head.seq,
            head_hash: state.head.hash,
            clock: self.id,
            t_us: at.boot.0,
            utc: at.utc,
            key_list_version: state.key_list.0,
            key_list_hash: state.key_list.1,
            checkpoint: (state.checkpoint.size, state.checkpoint.root),
            nonces,
        };
        let signed = self.signer.feed(&Message::Heartbeat(beat));
        self.last_beat.fetch_max(at.boot.0, Ordering::Relaxed);
        signed
    }

    /// The wall clock of this process.
    pub(crate) fn utc(&self) -> UtcMillis {
        self.clock.wall()
    }

    fn now(&self) -> Moment {
        Moment { boot: self.clock.boot(), utc: self.clock.wall() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longer than any commit should take; a verifier has long turned stale by then.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How far a replica's wall clock may be off the database's (L7).
const MAX_CLOCK_ERROR_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use procura_verifier::ids::SystemClock;
    use procura_verifier::wire::Canonical as _;
    use rand::SeedableRng as _;

    use super::*;
    use crate::signer::file::FileSigner;
    use crate::store::contract::tenant;

    fn head(seq: u64) -> FeedHead {
        FeedHead { epoch: 1, seq, hash: [seq as u8; 32] }
    }

    fn pulse(clock: Arc<dyn Clock>) -> Arc<Pulse> {
        let folder = tempfile::tempdir().unwrap();
        let signer = Arc::new(FileSigner::open(folder.path(), &mut rand::rngs::StdRng::seed_from_u64(1)).unwrap());
        let tree = TreeHead { size: 0, root: [0; 32] };
        Arc::new(Pulse::new(tenant(), clock, signer, ClockId::from_bytes([1; 16]), head(0), tree, (1, [0; 32])))
    }

    struct Counting(AtomicU64);
    impl Clock for Counting {
        fn boot(&self) -> BootTime {
            BootTime(self.0.fetch_add(1, Ordering::SeqCst))
        }
        fn wall(&self) -> UtcMillis {
            UtcMillis(7)
        }
    }

    #[test]
    fn during_a_commit_the_moment_before_it_is_claimed() {
        let p = pulse(Arc::new(Counting(AtomicU64::new(100))));
        assert_eq!(p.look().0.boot, BootTime(100));
        p.begin();
        for _ in 0..3 {
            let (at, state) = p.look();
            assert_eq!((at.boot, state.head), (BootTime(101), head(0)));
        }
        p.settle(head(1));
        let (at, state) = p.look();
        assert_eq!((at.boot, state.head), (BootTime(105), head(1)));
        p.begin();
        p.abandon();
        let (at, state) = p.look();
        assert_eq!((at.boot, state.head), (BootTime(107), head(1)));
    }

    #[tokio::test]
    async fn an_answer_waits_for_a_moment_after_its_question() {
        let p = pulse(Arc::new(Counting(AtomicU64::new(100))));
        let beat = |signed: SignedMessage| match Message::from_bytes(signed.unverified_payload()).unwrap() {
            Message::Heartbeat(b) => b,
            other => panic!("{other:?}"),
        };
        let idle = beat(p.answer(vec![vec![vec![1; 16]]]).await.unwrap().remove(0));
        assert_eq!((idle.t_us, idle.nonces), (101, vec![vec![1; 16]]));

        // Asked while a commit is under way: its beginning lies before the question.
        p.begin();
        let asked = tokio::spawn({
            let p = Arc::clone(&p);
            async move { p.answer(vec![vec![vec![2; 16]]]).await }
        });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!asked.is_finished());
        // The next commit begins at once, but after the question: that moment will do.
        p.settle(head(1));
        p.begin();
        let busy = beat(asked.await.unwrap().unwrap().remove(0));
        assert_eq!(busy.head_seq, 1);
        let begun = p.look().0.boot.0;
        assert!(busy.t_us <= begun && busy.t_us > 102, "{} {begun}", busy.t_us);
    }

    /// The argument of the module, against threads and the machine's clock.
    #[test]
    fn no_beat_claims_a_moment_after_a_commit_that_it_does_not_contain() {
        const ROUNDS: u64 = 20_000;
        let clock = SystemClock;
        let p = pulse(Arc::new(clock));
        // When the COMMIT of each number returned.
        let returned: Arc<Vec<AtomicU64>> = Arc::new((0..=ROUNDS + 1).map(|_| AtomicU64::new(u64::MAX)).collect());
        let writer = std::thread::spawn({
            let (p, returned) = (Arc::clone(&p), Arc::clone(&returned));
            move || {
                for n in 1..=ROUNDS {
                    p.begin();
                    returned[n as usize].store(clock.boot().0, Ordering::SeqCst);
                    p.settle(head(n));
                }
            }
        });
        let mut seen = Vec::new();
        while !writer.is_finished() {
            let (at, state) = p.look();
            seen.push((at.boot.0, state.head.seq));
        }
        writer.join().unwrap();
        for (t, n) in seen {
            let next = returned[n as usize + 1].load(Ordering::SeqCst);
            assert!(t <= next, "claims head {n} at {t}, but number {} was committed at {next}", n + 1);
        }
    }
}
