//! The servers, the verifiers and the tokens of a run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use procura_sdk::client::MintRequest;
use procura_sdk::held::SealedToken;
use procura_verifier::call::{Arguments, Call, Seed};
use procura_verifier::claims::DataClass;
use procura_verifier::feed::redis::RedisConfig;
use procura_verifier::feed::sse::{FeedClient, FeedConfig, StreamUse, http_client};
use procura_verifier::ids::{Clock as _, Key, SystemClock};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::revocation::View;
use procura_verifier::token::UnverifiedToken;
use rand::RngCore as _;

use crate::measure::{self, Asker};
use crate::spinner::{Canary, Spinner};
use crate::support::postgres::Postgres;
use crate::support::redis::RedisProcess;
use crate::support::serve::{Replica, Site};
use crate::support::{self, Agent, Person, field};

/// Where the authority writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Postgres,
    Sqlite,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }
}

/// How messages come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    Both,
    Stream,
    Redis,
}

impl Paths {
    pub fn name(self) -> &'static str {
        match self {
            Self::Both => "Redis + SSE",
            Self::Stream => "SSE only",
            Self::Redis => "Redis only",
        }
    }
}

/// One authority with all that it needs.
pub struct Running {
    replica: Replica,
    sam: Person,
    agent: Agent,
    delegation: procura_verifier::ids::DelegationId,
    redis: RedisProcess,
    postgres: Option<Postgres>,
    _site: Site,
    _folder: tempfile::TempDir,
}

impl Running {
    pub async fn start(store: Store) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = match store {
            Store::Postgres => Some(Postgres::durable().await),
            Store::Sqlite => None,
        };
        let redis = RedisProcess::start("");
        let site = Site::new(folder.path(), &postgres.as_ref().map_or("sqlite:".to_owned(), Postgres::url)).await;
        let config = folder.path().join("procura.toml");
        let text = format!("{}\n[redis]\nurl = \"{}\"\n", std::fs::read_to_string(&config).unwrap(), redis.url());
        std::fs::write(&config, text).unwrap();
        let replica = site.replica("one", &["--init-single-anchor"]).await;
        let (alice, sam) = (replica.person("alice").await, replica.person("sam").await);
        let (agent, delegation) = support::delegated(&alice, "canary", &support::key(&mut support::rng())).await;
        Self { replica, sam, agent, delegation, redis, postgres, _site: site, _folder: folder }
    }

    pub fn http(&self) -> reqwest::Client {
        self.replica.http.clone()
    }

    pub fn url(&self) -> String {
        self.replica.public_url.clone()
    }

    pub fn session(&self) -> String {
        self.sam.session().session.clone()
    }

    /// Feed clients that are fresh.
    pub async fn verifiers(&self, paths: Paths, many: usize) -> Vec<FeedClient> {
        let trust = self.replica.trust();
        let http = http_client().unwrap();
        let clients: Vec<_> = (0..many)
            .map(|_| {
                let mut config = FeedConfig::new(self.url(), trust.anchors.clone(), http.clone());
                config.on_alarm = Box::new(|alarm| eprintln!("alarm: {alarm:?}"));
                if paths != Paths::Stream {
                    config.redis = Some(RedisConfig::at(self.redis.url().parse().unwrap()).open().unwrap());
                }
                if paths == Paths::Redis {
                    config.stream = StreamUse::None;
                }
                FeedClient::start(config, Arc::new(View::new("payments".parse().unwrap(), trust.keys().unwrap())))
            })
            .collect();
        let views: Vec<_> = clients.iter().map(|c| Arc::clone(c.view())).collect();
        crate::all_fresh(&views).await;
        clients
    }

    /// An agent of its own, with what it was granted.
    pub fn minter(&self) -> (procura_sdk::client::AgentClient<SystemClock>, procura_verifier::ids::DelegationId) {
        (self.agent.at(&self.replica.http, &self.replica.public_url), self.delegation)
    }

    /// Tokens that were minted over HTTP, each with the proof of one call.
    pub async fn canaries(&self, many: usize) -> Vec<Arc<Canary>> {
        self.minted(&self.agent, self.delegation, many).await
    }

    async fn minted(&self, agent: &Agent, delegation: procura_verifier::ids::DelegationId, many: usize) -> Vec<Arc<Canary>> {
        let keys = self.replica.trust().keys().unwrap();
        let client = agent.at(&self.replica.http, &self.replica.public_url);
        let request = MintRequest { delegation, ttl_secs: None };
        let minting = (0..many).map(|_| async { client.mint(&request, &mut support::rng()).await.unwrap().seal().unwrap() });
        let sealed: Vec<SealedToken> = futures_util::stream::iter(minting).buffer_unordered(16).collect().await;
        let call = call();
        sealed.iter().map(|sealed| Arc::new(canary(sealed, agent, &keys, call))).collect()
    }
}

fn canary(sealed: &SealedToken, agent: &Agent, keys: &procura_verifier::key_list::KeyList, call: &Call<'static>) -> Canary {
    let token = UnverifiedToken::parse(sealed.as_bytes()).unwrap().verify(keys).unwrap();
    let mut half = [0; 16];
    support::rng().fill_bytes(&mut half);
    let proof = UnverifiedProof::sign(&agent.key, token.hash(), call, SystemClock.wall(), &[0; 16], half, Seed::from_bytes([2; 32]));
    let proof = proof.verify(&Key::of(&agent.key), token.hash(), call).unwrap();
    Canary { token, proof }
}

/// The one call of all canaries: made once, for as long as the bench runs.
fn call() -> &'static Call<'static> {
    static CALL: std::sync::OnceLock<&'static Call<'static>> = std::sync::OnceLock::new();
    CALL.get_or_init(|| {
        let leak = |text: &str| Box::leak(Box::new(text.parse().unwrap()));
        Box::leak(Box::new(Call {
            tenant: Box::leak(Box::new("acme".parse().unwrap())),
            audience: Box::leak(Box::new("payments/1".parse().unwrap())),
            tool: leak("payments"),
            action: leak("transfer"),
            resource: Box::leak(Box::new("acct/eu/7".parse().unwrap())),
            args: Box::leak(Box::new(Arguments::from_json(br#"{"amount":{"minor":100,"unit":"EUR"}}"#).unwrap())),
            data_class: DataClass::Public,
        }))
    })
}

/// Kills a human with so many live tokens, and one with a single one, in turn: one message each, so the same figure is expected.
pub async fn kills(running: &Running, tokens: u64) -> u64 {
    let Some(postgres) = &running.postgres else { return 0 };
    let verifiers = running.verifiers(Paths::Both, 100).await;
    let views: Vec<_> = verifiers.iter().map(|client| Arc::clone(client.view())).collect();
    let (spinner, thread) = Spinner::start(views, None);
    let asker = Arc::new(Asker { http: running.http(), url: running.url(), session: running.session() });
    println!();
    let mut late = 0;
    for round in 0..5 {
        for many in [1, tokens] {
            let alice = running.replica.person("alice").await;
            let (agent, delegation) = support::delegated(&alice, &format!("doomed-{round}-{many}"), &support::key(&mut support::rng())).await;
            let canary = running.minted(&agent, delegation, 1).await.remove(0);
            if many > 1 {
                // Rows as minting writes them; their bytes exist nowhere, as they do not for any token.
                let id = format!("{round}-{many}");
                let hex = delegation.to_string();
                let hex = hex.strip_prefix("dlg_").unwrap();
                let insert = format!(
                    "INSERT INTO token (tenant, id, delegation, expires_secs, ancestors) SELECT 'acme', decode(md5('{id}' || i), 'hex'), decode('{hex}', 'hex'), {}, '' FROM generate_series(2, {many}) i",
                    canary.token.block0().expires_secs
                );
                postgres.sql(&insert).await;
            }
            let before = head(running).await;
            spinner.watch(0, Arc::clone(&canary));
            while !spinner.all_allow(0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let committed = asker.revoke("human", &alice.human()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(400)).await;
            let seen = spinner.take(0).unwrap();
            late += seen.verifiers.iter().filter(|(allowed, _)| *allowed > committed + measure::LATE_US).count() as u64;
            let last = seen.verifiers.iter().map(|(_, denied)| denied.expect("denied")).max().unwrap();
            println!(
                "kill of a human with {many} live tokens: commit to last deny at 100 verifiers {:.1} ms, {} feed message",
                last.saturating_sub(committed) as f64 / 1000.0,
                head(running).await - before
            );
        }
    }
    spinner.stop();
    thread.join().expect("the spinner ends");
    late
}

async fn head(running: &Running) -> u64 {
    let (_, body) = running.replica.get("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    field(&body, "feed_seq").ok().and_then(|n| n.parse().ok()).or_else(|| body["feed_seq"].as_u64()).expect("feed_seq")
}
