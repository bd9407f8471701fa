//! Keys rotate and die under a running authority with a tool at work: the command line from the new key pairs to the list in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procura_sdk::caller::Answered;
use procura_sdk::held::SealedToken;
use procura_verifier::feed::sse::{FeedClient, FeedConfig, http_client};
use procura_verifier::ids::{Clock as _, SystemClock};
use procura_verifier::revocation::{RevocationView as _, View};
use serde_json::Value;

use super::support::{Authority, PATIENCE, Tool, alone, beside_others, delegated, key, load, mint, path, procura, procura_fed, rng, text, wish};

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

async fn keys(args: &[&str]) -> Result<Value, String> {
    let ran = procura(&[&["keys"], args, &["--json"]].concat()).await;
    if ran.status.success() { Ok(serde_json::from_slice(&ran.stdout).unwrap()) } else { Err(text(&ran.stderr)) }
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Prepares, has the anchor of `procura dev` sign, and publishes.
async fn change(authority: &Authority, scratch: &Scratch, name: &str, what: &[&str]) -> Value {
    let (data, file) = (arg(&authority.data).to_owned(), scratch.file(name));
    keys(&[&["prepare", "--data", &data, "--out", arg(&file)], what].concat()).await.unwrap();
    let unsigned = keys(&["publish", "--data", &data, arg(&file)]).await.unwrap_err();
    assert!(unsigned.contains("0 valid anchor signatures"), "{unsigned}");
    keys(&["sign", "--anchor", arg(&authority.data.join("keys/anchor.key")), arg(&file), "--yes"]).await.unwrap();
    keys(&["publish", "--data", &data, arg(&file)]).await.unwrap()
}

async fn alive(authority: &Authority, usage: &str) -> Vec<String> {
    let shown = keys(&["list", "--data", arg(&authority.data)]).await.unwrap();
    let of = |k: &&Value| k["usage"] == usage && k["state"] == "alive";
    shown["keys"].as_array().unwrap().iter().filter(of).map(|k| k["key"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_rotate_and_the_feed_key_dies_while_a_tool_works() {
    let _machine = alone().await;
    let scratch = Scratch(tempfile::tempdir().unwrap());
    let mut authority = Authority::start(&scratch.file("authority")).await;
    let trust = authority.trust();
    let old_trust = scratch.file("trust-of-the-start.json");
    std::fs::copy(authority.trust_path(), &old_trust).unwrap();
    let mut rng = rng();
    let (alice, sam) = (authority.person("alice").await, authority.person("sam").await);
    let (holder, verifier_key) = (key(&mut rng), key(&mut rng));
    let (bot, delegation) = delegated(&alice, "bot", &holder).await;
    let verifier = sam.enrol("payments/1", &verifier_key).await.unwrap();
    let tool = Tool::start(&old_trust, scratch.0.path(), &authority.url, "payments/1", verifier, &verifier_key).await;
    let tokens = [mint(&authority, &bot, delegation).await, mint(&authority, &bot, delegation).await];
    let tid = tokens[1].claims().claimed().tid.to_string();
    let [before, doomed] = tokens.map(|t| t.seal().unwrap());
    let wished = wish("acme", "acct/eu/7", 100);
    let ask =
        async |token: &SealedToken| tool.instance.call(&path(&wished), token, &holder, &wished, SystemClock.wall(), &mut super::support::rng()).await.unwrap();
    let began = Instant::now();
    while !matches!(ask(&before).await, Answered::Done(_)) {
        assert!(began.elapsed() < PATIENCE);
    }

    // A second verifier in this process, whose freshness is looked at every millisecond.
    let view = Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap()));
    let client = FeedClient::start(FeedConfig::new(authority.url.clone(), trust.anchors.clone(), http_client().unwrap()), view.clone());
    let began = Instant::now();
    while view.fresh_as_of().is_none() {
        assert!(began.elapsed() < PATIENCE);
        client.refresh().await;
    }
    let (stop, oldest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let watching = std::thread::spawn({
        let (stop, oldest, view) = (stop.clone(), oldest.clone(), view.clone());
        move || {
            let mut fresh = SystemClock.boot();
            while !stop.load(Ordering::Relaxed) {
                fresh = fresh.max(view.fresh_as_of().unwrap_or_default());
                oldest.fetch_max(SystemClock.boot().micros_since(fresh), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });

    for (step, what) in [("rotate", &["--rotate", "root,feed,event,log,card,approval"][..]), ("dead", &["--dead", "FEED", "--reason", "laptop stolen"][..])] {
        let feed = alive(&authority, "feed").await;
        let what: Vec<_> = what.iter().map(|w| if *w == "FEED" { feed[0].as_str() } else { w }).collect();
        let done = change(&authority, &scratch, step, &what).await;
        let wanted = done["version"].as_u64().unwrap();
        // For longer than the new keys wait for their first signature.
        let (began, mut done_at, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while began.elapsed() < Duration::from_secs(7) {
            match ask(&before).await {
                Answered::Done(_) => done_at = Instant::now(),
                Answered::Refused { status, .. } => assert_eq!(status, 503, "stale at most"),
            }
            longest = longest.max(done_at.elapsed());
        }
        assert_eq!(view.key_list().payload().version, wanted);
        println!("{step}: the tool said no for at most {} ms", longest.as_millis());
        assert!(longest < Duration::from_secs(2), "one pull, not an outage: {longest:?}");
        let after = mint(&authority, &bot, delegation).await.seal().unwrap();
        assert!(matches!(ask(&after).await, Answered::Done(_)), "new tokens under the new keys");
    }
    stop.store(true, Ordering::Relaxed);
    watching.join().unwrap();
    println!("a view was {} ms old at most", oldest.load(Ordering::Relaxed) / 1000);
    assert!(oldest.load(Ordering::Relaxed) < 2_000_000, "{} us", oldest.load(Ordering::Relaxed));

    // What is taken back under the new keys reaches everybody, and no allow comes late.
    let ran = procura(&["revoke", "token", &tid, "--reason", "test", "--data", arg(&authority.data)]).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let committed = Instant::now();
    while committed.elapsed() < Duration::from_millis(600) {
        let asked = committed.elapsed();
        if let Answered::Done(_) = ask(&doomed).await {
            assert!(asked < Duration::from_millis(200), "allowed {asked:?} after the commit");
        }
    }
    assert!(matches!(ask(&before).await, Answered::Done(_)));

    // A cold verifier with the trust file of the start, whose every feed key has ended or died, reads it all.
    let view = Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap()));
    let cold = FeedClient::start(FeedConfig::new(authority.url.clone(), trust.anchors.clone(), http_client().unwrap()), view.clone());
    let began = Instant::now();
    while cold.status().watermark.1 < 1 || view.fresh_as_of().is_none() {
        assert!(began.elapsed() < PATIENCE, "{:?}", cold.status());
        cold.refresh().await;
    }
    // The auditor too, before and after a restart, and with the folder at rest.
    load(&authority.export("running.tar").await, &trust);
    authority.kill().await;
    let replayed = procura(&["log", "export", "--data", arg(&authority.data), "--out", arg(&scratch.file("rest.tar"))]).await;
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    let replayed = procura(&["log", "replay", arg(&scratch.file("rest.tar")), "--trust", arg(&old_trust)]).await;
    assert!(replayed.status.success(), "{}", text(&replayed.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_list_is_made_signed_by_two_of_three_and_trusted() {
    let _machine = beside_others().await;
    let scratch = Scratch(tempfile::tempdir().unwrap());
    let mut anchors = Vec::new();
    for n in 1..=3 {
        let made = keys(&["anchor", "new", "--out", arg(&scratch.file(&format!("anchor-{n}.key")))]).await.unwrap();
        anchors.push(made["public_key"].as_str().unwrap().to_owned());
    }
    let (folder, list) = (scratch.file("keys"), scratch.file("list.unsigned"));
    let first = ["prepare", "--first", "--tenant", "acme", "--keys", arg(&folder), "--out", arg(&list)];
    let made = keys(&first).await.unwrap();
    assert_eq!((made["keys"].as_array().unwrap().len(), made["version"].as_u64()), (6, Some(1)));
    assert!(keys(&first).await.unwrap_err().contains("is there already"));

    // Asked, and told no.
    let anchor = |n: u8| scratch.file(&format!("anchor-{n}.key"));
    let (one, three) = (scratch.file("one.signed"), scratch.file("three.signed"));
    let first_anchor = anchor(1);
    let asked = ["keys", "sign", "--anchor", arg(&first_anchor), arg(&list), "--out", arg(&one)];
    let refused = procura_fed(&asked, b"no\n").await;
    assert!(!refused.status.success() && text(&refused.stdout).contains(made["fingerprint"].as_str().unwrap()) && !one.exists());
    let signed = procura_fed(&asked, b"yes\n").await;
    assert!(signed.status.success(), "{}", text(&signed.stderr));
    keys(&["sign", "--anchor", arg(&anchor(3)), arg(&list), "--out", arg(&three), "--yes"]).await.unwrap();

    let trust = scratch.file("trust.json");
    let trusting = async || {
        let mut args = vec!["trust", "--threshold", "2", "--authority", "https://procura.example", "--list", arg(&one), "--out", arg(&trust)];
        anchors.iter().for_each(|a| args.extend(["--anchor", a]));
        keys(&args).await
    };
    assert!(trusting().await.unwrap_err().contains("carries 1 valid anchor signatures, expected at least 2"));
    let merged = procura(&["keys", "merge", arg(&one), arg(&three)]).await;
    assert!(merged.status.success(), "{}", text(&merged.stderr));
    assert_eq!(trusting().await.unwrap()["tenant"], "acme");
    let file = procura_verifier::trust::TrustFile::from_json(&std::fs::read(&trust).unwrap()).unwrap();
    assert_eq!((file.anchors.threshold(), file.keys().unwrap().payload().version), (2, 1));
    // A rotation from the published file, far from any authority.
    let next = scratch.file("next.unsigned");
    let made = keys(&["prepare", "--keys", arg(&folder), "--list", arg(&one), "--rotate", "root,log", "--out", arg(&next)]).await.unwrap();
    assert_eq!((made["keys"].as_array().unwrap().len(), made["version"].as_u64()), (8, Some(2)));
    let nothing = keys(&["prepare", "--keys", arg(&folder), "--list", arg(&one), "--out", arg(&scratch.file("none"))]).await;
    assert!(nothing.unwrap_err().contains("expected something to rotate"));
    let count = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(count, 8, "what was refused made no keys");
}
