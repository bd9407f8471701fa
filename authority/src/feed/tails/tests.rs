use std::net::IpAddr;
use std::sync::Condvar;

use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::feed::message::{Batch, Item, Message};
use procura_verifier::ids::{ClockId, Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyList, KeyUse};
use procura_verifier::wire::Canonical as _;

use super::super::beat::Pulse;
use super::super::bus::Heard;
use super::super::turns::Client;
use super::super::{Feed, FeedUnavailable};
use super::*;
use crate::domain::principal::Principal;
use crate::keys::Keys;
use crate::log::bundle::{BundleWriter, ExportError};
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::event::Event;
use crate::log::leaf::{LeafError, SignedLeaf};
use crate::signer::file::KeyFileError;
use crate::signer::{SignError, Signer};
use crate::store::contract::tenant;
use crate::usecase::fixture::*;
use crate::usecase::revoke::{Target, revoke};

/// Signs stored messages when it is let, and counts.
struct Gated {
    inner: Arc<dyn Signer>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    shut: bool,
    signed: usize,
    inside: usize,
    most: usize,
}

impl Gated {
    fn set(&self, shut: bool) {
        self.state.lock().unwrap().shut = shut;
        self.changed.notify_all();
    }
    fn inside(&self) -> usize {
        self.state.lock().unwrap().inside
    }
}

impl Signer for Gated {
    fn follow(&self, keys: Arc<Keys>) {
        self.inner.follow(keys);
    }
    fn reload(&self) -> Result<(), KeyFileError> {
        self.inner.reload()
    }
    fn holds(&self, usage: KeyUse, key: &Key) -> bool {
        self.inner.holds(usage, key)
    }
    fn key_for(&self, usage: KeyUse, from: UtcMillis, until: UtcMillis) -> Option<Key> {
        self.inner.key_for(usage, from, until)
    }
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<(Vec<u8>, Key), SignError> {
        self.inner.mint(block, next_seed)
    }
    fn card(&self, card: &AgentCard, by: &Key) -> Option<SignedCard> {
        self.inner.card(card, by)
    }
    fn leaf(&self, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError> {
        self.inner.leaf(event, tenant, at)
    }
    fn key_list_leaf(&self, list: &KeyList, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError> {
        self.inner.key_list_leaf(list, event, tenant, at)
    }
    fn checkpoint(&self, checkpoint: &Checkpoint, at: UtcMillis) -> Result<String, CheckpointError> {
        self.inner.checkpoint(checkpoint, at)
    }
    fn bundle(&self, bundle: BundleWriter<'_>, checkpoint: &[u8], exported: UtcMillis) -> Result<Vec<u8>, ExportError> {
        self.inner.bundle(bundle, checkpoint, exported)
    }
    fn feed(&self, message: &Message) -> SignedMessage {
        self.inner.feed(message)
    }
    fn feed_again(&self, message: &Message, row_key: &Key) -> Option<SignedMessage> {
        let mut state = self.state.lock().unwrap();
        state.inside += 1;
        state.most = state.most.max(state.inside);
        state = self.changed.wait_while(state, |s| s.shut).unwrap();
        state.inside -= 1;
        state.signed += 1;
        drop(state);
        self.inner.feed_again(message, row_key)
    }
}

/// An authority that has taken back so many things, and a feed that has none of them in memory.
async fn behind(revocations: u8) -> (App, Feed, Arc<Gated>) {
    let app = app().await;
    for n in 0..revocations {
        revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(key(n)), None, None).await.unwrap();
    }
    let (feed, signer) = beside(&app, Arc::clone(&app.ctx.store)).await;
    (app, feed, signer)
}

/// A feed of another process on that store, with the same keys.
async fn beside(app: &App, store: Arc<dyn crate::store::Store>) -> (Feed, Arc<Gated>) {
    let signer = Arc::new(Gated { inner: Arc::clone(&app.ctx.signer), state: Mutex::default(), changed: Condvar::new() });
    let (head, list) = (store.head().await.unwrap(), app.ctx.keys.load());
    let pulse =
        Pulse::new(tenant(), app.clock.clone(), signer.clone(), ClockId::from_bytes([1; 16]), head.feed, head.tree, (list.payload().version, *list.hash()));
    (Feed::start(Arc::clone(&store), signer.clone(), Arc::new(pulse.proven_by(&store))), signer)
}

fn peer(n: u8) -> Client {
    Client::of(Some(IpAddr::from([192, 0, 2, n])))
}

/// On one thread: whatever were signed on it would stop everything else.
#[tokio::test]
async fn a_flood_of_old_pages_delays_no_beat_and_signs_nothing_twice() {
    const MESSAGES: u8 = 40;
    let (_app, feed, signer) = behind(MESSAGES).await;
    let mut heard = feed.subscribe();
    signer.set(true);
    let ask = |who: u8, seq: u64| {
        let feed = feed.clone();
        tokio::spawn(async move { feed.page(peer(who), 1, seq).await })
    };
    let gone: Vec<_> = (0..2).map(|n| ask(9, n)).collect();
    while signer.inside() < BOUNDS.at_once {
        tokio::task::yield_now().await;
    }
    // Whoever asks and goes away frees nothing.
    gone.iter().for_each(tokio::task::JoinHandle::abort);
    let flood: Vec<_> = (0..500_u64).map(|n| (n % 3, ask((n % 4) as u8, n % 3))).collect();
    for _ in 0..20 {
        let Some(Heard::Message(beat)) = heard.next().await else { panic!("the stream ended") };
        assert!(matches!(Message::from_bytes(beat.unverified_payload()), Ok(Message::Heartbeat(_))));
    }
    assert_eq!((signer.inside(), signer.state.lock().unwrap().signed), (BOUNDS.at_once, 0), "no page was signed while twenty beats went out");
    signer.set(false);
    let (mut served, mut busy) = (0, 0);
    for (seq, asked) in flood {
        match asked.await.unwrap() {
            Ok(page) => {
                served += 1;
                assert_eq!((page.messages.len() as u64, page.more), (u64::from(MESSAGES) - seq, false));
            }
            Err(FeedUnavailable::Busy) => busy += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!((served, busy), (4 * BOUNDS.of_one, 500 - 4 * BOUNDS.of_one));
    let state = signer.state.lock().unwrap();
    assert_eq!(state.most, BOUNDS.at_once);
    assert!(state.signed <= BOUNDS.at_once * usize::from(MESSAGES), "{} signatures for {MESSAGES} messages", state.signed);
}

#[tokio::test]
async fn a_flood_of_one_leaves_room_for_another_and_a_new_key_list_forgets_what_was_signed() {
    let (app, feed, signer) = behind(3).await;
    signer.set(true);
    let ask = |who: u8| {
        let feed = feed.clone();
        tokio::spawn(async move { feed.page(peer(who), 1, 0).await.map(|page| page.messages) })
    };
    let flood: Vec<_> = (0..100).map(|_| ask(1)).collect();
    let other = ask(2);
    while signer.inside() < BOUNDS.at_once {
        tokio::task::yield_now().await;
    }
    signer.set(false);
    let messages = other.await.unwrap().unwrap();
    assert_eq!(messages.len(), 3);
    for asked in flood {
        let _ = asked.await.unwrap();
    }
    let signed = || signer.state.lock().unwrap().signed;
    let before = signed();
    assert_eq!(feed.tail(1, 0).await.unwrap(), messages);
    assert_eq!(signed(), before, "kept");
    feed.key_list_changed(1, [0; 32]);
    assert_eq!(feed.tail(1, 0).await.unwrap(), messages, "the same bytes by the same key");
    assert_eq!(signed(), before + 3, "by a key that lives under the new list");
    drop(app);
}

/// Verifiers that hear of another replica's commit before this one does ask all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_asks_a_replica_which_is_behind_is_served_by_one_reading() {
    const MESSAGES: u8 = 5;
    let (_, url) = crate::store::postgres::server::Server::shared().database().await;
    let folder = tempfile::tempdir().unwrap();
    let open = async || Arc::new(crate::store::postgres::Postgres::open(&url, tenant()).await.unwrap()) as Arc<dyn crate::store::Store>;
    let app = start(open().await, folder.path()).await.unwrap();
    let (feed, signer) = beside(&app, open().await).await;
    for n in 0..MESSAGES {
        revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(key(n)), None, None).await.unwrap();
    }
    let mut hints = feed.0.store.shared().unwrap().hints();
    hints.wait_for(|hint| hint.feed >= (1, u64::from(MESSAGES))).await.unwrap();
    assert!(feed.0.is_behind());
    let crowd: Vec<_> = (0..200)
        .map(|_| {
            let feed = feed.clone();
            tokio::spawn(async move { feed.page(peer(1), 1, 0).await })
        })
        .collect();
    for asked in crowd {
        assert_eq!(asked.await.unwrap().unwrap().messages.len(), usize::from(MESSAGES), "nobody is sent away");
    }
    assert_eq!(signer.state.lock().unwrap().signed, usize::from(MESSAGES));
}

/// A verifier takes 8 MiB of a page, in base64url: one that is longer it can never read.
#[test]
fn a_page_ends_at_its_bytes_and_has_one_message_at_least() {
    let item = |n: u64| Item::HolderKey { key: key(n as u8) };
    let message = |items: u64| {
        let items = (0..items).map(|n| (n, item(n))).collect();
        Arc::new(SignedMessage::sign(&Message::Batch(Batch { tenant: tenant(), epoch: 1, seq: 1, prev: [0; 32], issued: NOW, items }), &signing(1)))
    };
    let long = message(512);
    let page = Page::of(std::iter::repeat_n(Arc::clone(&long), 256));
    assert!(page.more && page.bytes() <= MAX_TAIL_BYTES && page.bytes() + size(&long) > MAX_TAIL_BYTES, "{} of {} bytes", page.messages.len(), page.bytes());
    let short = Page::of(std::iter::repeat_n(message(1), 255));
    assert_eq!((short.messages.len(), short.more), (255, false));
    assert!(Page::of(std::iter::repeat_n(message(1), 256)).more);
    assert_eq!(Page::of([]).messages.len(), 0);
}

#[test]
fn what_is_kept_is_bounded_and_only_whole_pages_are_served_from_it() {
    let tails = Tails::new();
    let message = Arc::new(SignedMessage::sign(
        &Message::Batch(Batch { tenant: tenant(), epoch: 1, seq: 1, prev: [0; 32], issued: NOW, items: vec![(0, Item::HolderKey { key: key(1) })] }),
        &signing(1),
    ));
    let keep = |numbers: std::ops::Range<u64>| tails.keep(numbers.map(|n| ((1, n), Arc::clone(&message))), 0);
    keep(1..256);
    assert!(tails.page(1, 0).is_none(), "255: whether there is more only the store knows");
    keep(256..257);
    assert_eq!(tails.page(1, 0).map(|p| p.messages.len()), Some(256));
    assert!(tails.page(1, 1).is_none() && tails.page(2, 0).is_none());
    keep(258..600);
    assert!(tails.page(1, 100).is_none(), "a hole");
    keep(600..6000);
    let kept = tails.kept.lock().unwrap();
    assert_eq!((kept.messages.len(), kept.order.len()), (MAX_KEPT, MAX_KEPT));
    assert_eq!(kept.bytes, kept.messages.values().map(|m| size(m)).sum::<usize>());
    assert!(!kept.messages.contains_key(&(1, 1)), "the oldest goes first");
}
