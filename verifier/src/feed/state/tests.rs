use super::*;
use crate::feed::fixture;
use crate::feed::message::{Heartbeat, Item};
use crate::feed::snapshot::Manifest;
use crate::ids::Tid;
use rand::SeedableRng as _;

mod forks;
mod key_lists;
mod order;

const REMOTE: u64 = 77_000_000_000;
const MS: u64 = 1000;

/// An authority with one feed, and a verifier beside it. Time is local boot time in microseconds; the remote clock is [`REMOTE`] ahead.
struct World {
    now: u64,
    batches: Vec<(u64, SignedMessage)>,
    epoch: u64,
    seq: u64,
    hash: [u8; 32],
    list_version: u64,
    list_hash: [u8; 32],
    /// By how much the authority's clock has jumped.
    ahead_ms: u64,
    state: FeedState,
    rng: rand::rngs::StdRng,
}

fn world() -> World {
    let list = fixture::key_list(1, &[]);
    World {
        now: 1_000_000_000,
        batches: vec![],
        epoch: 1,
        seq: 0,
        hash: genesis_hash(&fixture::tenant(), 1),
        list_version: 1,
        list_hash: *list.hash(),
        ahead_ms: 0,
        state: FeedState::new(Arc::new(View::new("payments".parse().unwrap(), list))),
        rng: rand::rngs::StdRng::seed_from_u64(1),
    }
}

fn tid(n: u64) -> Item {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    Item::Tid { tid: Tid::from_bytes(id), exp_secs: 9_000_000_000 }
}

impl World {
    fn utc(&self) -> UtcMillis {
        fixture::UTC.plus(self.now / 1000)
    }

    fn pass(&mut self, ms: u64) -> &mut Self {
        self.now += ms * MS;
        self
    }

    fn commit(&mut self, items: Vec<Item>) -> SignedMessage {
        self.seq += 1;
        let batch = Batch {
            tenant: fixture::tenant(),
            epoch: self.epoch,
            seq: self.seq,
            prev: self.hash,
            issued: self.utc(),
            items: items.into_iter().map(|i| (self.seq, i)).collect(),
        };
        let signed = SignedMessage::sign(&Message::Batch(batch), &fixture::feed_key());
        self.hash = signed.hash();
        self.batches.push((self.now, signed.clone()));
        signed
    }

    fn begin_epoch(&mut self, epoch: u64, last_seq: u64, last_hash: [u8; 32]) -> SignedMessage {
        let start = EpochStart { tenant: fixture::tenant(), epoch, prev_epoch: self.epoch, last_seq, last_hash, issued: self.utc() };
        let signed = SignedMessage::sign(&Message::EpochStart(start), &fixture::feed_key());
        (self.epoch, self.seq, self.hash) = (epoch, 0, signed.hash());
        self.batches.push((self.now, signed.clone()));
        signed
    }

    fn beat(&self, nonces: &[Nonce]) -> Heartbeat {
        Heartbeat {
            epoch: self.epoch,
            head_seq: self.seq,
            head_hash: self.hash,
            t_us: REMOTE + self.now,
            key_list_version: self.list_version,
            key_list_hash: self.list_hash,
            nonces: nonces.iter().map(|n| n.to_vec()).collect(),
            ..fixture::heartbeat(self.utc().plus(self.ahead_ms))
        }
    }

    fn signed_beat(&self, nonces: &[Nonce]) -> SignedMessage {
        SignedMessage::sign(&Message::Heartbeat(self.beat(nonces)), &fixture::feed_key())
    }

    fn receive(&mut self, signed: &SignedMessage) -> Need {
        let (now, wall) = (BootTime(self.now), self.utc());
        self.state.receive(&signed.to_bytes(), now, wall).unwrap()
    }

    fn ask(&mut self) -> Nonce {
        self.state.ask(BootTime(self.now), &mut self.rng)
    }

    /// Asks, and takes the answer 10 ms later.
    fn pull(&mut self) -> Need {
        let nonce = self.ask();
        self.pass(5);
        let answer = self.signed_beat(&[nonce]);
        self.pass(5);
        self.receive(&answer)
    }

    /// Serves the tail until nothing is needed.
    fn follow(&mut self, mut need: Need) -> Need {
        for _ in 0..10 {
            let Need::Tail { epoch, from_seq } = need else { return need };
            need = Need::Nothing;
            let position = |m: &SignedMessage| match Message::from_bytes(m.unverified_payload()).unwrap() {
                Message::Batch(b) => (b.epoch, b.seq),
                Message::EpochStart(s) => (s.epoch, 0),
                Message::Heartbeat(_) | Message::KeyListChange(_) | Message::Manifest(_) => unreachable!(),
            };
            let mut tail: Vec<_> = self.batches.iter().map(|(_, m)| m.clone()).filter(|m| position(m) >= (epoch, from_seq)).collect();
            tail.sort_by_key(position);
            for message in tail {
                need = self.receive(&message);
            }
        }
        need
    }

    fn fresh(&self) -> Option<BootTime> {
        self.state.view().fresh_as_of()
    }

    fn alarms(&mut self) -> Vec<Alarm> {
        self.state.take_alarms()
    }
}

#[test]
fn an_answer_to_our_nonce_is_fresh_as_of_when_the_request_left() {
    let mut w = world();
    let left = w.now;
    assert_eq!(w.pull(), Need::Nothing);
    let fresh = w.fresh().unwrap();
    assert!(fresh.0 <= left && fresh.0 + 10 >= left);
    assert_eq!(w.state.view().relied().unwrap().seq, 0);
    assert!(w.state.view().utc(BootTime(w.now)).is_some());
    w.pass(50);
    let (beat, t) = (w.signed_beat(&[]), w.now);
    w.pass(20);
    assert_eq!(w.receive(&beat), Need::Nothing);
    let fresh = w.fresh().unwrap().0;
    assert!(fresh <= t && fresh + 6 * MS >= t, "5 ms of mapping error at most");
}

#[test]
fn a_heartbeat_of_an_unmapped_clock_proves_nothing() {
    let mut w = world();
    let open = w.ask();
    let beat = w.signed_beat(&[]);
    assert_eq!(w.receive(&beat), Need::Nothing);
    assert!(w.state.awaits(&open));
    let strangers = w.signed_beat(&[[9; 16]]);
    assert_eq!(w.receive(&strangers), Need::Nothing);
    assert_eq!((w.fresh(), w.state.view().utc(BootTime(w.now))), (None, None));
    assert_eq!(w.state.counters().unmapped, 2);
    // Its twin: the same with our nonce.
    assert_eq!(w.pull(), Need::Nothing);
    assert!(w.fresh().is_some());
}

#[test]
fn what_was_held_back_is_old_however_late_it_arrives() {
    let mut w = world();
    let _ = w.pull();
    let (beat, t) = (w.signed_beat(&[]), w.now);
    w.pass(3_600_000);
    let wall = w.utc();
    let _ = w.state.receive(&beat.to_bytes(), BootTime(w.now), wall);
    assert!(w.fresh().is_none_or(|f| f.0 <= t));
}

#[test]
fn a_hole_stops_freshness_until_the_tail_fills_it_and_items_count_at_once() {
    let mut w = world();
    let _ = w.pull();
    let before = w.fresh();
    let lost = w.commit(vec![tid(1)]);
    let second = w.commit(vec![tid(2)]);
    w.pass(10);
    assert_eq!(w.receive(&second), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!(w.state.view().known().ids, 1, "applied before the hole is filled");
    w.pass(10);
    let t = w.now;
    let beat = w.signed_beat(&[]);
    assert_eq!(w.receive(&beat), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!(w.fresh(), before);
    w.pass(30);
    assert_eq!(w.receive(&lost), Need::Nothing);
    assert!(w.fresh() > before && w.fresh().unwrap().0 <= t, "fresh as of that heartbeat, not of the tail");
    assert_eq!(w.state.view().relied().unwrap().seq, 2);
}

#[test]
fn a_heartbeat_overtaken_by_its_successors_is_no_fork() {
    let mut w = world();
    let _ = w.pull();
    w.pass(50);
    let beat = w.signed_beat(&[]);
    w.pass(6);
    let batch = w.commit(vec![tid(1)]);
    let _ = w.receive(&batch);
    let before = w.fresh();
    assert_eq!(w.receive(&beat), Need::Nothing);
    assert!(w.fresh() > before);
    assert_eq!(w.alarms(), []);
}

#[test]
fn a_clock_that_runs_ahead_proves_no_freshness_until_an_epoch_start_confirms_it() {
    let mut w = world();
    let _ = w.pull();
    let before = w.fresh();
    w.pass(50);
    let ahead = |w: &World, ms: u64| SignedMessage::sign(&Message::Heartbeat(Heartbeat { utc: w.utc().plus(ms), ..w.beat(&[]) }), &fixture::feed_key());
    let beat = ahead(&w, 2100);
    assert_eq!(w.receive(&beat), Need::Nothing);
    assert_eq!(w.fresh(), before);
    assert!(matches!(w.alarms()[..], [Alarm::Clock { .. }]));
    // The twin: 1.9 s are taken.
    w.pass(50);
    let beat = ahead(&w, 1900);
    let _ = w.receive(&beat);
    assert!(w.fresh() > before);
    // An hour ahead, confirmed.
    let (seq, hash) = (w.seq, w.hash);
    let start = EpochStart { tenant: fixture::tenant(), epoch: 2, prev_epoch: 1, last_seq: seq, last_hash: hash, issued: w.utc().plus(3_600_000) };
    let start = SignedMessage::sign(&Message::EpochStart(start), &fixture::feed_key());
    let _ = w.receive(&start);
    (w.epoch, w.seq, w.hash) = (2, 0, start.hash());
    let before = w.fresh();
    w.pass(50);
    let beat = ahead(&w, 3_600_000);
    assert_eq!(w.receive(&beat), Need::Nothing);
    assert!(w.fresh() > before);
}

/// Nobody runs while the authority recovers: its clock has jumped an hour, and the verifier hears the first beat of the new epoch
/// before the start of it, which stands in the tail.
#[test]
fn an_epoch_start_that_is_read_late_from_the_tail_confirms_the_jump() {
    for by_snapshot in [false, true] {
        let mut w = world();
        let _ = w.pull();
        w.pass(600_000);
        let issued = w.utc().plus(3_600_000);
        let start = EpochStart { tenant: fixture::tenant(), epoch: 2, prev_epoch: 1, last_seq: 0, last_hash: w.hash, issued };
        let start = SignedMessage::sign(&Message::EpochStart(start), &fixture::feed_key());
        (w.epoch, w.seq, w.hash) = (2, 0, start.hash());
        w.batches.push((w.now, start));
        w.ahead_ms = 3_600_000;
        if by_snapshot {
            let _ = w.commit(vec![tid(1)]);
        }
        w.pass(5_000);
        let before = w.fresh();
        let need = w.pull();
        assert!(matches!(w.alarms()[..], [Alarm::Clock { .. }]), "nothing confirms it yet");
        assert_eq!((need, w.fresh()), (Need::Tail { epoch: 1, from_seq: 1 }, before));
        if by_snapshot {
            let manifest = Manifest { tenant: fixture::tenant(), epoch: 2, seq: 1, hash: w.hash, issued, segments: vec![] };
            let signed = SignedMessage::sign(&Message::Manifest(manifest), &fixture::feed_key());
            let view = Arc::clone(w.state.view());
            let snapshot = crate::feed::snapshot::Snapshot::verify(&signed, &view.key_list()).unwrap();
            let loaded = crate::feed::snapshot::Loading::new(snapshot, &view, BootTime(w.now)).finish().unwrap();
            let _ = w.state.reach(&loaded, BootTime(w.now));
        } else {
            assert_eq!(w.follow(need), Need::Nothing);
        }
        w.pass(50);
        assert_eq!((w.pull(), w.alarms()), (Need::Nothing, vec![]), "by snapshot: {by_snapshot}");
        assert!(w.fresh() > before);
        // What was confirmed has been used: the next jump waits for the next epoch.
        w.ahead_ms += 10_000;
        w.pass(50);
        let before = w.fresh();
        let _ = w.pull();
        assert_eq!(w.fresh(), before);
        assert!(matches!(w.alarms()[..], [Alarm::Clock { .. }]));
    }
}

#[test]
fn a_first_answer_held_back_does_not_leave_authority_time_behind_for_good() {
    let mut w = world();
    let nonce = w.ask();
    let answer = w.signed_beat(&[nonce]);
    for _ in 0..80 {
        w.pass(500);
        let (now, wall) = (BootTime(w.now), w.utc());
        _ = w.state.tick(now, wall);
    }
    _ = w.receive(&answer);
    // Whoever held it back is gone: the next answer is to be believed.
    assert_eq!(w.pull(), Need::Nothing);
    assert!(w.fresh().is_some_and(|f| w.now - f.0 < 50 * MS), "{:?}", w.alarms());
}

#[test]
fn a_pause_drops_mappings_and_freshness_and_asks_for_a_pull() {
    let mut w = world();
    let _ = w.pull();
    assert_eq!(w.state.tick(BootTime(w.now), w.utc()), Need::Nothing);
    let wall = w.utc().plus(60_000);
    assert_eq!(w.state.tick(BootTime(w.now + 1000), wall), Need::Pull);
    assert_eq!((w.fresh(), w.alarms()), (None, vec![Alarm::Paused]));
    w.pass(1);
    let beat = w.signed_beat(&[]);
    assert!(w.state.receive(&beat.to_bytes(), BootTime(w.now), wall).is_ok());
    assert_eq!(w.fresh(), None, "the mapping is gone");
}

#[test]
fn what_is_signed_and_cannot_be_read_leaves_the_view_stale() {
    let mut w = world();
    let _ = w.pull();
    let unknown = w.commit(vec![Item::Unknown { kind: 200, body: vec![1, 2, 3] }]);
    let _ = w.receive(&unknown);
    assert_eq!((w.fresh(), w.pull(), w.fresh()), (None, Need::Nothing, None));
    assert_eq!(w.alarms(), [Alarm::Unreadable]);
}

#[test]
fn junk_and_repetitions_change_nothing() {
    let mut w = world();
    let one = w.commit(vec![tid(1)]);
    let _ = w.receive(&one);
    let _ = w.pull();
    let before = (w.fresh(), w.state.watermark(), w.state.view().known());
    let bytes = one.to_bytes();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let (now, wall) = (BootTime(w.now), w.utc());
        // The signature of a message that is known already is not looked at, and makes no difference.
        let _ = w.state.receive(&flipped, now, wall);
        let _ = w.state.receive(&bytes[..at], now, wall);
    }
    assert_eq!(w.receive(&one), Need::Nothing);
    assert_eq!((w.fresh(), w.state.watermark(), w.state.view().known()), before);
    assert!(w.state.counters().duplicates >= 1 && w.state.counters().refused > bytes.len() as u64);
    assert_eq!(w.alarms(), []);
}

#[test]
fn what_is_far_ahead_is_applied_but_its_place_is_not_kept_without_bound() {
    let mut w = world();
    let all: Vec<_> = (0..MAX_AHEAD as u64 + 10).map(|n| w.commit(vec![tid(n)])).collect();
    for message in all.iter().skip(1) {
        let _ = w.receive(message);
    }
    assert_eq!(w.state.view().known().ids, all.len() - 1);
    assert!(w.state.ahead.len() <= MAX_AHEAD);
    let need = w.pull();
    assert_eq!(w.follow(need), Need::Nothing);
    assert_eq!(w.state.watermark().1, all.len() as u64);
    assert!(w.fresh().is_some());
}
