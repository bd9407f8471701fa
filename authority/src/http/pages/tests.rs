//! Browsers without script against a whole authority for development: real sockets, the real provider. One with script is in
//! `tests/system/browser.rs`.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::ids::{AgentId, Key};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::app::{Running, dev};
use crate::dev_idp::tests::{Browser, location};

struct Site {
    running: Arc<Running>,
    _folder: tempfile::TempDir,
}

/// A browser in which somebody may be signed in.
struct Person {
    url: String,
    browser: Browser,
}

async fn site() -> Site {
    let _installed = Browser::new();
    let folder = tempfile::tempdir().unwrap();
    let running = dev(&folder.path().join("authority"), "127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    Site { running: Arc::new(running), _folder: folder }
}

impl Site {
    fn stranger(&self) -> Person {
        Person { url: self.running.url.clone(), browser: Browser::new() }
    }

    async fn signed_in(&self, name: &str) -> Person {
        let person = self.stranger();
        let to = location(&person.get("/login").await);
        let callback = person.browser.sign_in(to.as_str(), name).await;
        assert_eq!(person.browser.get(callback.as_str()).await.status(), 303);
        person
    }
}

impl Person {
    async fn get(&self, path: &str) -> Response {
        self.browser.get(&format!("{}{path}", self.url)).await
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    }

    async fn csrf(&self) -> String {
        value(&self.page("/").await, "csrf")
    }

    /// As a browser sends a form of ours.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Response {
        let csrf = self.csrf().await;
        self.post_with(path, Some(&self.url), &[fields, &[("csrf", &csrf)]].concat()).await
    }

    async fn post_with(&self, path: &str, origin: Option<&str>, fields: &[(&str, &str)]) -> Response {
        let request = self.browser.0.post(format!("{}{path}", self.url)).form(fields);
        let request = if let Some(origin) = origin { request.header("origin", origin) } else { request };
        request.send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).unwrap()
    }

    /// Through the two forms, with a signature by the agent's key.
    async fn register(&self, name: &str, n: u8) -> AgentId {
        let signing = SigningKey::from_bytes(&[n; 32]);
        let key = Key::of(&signing).to_string();
        let shown = self.post("/agents/new", &[("name", name), ("key", &key)]).await.text().await.unwrap();
        let message = shown.split_once("printf '").unwrap().1.split_once('\'').unwrap().0;
        let signature = hex::encode(signing.sign(&hex::decode(message).unwrap()).to_bytes());
        let fields = [("name", name), ("key", &key), ("challenge", &value(&shown, "challenge")), ("signature", &signature)];
        made(&self.post("/agents", &fields).await).parse().unwrap()
    }

    async fn preview(&self, agent: AgentId, change: &[(&str, &str)]) -> Response {
        let agent = agent.to_string();
        let mut fields = vec![
            ("agent", agent.as_str()),
            ("tool.0", "payments"),
            ("action.0", "transfer"),
            ("resource.0", "acct/eu/*"),
            ("limits.0", "amount=500.00EUR"),
            ("services", "payments"),
            ("ttl_minutes", "60"),
            ("lasts_hours", "8"),
            ("depth", "2"),
            ("class", "confidential"),
        ];
        fields.retain(|(n, _)| !change.iter().any(|(c, _)| c == n));
        fields.extend(change);
        self.post("/delegate/preview", &fields).await
    }

    /// Grants what the preview shows, and gives the id.
    async fn delegate(&self, agent: AgentId) -> String {
        let shown = self.preview(agent, &[]).await.text().await.unwrap();
        made(&self.post("/delegate", &fields(&consent(&shown))).await)
    }

    /// The board that a revocation leads to, once nothing more comes.
    async fn board(&self, answer: &Response) -> String {
        assert_eq!(answer.status(), 303);
        let path = answer.headers()["location"].to_str().unwrap();
        let stream = path.replace('?', "/stream?");
        // Ends with the wait itself; 404 once it is over and forgotten.
        _ = self.get(&stream).await.text().await.unwrap();
        self.page(path).await
    }

    async fn standings(&self) -> Vec<String> {
        let all = self.json("/v1/delegations").await;
        all["delegations"].as_array().unwrap().iter().map(|d| d["standing"].as_str().unwrap().to_owned()).collect()
    }
}

/// The id of what was made, from where the browser is sent.
fn made(answer: &Response) -> String {
    assert_eq!(answer.status(), 303);
    answer.headers()["location"].to_str().unwrap().split_once("?made=").unwrap().1.to_owned()
}

/// What the confirmation form carries, without its token.
fn consent(html: &str) -> Vec<(String, String)> {
    ["agent", "terms", "shown", "once"].map(|name| (name.to_owned(), value(html, name))).to_vec()
}

fn fields(of: &[(String, String)]) -> Vec<(&str, &str)> {
    of.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
}

fn value(html: &str, name: &str) -> String {
    let (_, rest) = html.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no field {name} in {html}"));
    rest.split_once('"').unwrap().0.replace("&#34;", "\"").replace("&#38;", "&").replace("&#39;", "'").replace("&#60;", "<").replace("&#62;", ">")
}

/// Nothing in it that a browser would run but our one file, or that brings its own style, and the policy that forbids both.
async fn strict(answer: Response, path: &str) {
    let csp = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        csp.starts_with("default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self';")
            && csp.contains("form-action 'self'")
            && csp.contains("frame-ancestors 'none'"),
        "{path}: {csp}"
    );
    assert!(!csp.contains("unsafe") && !csp.contains("http"), "{path}: {csp}");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert_eq!(answer.headers()["referrer-policy"], "same-origin");
    assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8", "{path}");
    let html = answer.text().await.unwrap();
    assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">") && html.contains("<h1>") && html.contains("<main id=\"main\""), "{path}: {html}");
    for tag in html.split('<').skip(1) {
        let tag = tag.split_once('>').map_or(tag, |(tag, _)| tag);
        assert!(tag == "script src=\"/live.js\" defer" || !tag.starts_with("script") && !tag.starts_with("style"), "{path}: <{tag}>");
        for attribute in tag.split([' ', '\n']).skip(1).filter_map(|a| a.split_once('=')) {
            assert!(attribute.0 != "style" && !attribute.0.starts_with("on") && !attribute.1.contains("javascript:"), "{path}: <{tag}>");
        }
    }
}

#[tokio::test]
async fn every_page_is_under_the_strict_policy_and_brings_no_script_or_style() {
    let site = site().await;
    let (alice, sam, nobody) = (site.signed_in("alice").await, site.signed_in("sam").await, site.stranger());
    strict(nobody.get("/").await, "/ signed out").await;
    for path in ["/agents", "/kill", "/events"] {
        let answer = nobody.get(path).await;
        assert_eq!(answer.status(), 401);
        strict(answer, path).await;
    }
    for path in ["/", "/agents", "/agents/new", "/delegate", "/delegations", "/decisions", "/decisions?agent=x&tool=%22%3E%3Cscript&verdict=limit&before=3"] {
        strict(alice.get(path).await, path).await;
    }
    let bot = alice.register("invoice-bot", 1).await;
    strict(alice.preview(bot, &[]).await, "preview").await;
    strict(alice.preview(bot, &[("depth", "9")]).await, "preview refused").await;
    let id = alice.delegate(bot).await;
    let (like, agent) = (format!("/delegate?like={id}"), format!("/agents/{bot}"));
    for path in ["/agents", &agent, "/delegate", "/delegate?template=7", &like, "/delegations", &format!("/delegations/{id}/revoke")] {
        strict(alice.get(path).await, path).await;
    }
    for path in
        ["/", "/kill", "/verifiers", "/events", "/events?before=1", "/events?kind=receipt", "/events/0", "/decisions", "/kill?what=agent&id=%22%3E", &agent]
    {
        let answer = sam.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        strict(answer, path).await;
    }
    for (path, status) in [
        ("/events?before=x", 400),
        ("/delegations/dlg_0/revoke", 404),
        ("/delegations/dlg_0/links/1/lid_0/revoke", 404),
        ("/agents/agt_0", 404),
        ("/events/x", 400),
        ("/events/9999999", 404),
        ("/revocations/0", 404),
        ("/revocations/0/stream", 404),
        ("/revocations/-1", 400),
        ("/decisions?before=-1", 400),
        ("/agents?made=x", 400),
    ] {
        let answer = sam.get(path).await;
        assert_eq!(answer.status(), status, "{path}");
        strict(answer, path).await;
    }
    let wrong_method = sam.get("/sign-out").await;
    assert_eq!(wrong_method.status(), 405);
    strict(wrong_method, "wrong method").await;
    let unknown = sam.browser.0.get(format!("{}/nowhere", sam.url)).header("accept", "text/html").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    strict(unknown, "unknown").await;
    assert_eq!(sam.get("/nowhere").await.headers()["content-type"], "application/json", "for programs the one form of error");
    assert_eq!(nobody.get("/style.css").await.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn a_form_needs_its_sessions_token_and_our_own_origin() {
    let site = site().await;
    let (alice, bob) = (site.signed_in("alice").await, site.signed_in("bob").await);
    let (own, others) = (alice.csrf().await, bob.csrf().await);
    assert_ne!(own, others);
    let key = Key::of(&SigningKey::from_bytes(&[1; 32])).to_string();
    let form = |csrf: &'static str| [("name", "invoice-bot"), ("key", ""), ("csrf", csrf)];
    assert_eq!(alice.post_with("/agents/new", Some(&alice.url), &form("")[..2]).await.status(), 403, "no token");
    assert_eq!(alice.post_with("/agents/new", Some(&alice.url), &form("forged")).await.status(), 403);
    let full = |csrf| [("name", "invoice-bot"), ("key", key.as_str()), ("csrf", csrf)];
    for (origin, csrf, why) in [
        (Some(alice.url.as_str()), others.as_str(), "another session's"),
        (Some("https://evil.example"), own.as_str(), "another site"),
        (Some("null"), own.as_str(), "a sandboxed frame"),
        (None, own.as_str(), "no origin"),
    ] {
        let answer = alice.post_with("/agents/new", origin, &full(csrf)).await;
        assert_eq!(answer.status(), 403, "{why}");
        strict(answer, why).await;
    }
    let twice = [&full(&own)[..], &[("csrf", own.as_str())]].concat();
    assert_eq!(alice.post_with("/agents/new", Some(&alice.url), &twice).await.status(), 400, "twice");
    let passes = alice.post_with("/agents/new", Some(&alice.url), &full(&own)).await;
    assert_eq!(passes.status(), 200);
    assert!(passes.text().await.unwrap().contains("challenge.bin"));
    assert_eq!(site.stranger().post_with("/agents/new", Some(&alice.url), &full(&own)).await.status(), 401, "without the session");
    let long = "x".repeat(70_000);
    let answer = alice.post_with("/agents/new", Some(&alice.url), &[("csrf", &own), ("name", &long)]).await;
    assert_eq!(answer.status(), 413);
    strict(answer, "too long").await;

    assert_eq!(alice.post_with("/sign-out", Some("https://evil.example"), &[("csrf", &own)]).await.status(), 403);
    assert_eq!(alice.get("/agents").await.status(), 200);
    assert_eq!(alice.post("/sign-out", &[]).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(alice.get("/agents").await.status(), 401);
}

#[tokio::test]
async fn what_people_type_comes_back_escaped() {
    let site = site().await;
    let alice = site.signed_in("alice").await;
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(2)>";
    let bot = alice.register("invoice-bot", 1).await;
    let answers = [
        alice.post("/agents/new", &[("name", evil), ("key", evil)]).await,
        alice.preview(bot, &[("tool.0", evil), ("limits.0", evil), ("services", evil)]).await,
        alice.preview(bot, &[("add", "1"), ("resource.0", evil), ("agent", evil)]).await,
        alice.preview(bot, &[("ttl_minutes", evil)]).await,
    ];
    for answer in answers {
        let html = answer.text().await.unwrap();
        assert!(!html.contains("<script") && !html.contains("<img src=x"), "{html}");
        assert!(html.contains("&#60;script&#62;") || html.contains("&lt;script&gt;"), "it is shown all the same: {html}");
    }
    let path = format!("/delegations/{}/revoke", "%3Cscript%3E");
    assert!(!alice.get(&path).await.text().await.unwrap().contains("<script"));
}

#[tokio::test]
async fn what_is_shown_is_what_is_granted_once_and_nothing_else() {
    let site = site().await;
    let alice = site.signed_in("alice").await;
    assert!(alice.page("/delegate").await.contains("no active agent"));
    let bot = alice.register("invoice-bot", 1).await;
    assert!(alice.page("/agents").await.contains("invoice-bot"));

    let beyond = alice.preview(bot, &[("limits.0", "amount=2000.00EUR")]).await;
    assert_eq!(beyond.status(), 422);
    let html = beyond.text().await.unwrap();
    assert!(html.contains("amount at most 2000.00 EUR is beyond your maximum") && html.contains("value=\"acct/eu/*\""), "{html}");
    assert_eq!(alice.preview(bot, &[("limits.0", "")]).await.status(), 422, "no limit is said by name");

    let shown = alice.preview(bot, &[]).await.text().await.unwrap();
    assert!(shown.contains("with payments: transfer on acct/eu/*, amount at most 500.00 EUR per call"), "{shown}");
    let given = consent(&shown);
    // Every field that was tampered with; and the whole of another session.
    for (tampered, from, to) in [("terms", "50000", "90000"), ("terms", "\"depth\":2", "\"depth\":3"), ("shown", "", "A"), ("agent", "agt_", "agt_0")] {
        let mut other = given.clone();
        let field = other.iter_mut().find(|(n, _)| n == tampered).unwrap();
        field.1 = field.1.replacen(from, to, 1);
        assert_eq!(alice.post("/delegate", &fields(&other)).await.status(), 409, "{tampered}: {to}");
    }
    let again = site.signed_in("alice").await;
    assert_eq!(again.post("/delegate", &fields(&given)).await.status(), 409, "shown to another session");
    assert!(alice.standings().await.is_empty());

    let first = made(&alice.post("/delegate", &fields(&given)).await);
    assert_eq!(made(&alice.post("/delegate", &fields(&given)).await), first, "pressed twice");
    let all = alice.json("/v1/delegations").await;
    let all = all["delegations"].as_array().unwrap();
    assert_eq!(all.len(), 1);
    let summary = all[0]["summary"].as_str().unwrap();
    assert!(shown.contains(&format!("<pre class=\"summary\">{summary}</pre>")), "{summary}\n{shown}");
    let html = alice.page(&format!("/delegations?made={first}")).await;
    assert!(html.contains("7 h 59 min left") && html.contains(summary));
}

#[tokio::test]
async fn a_delegation_is_taken_back_with_a_reason_by_whom_it_concerns() {
    let site = site().await;
    let (alice, bob) = (site.signed_in("alice").await, site.signed_in("bob").await);
    let bot = alice.register("invoice-bot", 1).await;
    let path = format!("/delegations/{}/revoke", alice.delegate(bot).await);
    assert_eq!(bob.get(&path).await.status(), 404);
    assert_eq!(bob.post(&path, &[("reason", "spite")]).await.status(), 404);
    for (reason, says) in [(" ".to_owned(), "expected a reason"), ("x".repeat(513), "reason is 513 bytes long")] {
        let refused = alice.post(&path, &[("reason", &reason)]).await;
        assert_eq!(refused.status(), 422);
        assert!(refused.text().await.unwrap().contains(says));
    }
    assert_eq!(alice.standings().await, ["live"]);
    let done = alice.post(&path, &[("reason", "job done")]).await;
    let html = alice.board(&done).await;
    assert!(html.contains("Revoked: the delegation to invoice-bot") && html.contains("No verifier is enrolled"), "{html}");
    // The board is hers and of those who watch verifiers, afterwards from the log; with its address it is anybody's.
    let board = done.headers()["location"].to_str().unwrap();
    let bare = board.split_once('?').unwrap().0;
    assert_eq!(bob.get(bare).await.status(), 404);
    assert_eq!(bob.get(&format!("{bare}?seal=forged")).await.status(), 404);
    assert_eq!(site.stranger().get(bare).await.status(), 404);
    for (who, path) in [(&alice, bare), (&site.signed_in("sam").await, bare), (&site.stranger(), board)] {
        assert_eq!(who.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(alice.standings().await, ["revoked"]);
    assert!(alice.page(&path).await.contains("nothing left to take back"));
}

#[tokio::test]
async fn the_kill_switch_is_securitys_and_wants_its_word() {
    let site = site().await;
    let (alice, sam) = (site.signed_in("alice").await, site.signed_in("sam").await);
    let bot = alice.register("invoice-bot", 1).await;
    alice.delegate(bot).await;
    let id = bot.to_string();
    let order = |word| [("what", "agent"), ("id", id.as_str()), ("reason", "drill"), ("confirmation", word)];
    assert!(!alice.page("/").await.contains("/kill"));
    for path in ["/kill", "/verifiers", "/events"] {
        assert_eq!(alice.get(path).await.status(), 403, "{path}");
    }
    assert_eq!(alice.post("/kill", &order("kill agent")).await.status(), 403);
    assert!(sam.page("/").await.contains("href=\"/kill\""));
    for wrong in ["", "kill", "kill all", "Kill agent"] {
        let refused = sam.post("/kill", &order(wrong)).await;
        assert_eq!(refused.status(), 422, "{wrong}");
        let html = refused.text().await.unwrap();
        assert!(html.contains("expected `kill agent` typed out") && html.contains(&format!("value=\"{id}\"")), "what was typed is kept: {html}");
    }
    assert_eq!(alice.standings().await, ["live"]);
    let done = sam.post("/kill", &order("kill agent")).await;
    let html = sam.board(&done).await;
    assert!(html.contains("Who has heard") && html.contains(&id), "{html}");
    assert_eq!(alice.standings().await, ["killed"]);
    let events = sam.page("/events").await;
    assert!(events.contains("<td>revoke</td>") && events.contains("procura log replay"), "{events}");
}

#[tokio::test]
async fn who_kills_everything_sees_the_board_though_signed_out_by_it() {
    let site = site().await;
    let (alice, sam) = (site.signed_in("alice").await, site.signed_in("sam").await);
    alice.delegate(alice.register("invoice-bot", 1).await).await;
    let order = [("what", "all"), ("id", ""), ("reason", "worst case"), ("confirmation", "kill all")];
    let done = sam.post("/kill", &order).await;
    assert_eq!(sam.get("/verifiers").await.status(), 401, "everybody is signed out");
    let html = sam.board(&done).await;
    assert!(html.contains("Revoked: all") && html.contains("No verifier is enrolled"), "{html}");
}

#[tokio::test]
async fn signing_in_and_out_leads_nowhere_else() {
    let site = site().await;
    let alice = site.signed_in("alice").await;
    // Nothing of ours takes an address to go to: what a link adds is not followed.
    for path in ["/login?next=https://evil.example", "/login?return_to=//evil.example", "/login?redirect_uri=https://evil.example"] {
        let to = location(&alice.get(path).await);
        assert_eq!(to.origin().ascii_serialization(), site.running.provider, "{path}");
        let back = to.query_pairs().find(|(n, _)| n == "redirect_uri").unwrap().1.into_owned();
        assert_eq!(back, format!("{}/oidc/callback", alice.url), "{path}");
    }
    let answer = alice.post("/sign-out?next=https://evil.example", &[("next", "https://evil.example")]).await;
    assert_eq!((answer.status(), answer.headers()["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, "/"));
    let slashes = alice.get("//evil.example/").await;
    assert_eq!(slashes.status(), 404);
}

#[tokio::test]
async fn a_cookie_bears_the_name_of_its_scheme_and_a_form_is_of_its_session() {
    let site = site().await;
    let person = site.stranger();
    let to = location(&person.get("/login").await);
    let callback = person.browser.sign_in(to.as_str(), "alice").await;
    let answer = person.browser.get(callback.as_str()).await;
    let kept = answer.headers().get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).find(|v| v.starts_with("procura_dev=")).unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(kept.contains(attribute), "{attribute} in {kept}");
    }
    assert!(!kept.contains("Secure") && !kept.contains("Domain"), "{kept}");
    // The twin: under https browsers themselves hold it to this host.
    assert_eq!(crate::oidc::routes::Cookies::for_address("https://authority.example").unwrap().session(), "__Host-procura");
    // A form of an earlier sign-in is refused, in this one's twin it passes.
    let old = person.csrf().await;
    let again = site.signed_in("alice").await;
    assert_eq!(again.post_with("/sign-out", Some(&again.url), &[("csrf", &old)]).await.status(), 403);
    assert_eq!(again.post("/sign-out", &[]).await.status(), 303);
}
