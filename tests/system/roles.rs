//! Who may what: each refusal beside the twin that passes, over HTTP.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64};
use ed25519_dalek::{Signer as _, SigningKey};
use procura_sdk::client::assertion;
use procura_verifier::ids::{AgentId, Clock as _, DelegationId, Key, SystemClock};
use serde_json::{Value, json};

use super::support::raw::Request;
use super::support::{Agent, Authority, Person, beside_others, delegated, expect, field, key, mint, procura, rng, text};

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

    /// Alice's agent and what she delegated to it.
    async fn bot(&self, name: &str) -> (Agent, DelegationId) {
        delegated(&self.alice, name, &key(&mut rng())).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.authority.http.post(format!("{}{path}", self.authority.url)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// A mint by hand, with this assertion.
    async fn mint(&self, delegation: DelegationId, assertion: &str) -> (u16, Value) {
        self.post("/v1/token", &mint_body(delegation, assertion)).await
    }

    fn assertion(&self, agent: AgentId, key: &SigningKey) -> String {
        assertion(&self.authority.url, agent, key, &SystemClock, &mut rng())
    }
}

fn mint_body(delegation: DelegationId, assertion: &str) -> Value {
    json!({ "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion": assertion, "delegation": delegation })
}

/// The status of a person's call: 2xx as 200.
async fn status(who: &Person, path: &str, body: &Value) -> u16 {
    who.post(path, body).await.unwrap().map_or_else(|(status, ..)| status, |_| 200)
}

async fn revokes(who: &Person, what: &str, id: &str) -> u16 {
    who.revoke(what, id, "drill").await.unwrap().map_or_else(|(status, ..)| status, |_| 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_nobody_grants_revokes_enrols_or_reads() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    for path in ["/v1/agents/challenges", "/v1/agents", "/v1/delegations", "/v1/revocations", "/v1/verifiers"] {
        assert_eq!(site.post(path, &json!({})).await.0, 401, "{path}");
    }
    for path in ["/v1/me", "/v1/agents", "/v1/delegations", "/v1/log/bundle", "/tile/entries/000.p/1"] {
        assert_eq!(site.authority.get(path).await.0, 401, "{path}");
        assert_eq!(site.authority.get_as(&site.sam, path).await.0, 200, "{path}");
    }
    for path in ["/checkpoint", "/v1/keys", "/tile/0/000.p/1", "/healthz", "/readyz"] {
        assert_eq!(site.authority.get(path).await.0, 200, "{path}");
    }
    // A session ends when its person says so.
    let secret = &site.bob.session().session;
    assert_eq!(site.authority.get_as(&site.bob, "/v1/me").await.0, 200);
    let out = Request::new("POST", "/logout").session(secret).send(site.authority.address()).await.unwrap();
    assert_eq!(out.status, 204);
    assert_eq!(site.authority.get_as(&site.bob, "/v1/me").await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_revokes_what_is_theirs_and_security_revokes_anything() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, first) = site.bot("bot").await;
    let second: DelegationId = field(&expect(site.alice.delegate(&bot, 100).await.unwrap()).unwrap(), "delegation").unwrap().parse().unwrap();
    let token = mint(&site.authority, &bot, second).await.claims().claimed().tid.to_string();
    let (first, alice) = (first.to_string(), site.alice.human());
    let holder = Key::of(&bot.key).to_string();
    let all =
        [("token", token.as_str()), ("delegation", &first), ("key", &holder), ("agent", &bot.id.to_string()), ("human", &alice), ("tenant", ""), ("all", "")];
    for (what, id) in all {
        assert_eq!(revokes(&site.bob, what, id).await, 403, "bob: {what}");
    }
    for (what, id) in &all[4..] {
        assert_eq!(revokes(&site.alice, what, id).await, 403, "alice: {what}");
    }
    // What is not there looks like what is not theirs, except to those who may revoke anything.
    let nothing = format!("dlg_{}", "77".repeat(16));
    assert_eq!((revokes(&site.alice, "delegation", &nothing).await, revokes(&site.sam, "delegation", &nothing).await), (403, 404));
    for (what, id) in &all[..4] {
        assert_eq!(revokes(&site.alice, what, id).await, 200, "alice: {what}");
    }
    for (what, id) in all {
        // Who stops the tenant has stopped themselves.
        let sam = site.authority.person("sam").await;
        assert_eq!(revokes(&sam, what, id).await, 200, "sam: {what}");
    }
}

/// The kill commits though nobody waits for its answer; then the sessions must end as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_human_is_signed_out_though_the_killer_hangs_up() {
    use tokio::io::AsyncWriteExt as _;
    let _machine = beside_others().await;
    let site = Site::start().await;
    let address = site.authority.url.strip_prefix("http://").expect("http").to_owned();
    let feed_seq = async || -> u64 {
        let (_, body) = site.authority.get_as(&site.sam, "/readyz").await;
        serde_json::from_slice::<Value>(&body).unwrap()["feed_seq"].as_u64().unwrap()
    };
    let mut committed = 0;
    for round in 0..48_u64 {
        // On a busy machine the last round's kill may commit only now: while he signs in, which refuses him, or just after.
        let mut bob = Person::sign_in(&site.authority.http, &site.authority.url, "bob").await;
        for _ in 0..3 {
            if let Ok(bob) = &bob
                && site.authority.get_as(bob, "/v1/me").await.0 == 200
            {
                break;
            }
            bob = Person::sign_in(&site.authority.http, &site.authority.url, "bob").await;
        }
        let bob = bob.unwrap();
        assert_eq!(site.authority.get_as(&bob, "/v1/me").await.0, 200, "round {round}");
        let before = feed_seq().await;
        let body = json!({ "what": "human", "id": bob.human(), "reason": "drill" }).to_string();
        let mut hangs_up = tokio::net::TcpStream::connect(&address).await.unwrap();
        let head = format!(
            "POST /v1/revocations HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            site.sam.session().session,
            body.len()
        );
        hangs_up.write_all((head + &body).as_bytes()).await.unwrap();
        // The moment is swept from before the commit to after it.
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_micros(round * 60) {
            std::hint::spin_loop();
        }
        drop(hangs_up);
        // Hung up early enough, it was never asked for.
        let commits = async { while feed_seq().await == before {} };
        if tokio::time::timeout(Duration::from_millis(100), commits).await.is_ok() {
            committed += 1;
            let ends = async { while site.authority.get_as(&bob, "/v1/me").await.0 != 401 {} };
            tokio::time::timeout(Duration::from_secs(5), ends).await.unwrap_or_else(|_| panic!("round {round}: killed and still signed in"));
        }
    }
    assert!(committed > 0, "no kill was committed in 48 rounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_human_is_signed_out() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, _) = site.bot("bot").await;
    assert_eq!(revokes(&site.sam, "human", &site.alice.human()).await, 200);
    // Else a leaver's open session would grant anew, with the generations of after the kill.
    assert_eq!(site.alice.delegate(&bot, 100).await.unwrap().unwrap_err().0, 401);
    assert_eq!(site.authority.get_as(&site.alice, "/v1/me").await.0, 401);
    assert_eq!(site.authority.get_as(&site.bob, "/v1/me").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_more_than_their_own_or_registers_what_they_do_not_hold() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, _) = site.bot("bot").await;
    let bobs = site.bob.register("bobs", &key(&mut rng()), &"acme".parse().unwrap()).await.unwrap();
    let outcome = async |who: &Person, agent: &Agent, max| who.delegate(agent, max).await.unwrap().map_or_else(|(status, ..)| status, |_| 201);
    assert_eq!(outcome(&site.alice, &bot, 100_000).await, 201);
    assert_eq!(outcome(&site.alice, &bot, 100_001).await, 403, "a cent beyond her maximum");
    assert_eq!(outcome(&site.bob, &bobs, 1).await, 403, "bob may delegate nothing");
    assert_eq!(outcome(&site.sam, &bot, 1).await, 403, "a role is no authority to delegate");
    let nobodys = Agent { id: AgentId::from_bytes([7; 16]), key: bobs.key.clone(), card: bobs.card.clone() };
    assert_eq!(outcome(&site.alice, &nobodys, 1).await, 404, "an agent that is not there");
    // To another's agent: theirs to take back who granted it, and whose agent it is; nobody else's.
    for (who, expected) in [(&site.bob, 200), (&site.alice, 200)] {
        let granted = expect(site.alice.delegate(&bobs, 1).await.unwrap()).unwrap();
        assert_eq!(revokes(who, "delegation", field(&granted, "delegation").unwrap()).await, expected);
    }
    let granted = expect(site.alice.delegate(&bot, 1).await.unwrap()).unwrap();
    assert_eq!(revokes(&site.bob, "delegation", field(&granted, "delegation").unwrap()).await, 403);
    // Each sees their own.
    for (who, agents) in [(&site.alice, vec!["bot"]), (&site.bob, vec!["bobs"]), (&site.sam, vec![])] {
        let (_, body) = site.authority.get_as(who, "/v1/agents").await;
        let seen: Value = serde_json::from_slice(&body).unwrap();
        let names: Vec<_> = seen["agents"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
        assert_eq!(names, agents);
    }
    // Nor does anyone register a key that they do not hold, or one that is taken, or with another's challenge.
    let holder = key(&mut rng());
    let drawn = expect(site.alice.post("/v1/agents/challenges", &json!({})).await.unwrap()).unwrap();
    let nonce: [u8; 32] = hex::decode(field(&drawn, "challenge").unwrap()).unwrap().try_into().unwrap();
    let signed = |by: &SigningKey| hex::encode(by.sign(&procura_verifier::challenge::message(&"acme".parse().unwrap(), &nonce, &Key::of(&holder))).to_bytes());
    let body = |signature: String| json!({ "name": "third", "key": Key::of(&holder), "challenge": hex::encode(nonce), "signature": signature });
    assert_eq!(status(&site.bob, "/v1/agents", &body(signed(&holder))).await, 403, "bob with alice's challenge");
    assert_eq!(status(&site.alice, "/v1/agents", &body(signed(&holder))).await, 200);
    assert_eq!(status(&site.alice, "/v1/agents", &body(signed(&holder))).await, 403, "the same challenge again");
    assert!(site.alice.register("fourth", &holder, &"acme".parse().unwrap()).await.is_err(), "a key that is taken");
    assert!(site.alice.register("third", &key(&mut rng()), &"acme".parse().unwrap()).await.is_err(), "a name that is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_needs_admin_and_the_log_an_auditor() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let body = |audience: &str| json!({ "audience": audience, "key": Key::of(&key(&mut rng())) });
    for (who, expected) in [(&site.alice, 403), (&site.bob, 403), (&site.sam, 200)] {
        assert_eq!(status(who, "/v1/verifiers", &body("payments/1")).await, expected);
    }
    assert_eq!(status(&site.sam, "/v1/verifiers", &body("payments/1")).await, 409, "an audience that is taken");
    assert_eq!(status(&site.sam, "/v1/verifiers", &body("payments/2")).await, 200);
    for path in ["/v1/log/bundle", "/tile/entries/000.p/2"] {
        for (who, expected) in [(&site.alice, 403), (&site.bob, 403), (&site.sam, 200)] {
            assert_eq!(site.authority.get_as(who, path).await.0, expected, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_session_acts_only_from_our_own_pages() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let address = site.authority.address();
    let cookie = format!("procura_dev={}", site.alice.session().session);
    let post = || Request::new("POST", "/v1/agents/challenges").header("cookie", &cookie).json("{}");
    assert_eq!(post().send(address).await.unwrap().status, 403, "no origin");
    for origin in [
        "null",
        "https://evil.example",
        "http://127.0.0.1:1",
        &format!("{}.evil.example", site.authority.url),
        &format!("{}/", site.authority.url),
        &site.authority.url.to_uppercase(),
    ] {
        assert_eq!(post().header("origin", origin).send(address).await.unwrap().status, 403, "{origin}");
    }
    assert_eq!(post().header("origin", &site.authority.url).send(address).await.unwrap().status, 200);
    // Reading changes nothing: a browser may.
    assert_eq!(Request::new("GET", "/v1/me").header("cookie", &cookie).send(address).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_mints_by_a_fresh_assertion_of_its_own_key_for_this_authority() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, delegation) = site.bot("bot").await;
    let (other, others) = site.bot("other").await;
    let good = site.assertion(bot.id, &bot.key);
    let (first, minted) = site.mint(delegation, &good).await;
    assert_eq!(first, 200, "{minted}");
    assert_eq!(site.mint(delegation, &good).await.0, 401, "the same assertion again");
    let refused = [
        ("for another authority", assertion("http://127.0.0.1:1", bot.id, &bot.key, &SystemClock, &mut rng())),
        ("for the endpoint", assertion(&format!("{}/v1/token", site.authority.url), bot.id, &bot.key, &SystemClock, &mut rng())),
        ("by another key", site.assertion(bot.id, &other.key)),
        ("for an agent that is not there", site.assertion(AgentId::from_bytes([7; 16]), &bot.key)),
        ("unsigned", {
            let text = site.assertion(bot.id, &bot.key);
            let claims = text.split('.').nth(1).unwrap();
            format!("{}.{claims}.", BASE64.encode(br#"{"alg":"none","typ":"JWT"}"#))
        }),
        (
            "that has ended",
            signed(&bot, json!({ "iss": bot.id, "sub": bot.id, "aud": site.authority.url, "exp": SystemClock.wall().secs() - 1, "jti": "old" })),
        ),
        (
            "that lives too long",
            signed(&bot, json!({ "iss": bot.id, "sub": bot.id, "aud": site.authority.url, "exp": SystemClock.wall().secs() + 3600, "jti": "long" })),
        ),
        ("without a name", signed(&bot, json!({ "iss": bot.id, "sub": bot.id, "aud": site.authority.url, "exp": SystemClock.wall().secs() + 60 }))),
    ];
    for (why, text) in refused {
        assert_eq!(site.mint(delegation, &text).await.0, 401, "an assertion {why}");
    }
    assert_eq!(site.mint(others, &site.assertion(bot.id, &bot.key)).await.0, 404, "another agent's delegation");
    let mut long = mint_body(delegation, &site.assertion(bot.id, &bot.key));
    long["audiences"] = json!(["crm"]);
    assert_eq!(site.post("/v1/token", &long).await.0, 400, "an audience that was not granted");
    // Replays at the same instant: one of many gets the token.
    let raced = site.assertion(bot.id, &bot.key);
    let raced = futures_util::future::join_all((0..16).map(|_| site.mint(delegation, &raced))).await;
    assert_eq!(raced.iter().filter(|(s, _)| *s == 200).count(), 1, "{raced:?}");
    assert!(raced.iter().all(|(s, _)| matches!(s, 200 | 401)), "{raced:?}");

    // After each kind of revocation there is no token, and the other agent's goes on.
    assert_eq!(revokes(&site.alice, "delegation", &delegation.to_string()).await, 200);
    assert_eq!(site.mint(delegation, &site.assertion(bot.id, &bot.key)).await.0, 409);
    assert_eq!(site.mint(others, &site.assertion(other.id, &other.key)).await.0, 200);
    let card = |agent: &Agent| json!({ "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion": site.assertion(agent.id, &agent.key) });
    assert_eq!(site.post("/v1/card", &card(&other)).await.0, 200);
    assert_eq!(revokes(&site.alice, "agent", &other.id.to_string()).await, 200);
    assert_eq!(site.post("/v1/card", &card(&other)).await.0, 409);
    assert_eq!(site.mint(others, &site.assertion(other.id, &other.key)).await.0, 409);
    assert_eq!(revokes(&site.alice, "key", &Key::of(&bot.key).to_string()).await, 200);
    assert_eq!(site.post("/v1/card", &card(&bot)).await.0, 401, "a dead key signs in nowhere");
}

/// A JWT by the agent's key over any claims.
fn signed(agent: &Agent, claims: Value) -> String {
    let text = format!("{}.{}", BASE64.encode(br#"{"alg":"EdDSA","typ":"JWT"}"#), BASE64.encode(claims.to_string()));
    format!("{text}.{}", BASE64.encode(agent.key.sign(text.as_bytes()).to_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_fields_of_the_spec_and_no_others() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, delegation) = site.bot("bot").await;
    let assertion = || site.assertion(bot.id, &bot.key);
    let token = site.mint(delegation, &assertion()).await.1;
    let card = site
        .post("/v1/card", &json!({ "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion": assertion() }))
        .await
        .1;
    let error = site.post("/v1/card", &json!({})).await.1;
    for (name, answer) in [("token", token), ("card", card), ("error", error)] {
        let path = format!("{}/../spec/http/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let spec: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let fields = |v: &Value| v.as_object().unwrap().iter().map(|(k, v)| (k.clone(), std::mem::discriminant(v))).collect::<Vec<_>>();
        assert_eq!(fields(&answer), fields(&spec), "{name}: {answer}");
    }
    // A credential is in no cache.
    let answer = Request::new("POST", "/v1/token").json(mint_body(delegation, &assertion()).to_string()).send(site.authority.address()).await.unwrap();
    assert!(answer.status == 200 && answer.head.to_lowercase().contains("cache-control: no-store"), "{}", answer.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_folder_is_its_owners_and_one_processs() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let data = &site.authority.data;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(data), 0o700);
    let keys: Vec<_> = std::fs::read_dir(data.join("keys")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    // Anchor, root, feed, event, log, card.
    assert!(keys.len() >= 6, "{keys:?}");
    for key in &keys {
        assert_eq!(mode(key), 0o600, "{}", key.display());
    }
    assert_eq!(mode(&data.join(procura_authority::app::SOCKET)), 0o600);

    for listen in ["127.0.0.1:0", site.authority.address()] {
        let second = procura(&["dev", "--listen", listen, "--data", data.to_str().unwrap()]).await;
        let said = text(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("in use by another process") && said.contains(data.to_str().unwrap()), "{said}");
    }
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let folder = site.scratch.path().join("exposed");
        let exposed = procura(&["dev", "--listen", listen, "--data", folder.to_str().unwrap()]).await;
        let said = text(&exposed.stderr);
        assert_eq!(exposed.status.code(), Some(1), "{said}");
        assert!(said.contains("expected a loopback address") && !folder.exists(), "{said}");
    }
    // A key that others can read is not used.
    let mut authority = site.authority;
    authority.kill().await;
    std::fs::set_permissions(&keys[0], std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = procura(&["dev", "--listen", "127.0.0.1:0", "--data", authority.data.to_str().unwrap()]).await;
    assert_eq!(open.status.code(), Some(1));
    assert!(text(&open.stderr).contains("600"), "{}", text(&open.stderr));
}

/// All stored hashes, as another implementation of C2SP tiles lays them out.
struct Theirs(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Theirs {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_reads_with_other_peoples_readers() {
    let _machine = beside_others().await;
    let site = Site::start().await;
    let (bot, delegation) = site.bot("bot").await;
    // More than one full tile.
    for _ in 0..20 {
        futures_util::future::join_all((0..16).map(|_| mint(&site.authority, &bot, delegation))).await;
    }
    let note = site.authority.get("/checkpoint").await.1;
    let keys: Value = serde_json::from_slice(&site.authority.get("/v1/keys").await.1).unwrap();
    let verifiers = keys["log_vkeys"].as_array().unwrap().iter().map(|k| {
        let vkey = signed_note::StandardVerifier::new(k.as_str().unwrap()).expect("a vkey");
        Box::new(vkey) as Box<dyn signed_note::Verifier>
    });
    let parsed = signed_note::Note::from_bytes(&note).expect("a signed note");
    let (signers, strangers) = parsed.verify(&signed_note::VerifierList::new(verifiers.collect())).expect("signed by the log's key");
    assert_eq!((signers.len(), strangers.len()), (1, 0));
    let lines: Vec<_> = std::str::from_utf8(parsed.text()).unwrap().lines().collect();
    let (size, root): (u64, Vec<u8>) = (lines[1].parse().unwrap(), BASE64_STANDARD.decode(lines[2]).unwrap());
    assert!(size > 300, "{size} leaves");

    let mut theirs = Theirs(Vec::new());
    for tile in 0..size.div_ceil(256) {
        let width = (size - tile * 256).min(256);
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        let (ok, bundle) = site.authority.get_as(&site.sam, &format!("/tile/entries/{tile:03}{partial}")).await;
        assert_eq!(ok, 200);
        let mut rest = &bundle[..];
        for i in 0..width {
            // C2SP tlog-tiles: each entry behind its length in two bytes, big-endian.
            let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let new = tlog_tiles::stored_hashes(tile * 256 + i, &rest[2..2 + length], &theirs).expect("hashes");
            theirs.0.extend(new);
            rest = &rest[2 + length..];
        }
        assert!(rest.is_empty());
    }
    assert_eq!(tlog_tiles::tree_hash(size, &theirs).unwrap().0.to_vec(), root);
    let tiles = tlog_tiles::Tile::new_tiles(8, 0, size);
    assert!(tiles.len() >= 3, "{tiles:?}");
    for tile in tiles {
        let path = tile.path().replacen("tile/8/", "/tile/", 1);
        let (ok, served) = site.authority.get(&path).await;
        assert_eq!((ok, served == tile.read_data(&theirs).unwrap()), (200, true), "{path}");
        // Beyond the checkpoint there is nothing yet.
        if tile.width() < 256 {
            assert_eq!(site.authority.get(&format!("{}{}", path.rsplit_once('/').unwrap().0, "/255")).await.0, 404, "{path}");
        }
    }
}
