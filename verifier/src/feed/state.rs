//! What a verifier makes of the feed: bytes and clock readings in, what to fetch next out (`spec/feed.md`, F4 to F13). No I/O.

mod beats;
mod said;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::clock::{ClockMap, PauseWatch};
use super::message::{Batch, EpochStart, FeedError, KeyListChange, Message, SignedMessage, genesis_hash};
use super::snapshot::Loaded;
use crate::ids::{BootTime, Key, UtcMillis};
use crate::key_list::{KeyList, KeyUse};
use crate::revocation::{KeyListStays, RevocationView as _, View};
use crate::wire::Canonical as _;
use beats::{Beat, WantedList};
pub use said::{Alarm, FeedCounters, Need};

/// What a verifier asks an authority's replica to sign over.
pub type Nonce = [u8; 16];

/// The one writer of a [`View`]. Feed everything that arrives to [`Self::receive`], whatever path it came by.
#[derive(Debug)]
pub struct FeedState {
    view: Arc<View>,
    epoch: u64,
    /// When this epoch was entered.
    entered: BootTime,
    /// Number of the first of `chain`.
    base: u64,
    /// The newest contiguous messages; the last is the watermark. Never empty but for an instant.
    chain: VecDeque<Link>,
    /// Messages of this epoch above the watermark. Their items are applied already.
    ahead: BTreeMap<u64, Ahead>,
    next: Option<(EpochStart, [u8; 32])>,
    /// Heartbeats that wait for the tail, or for a key list.
    waiting: VecDeque<Beat>,
    wanted_list: Option<WantedList>,
    /// A list that was pushed and that nobody has believed yet.
    announced: Option<Vec<u8>>,
    clocks: ClockMap,
    watch: PauseWatch,
    nonces: VecDeque<(Nonce, BootTime)>,
    heard: Option<BootTime>,
    collected: BootTime,
    clock_alarm: bool,
    /// When this epoch began, by its start, while no heartbeat of it has counted.
    began: Option<UtcMillis>,
    alarms: Vec<Alarm>,
    counters: FeedCounters,
    /// Who vouched that the snapshot begun with holds everything.
    begun_with: Option<Key>,
    /// Signed messages to be kept on disk, if anybody does.
    kept: Option<Vec<Vec<u8>>>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    hash: [u8; 32],
    /// When it was known here, with all before it.
    reached: BootTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ahead {
    prev: [u8; 32],
    hash: [u8; 32],
}

impl FeedState {
    /// The state before the first message: at the start of epoch 1.
    pub fn new(view: Arc<View>) -> Self {
        let mut state = Self {
            view,
            epoch: 1,
            entered: BootTime(0),
            base: 0,
            chain: VecDeque::new(),
            ahead: BTreeMap::new(),
            next: None,
            waiting: VecDeque::new(),
            wanted_list: None,
            announced: None,
            clocks: ClockMap::default(),
            watch: PauseWatch::default(),
            nonces: VecDeque::new(),
            heard: None,
            collected: BootTime(0),
            clock_alarm: false,
            began: None,
            alarms: Vec::new(),
            counters: FeedCounters::default(),
            begun_with: None,
            kept: None,
        };
        state.restart(BootTime(0));
        state
    }

    /// The view it writes.
    pub const fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The watermark: epoch, number and hash up to which everything is applied.
    pub fn watermark(&self) -> (u64, u64, [u8; 32]) {
        let hash = self.chain.back().map_or([0; 32], |l| l.hash);
        (self.epoch, self.seq(), hash)
    }

    /// The tail from the watermark on.
    pub fn tail(&self) -> Need {
        Need::Tail { epoch: self.epoch, from_seq: self.seq().saturating_add(1) }
    }

    /// When a heartbeat of a mapped clock last came in.
    pub const fn last_heard(&self) -> Option<BootTime> {
        self.heard
    }

    /// Counts since the start.
    pub const fn counters(&self) -> FeedCounters {
        self.counters
    }

    /// The alarms since the last call; at most 64 are kept.
    pub fn take_alarms(&mut self) -> Vec<Alarm> {
        std::mem::take(&mut self.alarms)
    }

    /// From now on batches and epoch starts that are new here are kept for [`Self::take_kept`], which must be called.
    pub fn keep(&mut self) {
        self.kept.get_or_insert_default();
    }

    /// The signed messages that were new since the last call, to be stored: with them a verifier starts warm, and gives back
    /// what an authority lost.
    pub fn take_kept(&mut self) -> Vec<Vec<u8>> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// [`Self::receive`] for what was received, and verified, before the process began: batches and epoch starts.
    pub fn restore(&mut self, bytes: &[u8], now: BootTime) -> Result<Need, FeedError> {
        let keeping = self.kept.take();
        let need = self.take(bytes, now);
        self.kept = keeping;
        need
    }

    /// Moves the watermark to a snapshot that is in the view (F17). At or below the watermark it stays where it is.
    pub fn reach(&mut self, loaded: &Loaded, now: BootTime) -> Need {
        let (epoch, seq, _) = self.watermark();
        if (loaded.epoch, loaded.seq) <= (epoch, seq) {
            let differs = loaded.epoch == epoch && self.link(loaded.seq).is_some_and(|l| l.hash != loaded.hash);
            return if differs { self.fork(loaded.seq, now) } else { Need::Nothing };
        }
        if loaded.epoch == epoch {
            if self.ahead.get(&loaded.seq).is_some_and(|a| a.hash != loaded.hash) {
                return self.fork(loaded.seq, now);
            }
            self.ahead.retain(|number, _| *number > loaded.seq);
        } else {
            self.ahead.clear();
            self.begin(loaded.issued, now);
        }
        self.next.take_if(|(start, _)| start.epoch <= loaded.epoch);
        (self.epoch, self.base, self.begun_with) = (loaded.epoch, loaded.seq, Some(loaded.key));
        self.chain.clear();
        self.chain.push_back(Link { hash: loaded.hash, reached: now });
        self.advance(now)
    }

    /// Draws a nonce and notes `now` as the instant its request leaves: call it right before sending (F11). The newest 64 are kept, for 2 s.
    pub fn ask(&mut self, now: BootTime, rng: &mut (impl rand::RngCore + ?Sized)) -> Nonce {
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        if self.nonces.len() == MAX_ASKED {
            self.nonces.pop_front();
        }
        self.nonces.push_back((nonce, now));
        nonce
    }

    /// True while no answer to this nonce has come.
    pub fn awaits(&self, nonce: &Nonce) -> bool {
        self.nonces.iter().any(|(asked, _)| asked == nonce)
    }

    /// Looks at the clocks and collects what has expired. To be called every few hundred milliseconds, at least once a second.
    pub fn tick(&mut self, now: BootTime, wall: UtcMillis) -> Need {
        if now.micros_since(self.collected) >= COLLECT_EVERY_US {
            self.collected = now;
            self.view.collect(now);
        }
        if !self.watch.paused(now, wall) {
            return Need::Nothing;
        }
        // F13: what was fresh before the pause is not known to be so after it, however little time the boot clock saw pass.
        self.view.fence();
        self.clocks.clear();
        self.nonces.clear();
        self.waiting.clear();
        self.counters.pauses += 1;
        self.alarm(Alarm::Paused);
        Need::Pull
    }

    /// Takes one signed message, in any order, from any path. `now` and `wall` are read after its last byte arrived.
    ///
    /// An error concerns this message alone and changes nothing, but for [`FeedError::Unreadable`], which leaves the view stale.
    pub fn receive(&mut self, bytes: &[u8], now: BootTime, wall: UtcMillis) -> Result<Need, FeedError> {
        let paused = self.tick(now, wall);
        self.counters.received += 1;
        let need = self.take(bytes, now).inspect_err(|_| self.counters.refused += 1)?;
        Ok(if paused == Need::Nothing { need } else { paused })
    }

    /// Takes a key list that the anchors signed.
    pub fn accept_key_list(&mut self, list: KeyList, now: BootTime) -> Result<Need, KeyListStays> {
        let before = self.view.key_list();
        if let Err(error) = self.view.replace_key_list(list) {
            if let KeyListStays::Differs { version } = error {
                self.alarm(Alarm::KeyList { version });
            }
            return Err(error);
        }
        let keys = self.view.key_list();
        let mut need = Need::Nothing;
        if before.of(KeyUse::Feed).any(|k| keys.is_dead(&k.key)) {
            // Whoever had that key could fake freshness: what rests on it ends now.
            self.view.fence();
            self.clocks.clear();
            self.waiting.clear();
            need = Need::Pull;
        }
        // F17: with that key a snapshot could be signed that lacks something: what stands on it is read again.
        if self.begun_with.is_some_and(|key| keys.is_dead(&key)) {
            self.restart(now);
            need = self.tail();
        }
        if self.wanted_list.is_some_and(|w| keys.find(KeyUse::Feed, &w.said_by).is_none()) {
            self.wanted_list = None;
        }
        let settled = self.settle(now);
        Ok(if settled == Need::Nothing { need } else { settled })
    }

    /// The key list that a message pushed, once. Believe it as one that was fetched: for its anchors' signatures, by
    /// [`Self::accept_key_list`] (F8). Whoever leaves it fetches the list when a heartbeat names it.
    pub const fn take_announced(&mut self) -> Option<Vec<u8>> {
        self.announced.take()
    }

    fn take(&mut self, bytes: &[u8], now: BootTime) -> Result<Need, FeedError> {
        let signed = SignedMessage::from_bytes(bytes)?;
        let keys = self.view.key_list();
        // F4: what nobody vouches for yet is used to drop, never to believe. Cheaper than a signature by a factor of 50.
        if keys.find(KeyUse::Feed, signed.claimed_key()).is_none() {
            return Err(FeedError::UnknownKey { key: *signed.claimed_key() });
        }
        let hash = signed.hash();
        if self.is_known(&signed, &hash) {
            self.counters.duplicates += 1;
            return Ok(Need::Nothing);
        }
        match signed.verify(&keys, self.view.utc(now)) {
            Ok(Message::Batch(batch)) => {
                self.note(bytes);
                Ok(self.batch(&batch, hash, now))
            }
            Ok(Message::Heartbeat(beat)) => Ok(self.heartbeat(&beat, *signed.claimed_key(), now)),
            Ok(Message::KeyListChange(change)) => {
                // A feed key says only that there is something to look at: no freshness ends for it, and nothing is believed.
                self.announced = self.is_news(&change).then_some(change.list);
                Ok(Need::Nothing)
            }
            Ok(Message::EpochStart(start)) => {
                self.note(bytes);
                Ok(self.epoch_start(start, hash, now))
            }
            // Asked for where it is wanted, and of no use without its segments.
            Ok(Message::Manifest(_)) => Ok(Need::Nothing),
            Err(error) => {
                if matches!(error, FeedError::Unreadable(_)) {
                    self.view.stick();
                    self.alarm(Alarm::Unreadable);
                }
                Err(error)
            }
        }
    }

    fn is_known(&self, signed: &SignedMessage, hash: &[u8; 32]) -> bool {
        match Message::from_bytes(signed.unverified_payload()) {
            Ok(Message::Batch(b)) => {
                b.epoch == self.epoch && (self.link(b.seq).is_some_and(|l| l.hash == *hash) || self.ahead.get(&b.seq).is_some_and(|a| a.hash == *hash))
            }
            Ok(Message::Heartbeat(h)) => {
                self.clocks.has_seen(h.clock, h.t_us) && !h.nonces.iter().any(|n| self.nonces.iter().any(|(asked, _)| asked == n.as_slice()))
            }
            Ok(Message::KeyListChange(c)) => !self.is_news(&c),
            Ok(Message::EpochStart(_) | Message::Manifest(_)) | Err(_) => false,
        }
    }

    /// True of a later version, or of another list under the version held: that is an alarm if the anchors signed it.
    fn is_news(&self, change: &KeyListChange) -> bool {
        let keys = self.view.key_list();
        let held = keys.payload().version;
        change.version > held || (change.version == held && change.hash != *keys.hash())
    }

    fn batch(&mut self, batch: &Batch, hash: [u8; 32], now: BootTime) -> Need {
        // F5: first of all the items, wherever the message stands. What is signed as revoked is revoked.
        self.view.apply(batch.seq, &batch.items);
        if self.view.is_stuck() {
            self.alarm(Alarm::Unreadable);
        }
        self.counters.batches += 1;
        self.counters.items += batch.items.len() as u64;
        if batch.epoch != self.epoch {
            return if batch.epoch > self.epoch { self.tail() } else { Need::Nothing };
        }
        let this = Ahead { prev: batch.prev, hash };
        if batch.seq <= self.seq() {
            return if self.link(batch.seq).is_some_and(|l| l.hash != hash) { self.fork(batch.seq, now) } else { Need::Nothing };
        }
        if self.ahead.get(&batch.seq).is_some_and(|a| *a != this) {
            return self.fork(batch.seq, now);
        }
        self.ahead.insert(batch.seq, this);
        if self.ahead.len() > MAX_AHEAD {
            self.ahead.pop_last();
            self.counters.overflows += 1;
        }
        self.advance(now)
    }

    fn epoch_start(&mut self, start: EpochStart, hash: [u8; 32], now: BootTime) -> Need {
        if start.epoch <= self.epoch {
            let again = start.epoch == self.epoch;
            return if again && self.link(0).is_some_and(|l| l.hash != hash) { self.fork(0, now) } else { Need::Nothing };
        }
        if start.prev_epoch < self.epoch {
            // It grew from before the epoch that is here: what that one held is lost, and where the two part is far behind.
            return self.fork_in(start.prev_epoch, start.last_seq, now);
        }
        if start.prev_epoch > self.epoch {
            return self.tail();
        }
        self.next = Some((start, hash));
        self.advance(now)
    }

    /// Moves the watermark over everything contiguous (F6), into the next epoch where that begins.
    fn advance(&mut self, now: BootTime) -> Need {
        loop {
            let (_, seq, hash) = self.watermark();
            if let Some((start, start_hash)) = self.next.take_if(|(s, _)| s.last_seq <= seq) {
                match self.link(start.last_seq) {
                    Some(link) if link.hash == start.last_hash => self.enter(&start, start_hash, now),
                    // Either another history than the new epoch grew from, or too long ago to tell: read all of it again.
                    Some(_) => return self.fork(start.last_seq, now),
                    None => {
                        self.restart(now);
                        return self.tail();
                    }
                }
                continue;
            }
            let Some(link) = self.ahead.remove(&seq.saturating_add(1)) else { break };
            if link.prev != hash {
                return self.fork(seq.saturating_add(1), now);
            }
            self.push(link.hash, now);
        }
        let settled = self.settle(now);
        if settled != Need::Nothing {
            settled
        } else if self.ahead.is_empty() && self.next.is_none() {
            Need::Nothing
        } else {
            self.tail()
        }
    }

    fn enter(&mut self, start: &EpochStart, hash: [u8; 32], now: BootTime) {
        if start.last_seq < self.seq() {
            self.alarm(Alarm::Loss { epoch: self.epoch, from_seq: start.last_seq.saturating_add(1) });
        }
        self.epoch = start.epoch;
        self.base = 0;
        self.chain.clear();
        self.chain.push_back(Link { hash, reached: now });
        self.ahead.clear();
        self.begin(start.issued, now);
    }

    /// F12: a later epoch is known, of which this was signed. If the authority's clock has jumped, that is confirmed.
    fn begin(&mut self, issued: UtcMillis, now: BootTime) {
        self.entered = now;
        self.view.confirm_utc(issued, now);
        (self.clock_alarm, self.began) = (false, Some(issued));
    }

    fn fork(&mut self, seq: u64, now: BootTime) -> Need {
        self.fork_in(self.epoch, seq, now)
    }

    /// Stale at once; nothing applied is taken back; the history is read again from its start (F7).
    fn fork_in(&mut self, epoch: u64, seq: u64, now: BootTime) -> Need {
        self.counters.forks += 1;
        self.alarm(Alarm::Fork { epoch, seq });
        self.view.fence();
        self.restart(now);
        self.tail()
    }

    fn restart(&mut self, now: BootTime) {
        self.epoch = 1;
        self.entered = now;
        self.base = 0;
        self.chain.clear();
        self.chain.push_back(Link { hash: genesis_hash(self.view.tenant(), 1), reached: now });
        self.ahead.clear();
        self.next = None;
        self.waiting.clear();
        (self.begun_with, self.began) = (None, None);
    }

    fn push(&mut self, hash: [u8; 32], now: BootTime) {
        self.chain.push_back(Link { hash, reached: now });
        if self.chain.len() > MAX_CHAIN {
            self.chain.pop_front();
            self.base = self.base.saturating_add(1);
        }
    }

    fn seq(&self) -> u64 {
        self.base.saturating_add((self.chain.len() as u64).saturating_sub(1))
    }

    fn link(&self, seq: u64) -> Option<&Link> {
        self.chain.get(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    fn note(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            kept.push(bytes.to_vec());
        }
    }

    fn alarm(&mut self, alarm: Alarm) {
        if self.alarms.len() < MAX_ALARMS && self.alarms.last() != Some(&alarm) {
            self.alarms.push(alarm);
        }
    }
}

/// Requests under way at once.
const MAX_ASKED: usize = 64;
/// Hashes of the newest messages: at a message every 2 ms, eight seconds of late heartbeats.
const MAX_CHAIN: usize = 4096;
const MAX_AHEAD: usize = 4096;
const MAX_ALARMS: usize = 64;
const COLLECT_EVERY_US: u64 = 10_000_000;

#[cfg(all(test, not(loom)))]
mod tests;
