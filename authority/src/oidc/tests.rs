//! The relying party and its pages against the real provider for development, over loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use openidconnect::OAuth2TokenResponse as _;
use openidconnect::core::CoreTokenResponse;
use procura_verifier::ids::{Clock as _, HumanId, UtcMillis};
use reqwest::Url;
use reqwest::header::{LOCATION, SET_COOKIE};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::attempts::{LoginAttempt, LoginAttempts, Then};
use super::relying_party::{Algorithm, Callback, DiscoverError, IdTokenFault, IssuerConfig, LoginError, RelyingParty, Retry};
use super::routes::{Cookies, OidcState, router};
use super::session::Sessions;
use super::*;
use crate::dev_idp::tests::{Browser, CALLBACK, HandClock, SECRET, START, VERIFIER, listener, location, param, rng, start, start_until};
use crate::secret;

const ONCE: Retry = Retry { tries: 1, pause: std::time::Duration::ZERO };

fn config(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.into(),
        client_id: "authority".into(),
        client_secret: Some(SECRET.into()),
        redirect_url: CALLBACK.into(),
        algorithms: vec![Algorithm::RS256, Algorithm::EdDSA],
    }
}

struct World {
    issuer: String,
    idp_clock: Arc<HandClock>,
    browser: Browser,
    rp: RelyingParty,
}

/// Another seed for each sign-in: two with one nonce would not be told apart.
fn next_seed() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1_000);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

async fn world() -> World {
    world_with(|c| c).await
}

async fn world_with(change: impl FnOnce(IssuerConfig) -> IssuerConfig) -> World {
    let idp_clock = HandClock::at(START);
    let issuer = start(listener().await, idp_clock.clone(), 1, CALLBACK);
    let browser = Browser::new();
    let rp = RelyingParty::discover(change(config(&issuer)), START, ONCE).await.expect("discovered");
    World { issuer, idp_clock, browser, rp }
}

/// A sign-in up to the callback, and the cookie.
struct Arrived {
    attempt: LoginAttempt,
    callback: Callback,
    browser: String,
}

async fn arrive(rp: &RelyingParty, browser: &Browser, change: impl FnOnce(&mut LoginAttempt)) -> Arrived {
    let mut begun = rp.begin(START, &mut *rng(next_seed()));
    change(&mut begun.attempt);
    let to = browser.sign_in(begun.url.as_str(), "alice").await;
    let callback = Callback { code: param(&to, "code"), state: param(&to, "state"), iss: param(&to, "iss"), error: param(&to, "error") };
    Arrived { attempt: begun.attempt, callback, browser: begun.browser.expose_secret().to_owned() }
}

impl World {
    async fn arrive(&self) -> Arrived {
        arrive(&self.rp, &self.browser, |_| ()).await
    }

    async fn finish(&self, a: Arrived) -> Result<SignedIn, LoginError> {
        self.finish_at(a, START).await
    }

    async fn finish_at(&self, a: Arrived, now: UtcMillis) -> Result<SignedIn, LoginError> {
        self.rp.finish(a.attempt, a.callback, Some(&a.browser), now).await
    }
}

fn fault(f: IdTokenFault) -> Result<SignedIn, LoginError> {
    Err(LoginError::IdToken(f))
}

#[tokio::test]
async fn somebody_signs_in() {
    let w = world().await;
    let who = w.finish(w.arrive().await).await.expect("signed in");
    assert_eq!((who.issuer(), who.subject(), who.name()), (w.issuer.as_str(), "sub-alice", Some("Alice Liddell")));
    assert_eq!((who.auth_time(), who.acr(), who.amr()), (Some(START), Some("0"), &["user".to_owned()][..]));
    assert!(!format!("{who:?}").contains("alice"), "personal words stay out of logs");
}

#[tokio::test]
async fn a_public_client_signs_in_without_a_secret() {
    let w = world_with(|c| IssuerConfig { client_id: "public".into(), client_secret: None, ..c }).await;
    assert!(w.finish(w.arrive().await).await.is_ok());
}

#[tokio::test]
async fn the_state_must_be_of_the_attempt_and_young() {
    let w = world().await;
    let mut a = w.arrive().await;
    a.callback.state = Some("another".into());
    assert_eq!(w.finish(a).await, Err(LoginError::State));
    let mut a = w.arrive().await;
    a.callback.state = None;
    assert_eq!(w.finish(a).await, Err(LoginError::State));
    assert_eq!(w.finish_at(w.arrive().await, START.plus(600_000)).await, Err(LoginError::State));
}

#[tokio::test]
async fn the_browser_that_began_must_be_the_one_that_ends() {
    let w = world().await;
    let a = w.arrive().await;
    assert_eq!(w.rp.finish(a.attempt, a.callback, None, START).await, Err(LoginError::Browser));
    let mut a = w.arrive().await;
    a.browser = "another".into();
    assert_eq!(w.finish(a).await, Err(LoginError::Browser));
}

#[tokio::test]
async fn the_callback_names_the_provider_we_asked() {
    let w = world().await;
    for (iss, got) in [(Some("https://evil.example".to_owned()), "another"), (None, "missing")] {
        let mut a = w.arrive().await;
        a.callback.iss = iss;
        assert_eq!(w.finish(a).await, Err(LoginError::CallbackIssuer { expected: w.issuer.clone(), got }));
    }
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_repeated_only_as_a_word() {
    let w = world().await;
    for (error, sentence) in [("access_denied", "`access_denied`"), ("<script>", "an unknown error")] {
        let mut a = w.arrive().await;
        a.callback.error = Some(error.into());
        assert_eq!(w.finish(a).await, Err(LoginError::Refused(sentence.into())));
    }
}

#[tokio::test]
async fn a_code_is_exchanged_once_and_with_its_verifier() {
    let w = world().await;
    let a = w.arrive().await;
    let replay = Arrived {
        attempt: LoginAttempt {
            state: a.attempt.state.clone(),
            nonce: a.attempt.nonce.clone(),
            verifier: a.attempt.verifier.clone(),
            issuer: a.attempt.issuer.clone(),
            ..a.attempt
        },
        callback: Callback { code: a.callback.code.clone(), state: a.callback.state.clone(), iss: a.callback.iss.clone(), error: None },
        browser: a.browser.clone(),
    };
    assert!(w.finish(a).await.is_ok());
    assert_eq!(w.finish(replay).await, Err(LoginError::Exchange("`invalid_grant`".into())));
    let a = arrive(&w.rp, &w.browser, |a| a.verifier = VERIFIER.into()).await;
    assert_eq!(w.finish(a).await, Err(LoginError::Exchange("`invalid_grant`".into())));
    let mut a = w.arrive().await;
    a.callback.code = None;
    assert_eq!(w.finish(a).await, Err(LoginError::Code));
}

#[tokio::test]
async fn a_wrong_client_secret_is_said_so() {
    let w = world_with(|c| IssuerConfig { client_secret: Some("guess".into()), ..c }).await;
    assert_eq!(w.finish(w.arrive().await).await, Err(LoginError::Exchange("`invalid_client`".into())));
}

#[tokio::test]
async fn the_id_token_must_be_of_this_sign_in() {
    let w = world().await;
    let a = arrive(&w.rp, &w.browser, |a| a.nonce = "another".into()).await;
    assert_eq!(w.finish(a).await, fault(IdTokenFault::Nonce));
}

#[tokio::test]
async fn an_id_token_ends_thirty_seconds_after_its_expiry() {
    let w = world().await;
    assert!(w.finish_at(w.arrive().await, START.plus(329_999)).await.is_ok());
    assert_eq!(w.finish_at(w.arrive().await, START.plus(330_000)).await, fault(IdTokenFault::Expired));
}

#[tokio::test]
async fn an_id_token_is_issued_within_its_sign_in() {
    let w = world().await;
    let a = w.arrive().await;
    w.idp_clock.advance(30_000);
    assert!(w.finish(a).await.is_ok());
    let a = w.arrive().await;
    w.idp_clock.advance(1000);
    assert_eq!(w.finish(a).await, fault(IdTokenFault::Time), "signed in now, issued in the future");
    assert_eq!(w.finish(w.arrive().await).await, fault(IdTokenFault::Time), "signed in in the future");
    let a = arrive(&w.rp, &w.browser, |a| a.created = START.plus(63_000)).await;
    assert_eq!(w.finish_at(a, START.plus(63_000)).await, fault(IdTokenFault::Time), "from before");
}

#[tokio::test]
async fn only_configured_algorithms_count() {
    let w = world_with(|c| IssuerConfig { algorithms: vec![Algorithm::RS256, Algorithm::ES256], ..c }).await;
    assert_eq!(w.finish(w.arrive().await).await, fault(IdTokenFault::Algorithm));
}

/// The tokens of a finished exchange, for taking them apart.
async fn exchanged(rp: &RelyingParty, browser: &Browser) -> (CoreTokenResponse, LoginAttempt) {
    let a = arrive(rp, browser, |_| ()).await;
    let answer = rp.exchange(a.callback.code.expect("a code"), a.attempt.verifier.expose_secret().to_owned()).await;
    (answer.expect("tokens"), a.attempt)
}

#[tokio::test]
async fn a_token_for_another_client_is_refused() {
    let w = world().await;
    let other = IssuerConfig { client_id: "other".into(), client_secret: Some("other's".into()), ..config(&w.issuer) };
    let other = RelyingParty::discover(other, START, ONCE).await.expect("discovered");
    let (answer, attempt) = exchanged(&other, &w.browser).await;
    assert!(other.check(&answer, &attempt, START).await.is_ok());
    assert_eq!(w.rp.check(&answer, &attempt, START).await, fault(IdTokenFault::Audience));
}

#[tokio::test]
async fn an_access_token_of_another_answer_is_refused() {
    let w = world().await;
    let (mut answer, attempt) = exchanged(&w.rp, &w.browser).await;
    assert!(w.rp.check(&answer, &attempt, START).await.is_ok());
    let (foreign, _) = exchanged(&w.rp, &w.browser).await;
    answer.set_access_token(foreign.access_token().clone());
    assert_eq!(w.rp.check(&answer, &attempt, START).await, fault(IdTokenFault::AccessToken));
}

#[tokio::test]
async fn a_token_signed_with_the_client_secret_or_not_at_all_is_refused() {
    let w = world().await;
    let (answer, attempt) = exchanged(&w.rp, &w.browser).await;
    let genuine = serde_json::to_value(&answer).unwrap();
    let claims = genuine["id_token"].as_str().unwrap().split('.').nth(1).unwrap().to_owned();
    let claims: Value = serde_json::from_slice(&secret::from_base64url(&claims).unwrap()).unwrap();
    let hs256 = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let hmac = jsonwebtoken::encode(&hs256, &claims, &jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let none = format!("{}.{}.", secret::base64url(br#"{"alg":"none"}"#), secret::base64url(claims.to_string().as_bytes()));
    for (id_token, expected) in [(hmac, IdTokenFault::Algorithm), (none, IdTokenFault::Signature)] {
        let mut forged = genuine.clone();
        forged["id_token"] = json!(id_token);
        let forged: CoreTokenResponse = serde_json::from_value(forged).unwrap();
        assert_eq!(w.rp.check(&forged, &attempt, START).await, fault(expected));
    }
    let mut missing = genuine.clone();
    missing.as_object_mut().unwrap().remove("id_token");
    let missing: CoreTokenResponse = serde_json::from_value(missing).unwrap();
    assert_eq!(w.rp.check(&missing, &attempt, START).await, fault(IdTokenFault::Missing));
}

#[tokio::test]
async fn after_a_key_rotation_the_keys_are_fetched_anew_but_not_in_a_hurry() {
    let bound = listener().await;
    let address = bound.local_addr().unwrap();
    let browser = Browser::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (issuer, first) = start_until(bound, HandClock::at(START), 1, CALLBACK, async { stopped.await.unwrap() });
    let rp = RelyingParty::discover(config(&issuer), START, ONCE).await.expect("discovered");
    stop.send(()).unwrap();
    first.await.unwrap();
    let idp_clock = HandClock::at(START);
    start(tokio::net::TcpListener::bind(address).await.unwrap(), idp_clock.clone(), 2, CALLBACK);
    let w = World { issuer, idp_clock, browser, rp };
    assert_eq!(w.finish_at(w.arrive().await, START.plus(29_999)).await, fault(IdTokenFault::Signature));
    assert!(w.finish_at(w.arrive().await, START.plus(30_000)).await.is_ok());
    assert!(w.finish_at(w.arrive().await, START.plus(30_001)).await.is_ok());
}

#[tokio::test]
async fn discovery_waits_for_a_silent_provider_and_not_for_a_wrong_one() {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", bound.local_addr().unwrap());
    let _browser = Browser::new();
    let late = tokio::task::spawn_blocking(move || {
        drop(bound.accept().unwrap());
        bound.set_nonblocking(true).unwrap();
        bound
    });
    let discovered = tokio::spawn(RelyingParty::discover(config(&issuer), START, Retry { tries: 3, pause: std::time::Duration::from_millis(1) }));
    start(tokio::net::TcpListener::from_std(late.await.unwrap()).unwrap(), HandClock::at(START), 1, CALLBACK);
    assert!(discovered.await.unwrap().is_ok());

    let refused = |c: IssuerConfig| async { RelyingParty::discover(c, START, ONCE).await.err().expect("refused") };
    let other = refused(config(&format!("{issuer}/"))).await;
    assert!(matches!(&other, DiscoverError::Provider(_, why) if why.contains("another issuer")), "{other}");
    for bad in [config("http://idp.example"), config("nonsense"), IssuerConfig { algorithms: vec![], ..config(&issuer) }] {
        assert!(matches!(refused(bad).await, DiscoverError::Config(..)));
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(matches!(refused(config(&format!("http://{closed}"))).await, DiscoverError::Provider(..)));
}

#[tokio::test]
async fn an_attempt_is_found_once_and_for_ten_minutes() {
    let w = world().await;
    let attempts = LoginAttempts::default();
    let keep = || {
        let begun = w.rp.begin(START, &mut *rng(next_seed()));
        let state = param(&begun.url, "state").unwrap();
        attempts.insert(begun.attempt, Then::Browser);
        state
    };
    let state = keep();
    assert!(attempts.take(START, "guess").is_none());
    assert!(attempts.take(START.plus(599_999), &state).is_some());
    assert!(attempts.take(START.plus(599_999), &state).is_none());
    assert!(attempts.take(START.plus(600_000), &keep()).is_none());
}

/// Names humans in memory; admits whom it is told to.
#[derive(Default)]
struct Register {
    known: Mutex<BTreeMap<(String, String), HumanId>>,
    closed: bool,
}

impl SignInSink for Register {
    fn signed_in<'a>(&'a self, who: &'a SignedIn) -> BoxFuture<'a, Result<HumanId, SinkError>> {
        Box::pin(async move {
            if self.closed {
                return Err(SinkError::NotAdmitted);
            }
            let mut known = self.known.lock().unwrap();
            let next = HumanId::from_bytes([u8::try_from(known.len()).unwrap(); 16]);
            Ok(*known.entry((who.issuer().into(), who.subject().into())).or_insert(next))
        })
    }
}

struct Pages {
    authority: String,
    sessions: Arc<Sessions>,
    clock: Arc<HandClock>,
    browser: Browser,
}

async fn pages(register: Register) -> Pages {
    let browser = Browser::new();
    let clock = HandClock::at(START);
    let bound = listener().await;
    let authority = format!("http://{}", bound.local_addr().unwrap());
    let callback = format!("{authority}/oidc/callback");
    let issuer = start(listener().await, clock.clone(), 1, &callback);
    let config = IssuerConfig { redirect_url: callback, ..config(&issuer) };
    let rp = RelyingParty::discover(config, START, ONCE).await.expect("discovered");
    let sessions = Arc::new(Sessions::default());
    let state = OidcState::new(&authority, rp, sessions.clone(), Arc::new(register), clock.clone(), rng(3)).expect("on loopback");
    tokio::spawn(async { axum::serve(bound, router(Arc::new(state))).await.expect("served") });
    Pages { authority, sessions, clock, browser }
}

impl Pages {
    /// From one of our pages to the provider, through its form, up to the callback.
    async fn up_to_callback(&self, start: &str) -> Url {
        let to = location(&self.browser.get(start).await);
        self.browser.sign_in(to.as_str(), "alice").await
    }

    fn session_cookie(answer: &reqwest::Response) -> Option<String> {
        let cookies = answer.headers().get_all(SET_COOKIE).iter().map(|c| c.to_str().unwrap());
        let mut ours = cookies.filter_map(|c| c.strip_prefix("procura_dev="));
        let cookie = ours.next()?;
        assert!(cookie.contains("; HttpOnly; SameSite=Lax") && cookie.contains("Path=/;"));
        Some(cookie.split(';').next().unwrap().to_owned())
    }

    fn find(&self, secret: &str) -> Option<HumanId> {
        self.sessions.find(self.clock.wall(), secret).map(|s| s.human)
    }
}

#[tokio::test]
async fn a_browser_gets_a_session_and_ends_it() {
    let p = pages(Register::default()).await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let landed = p.browser.get(callback.as_str()).await;
    assert_eq!((landed.status().as_u16(), &landed.headers()[LOCATION]), (303, &"/".parse().unwrap()));
    let secret = Pages::session_cookie(&landed).expect("a session");
    assert_eq!(p.find(&secret), Some(HumanId::from_bytes([0; 16])));
    assert_eq!(p.browser.get(callback.as_str()).await.status(), 400, "the callback again");

    let again = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let second = Pages::session_cookie(&p.browser.get(again.as_str()).await).expect("a session");
    assert_eq!((p.find(&secret), p.find(&second)), (None, Some(HumanId::from_bytes([0; 16]))), "one browser, one session, one human");

    let out = p.browser.0.post(format!("{}/logout", p.authority)).send().await.unwrap();
    assert_eq!(out.status(), 204);
    assert_eq!(p.find(&second), None);
}

#[tokio::test]
async fn a_callback_in_another_browser_signs_nobody_in() {
    let p = pages(Register::default()).await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let victim = Browser::new();
    let answer = victim.get(callback.as_str()).await;
    assert_eq!(answer.status(), 403);
    assert!(Pages::session_cookie(&answer).is_none());
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    assert!(Pages::session_cookie(&p.browser.get(callback.as_str()).await).is_some());
}

#[tokio::test]
async fn who_is_not_admitted_gets_no_session() {
    let p = pages(Register { closed: true, ..Register::default() }).await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let answer = p.browser.get(callback.as_str()).await;
    assert_eq!(answer.status(), 403);
    assert!(Pages::session_cookie(&answer).is_none());
}

fn cli_url(authority: &str, redirect_uri: &str) -> String {
    let challenge = secret::base64url(&secret::digest(VERIFIER));
    let params = [("redirect_uri", redirect_uri), ("code_challenge", &challenge), ("code_challenge_method", "S256"), ("state", "cli-state")];
    Url::parse_with_params(&format!("{authority}/login/cli"), params).unwrap().into()
}

#[tokio::test]
async fn the_command_line_signs_in_over_a_loopback_redirect() {
    let p = pages(Register::default()).await;
    // The command line's own listener, that the browser really comes to.
    let bound = listener().await;
    let redirect_uri = format!("http://{}/callback", bound.local_addr().unwrap());
    let (heard, mut hear) = tokio::sync::mpsc::channel::<String>(4);
    let app = axum::Router::new()
        .route("/callback", axum::routing::get(move |uri: axum::http::Uri| async move { heard.send(format!("http://cli{uri}")).await.unwrap() }));
    tokio::spawn(async { axum::serve(bound, app).await.expect("served") });

    let mut login = async || {
        let callback = p.up_to_callback(&cli_url(&p.authority, &redirect_uri)).await;
        let answer = p.browser.get(callback.as_str()).await;
        assert!(Pages::session_cookie(&answer).is_none(), "the browser itself gets none");
        assert_eq!(p.browser.get(location(&answer).as_str()).await.status(), 200);
        let heard = Url::parse(&hear.recv().await.unwrap()).unwrap();
        assert_eq!((param(&heard, "state").as_deref(), param(&heard, "iss").as_deref()), (Some("cli-state"), Some(p.authority.as_str())));
        param(&heard, "code").expect("a code")
    };
    let exchange = async |code: &str, verifier: &str| {
        let form = [("code", code), ("code_verifier", verifier)];
        let answer = Browser::new().0.post(format!("{}/login/cli/token", p.authority)).form(&form).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let code = login().await;
    let (status, answer) = exchange(&code, VERIFIER).await;
    assert_eq!(status, 200);
    let secret = answer["session"].as_str().unwrap();
    assert_eq!(p.find(secret).map(|h| h.to_string()).as_deref(), answer["human"].as_str());
    let (status, answer) = exchange(&code, VERIFIER).await;
    assert_eq!((status, answer["error"].as_str()), (400, Some("invalid_grant")), "replay");
    let (status, _) = exchange(&login().await, &VERIFIER.replace('a', "b")).await;
    assert_eq!(status, 400, "wrong verifier");
    let code = login().await;
    p.clock.advance(60_000);
    assert_eq!(exchange(&code, VERIFIER).await.0, 400, "late");

    let out = Browser::new().0.post(format!("{}/logout", p.authority)).bearer_auth(secret).send().await.unwrap();
    assert_eq!((out.status().as_u16(), p.find(secret)), (204, None));
}

#[tokio::test]
async fn a_code_for_the_command_line_never_leaves_this_machine() {
    let p = pages(Register::default()).await;
    for uri in ["http://evil.example:8400/callback", "https://127.0.0.1:8400/callback", "http://localhost:8400/callback"] {
        let answer = p.browser.get(&cli_url(&p.authority, uri)).await;
        assert_eq!(answer.status(), 400, "{uri}");
        assert!(answer.headers().get(LOCATION).is_none());
    }
    assert_eq!(p.browser.get(&cli_url(&p.authority, "http://127.0.0.1:8400/callback")).await.status(), 303);
}

#[tokio::test]
async fn the_command_line_hears_that_its_login_failed() {
    let p = pages(Register { closed: true, ..Register::default() }).await;
    let callback = p.up_to_callback(&cli_url(&p.authority, "http://127.0.0.1:8400/callback")).await;
    let to = location(&p.browser.get(callback.as_str()).await);
    assert_eq!(param(&to, "error").as_deref(), Some("access_denied"));
    assert!(param(&to, "code").is_none());
}

#[test]
fn cookies_are_bound_to_the_host_wherever_there_is_tls() {
    let https = Cookies::for_address("https://authority.example").unwrap();
    assert_eq!(https.session(), "__Host-procura");
    assert_eq!(Cookies::for_address("http://127.0.0.1:8080").map(|c| c.session()), Ok("procura_dev"));
    for bad in ["http://authority.example", "http://localhost:8080", "ftp://127.0.0.1", ""] {
        assert!(Cookies::for_address(bad).is_err(), "{bad}");
    }
    let headers = |pairs: &[(&'static str, &'static str)]| {
        pairs.iter().map(|(n, v)| (n.parse::<axum::http::HeaderName>().unwrap(), axum::http::HeaderValue::from_static(v))).collect()
    };
    let one: axum::http::HeaderMap = headers(&[("cookie", "a=b; __Host-procura=x; __Host-procura-login=y")]);
    assert_eq!(https.presented_session(&one), Some("x"));
    let planted: axum::http::HeaderMap = headers(&[("cookie", "__Host-procura=x; __Host-procura=y")]);
    assert_eq!(https.presented_session(&planted), None);
    let command_line: axum::http::HeaderMap = headers(&[("authorization", "Bearer z"), ("cookie", "__Host-procura=x")]);
    assert_eq!(https.presented_session(&command_line), Some("z"));
}
