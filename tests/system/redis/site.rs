//! An authority that publishes over Redis, and verifiers that listen; the oracle of every fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use procura_sdk::held::HeldToken;
use procura_verifier::decision::{Mode, lineage};
use procura_verifier::feed::redis::RedisConfig;
use procura_verifier::feed::sse::{Enrolment, FeedClient, FeedConfig, http_client};
use procura_verifier::ids::{Clock as _, DelegationId, SystemClock};
use procura_verifier::revocation::{Lookup, RevocationView as _, View};
use procura_verifier::token::{UnverifiedToken, VerifiedToken};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::support::redis::RedisProcess;
use crate::support::{Agent, Authority, PATIENCE, Person, delegated, expect, key, mint, rng};

pub const CHANNEL: &str = "procura:rev:{acme}";

pub struct Site {
    pub authority: Authority,
    pub redis: RedisProcess,
    config: RedisConfig,
    arguments: Vec<String>,
    alice: Person,
    bot: Agent,
    delegation: DelegationId,
    _scratch: tempfile::TempDir,
}

impl Site {
    pub async fn start(redis: RedisProcess) -> Self {
        let config = RedisConfig::at(redis.url().parse().unwrap());
        let url = redis.url();
        Self::start_as(redis, config, vec!["--redis".to_owned(), url]).await
    }

    /// `config` is the verifiers', `arguments` are the authority's.
    pub async fn start_as(redis: RedisProcess, config: RedisConfig, arguments: Vec<String>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let more: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let authority = Authority::start_with(&scratch.path().join("authority"), "127.0.0.1:0", &more).await;
        let alice = authority.person("alice").await;
        let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
        Self { authority, redis, config, arguments, alice, bot, delegation, _scratch: scratch }
    }

    /// SIGKILL, and the same folder and port again.
    pub async fn restart_authority(&mut self) {
        let (data, address) = (self.authority.data.clone(), self.authority.address().to_owned());
        self.authority.kill().await;
        let more: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.authority = Authority::start_with(&data, &address, &more).await;
        self.alice = self.authority.person("alice").await;
    }

    /// A verifier in this process: stream and Redis, unless changed.
    pub fn verifier(&self, change: impl FnOnce(&mut FeedConfig)) -> FeedClient {
        let _ = crate::support::http();
        let trust = self.authority.trust();
        let view = Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap()));
        let mut config = FeedConfig::new(self.authority.url.clone(), trust.anchors, http_client().unwrap());
        config.redis = Some(self.config.open().unwrap());
        change(&mut config);
        FeedClient::start(config, view)
    }

    /// Until beats come over Redis: more of them than before this call.
    pub async fn until_over_redis(&self, verifier: &FeedClient) {
        let before = verifier.status().redis;
        until("messages over Redis", || {
            let now = verifier.status().redis;
            now.subscribed && now.received - now.refused >= before.received - before.refused + 3
        })
        .await;
    }

    /// The oracle: a token that is allowed here is taken back; nothing is allowed later than 200 ms after the answer, it ends as revoked, and the
    /// verifier is fresh again.
    pub async fn revoked_in_time(&self, verifier: &FeedClient) {
        let held: HeldToken = mint(&self.authority, &self.bot, self.delegation).await;
        let sealed = held.seal().unwrap();
        let token = UnverifiedToken::parse(sealed.as_bytes()).unwrap().verify(&verifier.view().key_list()).unwrap();
        until("an allow", || is_allowed(verifier.view(), &token)).await;

        let answered = Arc::new(AtomicU64::new(u64::MAX));
        let judge = {
            let (view, answered) = (Arc::clone(verifier.view()), Arc::clone(&answered));
            let token = UnverifiedToken::parse(sealed.as_bytes()).unwrap().verify(&view.key_list()).unwrap();
            tokio::spawn(async move {
                let mut late = 0;
                while !matches!(view.lookup(&lineage(&token)), Lookup::Revoked(_)) {
                    let at = SystemClock.boot().0;
                    let bound = answered.load(Ordering::SeqCst).saturating_add(200_000);
                    late += u64::from(at > bound && is_allowed(&view, &token));
                    sleep(Duration::from_millis(1)).await;
                }
                late
            })
        };
        expect(self.alice.revoke("token", &token.tids()[0].to_string(), "drill").await.unwrap()).unwrap();
        answered.store(SystemClock.boot().0, Ordering::SeqCst);
        let late = timeout(PATIENCE, judge).await.expect("the revocation arrives").unwrap();
        assert_eq!(late, 0, "allowed later than 200 ms after the commit");
        assert!(!is_allowed(verifier.view(), &token));
        let now = SystemClock.boot();
        until("fresh again", || verifier.view().fresh_as_of().is_some_and(|f| f > now)).await;
    }

    /// Enrols a key as a verifier for `payments/1`.
    pub async fn enrolled(&self) -> Enrolment {
        let key = key(&mut rng());
        let verifier = self.authority.person("sam").await.enrol("payments/1", &key).await.unwrap();
        Enrolment { verifier, audience: "payments/1".parse().unwrap(), run: [7; 16], key, mode: Mode::Strict { ms: 150 } }
    }

    /// Takes back a token that nobody uses and waits for verifiers; who has heard.
    pub async fn revoke_and_wait(&self) -> serde_json::Value {
        let held: HeldToken = mint(&self.authority, &self.bot, self.delegation).await;
        let body = serde_json::json!({ "what": "token", "id": held.claims().claimed().tid, "reason": "drill", "wait_ms": 5_000 });
        expect(self.alice.post("/v1/revocations", &body).await.unwrap()).unwrap()["coverage"].clone()
    }

    /// Publishes as somebody who has got hold of Redis.
    pub async fn publish(&self, message: &[u8]) {
        let mut connection = self.client().get_multiplexed_async_connection().await.unwrap();
        redis::cmd("PUBLISH").arg(CHANNEL).arg(message).query_async::<u64>(&mut connection).await.unwrap();
    }

    /// As many as fit through: junk that has the shape, junk that has not, and the longest there is.
    pub async fn flood(&self, count: usize) -> JoinHandle<()> {
        let mut connection = self.client().get_multiplexed_async_connection().await.unwrap();
        tokio::spawn(async move {
            for round in 0..count / 100 {
                let mut pipe = redis::pipe();
                for n in 0..100 {
                    let junk = if n == 0 { vec![0x83; 60_000] } else { vec![if n % 2 == 0 { 0x83 } else { b'x' }; 100 + round % 50] };
                    pipe.cmd("PUBLISH").arg(CHANNEL).arg(junk).ignore();
                }
                let _ = pipe.exec_async(&mut connection).await;
            }
        })
    }

    /// Somebody who listens to Redis and nothing else.
    pub async fn record(&self) -> Recorder {
        let mut subscription = self.client().get_async_pubsub().await.unwrap();
        subscription.subscribe(CHANNEL).await.unwrap();
        Recorder(Box::pin(subscription.into_on_message().map(|m| m.get_payload_bytes().to_vec())))
    }

    fn client(&self) -> redis::Client {
        redis::Client::open(self.redis.url()).unwrap()
    }
}

pub struct Recorder(std::pin::Pin<Box<dyn futures_util::Stream<Item = Vec<u8>> + Send>>);

impl Recorder {
    pub async fn take(&mut self, count: usize) -> Vec<Vec<u8>> {
        timeout(PATIENCE, self.0.by_ref().take(count).collect()).await.expect("messages on the channel")
    }
}

/// What a strict tool makes of it (L6, L7).
fn is_allowed(view: &View, token: &VerifiedToken) -> bool {
    let Some(fresh) = view.fresh_as_of() else { return false };
    let live = view.lookup(&lineage(token)) == Lookup::Live;
    live && SystemClock.boot().micros_since(fresh) <= 150_000
}

/// Waits until it holds; a busy machine may take its time, a wrong program all of it.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}
