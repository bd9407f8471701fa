//! Newer key lists, fetched and pushed (F8).

use super::*;
use crate::key_list::KeyListError;

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
