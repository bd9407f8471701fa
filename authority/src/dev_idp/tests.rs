//! The provider over real sockets, and the browser that other tests borrow.

use std::sync::atomic::{AtomicU64, Ordering};

use procura_verifier::ids::BootTime;
use rand::SeedableRng as _;
use reqwest::Url;
use reqwest::header::{HOST, LOCATION};

use super::*;

pub(crate) const START: UtcMillis = UtcMillis(1_900_000_000_000);
pub(crate) const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters";
pub(crate) const CALLBACK: &str = "http://127.0.0.1:9/oidc/callback";
pub(crate) const SECRET: &str = "a secret: with +%, and more";

/// A clock that stands until it is moved.
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn at(t: UtcMillis) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(t.0)))
    }
    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::SeqCst) * 1000)
    }
    fn wall(&self) -> UtcMillis {
        UtcMillis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) fn rng(seed: u64) -> Rng {
    Box::new(rand::rngs::StdRng::seed_from_u64(seed))
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

pub(crate) fn alice() -> Person {
    Person { username: "alice".into(), display_name: "Alice \u{202e}Liddell".into(), subject: "sub-alice".into() }
}

/// A provider that serves until the runtime of the test ends, for the clients `authority` and `other`.
pub(crate) fn start(listener: TcpListener, clock: Arc<dyn Clock>, seed: u64, callback: &str) -> String {
    start_until(listener, clock, seed, callback, std::future::pending()).0
}

pub(crate) fn start_until(
    listener: TcpListener,
    clock: Arc<dyn Clock>,
    seed: u64,
    callback: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> (String, tokio::task::JoinHandle<()>) {
    let client = |id: &str, secret: Option<&str>| Client { client_id: id.into(), secret: secret.map(Into::into), redirect_uris: vec![callback.into()] };
    let clients = vec![client("authority", Some(SECRET)), client("other", Some("other's")), client("public", None)];
    let idp = DevIdp::new(listener, vec![alice()], clients, clock, rng(seed)).expect("on loopback");
    let issuer = idp.issuer().to_owned();
    (issuer, tokio::spawn(async move { idp.serve(stop).await.expect("served") }))
}

/// Keeps cookies, follows a redirect when told to, and submits the form it is shown.
pub(crate) struct Browser(pub(crate) reqwest::Client);

impl Browser {
    pub(crate) fn new() -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().cookie_store(true).redirect(reqwest::redirect::Policy::none()).no_proxy();
        Self(client.build().expect("a client"))
    }

    pub(crate) async fn get(&self, url: &str) -> reqwest::Response {
        self.0.get(url).send().await.expect("an answer")
    }

    /// Opens the provider's page, types a name into its form, and gives where it is sent.
    pub(crate) async fn sign_in(&self, authorize: &str, username: &str) -> Url {
        let page = self.get(authorize).await;
        assert_eq!(page.status(), 200);
        let html = page.text().await.unwrap();
        location(&self.submit(authorize, &[("request", &hidden(&html, "request")), ("csrf", &hidden(&html, "csrf")), ("username", username)]).await)
    }

    pub(crate) async fn submit(&self, authorize: &str, fields: &[(&str, &str)]) -> reqwest::Response {
        let action = Url::parse(authorize).unwrap().join("/authorize").unwrap();
        self.0.post(action).form(fields).send().await.expect("an answer")
    }
}

pub(crate) fn location(response: &reqwest::Response) -> Url {
    assert_eq!(response.status(), 303, "expected a redirect");
    Url::parse(response.headers()[LOCATION].to_str().unwrap()).unwrap()
}

pub(crate) fn param(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
}

fn hidden(html: &str, name: &str) -> String {
    let (_, rest) = html.split_once(&format!("name=\"{name}\" value=\"")).expect("the field");
    rest.split_once('"').unwrap().0.to_owned()
}

fn authorize_url(issuer: &str, change: &[(&str, Option<&str>)]) -> String {
    let challenge = secret::base64url(&secret::digest(VERIFIER));
    let mut params = vec![
        ("client_id", "authority"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid"),
        ("state", "st"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in change {
        params.retain(|(n, _)| n != name);
        params.extend(value.map(|v| (*name, v)));
    }
    Url::parse_with_params(&format!("{issuer}/authorize"), params).unwrap().into()
}

struct World {
    issuer: String,
    clock: Arc<HandClock>,
    browser: Browser,
}

async fn world() -> World {
    let clock = HandClock::at(START);
    let issuer = start(listener().await, clock.clone(), 1, CALLBACK);
    World { issuer, clock, browser: Browser::new() }
}

impl World {
    async fn code(&self) -> String {
        param(&self.browser.sign_in(&authorize_url(&self.issuer, &[]), "alice").await, "code").expect("a code")
    }

    async fn exchange(&self, code: &str, change: &[(&str, &str)], secret: &str) -> (u16, serde_json::Value) {
        let mut form = vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)];
        for (name, value) in change {
            form.retain(|(n, _)| n != name);
            form.push((name, value));
        }
        let encode = |text: &str| Url::parse_with_params("x:", [("v", text)]).unwrap().query().unwrap()[2..].to_owned();
        let request = self.browser.0.post(format!("{}/token", self.issuer)).basic_auth("authority", Some(encode(secret))).form(&form);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

#[tokio::test]
async fn it_starts_on_loopback_only() {
    let clock = HandClock::at(START);
    assert!(DevIdp::new(listener().await, vec![], vec![], clock.clone(), rng(1)).is_ok());
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert!(matches!(DevIdp::new(everywhere, vec![], vec![], clock, rng(1)), Err(DevIdpError::NotLoopback(_))));
}

#[tokio::test]
async fn a_foreign_redirect_uri_or_client_is_told_nothing() {
    let w = world().await;
    assert_eq!(w.browser.get(&authorize_url(&w.issuer, &[])).await.status(), 200);
    for (name, value) in [
        ("redirect_uri", Some("http://127.0.0.1:9/oidc/callback/")),
        ("redirect_uri", Some("http://127.0.0.1:9/oidc/callback?x=1")),
        ("redirect_uri", Some("https://evil.example/")),
        ("redirect_uri", None),
        ("client_id", Some("nobody")),
        ("client_id", None),
    ] {
        let answer = w.browser.get(&authorize_url(&w.issuer, &[(name, value)])).await;
        assert_eq!(answer.status(), 400, "{name} {value:?}");
        assert!(answer.headers().get(LOCATION).is_none());
    }
    let twice = format!("{}&state=again", authorize_url(&w.issuer, &[]));
    assert_eq!(w.browser.get(&twice).await.status(), 400);
}

#[tokio::test]
async fn a_request_without_s256_openid_or_code_goes_back_with_its_error_state_and_iss() {
    let w = world().await;
    for (name, value, error) in [
        ("code_challenge", None, "invalid_request"),
        ("code_challenge", Some("short"), "invalid_request"),
        ("code_challenge_method", Some("plain"), "invalid_request"),
        ("code_challenge_method", None, "invalid_request"),
        ("response_type", Some("token"), "unsupported_response_type"),
        ("response_mode", Some("fragment"), "unsupported_response_type"),
        ("scope", Some("profile"), "invalid_scope"),
        ("prompt", Some("none"), "login_required"),
        ("request", Some("jwt"), "request_not_supported"),
    ] {
        let to = location(&w.browser.get(&authorize_url(&w.issuer, &[(name, value)])).await);
        assert_eq!(param(&to, "error").as_deref(), Some(error), "{name} {value:?}");
        assert_eq!(param(&to, "state").as_deref(), Some("st"));
        assert_eq!(param(&to, "iss").as_deref(), Some(w.issuer.as_str()));
    }
}

#[tokio::test]
async fn the_form_counts_once_with_its_own_token_from_somebody_known() {
    let w = world().await;
    let url = authorize_url(&w.issuer, &[]);
    let html = w.browser.get(&url).await.text().await.unwrap();
    let other = w.browser.get(&url).await.text().await.unwrap();
    let (request, csrf) = (hidden(&html, "request"), hidden(&html, "csrf"));
    let forged = [("request", request.as_str()), ("csrf", &hidden(&other, "csrf")), ("username", "alice")];
    assert_eq!(w.browser.submit(&url, &forged).await.status(), 403);
    let unknown = w.browser.submit(&url, &[("request", &request), ("csrf", &csrf), ("username", "<mallory>")]).await;
    assert_eq!(unknown.status(), 422);
    assert!(unknown.text().await.unwrap().contains("role=\"alert\""));
    let good = [("request", request.as_str()), ("csrf", &csrf), ("username", "alice")];
    assert!(param(&location(&w.browser.submit(&url, &good).await), "code").is_some());
    assert_eq!(w.browser.submit(&url, &good).await.status(), 403, "a second code from one form");
}

#[tokio::test]
async fn a_code_is_good_once_within_a_minute_for_its_client_uri_and_verifier() {
    let w = world().await;
    let code = w.code().await;
    w.clock.advance(59_999);
    let (status, answer) = w.exchange(&code, &[], SECRET).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["id_token"].is_string());
    assert_eq!(w.exchange(&code, &[], SECRET).await.1["error"], "invalid_grant", "replay");
    let code = w.code().await;
    w.clock.advance(60_000);
    assert_eq!(w.exchange(&code, &[], SECRET).await.1["error"], "invalid_grant", "late");
    for change in [("code_verifier", "another-verifier-of-forty-three-characters-"), ("redirect_uri", "http://127.0.0.1:9/"), ("code", "guess")] {
        let (status, answer) = w.exchange(&w.code().await, &[change], SECRET).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")), "{change:?}");
    }
    assert_eq!(w.exchange(&w.code().await, &[("grant_type", "password")], SECRET).await.1["error"], "unsupported_grant_type");
}

#[tokio::test]
async fn a_confidential_client_needs_its_secret() {
    let w = world().await;
    let code = w.code().await;
    assert_eq!(w.exchange(&code, &[], "guess").await.0, 401);
    assert_eq!(w.exchange(&code, &[("client_id", "other")], SECRET).await.0, 401, "two clients at once");
    let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)];
    let token = format!("{}/token", w.issuer);
    for (client, status) in [("authority", 401), ("public", 400)] {
        let form = form.iter().copied().chain([("client_id", client)]).collect::<Vec<_>>();
        assert_eq!(w.browser.0.post(&token).form(&form).send().await.unwrap().status(), status, "{client}");
    }
    assert_eq!(w.exchange(&w.code().await, &[], SECRET).await.0, 200);
}

#[tokio::test]
async fn a_page_of_another_name_gets_nothing() {
    let w = world().await;
    let ask = |host: &str| w.browser.0.get(format!("{}/jwks", w.issuer)).header(HOST, host).send();
    assert_eq!(ask(w.issuer.strip_prefix("http://").unwrap()).await.unwrap().status(), 200);
    assert_eq!(ask("rebound.example").await.unwrap().status(), 421);
}
