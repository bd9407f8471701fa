//! Several `procura serve` on one PostgreSQL: what one commits all serve, and one that is killed or stopped takes nothing with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use procura_authority::log::event::Event;
use procura_sdk::caller::Answered;
use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::feed::{Message, SignedMessage};
use procura_verifier::ids::{Clock as _, DelegationId, SystemClock, Tid};
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::support::postgres::Postgres;
use super::support::serve::{Replica, Site};
use super::support::{Agent, PATIENCE, Tool, alone, beside_others, delegated, key, load, path, procura, rng, text, wish};

const INIT: &[&str] = &["--init-single-anchor"];

/// What was answered, by whom it does not matter.
#[derive(Default)]
struct Answers {
    tokens: Vec<Tid>,
    /// Number in the feed, index in the log, token.
    revocations: Vec<(u64, u64, Tid)>,
}

type Book = Arc<Mutex<Answers>>;

/// A revocation by the operator, over the socket in the replica's folder.
async fn revoke(data: &Path, what: &str, id: &str) -> Result<Value, reqwest::Error> {
    let http = reqwest::Client::builder().unix_socket(data.join("procura.sock")).timeout(PATIENCE).build().unwrap();
    let body = json!({ "what": what, "id": id, "reason": "drill" });
    http.post("http://localhost/v1/revocations").json(&body).send().await?.error_for_status()?.json().await
}

async fn mint_at(replica: &Replica, agent: &Agent, delegation: DelegationId) -> Result<Tid, ClientError> {
    let token = agent.at(&replica.http, &replica.public_url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await?;
    Ok(token.claims().claimed().tid)
}

/// What a replica answers whose database connection was ended while it stood still: nothing was written, try again.
#[derive(Clone, Copy, PartialEq)]
enum Unavailable {
    Fails,
    IsTriedAgain,
}

/// Mints and revokes at one replica until it is told to end, or until the replica is gone when that is expected.
fn load_on(
    replica: &Replica,
    agent: Agent,
    delegation: DelegationId,
    (book, counted): (&Book, &Arc<watch::Sender<u64>>),
    end: &watch::Receiver<bool>,
    unavailable: Unavailable,
) -> tokio::task::JoinHandle<()> {
    let (book, counted, end) = (Arc::clone(book), Arc::clone(counted), end.clone());
    let (client, data) = (agent.at(&replica.http, &replica.public_url), replica.data.clone());
    tokio::spawn(async move {
        while !*end.borrow() {
            let token = match client.mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await {
                Ok(token) => token.claims().claimed().tid,
                // An answer that did not come is the kill's doing.
                Err(ClientError::Unreachable(_)) if *end.borrow() => return,
                Err(ClientError::Refused { status: 503, .. }) if unavailable == Unavailable::IsTriedAgain => continue,
                Err(e) => panic!("{e}"),
            };
            book.lock().unwrap().tokens.push(token);
            let revoked = match revoke(&data, "token", &token.to_string()).await {
                Ok(revoked) => revoked,
                Err(e) if e.status().is_none() && *end.borrow() => return,
                Err(e) if e.status().is_some_and(|s| s == 503) && unavailable == Unavailable::IsTriedAgain => continue,
                Err(e) => panic!("{e}"),
            };
            let number = |field: &str| revoked[field].as_u64().unwrap();
            book.lock().unwrap().revocations.push((number("feed_seq"), number("leaf_index"), token));
            counted.send_modify(|n| *n += 1);
        }
    })
}

/// The whole feed as a replica serves it.
async fn feed_of(replica: &Replica) -> Vec<String> {
    let mut messages = Vec::new();
    loop {
        let (status, page) = replica.get(&format!("/v1/feed/tail?tenant=acme&epoch=1&from={}", messages.len() + 1)).await;
        assert_eq!(status, 200, "{page}");
        let page: Value = serde_json::from_str(&page).unwrap();
        messages.extend(page["messages"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_owned()));
        if page["more"] == false {
            return messages;
        }
    }
}

/// The same once the replica has heard of everything: within moments.
async fn whole_feed_of(replica: &Replica, database: &Postgres) -> Vec<String> {
    let head: usize = database.sql("SELECT feed_seq FROM head").await.parse().unwrap();
    let began = Instant::now();
    loop {
        let feed = feed_of(replica).await;
        if feed.len() >= head {
            return feed;
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{} of {head} messages", feed.len());
    }
}

fn numbered(message: &str) -> procura_verifier::feed::message::Batch {
    use base64::Engine as _;
    let signed = SignedMessage::from_bytes(&base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(message).unwrap()).unwrap();
    match Message::from_bytes(signed.unverified_payload()).unwrap() {
        Message::Batch(batch) => batch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_lose_nothing_when_one_is_killed_under_load() {
    let _machine = beside_others().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let (two, mut three) = tokio::join!(site.replica("two", &[]), site.replica("three", &[]));
    assert_eq!(one.trust(), two.trust(), "one authority, whichever replica says so");
    let alice = one.person("alice").await;
    let (book, count) = (Book::default(), Arc::new(watch::Sender::new(0)));
    let (end_three, three_ends) = watch::channel(false);
    let (end, ends) = watch::channel(false);
    let mut tasks = Vec::new();
    for (n, (replica, ends)) in [(&one, &ends), (&two, &ends), (&three, &three_ends)].into_iter().enumerate() {
        for worker in 0..3 {
            let (bot, delegation) = delegated(&alice, &format!("bot-{n}-{worker}"), &key(&mut rng())).await;
            tasks.push(load_on(replica, bot, delegation, (&book, &count), ends, Unavailable::Fails));
        }
    }
    let mut counted = count.subscribe();
    let mut reached = async |more: u64| {
        let goal = *count.borrow() + more;
        tokio::time::timeout(PATIENCE, counted.wait_for(|n| *n >= goal)).await.expect("load goes on").unwrap();
    };
    reached(60).await;
    end_three.send_replace(true);
    three.kill().await;
    reached(60).await;
    end.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }

    // The feed: the same bytes from both, numbered without holes, each message over the one before.
    let feeds = (whole_feed_of(&one, &database).await, whole_feed_of(&two, &database).await);
    assert!(feeds.0 == feeds.1, "two feeds");
    let batches: Vec<_> = feeds.0.iter().map(|m| numbered(m)).collect();
    assert_eq!(batches.iter().map(|b| b.seq).collect::<Vec<_>>(), (1..=batches.len() as u64).collect::<Vec<_>>());

    // The same checkpoint within moments: signed alike, since the signature is a function of the committed row.
    let size = database.sql("SELECT tree_size FROM head").await;
    let mut notes = BTreeMap::new();
    let began = Instant::now();
    while notes.len() < 2 {
        for replica in [&one, &two] {
            let note = replica.get("/checkpoint").await.1;
            if note.lines().nth(1) == Some(&size) {
                notes.insert(replica.data.clone(), note);
            }
        }
        assert!(began.elapsed() < PATIENCE, "not all replicas serve the checkpoint of size {size}");
    }
    assert_eq!(notes[&one.data], notes[&two.data]);

    // The log: one chain, at whichever replica; everything that was answered is in it.
    let bundle_path = scratch.path().join("bundle.tar");
    let ran = procura(&["log", "export", "--data", two.data.to_str().unwrap(), "--out", bundle_path.to_str().unwrap()]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let ran = procura(&["log", "replay", bundle_path.to_str().unwrap(), "--trust", one.data.join("trust.json").to_str().unwrap()]).await;
    assert_eq!(ran.status.code(), Some(0), "replay: {}{}", text(&ran.stdout), text(&ran.stderr));
    let bundle = load(&bundle_path, &one.trust());
    let logged: BTreeSet<Tid> = bundle.leaves().iter().filter_map(|l| if let Event::Issue(e) = &l.event { Some(e.tid) } else { None }).collect();
    {
        let book = book.lock().unwrap();
        println!("{} tokens and {} revocations answered", book.tokens.len(), book.revocations.len());
        assert!(book.tokens.iter().all(|tid| logged.contains(tid)), "an answered token that the log does not know");
        for (seq, leaf, tid) in &book.revocations {
            assert!(matches!(&bundle.leaves()[*leaf as usize].event, Event::Revoke(_)), "leaf {leaf}");
            let batch = &batches[*seq as usize - 1];
            let item = batch.items.iter().find(|(at, _)| at == leaf).expect("its item");
            assert!(format!("{:?}", item.1).contains(&format!("{tid:?}")) || format!("{:?}", item.1).contains(&tid.to_string()), "{:?} is not {tid}", item.1);
        }
    }
    // The killed one comes back on its folder and serves the same.
    let three = site.replica("three", &[]).await;
    assert!(feed_of(&three).await == feeds.0, "two feeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_at_one_replica_hears_what_another_committed() {
    let _machine = alone().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let two = site.replica("two", &[]).await;
    let mut rng = rng();
    let (alice, sam) = (one.person("alice").await, one.person("sam").await);
    let (holder, verifier_key) = (key(&mut rng), key(&mut rng));
    let (bot, delegation) = delegated(&alice, "bot", &holder).await;
    let verifier = sam.enrol("payments/1", &verifier_key).await.unwrap();
    let tool = Tool::start(&one.data.join("trust.json"), scratch.path(), &two.url, "payments/1", verifier, &verifier_key).await;
    for round in 0..10 {
        // Minted at the one replica or the other.
        let at = if round % 2 == 0 { &one } else { &two };
        let token = bot.at(&at.http, &at.public_url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng).await.unwrap();
        let tid = token.claims().claimed().tid;
        let token = token.seal().unwrap();
        let call = async || {
            let wish = wish("acme", "acct/eu/7", 100);
            tool.instance.call(&path(&wish), &token, &holder, &wish, SystemClock.wall(), &mut super::support::rng()).await.unwrap()
        };
        let began = Instant::now();
        while !matches!(call().await, Answered::Done(_)) {
            assert!(began.elapsed() < PATIENCE, "the tool does not allow what it should");
        }
        revoke(&one.data, "token", &tid.to_string()).await.unwrap();
        let committed = Instant::now();
        let denied = loop {
            let asked = committed.elapsed();
            match call().await {
                Answered::Refused { code, .. } if code.starts_with("revoked") => break asked,
                Answered::Refused { code, .. } => assert_eq!(code, "stale"),
                // P4, by the answer to the revocation, which is later than its COMMIT.
                Answered::Done(_) => assert!(asked < Duration::from_millis(200), "allowed {asked:?} after the commit"),
            }
            assert!(committed.elapsed() < PATIENCE, "it never heard");
        };
        println!("round {round}: revoked at one, denied at two's verifier after {denied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stopped_in_the_middle_of_its_work_delays_the_others_by_a_second_at_most() {
    let _machine = alone().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let two = site.replica("two", &[]).await;
    let alice = one.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let (book, count) = (Book::default(), Arc::new(watch::Sender::new(0)));
    let (end, ends) = watch::channel(false);
    let mut tasks = Vec::new();
    for n in 0..4 {
        let (bot, delegation) = delegated(&alice, &format!("busy-{n}"), &key(&mut rng())).await;
        tasks.push(load_on(&two, bot, delegation, (&book, &count), &ends, Unavailable::IsTriedAgain));
    }
    let mut slowest = Duration::ZERO;
    for round in 0..12 {
        let goal = *count.borrow() + 5;
        tokio::time::timeout(PATIENCE, count.subscribe().wait_for(|n| *n >= goal)).await.expect("load").unwrap();
        let tid = mint_at(&one, &bot, delegation).await.unwrap();
        // Wherever it is: often between the head's lock and its COMMIT.
        two.signal("STOP");
        let began = Instant::now();
        let revoked = revoke(&one.data, "token", &tid.to_string()).await;
        slowest = slowest.max(began.elapsed());
        two.signal("CONT");
        revoked.unwrap_or_else(|e| panic!("round {round}: {e}"));
    }
    println!("slowest revocation beside a stopped replica: {slowest:?}");
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
    end.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(whole_feed_of(&one, &database).await == whole_feed_of(&two, &database).await, "two feeds");
}

/// L7: heartbeats carry authority UTC, and the database's clock is the one that all replicas share.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_more_than_a_second_off_the_databases_clock_signs_no_beat() {
    let _machine = beside_others().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let failpoints = one.data.with_extension("failpoints");
    std::fs::create_dir(&failpoints).unwrap();
    for (off_ms, expected) in [("0", 200), ("800", 200), ("1500", 503), ("-800", 200), ("-1500", 503), ("0", 200)] {
        std::fs::write(failpoints.join("new"), off_ms).and_then(|()| std::fs::rename(failpoints.join("new"), failpoints.join("wall-ms"))).unwrap();
        let (status, said) = one.get(&format!("/v1/feed/head?tenant=acme&nonce={}", "07".repeat(16))).await;
        assert_eq!(status, expected, "{off_ms} ms off: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_starts_on_its_own_keys_and_database_or_says_what_is_missing() {
    let _machine = beside_others().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let said = site.refused("one", &[]).await;
    assert!(said.contains("keys.anchors") && said.contains("--init-single-anchor"), "{said}");
    let mut one = site.replica("one", INIT).await;
    let (status, ready) = one.get("/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((status, &ready["parts"]["database"]["kind"]), (200, &json!("postgres")));
    assert_eq!((&ready["parts"]["standby"]["state"], &ready["parts"]["provider"]["state"]), (&json!("degraded"), &json!("ok")));
    assert!(ready["warnings"][0].as_str().unwrap().contains("synchronous standby"), "{ready}");
    // The folder is one process's.
    let said = site.refused("one", &[]).await;
    assert!(said.contains("in use by another process"), "{said}");
    // Another key folder is another authority, and nothing is made there.
    let keys = scratch.path().join("keys");
    std::fs::rename(&keys, scratch.path().join("away")).unwrap();
    std::fs::create_dir(&keys).unwrap();
    std::fs::copy(scratch.path().join("away/anchor.key"), keys.join("anchor.key")).unwrap();
    let said = site.refused("two", INIT).await;
    assert!(said.contains("has no root key"), "{said}");
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1);
    std::fs::remove_dir_all(&keys).unwrap();
    std::fs::rename(scratch.path().join("away"), &keys).unwrap();

    // Asked to end, it ends well; and it starts again without being asked to make anything.
    one.signal("TERM");
    assert!(one.ended().await.success());
    let one = site.replica("one", &[]).await;
    drop(one);

    // The same keys on an emptied database: whatever was revoked there is forgotten, so nobody serves it by accident.
    database.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    let said = site.refused("one", &[]).await;
    assert!(said.contains("the database has no key list"), "{said}");
    let said = site.refused("one", INIT).await;
    assert!(said.contains("released") || said.contains("older than the log"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_runs_on_sqlite_as_well_and_check_names_what_is_weaker() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    let config = scratch.path().join("procura.toml");
    let ran = procura(&["serve", "--config", config.to_str().unwrap(), "--check"]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let checked: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(checked["settings"]["issuer"]["url"], site.issuer());
    assert!(checked["weakens"].to_string().contains("keys.anchors"), "{checked}");
    assert!(!text(&ran.stdout).contains("a secret of a test"));

    let one = site.replica("one", INIT).await;
    let alice = one.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let tid = mint_at(&one, &bot, delegation).await.unwrap();
    let data = one.data.to_str().unwrap();
    let ran = procura(&["revoke", "token", &tid.to_string(), "--reason", "drill", "--data", data]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert_eq!(feed_of(&one).await.len(), 1);
    let (_, ready) = one.get("/readyz").await;
    assert!(ready.contains("sqlite") && ready.contains("\"warnings\":[]"), "{ready}");
}
