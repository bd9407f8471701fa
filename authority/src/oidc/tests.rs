//! The relying party and its pages against the real provider for development, over loopback.

use std::sync::Arc;

use openidconnect::OAuth2TokenResponse as _;
use openidconnect::core::CoreTokenResponse;
use procura_verifier::ids::{HumanId, UtcMillis};
use reqwest::Url;
use reqwest::header::{LOCATION, SET_COOKIE};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::attempts::{LIFE_MS, LoginAttempt, Then, Tried};
use super::relying_party::{Algorithm, Callback, DiscoverError, IdTokenFault, IssuerConfig, LoginError, RelyingParty, Retry};
use super::routes::{Cookies, OidcState, router};
use super::*;
use crate::dev_idp::tests::{Browser, CALLBACK, HandClock, SECRET, START, VERIFIER, listener, location, param, rng, start, start_until};
use crate::domain::human::Subject;
use crate::domain::principal::Principal;
use crate::secret;
use crate::store::Store;
use crate::store::contract::tenant;
use crate::store::memory::{Failure, Memory};
use crate::usecase::revoke::{Target, revoke};
use crate::usecase::{Context, fixture, session};

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

/// A sign-in up to the callback.
struct Arrived {
    attempt: LoginAttempt,
    callback: Callback,
}

async fn arrive(rp: &RelyingParty, browser: &Browser, change: impl FnOnce(&mut LoginAttempt)) -> Arrived {
    let mut begun = rp.begin(START, &mut *rng(next_seed()));
    change(&mut begun.attempt);
    let to = browser.sign_in(begun.url.as_str(), "alice").await;
    let callback = Callback { code: param(&to, "code"), state: param(&to, "state"), iss: param(&to, "iss"), error: param(&to, "error") };
    Arrived { attempt: begun.attempt, callback }
}

impl World {
    async fn arrive(&self) -> Arrived {
        arrive(&self.rp, &self.browser, |_| ()).await
    }

    async fn finish(&self, a: Arrived) -> Result<SignedIn, LoginError> {
        self.finish_at(a, START).await
    }

    async fn finish_at(&self, a: Arrived, now: UtcMillis) -> Result<SignedIn, LoginError> {
        self.rp.finish(a.attempt, a.callback, now).await
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
            created: a.attempt.created,
        },
        callback: Callback { code: a.callback.code.clone(), state: a.callback.state.clone(), iss: a.callback.iss.clone(), error: None },
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
async fn an_attempt_comes_back_from_its_cookie_and_is_tried_once() {
    let w = world().await;
    let app = fixture::app().await;
    let begun = w.rp.begin(START, &mut *rng(next_seed()));
    let cookie = begun.attempt.seal(&app.ctx.seals, &mut *rng(next_seed()), Then::Browser).unwrap();
    let open = || LoginAttempt::open(&app.ctx.seals, cookie.expose_secret()).map(|(attempt, _)| attempt).unwrap();
    assert_eq!((open().state.expose_secret(), open().created), (param(&begun.url, "state").unwrap().as_str(), START));
    assert!(LoginAttempt::open(&app.ctx.seals, "guess").is_none());
    let tried = Tried::default();
    assert!(tried.is_first(START, &open()));
    assert!(!tried.is_first(START, &open()));
    assert!(tried.is_first(START, &w.rp.begin(START, &mut *rng(next_seed())).attempt));
}

struct Pages {
    authority: String,
    issuer: String,
    ctx: Arc<Context>,
    store: Arc<Memory>,
    clock: Arc<HandClock>,
    browser: Browser,
    _folder: tempfile::TempDir,
}

async fn pages() -> Pages {
    let browser = Browser::new();
    let clock = HandClock::at(START);
    let bound = listener().await;
    let authority = format!("http://{}", bound.local_addr().unwrap());
    let callback = format!("{authority}/oidc/callback");
    let issuer = start(listener().await, clock.clone(), 1, &callback);
    let config = IssuerConfig { redirect_url: callback, ..config(&issuer) };
    let rp = RelyingParty::discover(config, START, ONCE).await.expect("discovered");
    let (store, folder) = (Arc::new(Memory::new(tenant())), tempfile::tempdir().unwrap());
    let (started, _) = fixture::replica(store.clone(), &folder.path().join("keys"), folder.path(), clock.clone()).await.unwrap();
    let state = OidcState::new(&authority, rp, started.context.clone()).expect("on loopback");
    tokio::spawn(async { axum::serve(bound, router(Arc::new(state))).await.expect("served") });
    Pages { authority, issuer, ctx: started.context, store, clock, browser, _folder: folder }
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

    async fn find(&self, secret: &str) -> Option<HumanId> {
        session::find(&self.ctx, secret).await.unwrap().and_then(|p| p.human())
    }

    /// Who alice is here.
    async fn alice(&self) -> Option<HumanId> {
        let subject = Subject { issuer: self.issuer.clone(), subject: "sub-alice".into() };
        self.store.find_human_by_subject(&subject).await.unwrap().map(|h| h.id)
    }
}

#[tokio::test]
async fn a_browser_gets_a_session_and_ends_it() {
    let p = pages().await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let landed = p.browser.get(callback.as_str()).await;
    assert_eq!((landed.status().as_u16(), &landed.headers()[LOCATION]), (303, &"/".parse().unwrap()));
    let secret = Pages::session_cookie(&landed).expect("a session");
    let alice = p.alice().await;
    assert!(alice.is_some());
    assert_eq!(p.find(&secret).await, alice);
    assert_eq!(p.browser.get(callback.as_str()).await.status(), 400, "the callback again");

    let again = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let second = Pages::session_cookie(&p.browser.get(again.as_str()).await).expect("a session");
    assert_eq!((p.find(&secret).await, p.find(&second).await), (None, alice), "one browser, one session, one human");

    let logout = || p.browser.0.post(format!("{}/logout", p.authority));
    for foreign in [logout(), logout().header("origin", "null"), logout().header("origin", "https://evil.example")] {
        let out = foreign.send().await.unwrap();
        assert_eq!((out.status().as_u16(), out.headers().get(SET_COOKIE)), (403, None), "another site signs nobody out");
    }
    assert_eq!(p.find(&second).await, alice);
    let out = logout().header("origin", &p.authority).send().await.unwrap();
    assert_eq!(out.status(), 204);
    assert_eq!(p.find(&second).await, None);
}

#[tokio::test]
async fn a_callback_in_another_browser_signs_nobody_in() {
    let p = pages().await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let victim = Browser::new();
    let answer = victim.get(callback.as_str()).await;
    assert_eq!(answer.status(), 400);
    assert!(Pages::session_cookie(&answer).is_none());
    // It was not used up by the other browser.
    assert!(Pages::session_cookie(&p.browser.get(callback.as_str()).await).is_some());
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    assert!(Pages::session_cookie(&p.browser.get(callback.as_str()).await).is_some());
}

#[tokio::test]
async fn a_sign_in_that_cannot_be_recorded_gives_no_session() {
    let p = pages().await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    p.store.fail(Failure::NotWritten);
    let answer = p.browser.get(callback.as_str()).await;
    assert_eq!(answer.status(), 503);
    assert!(Pages::session_cookie(&answer).is_none());
    assert_eq!(p.alice().await, None);
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    assert!(Pages::session_cookie(&p.browser.get(callback.as_str()).await).is_some());
}

#[tokio::test]
async fn tabs_of_one_browser_sign_in_beside_each_other_and_the_oldest_of_many_gives_way() {
    let p = pages().await;
    let login = format!("{}/login", p.authority);
    let (first, second) = (p.up_to_callback(&login).await, p.up_to_callback(&login).await);
    for tab in [first, second] {
        assert!(Pages::session_cookie(&p.browser.get(tab.as_str()).await).is_some());
    }
    let mut tabs = Vec::new();
    for _ in 0..9 {
        tabs.push(p.up_to_callback(&login).await);
        p.clock.advance(1000);
    }
    assert_eq!(p.browser.get(tabs[0].as_str()).await.status(), 400, "a ninth tab is one too many");
    for tab in &tabs[1..] {
        assert!(Pages::session_cookie(&p.browser.get(tab.as_str()).await).is_some());
    }
}

/// Before sign-ins under way were sealed, the eleven-thousandth stranger put out the first.
#[tokio::test]
async fn a_flood_of_strangers_puts_out_nobodys_sign_in() {
    let p = pages().await;
    let callback = p.up_to_callback(&format!("{}/login", p.authority)).await;
    let strangers = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
    for _ in 0..110 {
        let login = || async { strangers.get(format!("{}/login", p.authority)).send().await.unwrap().status().as_u16() };
        let answers = futures_util::future::join_all(std::iter::repeat_with(login).take(100)).await;
        assert!(answers.iter().all(|status| *status == 303));
    }
    assert!(Pages::session_cookie(&p.browser.get(callback.as_str()).await).is_some());
}

#[tokio::test]
async fn an_old_attempt_and_one_with_another_state_are_refused() {
    let p = pages().await;
    let login = format!("{}/login", p.authority);
    let callback = p.up_to_callback(&login).await;
    p.clock.advance(LIFE_MS);
    assert_eq!(p.browser.get(callback.as_str()).await.status(), 400, "ten minutes");
    let (one, other) = (p.up_to_callback(&login).await, p.up_to_callback(&login).await);
    let mut crossed = one.clone();
    crossed
        .query_pairs_mut()
        .clear()
        .extend_pairs(one.query_pairs().map(|(n, v)| if n == "state" { (n, param(&other, "state").unwrap().into()) } else { (n, v) }));
    assert_eq!(p.browser.get(crossed.as_str()).await.status(), 502, "another tab's code has another challenge");
    assert!(Pages::session_cookie(&p.browser.get(one.as_str()).await).is_none(), "the provider gives a code once");
}

fn cli_url(authority: &str, redirect_uri: &str) -> String {
    let challenge = secret::base64url(&secret::digest(VERIFIER));
    let params = [("redirect_uri", redirect_uri), ("code_challenge", &challenge), ("code_challenge_method", "S256"), ("state", "cli-state")];
    Url::parse_with_params(&format!("{authority}/login/cli"), params).unwrap().into()
}

#[tokio::test]
async fn the_command_line_signs_in_over_a_loopback_redirect() {
    let p = pages().await;
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
    assert_eq!(p.find(secret).await.map(|h| h.to_string()).as_deref(), answer["human"].as_str());
    let (status, answer) = exchange(&code, VERIFIER).await;
    assert_eq!((status, answer["error"].as_str()), (400, Some("invalid_grant")), "replay");
    let (status, _) = exchange(&login().await, &VERIFIER.replace('a', "b")).await;
    assert_eq!(status, 400, "wrong verifier");
    let code = login().await;
    p.clock.advance(60_000);
    assert_eq!(exchange(&code, VERIFIER).await.0, 400, "late");

    let out = Browser::new().0.post(format!("{}/logout", p.authority)).bearer_auth(secret).send().await.unwrap();
    assert_eq!((out.status().as_u16(), p.find(secret).await), (204, None));

    // Between sign-in and exchange the human is killed: the code is of before.
    let code = login().await;
    revoke(&p.ctx, &Principal::LocalOperator, Target::Human(p.alice().await.unwrap()), None, None).await.unwrap();
    assert_eq!(exchange(&code, VERIFIER).await.0, 400, "killed");
    assert_eq!(exchange(&login().await, VERIFIER).await.0, 200, "signed in after the kill");
}

#[tokio::test]
async fn a_code_for_the_command_line_never_leaves_this_machine() {
    let p = pages().await;
    for uri in ["http://evil.example:8400/callback", "https://127.0.0.1:8400/callback", "http://localhost:8400/callback"] {
        let answer = p.browser.get(&cli_url(&p.authority, uri)).await;
        assert_eq!(answer.status(), 400, "{uri}");
        assert!(answer.headers().get(LOCATION).is_none());
    }
    assert_eq!(p.browser.get(&cli_url(&p.authority, "http://127.0.0.1:8400/callback")).await.status(), 303);
}

#[tokio::test]
async fn the_command_line_hears_that_its_login_failed() {
    let p = pages().await;
    let callback = p.up_to_callback(&cli_url(&p.authority, "http://127.0.0.1:8400/callback")).await;
    p.store.fail(Failure::NotWritten);
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
