//! A primary with a synchronous streaming standby: what the standby has not got is not answered, by no replica and on no way.

use std::path::Path;
use std::time::{Duration, Instant};

use procura_verifier::ids::Tid;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::serve::{Replica, Site};
use super::support::standby::{Folder, Node};
use super::support::{PATIENCE, alone, beside_others, delegated, key, procura, rng, text};

/// A revocation by the operator: status and answer.
async fn revoke(data: &Path, tid: Tid) -> (u16, Value) {
    let http = reqwest::Client::builder().unix_socket(data.join("procura.sock")).timeout(PATIENCE).build().unwrap();
    let body = json!({ "what": "token", "id": tid.to_string(), "reason": "drill" });
    let said = http.post("http://localhost/v1/revocations").json(&body).send().await.unwrap();
    (said.status().as_u16(), said.json().await.unwrap())
}

/// Size of the newest checkpoint.
async fn shown(replica: &Replica) -> String {
    replica.get("/checkpoint").await.1.lines().nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_primary_has_is_told_to_nobody_until_the_standby_has_it() {
    let _machine = alone().await;
    let (folder, scratch) = (Folder::new().await, tempfile::tempdir().unwrap());
    let primary = Node::primary(&folder, "a").await;
    let mut standby = Node::beside(&folder, "b");
    standby.follow(primary.at).await;
    primary.require_standby().await;
    let site = Site::new(scratch.path(), &Node::url(primary.at)).await;
    let (one, two) = (site.replica("one", &["--init-single-anchor"]).await, site.replica("two", &[]).await);
    let alice = one.person("alice").await;
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let mut tids = Vec::new();
    for _ in 0..3 {
        let wanted = procura_sdk::client::MintRequest { delegation, ttl_secs: None };
        tids.push(bot.at(&one.http, &one.public_url).mint(&wanted, &mut rng()).await.unwrap().claims().claimed().tid);
    }
    // The twin: with the standby there it is answered.
    let (status, answer) = revoke(&one.data, tids[0]).await;
    assert!(status == 201 && answer["feed_seq"] == 1, "{status} {answer}");
    assert!(one.get("/readyz").await.1.contains(r#""synchronous":1"#));
    let size = primary.sql("SELECT tree_size FROM head").await;
    for replica in [&one, &two] {
        let began = Instant::now();
        while shown(replica).await != size {
            assert!(began.elapsed() < PATIENCE, "not all is shown");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    standby.signal("STOP").await;
    let mut asking = tokio::spawn({
        let (data, tid) = (one.data.clone(), tids[1]);
        async move { revoke(&data, tid).await }
    });
    // COMMIT returns with success, and whoever reads sees it.
    while primary.sql("SELECT feed_seq FROM head").await != "2" {
        primary.sql("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'procura'").await;
    }
    assert!(timeout(Duration::from_millis(1500), &mut asking).await.is_err(), "answered before the standby had it");
    for replica in [&one, &two] {
        let tail = replica.get("/v1/feed/tail?tenant=acme&epoch=1&from=2").await;
        assert!(tail.0 == 503 || tail.1.contains(r#""messages":[]"#), "{tail:?}");
        assert_eq!(shown(replica).await, size, "a checkpoint of what may be lost");
        assert_eq!(replica.get("/readyz").await.0, 503, "no heartbeat without the standby");
    }
    standby.signal("CONT").await;
    let (status, answer) = timeout(PATIENCE, asking).await.expect("it is answered").unwrap();
    assert!(status == 201 && answer["feed_seq"] == 2, "{status} {answer}");
    // And what was answered is there after the primary is gone.
    let mut primary = primary;
    primary.kill().await;
    standby.promote().await;
    assert_eq!(standby.sql("SELECT feed_seq FROM head").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_starts_on_the_list_that_the_anchors_signed() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let ran = async |args: &[&str]| {
        let ran = procura(&[&["keys"], args].concat()).await;
        assert!(ran.status.success(), "{args:?}: {}", text(&ran.stderr));
        text(&ran.stdout)
    };
    let mut anchors = Vec::new();
    for name in ["anchor-1", "anchor-2"] {
        let made = ran(&["anchor", "new", "--out", &file(name), "--json"]).await;
        anchors.push(serde_json::from_str::<Value>(&made).unwrap()["public_key"].clone());
    }
    ran(&["prepare", "--first", "--tenant", "acme", "--keys", &file("keys"), "--out", &file("list")]).await;
    ran(&["sign", "--anchor", &file("anchor-1"), &file("list"), "--yes"]).await;
    let settings = [("PROCURA_KEYS__ANCHORS", Value::from(anchors).to_string()), ("PROCURA_KEYS__FIRST_LIST", file("list"))];
    let config = scratch.path().join("procura.toml");
    let start = tokio::process::Command::new(super::support::binary()).args(["serve", "--config"]).arg(&config).envs(settings.clone()).output();
    let refused = timeout(PATIENCE, start).await.expect("it ends").unwrap();
    assert!(text(&refused.stderr).contains("1 valid anchor signatures, expected at least 2"), "{}", text(&refused.stderr));
    // Its twin: both have signed.
    ran(&["sign", "--anchor", &file("anchor-2"), &file("list"), "--yes"]).await;
    let one = site.replica_with("one", &[], &settings).await;
    assert_eq!(one.get("/readyz").await.0, 200);
    assert_eq!(one.trust().anchors.threshold(), 2);
}
