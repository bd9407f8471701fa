use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::ids::Key;
use procura_verifier::key_list::KeyListPayload;
use procura_verifier::token::UnverifiedToken;
use rand::SeedableRng as _;

use super::super::fixture::*;
use super::*;
use crate::app::export;
use crate::keys::LEAD_MS;
use crate::keys::change::{Wanted, next};
use crate::log::bundle::{Bundle, Limits};
use crate::log::event::Event;
use crate::log::replay::replay;
use crate::signer::file::make_key;
use crate::store::contract::tenant;
use crate::store::memory::Memory;
use crate::usecase::issue::{IssueError, Mint, issue};
use crate::usecase::revoke::{RevokeError, Target, revoke};

const DAY: u64 = 24 * 3_600_000;
const OPERATOR: Principal = Principal::LocalOperator;

impl App {
    fn made(&self, usage: KeyUse) -> Key {
        make_key(&self.folder.join("keys"), usage, &mut rand::rngs::StdRng::from_os_rng()).unwrap()
    }

    /// The next list, with a new key of this use made in the key folder.
    fn prepared(&self, usage: KeyUse, dead: &[Key]) -> (KeyListPayload, Key) {
        self.clock.advance_ms(1_000);
        let key = self.made(usage);
        let rotate = if dead.is_empty() { vec![usage] } else { vec![] };
        let wanted = Wanted { new: vec![(usage, key)], rotate, dead: dead.to_vec(), valid_ms: 800 * DAY, overlap_ms: 7 * DAY };
        (next(self.ctx.keys.load().payload(), &wanted, self.ctx.now()).unwrap(), key)
    }

    async fn publish(&self, payload: &KeyListPayload) -> Result<Published, PublishError> {
        publish(&self.ctx, &OPERATOR, &UnverifiedKeyList::sign(payload, &[&signing(ANCHOR)]), &[]).await
    }

    fn in_use(&self, usage: KeyUse) -> Key {
        self.ctx.signer.key_for(usage, self.ctx.now(), self.ctx.now()).unwrap()
    }

    /// The whole feed, signed as of now, each message vouched for by the list in force.
    async fn feed(&self) -> Vec<Arc<SignedMessage>> {
        let messages = self.ctx.feed.tail(1, 0).await.unwrap();
        let list = self.ctx.keys.load();
        assert!(messages.iter().all(|m| matches!(m.verify(&list, Some(self.ctx.now())), Ok(Message::Batch(_)))));
        messages
    }

    /// Exported and replayed from the anchors alone: so many leaves.
    async fn replays(&self) -> u64 {
        let bytes = export(&self.ctx, &self.ctx.writer.checkpoint()).await.unwrap();
        let bundle = Bundle::read(&bytes, &self.anchors, &tenant(), Limits::default()).unwrap();
        replay(&bundle).unwrap().leaves
    }

    fn verifies(&self, token: &[u8]) -> bool {
        UnverifiedToken::parse(token).unwrap().verify(&self.ctx.keys.load()).is_ok()
    }
}

#[tokio::test]
async fn who_was_killed_meanwhile_publishes_nothing() {
    let app = app().await;
    let admin = app.admin().await;
    app.killed(&admin).await;
    let (payload, _) = app.prepared(KeyUse::Log, &[]);
    let signed = UnverifiedKeyList::sign(&payload, &[&signing(ANCHOR)]);
    assert!(matches!(publish(&app.ctx, &admin, &signed, &[]).await, Err(PublishError::SignedOut(_))));
    assert_eq!(app.ctx.keys.load().payload().version, 1);
    publish(&app.ctx, &app.admin().await, &signed, &[]).await.unwrap();
}

#[tokio::test]
async fn each_key_rotates_in_the_middle_of_everything_and_the_log_replays_over_it() {
    for usage in KeyUse::ALL {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let before = app.mint(bot, grant).await.unwrap();
        let sam = app.person("sam").await;
        let other = revoke(&app.ctx, &sam, Target::HolderKey(key(9)), None, None).await.unwrap();
        let old = app.in_use(usage);

        let (payload, new) = app.prepared(usage, &[]);
        let done = app.publish(&payload).await.unwrap();
        assert_eq!((done.version, done.leaf), (2, Some(other.leaf + 1)), "{usage:?}");
        assert_eq!(app.in_use(usage), old, "verifiers hear of the new one first");
        app.mint(bot, grant).await.unwrap();
        app.clock.advance_ms(LEAD_MS + 1000);
        assert_eq!(app.in_use(usage), new);
        let after = app.mint(bot, grant).await.unwrap();
        assert!(app.verifies(&before.token) && app.verifies(&after.token), "old tokens go on until their end");
        revoke(&app.ctx, &alice, Target::Token(before.tid), None, None).await.unwrap();
        assert_eq!(app.feed().await.len(), 2);
        let tree = app.ctx.writer.checkpoint().tree.size;
        assert_eq!(app.replays().await, tree);

        // Long after the old key's end.
        app.clock.advance_ms(9 * DAY);
        assert_eq!(app.in_use(usage), new);
        let last = app.mint(bot, grant).await.unwrap();
        assert!(app.verifies(&last.token));
        app.feed().await;
        assert_eq!(app.replays().await, tree + 1);
    }
}

#[tokio::test]
async fn each_key_dies_at_once_and_what_stood_before_stands() {
    for usage in KeyUse::ALL {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let token = app.mint(bot, grant).await.unwrap();
        let sam = app.person("sam").await;
        revoke(&app.ctx, &sam, Target::HolderKey(key(9)), None, None).await.unwrap();
        // Into memory, signed by the key that is about to die.
        app.feed().await;
        let dead = app.in_use(usage);
        let (payload, new) = app.prepared(usage, &[dead]);
        let published = app.publish(&payload).await.unwrap();
        assert_eq!(app.in_use(usage), new, "{usage:?}");
        assert_eq!(app.verifies(&token.token), usage != KeyUse::Root, "all tokens under a dead root key die with it");
        let fresh = app.mint(bot, grant).await.unwrap();
        assert!(app.verifies(&fresh.token), "minting uses the living key");
        revoke(&app.ctx, &alice, Target::Token(fresh.tid), None, None).await.unwrap();
        let by: Vec<_> = app.feed().await.iter().map(|m| *m.claimed_key()).collect();
        assert!(!by.contains(&dead));
        assert_eq!(app.replays().await, published.leaf.unwrap() + 3);
    }
}

#[tokio::test]
async fn k_anchors_publish_and_one_fewer_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let anchors = [signing(201), signing(202), signing(203)];
    let app = start_under(Arc::new(Memory::new(tenant())), folder.path(), HandClock::new(), &anchors, 2).await.unwrap();
    let (payload, _) = app.prepared(KeyUse::Feed, &[]);
    let [one, _, three] = &anchors;
    let mut list = UnverifiedKeyList::sign(&payload, &[three]);
    let by = async |by: &Principal, list: &UnverifiedKeyList| publish(&app.ctx, by, list, &["no-living-feed".to_owned()]).await;
    let too_few = by(&OPERATOR, &list).await;
    assert!(matches!(too_few, Err(PublishError::KeyList(KeyListError::Signatures { valid: 1, expected: 2 }))), "{too_few:?}");
    let mut stranger = list.clone();
    stranger.add_signature(&signing(9)).unwrap();
    assert!(matches!(by(&OPERATOR, &stranger).await, Err(PublishError::KeyList(KeyListError::Signatures { .. }))));
    list.add_signature(one).unwrap();
    let alice = app.person("alice").await;
    assert!(matches!(by(&alice, &list).await, Err(PublishError::Forbidden)));
    assert_eq!(by(&OPERATOR, &list).await.unwrap().version, 2);
}

#[tokio::test]
async fn replays_gaps_strangers_and_lists_that_end_everything_are_refused() {
    let app = app().await;
    let first = app.ctx.keys.load().payload().clone();
    let (second, _) = app.prepared(KeyUse::Root, &[]);
    let refused = async |payload: KeyListPayload| app.publish(&payload).await.unwrap_err();
    assert!(matches!(refused(KeyListPayload { version: 3, ..second.clone() }).await, PublishError::Version { got: 3, expected: 2 }));
    assert!(matches!(refused(KeyListPayload { max_ttl_secs: 5, ..first.clone() }).await, PublishError::Version { got: 1, expected: 2 }));
    let other = KeyListPayload { tenant: "other".parse().unwrap(), ..second.clone() };
    assert!(matches!(refused(other).await, PublishError::KeyList(KeyListError::Tenant { .. })));
    let killed = KeyListPayload { dead: vec![app.in_use(KeyUse::Feed)], ..second.clone() };
    let signed = UnverifiedKeyList::sign(&killed, &[&signing(ANCHOR)]);
    let forced = publish(&app.ctx, &OPERATOR, &signed, &["no-living-feed".to_owned(), "uncovered-feed".to_owned()]).await;
    assert!(matches!(forced, Err(PublishError::Problems(p)) if p.len() == 2), "without a feed key nobody could be told");

    // Its twin, for a use without which the authority goes on, passes when it is named and not before.
    let no_cards = KeyListPayload { dead: vec![app.in_use(KeyUse::Card)], ..second.clone() };
    let signed = UnverifiedKeyList::sign(&no_cards, &[&signing(ANCHOR)]);
    assert!(matches!(publish(&app.ctx, &OPERATOR, &signed, &[]).await, Err(PublishError::Problems(_))));
    assert_eq!(app.ctx.keys.load().payload(), &first);
    assert_eq!(publish(&app.ctx, &OPERATOR, &signed, &["no-living-card".to_owned()]).await.unwrap().version, 2);
    assert!(matches!(refused(second).await, PublishError::Version { got: 2, expected: 3 }));
    let again = publish(&app.ctx, &OPERATOR, &signed, &[]).await.unwrap();
    assert_eq!((again.version, again.leaf), (2, None), "who lost the answer may ask again");
    assert_eq!(app.events().await.iter().filter(|e| matches!(e, Event::KeyListRecorded(_))).count(), 2);
}

#[tokio::test]
async fn a_restart_at_any_step_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let app = app_in(&folder).await.unwrap();
    let old = app.in_use(KeyUse::Event);
    // Keys made, list never published.
    let (lost, _) = app.prepared(KeyUse::Event, &[]);
    app.close().await;
    let app = app_in(&folder).await.unwrap();
    assert_eq!((app.in_use(KeyUse::Event), app.ctx.keys.load().payload().version), (old, 1));
    app.person("alice").await;
    // The list that was prepared before the restart is as good as any.
    app.publish(&lost).await.unwrap();
    app.close().await;
    let app = app_in(&folder).await.unwrap();
    assert_eq!(app.ctx.keys.load().payload(), &lost);
    assert_eq!(app.publish(&lost).await.unwrap().leaf, None);
    app.person("sam").await;
    app.replays().await;
    // A dead one, and a restart before anything else is written.
    let dead = app.in_use(KeyUse::Event);
    app.publish(&app.prepared(KeyUse::Event, &[dead]).0).await.unwrap();
    app.close().await;
    let app = app_in(&folder).await.unwrap();
    assert_ne!(app.in_use(KeyUse::Event), dead);
    app.replays().await;
    // A list whose private keys are on another machine is not taken.
    let (mut elsewhere, _) = app.prepared(KeyUse::Log, &[app.in_use(KeyUse::Log)]);
    elsewhere.keys.iter_mut().filter(|k| k.usage == KeyUse::Log).for_each(|k| k.key = key(77));
    elsewhere.keys.sort_unstable_by_key(|k| (k.usage, k.key));
    elsewhere.keys.dedup_by_key(|k| k.key);
    assert!(matches!(app.publish(&elsewhere).await, Err(PublishError::Problems(p)) if p[0].name == "no-living-log"));
}

#[tokio::test]
async fn a_leaf_that_a_list_overtakes_is_signed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::new(tenant()));
    let app = Arc::new(start(store.clone(), folder.path()).await.unwrap());
    let (payload, _) = app.prepared(KeyUse::Event, &[app.in_use(KeyUse::Event)]);
    let begun = store.commits();
    store.hold();
    let publishing = tokio::spawn({
        let app = app.clone();
        async move { app.publish(&payload).await.unwrap() }
    });
    while store.commits() == begun {
        tokio::task::yield_now().await;
    }
    // Signed by the key that dies in the commit under way.
    let signing_in = tokio::spawn({
        let app = app.clone();
        async move { app.person("alice").await }
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    store.let_through(10);
    publishing.await.unwrap();
    signing_in.await.unwrap();
    assert_eq!(app.replays().await, 3);
}

#[tokio::test]
async fn a_replica_that_has_not_heard_writes_nothing_under_the_old_list() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::new(tenant()));
    let clock = HandClock::new();
    let anchors = [signing(ANCHOR)];
    let a = start_under(store.clone(), folder.path(), clock.clone(), &anchors, 1).await.unwrap();
    let b = start_under(store.clone(), folder.path(), clock.clone(), &anchors, 1).await.unwrap();
    let (payload, new) = a.prepared(KeyUse::Event, &[a.in_use(KeyUse::Event)]);
    a.publish(&payload).await.unwrap();
    assert_eq!(b.ctx.keys.load().payload().version, 1);
    b.person("alice").await;
    assert_eq!((b.ctx.keys.load().payload().version, b.in_use(KeyUse::Event)), (2, new));
    // The checkpoint over the other's leaves is shown once the log is seen to be one.
    while b.ctx.writer.checkpoint().tree.size < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(b.replays().await, 3);
    // Or it hears first.
    let (payload, _) = b.prepared(KeyUse::Feed, &[]);
    b.publish(&payload).await.unwrap();
    assert!(a.ctx.keys.refresh(&*store, a.ctx.now()).await.unwrap());
    assert!(!a.ctx.keys.refresh(&*store, a.ctx.now()).await.unwrap());
    assert_eq!(a.ctx.keys.load(), b.ctx.keys.load());
}

#[tokio::test]
async fn nothing_is_minted_that_could_outlive_the_keys_that_take_it_back() {
    let app = app().await;
    let (alice, bot, grant) = app.granted().await;
    let sam = app.person("sam").await;
    // Every key but the event key goes on.
    for usage in KeyUse::ALL.into_iter().filter(|u| *u != KeyUse::Event) {
        app.publish(&app.prepared(usage, &[]).0).await.unwrap();
    }
    app.clock.advance_ms(365 * DAY - 1_800_000);
    let mint = async |ttl| {
        let asked = Mint { delegation: grant, holder: key(1), audiences: vec![], ttl_secs: Some(ttl) };
        issue(&app.ctx, &app.assertion(bot), &asked).await
    };
    assert!(matches!(mint(1801).await, Err(IssueError::Unavailable(_))));
    let token = mint(1700).await.unwrap();
    let warnings = app.ctx.key_warnings();
    assert!(!warnings.cannot_take_back && warnings.sentences.iter().any(|w| w.contains("the last event key ends at")), "{warnings:?}");
    app.clock.advance_ms(1_600_000);
    revoke(&app.ctx, &alice, Target::Token(token.tid), None, None).await.unwrap();
    // Past the end: nothing is logged, and nothing lives that would have to be. A list with a new key mends it.
    app.clock.advance_ms(300_000);
    assert!(app.ctx.key_warnings().cannot_take_back);
    assert!(matches!(revoke(&app.ctx, &sam, Target::HolderKey(key(9)), None, None).await, Err(RevokeError::Unavailable(_))));
    app.publish(&app.prepared(KeyUse::Event, &[]).0).await.unwrap();
    revoke(&app.ctx, &sam, Target::HolderKey(key(9)), None, None).await.unwrap();
    assert!(!app.ctx.key_warnings().cannot_take_back);
    app.replays().await;
}
