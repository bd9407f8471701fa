//! A tool under attack by those who hold, or have seen, one valid call. The view is filled by hand; nobody answers as authority.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::SigningKey;
use procura_verifier::claims::{Block0, Capability, Generations, Hops, HumanRef, Limit, Possession};
use procura_verifier::feed::message::{FloorScope, Freeze, Item};
use procura_verifier::ids::{AgentId, DelegationId, FreezeId, HumanId, Key, Tid, UtcMillis, VerifierId};
use procura_verifier::key_list::{Anchors, KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::receipt::Relied;
use procura_verifier::token::mint;
use procura_verifier::trust::TrustFile;
use rand::SeedableRng as _;

use super::*;
use crate::held::{HeldToken, SealedToken};

const UTC: UtcMillis = UtcMillis(1_800_000_000_000);

/// Boot and wall clock together, moved by hand.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn boot(&self) -> BootTime {
        BootTime(self.0.load(Ordering::Relaxed))
    }
    fn wall(&self) -> UtcMillis {
        UTC.plus(self.boot().0 / 1000)
    }
}

struct World {
    guard: Arc<Guard>,
    clock: Arc<Hand>,
    token: SealedToken,
    rng: rand::rngs::StdRng,
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn anchors() -> Anchors {
    Anchors::new(vec![Key::of(&key(9))], 1).unwrap()
}

fn world() -> World {
    world_of(150, ToolPolicy::STRICT)
}

fn world_of(freshness_ms: u32, policy: ToolPolicy) -> World {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
    let tenant: Tenant = "acme".parse().unwrap();
    let root = ListedKey { usage: KeyUse::Root, key: Key::of(&key(1)), from: UtcMillis(0), until: UtcMillis(u64::MAX) };
    let payload = KeyListPayload { tenant: tenant.clone(), version: 1, issued: UTC, max_ttl_secs: 86_400, keys: vec![root], dead: vec![] };
    let key_list = UnverifiedKeyList::sign(&payload, &[&key(9)]);
    let trust = TrustFile { anchors: anchors(), authority: "http://127.0.0.1:1".into(), tenant: tenant.clone(), key_list };
    let limit = Limit::AtMost { arg: "amount".parse().unwrap(), max: 500, unit: Default::default() };
    let block = Block0 {
        tenant,
        tid: Tid::from_bytes([1; 16]),
        ancestors: vec![],
        delegation: DelegationId::from_bytes([2; 16]),
        human: HumanRef::Id(HumanId::from_bytes([3; 16])),
        agent: AgentId::from_bytes([4; 16]),
        holder: Key::of(&key(10)),
        possession: Possession::Proof,
        audiences: vec!["payments".parse().unwrap()],
        capabilities: vec![Capability::new("payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/*".parse().unwrap(), vec![limit]).unwrap()],
        class_max: DataClass::Restricted,
        not_before_secs: UTC.secs() - 10,
        expires_secs: UTC.secs() + 3_600,
        depth: 0,
        hops: Hops::Registered,
        freshness_ms,
        generations: Generations::default(),
    };
    let token = HeldToken::from_bytes(mint(&block, &key(1), [7; 32]).unwrap()).unwrap().seal().unwrap();
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000_000)));
    let config = GuardConfig {
        #[cfg(feature = "redis")]
        redis: None,
        authority: trust.authority.clone(),
        trust,
        trust_path: None,
        audience: "payments/1".parse().unwrap(),
        verifier: VerifierId::from_bytes([5; 16]),
        key: key(11),
        policy,
        max_proofs: 1_000_000,
        max_tokens: 16,
        cold_per_second: 100,
    };
    let guard = Guard::start(config, reqwest::Client::builder().build().unwrap(), clock.clone()).unwrap();
    let world = World { guard, clock, token, rng: rand::rngs::StdRng::seed_from_u64(1) };
    world.beat();
    world
}

impl World {
    fn beat(&self) {
        let now = self.clock.boot();
        assert!(self.guard.view.observe_utc(self.clock.wall(), now));
        self.guard.view.publish(now, Relied { epoch: 1, seq: 0, hash: [0; 32], utc: self.clock.wall() });
    }

    fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms * 1000, Ordering::Relaxed);
        self.beat();
    }

    fn action(amount: i64) -> Action {
        Action {
            tenant: "acme".parse().unwrap(),
            tool: "payments".parse().unwrap(),
            action: "transfer".parse().unwrap(),
            resource: "acct/7".parse().unwrap(),
            args: Arguments::from_json(format!(r#"{{"amount":{amount}}}"#).as_bytes()).unwrap(),
            data_class: DataClass::Restricted,
        }
    }

    fn prove(&mut self, action: &Action) -> String {
        let audience = "payments/1".parse().unwrap();
        let call = Call {
            tenant: &action.tenant,
            audience: &audience,
            tool: &action.tool,
            action: &action.action,
            resource: &action.resource,
            args: &action.args,
            data_class: action.data_class,
        };
        self.token.prove(&call, &key(10), &self.guard.replay.challenge(), self.clock.wall(), &mut self.rng)
    }

    async fn present(&self, action: &Action, proof: &str) -> Result<(), (Cause, Told)> {
        let authorization = self.token.authorization();
        let presented = Presented { authorization: Some(&authorization), proof: Some(proof), peer: None };
        self.guard.check(presented, action).await.map(|_| ()).map_err(|r| (r.cause, r.audience))
    }
}

#[tokio::test]
async fn a_recorded_call_shown_again_and_again_keeps_nobody_out_and_fills_no_log() {
    let mut w = world();
    let action = World::action(1);
    let recorded = w.prove(&action);
    assert_eq!(w.present(&action, &recorded).await, Ok(()));
    for _ in 0..1000 {
        assert_eq!(w.present(&action, &recorded).await, Err((Cause::Replay, Told::Holder)));
    }
    assert!(w.guard.receipts.waiting() < 50, "{} receipts of one call", w.guard.receipts.waiting());
    assert!(w.guard.denials().get("replay").is_some_and(|n| *n > 950), "{:?}", w.guard.denials());
    let proof = w.prove(&action);
    assert_eq!(w.present(&action, &proof).await, Ok(()), "the holder still gets through");
}

#[tokio::test]
async fn whoever_shows_an_old_call_does_not_learn_what_became_of_the_token() {
    let mut w = world();
    let action = World::action(1);
    let recorded = w.prove(&action);
    assert_eq!(w.present(&action, &recorded).await, Ok(()));
    w.pass(31_000);
    assert_eq!(w.present(&action, &recorded).await, Err((Cause::Replay, Told::Stranger)));
    w.pass(3_600_000);
    assert_eq!(w.present(&action, &recorded).await, Err((Cause::Expired, Told::Stranger)));
    let proof = w.prove(&action);
    assert_eq!(w.present(&action, &proof).await, Err((Cause::Expired, Told::Holder)));
}

#[tokio::test]
async fn no_receipt_is_kept_that_the_authority_would_refuse_for_ever() {
    let mut w = world();
    // A tool may make arguments that are longer than a receipt holds.
    let mut long = World::action(1);
    long.args = Arguments::default();
    long.args.insert("amount".parse().unwrap(), procura_verifier::call::Value::Text("x".repeat(40_000))).unwrap();
    let proof = w.prove(&long);
    assert_eq!(w.present(&long, &proof).await, Err((Cause::Limit, Told::Holder)));
    assert_eq!((w.guard.receipts.waiting(), w.guard.denials().get("limit")), (0, Some(&1)));

    // Two tenants of one tool: the receipt of another's resource is taken for the cause `tenant` alone.
    let mut action = World::action(1);
    action.tenant = "other".parse().unwrap();
    let proof = w.prove(&action);
    assert_eq!(w.present(&action, &proof).await, Err((Cause::Tenant, Told::Holder)));
    assert_eq!(w.guard.receipts.waiting(), 1);
    let root = ListedKey { usage: KeyUse::Root, key: Key::of(&key(1)), from: UtcMillis(0), until: UTC };
    let payload = KeyListPayload { tenant: "acme".parse().unwrap(), version: 2, issued: UTC, max_ttl_secs: 86_400, keys: vec![root], dead: vec![] };
    let ended = anchors().accept(&UnverifiedKeyList::sign(&payload, &[&key(9)]), &payload.tenant).unwrap();
    w.guard.view.replace_key_list(ended).unwrap();
    let proof = w.prove(&action);
    assert_eq!(w.present(&action, &proof).await, Err((Cause::Signature, Told::Holder)));
    assert_eq!((w.guard.receipts.waiting(), w.guard.denials().get("signature")), (1, Some(&1)));
}

#[tokio::test]
async fn best_effort_is_forgiven_age_only_where_token_and_tool_name_it_and_shows_in_permit_counters_and_receipts() {
    let (lax, named) = (ToolPolicy { freshness: Freshness::BestEffort, ..ToolPolicy::STRICT }, Block0::BEST_EFFORT_MS);
    for (token, policy, expected) in [
        (named, lax, Some(Modes { best_effort: 1, ..Modes::default() })),
        (named, ToolPolicy { freshness: Freshness::Bounded { ms: 2_000 }, ..lax }, Some(Modes { bounded: 1, ..Modes::default() })),
        (5_000, lax, Some(Modes { bounded: 1, ..Modes::default() })),
        (named, ToolPolicy::STRICT, None),
        (150, lax, None),
    ] {
        let mut w = world_of(token, policy);
        assert_eq!(w.guard.mode(), policy.freshness);
        // A second without a word of the authority; the wall clock goes on.
        w.clock.0.fetch_add(1_000_000, Ordering::Relaxed);
        let action = World::action(1);
        let proof = w.prove(&action);
        let said = w.present(&action, &proof).await;
        match expected {
            Some(modes) => {
                assert_eq!((said, w.guard.modes()), (Ok(()), modes), "{token} {policy:?}");
                assert_eq!(w.guard.receipts.last().mode, policy.mode(token));
            }
            None => assert_eq!((said, w.guard.modes()), (Err((Cause::Stale, Told::Holder)), Modes { strict: 1, ..Modes::default() }), "{token} {policy:?}"),
        }
    }
    // Half an hour, and a freeze that was known before: age is forgiven, nothing else.
    let mut w = world_of(named, lax);
    w.clock.0.fetch_add(2_000_000_000, Ordering::Relaxed);
    let id = FreezeId::from_bytes([7; 16]);
    let freeze = Freeze { id, scope: FloorScope::Tenant, from: UTC, until: UtcMillis(u64::MAX), version: 1 };
    w.guard.view.apply(1, &[(0, Item::Freeze(freeze))]);
    let action = World::action(1);
    let proof = w.prove(&action);
    assert_eq!(w.present(&action, &proof).await, Err((Cause::Frozen { id }, Told::Holder)));
}

#[tokio::test]
async fn a_streaming_answer_ends_when_its_token_is_taken_back() {
    use futures_util::StreamExt as _;
    let mut world = world();
    let ticks = |axum::Extension(permit): axum::Extension<Permit>| async move {
        let watch = permit.watch().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let until = async move { tell.send(watch.await).unwrap() };
        let ticks = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            Some((Ok::<_, std::convert::Infallible>("tick\n".to_owned()), ()))
        });
        // The last line says why.
        let why = futures_util::stream::once(async move { Ok(told.await.unwrap().word().to_owned()) });
        axum::body::Body::from_stream(ticks.take_until(Box::pin(until)).chain(why))
    };
    let layer = crate::layer::ProcuraLayer::new(world.guard.clone(), |_, _| Ok(World::action(1)));
    let routes = axum::Router::new().route("/", axum::routing::get(ticks)).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(axum::serve(listener, routes).into_future());
    // What a feed would do, every 50 ms.
    let (view, hand) = (world.guard.view.clone(), world.clock.clone());
    let beats = tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            hand.0.fetch_add(50_000, Ordering::Relaxed);
            view.publish(hand.boot(), Relied { epoch: 1, seq: 0, hash: [0; 32], utc: hand.wall() });
        }
    });

    let proof = world.prove(&World::action(1));
    let http = reqwest::Client::builder().build().unwrap();
    let request = http.get(&url).header("authorization", world.token.authorization()).header("procura-proof", proof);
    let mut body = request.send().await.unwrap().error_for_status().unwrap().bytes_stream();
    for _ in 0..80 {
        assert!(body.next().await.unwrap().unwrap().starts_with(b"tick"), "ended too early");
    }
    world.guard.view.apply(1, &[(0, Item::Tid { tid: Tid::from_bytes([1; 16]), exp_secs: u64::MAX / 2 })]);
    let revoked = std::time::Instant::now();
    let mut last = Vec::new();
    while let Some(chunk) = body.next().await {
        last = chunk.unwrap().to_vec();
    }
    assert!(last.ends_with(b"revoked"), "{}", String::from_utf8_lossy(&last));
    assert!(revoked.elapsed() < std::time::Duration::from_millis(150), "{:?}", revoked.elapsed());
    beats.abort();
    server.abort();
}
