//! What a server is given wrongly by who runs it or who asks it: one sentence that says what was expected and what came, the
//! documented exit code or status, and nothing half-done.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::support::raw::{self, Request};
use super::support::serve::Site;
use super::support::{PATIENCE, beside_others, delegated, key, procura, rng, text};
use super::tls;

const INIT: &[&str] = &["--init-single-anchor"];

async fn check(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let ran = procura(&[&["serve", "--config", config.to_str().unwrap(), "--check"], more].concat()).await;
    (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_is_refused_by_name_with_code_2() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let files = site.with_tls();
    tls::make_pair(&files);
    let good = std::fs::read_to_string(site.config()).unwrap();
    let with_https = good.replace("public_url = \"http://", "public_url = \"https://");
    let [pem, pem_key] = files.map(|f| f.display().to_string());
    let more = |sections: &str| (with_https.clone(), sections.to_owned());
    let cases = [
        // Unknown and contradictory keys.
        (more("[limitz]\nconnections = 20"), vec!["unknown field `limitz`", "expected one of"]),
        (more("[limits]\nconections = 20"), vec!["unknown field `conections`", "expected one of"]),
        (more("[limits]\nconnections = 15\nconnections_per_client = 1"), vec!["limits.connections: expected 16 to 1000000, got 15"]),
        (more("[limits]\nconnections = 20\nconnections_per_client = 21"), vec!["limits.connections_per_client", "which is 20, got 21"]),
        (more("[limits]\nhead_per_second = 19"), vec!["limits.head_per_second: expected 20 to 1000000, got 19"]),
        (more("[limits]\nbody_secs = -1"), vec!["invalid value: integer `-1`, expected u32"]),
        (more("[limits]\nbody_secs = \"10\""), vec!["invalid type: string \"10\", expected u32"]),
        (more("[proxies]\ntrusted = []"), vec!["proxies.trusted: expected at least one"]),
        (more("[proxies]\ntrusted = [\"edge.example\"]"), vec!["expected an address or a network", "`edge.example`"]),
        (more("[proxies]\ntrusted = [\"10.1.2.3/8\"]"), vec!["10.1.2.3/8", "10.0.0.0/8"]),
        (more("[proxies]\ntrusted = [\"10.0.0.0/8\"]\nheader = \"x-real-ip\""), vec!["x-real-ip", "x-forwarded-for"]),
        (more("[log]\nformat = \"xml\""), vec!["unknown variant `xml`", "`text`"]),
        (more("[log]\nfilter = \"procura=loud\""), vec!["log.filter: expected", "procura=loud"]),
        (more("[traces]\nendpoint = \"collector:4318\""), vec!["traces.endpoint: expected"]),
        (more("[traces]\nendpoint = \"http://me:hunter2@collector/v1/traces\""), vec!["traces.endpoint: expected no user and no password"]),
        (more("[traces]\nendpoint = \"http://collector/v1/traces\"\nratio = 0.0"), vec!["traces.ratio: expected above 0 and at most 1, got 0"]),
        ((good.clone(), String::new()), vec!["tls: expected a `server.public_url` of https beside it, got `http://127.0.0.1"]),
        ((with_https.replace(&format!("key = \"{pem_key}\""), ""), String::new()), vec!["missing field `key`"]),
        ((with_https.replace(&pem, "/nowhere.pem"), String::new()), vec!["tls.certificate /nowhere.pem: No such file"]),
        ((with_https.replace(&pem, &pem_key), String::new()), vec!["expected certificates in PEM"]),
        ((with_https.replace("[server]", "[server"), String::new()), vec!["procura.toml: "]),
    ];
    let tried = scratch.path().join("tried").join("procura.toml");
    std::fs::create_dir(tried.parent().unwrap()).unwrap();
    for ((text, sections), said) in &cases {
        std::fs::write(&tried, format!("{text}\n{sections}\n")).unwrap();
        let (code, out, err) = check(&tried, &[]).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{sections}: {err}");
        for part in said {
            assert!(err.contains(part), "{part} in {err}");
        }
        assert!(err.starts_with("procura: ") && err.trim_end().lines().count() == 1 && !err.contains("hunter2"), "{err}");
    }
    // The twin of all: valid, and what it comes to.
    std::fs::write(&tried, format!("{with_https}\n[limits]\nbody_secs = 7\n[proxies]\ntrusted = [\"10.0.0.0/8\", \"fd00::1\"]\nheader = \"forwarded\"\n"))
        .unwrap();
    let (code, out, err) = check(&tried, &[]).await;
    assert_eq!(code, Some(0), "{err}");
    let checked: Value = serde_json::from_str(&out).unwrap();
    let settings = &checked["settings"];
    assert_eq!((&settings["limits"]["body_secs"], &settings["limits"]["header_secs"]), (&7.into(), &20.into()));
    assert_eq!((settings["proxies"]["trusted"][1].as_str(), settings["proxies"]["header"].as_str()), (Some("fd00::1/128"), Some("forwarded")));
    assert_eq!(settings["tls"]["certificate"], Value::from(pem));
    assert!(!settings["tls"].to_string().contains("PRIVATE"), "{settings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_weakens_and_strict_makes_it_a_code() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[proxies]\ntrusted = [\"0.0.0.0/0\"]\n[traces]\nendpoint = \"http://collector.example/v1/traces\"\n");
    std::fs::set_permissions(scratch.path().join("client-secret"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, out, _) = check(&site.config(), &[]).await;
    let weakens = serde_json::from_str::<Value>(&out).unwrap()["weakens"].to_string();
    for named in ["proxies.trusted: 0.0.0.0/0", "traces.endpoint", "issuer.client_secret_file", "mode 644, expected 600", "keys.anchors"] {
        assert!(weakens.contains(named), "{named} in {weakens}");
    }
    assert_eq!((code, check(&site.config(), &["--strict"]).await.0), (Some(0), Some(1)));
    let alone = procura(&["serve", "--config", site.config().to_str().unwrap(), "--strict"]).await;
    assert_eq!(alone.status.code(), Some(2), "--strict without --check");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_why_and_leaves_everything_as_it_was() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let mut one = site.replica("one", INIT).await;
    let refused = async |site: &Site, name: &str, code: i32, parts: &[&str]| {
        let (came, said) = site.refused_with(name, &[]).await;
        let said = said.lines().find_map(|l| l.strip_prefix("procura: ")).unwrap_or_else(|| panic!("one sentence: {said}")).to_owned();
        assert_eq!(came, Some(code), "{said}");
        assert!(parts.iter().all(|p| said.contains(p)), "{parts:?} in {said}");
    };
    // A second process on the same folder, and one on the same port.
    refused(&site, "one", 1, &["is in use by another process, expected to be the only one"]).await;
    site.set("PROCURA_SERVER__LISTEN", one.address());
    refused(&site, "two", 1, &["server.listen: expected 127.0.0.1:", "to be free, but another process listens there"]).await;
    assert_eq!(one.get("/readyz").await.0, 200, "the first never noticed");
    let data = one.data.clone();
    one.kill().await;

    // Keys that others may have read.
    let keys = scratch.path().join("keys");
    let root = std::fs::read_dir(&keys).unwrap().map(|f| f.unwrap().path()).find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("root")).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o640)).unwrap();
    refused(&site, "one", 2, &[root.to_str().unwrap(), "has mode 640, expected 600"]).await;
    assert_eq!(check(&site.config(), &[]).await.0, Some(2), "checked as well");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();

    // A clock a day behind; and one two years ahead, at which every key has ended: it serves, and signs nothing.
    let failpoints = scratch.path().join("failpoints");
    std::fs::create_dir(&failpoints).unwrap();
    site.set("PROCURA_FAILPOINTS", failpoints.to_str().unwrap());
    std::fs::write(failpoints.join("wall-ms"), (-86_400_000_i64).to_string()).unwrap();
    refused(&site, "one", 1, &["this machine's clock says", "was issued", "expected a clock that is not behind it"]).await;
    std::fs::write(failpoints.join("wall-ms"), (2 * 365 * 86_400_000_i64).to_string()).unwrap();
    let mut ahead = site.replica("one", &[]).await;
    let (status, ready) = ahead.get("/readyz").await;
    assert!(status == 503 && ready.contains("no feed key at hand is alive"), "{status} {ready}");
    ahead.kill().await;
    std::fs::remove_file(failpoints.join("wall-ms")).unwrap();

    // A database that a newer one has used.
    let python = std::env::var("PROCURA_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let sql = async |statement: &str| {
        let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute(sys.argv[2])\nc.commit()\nc.close()";
        let ran = tokio::process::Command::new(&python).args(["-c", script]).arg(data.join("procura.db")).arg(statement).output().await.unwrap();
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    };
    sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'of tomorrow', 1, x'00', 0)").await;
    refused(&site, "one", 1, &["procura.db", "its schema is of version 9999, expected at most", "a newer procura has used it"]).await;
    sql("DELETE FROM _sqlx_migrations WHERE version = 9999").await;

    // A PostgreSQL that is not there.
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.set("PROCURA_DATABASE__URL", &format!("postgres://me@{elsewhere}/procura"));
    refused(&site, "one", 3, &["database: "]).await;
    site.set("PROCURA_DATABASE__URL", "sqlite:");
    // The twin: none of it has harmed anything.
    let one = site.replica("one", &[]).await;
    assert_eq!(one.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_must_be_written_and_nothing_is_half_done() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let failpoints = scratch.path().join("failpoints");
    std::fs::create_dir(&failpoints).unwrap();
    site.set("PROCURA_FAILPOINTS", failpoints.to_str().unwrap());
    let one = site.replica("one", INIT).await;
    let (alice, sam) = (one.person("alice").await, one.person("sam").await);
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let mint = async || {
        let ask = procura_sdk::client::MintRequest { delegation, ttl_secs: None };
        bot.at(&one.http, &one.public_url).mint(&ask, &mut rng()).await
    };
    mint().await.unwrap();
    let size = async || serde_json::from_str::<Value>(&one.get("/readyz").await.1).unwrap()["tree_size"].as_u64().unwrap();

    std::fs::write(failpoints.join("max-pages"), "1").unwrap();
    // What still fits into the pages there are is written; then no more.
    let mut granted = 0;
    let refused = loop {
        match mint().await {
            Ok(_) => granted += 1,
            Err(e) => break e.to_string(),
        }
        assert!(granted < 1_000, "the disk never fills");
    };
    assert!(refused.contains("the authority cannot do this just now; try again"), "{refused}");
    let full = size().await;
    let body = format!(r#"{{"what":"delegation","id":"{delegation}","reason":"drill"}}"#);
    let post = || Request::new("POST", "/v1/revocations").session(&sam.session().session).json(body.clone());
    let mut answers = Vec::new();
    for _ in 0..3 {
        // A revocation is smaller than a mint: it may still have fitted, once.
        let answer = post().send(one.address()).await.unwrap();
        assert!(answer.status == 503 && answer.is_error_form() || answer.status == 200 || answer.status == 201, "{answer:?}");
        answers.push(answer.status);
    }
    let after = size().await;
    let committed = answers.iter().filter(|s| **s < 300).count() as u64;
    assert!(after - full <= committed * 2, "{full} leaves before, {after} after, {answers:?}");
    assert!(one.said().contains("database or disk is full"), "{}", one.said());
    assert!(one.metric("procura_commit_failures_total").await >= 1.0);
    // It goes on answering what needs no writing.
    assert_eq!((one.get("/readyz").await.0, one.get("/checkpoint").await.0), (200, 200));

    // Room again: the same process recovers, and its log is whole.
    std::fs::remove_file(failpoints.join("max-pages")).unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    let status = loop {
        let status = post().send(one.address()).await.unwrap().status;
        if status < 300 || std::time::Instant::now() > until {
            break status;
        }
    };
    assert!(status < 300, "{status}");
    assert!(mint().await.is_err(), "the delegation is revoked");
    let out = scratch.path().join("bundle.tar");
    let export = procura(&["log", "export", "--data", one.data.to_str().unwrap(), "--out", out.to_str().unwrap()]).await;
    assert!(export.status.success(), "{}", text(&export.stderr));
    let replay = procura(&["log", "replay", out.to_str().unwrap(), "--trust", one.data.join("trust.json").to_str().unwrap()]).await;
    assert!(replay.status.success(), "{} {}", text(&replay.stdout), text(&replay.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_of_a_stranger_becomes_one_of_ours() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[proxies]\ntrusted = [\"127.0.0.1\"]\n");
    let one = site.replica("one", INIT).await;
    let heads: [&[u8]; 6] = [
        b"x-request-id: a\rset-cookie: procura_dev=x",
        b"x-request-id: a\0b",
        b"x-forwarded-for: 203.0.113.7\r set-cookie: x=y",
        b"x-request-id : a",
        b"x-request-id: a\r\n set-cookie: folded=1",
        b"bad header: a",
    ];
    for head in heads {
        let bytes = [b"GET /v1/me HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".as_slice(), head, b"\r\n\r\n"].concat();
        let answer = raw::send_bytes(one.address(), bytes).await.unwrap();
        assert_eq!(answer.status, 400, "{}", text(head));
        assert!(!answer.head.to_ascii_lowercase().contains("set-cookie"), "{}", answer.head);
    }
    // What is a value, and whose words come back in nothing.
    for (name, value) in [
        ("x-request-id", "a%0d%0aset-cookie:x=y"),
        ("x-request-id", "<script>"),
        ("x-forwarded-for", "'; drop table human; --"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "gopher"),
        ("host", "evil.example"),
        ("traceparent", "00-zz-zz-zz"),
        ("forwarded", "for=203.0.113.7;host=evil.example"),
    ] {
        let answer = Request::new("GET", "/v1/me").header(name, value).send(one.address()).await.unwrap();
        let said = format!("{} {}", answer.head, text(&answer.body)).to_ascii_lowercase();
        // Of two hosts none is believed.
        assert!(answer.status == 401 || (name == "host" && answer.status == 400), "{name}: {value}: {said}");
        assert!(!said.contains("evil") && !said.contains("script") && !said.contains("set-cookie") && !said.contains("drop"), "{said}");
    }
    for query in [
        "redirect_uri=http://127.0.0.1:1/%0d%0aset-cookie:x=y&code_challenge=a&state=s",
        "redirect_uri=http://127.0.0.1:1/cb&code_challenge=a&state=%0d%0ax-injected:1",
    ] {
        let answer = Request::new("GET", format!("/login/cli?{query}")).send(one.address()).await.unwrap();
        assert!(!answer.head.contains("x-injected") && !answer.head.contains("x=y"), "{}", answer.head);
    }
}
