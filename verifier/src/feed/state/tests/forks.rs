//! Two histories, and new epochs (F6, F7).

use super::*;

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
