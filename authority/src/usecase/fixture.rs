//! An authority for tests: a clock moved by hand, seeded randomness, real keys, and people with and without roles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::{Signer as _, SigningKey};
use procura_verifier::ids::{AgentId, BootTime, Clock, DelegationId, Key, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyListPayload, KeyUse, UnverifiedKeyList};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tempfile::TempDir;

use super::bootstrap::{BootstrapError, Start, Started, bootstrap};
use super::delegate::delegate;
use super::issue::{IssueError, Issued, Mint, issue};
use super::register_agent::{RegisterError, Registered, Registration, challenge, register_agent};
use super::sign_in::{Identity, Journey, before, sign_in};
use super::*;
use crate::agent_auth::Assertion;
use crate::domain::delegation::tests::terms;
use crate::domain::human::{Role, Subject};
use crate::domain::principal::Principal;
use crate::domain::session::{Assurance, HashedToken};
use crate::log::leaf::OpenedLeaf;
use crate::seal::SessionSecret;
use crate::signer::file::FileSigner;
use crate::signer::released::Released;
use crate::store::contract::tenant;
use crate::store::memory::Memory;
use crate::store::sqlite::Sqlite;

pub(crate) const NOW: UtcMillis = UtcMillis(1_900_000_000_000);

/// Moves when told to.
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(0)))
    }
    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms * 1000, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn boot(&self) -> BootTime {
        BootTime(1_000_000_000 + self.0.load(Ordering::SeqCst))
    }
    fn wall(&self) -> UtcMillis {
        NOW.plus(self.0.load(Ordering::SeqCst) / 1000)
    }
}

pub(crate) struct App {
    pub ctx: Arc<Context>,
    pub clock: Arc<HandClock>,
    pub anchors: Anchors,
    /// Where its keys lie.
    pub folder: std::path::PathBuf,
    _folder: Option<TempDir>,
}

/// On the store in memory.
pub(crate) async fn app() -> App {
    let folder = tempfile::tempdir().unwrap();
    let mut app = start(Arc::new(Memory::new(tenant())), folder.path()).await.unwrap();
    app._folder = Some(folder);
    app
}

/// On SQLite, as often as wanted.
pub(crate) async fn app_in(folder: &TempDir) -> Result<App, BootstrapError> {
    start(Arc::new(Sqlite::open(folder.path(), tenant()).await.unwrap()), folder.path()).await
}

pub(crate) async fn start(store: Arc<dyn Store>, folder: &std::path::Path) -> Result<App, BootstrapError> {
    start_under(store, folder, HandClock::new(), &[signing(ANCHOR)], 1).await
}

/// The anchor of [`start`] and of [`replica`].
pub(crate) const ANCHOR: u8 = 200;

/// With these anchors, of which so many must sign; all do.
pub(crate) async fn start_under(
    store: Arc<dyn Store>,
    folder: &std::path::Path,
    clock: Arc<HandClock>,
    anchor_keys: &[SigningKey],
    threshold: usize,
) -> Result<App, BootstrapError> {
    let (Started { context, .. }, anchors) = process(store, &folder.join("keys"), folder, clock.clone(), anchor_keys, threshold).await?;
    Ok(App { ctx: context, clock, anchors, folder: folder.to_owned(), _folder: None })
}

/// One of several processes: `keys` are everybody's, `own` is its own.
pub(crate) async fn replica(
    store: Arc<dyn Store>,
    keys: &std::path::Path,
    own: &std::path::Path,
    clock: Arc<dyn Clock>,
) -> Result<(Started, Anchors), BootstrapError> {
    process(store, keys, own, clock, &[signing(ANCHOR)], 1).await
}

async fn process(
    store: Arc<dyn Store>,
    keys: &std::path::Path,
    own: &std::path::Path,
    clock: Arc<dyn Clock>,
    anchor_keys: &[SigningKey],
    threshold: usize,
) -> Result<(Started, Anchors), BootstrapError> {
    let mut rng = StdRng::from_os_rng();
    let signer = Arc::new(FileSigner::open(keys, &mut rng).unwrap());
    let anchors = Anchors::new(anchor_keys.iter().map(Key::of).collect(), threshold).unwrap();
    let first = |now: UtcMillis| {
        let keys = signer.listed(UtcMillis(now.0 - 60_000), now.plus(365 * 24 * 3_600_000));
        let payload = KeyListPayload { tenant: tenant(), version: 1, issued: now, max_ttl_secs: 86_400, keys, dead: vec![] };
        UnverifiedKeyList::sign(&payload, &anchor_keys.iter().collect::<Vec<_>>())
    };
    let start = Start {
        store,
        signer: Arc::clone(&signer) as Arc<dyn Signer>,
        anchors: anchors.clone(),
        clock,
        session_secret: SessionSecret::open(keys, &mut rng).unwrap(),
        rngs: [Box::new(rng.clone()), Box::new(rng)],
        released: Released::open(&own.join("released-checkpoint")).unwrap(),
        origin: "127.0.0.1/acme".parse().unwrap(),
        grants: grants(),
    };
    Ok((bootstrap(start, first).await?, anchors))
}

fn grants() -> Grants {
    let alice = crate::domain::grants::tests::alice();
    let sam = crate::domain::grants::Grant {
        human: identity("sam").subject,
        roles: [Role::Security].into(),
        capabilities: vec![],
        max_ttl_secs: 0,
        max_depth: 0,
        ..alice.clone()
    };
    Grants::new(vec![alice, sam])
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity {
        subject: Subject { issuer: "https://idp".into(), subject: name.into() },
        assurance: Assurance { auth_time: Some(NOW), acr: None, amr: vec!["pwd".into()] },
    }
}

pub(crate) fn signing(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}
pub(crate) fn key(n: u8) -> Key {
    Key::of(&signing(n))
}
pub(crate) fn possession(nonce: &[u8; 32], of: Key, signer: u8) -> [u8; 64] {
    signing(signer).sign(&procura_verifier::challenge::message(&tenant(), nonce, &of)).to_bytes()
}

impl App {
    pub async fn person(&self, name: &str) -> Principal {
        sign_in(&self.ctx, &identity(name), &self.journey().await).await.unwrap()
    }

    /// Sam, signed in, with the role admin beside the others.
    pub async fn admin(&self) -> Principal {
        let Principal::Human { id, mut roles, auth_time, generations } = self.person("sam").await else { panic!("nobody") };
        roles.insert(Role::Admin);
        Principal::Human { id, roles, auth_time, generations }
    }

    /// Kills this person.
    pub async fn killed(&self, who: &Principal) {
        let target = super::revoke::Target::Human(who.human().unwrap());
        super::revoke::revoke(&self.ctx, &Principal::LocalOperator, target, None, None).await.unwrap();
    }

    /// To the provider and back, without a session at the end.
    pub async fn journey(&self) -> Journey {
        let spends = (HashedToken::from_bytes(self.ctx.random()), self.ctx.now().plus(60_000));
        Journey { before: before(&self.ctx).await.unwrap(), spends, opens: None, ends: None }
    }

    pub async fn register(&self, owner: &Principal, name: &str, n: u8) -> Result<Registered, RegisterError> {
        let nonce = challenge(&self.ctx, owner)?;
        register_agent(&self.ctx, owner, &Registration { name: name.parse().unwrap(), key: key(n), nonce, signature: possession(&nonce, key(n), n) }).await
    }

    /// Alice, her agent with key 1, and what she granted it.
    pub async fn granted(&self) -> (Principal, AgentId, DelegationId) {
        let alice = self.person("alice").await;
        let bot = self.register(&alice, "invoice-bot", 1).await.unwrap().agent;
        let grant = delegate(&self.ctx, &alice, bot, terms(), None).await.unwrap().delegation;
        (alice, bot, grant)
    }

    /// As `agent_auth` gives it for a signed assertion with a fresh `jti`.
    pub fn assertion(&self, agent: AgentId) -> Assertion {
        Assertion { agent, jti: hex::encode(self.ctx.random::<16>()), exp: self.ctx.now().plus(60_000) }
    }

    pub async fn mint(&self, agent: AgentId, delegation: DelegationId) -> Result<Issued, IssueError> {
        issue(&self.ctx, &self.assertion(agent), &Mint { delegation, holder: key(1), audiences: vec![], ttl_secs: None }).await
    }

    /// Everything in the log, opened under the event key.
    pub async fn events(&self) -> Vec<Event> {
        let list = self.ctx.keys.load();
        let known = |id: &str| list.of(KeyUse::Event).map(|k| k.key).find(|k| crate::log::leaf::key_id(k) == id);
        let leaves = self.ctx.store.leaves(0, 100_000).await.unwrap();
        leaves.iter().map(|l| OpenedLeaf::open(l, known).unwrap().event).collect()
    }

    /// Until nothing holds the store any more.
    pub async fn close(self) {
        let store = Arc::downgrade(&self.ctx.store);
        drop(self);
        while store.strong_count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
