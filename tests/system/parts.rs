//! An authority whose parts fail one by one: what goes on, what says so, and what is read of one that stands still.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::feed::SignedMessage;
use procura_verifier::ids::Key;
use procura_verifier::key_list::KeyUse;
use procura_verifier::wire::Canonical as _;
use serde_json::{Value, json};

use super::support::postgres::Postgres;
use super::support::redis::RedisProcess;
use super::support::serve::{Replica, Site};
use super::support::{PATIENCE, Tool, alone, beside_others, delegated, expect, key, procura, rng, text};

const INIT: &[&str] = &["--init-single-anchor"];

/// Status and parts.
async fn ready(replica: &Replica) -> (u16, Value) {
    let (status, body) = replica.get("/readyz").await;
    (status, serde_json::from_str(&body).unwrap())
}

/// Until the part is so.
async fn until(replica: &Replica, part: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let (status, ready) = ready(replica).await;
        if ready["parts"][part]["state"] == state {
            return json!({ "status": status, "ready": ready });
        }
        assert!(began.elapsed() < PATIENCE, "{part} is not {state}: {ready}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metric(replica: &Replica, line: &str) {
    let began = Instant::now();
    loop {
        let (_, page) = replica.get("/metrics").await;
        if page.lines().any(|l| l == line) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no {line} in {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_provider_everything_is_served_but_signing_in_and_that_when_it_comes() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let one = site.replica("one", INIT).await;
    let alice = one.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    drop(one);

    site.end_provider().await;
    let one = site.replica("one", &[]).await;
    let (status, said) = ready(&one).await;
    assert_eq!((status, &said["ok"], &said["parts"]["provider"]["state"]), (200, &json!(true), &json!("degraded")), "{said}");
    assert!(said["warnings"].to_string().contains("nobody can sign in"), "{said}");
    metric(&one, "procura_part{part=\"provider\"} 1").await;
    for path in ["/login", "/oidc/callback?state=x&code=y"] {
        let (status, sentence) = one.get(path).await;
        assert!(status == 503 && sentence.contains("OpenID provider has not answered"), "{path}: {status} {sentence}");
    }
    let said = std::fs::read_to_string(one.data.with_extension("stderr")).unwrap();
    assert!(said.contains("provider.unavailable"), "{said}");
    // Minting, sessions that stand, heartbeats and taking back wait for nobody.
    let token = bot.at(&one.http, &one.public_url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await.unwrap();
    let nonce = hex::encode([1; 16]);
    assert_eq!(one.get(&format!("/v1/feed/head?tenant=acme&nonce={nonce}")).await.0, 200);
    expect(alice.revoke("token", &token.claims().claimed().tid.to_string(), "leaked").await.unwrap()).unwrap();
    let data = one.data.to_str().unwrap();
    let ran = procura(&["revoke", "delegation", &delegation.to_string(), "--reason", "drill", "--data", data]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));

    site.start_provider().await;
    until(&one, "provider", "ok").await;
    one.person("bob").await;
    metric(&one, "procura_part{part=\"provider\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_down_is_degraded_and_named_and_nothing_waits_for_it() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut redis = RedisProcess::start("");
    let site = Site::new(scratch.path(), "sqlite:").await;
    let config = scratch.path().join("procura.toml");
    let with = format!("{}\n[redis]\nurl = \"{}\"\n", std::fs::read_to_string(&config).unwrap(), redis.url());
    std::fs::write(&config, with).unwrap();
    redis.kill();
    let one = site.replica("one", INIT).await;
    let down = until(&one, "redis", "degraded").await;
    assert_eq!((&down["status"], &down["ready"]["ok"]), (&json!(200), &json!(true)), "{down}");
    assert!(!down.to_string().contains("6379") && !down.to_string().contains(&redis.port.to_string()), "strangers learn no addresses: {down}");
    metric(&one, "procura_part{part=\"redis\"} 1").await;
    let ran = procura(&["revoke", "key", &Key::of(&key(&mut rng())).to_string(), "--reason", "drill", "--data", one.data.to_str().unwrap()]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    redis.restart();
    until(&one, "redis", "ok").await;
    metric(&one, "procura_part{part=\"redis\"} 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_down_fails_readiness_and_says_which_part() {
    let _machine = beside_others().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let (status, whole) = ready(&one).await;
    assert_eq!((status, &whole["parts"]["database"]["state"], &whole["parts"]["heartbeat"]["state"]), (200, &json!("ok"), &json!("ok")), "{whole}");
    assert!(whole["parts"]["event_key"]["left_secs"].as_u64().unwrap() > 360 * 86_400, "{whole}");
    drop(database);
    let down = until(&one, "database", "failed").await;
    assert_eq!(
        (&down["status"], &down["ready"]["ok"], &down["ready"]["parts"]["heartbeat"]["state"]),
        (&json!(503), &json!(false), &json!("failed")),
        "{down}"
    );
    assert_eq!(one.get("/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_serve_is_exported_whether_it_runs_or_not() {
    let _machine = beside_others().await;
    for postgres in [false, true] {
        let (database, scratch) = (if postgres { Some(Postgres::start().await) } else { None }, tempfile::tempdir().unwrap());
        let site = Site::new(scratch.path(), &database.as_ref().map_or("sqlite:".to_owned(), Postgres::url)).await;
        let config = scratch.path().join("procura.toml");
        let config = config.to_str().unwrap();
        let export = async |name: &str| {
            let out = scratch.path().join(name);
            let ran = procura(&["log", "export", "--config", config, "--out", out.to_str().unwrap()]).await;
            (ran, out)
        };
        // Before there is anything: nothing is made.
        let (ran, _) = export("none.tar").await;
        assert!(!ran.status.success() && text(&ran.stderr).contains("nothing was served"), "{}", text(&ran.stderr));
        assert!(!scratch.path().join("keys").exists() && !scratch.path().join("one").exists());

        let mut one = site.replica("one", INIT).await;
        let alice = one.person("alice").await;
        delegated(&alice, "bot", &key(&mut rng())).await;
        let mut leaves = Vec::new();
        for running in [true, false] {
            if !running {
                one.signal("TERM");
                assert!(one.ended().await.success());
            }
            let (ran, out) = export(if running { "running.tar" } else { "stopped.tar" }).await;
            assert!(ran.status.success(), "running {running}: {}", text(&ran.stderr));
            let trust = one.data.join("trust.json");
            let ran = procura(&["log", "replay", out.to_str().unwrap(), "--trust", trust.to_str().unwrap(), "--json"]).await;
            let said: Value = serde_json::from_slice(&ran.stdout).unwrap();
            assert_eq!(ran.status.code(), Some(0), "{said}");
            leaves.push(said["summary"]["leaves"].as_u64().unwrap());
        }
        assert!(leaves[0] == leaves[1] && leaves[0] > 3, "{leaves:?}");
        // And it starts again where it was.
        let one = site.replica("one", &[]).await;
        assert_eq!(ready(&one).await.0, 200);
    }
    let both = procura(&["log", "export", "--config", "a", "--data", "b", "--out", "c"]).await;
    assert_eq!(both.status.code(), Some(2), "one of the two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_one_replica_waits_for_the_verifier_at_another() {
    let _machine = alone().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let two = site.replica("two", &[]).await;
    let (alice, sam) = (one.person("alice").await, one.person("sam").await);
    let verifier_key = key(&mut rng());
    let verifier = sam.enrol("payments/1", &verifier_key).await.unwrap();
    // Its stream and its acknowledgements go to the second replica alone.
    let tool = Tool::start(&one.data.join("trust.json"), scratch.path(), &two.url, "payments/1", verifier, &verifier_key).await;
    let (_, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let kill = async || {
        let args = ["revoke", "delegation", &delegation.to_string(), "--reason", "drill", "--wait=10s", "--json", "--data", one.data.to_str().unwrap()];
        let ran = procura(&args).await;
        let said: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&ran.stderr)));
        let all = said["coverage"]["verifiers"].as_array().unwrap().clone();
        assert_eq!((all.len(), &all[0]["verifier"]), (1, &json!(verifier)), "{said}");
        (ran.status.code(), all[0]["state"].as_str().unwrap().to_owned(), said)
    };
    // On a busy machine a word may come after the verifier's bound of 150 ms: then it is fenced, and covered all the same.
    let began = Instant::now();
    loop {
        match kill().await {
            (Some(0), state, said) if state == "confirmed" => {
                assert!(said["coverage"]["slowest_ms"].as_u64().unwrap() <= 200, "{said}");
                break;
            }
            // Not heard of yet: it has been here for a moment only.
            (Some(4), state, _) if state == "not_covered" => {}
            (Some(0), state, _) if state == "fenced" => {}
            (code, _, said) => panic!("exit {code:?}: {said}"),
        }
        assert!(began.elapsed() < PATIENCE, "the other replica's word never came");
    }
    // Silent, it is named and presumed fenced, at the replica that never saw it.
    assert!(std::process::Command::new("kill").args(["-STOP", &tool.pid().to_string()]).status().unwrap().success());
    let (code, state, said) = kill().await;
    assert!(std::process::Command::new("kill").args(["-CONT", &tool.pid().to_string()]).status().unwrap().success());
    assert_eq!((code, state.as_str()), (Some(0), "fenced"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_key_that_is_killed_at_one_replica_mints_at_none() {
    let _machine = beside_others().await;
    let (database, scratch) = (Postgres::start().await, tempfile::tempdir().unwrap());
    let site = Site::new(scratch.path(), &database.url()).await;
    let one = site.replica("one", INIT).await;
    let two = site.replica("two", &[]).await;
    let (alice, holder) = (one.person("alice").await, key(&mut rng()));
    let (bot, delegation) = delegated(&alice, "bot", &holder).await;
    let mint = async |at: &Replica| bot.at(&at.http, &at.public_url).mint(&MintRequest { delegation, ttl_secs: None }, &mut rng()).await;
    for replica in [&one, &two] {
        mint(replica).await.unwrap();
    }
    let root = two.trust().keys().unwrap().of(KeyUse::Root).map(|k| k.key).next().unwrap();
    let ran = procura(&["revoke", "key", &root.to_string(), "--reason", "stolen", "--data", one.data.to_str().unwrap()]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    // The other has not been told by anybody: its transaction knows.
    for replica in [&two, &one, &two] {
        match mint(replica).await {
            Err(ClientError::Refused { status: 503, message, .. }) => assert!(message.contains("keys prepare --rotate root"), "{message}"),
            other => panic!("{other:?}"),
        }
        until(replica, "root_key", "degraded").await;
    }
    let page = two.get("/v1/feed/tail?tenant=acme&epoch=1&from=1").await.1;
    let page: Value = serde_json::from_str(&page).unwrap();
    let messages = page["messages"].as_array().unwrap();
    assert!(messages.iter().all(|m| SignedMessage::from_bytes(&BASE64.decode(m.as_str().unwrap()).unwrap()).is_ok()) && messages.len() == 1, "{page}");
}
