//! Two processes' routers on one PostgreSQL: whatever one began the other ends, and neither is missed.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::StatusCode;
use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::challenge;
use procura_verifier::ids::{HumanId, Key};
use reqwest::header::SET_COOKIE;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::config;
use crate::dev_idp::tests::{Browser, HandClock, START, VERIFIER, listener, location, param, rng};
use crate::dev_idp::{Client, DevIdp};
use crate::domain::principal::Principal;
use crate::oidc::relying_party::{Algorithm, IssuerConfig, RelyingParty, Retry};
use crate::secret;
use crate::store::contract::tenant;
use crate::store::postgres::Postgres;
use crate::store::postgres::server::Server;
use crate::usecase::fixture::replica;
use crate::usecase::revoke::{Target, revoke};

/// Replicas behind one public address, which none of them has to be at.
struct Site {
    authority: String,
    urls: [String; 2],
    contexts: Vec<Arc<Context>>,
    servers: Vec<JoinHandle<()>>,
    clock: Arc<HandClock>,
    _folder: tempfile::TempDir,
}

async fn site() -> Site {
    let _installed = Browser::new();
    let (_, database) = Server::shared().database().await;
    let (folder, clock) = (tempfile::tempdir().unwrap(), HandClock::at(START));
    let bound: [TcpListener; 2] = [listener().await, listener().await];
    let urls = [0, 1].map(|n: usize| format!("http://{}", bound[n].local_addr().unwrap()));
    let authority = urls[0].clone();
    let callback = format!("{authority}/oidc/callback");
    let client = Client { client_id: "procura".into(), secret: None, redirect_uris: vec![callback.clone()] };
    let idp = DevIdp::new(listener().await, config::dev_people(), vec![client], clock.clone(), rng(1)).unwrap();
    let issuer = idp.issuer().to_owned();
    tokio::spawn(idp.serve(std::future::pending()));

    let (mut contexts, mut servers) = (Vec::new(), Vec::new());
    for (n, bound) in bound.into_iter().enumerate() {
        let own = folder.path().join(n.to_string());
        std::fs::create_dir(&own).unwrap();
        let store = Arc::new(Postgres::open(&database, tenant()).await.unwrap());
        let (started, _) = replica(store, &folder.path().join("keys"), &own, clock.clone()).await.unwrap();
        let config = IssuerConfig {
            issuer: issuer.clone(),
            client_id: "procura".into(),
            client_secret: None,
            redirect_url: callback.clone(),
            algorithms: vec![Algorithm::EdDSA],
        };
        let relying_party = RelyingParty::discover(config, START, Retry::default()).await.unwrap();
        let ctx = started.context;
        let app = AppState::new(Shared {
            authority: authority.clone(),
            origin: "127.0.0.1/acme".parse().unwrap(),
            cookies: Cookies::for_address(&authority).unwrap(),
            oidc: Some(Arc::new(OidcState::new(&authority, relying_party, ctx.clone()).unwrap())),
            streams: Arc::new(Semaphore::new(1)),
            live: Live::default(),
            proxies: Proxies::default(),
            rates: Rates::none(Arc::clone(&ctx.metrics)),
            body_time: REQUEST_TIMEOUT,
            traces: None,
            stopping: watch::channel(false).1,
            lost: crate::feed::turns::Turns::new(super::LOST),
            ctx: ctx.clone(),
        });
        contexts.push(ctx);
        servers.push(tokio::spawn(async move { axum::serve(bound, router(app)).await.unwrap() }));
    }
    Site { authority, urls, contexts, servers, clock, _folder: folder }
}

impl Site {
    /// The same URL at one of the replicas.
    fn at(&self, n: usize, url: &Url) -> String {
        url.as_str().replace(&self.authority, &self.urls[n])
    }

    /// A browser's way to the provider and back, begun at one replica; where it lands is yet to be opened.
    async fn up_to_callback(&self, browser: &Browser, n: usize, path: &str, name: &str) -> Url {
        let to = location(&browser.get(&format!("{}{path}", self.urls[n])).await);
        browser.sign_in(to.as_str(), name).await
    }

    /// A session's secret, begun at one replica and given by another.
    async fn sign_in(&self, begun: usize, ended: usize, name: &str) -> String {
        let browser = Browser::new();
        let callback = self.up_to_callback(&browser, begun, "/login", name).await;
        session_cookie(&browser.get(&self.at(ended, &callback)).await).expect("a session")
    }

    async fn call(&self, n: usize, method: Method, path: &str, session: &str, body: &Value) -> (StatusCode, Value) {
        let request = Browser::new().0.request(method, format!("{}{path}", self.urls[n])).bearer_auth(session).json(body);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// Who a session is at a replica.
    async fn me(&self, n: usize, session: &str) -> Option<HumanId> {
        let (status, me) = self.call(n, Method::GET, "/v1/me", session, &Value::Null).await;
        (status == StatusCode::OK).then(|| me["human"].as_str().unwrap().parse().unwrap())
    }
}

fn session_cookie(answer: &reqwest::Response) -> Option<String> {
    let cookies = answer.headers().get_all(SET_COOKIE).iter().map(|c| c.to_str().unwrap());
    let ours: HashMap<_, _> = cookies.filter_map(|c| c.split(';').next()?.split_once('=')).collect();
    ours.get("procura_dev").filter(|secret| !secret.is_empty()).map(|s| (*s).to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begun_at_one_replica_is_one_at_the_other_and_outlives_it() {
    let mut site = site().await;
    let alice = site.sign_in(0, 1, "alice").await;
    let who = site.me(0, &alice).await;
    assert!(who.is_some() && site.me(1, &alice).await == who);
    let bob = site.sign_in(1, 0, "bob").await;
    let (status, _) = site.call(0, Method::POST, "/logout", &bob, &Value::Null).await;
    assert_eq!((status, site.me(0, &bob).await, site.me(1, &bob).await), (StatusCode::NO_CONTENT, None, None));
    site.servers.remove(0).abort();
    assert_eq!(site.me(1, &alice).await, who);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_is_good_at_one_replica_only_once_among_all() {
    let site = site().await;
    let browser = Browser::new();
    let callback = site.up_to_callback(&browser, 0, "/login", "alice").await;
    // The cookie as the browser had it: what a thief of both could replay.
    let landed = browser.get(&site.at(1, &callback)).await;
    assert!(session_cookie(&landed).is_some());
    let again = browser.get(&site.at(0, &callback)).await;
    assert_eq!((again.status(), session_cookie(&again)), (StatusCode::BAD_REQUEST, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_lines_code_from_one_replica_is_redeemed_once_among_all() {
    let site = site().await;
    let challenge = secret::base64url(&secret::digest(VERIFIER));
    let path = format!("/login/cli?redirect_uri=http://127.0.0.1:8400/cb&code_challenge={challenge}&state=s");
    let code = async || {
        let browser = Browser::new();
        let callback = site.up_to_callback(&browser, 0, &path, "alice").await;
        param(&location(&browser.get(&site.at(1, &callback)).await), "code").expect("a code")
    };
    let redeem = async |n: usize, code: &str, verifier: &str| {
        let form = [("code", code), ("code_verifier", verifier)];
        let answer = Browser::new().0.post(format!("{}/login/cli/token", site.urls[n])).form(&form).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let good = code().await;
    let (a, b) = tokio::join!(redeem(0, &good, VERIFIER), redeem(1, &good, VERIFIER));
    let (given, refused) = if a.0 == StatusCode::OK { (a, b) } else { (b, a) };
    assert_eq!((given.0, refused.0, &refused.1["error"]), (StatusCode::OK, StatusCode::BAD_REQUEST, &json!("invalid_grant")));
    let session = given.1["session"].as_str().unwrap();
    assert_eq!(site.me(0, session).await.map(|h| json!(h)), Some(given.1["human"].clone()));
    let tried = code().await;
    assert_eq!(redeem(0, &tried, &VERIFIER.replace('a', "b")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(redeem(1, &tried, VERIFIER).await.0, StatusCode::BAD_REQUEST, "spent by the wrong verifier");
    let late = code().await;
    site.clock.advance(60_000);
    assert_eq!(redeem(1, &late, VERIFIER).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_challenge_of_one_replica_is_answered_once_among_all() {
    let site = site().await;
    let alice = site.sign_in(0, 0, "alice").await;
    let (_, drawn) = site.call(0, Method::POST, "/v1/agents/challenges", &alice, &json!({})).await;
    let mut nonce = [0; 32];
    hex::decode_to_slice(drawn["challenge"].as_str().unwrap(), &mut nonce).unwrap();
    let register = async |n: usize, name: &str, seed: u8| {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let signature = key.sign(&challenge::message(&tenant(), &nonce, &Key::of(&key))).to_bytes();
        let body = json!({ "name": name, "key": Key::of(&key), "challenge": hex::encode(nonce), "signature": hex::encode(signature) });
        site.call(n, Method::POST, "/v1/agents", &alice, &body).await.0
    };
    assert_eq!(register(1, "invoice-bot", 1).await, StatusCode::CREATED);
    assert_eq!((register(0, "other", 2).await, register(1, "other", 2).await), (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_one_replica_ends_sessions_at_the_other() {
    let site = site().await;
    let (alice, bob) = (site.sign_in(0, 0, "alice").await, site.sign_in(0, 0, "bob").await);
    let human = site.me(1, &alice).await.unwrap();
    let kill = async |target| revoke(&site.contexts[0], &Principal::LocalOperator, target, None, None).await.unwrap();
    kill(Target::Human(human)).await;
    assert!(site.me(1, &alice).await.is_none() && site.me(1, &bob).await.is_some());
    let again = site.sign_in(1, 0, "alice").await;
    assert_eq!(site.me(1, &again).await, Some(human));
    kill(Target::Tenant).await;
    assert!(site.me(1, &again).await.is_none() && site.me(1, &bob).await.is_none());
    assert_eq!(site.contexts[1].store.sessions_of(human).await.unwrap().len(), 1, "dead by the tenant's floor, whatever its row says");
}
