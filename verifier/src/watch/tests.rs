//! Watches on a real view by the machine's clock: what ends them, when, and what does not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::claims::Block0;
use crate::decision::Freshness;
use crate::feed::message::{FloorScope, Freeze, Item};
use crate::ids::{FreezeId, Key, SystemClock, UtcMillis};
use crate::key_list::{Anchors, KeyListPayload, UnverifiedKeyList};
use crate::receipt::Relied;
use crate::revocation::{RevokedBy, RevokedWhat};
use crate::token::tests::{key, key_list};
use crate::token::{UnverifiedToken, mint};

const NOW: UtcMillis = UtcMillis(1_800_000_000_000);
/// What a busy machine may add.
const LATE: Duration = Duration::from_millis(60);

struct World {
    view: Arc<View>,
    watches: Watches,
    pulls: Arc<AtomicUsize>,
}

/// Fresh as of now; a pull is answered with the freshness of its moment, or not at all.
fn world(answered: bool) -> World {
    let view = Arc::new(View::new("payments".parse().unwrap(), key_list()));
    let now = SystemClock.boot();
    assert!(view.observe_utc(NOW, now));
    publish(&view);
    let (pulls, pulled) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&view));
    let count = Arc::clone(&pulls);
    let pull = move || {
        count.fetch_add(1, Ordering::SeqCst);
        if answered {
            publish(&pulled);
        }
    };
    let watches = Watches::start(Arc::clone(&view), Arc::new(SystemClock), pull, 4);
    World { view, watches, pulls }
}

fn block0() -> Block0 {
    Block0 { not_before_secs: NOW.secs() - 10, expires_secs: NOW.secs() + 3_600, ..crate::token::tests::block0() }
}

fn publish(view: &View) {
    view.publish(SystemClock.boot(), Relied { epoch: 1, seq: 0, hash: [0; 32], utc: NOW });
}

fn token(block: &Block0) -> Arc<VerifiedToken> {
    Arc::new(UnverifiedToken::parse(&mint(block, &key(1), [7; 32]).unwrap()).unwrap().verify(&key_list()).unwrap())
}

impl World {
    fn watch(&self, block: &Block0, freshness: Freshness) -> Watch {
        let policy = ToolPolicy { freshness, ..ToolPolicy::STRICT };
        let allow = standing(&token(block), &policy, &self.view, &SystemClock).unwrap();
        self.watches.watch(token(block), policy, allow.valid_until).unwrap()
    }

    /// With a view that is kept fresh by pulls.
    fn strict(&self) -> Watch {
        self.watch(&block0(), Freshness::Strict)
    }
}

async fn told(watch: Watch) -> (Cause, Duration) {
    let began = SystemClock.boot();
    let cause = tokio::time::timeout(Duration::from_secs(5), watch).await.expect("the watch ends");
    (cause, Duration::from_micros(SystemClock.boot().micros_since(began)))
}

#[tokio::test]
async fn whatever_takes_a_token_back_ends_its_watch_at_once_and_leaves_the_others() {
    let block = block0();
    let revoked = |what| Cause::Revoked(RevokedBy { what, seq: 3 });
    let id = FreezeId::from_bytes([9; 16]);
    let freeze = |from, until| Item::Freeze(Freeze { id, scope: FloorScope::Agent(block.agent), from, until, version: 1 });
    for (item, cause) in [
        (Item::Tid { tid: block.tid, exp_secs: block.expires_secs }, revoked(RevokedWhat::Tid)),
        (Item::RootKey { key: Key::of(&key(1)) }, revoked(RevokedWhat::RootKey)),
        (Item::Floor { scope: FloorScope::Tenant, generation: 1 }, revoked(RevokedWhat::TenantFloor)),
        (freeze(UtcMillis(0), UtcMillis(u64::MAX)), Cause::Frozen { id }),
    ] {
        let w = world(true);
        let mut spared = Block0 { tid: crate::ids::Tid::from_bytes([0x55; 16]), agent: crate::ids::AgentId::from_bytes([0x56; 16]), ..block0() };
        spared.ancestors.clear();
        let (watch, other) = (w.strict(), w.watch(&spared, Freshness::Strict));
        let is_own = matches!(item, Item::Tid { .. } | Item::Freeze(_));
        w.view.apply(3, &[(0, item)]);
        let (said, after) = told(watch).await;
        assert_eq!(said, cause);
        assert!(after < LATE, "{cause}: after {after:?}");
        if is_own {
            let lives = tokio::time::timeout(Duration::from_millis(300), other).await;
            assert!(lives.is_err(), "another token's watch ended: {lives:?}");
        }
    }
}

#[tokio::test]
async fn a_freeze_that_begins_later_ends_a_watch_when_it_begins() {
    let w = world(true);
    let watch = w.strict();
    let (id, begins) = (FreezeId::from_bytes([9; 16]), w.view.utc_now().plus(250));
    w.view.apply(3, &[(0, Item::Freeze(Freeze { id, scope: FloorScope::Global, from: begins, until: UtcMillis(u64::MAX), version: 1 }))]);
    let (said, after) = told(watch).await;
    assert_eq!(said, Cause::Frozen { id });
    assert!(w.view.utc_now() >= begins && after < Duration::from_millis(250) + LATE, "{after:?}");
}

#[tokio::test]
async fn a_key_list_that_kills_the_root_key_and_the_end_of_its_life_end_a_watch() {
    let w = world(true);
    let watch = w.strict();
    let payload = KeyListPayload { version: 2, dead: vec![Key::of(&key(1))], ..key_list().payload().clone() };
    let list = Anchors::new(vec![Key::of(&key(9))], 1).unwrap().accept(&UnverifiedKeyList::sign(&payload, &[&key(9)]), &payload.tenant).unwrap();
    w.view.replace_key_list(list).unwrap();
    assert_eq!(told(watch).await.0, Cause::Signature);

    let w = world(true);
    let (said, after) = told(w.watch(&Block0 { expires_secs: NOW.secs() + 1, ..block0() }, Freshness::Strict)).await;
    assert_eq!(said, Cause::Expired);
    assert!(after < Duration::from_secs(1) + LATE, "{after:?}");
}

#[tokio::test]
async fn silence_ends_a_watch_within_the_bound_and_after_one_pull() {
    let w = world(false);
    let (said, after) = told(w.strict()).await;
    assert_eq!(said, Cause::Stale);
    assert!(after > Duration::from_millis(100) && after < Duration::from_millis(150) + LATE, "{after:?}");
    assert_eq!(w.pulls.load(Ordering::SeqCst), 1);
    // Its twins: a pull that is answered; a bound that both name; best effort.
    let w = world(true);
    assert!(tokio::time::timeout(Duration::from_millis(600), w.strict()).await.is_err());
    let w = world(false);
    let long = Block0 { freshness_ms: 400, ..block0() };
    let (said, after) = told(w.watch(&long, Freshness::Bounded { ms: 1_000 })).await;
    assert_eq!(said, Cause::Stale);
    assert!(after > Duration::from_millis(350) && after < Duration::from_millis(400) + LATE, "{after:?}");
    let forgiving = Block0 { freshness_ms: Block0::BEST_EFFORT_MS, ..block0() };
    let w = world(false);
    assert!(tokio::time::timeout(Duration::from_millis(400), w.watch(&forgiving, Freshness::BestEffort)).await.is_err());
}

#[tokio::test]
async fn a_fence_ends_a_watch_unless_the_one_pull_mends_it() {
    let w = world(true);
    let watch = w.strict();
    w.view.fence();
    assert!(tokio::time::timeout(Duration::from_millis(400), watch).await.is_err(), "the pull mended it");
    assert!(w.pulls.load(Ordering::SeqCst) >= 1);

    // A long bound gives nobody more than one pull's time once the view is fenced.
    let w = world(false);
    let watch = w.watch(&Block0 { freshness_ms: 60_000, ..block0() }, Freshness::Bounded { ms: 60_000 });
    w.view.fence();
    let (said, after) = told(watch).await;
    assert_eq!(said, Cause::Stale);
    assert!(after < Duration::from_millis(150) + LATE, "{after:?}");
}

#[tokio::test]
async fn watches_are_bounded_a_dropped_one_gives_its_place_back_and_none_outlives_its_keeper() {
    let w = world(true);
    let mut all: Vec<_> = (0..4).map(|_| w.strict()).collect();
    let until = SystemClock.boot().plus_micros(100_000);
    assert_eq!(w.watches.watch(token(&block0()), ToolPolicy::STRICT, until).unwrap_err(), TooManyWatches { most: 4 });
    all.pop();
    let last = w.watches.watch(token(&block0()), ToolPolicy::STRICT, until).unwrap();
    drop(w.watches);
    assert_eq!(told(last).await.0, Cause::Unavailable);
}

impl View {
    fn utc_now(&self) -> UtcMillis {
        use crate::revocation::RevocationView as _;
        self.utc(SystemClock.boot()).unwrap()
    }
}
