//! What nobody should type: each wrong thing is one sentence that says what was expected and what came, and an exit code.

use std::os::unix::fs::PermissionsExt as _;

use procura_sdk::held::HeldToken;
use serde_json::Value;

use super::commands::{Desk, json};
use super::support::{beside_others, procura_fed, text};

const NOBODY: &str = "agt_00000000000000000000000000000000";
const NOTHING: &str = "dlg_00000000000000000000000000000000";

/// Arguments, standard input, exit code, and what the sentence says.
type Case<'a> = (Vec<&'a str>, &'a str, i32, &'a str);

/// Runs each case as it is and with `--json`.
async fn check(cases: Vec<Case<'_>>) {
    for (args, stdin, code, word) in cases {
        let ran = procura_fed(&args, stdin.as_bytes()).await;
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{args:?}: {}{said}", text(&ran.stdout));
        assert!(said.contains(word), "{args:?}: `{word}` in {said}");
        assert!(!said.contains("panicked") && ran.stdout.is_empty(), "{args:?}: {}{said}", text(&ran.stdout));
        if code != 2 {
            assert_eq!(said.lines().count(), 1, "{args:?}: one sentence: {said}");
        }
        let ran = procura_fed(&[&args[..], &["--json"]].concat(), stdin.as_bytes()).await;
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{args:?} --json: {said}");
        let body: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{args:?} --json: {e}: {said}"));
        assert!(body["code"].as_str().is_some_and(|c| !c.is_empty()) && body["message"].as_str().is_some_and(|m| !m.is_empty()), "{args:?}: {body}");
        assert_eq!(body["code"] == "usage", code == 2, "{args:?}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_flag_file_and_id_is_one_sentence() {
    let _machine = beside_others().await;
    let desk = Desk::new().await;
    let alice = desk.login("alice").await;
    let s = alice.as_str();
    let (bot, key) = desk.agent(s, "invoice-bot").await;
    let (bot, key) = (bot.as_str(), key.as_str());
    let grant = desk.delegate(s, bot).await;
    let [spare, open, garbage, absent, folder] = ["spare.key", "open.key", "garbage", "absent", "authority"].map(|n| desk.file(n));
    json(&["keygen", "--json", "--out", &spare]).await;
    std::fs::copy(&spare, &open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&garbage, b"\xff\xfenot a key").unwrap();
    std::fs::set_permissions(&garbage, std::fs::Permissions::from_mode(0o600)).unwrap();
    let closed = desk.file("closed.session");
    std::fs::copy(s, &closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = desk.login("bob").await;
    let kept = std::fs::read(&ended).unwrap();
    json(&["logout", "--json", "--session", &ended]).await;
    std::fs::write(&ended, kept).unwrap();
    std::fs::set_permissions(&ended, std::fs::Permissions::from_mode(0o600)).unwrap();
    let scope = ["--service", "payments", "--tool", "payments", "--action", "transfer", "--resource", "acct/eu/*"];
    let granting = |more: &[&'static str]| [&["delegate", "--agent", bot, "--session", s][..], &scope, more].concat();
    let url = desk.authority.url.clone();
    let address = desk.authority.address().to_owned();
    let fresh = desk.file("fresh");
    let nowhere = "http://127.0.0.1:9";
    let out = desk.file("no/such/folder/bundle.tar");

    check(vec![
        // Agents.
        (vec!["agent", "show", "agt_zz", "--session", s], "", 2, "agt_zz"),
        (vec!["agent", "show", NOBODY, "--session", s], "", 1, "no agent"),
        (vec!["agent", "create", "--name", "Not A Name", "--key", &spare, "--session", s], "", 2, "Not A Name"),
        (vec!["agent", "create", "--name", "two", "--key", &absent, "--session", s], "", 1, "absent"),
        (vec!["agent", "create", "--name", "two", "--key", &open, "--session", s], "", 1, "open.key"),
        (vec!["agent", "create", "--name", "two", "--key", &garbage, "--session", s], "", 1, "garbage"),
        (vec!["agent", "create", "--name", "invoice-bot", "--key", &spare, "--session", s], "", 1, "taken"),
        (vec!["agent", "create", "--name", "two", "--key", key, "--session", s], "", 1, "registered already"),
        (vec!["agent", "create", "--name", "two", "--key", &spare, "--data", &folder], "", 1, "signed-in human"),
        (vec!["agent", "rotate-key", bot, "--key", key, "--session", s], "", 1, "registered already"),
        (vec!["agent", "rotate-key", bot, "--key", &spare, "--overlap", "25h", "--session", s], "", 1, "at most 86400 s"),
        (vec!["agent", "rotate-key", bot, "--key", &spare, "--overlap", "soon", "--session", s], "", 2, "1h, 30m"),
        (vec!["agent", "rotate-key", bot, "--key", &spare, "--overlap", "1h", "--now", "--session", s], "", 2, "--now"),
        (vec!["agent", "suspend", bot, "--reason", " ", "--session", s], "", 1, "reason"),
        (vec!["agent", "suspend", bot, "--session", s], "", 2, "--reason"),
        (vec!["agent", "resume", bot, "--reason", "x", "--session", s], "", 1, "active already"),
        (vec!["agent", "retire", NOBODY, "--reason", "x", "--session", s], "", 1, "not your agent"),
        (vec!["agent", "retire", NOBODY, "--reason", "x", "--data", &folder], "", 1, "no agent"),
        (vec!["agent", "card", "--authority", nowhere, "--agent", bot, "--key", key], "", 3, "did not answer"),
        // Grants.
        (granting(&["--ttl", "1h"]), "", 2, "--unlimited"),
        (granting(&["--ttl", "1d", "--unlimited"]), "", 2, "1d"),
        (granting(&["--ttl", "1h", "--at-most", "amount=5000.00EUR"]), "", 1, "beyond your maximum"),
        (granting(&["--ttl", "1h", "--at-most", "amount=5EUR"]), "", 2, "amount=5EUR"),
        (vec!["delegate", "--agent", bot, "--service", "payments", "--ttl", "1h", "--capabilities", &absent, "--session", s], "", 1, "absent"),
        (vec!["delegate", "--agent", bot, "--service", "payments", "--ttl", "1h", "--capabilities", &garbage, "--session", s], "", 1, "garbage"),
        (vec!["delegations", "show", NOTHING, "--session", s], "", 1, "no delegation"),
        (vec!["delegations", "show", "dlg_1", "--session", s], "", 2, "dlg_1"),
        (vec!["delegations", "confirm", &grant, "--session", s], "", 1, "nothing to confirm"),
        (vec!["delegations", "confirm", NOTHING, "--session", s], "", 1, "not a delegation of yours"),
        // Taking back.
        (vec!["revoke", "tenant", "acme", "--reason", "x", "--session", s], "", 2, "no id"),
        (vec!["revoke", "token", "--reason", "x", "--session", s], "", 2, "expected the id"),
        (vec!["revoke", "token", "dlg_1", "--reason", "x", "--session", s], "", 2, "dlg_1"),
        (vec!["revoke", "weather", "x", "--reason", "x", "--session", s], "", 2, "weather"),
        (vec!["revoke", "tenant", "--reason", "x", "--session", s], "", 1, "not yours to revoke"),
        (vec!["revoke", "tenant", "--reason", "x", "--wait=99s", "--session", s], "", 2, "at most 15s"),
        // Who asks, and whom.
        (vec!["whoami", "--session", &absent], "", 1, "procura login"),
        (vec!["whoami", "--session", &garbage], "", 1, "sign in again"),
        (vec!["whoami", "--session", &closed], "", 1, "0600"),
        (vec!["whoami", "--session", &ended], "", 1, "sign in again"),
        (vec!["whoami", "--data", &absent], "", 1, "data folder"),
        (vec!["whoami", "--data", &garbage], "", 1, "data folder"),
        (vec!["whoami", "--session", s, "--data", &folder], "", 2, "--data"),
        (vec!["login", "--authority", nowhere, "--session", &fresh], "", 3, nowhere),
        (vec!["login", "--authority", "tomorrow", "--session", &fresh], "", 2, "tomorrow"),
        (vec!["token", "mint", "--authority", nowhere, "--agent", bot, "--key", key, "--delegation", &grant], "", 3, "did not answer"),
        (vec!["token", "mint", "--authority", "tomorrow", "--agent", bot, "--key", key, "--delegation", &grant], "", 2, ""),
        (vec!["token", "mint", "--authority", &url, "--agent", bot, "--key", &spare, "--delegation", &grant], "", 1, "assertion"),
        (vec!["token", "mint", "--authority", &url, "--agent", bot, "--key", key, "--delegation", NOTHING], "", 1, "no delegation"),
        (vec!["token", "mint", "--authority", &url, "--agent", bot, "--key", key, "--delegation", &grant, "--ttl", "0s"], "", 1, "one second"),
        // The rest.
        (vec!["keygen", "--out", key], "", 1, "invoice-bot.key"),
        (vec!["dev", "--listen", &address, "--data", &fresh], "", 1, "cannot listen"),
        (vec!["log", "export", "--data", &folder, "--out", &out], "", 1, "no/such/folder"),
        (vec!["log", "explain", "nonsense", "--data", &folder], "", 2, "nonsense"),
        (vec!["log", "explain", "999999", "--data", &folder], "", 1, "no receipt"),
        (vec!["log", "explain", "1", "--session", s], "", 2, "--trust"),
        (vec!["log", "checkpoint", "--data", &folder, "--trust", &garbage], "", 1, "trust file"),
        (vec!["completions", "dos"], "", 2, "dos"),
    ])
    .await;
    assert!(!std::path::Path::new(&fresh).with_extension("session").exists(), "who was refused leaves no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_that_is_none_and_each_act_it_cannot_take_is_one_sentence() {
    let _machine = beside_others().await;
    let desk = Desk::new().await;
    let alice = desk.login("alice").await;
    let (bot, key) = desk.agent(&alice, "invoice-bot").await;
    let (helper, helper_key) = desk.agent(&alice, "fx-helper").await;
    let grant = desk.delegate(&alice, &bot).await;
    let minted = text(&desk.mint(&bot, &key, &grant).await.stdout);
    let good = minted.trim();
    let sealed = HeldToken::from_text(good).unwrap().seal().unwrap().authorization();
    let (garbage, card, absent) = (desk.file("garbage"), desk.file("helper.card"), desk.file("absent"));
    std::fs::write(&garbage, "AAAA").unwrap();
    let fetched = json(&["agent", "card", "--authority", &desk.authority.url, "--agent", &helper, "--key", &helper_key, "--json"]).await;
    std::fs::write(&card, fetched["card"].as_str().unwrap()).unwrap();
    let trust = desk.authority.trust_path();
    let trust = trust.to_str().unwrap();
    let (endless, cut) = ("A".repeat(100_000), &good[..good.len() / 2]);
    let other = "0".repeat(64);
    let narrow = ["token", "attenuate", "--for", "10m"];
    let link = |more: &[&'static str]| [&["token", "link", "--key", key.as_str(), "--card", card.as_str()][..], more].concat();

    let mut cases: Vec<Case<'_>> = Vec::new();
    for (input, word) in [("", "nothing came"), ("{}", "base64url"), (&endless, "long"), (cut, ""), ("AAAA", "profile"), ("Bearer ", "base64url")] {
        cases.push((narrow.to_vec(), input, 1, word));
        cases.push((link(&[]), input, 1, word));
        cases.push((vec!["token", "inspect"], input, 1, word));
        cases.push((vec!["token", "verify", "--trust", trust], input, 1, word));
    }
    cases.extend([
        (narrow.to_vec(), sealed.as_str(), 1, "sealed"),
        (link(&[]), sealed.as_str(), 1, "sealed"),
        (vec!["token", "attenuate"], good, 2, "something to narrow"),
        (vec!["token", "attenuate", "--for", "10m", "--until", "2030-01-01T00:00:00Z"], good, 2, "--until"),
        (vec!["token", "attenuate", "--until", "tomorrow"], good, 2, "tomorrow"),
        (vec!["token", "attenuate", "--class-max", "secret"], good, 2, "confidential"),
        (vec!["token", "attenuate", "--tool", "payments"], good, 2, "--action"),
        (vec!["token", "attenuate", "--for", "10m", "--file", &absent], "", 1, "absent"),
        (vec!["token", "link", "--key", &key], good, 2, "--card"),
        (link(&["--to-key", "00"]), good, 2, "--to-key"),
        (link(&["--depth", "2"]), good, 1, "deeper"),
        (vec!["token", "link", "--key", &helper_key, "--card", &card], good, 1, "holder"),
        (vec!["token", "link", "--key", &key, "--card", &garbage], good, 1, "card"),
        (vec!["token", "link", "--key", &key, "--card", &absent], good, 1, "absent"),
        (vec!["token", "link", "--key", &key, "--to-key", &other], good, 1, "registered agents only"),
        (vec!["token", "verify", "--trust", &garbage], good, 1, "trust file"),
        (vec!["token", "verify", "--trust", &absent], good, 1, "absent"),
    ]);
    check(cases).await;

    // Their twins that pass, each different in one thing.
    for args in [narrow.to_vec(), link(&[]), link(&["--depth", "1"]), vec!["token", "inspect"], vec!["token", "verify", "--trust", trust]] {
        assert_eq!(procura_fed(&args, good.as_bytes()).await.status.code(), Some(0), "{args:?}");
    }
    for args in [vec!["token", "inspect"], vec!["token", "verify", "--trust", trust]] {
        assert_eq!(procura_fed(&args, sealed.as_bytes()).await.status.code(), Some(0), "sealed, {args:?}");
    }
}
