//! Law 7 under every interleaving: `RUSTFLAGS="--cfg loom" cargo test -p procura-verifier --lib loom`.
//!
//! The two inverted tests show that the first can fail: swap the reads, or the writes, and loom finds the late allow. loom
//! orders its search by the *last* access to each atomic alone: a second access in `publish` once hid every interesting run.

use super::*;
use crate::feed::fixture;
use crate::ids::HumanId;
use loom::thread;

const TID: Tid = Tid::from_bytes([1; 16]);
const COMMITTED: BootTime = BootTime(10);
const RELIED: Relied = Relied { epoch: 1, seq: 1, hash: [0; 32], utc: UtcMillis(1) };

fn revoke(view: &View) {
    view.apply(1, &[(0, Item::Tid { tid: TID, exp_secs: 1 })]);
}

fn look_up(view: &View) -> Lookup {
    view.lookup(&Lineage {
        tids: &[TID],
        lids: &[],
        blocks: &[],
        holders: &[],
        root: &Key::from_bytes([1; 32]),
        human: HumanRef::Id(HumanId::from_bytes([1; 16])),
        agents: &[(AgentId::from_bytes([1; 16]), 0)],
        delegation: DelegationId::from_bytes([1; 16]),
        generations: Generations::default(),
    })
}

/// The feed's thread runs `write` beside a decision that runs `read`; a revocation committed at [`COMMITTED`] must never be
/// missing from a lookup that is vouched for up to then.
fn holds(write: fn(&View), read: fn(&View) -> (Option<BootTime>, Lookup)) {
    let list = fixture::key_list(1, &[]);
    // Of no interest to loom: tells that the runs that matter were among those tried.
    let vouched_for = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&vouched_for);
    loom::model(move || {
        let view = Arc::new(View::new("payments".parse().unwrap(), list.clone()));
        let feed = thread::spawn({
            let view = Arc::clone(&view);
            move || write(&view)
        });
        let (fresh_as_of, lookup) = read(&view);
        let vouched = fresh_as_of.is_some_and(|f| f >= COMMITTED);
        assert!(!(vouched && lookup == Lookup::Live), "an allow rests on a freshness whose items it did not see");
        feed.join().unwrap();
        vouched_for.fetch_add(usize::from(vouched), std::sync::atomic::Ordering::SeqCst);
    });
    assert!(seen.load(std::sync::atomic::Ordering::SeqCst) > 0, "no run in which the freshness vouched");
}

fn apply_then_publish(view: &View) {
    view.publish(BootTime(5), RELIED);
    revoke(view);
    view.publish(COMMITTED, RELIED);
}

fn freshness_then_lookup(view: &View) -> (Option<BootTime>, Lookup) {
    let fresh_as_of = view.fresh_as_of();
    (fresh_as_of, look_up(view))
}

#[test]
fn loom_freshness_never_vouches_for_items_not_seen() {
    holds(apply_then_publish, freshness_then_lookup);
}

#[test]
#[should_panic(expected = "did not see")]
fn loom_finds_the_late_allow_when_lookup_comes_before_freshness() {
    holds(apply_then_publish, |view| {
        let lookup = look_up(view);
        (view.fresh_as_of(), lookup)
    });
}

#[test]
#[should_panic(expected = "did not see")]
fn loom_finds_the_late_allow_when_freshness_is_published_before_its_items() {
    holds(
        |view| {
            view.publish(COMMITTED, RELIED);
            revoke(view);
        },
        freshness_then_lookup,
    );
}
