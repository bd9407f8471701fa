use super::*;
use crate::feed::fixture;
use crate::feed::message::{Batch, FloorScope, Heartbeat, genesis_hash};
use crate::feed::state::{FeedState, Need};
use crate::ids::{AgentId, BlockId, HumanId, Lid, Tid};
use crate::revocation::RevocationView;
use proptest::prelude::*;
use rand::SeedableRng as _;
use std::sync::Arc;

const NOW: BootTime = BootTime(1_000_000_000);

fn view() -> Arc<View> {
    Arc::new(View::new("payments".parse().unwrap(), fixture::key_list(1, &[])))
}

/// A chain of batches, one item list each.
fn chain(all: &[Vec<Item>]) -> Vec<SignedMessage> {
    let mut prev = genesis_hash(&fixture::tenant(), 1);
    let sign = |(seq, items): (u64, &Vec<Item>)| {
        let items = items.iter().map(|i| (seq, i.clone())).collect();
        let batch = Batch { tenant: fixture::tenant(), epoch: 1, seq, prev, issued: fixture::UTC, items };
        let signed = SignedMessage::sign(&Message::Batch(batch), &fixture::feed_key());
        prev = signed.hash();
        signed
    };
    (1..).zip(all).map(sign).collect()
}

/// What an authority would cut from these items: each kind and hour in segments of `at_once` entries.
fn cut(items: &[Item], seq: u64, hash: [u8; 32], at_once: usize) -> (Manifest, Vec<Vec<u8>>) {
    let mut parts: BTreeMap<(SegmentKind, u64), std::collections::BTreeSet<Vec<u8>>> = BTreeMap::new();
    for item in items {
        let (kind, exp_secs, bytes) = match item {
            Item::Tid { tid, exp_secs } => (SegmentKind::Ids(IdKind::Tid), *exp_secs, tid.as_bytes().to_vec()),
            Item::Lid { lid, exp_secs } => (SegmentKind::Ids(IdKind::Lid), *exp_secs, lid.as_bytes().to_vec()),
            Item::Block { block, exp_secs } => (SegmentKind::Ids(IdKind::Block), *exp_secs, block.as_bytes().to_vec()),
            lasting => (SegmentKind::Lasting, 0, lasting.to_bytes()),
        };
        parts.entry((kind, exp_secs / 3600)).or_default().insert(bytes);
    }
    let (mut segments, mut bodies) = (Vec::new(), Vec::new());
    for ((kind, bucket), entries) in parts {
        for chunk in entries.into_iter().collect::<Vec<_>>().chunks(at_once) {
            let bytes = chunk.concat();
            segments.push(SegmentEntry::of(kind, bucket, chunk.len() as u64, &bytes));
            bodies.push(bytes);
        }
    }
    segments.sort_unstable();
    (Manifest { tenant: fixture::tenant(), epoch: 1, seq, hash, issued: fixture::UTC, segments }, bodies)
}

fn signed(manifest: Manifest) -> SignedMessage {
    SignedMessage::sign(&Message::Manifest(manifest), &fixture::feed_key())
}

fn verified(manifest: Manifest) -> Result<Snapshot, FeedError> {
    // As it travels: what cannot be read again is no manifest.
    let bytes = signed(manifest).to_bytes();
    Snapshot::verify(&SignedMessage::from_bytes(&bytes)?, &fixture::key_list(1, &[]))
}

fn load(view: &View, manifest: Manifest, bodies: &[Vec<u8>]) -> Loaded {
    let mut loading = Loading::new(verified(manifest).unwrap(), view, NOW);
    let bodies: std::collections::BTreeSet<_> = bodies.iter().collect();
    bodies.into_iter().for_each(|b| loading.segment(b).unwrap());
    loading.finish().unwrap()
}

fn beat(state: &mut FeedState, seq: u64, hash: [u8; 32]) -> Need {
    let nonce = state.ask(NOW, &mut rand::rngs::StdRng::seed_from_u64(1));
    let beat = Heartbeat { head_seq: seq, head_hash: hash, t_us: NOW.0, nonces: vec![nonce.to_vec()], ..fixture::heartbeat(fixture::UTC) };
    let signed = SignedMessage::sign(&Message::Heartbeat(beat), &fixture::feed_key());
    state.receive(&signed.to_bytes(), NOW, fixture::UTC).unwrap()
}

fn item() -> impl Strategy<Value = Item> {
    let exp = prop_oneof![Just(fixture::UTC.secs() + 100), Just(fixture::UTC.secs() + 9000), Just(u64::MAX)];
    let id = (0..40_u8).prop_map(|n| [n; 16]);
    prop_oneof![
        (id.clone(), exp.clone()).prop_map(|(id, exp_secs)| Item::Tid { tid: Tid::from_bytes(id), exp_secs }),
        (id.clone(), exp.clone()).prop_map(|(id, exp_secs)| Item::Lid { lid: Lid::from_bytes(id), exp_secs }),
        (id.clone(), exp).prop_map(|(id, exp_secs)| Item::Block { block: BlockId::from_bytes(id), exp_secs }),
        (0..9_u8).prop_map(|n| Item::HolderKey { key: Key::from_bytes([n; 32]) }),
        (id.clone(), 0..4_u64).prop_map(|(id, generation)| Item::Floor { scope: FloorScope::Human(HumanId::from_bytes(id)), generation }),
        (id, 0..4_u64).prop_map(|(id, generation)| Item::Floor { scope: FloorScope::Agent(AgentId::from_bytes(id)), generation }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A snapshot at any point and the tail from there, whatever came before, merged or not: all of the feed.
    #[test]
    fn a_snapshot_and_the_tail_are_all_messages(
        all in prop::collection::vec(prop::collection::vec(item(), 1..12), 1..12),
        at in any::<prop::sample::Index>(), before in any::<prop::sample::Index>(), at_once in 1..30_usize, merge in any::<bool>(),
    ) {
        let messages = chain(&all);
        let (at, before) = (1 + at.index(all.len()), before.index(all.len() + 1));
        let hash_at = |n: usize| if n == 0 { genesis_hash(&fixture::tenant(), 1) } else { messages[n - 1].hash() };
        let (view, plain) = (view(), view());
        let mut state = FeedState::new(Arc::clone(&view));
        for message in &messages[..before] {
            prop_assert_eq!(state.receive(&message.to_bytes(), NOW, fixture::UTC), Ok(Need::Nothing));
        }
        if merge {
            view.merge(NOW);
        }
        let (manifest, bodies) = cut(&all[..at].concat(), at as u64, hash_at(at), at_once);
        let loaded = load(&view, manifest, &bodies);
        prop_assert_eq!(state.reach(&loaded, NOW), Need::Nothing);
        prop_assert_eq!(state.watermark(), (1, at.max(before) as u64, hash_at(at.max(before))));
        for message in &messages[at.max(before)..] {
            prop_assert_eq!(state.receive(&message.to_bytes(), NOW, fixture::UTC), Ok(Need::Nothing));
        }
        prop_assert_eq!(beat(&mut state, all.len() as u64, hash_at(all.len())), Need::Nothing);
        prop_assert!(RevocationView::fresh_as_of(&*view).is_some());
        plain.apply(1, &all.concat().into_iter().map(|i| (0, i)).collect::<Vec<_>>());
        prop_assert!(view.takes_back_the_same_as(&plain));
        view.merge(NOW);
        prop_assert!(view.takes_back_the_same_as(&plain));
    }
}

fn some_items() -> Vec<Item> {
    (1..30_u8)
        .map(|n| Item::Tid { tid: Tid::from_bytes([n; 16]), exp_secs: fixture::UTC.secs() + 60 * u64::from(n) })
        .chain([Item::HolderKey { key: Key::from_bytes([9; 32]) }, Item::Floor { scope: FloorScope::Global, generation: 2 }])
        .collect()
}

#[test]
fn each_flipped_bit_of_a_manifest_or_a_segment_is_refused() {
    let (manifest, bodies) = cut(&some_items(), 1, [1; 32], 8);
    let good = signed(manifest.clone()).to_bytes();
    let keys = fixture::key_list(1, &[]);
    let read = |bytes: &[u8]| Snapshot::verify(&SignedMessage::from_bytes(bytes)?, &keys);
    assert!(read(&good).is_ok());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {bit}");
    }
    let view = view();
    let mut loading = Loading::new(verified(manifest).unwrap(), &view, NOW);
    for body in &bodies {
        for bit in 0..body.len() * 8 {
            let mut bad = body.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(loading.segment(&bad), Err(SegmentError::Differs { .. })), "bit {bit}");
        }
        assert_eq!(loading.segment(&body[1..]), Err(SegmentError::Differs { bytes: body.len() - 1 }));
        assert_eq!(view.known(), crate::revocation::Known::default(), "what is refused changes nothing");
    }
    for body in &bodies {
        loading.segment(body).unwrap();
        assert_eq!(loading.segment(body), Err(SegmentError::Differs { bytes: body.len() }), "a second time");
    }
    assert!(loading.finish().is_ok());
    assert_eq!((view.known().ids, view.known().holder_keys, view.known().floors), (29, 1, 1));
}

#[test]
fn a_snapshot_that_lacks_a_segment_moves_no_watermark() {
    let (manifest, bodies) = cut(&some_items(), 1, [1; 32], 8);
    let view = view();
    let mut loading = Loading::new(verified(manifest).unwrap(), &view, NOW);
    bodies.iter().skip(1).for_each(|b| loading.segment(b).unwrap());
    assert_eq!(loading.finish().unwrap_err(), SegmentError::Missing(1));
}

#[test]
fn segments_out_of_order_repeated_or_of_another_kind_are_refused_though_signed() {
    let ids = |list: &[u8]| list.iter().flat_map(|n| [*n; 16]).collect::<Vec<_>>();
    let item = |item: &Item| item.to_bytes();
    let floor = |generation| item(&Item::Floor { scope: FloorScope::Global, generation });
    let tids = SegmentKind::Ids(IdKind::Tid);
    let open = |kind, count, bytes: &[u8]| SegmentEntry::of(kind, 0, count, bytes).open(bytes);
    assert!(open(tids, 2, &ids(&[1, 2])).is_ok());
    assert!(open(SegmentKind::Lasting, 2, &[floor(1), floor(2)].concat()).is_ok());
    let refused = [
        open(tids, 2, &ids(&[2, 1])),
        open(tids, 2, &ids(&[1, 1])),
        open(tids, 3, &ids(&[1, 2])),
        open(tids, 1, &[1; 17]),
        open(SegmentKind::Lasting, 2, &[floor(2), floor(1)].concat()),
        open(SegmentKind::Lasting, 2, &[floor(1), floor(1)].concat()),
        open(SegmentKind::Lasting, 1, &item(&Item::Tid { tid: Tid::from_bytes([1; 16]), exp_secs: 1 })),
        open(SegmentKind::Lasting, 1, &[floor(1), vec![0]].concat()),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        assert!(matches!(refused, Err(SegmentError::Malformed(_))), "{n}: {refused:?}");
    }
    let long = vec![0; MAX_SEGMENT_BYTES + 16];
    assert!(matches!(open(tids, 65_537, &long), Err(SegmentError::Differs { .. })));
}

#[test]
fn a_manifest_whose_list_is_not_the_one_form_of_it_is_unreadable() {
    let (manifest, _) = cut(&some_items(), 1, [1; 32], 8);
    assert!(verified(manifest.clone()).is_ok());
    type Change = fn(&mut Manifest);
    let changes: [Change; 7] = [
        |m| m.segments.swap(0, 1),
        |m| m.segments.insert(0, m.segments[0]),
        |m| m.segments[0].bucket = 1,
        |m| m.segments[1].count += 1,
        |m| m.segments[1].count = 0,
        |m| (m.segments[1].bytes, m.segments[1].count) = (MAX_SEGMENT_BYTES as u64 + 16, 65_537),
        |m| {
            let of = |n: u64| SegmentEntry { bucket: n, ..SegmentEntry::of(SegmentKind::Ids(IdKind::Tid), 0, 1, &[1; 16]) };
            m.segments = (0..=MAX_SEGMENTS as u64).map(of).collect();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut changed = manifest.clone();
        change(&mut changed);
        assert!(verified(changed).is_err(), "{n}");
    }
    // The longest list fits a message.
    let of = |n: u64| SegmentEntry { bucket: u64::MAX - n, ..SegmentEntry::of(SegmentKind::Ids(IdKind::Tid), 0, 65_536, &[1; MAX_SEGMENT_BYTES]) };
    let longest = Manifest { segments: (0..MAX_SEGMENTS as u64).rev().map(of).collect(), seq: u64::MAX, ..manifest.clone() };
    assert!(verified(longest).is_ok());
    // Nobody but a feed key of the list vouches for one, and no other message passes for one.
    let keys = fixture::key_list(1, &[]);
    let stranger = SignedMessage::sign(&Message::Manifest(manifest), &ed25519_dalek::SigningKey::from_bytes(&[99; 32]));
    assert!(matches!(Snapshot::verify(&stranger, &keys), Err(FeedError::UnknownKey { .. })));
    let batch = chain(&[some_items()]).remove(0);
    assert!(matches!(Snapshot::verify(&batch, &keys), Err(FeedError::Malformed(_))));
}

#[test]
fn a_snapshot_of_another_history_is_a_fork_and_takes_nothing_away() {
    let messages = chain(&[vec![some_items()[0].clone()], vec![some_items()[1].clone()]]);
    let view = view();
    let mut state = FeedState::new(Arc::clone(&view));
    for message in &messages {
        let _ = state.receive(&message.to_bytes(), NOW, fixture::UTC).unwrap();
    }
    let (same, bodies) = cut(&[], 1, messages[0].hash(), 8);
    assert_eq!(state.reach(&load(&view, same.clone(), &bodies), NOW), Need::Nothing);
    assert_eq!((state.watermark().1, state.counters().forks), (2, 0));
    let other = Manifest { hash: [7; 32], ..same };
    assert_eq!(state.reach(&load(&view, other, &bodies), NOW), Need::Tail { epoch: 1, from_seq: 1 });
    assert_eq!((state.counters().forks, view.known().ids), (1, 2));

    // Ahead of all that is known it is believed until the next message says otherwise.
    let (ahead, bodies) = cut(&[], 1, [7; 32], 8);
    assert_eq!(state.reach(&load(&view, ahead, &bodies), NOW), Need::Nothing);
    let _ = state.receive(&messages[1].to_bytes(), NOW, fixture::UTC).unwrap();
    assert_eq!((state.counters().forks, RevocationView::fresh_as_of(&*view), view.known().ids), (2, None, 2));
}

#[test]
fn when_the_key_that_signed_the_snapshot_dies_all_is_read_again() {
    let view = view();
    let mut state = FeedState::new(Arc::clone(&view));
    let (manifest, bodies) = cut(&some_items(), 5, [5; 32], 8);
    let _ = state.reach(&load(&view, manifest, &bodies), NOW);
    assert_eq!(state.watermark(), (1, 5, [5; 32]));
    let _ = state.accept_key_list(fixture::key_list(2, &[Key::of(&fixture::second_feed_key())]), NOW).unwrap();
    assert_eq!(state.watermark().1, 5, "another key's death changes nothing");
    let mut dead = [Key::of(&fixture::feed_key()), Key::of(&fixture::second_feed_key())];
    dead.sort_unstable();
    assert_eq!(state.accept_key_list(fixture::key_list(3, &dead), NOW), Ok(Need::Tail { epoch: 1, from_seq: 1 }));
    assert_eq!((state.watermark().1, view.known().ids), (0, 29), "what was applied stays");
}

#[test]
fn ids_of_a_snapshot_go_with_their_hour() {
    let view = view();
    assert!(view.observe_utc(fixture::UTC, NOW));
    let (manifest, bodies) = cut(&some_items(), 1, [1; 32], 8);
    let _ = load(&view, manifest, &bodies);
    view.merge(NOW);
    assert_eq!(view.known().ids, 29);
    let hour_and_a_minute = NOW.plus_micros(3_661_000_000);
    assert!(view.wants_merge(hour_and_a_minute));
    view.merge(hour_and_a_minute);
    assert_eq!((view.known().ids, view.known().holder_keys), (0, 1));
    assert!(!view.wants_merge(hour_and_a_minute));
}
