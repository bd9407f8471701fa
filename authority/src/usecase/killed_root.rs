//! Tests: nothing is minted under a root key that was revoked by its public key.

use std::sync::Arc;

use procura_verifier::feed::message::Item;
use procura_verifier::ids::Key;
use procura_verifier::key_list::{KeyUse, UnverifiedKeyList};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::fixture::*;
use super::issue::{IssueError, Issued};
use super::publish_keys::publish;
use super::revoke::{Target, revoke};
use super::take_back;
use super::*;
use crate::keys::change::{Wanted, next};
use crate::log::event::Event;
use crate::signer::file::make_key;
use crate::store::contract::{self, tenant};
use crate::store::memory::Memory;
use crate::store::{Batch, Change, Row};

/// With this many root keys.
async fn with_roots(store: Arc<dyn Store>, folder: &std::path::Path, many: usize) -> App {
    for _ in 0..many {
        make_key(&folder.join("keys"), KeyUse::Root, &mut StdRng::from_os_rng()).unwrap();
    }
    start(store, folder).await.unwrap()
}

fn roots(app: &App) -> Vec<Key> {
    app.ctx.keys.load().of(KeyUse::Root).map(|k| k.key).collect()
}

fn signed_by(app: &App, issued: &Issued) -> Key {
    *UnverifiedToken::parse(&issued.token).unwrap().verify(&app.ctx.keys.load()).unwrap().root()
}

/// As another replica's commit: this process does not hear of it.
async fn killed_elsewhere(app: &App, key: Key) {
    let item = Item::RootKey { key };
    let says = event::Revoke { item: event::Encoded(item.to_bytes()), by: event::Actor::LocalOperator, reason_hash: None, delegation: None };
    let leaves = vec![app.ctx.leaf(says, app.ctx.now()).unwrap()];
    let change = Change { rows: vec![Row::RootKeyKilled(key)], items: vec![item], leaves, ..Change::default() };
    let feed_key = app.ctx.signer.key_for(KeyUse::Feed, app.ctx.now(), app.ctx.now()).unwrap();
    let done = app.ctx.store.commit(&Batch { id: app.ctx.random(), at: app.ctx.now(), feed_key, changes: vec![change] }).await.unwrap();
    assert!(done.outcomes[0].is_ok());
}

#[tokio::test]
async fn a_killed_root_key_mints_nothing_until_a_list_brings_another() {
    let app = app().await;
    let (_, bot, grant) = app.granted().await;
    let before = app.mint(bot, grant).await.unwrap();
    let [root] = roots(&app)[..] else { panic!("one root key") };
    // Another holder key with the same fate changes nothing: its twin.
    revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(key(9)), None, None).await.unwrap();
    app.mint(bot, grant).await.unwrap();
    assert_eq!(app.ctx.key_warnings().sentences, Vec::<String>::new());

    revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(root), Some("stolen".into()), None).await.unwrap();
    for _ in 0..3 {
        let refused = app.mint(bot, grant).await.unwrap_err();
        assert_eq!(refused, IssueError::RootKeyRevoked);
        assert!(refused.to_string().contains("procura keys prepare --rotate root"), "{refused}");
    }
    assert!(app.ctx.key_warnings().sentences[0].contains("new root key"), "{:?}", app.ctx.key_warnings());
    assert!(!app.ctx.key_warnings().cannot_take_back, "everything can still be taken back");
    assert_eq!(publish_keys::shown(&app.ctx).iter().find(|k| k.key == root).unwrap().state, "revoked");
    assert_eq!(app.events().await.iter().filter(|e| matches!(e, Event::Issue(_))).count(), 2, "no leaf says that something was minted");

    app.clock.advance_ms(1000);
    let new = make_key(&app.folder.join("keys"), KeyUse::Root, &mut StdRng::from_os_rng()).unwrap();
    let wanted = Wanted { new: vec![(KeyUse::Root, new)], rotate: vec![], dead: vec![root], valid_ms: 1_000_000_000, overlap_ms: 0 };
    let payload = next(app.ctx.keys.load().payload(), &wanted, app.ctx.now()).unwrap();
    publish(&app.ctx, &Principal::LocalOperator, &UnverifiedKeyList::sign(&payload, &[&signing(ANCHOR)]), &[]).await.unwrap();
    let after = app.mint(bot, grant).await.unwrap();
    assert_eq!(signed_by(&app, &after), new, "at once: no living key waits for it to be known");
    assert!(UnverifiedToken::parse(&before.token).unwrap().verify(&app.ctx.keys.load()).is_err());
}

#[tokio::test]
async fn where_there_is_another_root_key_it_signs_instead() {
    let folder = tempfile::tempdir().unwrap();
    let app = with_roots(Arc::new(Memory::new(tenant())), folder.path(), 2).await;
    let (_, bot, grant) = app.granted().await;
    let first = signed_by(&app, &app.mint(bot, grant).await.unwrap());
    revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(first), None, None).await.unwrap();
    let second = signed_by(&app, &app.mint(bot, grant).await.unwrap());
    assert_ne!(first, second);
    revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(second), None, None).await.unwrap();
    assert_eq!(app.mint(bot, grant).await, Err(IssueError::RootKeyRevoked));
}

/// P5: the token is signed, and before its commit the kill commits, at whichever replica.
#[tokio::test]
async fn a_kill_that_commits_between_signature_and_commit_stops_the_mint_on_every_store() {
    async fn race(store: Arc<dyn Store>) {
        let folder = tempfile::tempdir().unwrap();
        let app = with_roots(store, folder.path(), 2).await;
        let (_, bot, grant) = app.granted().await;
        let first = signed_by(&app, &app.mint(bot, grant).await.unwrap());
        let leaves = app.ctx.store.head().await.unwrap().tree.size;
        killed_elsewhere(&app, first).await;
        // This process still signs with it; the transaction knows better.
        assert!(!app.ctx.keys.is_killed(KeyUse::Root, &first));
        assert_eq!(app.mint(bot, grant).await, Err(Unavailable::Busy.into()), "try again: there is another key");
        assert_eq!(app.ctx.store.head().await.unwrap().tree.size, leaves + 1, "the kill's leaf alone");
        let second = signed_by(&app, &app.mint(bot, grant).await.unwrap());
        assert_ne!(first, second);
        killed_elsewhere(&app, second).await;
        assert_eq!(app.mint(bot, grant).await, Err(IssueError::RootKeyRevoked));
    }
    let (memory, sqlite, postgres) = (contract::memory().await, contract::sqlite().await, contract::postgres().await);
    race(memory.0).await;
    race(sqlite.0).await;
    race(postgres.0).await;
}

/// The same at one process: the kill goes into the writer's lane of revocations after the mint was signed and queued.
#[tokio::test]
async fn a_kill_that_overtakes_a_queued_mint_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Memory::new(tenant()));
    let app = with_roots(Arc::clone(&store) as _, folder.path(), 1).await;
    let (_, bot, grant) = app.granted().await;
    let [root] = roots(&app)[..] else { panic!("one root key") };
    store.hold();
    // Something is under way at the database, so that both wait for the next batch.
    let ahead = app.mint(bot, grant);
    tokio::pin!(ahead);
    assert!(futures_util::poll!(ahead.as_mut()).is_pending());
    while store.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let minted = app.mint(bot, grant);
    tokio::pin!(minted);
    assert!(futures_util::poll!(minted.as_mut()).is_pending(), "signed, and not committed");
    let killed = revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(root), None, None);
    tokio::pin!(killed);
    assert!(futures_util::poll!(killed.as_mut()).is_pending());
    store.let_through(100);
    let (ahead, minted, killed) = tokio::join!(ahead, minted, killed);
    assert!(ahead.unwrap().leaf < killed.unwrap().leaf);
    assert_eq!(minted, Err(IssueError::RootKeyRevoked));
}

#[tokio::test]
async fn it_is_remembered_over_a_restart_and_handed_back_after_a_restored_backup() {
    let folder = tempfile::tempdir().unwrap();
    let app = app_in(&folder).await.unwrap();
    let (_, bot, grant) = app.granted().await;
    let [root] = roots(&app)[..] else { panic!("one root key") };
    app.mint(bot, grant).await.unwrap();
    revoke(&app.ctx, &Principal::LocalOperator, Target::HolderKey(root), None, None).await.unwrap();
    let lost: Vec<_> = app.ctx.feed.tail(1, 0).await.unwrap().iter().map(|m| (**m).clone()).collect();
    app.close().await;
    let app = app_in(&folder).await.unwrap();
    assert_eq!(app.mint(bot, grant).await, Err(IssueError::RootKeyRevoked));
    app.close().await;

    // The same keys, and a database that has never heard of it.
    let other = tempfile::tempdir().unwrap();
    std::fs::rename(folder.path().join("keys"), other.path().join("keys")).unwrap();
    let app = app_in(&other).await.unwrap();
    let (_, bot, grant) = app.granted().await;
    app.mint(bot, grant).await.unwrap();
    assert_eq!(take_back::messages(&app.ctx, &lost).await.unwrap().taken, 1);
    assert_eq!(app.mint(bot, grant).await, Err(IssueError::RootKeyRevoked));
    assert_eq!(app.ctx.store.killed_root_keys().await.unwrap(), [root]);
}
