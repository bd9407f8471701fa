use super::*;
use crate::feed::fixture;
use crate::feed::message::FloorScope;
use crate::feed::message::{Freeze, Item};
use crate::ids::{AgentId, FreezeId, HumanId, Tid};
use crate::key_list::KeyListError;
use proptest::prelude::*;
use rand::SeedableRng as _;

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
            ..fixture::heartbeat(self.utc())
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
fn a_head_below_what_was_known_before_is_a_fork_and_keeps_every_item() {
    let mut w = world();
    let batch = w.commit(vec![tid(1)]);
    let _ = w.receive(&batch);
    let _ = w.pull();
    assert!(w.fresh().is_some());
    // A restored backup: the head is empty again.
    (w.seq, w.hash) = (0, genesis_hash(&fixture::tenant(), 1));
    w.batches.clear();
    w.pass(50);
    let need = w.pull();
    assert_eq!(need, Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!(w.alarms(), [Alarm::Fork { epoch: 1, seq: 0 }]);
    assert_eq!(w.fresh(), None);
    assert_eq!(w.state.view().known().ids, 1);
    // It takes another history in, beside what it knows.
    let other = w.commit(vec![tid(2)]);
    let _ = w.receive(&other);
    assert_eq!(w.pull(), Need::Nothing);
    assert!(w.fresh().is_some());
    assert_eq!(w.state.view().known().ids, 2);
}

#[test]
fn another_hash_at_a_known_number_is_a_fork_by_batch_and_by_heartbeat() {
    for by_heartbeat in [false, true] {
        let mut w = world();
        let _ = w.pull();
        let one = w.commit(vec![tid(1)]);
        let _ = w.receive(&one);
        w.pass(50);
        let beat = w.signed_beat(&[]);
        let _ = w.receive(&beat);
        assert!(w.fresh().is_some());
        (w.seq, w.hash) = (0, genesis_hash(&fixture::tenant(), 1));
        let other = w.commit(vec![tid(2)]);
        w.pass(50);
        let evil = if by_heartbeat { w.signed_beat(&[]) } else { other };
        assert_eq!(w.receive(&evil), Need::Tail { epoch: 1, from_seq: 1 });
        assert_eq!((w.fresh(), w.alarms()), (None, vec![Alarm::Fork { epoch: 1, seq: 1 }]));
    }
}

#[test]
fn a_batch_that_continues_another_history_is_a_fork() {
    let mut w = world();
    let _ = w.pull();
    let one = w.commit(vec![tid(1)]);
    let _ = w.receive(&one);
    w.hash = [9; 32];
    let two = w.commit(vec![tid(2)]);
    assert_eq!(w.receive(&two), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!(w.alarms(), [Alarm::Fork { epoch: 1, seq: 2 }]);
}

#[test]
fn a_new_epoch_continues_what_the_authority_still_has() {
    let mut w = world();
    let _ = w.pull();
    let one = w.commit(vec![tid(1)]);
    let kept = w.hash;
    let two = w.commit(vec![tid(2)]);
    let _ = (w.receive(&one), w.receive(&two));
    // The backup ended after the first.
    let _ = w.begin_epoch(2, 1, kept);
    w.batches.remove(1);
    let _ = w.commit(vec![tid(3)]);
    w.pass(50);
    let need = w.pull();
    assert!(matches!(need, Need::Tail { epoch: 1, .. }));
    assert_eq!(w.follow(need), Need::Nothing);
    assert_eq!(w.state.watermark().0, 2);
    assert_eq!(w.alarms(), [Alarm::Loss { epoch: 1, from_seq: 2 }]);
    assert!(w.fresh().is_some());
    assert_eq!(w.state.view().known().ids, 3);
    // A cold verifier walks from the start over the break.
    let mut cold = FeedState::new(Arc::new(View::new("payments".parse().unwrap(), fixture::key_list(1, &[]))));
    std::mem::swap(&mut cold, &mut w.state);
    let need = w.pull();
    assert_eq!(w.follow(need), Need::Nothing);
    assert_eq!((w.state.watermark().0, w.fresh().is_some(), w.state.view().known().ids), (2, true, 2));
}

#[test]
fn an_authority_that_goes_back_to_an_earlier_epoch_is_a_fork() {
    let mut w = world();
    let _ = w.pull();
    w.pass(50);
    let overtaken = w.signed_beat(&[]);
    let old = (w.epoch, w.seq, w.hash);
    w.pass(10);
    let start = w.begin_epoch(2, old.1, old.2);
    let _ = w.receive(&start);
    assert_eq!((w.state.watermark().0, w.receive(&overtaken), w.alarms()), (2, Need::Nothing, vec![]), "older than the epoch: no fork");
    (w.epoch, w.seq, w.hash) = old;
    w.pass(50);
    let back = w.signed_beat(&[]);
    assert_eq!(w.receive(&back), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!((w.fresh(), w.alarms()), (None, vec![Alarm::Fork { epoch: 1, seq: 0 }]));
}

#[test]
fn a_new_epoch_that_grew_from_another_history_is_a_fork() {
    let mut w = world();
    let _ = w.pull();
    let one = w.commit(vec![tid(1)]);
    let _ = w.receive(&one);
    let start = w.begin_epoch(2, 1, [9; 32]);
    assert_eq!(w.receive(&start), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!((w.fresh(), w.alarms()), (None, vec![Alarm::Fork { epoch: 1, seq: 1 }]));
}

#[test]
fn a_newer_key_list_makes_the_view_stale_until_it_is_here() {
    let mut w = world();
    let _ = w.pull();
    assert!(w.fresh().is_some());
    let list = fixture::key_list(2, &[]);
    (w.list_version, w.list_hash) = (2, *list.hash());
    w.pass(50);
    let beat = w.signed_beat(&[]);
    assert_eq!(w.receive(&beat), Need::KeyList);
    assert_eq!(w.fresh(), None);
    assert_eq!(w.state.accept_key_list(list, BootTime(w.now)), Ok(Need::Nothing));
    assert!(w.fresh().is_some(), "the heartbeat that waited counts now");
    assert!(w.state.accept_key_list(fixture::key_list(1, &[]), BootTime(w.now)).is_err());
}

fn announced(w: &World, version: u64, hash: [u8; 32], list: Vec<u8>) -> SignedMessage {
    let change = KeyListChange { tenant: fixture::tenant(), version, hash, list, issued: w.utc() };
    SignedMessage::sign(&Message::KeyListChange(change), &fixture::feed_key())
}

#[test]
fn a_pushed_key_list_is_handed_out_once_and_believed_for_nothing_but_its_anchors() {
    let mut w = world();
    let _ = w.pull();
    let (list, signed) = (fixture::key_list(2, &[]), fixture::signed_key_list(2, &[]));
    let push = announced(&w, 2, *list.hash(), signed.to_bytes());
    assert_eq!(w.receive(&push), Need::Nothing);
    assert_eq!((w.state.take_announced(), w.state.take_announced()), (Some(signed.to_bytes()), None));
    // A feed key alone changes nothing: neither the list nor the freshness (F8).
    assert_eq!((w.state.view().key_list().payload().version, w.fresh().is_some()), (1, true));
    let junk = announced(&w, 9, [1; 32], vec![0xff; 100]);
    assert_eq!((w.receive(&junk), w.state.view().is_stuck(), w.fresh().is_some()), (Need::Nothing, false, true));
    let junk = w.state.take_announced().unwrap();
    assert!(crate::key_list::UnverifiedKeyList::from_bytes(&junk).map_err(KeyListError::Malformed).is_err());

    // Once it is here, the same and older ones are dropped before their signature is looked at.
    let _ = w.state.accept_key_list(list, BootTime(w.now));
    let before = w.state.counters().duplicates;
    assert_eq!(w.receive(&push), Need::Nothing);
    let old = announced(&w, 1, *fixture::key_list(1, &[]).hash(), fixture::signed_key_list(1, &[]).to_bytes());
    assert_eq!((w.receive(&old), w.state.take_announced(), w.state.counters().duplicates), (Need::Nothing, None, before + 2));
    // Another list under the version held is worth a look: the anchors may have signed two.
    let other = announced(&w, 2, [7; 32], vec![1]);
    let _ = w.receive(&other);
    assert!(w.state.take_announced().is_some());
}

#[test]
fn a_pushed_key_list_spares_the_stale_moment_that_a_heartbeat_would_bring() {
    let mut w = world();
    let _ = w.pull();
    let list = fixture::key_list(2, &[]);
    (w.list_version, w.list_hash) = (2, *list.hash());
    let push = announced(&w, 2, *list.hash(), fixture::signed_key_list(2, &[]).to_bytes());
    let _ = w.receive(&push);
    let pushed = crate::key_list::UnverifiedKeyList::from_bytes(&w.state.take_announced().unwrap()).unwrap();
    let pushed = fixture::anchors().accept(&pushed, &fixture::tenant()).unwrap();
    assert_eq!(w.state.accept_key_list(pushed, BootTime(w.now)), Ok(Need::Nothing));
    w.pass(50);
    let (before, beat) = (w.fresh(), w.signed_beat(&[]));
    assert_eq!(w.receive(&beat), Need::Nothing);
    assert!(w.fresh() > before);
}

#[test]
fn the_death_of_a_feed_key_ends_the_freshness_it_vouched_for() {
    let mut w = world();
    let _ = w.pull();
    let dead = fixture::key_list(2, &[Key::of(&fixture::feed_key())]);
    assert_eq!(w.state.accept_key_list(dead, BootTime(w.now)), Ok(Need::Pull));
    assert_eq!(w.fresh(), None);
    let beat = w.signed_beat(&[]);
    let (now, wall) = (BootTime(w.now), w.utc());
    assert!(matches!(w.state.receive(&beat.to_bytes(), now, wall), Err(FeedError::UnknownKey { .. })));
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

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<u8>),
    Beat,
    NewEpoch,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..3).prop_map(Step::Commit),
        3 => Just(Step::Beat),
        1 => Just(Step::NewEpoch),
        2 => (1_u64..40).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..25)
}

fn item(n: u8) -> Item {
    match n % 6 {
        0 => Item::Floor { scope: FloorScope::Agent(AgentId::from_bytes([n % 3; 16])), generation: u64::from(n / 4) },
        1 => Item::Floor { scope: FloorScope::Human(HumanId::from_bytes([n % 5; 16])), generation: u64::from(n / 4) },
        2 => Item::HolderKey { key: Key::from_bytes([n / 16; 32]) },
        3 => Item::RootKey { key: Key::from_bytes([n / 32; 32]) },
        // Few ids, so that versions meet; few versions, so that two of one meet; every third lifts.
        4 => Item::Freeze(Freeze {
            id: FreezeId::from_bytes([n / 128; 16]),
            scope: if n & 64 == 0 { FloorScope::Human(HumanId::from_bytes([n % 5; 16])) } else { FloorScope::Tenant },
            from: UtcMillis(u64::from(n % 7)),
            until: UtcMillis(if n.is_multiple_of(3) { 0 } else { u64::from(n) + 10 }),
            version: u64::from(n / 8 % 4),
        }),
        _ => tid(u64::from(n / 8)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Any permutation, repetition and loss, then the tail: the same view as in order. And on the way, never fresh with a hole.
    #[test]
    fn order_repetition_and_loss_cost_freshness_and_nothing_else(steps in steps(), picks in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..30), 0..60)) {
        let mut w = world();
        let _ = w.pull();
        // All that travels, with the moment it was made.
        let mut made: Vec<SignedMessage> = vec![];
        for step in steps {
            match step {
                Step::Commit(items) => made.push(w.commit(items.into_iter().map(item).collect())),
                Step::Beat => made.push(w.signed_beat(&[])),
                Step::NewEpoch => {
                    let (epoch, seq, hash) = (w.epoch + 1, w.seq, w.hash);
                    made.push(w.begin_epoch(epoch, seq, hash));
                }
                Step::Pass(ms) => { w.pass(ms); }
            }
            w.pass(1);
        }
        let mut here: Vec<Vec<u8>> = vec![];
        for (pick, delay) in picks {
            if made.is_empty() { break }
            w.pass(delay);
            let message = pick.get(&made).clone();
            let _ = w.receive(&message);
            here.push(message.to_bytes());
            if let Some(fresh) = w.fresh() {
                for (committed, message) in &w.batches {
                    prop_assert!(*committed > fresh.0 || here.contains(&message.to_bytes()), "fresh as of {fresh:?} with a hole at {committed}");
                }
            }
        }
        let need = w.pull();
        prop_assert_eq!(w.follow(need), Need::Nothing);
        prop_assert_eq!(w.state.watermark(), (w.epoch, w.seq, w.hash));
        prop_assert!(w.fresh().is_some());
        prop_assert_eq!(w.state.counters().forks, 0);

        let ordered = View::new("payments".parse().unwrap(), fixture::key_list(1, &[]));
        for (_, message) in &w.batches {
            if let Ok(Message::Batch(b)) = Message::from_bytes(message.unverified_payload()) {
                ordered.apply(b.seq, &b.items);
            }
        }
        prop_assert!(w.state.view().knows_the_same_as(&ordered));
    }
}
