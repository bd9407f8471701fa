use super::*;
use crate::store::contract::{batch, memory, postgres, sqlite};
use crate::store::{Batch, Change};
use procura_verifier::feed::message::FloorScope;
use procura_verifier::feed::snapshot::{Loading, Snapshot};
use procura_verifier::feed::state::{FeedState, Need};
use procura_verifier::ids::{BootTime, HumanId, Lid, Tid};
use procura_verifier::key_list::{Anchors, KeyList, KeyListPayload, ListedKey, UnverifiedKeyList};
use procura_verifier::revocation::View;

const HOURS: u64 = 1_900_000_000 / 3600;

fn feed_key() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[31; 32])
}

fn key_list() -> KeyList {
    let anchor = ed25519_dalek::SigningKey::from_bytes(&[30; 32]);
    let keys = vec![ListedKey { usage: KeyUse::Feed, key: Key::of(&feed_key()), from: UtcMillis(0), until: UtcMillis(u64::MAX) }];
    let tenant = crate::store::contract::tenant();
    let list = KeyListPayload { tenant: tenant.clone(), version: 1, issued: UtcMillis(0), max_ttl_secs: 3600, keys, dead: vec![] };
    Anchors::new(vec![Key::of(&anchor)], 1).unwrap().accept(&UnverifiedKeyList::sign(&list, &[&anchor]), &tenant).unwrap()
}

fn tid(n: u32, hour: u64) -> Item {
    let id: [u8; 32] = Sha256::digest(n.to_be_bytes()).into();
    Item::Tid { tid: Tid::from_bytes(id[..16].try_into().unwrap()), exp_secs: hour * 3600 + 5 }
}

/// One commit with these items.
async fn commit(store: &dyn Store, n: u64, items: Vec<Item>) {
    let leaves = items.iter().map(|i| i.to_bytes()).collect();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let b = Batch { id, ..batch(1, vec![Change { items, leaves, ..Change::default() }]) };
    store.commit(&b).await.unwrap();
}

async fn loaded(store: &dyn Store) -> (FeedState, Manifest) {
    let row = store.snapshot().await.unwrap().unwrap();
    let signed = SignedMessage::sign(&Message::from_bytes(&row.payload).unwrap(), &feed_key());
    let snapshot = Snapshot::verify(&signed, &key_list()).unwrap();
    let view = Arc::new(View::new("payments".parse().unwrap(), key_list()));
    let mut state = FeedState::new(Arc::clone(&view));
    let manifest = snapshot.manifest().clone();
    let mut loading = Loading::new(snapshot, &view, BootTime(1));
    for s in &manifest.segments {
        loading.segment(&store.segment(s.sha256).await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(state.reach(&loading.finish().unwrap(), BootTime(1)), Need::Nothing);
    (state, manifest)
}

async fn a_snapshot_holds_all_and_what_is_unchanged_is_named_again(store: Arc<dyn Store>) {
    let (store, key, at) = (&*store, Key::of(&feed_key()), UtcMillis(1_900_000_000_000));
    assert!(!cut(store, key, at).await.unwrap(), "nothing to cut");
    assert_eq!(store.snapshot().await.unwrap(), None);
    let floor = |generation| Item::Floor { scope: FloorScope::Human(HumanId::from_bytes([1; 16])), generation };
    commit(store, 1, vec![tid(1, HOURS + 1), tid(2, HOURS + 2), floor(1)]).await;
    assert!(cut(store, key, at).await.unwrap());
    assert!(!cut(store, key, at).await.unwrap(), "nothing new");
    let (_, first) = loaded(store).await;
    commit(store, 2, vec![tid(3, HOURS + 2), Item::Lid { lid: Lid::from_bytes([3; 16]), exp_secs: (HOURS + 1) * 3600 }]).await;
    assert!(cut(store, key, at).await.unwrap());
    let (state, second) = loaded(store).await;
    assert!(first.segments.iter().all(|s| second.segments.contains(s)), "only new segments");
    assert_eq!((state.watermark().1, state.watermark().2), (2, store.head().await.unwrap().feed.hash));
    assert_eq!((state.view().known().ids, state.view().known().floors), (4, 1));

    // Small ones are merged before they are many; floors to the highest.
    for n in 3..12 {
        commit(store, n, vec![tid(n as u32 + 1, HOURS + 2), floor(n)]).await;
        assert!(cut(store, key, at).await.unwrap());
    }
    let (state, last) = loaded(store).await;
    assert_eq!((state.view().known().ids, state.watermark().1), (13, 11));
    assert!(last.segments.len() <= 4 * (MAX_SMALL + 1), "{} segments", last.segments.len());

    // The newest pages have all their segments, the first page is gone; an old segment nobody names goes with the next cut.
    let gone = first.segments.iter().filter(|s| !last.segments.contains(s)).map(|s| s.sha256);
    commit(store, 99, vec![tid(99, HOURS + 1)]).await;
    assert!(cut(store, key, at.plus(16 * 60_000)).await.unwrap());
    let mut dropped = 0;
    for hash in gone {
        dropped += usize::from(store.segment(hash).await.unwrap().is_none());
    }
    assert!(dropped > 0);
    assert_eq!(loaded(store).await.0.view().known().ids, 14);
}

async fn two_replicas_cut_the_same_bytes(store: Arc<dyn Store>) {
    let (store, key, at) = (&*store, Key::of(&feed_key()), UtcMillis(1_900_000_000_000));
    commit(store, 1, (0..50).map(|n| tid(n, HOURS + u64::from(n) % 3)).collect()).await;
    let (a, b) = tokio::join!(cut(store, key, at), cut(store, key, at.plus(1)));
    assert!(a.unwrap() && b.unwrap());
    assert_eq!(loaded(store).await.0.view().known().ids, 50);
    // A page that names what is not there is not stored.
    let row = store.snapshot().await.unwrap().unwrap();
    let Ok(Message::Manifest(mut m)) = Message::from_bytes(&row.payload) else { panic!() };
    m.segments[0].sha256 = [0; 32];
    m.segments.sort_unstable();
    let broken = SnapshotRow { seq: 7, payload: Message::Manifest(Manifest { seq: 7, ..m }).to_bytes(), ..row.clone() };
    assert!(!store.put_snapshot(&broken, at).await.unwrap());
    assert_eq!(store.snapshot().await.unwrap(), Some(row));
}

async fn a_snapshot_cut_during_writes_and_the_tail_are_everything(store: Arc<dyn Store>) {
    let key = Key::of(&feed_key());
    let done = std::sync::atomic::AtomicBool::new(false);
    let writing = async {
        for n in 1..60 {
            commit(&*store, n, vec![tid(n as u32, HOURS + n % 4)]).await;
            tokio::task::yield_now().await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let cutting = async {
        let mut cuts = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            cuts += u32::from(cut(&*store, key, UtcMillis(1_900_000_000_000)).await.unwrap());
            tokio::task::yield_now().await;
        }
        cuts
    };
    let ((), cuts) = tokio::join!(writing, cutting);
    assert!(cuts > 0);
    let (mut state, manifest) = loaded(&*store).await;
    assert_eq!(state.view().known().ids as u64, manifest.seq);
    for row in store.feed_since(1, manifest.seq, 1000).await.unwrap() {
        let signed = SignedMessage::sign(&Message::from_bytes(&row.payload).unwrap(), &feed_key());
        state.receive(&signed.to_bytes(), BootTime(1), UtcMillis(1)).map(drop).unwrap();
    }
    assert_eq!((state.watermark().1, state.view().known().ids), (59, 59));
}

macro_rules! holds_on {
    ($name:ident, $open:expr, [$($sentence:ident),* $(,)?]) => {
        mod $name {
            $(#[tokio::test]
            async fn $sentence() {
                let (store, _keep) = $open.await;
                super::$sentence(store).await;
            })*
        }
    };
    ($name:ident, $open:expr) => {
        holds_on!($name, $open, [
            a_snapshot_holds_all_and_what_is_unchanged_is_named_again,
            two_replicas_cut_the_same_bytes,
            a_snapshot_cut_during_writes_and_the_tail_are_everything,
        ]);
    };
}

holds_on!(on_memory, super::memory());
holds_on!(on_sqlite, super::sqlite());
holds_on!(on_postgres, super::postgres());

#[tokio::test]
async fn ids_go_with_their_hour_and_far_hours_share_a_bucket() {
    let (store, _) = memory().await;
    let at = UtcMillis(1_900_000_000_000);
    // The batch is of this time: an hour that ended before it is not cut at all.
    commit(&*store, 1, vec![tid(1, HOURS - 2), tid(2, HOURS), tid(3, u64::MAX / 3600 - 1)]).await;
    assert!(cut(&*store, Key::of(&feed_key()), at).await.unwrap());
    assert_eq!(loaded(&*store).await.0.view().known().ids, 2);
    for now in [0, 5, HOURS] {
        for far in [0, 1, 71, 72, 73, 100, 1000, 9000, 1 << 40] {
            let b = bucket(now + far, now);
            assert!(b >= now + far && (far >= 72 || b == now + far), "never earlier than its hour");
        }
        let buckets: BTreeSet<_> = (0..24 * 400).map(|far| bucket(now + far, now)).collect();
        assert!(buckets.len() < 400, "{} buckets for 400 days", buckets.len());
    }
}
