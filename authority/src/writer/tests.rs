use std::sync::atomic::{AtomicU64, Ordering};

use procura_verifier::feed::message::{FloorScope, Item, SignedMessage};
use procura_verifier::ids::{ClockId, Key, UtcMillis};
use procura_verifier::key_list::{Anchors, UnverifiedKeyList};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::feed::bus::Heard;
use crate::signer::file::{AnchorFile, FileSigner};
use crate::store::contract::tenant;
use crate::store::memory::{Failure, Memory};
use crate::store::{Require, StoreError};
use procura_verifier::key_list::KeyList;

struct Ticking(AtomicU64);

/// Every reading is later than the one before.
impl Clock for Ticking {
    fn boot(&self) -> BootTime {
        BootTime(self.0.fetch_add(1, Ordering::SeqCst))
    }
    fn wall(&self) -> UtcMillis {
        UtcMillis(1_900_000_000_000)
    }
}

struct World {
    store: Arc<Memory>,
    writer: Writer,
    feed: Feed,
    keys: KeyList,
    in_force: Arc<Keys>,
    list: UnverifiedKeyList,
    clock: Arc<Ticking>,
    folder: tempfile::TempDir,
}

async fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let signer = Arc::new(FileSigner::open(folder.path(), &mut rng).unwrap());
    let anchor = AnchorFile::open(folder.path(), &mut rng).unwrap();
    let list = anchor.first_list(&signer, &tenant(), UtcMillis(1_900_000_000_000), 3600);
    let anchors = Anchors::new(vec![anchor.public()], 1).unwrap();
    let keys = anchors.accept(&list, &tenant()).unwrap();
    let in_force = Arc::new(Keys::new(anchors, tenant(), list.clone()).unwrap());
    signer.follow(in_force.clone());
    let store = Arc::new(Memory::new(tenant()));
    let clock = Arc::new(Ticking(AtomicU64::new(1000)));
    let head = store.head().await.unwrap();
    let (shared, signer): (Arc<dyn Store>, Arc<dyn Signer>) = (store.clone(), signer);
    let pulse = Arc::new(Pulse::new(tenant(), clock.clone(), signer.clone(), ClockId::from_bytes([5; 16]), head.feed, head.tree, (1, [0; 32])));
    let feed = Feed::start(shared.clone(), signer.clone(), pulse.clone());
    let released = Released::open(&folder.path().join("released-checkpoint")).unwrap();
    let parts = Parts {
        store: shared,
        signer,
        keys: in_force.clone(),
        clock: clock.clone(),
        rng: Box::new(rng),
        origin: "127.0.0.1/acme".parse().unwrap(),
        released,
        pulse,
        feed: feed.clone(),
        metrics: Arc::default(),
    };
    World { store, writer: Writer::start(parts).await.unwrap(), feed, keys, in_force, list, clock, folder }
}

fn leaf(n: u32) -> Change {
    Change { leaves: vec![n.to_be_bytes().to_vec()], ..Change::default() }
}

fn kill(key: u8) -> Change {
    Change { items: vec![Item::HolderKey { key: Key::from_bytes([key; 32]) }], leaves: vec![vec![key; 40]], ..Change::default() }
}

impl World {
    fn submit(&self, change: Change) -> tokio::task::JoinHandle<Result<Written, WriteError>> {
        let writer = self.writer.clone();
        tokio::spawn(async move { writer.submit(change).await })
    }

    /// Until the writer has begun this many commits and everybody else has had a turn.
    async fn begun(&self, commits: usize) {
        while self.store.commits() < commits {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    async fn beat(&self) -> procura_verifier::feed::message::Heartbeat {
        self.read(&self.feed.beat().await.unwrap())
    }

    fn read(&self, signed: &SignedMessage) -> procura_verifier::feed::message::Heartbeat {
        match signed.verify(&self.keys, None).unwrap() {
            Message::Heartbeat(beat) => beat,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_arrives_during_a_commit_goes_into_the_next_together() {
    let w = world().await;
    w.store.hold();
    let first = w.submit(leaf(0));
    w.begun(1).await;
    let rest: Vec<_> = (1..=600).map(|n| w.submit(leaf(n))).collect();
    w.begun(1).await;
    w.store.let_through(100);
    first.await.unwrap().unwrap();
    for done in rest {
        done.await.unwrap().unwrap();
    }
    assert_eq!(w.store.commits(), 3, "1, then 512, then 88");
    assert_eq!(w.store.head().await.unwrap().tree.size, 601);
}

#[tokio::test]
async fn a_revocation_overtakes_everything_that_waits_in_a_small_batch() {
    let w = world().await;
    w.store.hold();
    let first = w.submit(leaf(0));
    w.begun(1).await;
    let waiting: Vec<_> = (1..=300).map(|n| w.submit(leaf(n))).collect();
    w.begun(1).await;
    let revocation = w.submit(kill(1));
    w.begun(1).await;
    w.store.let_through(2);
    first.await.unwrap().unwrap();
    let placed = revocation.await.unwrap().unwrap().placed;
    assert_eq!(placed, Placed { leaves: 1..2, feed_seq: Some(1) });
    assert_eq!(w.store.head().await.unwrap().tree.size, 1 + MAX_URGENT_BATCH as u64);
    w.store.let_through(10);
    for done in waiting {
        done.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn nobody_is_told_before_it_is_durable_and_everybody_after() {
    let w = world().await;
    let mut heard = w.feed.subscribe();
    w.store.hold();
    let revocation = w.submit(kill(1));
    w.begun(1).await;
    assert!(!revocation.is_finished());
    assert_eq!(w.beat().await.head_seq, 0);
    assert_eq!(w.writer.checkpoint().tree.size, 0);
    w.store.let_through(1);
    let written = revocation.await.unwrap().unwrap();
    assert_eq!(w.beat().await.head_seq, 1);
    assert_eq!(w.writer.checkpoint().tree, w.store.head().await.unwrap().tree);
    assert_eq!(w.beat().await.checkpoint, (1, w.writer.checkpoint().tree.root));
    assert!(written.committed < w.clock.boot());
    loop {
        let Some(Heard::Message(m)) = heard.next().await else { panic!("nothing heard") };
        if let Message::Batch(batch) = m.verify(&w.keys, None).unwrap() {
            assert_eq!((batch.seq, batch.items), (1, vec![(0, Item::HolderKey { key: Key::from_bytes([1; 32]) })]));
            break;
        }
    }
}

#[tokio::test]
async fn a_refused_change_fails_alone() {
    let w = world().await;
    let bad = Change { requires: vec![Require::GenerationIs(FloorScope::Tenant, 7)], ..leaf(2) };
    let outcomes = w.writer.submit_all(vec![leaf(1), bad, leaf(3)]).await;
    assert_eq!(outcomes[1], Err(WriteError::Refused(Refused::GenerationMoved(FloorScope::Tenant, 0))));
    assert_eq!([&outcomes[0], &outcomes[2]].map(|o| o.as_ref().unwrap().placed.leaves.clone()), [0..1, 1..2]);
    assert_eq!(w.store.commits(), 1);
}

#[tokio::test]
async fn a_commit_that_failed_is_said_to_have_failed_and_the_next_one_works() {
    for failure in [Failure::NotWritten, Failure::UnknownNotWritten] {
        let w = world().await;
        w.store.fail(failure);
        let said = w.writer.submit(kill(1)).await;
        assert!(matches!(said, Err(WriteError::Unavailable(_))), "{said:?}");
        assert_eq!(w.beat().await.head_seq, 0);
        assert_eq!(w.writer.submit(kill(1)).await.unwrap().placed.feed_seq, Some(1));
        assert_eq!(w.beat().await.head_seq, 1);
    }
}

#[tokio::test]
async fn a_commit_that_was_written_although_it_seemed_to_fail_is_answered_as_written() {
    let w = world().await;
    let mut heard = w.feed.subscribe();
    w.store.fail(Failure::UnknownWritten);
    assert_eq!(w.writer.submit(kill(1)).await.unwrap().placed, Placed { leaves: 0..1, feed_seq: Some(1) });
    assert_eq!(w.beat().await.head_seq, 1);
    assert_eq!(w.writer.checkpoint().tree.size, 1);
    let seen = async {
        while let Some(Heard::Message(m)) = heard.next().await {
            if matches!(m.verify(&w.keys, None).unwrap(), Message::Batch(_)) {
                return true;
            }
        }
        false
    };
    assert!(seen.await);
}

#[tokio::test(start_paused = true)]
async fn while_the_outcome_is_unknown_beats_claim_no_moment_after_the_attempt() {
    let w = world().await;
    w.store.hold();
    w.store.fail(Failure::UnknownWritten);
    let revocation = w.submit(kill(1));
    w.begun(1).await;
    let during = w.beat().await;
    // The database stops answering right when COMMIT is on its way, though it has written.
    w.store.set_reads_down(true);
    w.store.let_through(1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!revocation.is_finished());
    assert!(w.store.head().await.is_err_and(|e| matches!(e, StoreError::Unavailable(_))));
    let unknown = w.beat().await;
    assert_eq!((unknown.t_us, unknown.head_seq), (during.t_us, 0), "fail closed: verifiers go stale");
    assert!(matches!(w.feed.answer(vec![7; 16]).await, Err(crate::feed::FeedUnavailable::HeadUnknown)));
    w.store.set_reads_down(false);
    assert_eq!(revocation.await.unwrap().unwrap().placed.feed_seq, Some(1));
    let after = w.beat().await;
    assert!(after.head_seq == 1 && after.t_us > unknown.t_us);
}

#[tokio::test]
async fn a_full_queue_says_busy_and_loses_nothing_that_was_taken() {
    let w = world().await;
    w.store.hold();
    let first = w.submit(leaf(0));
    w.begun(1).await;
    let held: Vec<_> = (0..MAX_WAITING as u32).map(|n| w.writer.enqueue(leaf(n + 1)).unwrap()).collect();
    assert_eq!(w.writer.submit(leaf(9999)).await, Err(WriteError::Busy));
    // The other queue is not full.
    let revocation = w.submit(kill(1));
    w.begun(1).await;
    w.store.let_through(1000);
    first.await.unwrap().unwrap();
    revocation.await.unwrap().unwrap();
    for told in held {
        told.await.unwrap().unwrap();
    }
    assert_eq!(w.store.head().await.unwrap().tree.size, 2 + MAX_WAITING as u64);
}

#[tokio::test]
async fn every_released_checkpoint_was_recorded_before() {
    let w = world().await;
    for n in 0..5 {
        w.writer.submit(leaf(n)).await.unwrap();
        let recorded = Released::open(&w.folder.path().join("released-checkpoint")).unwrap().last();
        assert_eq!(recorded, Some(w.writer.checkpoint().tree));
        assert_eq!(w.writer.checkpoint().tree.size, u64::from(n) + 1);
    }
}

#[tokio::test]
async fn the_tail_is_what_was_published_from_memory_and_from_the_store() {
    let w = world().await;
    for n in 1..=5 {
        w.writer.submit(kill(n)).await.unwrap();
    }
    let all = w.feed.tail(1, 0).await.unwrap();
    assert_eq!(all.len(), 5);
    assert_eq!(w.feed.tail(1, 3).await.unwrap(), all[3..]);
    assert_eq!(w.feed.tail(1, 5).await.unwrap(), []);
    assert_eq!(w.feed.tail(2, 0).await.unwrap(), []);
    // Another process, with nothing in memory, signs the same bytes again.
    let mut rng = StdRng::seed_from_u64(9);
    let signer: Arc<dyn Signer> = Arc::new(FileSigner::open(w.folder.path(), &mut rng).unwrap());
    signer.follow(w.in_force.clone());
    let head = w.store.head().await.unwrap();
    let pulse = Arc::new(Pulse::new(tenant(), w.clock.clone(), signer.clone(), ClockId::from_bytes([6; 16]), head.feed, head.tree, (1, [0; 32])));
    let other = Feed::start(w.store.clone(), signer, pulse);
    assert_eq!(other.tail(1, 0).await.unwrap(), all);
    for m in all {
        m.verify(&w.keys, None).unwrap();
    }
}

#[tokio::test]
async fn long_leaves_do_not_make_a_long_commit() {
    let w = world().await;
    w.store.hold();
    let first = w.submit(leaf(0));
    w.begun(1).await;
    // As an enrolled verifier may deliver them.
    let long = |n: u8| Change { leaves: vec![vec![n; 60_000]], ..Change::default() };
    let rest: Vec<_> = (1..=40).map(|n| w.submit(long(n))).collect();
    w.begun(1).await;
    w.store.let_through(100);
    first.await.unwrap().unwrap();
    for done in rest {
        done.await.unwrap().unwrap();
    }
    assert_eq!(w.store.commits(), 4, "1, then 18, 18 and 4");
}

#[tokio::test]
async fn an_accepted_key_list_is_pushed_to_whoever_listens_and_takes_no_number() {
    let w = world().await;
    let mut heard = w.feed.subscribe();
    w.feed.announce_key_list(&w.list, &w.keys, UtcMillis(1_900_000_000_000));
    let change = loop {
        let Some(Heard::Message(m)) = heard.next().await else { panic!("nothing heard") };
        if let Message::KeyListChange(change) = m.verify(&w.keys, None).unwrap() {
            break change;
        }
    };
    assert_eq!((change.version, change.hash, &change.list), (w.keys.payload().version, *w.keys.hash(), &w.list.to_bytes()));
    assert_eq!(w.beat().await.head_seq, 0);
    assert!(w.feed.tail(1, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn asked_to_end_it_writes_what_it_has_taken_on_and_takes_no_more() {
    let w = world().await;
    let size = async || w.store.head().await.unwrap().tree.size;
    let before = size().await;
    for n in 0..600 {
        // Nobody waits for these: whoever asked has hung up.
        w.writer.post(leaf(n));
    }
    w.writer.end().await;
    assert_eq!(size().await, before + 600);
    assert!(!w.writer.is_running());
    assert_eq!(w.writer.submit(leaf(7)).await, Err(stopped()));
    // Once more is no harm.
    w.writer.end().await;
}
