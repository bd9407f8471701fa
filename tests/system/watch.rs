//! The kill switch as people use it: who has heard, by name, over real processes; drills; forged and replayed words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_authority::log::event::Event;
use procura_sdk::client::{ClientError, MintRequest};
use procura_verifier::decision::Mode;
use procura_verifier::feed::ack::{Ack, SignIn, Signed};
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{Clock as _, SystemClock, Tid, VerifierId};
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::support::{Authority, PATIENCE, Person, Tool, beside_others, delegated, expect, key, load, procura, rng, text};

struct Site {
    authority: Authority,
    alice: Person,
    bob: Person,
    sam: Person,
    scratch: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let authority = Authority::start(&scratch.path().join("authority")).await;
        let (alice, bob, sam) = (authority.person("alice").await, authority.person("bob").await, authority.person("sam").await);
        Self { authority, alice, bob, sam, scratch }
    }

    fn data(&self) -> &str {
        self.authority.data.to_str().unwrap()
    }

    async fn tool(&self, audience: &str) -> (Tool, VerifierId) {
        let signing = key(&mut rng());
        let id = self.sam.enrol(audience, &signing).await.unwrap();
        (Tool::start(&self.authority.trust_path(), self.scratch.path(), &self.authority.url, audience, id, &signing).await, id)
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.authority.http.post(format!("{}{path}", self.authority.url)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn verifiers(&self) -> Value {
        let (status, body) = self.authority.get_as(&self.sam, "/v1/verifiers").await;
        assert_eq!(status, 200);
        serde_json::from_slice(&body).unwrap()
    }

    /// Until these have acknowledged the head.
    async fn current(&self, n: usize) {
        let began = Instant::now();
        loop {
            let all = self.verifiers().await;
            let current = all["verifiers"].as_array().unwrap().iter().filter(|v| v["state"] == "current").count();
            if current == n {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{all}");
        }
    }

    /// True once the page says so: what it counts in the database is at most 200 ms old.
    async fn metric(&self, line: &str) -> bool {
        let began = std::time::Instant::now();
        loop {
            let (status, page) = self.authority.get("/metrics").await;
            assert_eq!(status, 200);
            if text(&page).lines().any(|l| l == line) {
                return true;
            }
            if began.elapsed() > Duration::from_secs(2) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn replays(&self, name: &str) {
        let bundle = self.authority.export(name).await;
        let ran = procura(&["log", "replay", bundle.to_str().unwrap(), "--trust", self.authority.trust_path().to_str().unwrap()]).await;
        assert_eq!(ran.status.code(), Some(0), "replay: {}{}", text(&ran.stdout), text(&ran.stderr));
    }
}

fn json_of(out: &std::process::Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", text(&out.stdout), text(&out.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_names_who_has_heard_and_its_exit_code_says_whether_all_did() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (one, id) = site.tool("payments/1").await;
    let (two, _) = site.tool("payments/2").await;
    site.current(2).await;
    let (_, grant) = delegated(&site.alice, "bot", &key(&mut rng())).await;
    let revoke = async |id: String, more: &[&str]| {
        let args = [&["revoke", "delegation", &id, "--reason", "the month is over", "--data", site.data()], more].concat();
        procura(&args).await
    };

    let said = revoke(grant.to_string(), &["--wait=10s", "--json"]).await;
    assert_eq!(said.status.code(), Some(0), "{}{}", text(&said.stdout), text(&said.stderr));
    let coverage = json_of(&said)["coverage"].clone();
    let states: Vec<_> = coverage["verifiers"].as_array().unwrap().iter().map(|v| v["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states.len(), 2, "{coverage}");
    assert!(states.iter().all(|s| s == "confirmed" || s == "fenced"), "{coverage}");

    // Stopped in the middle of everything: no word, and by its own bound it denies.
    stop(two.pid());
    let said = revoke(grant.to_string(), &["--wait=10s"]).await;
    assert_eq!(said.status.code(), Some(0), "{}{}", text(&said.stdout), text(&said.stderr));
    let words = text(&said.stdout);
    let line = words.lines().find(|l| l.contains("payments/2")).unwrap_or_else(|| panic!("{words}"));
    assert!(line.contains("presumed fenced: silent for longer than its bound of 150 ms"), "{words}");
    resume(two.pid());

    // Enrolled, and nobody there: that is not an answer.
    let signing = key(&mut rng());
    let ghost = site.sam.enrol("payments/3", &signing).await.unwrap();
    let said = revoke(grant.to_string(), &["--wait"]).await;
    assert_eq!(said.status.code(), Some(4), "{}", text(&said.stdout));
    assert!(text(&said.stdout).contains("not covered: enrolled, never heard of"), "{}", text(&said.stdout));
    let unwaited = revoke(grant.to_string(), &[]).await;
    assert_eq!((unwaited.status.code(), text(&unwaited.stdout).contains("confirmed")), (Some(0), false), "who does not wait is not told");
    let retired = procura(&["verifiers", "retire", &ghost.to_string(), "--reason", "never came", "--data", site.data()]).await;
    assert_eq!(retired.status.code(), Some(0), "{}", text(&retired.stderr));
    site.current(2).await;
    let said = revoke(grant.to_string(), &["--wait=10s"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", text(&said.stdout));

    // Not theirs, nothing there, no reason: nothing happens. And without an authority it says so.
    let head = site.verifiers().await["head"].clone();
    let as_bob = async |body: Value| site.bob.post("/v1/revocations", &body).await.unwrap().unwrap_err().0;
    assert_eq!(as_bob(json!({ "what": "delegation", "id": grant, "reason": "x", "wait_ms": 100 })).await, 403);
    let as_sam = async |body: Value| site.sam.post("/v1/revocations", &body).await.unwrap().unwrap_err().0;
    assert_eq!(as_sam(json!({ "what": "delegation", "id": "dlg_00000000000000000000000000000000", "reason": "x", "wait_ms": 100 })).await, 404);
    assert_eq!(as_sam(json!({ "what": "delegation", "id": grant, "reason": " ", "wait_ms": 100 })).await, 400);
    assert_eq!(as_sam(json!({ "what": "delegation", "id": grant, "wait_ms": 100 })).await, 400);
    assert_eq!(as_sam(json!({ "what": "delegation", "id": grant, "reason": "x", "wait_ms": 15_001 })).await, 400);
    assert_eq!(as_sam(json!({ "what": "everybody", "reason": "x", "wait_ms": 100 })).await, 400);
    assert_eq!(site.verifiers().await["head"], head);
    let nobody = procura(&["revoke", "delegation", &grant.to_string(), "--reason", "x", "--wait", "--data", site.scratch.path().to_str().unwrap()]).await;
    assert_eq!(nobody.status.code(), Some(3), "{}", text(&nobody.stderr));
    let without = procura(&["revoke", "delegation", &grant.to_string(), "--data", site.data()]).await;
    assert_eq!(without.status.code(), Some(2), "a reason is asked for");

    let listed = procura(&["verifiers", "--data", site.data()]).await;
    assert!(text(&listed.stdout).contains(&id.to_string()) && text(&listed.stdout).contains("strict 150 ms"), "{}", text(&listed.stdout));
    let kills = procura(&["verifiers", "--json", "--data", site.data()]).await;
    assert_eq!(json_of(&kills)["verifiers"].as_array().unwrap().len(), 2);
    assert_eq!(site.authority.get_as(&site.bob, "/v1/verifiers").await.0, 403);
    site.replays("kill.tar").await;
    drop(one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_is_on_record_and_its_age_outlives_the_process() {
    let _machine = beside_others().await;
    let mut site = Site::start().await;
    let (_tool, _) = site.tool("payments/1").await;
    site.current(1).await;
    assert!(site.metric("procura_drill_age_seconds inf").await || site.metric("procura_drill_age_seconds +Inf").await);
    assert_eq!(site.bob.post("/v1/drills", &json!({})).await.unwrap().unwrap_err().0, 403);
    let said = procura(&["drill", "--wait=10s", "--json", "--data", site.data()]).await;
    assert_eq!(said.status.code(), Some(0), "{}{}", text(&said.stdout), text(&said.stderr));
    let said = json_of(&said);
    assert_eq!(
        (said["coverage"]["confirmed"].as_u64().unwrap() + said["coverage"]["fenced"].as_u64().unwrap(), said["coverage"]["not_covered"].as_u64()),
        (1, Some(0))
    );
    assert!(site.metric("procura_drills_total{result=\"covered\"} 1").await && site.metric("procura_verifiers{state=\"current\"} 1").await);
    assert!(site.metric("procura_revocations_total{what=\"delegation\"} 1").await);
    expect(site.sam.post("/v1/drills", &json!({ "wait_ms": 10_000 })).await.unwrap()).expect("the role security may");
    site.replays("drill.tar").await;
    let bundle = load(&site.scratch.path().join("drill.tar"), &site.authority.trust());
    assert_eq!(bundle.leaves().iter().filter(|l| matches!(l.event, Event::Drill(_))).count(), 2);
    let (data, address) = (site.authority.data.clone(), site.authority.address().to_owned());
    site.authority.kill().await;
    site.authority = Authority::start_at(&data, &address).await;
    let (_, page) = site.authority.get("/metrics").await;
    let age = text(&page).lines().find_map(|l| l.strip_prefix("procura_drill_age_seconds ").map(str::to_owned)).unwrap();
    let age: f64 = age.parse().unwrap();
    assert!(age.is_finite() && (0.0..300.0).contains(&age), "{age}");
}

/// A verifier of this test's own making: it says what it wants.
struct Liar {
    id: VerifierId,
    key: SigningKey,
}

impl Liar {
    fn ack(&self, number: u64, epoch: u64, seq: u64, hash: [u8; 32]) -> Ack {
        let utc = SystemClock.wall();
        let tenant = "acme".parse().unwrap();
        Ack { tenant, verifier: self.id, run: [3; 16], number, epoch, seq, hash, fresh_age_ms: 1, utc, mode: Mode::Strict { ms: 150 } }
    }

    fn sign_in(&self, nonce: [u8; 16]) -> String {
        let audience = "payments/1".parse().unwrap();
        let (tenant, utc) = ("acme".parse().unwrap(), SystemClock.wall());
        let s = SignIn { tenant, verifier: self.id, run: [3; 16], audience, nonce: nonce.to_vec(), utc, mode: Mode::Strict { ms: 150 } };
        BASE64.encode(Signed::sign(&s, &self.key).to_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_or_replayed_word_is_refused_beside_the_true_one() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let signing = key(&mut rng());
    let liar = Liar { id: site.sam.enrol("payments/1", &signing).await.unwrap(), key: signing };
    let other = Liar { id: site.sam.enrol("payments/2", &key(&mut rng())).await.unwrap(), key: liar.key.clone() };
    let genesis = procura_verifier::feed::genesis_hash(&"acme".parse().unwrap(), 1);
    let send = async |ack: &Ack, by: &SigningKey| {
        let body = json!({ "ack": BASE64.encode(Signed::sign(ack, by).to_bytes()) });
        site.post("/v1/feed/acks", &body).await.0
    };
    assert_eq!(send(&liar.ack(1, 1, 0, genesis), &key(&mut rng())).await, 400, "forged");
    assert_eq!(send(&other.ack(1, 1, 0, genesis), &liar.key).await, 400, "in another verifier's name");
    assert_eq!(send(&Ack { verifier: VerifierId::from_bytes([9; 16]), ..liar.ack(1, 1, 0, genesis) }, &liar.key).await, 401, "of nobody");
    assert_eq!(send(&liar.ack(1, 1, 7, genesis), &liar.key).await, 409, "of what was never committed");
    assert!(site.metric("procura_acknowledgements_total{result=\"above_head\"} 1").await);
    assert_eq!(site.post("/v1/feed/acks", &json!({ "ack": "!" })).await.0, 400);
    assert_eq!(site.post("/v1/feed/acks", &json!({ "ack": "A".repeat(2_000) })).await.0, 400);
    assert_eq!(site.post("/v1/feed/acks", &json!({ "ack": "", "more": 1 })).await.0, 400);
    assert_eq!(send(&liar.ack(1, 1, 0, genesis), &liar.key).await, 200);
    assert_eq!(send(&liar.ack(1, 1, 0, genesis), &liar.key).await, 409, "replayed");

    let open = async |nonce: [u8; 16], header: Option<&str>| {
        let url = format!("{}/v1/feed?tenant=acme&nonce={}", site.authority.url, hex::encode(nonce));
        let request = site.authority.http.get(url);
        let request = if let Some(header) = header { request.header("procura-verifier", header) } else { request };
        request.send().await.unwrap()
    };
    let good = liar.sign_in([1; 16]);
    assert_eq!(open([2; 16], Some(&good)).await.status(), 401, "another request's");
    assert_eq!(open([1; 16], Some("!")).await.status(), 400);
    let imposter = Liar { id: liar.id, key: key(&mut rng()) }.sign_in([1; 16]);
    assert_eq!(open([1; 16], Some(&imposter)).await.status(), 400);
    let stream = open([1; 16], Some(&good)).await;
    assert_eq!(stream.status(), 200);
    assert!(site.metric("procura_listeners{kind=\"signed_in\"} 1").await);
    assert_eq!(open([1; 16], Some(&good)).await.status(), 409, "replayed");
    let stranger = open([4; 16], None).await;
    assert_eq!(stranger.status(), 200);
    assert!(site.metric("procura_listeners{kind=\"anonymous\"} 1").await);

    expect(site.sam.post("/v1/verifiers/retire", &json!({ "verifier": liar.id, "reason": "it lies" })).await.unwrap()).unwrap();
    assert_eq!(send(&liar.ack(2, 1, 0, genesis), &liar.key).await, 401, "retired");
    assert_eq!(open([5; 16], Some(&liar.sign_in([5; 16]))).await.status(), 401);
    assert_eq!(site.alice.post("/v1/verifiers/retire", &json!({ "verifier": other.id, "reason": "x" })).await.unwrap().unwrap_err().0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_re_mints_in_a_loop_during_the_kill_gets_nothing_after_the_commit() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    for what in ["delegation", "agent", "human"] {
        let (bot, grant) = delegated(&site.alice, &format!("bot-{what}"), &key(&mut rng())).await;
        let killed = Arc::new(AtomicBool::new(false));
        let (minted, mut count) = tokio::sync::watch::channel(0_u32);
        let minted = Arc::new(minted);
        let loops: Vec<_> = (0..6)
            .map(|_| {
                let (client, killed, minted) = (bot.at(&site.authority.http, &site.authority.url), killed.clone(), minted.clone());
                tokio::spawn(async move {
                    let (mut rng, mut got, mut refused) = (StdRng::from_os_rng(), Vec::<(Tid, bool)>::new(), 0);
                    // On and on after the first refusal: a kill sticks.
                    while refused < 20 {
                        let after = killed.load(Ordering::SeqCst);
                        match client.mint(&MintRequest { delegation: grant, ttl_secs: None }, &mut rng).await {
                            Ok(token) => {
                                got.push((token.claims().claimed().tid, after));
                                minted.send_modify(|n| *n += 1);
                            }
                            Err(ClientError::Refused { status: 409, .. }) => refused += 1,
                            Err(e) => panic!("{e}"),
                        }
                    }
                    got
                })
            })
            .collect();
        tokio::time::timeout(PATIENCE, count.wait_for(|n| *n >= 30)).await.expect("they mint").unwrap();
        let id = match what {
            "delegation" => grant.to_string(),
            "agent" => bot.id.to_string(),
            _ => site.alice.human(),
        };
        let done = expect(site.sam.revoke(what, &id, "runs away").await.unwrap()).unwrap();
        killed.store(true, Ordering::SeqCst);
        let mut got = Vec::new();
        for task in loops {
            got.extend(tokio::time::timeout(PATIENCE, task).await.expect("they give up").unwrap());
        }
        assert!(got.iter().all(|(_, after)| !after), "{what}: a mint that began after the answer gave a token");

        // Commit order is leaf order: whatever was answered, no issue stands behind the revocation.
        let bundle = load(&site.authority.export(&format!("{what}.tar")).await, &site.authority.trust());
        let leaf = done["leaf_index"].as_u64().unwrap();
        let Event::Revoke(revoke) = &bundle.leaves()[leaf as usize].event else { panic!("leaf {leaf}") };
        assert!(matches!(
            Item::from_bytes(&revoke.item.0),
            Ok(Item::Floor { scope: FloorScope::Delegation(_) | FloorScope::Agent(_) | FloorScope::Human(_), .. })
        ));
        let issued: Vec<(u64, Tid)> = (0..)
            .zip(bundle.leaves())
            .filter_map(|(index, l)| if let Event::Issue(e) = &l.event { (e.delegation == grant).then_some((index, e.tid)) } else { None })
            .collect();
        assert!(issued.iter().all(|(index, _)| *index < leaf), "{what}: {:?} behind {leaf}", issued.iter().max());
        assert!(got.iter().all(|(tid, _)| issued.iter().any(|(_, t)| t == tid)), "{what}: a token that no leaf has");
        println!("{what}: {} tokens before the kill, 0 after", issued.len());
    }
    site.replays("loops.tar").await;
    // The human was killed last: the session went with it.
    assert_eq!(site.authority.get_as(&site.alice, "/v1/me").await.0, 401);
}

fn stop(pid: u32) {
    signal(pid, "-STOP");
}

fn resume(pid: u32) {
    signal(pid, "-CONT");
}

fn signal(pid: u32, signal: &str) {
    assert!(std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}
