//! A restored backup un-revokes nothing: the authority refuses to sign, an operator names the break, and verifiers hand back
//! what the database has lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_authority::log::event::Event;
use procura_sdk::caller::Answered;
use procura_sdk::client::{ClientError, MintRequest};
use procura_sdk::held::SealedToken;
use procura_verifier::call::{Call, Seed};
use procura_verifier::claims::DataClass;
use procura_verifier::decision::{Asked, Cause, Decision, ToolPolicy, decide};
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::feed::sse::{FeedClient, FeedConfig};
use procura_verifier::feed::{Alarm, Message, SignedMessage};
use procura_verifier::ids::{Clock as _, SystemClock, VerifierId};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::receipt::SignedReceipt;
use procura_verifier::revocation::{RevocationView as _, View};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;

use super::support::{Authority, PATIENCE, Tool, beside_others, delegated, expect, http, key, load, mint, path, procura, rng, text, wish};

/// A token and its holder's key.
struct Held {
    token: SealedToken,
    key: SigningKey,
}

/// A verifier in this process, and what it was alarmed by.
struct Verifier {
    view: Arc<View>,
    client: FeedClient,
    alarms: Arc<Mutex<Vec<Alarm>>>,
}

impl Verifier {
    fn start(authority: &Authority, folder: Option<&Path>) -> Self {
        let (trust, alarms) = (authority.trust(), Arc::<Mutex<Vec<Alarm>>>::default());
        let view = Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap()));
        let mut config = FeedConfig::new(authority.url.clone(), trust.anchors, http());
        config.folder = folder.map(Path::to_owned);
        let heard = Arc::clone(&alarms);
        config.on_alarm = Box::new(move |alarm| heard.lock().unwrap().push(alarm.clone()));
        Self { client: FeedClient::start(config, Arc::clone(&view)), view, alarms }
    }

    async fn until(&self, held: &Held, expected: &str) {
        let began = Instant::now();
        loop {
            let verdict = verdict(&self.view, held);
            if verdict == expected {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "says {verdict}, expected {expected}; {:?}", self.client.status());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn was_alarmed(&self, is: impl Fn(&Alarm) -> bool) -> bool {
        self.alarms.lock().unwrap().iter().any(is)
    }
}

fn verdict(view: &View, held: &Held) -> &'static str {
    let (arrived, wish) = (SystemClock.boot(), wish("acme", "acct/eu/7", 100));
    let (audience, keys) = ("payments/1".parse().unwrap(), view.key_list());
    let call = Call {
        tenant: &wish.tenant,
        audience: &audience,
        tool: &wish.tool,
        action: &wish.action,
        resource: &wish.resource,
        args: &wish.args,
        data_class: DataClass::Internal,
    };
    let token = UnverifiedToken::parse(held.token.as_bytes()).unwrap().verify(&keys).unwrap();
    let proof = UnverifiedProof::sign(&held.key, token.hash(), &call, SystemClock.wall(), &[7; 16], [5; 16], Seed::from_bytes([3; 32]));
    let proof = proof.verify(token.last_holder(), token.hash(), &call).unwrap();
    match decide(&token, Asked::Proven(proof.proven()), &ToolPolicy::STRICT, view, &SystemClock, arrived) {
        Decision::Allow(_) => "allow",
        Decision::Deny(Cause::Revoked(_)) => "revoked",
        Decision::Deny(Cause::Stale) => "stale",
        Decision::Deny(_) => "other",
    }
}

/// The database's files, as they stand when nobody runs.
fn copy_database(from: &Path, to: &Path) {
    for name in ["procura.db", "procura.db-wal", "procura.db-shm"] {
        _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// What the feed has from the start of an epoch on.
async fn feed_of(authority: &Authority, epoch: u64) -> Vec<Message> {
    let (status, body) = authority.get(&format!("/v1/feed/tail?tenant=acme&epoch={epoch}&from=0")).await;
    assert_eq!(status, 200, "{}", text(&body));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let messages = body["messages"].as_array().unwrap().iter().map(|m| SignedMessage::from_bytes(&BASE64.decode(m.as_str().unwrap()).unwrap()).unwrap());
    let keys = authority.trust().keys().unwrap();
    messages.map(|m| m.verify(&keys, None).unwrap()).collect()
}

async fn handed_back(authority: &Authority, epoch: u64, wanted: impl Fn(&Item) -> bool) {
    let began = Instant::now();
    loop {
        let messages = feed_of(authority, epoch).await;
        assert!(matches!(&messages[..], [Message::EpochStart(start), ..] if start.epoch == epoch && start.prev_epoch == 1), "{messages:?}");
        let items = messages.iter().filter_map(|m| if let Message::Batch(b) = m { Some(&b.items) } else { None }).flatten();
        if items.map(|(_, item)| item).any(&wanted) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "not handed back: {messages:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_un_revokes_nothing() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let backup = scratch.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    let mut authority = Authority::start(&scratch.path().join("authority")).await;
    let (data, address) = (authority.data.clone(), authority.address().to_owned());
    let at = data.to_str().unwrap().to_owned();
    let alice = authority.person("alice").await;
    let mut held = Vec::new();
    let (mut grants, mut tids, mut bots) = (Vec::new(), Vec::new(), Vec::new());
    for name in ["floored", "named", "living"] {
        let holder = key(&mut rng());
        let (bot, grant) = delegated(&alice, name, &holder).await;
        let token = mint(&authority, &bot, grant).await;
        tids.push(token.claims().claimed().tid);
        held.push(Held { token: token.seal().unwrap(), key: holder });
        grants.push(grant);
        bots.push(bot);
    }
    let [floored, named, living] = &held[..] else { panic!("three") };
    let knows = Verifier::start(&authority, Some(&scratch.path().join("verifier")));
    for held in &held {
        knows.until(held, "allow").await;
    }
    authority.kill().await;
    copy_database(&data, &backup);
    let whole = procura(&["log", "recover", "--data", &at, "--reason", "none"]).await;
    assert!(!whole.status.success() && text(&whole.stderr).contains("nothing to recover"), "{}", text(&whole.stderr));

    authority = Authority::start_at(&data, &address).await;
    expect(alice.revoke("delegation", &grants[0].to_string(), "it leaked").await.unwrap()).unwrap();
    expect(alice.revoke("token", &tids[1].to_string(), "it leaked").await.unwrap()).unwrap();
    knows.until(floored, "revoked").await;
    knows.until(named, "revoked").await;
    knows.until(living, "allow").await;
    authority.kill().await;
    copy_database(&backup, &data);

    // From here on, whatever happens, what is known as revoked is never allowed.
    let stop = Arc::new(AtomicBool::new(false));
    let late = std::thread::spawn({
        let (view, stop) = (Arc::clone(&knows.view), Arc::clone(&stop));
        let revoked = [floored, named].map(|h| Held { token: h.token.clone(), key: h.key.clone() });
        move || {
            let (mut allowed, mut asked) = (0, 0_u64);
            while !stop.load(Ordering::SeqCst) {
                allowed += revoked.iter().filter(|h| verdict(&view, h) != "revoked").count();
                asked += 1;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            (allowed, asked)
        }
    });

    // The authority says what to do and signs nothing.
    let refused = procura(&["dev", "--json", "--listen", &address, "--data", &at]).await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("procura log recover"), "{}", text(&refused.stderr));
    let recovered = procura(&["log", "recover", "--data", &at, "--reason", "restored the backup"]).await;
    assert!(recovered.status.success() && text(&recovered.stdout).contains("procura.dev/acme/2"), "{}{}", text(&recovered.stdout), text(&recovered.stderr));
    let again = procura(&["log", "recover", "--data", &at, "--reason", "twice"]).await;
    assert!(!again.status.success() && text(&again.stderr).contains("nothing to recover"), "{}", text(&again.stderr));

    authority = Authority::start_at(&data, &address).await;
    let floor = |item: &Item| matches!(item, Item::Floor { scope: FloorScope::Delegation(id), generation: 1 } if *id == grants[0]);
    let tid = |item: &Item| matches!(item, Item::Tid { tid, .. } if *tid == tids[1]);
    handed_back(&authority, 2, floor).await;
    handed_back(&authority, 2, tid).await;
    assert!(knows.was_alarmed(|a| matches!(a, Alarm::Loss { epoch: 1, .. })), "{:?}", knows.alarms);
    knows.until(living, "allow").await;

    // Somebody who has heard nothing before learns it from the authority alone; and the kill sticks.
    let fresh = Verifier::start(&authority, None);
    fresh.until(living, "allow").await;
    assert_eq!([verdict(&fresh.view, floored), verdict(&fresh.view, named)], ["revoked"; 2]);
    let minted = bots[0].at(&authority.http, &authority.url).mint(&MintRequest { delegation: grants[0], ttl_secs: None }, &mut rng()).await;
    assert!(matches!(minted, Err(ClientError::Refused { status: 409, .. })), "{minted:?}");
    replays(&authority, 1).await;

    // The same backup once more: the epoch that it lost never begins again.
    authority.kill().await;
    copy_database(&backup, &data);
    let refused = procura(&["dev", "--json", "--listen", &address, "--data", &at]).await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("procura log recover"), "{}", text(&refused.stderr));
    let recovered = procura(&["log", "recover", "--data", &at, "--reason", "restored it again"]).await;
    assert!(recovered.status.success() && text(&recovered.stdout).contains("procura.dev/acme/3"), "{}{}", text(&recovered.stdout), text(&recovered.stderr));
    authority = Authority::start_at(&data, &address).await;
    handed_back(&authority, 3, floor).await;
    handed_back(&authority, 3, tid).await;
    for verifier in [&knows, &fresh] {
        verifier.until(living, "allow").await;
        verifier.until(floored, "revoked").await;
    }
    replays(&authority, 1).await;
    stop.store(true, Ordering::SeqCst);
    let (allowed, asked) = late.join().unwrap();
    assert!(allowed == 0 && asked > 100, "{allowed} of {asked}");
}

async fn replays(authority: &Authority, breaks: usize) {
    let bundle = authority.export("bundle.tar").await;
    let said = procura(&["log", "replay", bundle.to_str().unwrap(), "--trust", authority.trust_path().to_str().unwrap(), "--json"]).await;
    let summary: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert!(said.status.success(), "{summary}");
    assert_eq!(summary["summary"]["breaks"].as_array().unwrap().len(), breaks, "{summary}");
}

/// The receipts that a backup lost were acknowledged to the tool. It delivers them again, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_gives_a_restored_authority_the_receipts_it_lost_and_goes_on() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let backup = scratch.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    let mut authority = Authority::start(&scratch.path().join("authority")).await;
    let (data, address) = (authority.data.clone(), authority.address().to_owned());
    let at = data.to_str().unwrap().to_owned();
    let (alice, sam) = (authority.person("alice").await, authority.person("sam").await);
    let (holder, signing, late) = (key(&mut rng()), key(&mut rng()), key(&mut rng()));
    let (bot, grant) = delegated(&alice, "bot", &holder).await;
    let token = mint(&authority, &bot, grant).await.seal().unwrap();
    let verifier = sam.enrol("payments/1", &signing).await.unwrap();
    let tool = Tool::start(&authority.trust_path(), scratch.path(), &authority.url, "payments/1", verifier, &signing).await;
    let call = async |tool: &Tool, times: usize| {
        let (wish, began, mut done) = (wish("acme", "acct/eu/7", 100), Instant::now(), 0);
        while done < times {
            let answered = tool.instance.call(&path(&wish), &token, &holder, &wish, SystemClock.wall(), &mut rng()).await.unwrap();
            done += usize::from(matches!(answered, Answered::Done(_)));
            assert!(began.elapsed() < PATIENCE, "{answered:?}");
        }
    };
    call(&tool, 3).await;
    allows(&authority, verifier, 3).await;
    authority.kill().await;
    copy_database(&data, &backup);

    authority = Authority::start_at(&data, &address).await;
    // One that is enrolled after the backup.
    let sam = authority.person("sam").await;
    let second = sam.enrol("payments/2", &late).await.unwrap();
    let newcomer = Tool::start(&authority.trust_path(), scratch.path(), &authority.url, "payments/2", second, &late).await;
    call(&tool, 5).await;
    call(&newcomer, 2).await;
    allows(&authority, verifier, 8).await;
    allows(&authority, second, 2).await;
    authority.kill().await;
    copy_database(&backup, &data);
    let recovered = procura(&["log", "recover", "--data", &at, "--reason", "restored the backup"]).await;
    assert!(recovered.status.success(), "{}", text(&recovered.stderr));

    authority = Authority::start_at(&data, &address).await;
    call(&tool, 1).await;
    allows(&authority, verifier, 9).await;
    // It goes on too, though nobody knows it; once it is enrolled again under its id, nothing of it is missing.
    call(&newcomer, 1).await;
    allows(&authority, second, 0).await;
    let (public, second_id) = (procura_verifier::ids::Key::of(&late).to_string(), second.to_string());
    let enrol = ["verifiers", "enroll", "--audience", "payments/2", "--public-key", &public, "--verifier", &second_id, "--data", &at];
    let enrolled = procura(&enrol).await;
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    allows(&authority, second, 3).await;
    replays(&authority, 1).await;
}

/// Until the log has so many allows of a verifier, each once.
async fn allows(authority: &Authority, verifier: VerifierId, expected: usize) {
    let began = Instant::now();
    loop {
        let bundle = load(&authority.export("receipts.tar").await, &authority.trust());
        let receipts = bundle.leaves().iter().filter_map(|l| if let Event::Receipt(r) = &l.event { Some(r) } else { None });
        let allowed = receipts.filter(|r| r.verifier == verifier).filter(|r| {
            let receipt = SignedReceipt::from_bytes(&r.receipt.0).unwrap().claimed().unwrap();
            receipt.verdict.is_ok()
        });
        let found = allowed.count();
        if found == expected {
            return;
        }
        assert!(found < expected && began.elapsed() < PATIENCE, "{found} allows, expected {expected}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
