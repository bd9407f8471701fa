//! The client against a real HTTP server on loopback, with real signatures and the machine's clock.

mod lost;

use super::*;
use std::convert::Infallible;
use std::sync::atomic::AtomicU64;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use tokio::sync::broadcast;

use crate::decision::Mode;
use crate::feed::ack::{Ack, SignIn, Signed};
use crate::feed::fixture;
use crate::feed::message::{Batch, Heartbeat, Item, Message, SignedMessage, genesis_hash};
use crate::ids::{BootTime, Clock, ClockId, SystemClock, Tid, UtcMillis, VerifierId};
use crate::key_list::{Anchors, UnverifiedKeyList};
use crate::wire::Canonical as _;

/// An authority's feed: what the verifier's side needs of it.
struct Authority {
    clock: ClockId,
    history: Mutex<Vec<SignedMessage>>,
    list: Mutex<UnverifiedKeyList>,
    live: broadcast::Sender<String>,
    streams_refused: AtomicBool,
    pulls_refused: AtomicBool,
    /// Batches travel only by the tail.
    stream_loses_batches: AtomicBool,
    streams: AtomicU64,
    pulls: AtomicU64,
    /// Nonce and header.
    sign_ins: Mutex<Vec<(String, String)>>,
    acks: Mutex<Vec<Signed<Ack>>>,
    acks_refused: AtomicBool,
    /// The newest manifest, and the one segment that it names.
    snapshot: Mutex<Option<(SignedMessage, Vec<u8>)>>,
    lost: Mutex<Vec<serde_json::Value>>,
    lost_refused: AtomicBool,
}

type Params = Query<std::collections::HashMap<String, String>>;

impl Authority {
    fn new(clock: u8) -> Arc<Self> {
        Arc::new(Self {
            clock: ClockId::from_bytes([clock; 16]),
            history: Mutex::default(),
            list: Mutex::new(fixture::signed_key_list(1, &[])),
            live: broadcast::channel(1024).0,
            streams_refused: AtomicBool::new(false),
            pulls_refused: AtomicBool::new(false),
            stream_loses_batches: AtomicBool::new(false),
            streams: AtomicU64::new(0),
            pulls: AtomicU64::new(0),
            sign_ins: Mutex::default(),
            acks: Mutex::default(),
            acks_refused: AtomicBool::new(false),
            snapshot: Mutex::default(),
            lost: Mutex::default(),
            lost_refused: AtomicBool::new(false),
        })
    }

    fn commit(&self, n: u8) {
        let mut history = lock(&self.history);
        let prev = history.last().map_or(genesis_hash(&fixture::tenant(), 1), SignedMessage::hash);
        let items = vec![(0, Item::Tid { tid: Tid::from_bytes([n; 16]), exp_secs: u64::MAX })];
        let batch = Batch { tenant: fixture::tenant(), epoch: 1, seq: history.len() as u64 + 1, prev, issued: fixture::UTC, items };
        let signed = SignedMessage::sign(&Message::Batch(batch), &fixture::feed_key());
        history.push(signed.clone());
        if !self.stream_loses_batches.load(Ordering::SeqCst) {
            let _ = self.live.send(text(&signed));
        }
    }

    fn beat(&self, nonces: Vec<Vec<u8>>) -> SignedMessage {
        let history = lock(&self.history);
        let list = fixture::anchors().accept(&lock(&self.list), &fixture::tenant()).unwrap();
        let t_us = SystemClock.boot().0;
        let beat = Heartbeat {
            head_seq: history.len() as u64,
            head_hash: history.last().map_or(genesis_hash(&fixture::tenant(), 1), SignedMessage::hash),
            clock: self.clock,
            t_us,
            key_list_version: list.payload().version,
            key_list_hash: *list.hash(),
            nonces,
            ..fixture::heartbeat(fixture::UTC.plus(t_us / 1000))
        };
        SignedMessage::sign(&Message::Heartbeat(beat), &fixture::feed_key())
    }

    /// Serves on loopback until the handle is dropped; the address, which a second call can take over.
    async fn serve(self: &Arc<Self>, at: &str) -> (String, AbortOnDrop) {
        let listener = loop {
            match tokio::net::TcpListener::bind(at).await {
                Ok(listener) => break listener,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        let address = listener.local_addr().unwrap().to_string();
        let beating = Arc::clone(self);
        let beats = AbortOnDrop(tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(50)).await;
                let _ = beating.live.send(text(&beating.beat(vec![])));
            }
        }));
        let routes = axum::Router::new()
            .route("/v1/feed", get(stream))
            .route("/v1/feed/tail", get(tail))
            .route("/v1/feed/head", get(head))
            .route("/v1/feed/acks", post(acks))
            .route("/v1/feed/snapshot", get(lost::snapshot))
            .route("/v1/feed/segment/{hash}", get(lost::segment))
            .route("/v1/feed/lost", post(lost::lost))
            .route(
                "/v1/keys",
                get(|State(a): State<Arc<Authority>>| async move {
                    Json(serde_json::json!({ "key_list": BASE64_URL_SAFE_NO_PAD.encode(lock(&a.list).to_bytes()), "log": [] }))
                }),
            )
            .with_state(Arc::clone(self));
        let server = tokio::spawn(async move {
            let _beats = beats;
            axum::serve(listener, routes).await.unwrap();
        });
        (address, AbortOnDrop(server))
    }
}

fn text(message: &SignedMessage) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(message.to_bytes())
}

async fn stream(State(a): State<Arc<Authority>>, Query(q): Params, headers: HeaderMap) -> Response {
    a.streams.fetch_add(1, Ordering::SeqCst);
    lock(&a.sign_ins).extend(headers.get("procura-verifier").map(|v| (q["nonce"].clone(), v.to_str().unwrap().to_owned())));
    if a.streams_refused.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    assert_eq!(q["tenant"], "acme");
    let live = a.live.subscribe();
    let first = text(&a.beat(vec![hex::decode(&q["nonce"]).unwrap()]));
    let events = futures_util::stream::unfold((Some(first), live, a), |(first, mut live, a)| async move {
        let next = match first {
            Some(first) => first,
            None => live.recv().await.ok()?,
        };
        // A stream that breaks in the middle.
        if a.streams_refused.load(Ordering::SeqCst) {
            return None;
        }
        Some((Ok::<_, Infallible>(Event::default().data(next)), (None, live, a)))
    });
    Sse::new(events).into_response()
}

async fn acks(State(a): State<Arc<Authority>>, Json(body): Json<serde_json::Value>) -> StatusCode {
    if a.acks_refused.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(body["ack"].as_str().unwrap()).unwrap();
    lock(&a.acks).push(Signed::from_bytes(&bytes).unwrap());
    StatusCode::OK
}

async fn head(State(a): State<Arc<Authority>>, Query(q): Params) -> Response {
    a.pulls.fetch_add(1, Ordering::SeqCst);
    if a.pulls_refused.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    Json(serde_json::json!({ "message": text(&a.beat(vec![hex::decode(&q["nonce"]).unwrap()])) })).into_response()
}

async fn tail(State(a): State<Arc<Authority>>, Query(q): Params) -> Response {
    let from: usize = q["from"].parse().unwrap();
    assert_eq!(q["epoch"], "1");
    let history = lock(&a.history);
    // Pages of three, so that there is more.
    let rest = &history[(from - 1).min(history.len())..];
    let page: Vec<_> = rest.iter().take(3).map(text).collect();
    Json(serde_json::json!({ "messages": page, "more": rest.len() > 3 })).into_response()
}

fn client(address: &str) -> FeedClient {
    client_with(address, |_| {})
}

fn client_with(address: &str, change: impl FnOnce(&mut FeedConfig)) -> FeedClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let view = Arc::new(View::new("payments".parse().unwrap(), fixture::key_list(1, &[])));
    let mut config = FeedConfig::new(format!("http://{address}/"), fixture::anchors(), http_client().unwrap());
    change(&mut config);
    FeedClient::start(config, view)
}

/// Waits until it holds; a busy machine may take its time, a wrong program all of it.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

fn is_fresh_since(client: &FeedClient, since: BootTime) -> bool {
    client.view().fresh_as_of().is_some_and(|f| f > since)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_brings_revocations_and_freshness() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client(&address);
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    until("a stream", || client.status().streams == 1).await;
    for n in 1..=5 {
        authority.commit(n);
    }
    let committed = SystemClock.boot();
    until("fresh after the commit", || is_fresh_since(&client, committed)).await;
    assert_eq!((client.view().known().ids, client.status().watermark.1), (5, 5));
    assert_eq!(client.view().relied().unwrap().seq, 5);
    assert!(lock(&authority.sign_ins).is_empty() && lock(&authority.acks).is_empty(), "who is not enrolled says nothing");
}

fn enrolment() -> Enrolment {
    let key = crate::token::tests::key(20);
    Enrolment { verifier: VerifierId::from_bytes([6; 16]), audience: "payments/1".parse().unwrap(), run: [8; 16], key, mode: Mode::Strict { ms: 150 } }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrolled_verifier_signs_in_to_each_stream_and_acknowledges_what_it_applied() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client_with(&address, |c| {
        c.enrolment = Some(enrolment());
        c.reopen_every = Duration::from_millis(200);
    });
    let public = crate::ids::Key::of(&enrolment().key);
    until("two streams signed in to", || lock(&authority.sign_ins).len() >= 2).await;
    let opened: Vec<SignIn> = lock(&authority.sign_ins)
        .iter()
        .map(|(nonce, text)| {
            let signed = Signed::<SignIn>::from_bytes(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
            let sign_in = signed.open(&public).unwrap();
            assert_eq!(hex::encode(&sign_in.nonce), *nonce, "for this request and no other");
            sign_in
        })
        .collect();
    assert_ne!(opened[0].nonce, opened[1].nonce);
    assert_eq!((opened[0].verifier, opened[0].run, opened[0].audience.as_str()), (enrolment().verifier, enrolment().run, "payments/1"));

    until("fresh", || client.view().fresh_as_of().is_some()).await;
    authority.commit(1);
    let acked = |seq| lock(&authority.acks).iter().any(|a| a.open(&public).unwrap().seq == seq);
    until("the acknowledgement of number 1", || acked(1)).await;
    // Refused, it is said again.
    authority.acks_refused.store(true, Ordering::SeqCst);
    authority.commit(2);
    until("applied", || client.status().watermark.1 == 2).await;
    until("the refusal", || client.status().last_error.is_some_and(|e| e.contains("503"))).await;
    assert!(!acked(2));
    authority.acks_refused.store(false, Ordering::SeqCst);
    until("the acknowledgement of number 2", || acked(2)).await;
    let all: Vec<Ack> = lock(&authority.acks).iter().map(|a| a.open(&public).unwrap()).collect();
    assert!(all.is_sorted_by(|a, b| a.number < b.number && a.seq <= b.seq), "{all:?}");
    let last = lock(&authority.history)[1].hash();
    assert!(all.iter().any(|a| a.seq == 2 && a.hash == last && a.utc >= fixture::UTC), "which history it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_is_acknowledged_once_in_100_ms_and_its_end_at_once() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client_with(&address, |c| c.enrolment = Some(enrolment()));
    let public = crate::ids::Key::of(&enrolment().key);
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    let began = SystemClock.boot();
    for n in 1..=100 {
        authority.commit(n);
        until("applied", || client.status().watermark.1 == u64::from(n)).await;
    }
    let acked = |seq| lock(&authority.acks).iter().any(|a| a.open(&public).unwrap().seq == seq);
    until("the acknowledgement of the last", || acked(100)).await;
    let (said, took_ms) = (lock(&authority.acks).len() as u64, SystemClock.boot().micros_since(began) / 1000);
    assert!(said <= took_ms / 100 + 2, "{said} in {took_ms} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_stream_loses_the_tail_brings_before_any_freshness() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client(&address);
    until("a stream", || client.status().streams == 1).await;
    authority.stream_loses_batches.store(true, Ordering::SeqCst);
    for n in 1..=10 {
        authority.commit(n);
    }
    let committed = SystemClock.boot();
    until("fresh after the commit", || is_fresh_since(&client, committed)).await;
    assert_eq!(client.view().known().ids, 10, "ten, in pages of three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_stream_pulls_keep_the_view_fresh_and_are_few() {
    let authority = Authority::new(1);
    authority.streams_refused.store(true, Ordering::SeqCst);
    authority.commit(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client(&address);
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    let (before, started) = (authority.pulls.load(Ordering::SeqCst), SystemClock.boot());
    for _ in 0..5 {
        let now = SystemClock.boot();
        until("fresh again", || is_fresh_since(&client, now)).await;
    }
    let seconds = 1 + SystemClock.boot().micros_since(started) / 1_000_000;
    assert!(authority.pulls.load(Ordering::SeqCst) - before <= 20 * seconds + 1);
    assert_eq!((client.view().known().ids, client.status().streams), (1, 0));
    assert_eq!(client.status().last_error.as_deref(), Some("feed request answered with status 503"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_ask_at_once_share_one_pull() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = Arc::new(client(&address));
    until("a stream", || client.status().streams == 1).await;
    let asked = SystemClock.boot();
    let before = authority.pulls.load(Ordering::SeqCst);
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.refresh().await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let took_ms = SystemClock.boot().micros_since(asked) / 1000;
    let pulls = authority.pulls.load(Ordering::SeqCst) - before;
    assert!(pulls >= 1 && pulls <= 1 + took_ms / 50, "{pulls} pulls in {took_ms} ms");
    until("fresh", || is_fresh_since(&client, asked)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_that_is_cut_off_goes_stale_and_heals() {
    let authority = Authority::new(1);
    authority.commit(1);
    let (address, server) = authority.serve("127.0.0.1:0").await;
    let client = client(&address);
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    authority.streams_refused.store(true, Ordering::SeqCst);
    authority.pulls_refused.store(true, Ordering::SeqCst);
    // What is on its way may still arrive; after that nothing makes it fresher.
    sleep(Duration::from_millis(300)).await;
    let frozen = client.view().fresh_as_of().unwrap();
    assert!(SystemClock.boot().micros_since(frozen) > 150_000);
    client.refresh().await;
    assert_eq!(client.view().fresh_as_of(), Some(frozen));

    // The authority comes back as another process: its clock id is new, and has to be mapped first.
    drop(server);
    let second = Authority::new(2);
    *lock(&second.history) = lock(&authority.history).clone();
    second.commit(2);
    let (_, _server) = second.serve(&address).await;
    until("fresh again", || is_fresh_since(&client, frozen)).await;
    until("all items", || client.view().known().ids == 2).await;
    until("a stream again", || client.status().streams == 1).await;
    assert_eq!(client.status().counters.forks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_opened_anew_before_the_old_one_ends() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client_with(&address, |c| c.reopen_every = Duration::from_millis(100));
    until("three streams", || authority.streams.load(Ordering::SeqCst) >= 3).await;
    until("a stream", || client.status().streams >= 1).await;
    assert!(client.status().streams <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_key_list_is_fetched_and_only_anchors_make_one() {
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let client = client(&address);
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    *lock(&authority.list) = fixture::signed_key_list(2, &[]);
    let changed = SystemClock.boot();
    until("the list", || client.view().key_list().payload().version == 2).await;
    until("fresh again", || is_fresh_since(&client, changed)).await;

    // Heartbeats name a list that the authority serves without its anchors' signatures.
    let imposter = client_with(&address, |c| c.anchors = Anchors::new(vec![crate::ids::Key::from_bytes([1; 32])], 1).unwrap());
    until("the refusal", || imposter.status().last_error.is_some_and(|e| e.contains("anchor signatures"))).await;
    assert_eq!((imposter.view().key_list().payload().version, imposter.view().fresh_as_of()), (1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pushed_key_list_is_taken_for_its_anchors_and_kept_in_the_trust_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trust.json");
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let trust = |path: &std::path::Path| crate::trust::TrustFile::from_json(&std::fs::read(path).unwrap()).unwrap();
    let file = crate::trust::TrustFile {
        anchors: fixture::anchors(),
        authority: format!("http://{address}"),
        tenant: fixture::tenant(),
        key_list: fixture::signed_key_list(1, &[]),
    };
    std::fs::write(&path, file.to_json()).unwrap();
    let (unkept, heard) = (Arc::new(AtomicU64::new(0)), folder.path().join("none.json"));
    let (client, homeless) = {
        let unkept = Arc::clone(&unkept);
        let homeless = client_with(&address, |c| {
            c.trust_path = Some(heard);
            c.on_alarm = Box::new(move |alarm| {
                if let Alarm::TrustFile { version } = alarm {
                    unkept.store(*version, Ordering::SeqCst);
                }
            });
        });
        (client_with(&address, |c| c.trust_path = Some(path.clone())), homeless)
    };
    until("streams", || client.status().streams == 1 && homeless.status().streams == 1).await;

    // Served and named by heartbeats is version 1 throughout: the push alone brings another.
    let push = |list: &UnverifiedKeyList, version| {
        let change = crate::feed::message::KeyListChange {
            tenant: fixture::tenant(),
            version,
            hash: crate::key_list::hash(list),
            list: list.to_bytes(),
            issued: fixture::UTC,
        };
        let _ = authority.live.send(text(&SignedMessage::sign(&Message::KeyListChange(change), &fixture::feed_key())));
    };
    let payload = fixture::key_list(1, &[]).payload().clone();
    let stranger = UnverifiedKeyList::sign(&crate::key_list::KeyListPayload { version: 9, ..payload }, &[&fixture::feed_key()]);
    push(&stranger, 9);
    until("the refusal", || client.status().last_error.is_some_and(|e| e.contains("anchor signatures"))).await;
    assert_eq!((client.view().key_list().payload().version, trust(&path).keys().unwrap().payload().version), (1, 1));

    push(&fixture::signed_key_list(2, &[]), 2);
    until("the list", || client.view().key_list().payload().version == 2).await;
    until("the file", || trust(&path).keys().unwrap().payload().version == 2).await;
    until("the alarm", || unkept.load(Ordering::SeqCst) == 2).await;
    assert_eq!(homeless.view().key_list().payload().version, 2, "it counts, kept or not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_told_and_healed_by_a_pull() {
    /// A wall clock that can be set.
    struct Settable(AtomicU64);
    impl Clock for Settable {
        fn boot(&self) -> BootTime {
            SystemClock.boot()
        }
        fn wall(&self) -> UtcMillis {
            SystemClock.wall().plus(self.0.load(Ordering::SeqCst))
        }
    }
    let authority = Authority::new(1);
    let (address, _server) = authority.serve("127.0.0.1:0").await;
    let clock = Arc::new(Settable(AtomicU64::new(0)));
    let told = Arc::new(AtomicBool::new(false));
    let client = client_with(&address, |c| {
        c.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let told = Arc::clone(&told);
        c.on_alarm = Box::new(move |alarm| told.store(*alarm == Alarm::Paused, Ordering::SeqCst));
    });
    until("fresh", || client.view().fresh_as_of().is_some()).await;
    let before = SystemClock.boot();
    clock.0.store(3_600_000, Ordering::SeqCst);
    until("told", || told.load(Ordering::SeqCst)).await;
    until("fresh again", || is_fresh_since(&client, before)).await;
    assert!(client.status().counters.pauses >= 1);
}

/// One thread for all tasks: only what blocks runs elsewhere, and there the clock breaks.
#[tokio::test]
async fn a_merge_that_panics_is_begun_again() {
    struct Breaking {
        home: std::thread::ThreadId,
        whole: AtomicBool,
        broke: AtomicU64,
    }
    impl Clock for Breaking {
        fn boot(&self) -> BootTime {
            if std::thread::current().id() != self.home && !self.whole.load(Ordering::SeqCst) {
                self.broke.fetch_add(1, Ordering::SeqCst);
                panic!("no clock in this thread");
            }
            SystemClock.boot()
        }
        fn wall(&self) -> UtcMillis {
            SystemClock.wall()
        }
    }
    let clock = Arc::new(Breaking { home: std::thread::current().id(), whole: AtomicBool::new(false), broke: AtomicU64::new(0) });
    let client = client_with("127.0.0.1:1", |c| c.clock = Arc::clone(&clock) as Arc<dyn Clock>);
    assert!(client.view().observe_utc(fixture::UTC, SystemClock.boot()), "there are hours to forget");
    until("the second panic", || clock.broke.load(Ordering::SeqCst) >= 2).await;
    clock.whole.store(true, Ordering::SeqCst);
    until("merged", || !client.view().wants_merge(SystemClock.boot())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_paths_at_once_are_no_pause() {
    // Nobody answers there: what comes in is what these threads bring.
    let client = client("127.0.0.1:1");
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| (0..20_000).for_each(|_| assert!(client.shared.receive(b"nothing").is_err())));
        }
    });
    let counters = client.status().counters;
    assert_eq!((counters.pauses, counters.refused), (0, 160_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_answers_without_end_or_sense_costs_little_and_proves_nothing() {
    async fn endless() -> Response {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(vec![b'x'; 64 * 1024]));
        let mut response = axum::body::Body::from_stream(chunks).into_response();
        response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        response
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = axum::Router::new().route("/v1/feed", get(endless)).route("/v1/feed/head", get(endless));
    let _server = AbortOnDrop(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    let client = client(&address);
    until("the refusal", || client.status().last_error.is_some_and(|e| e.contains("longer than"))).await;
    client.refresh().await;
    assert_eq!((client.view().fresh_as_of(), client.status().streams), (None, 0));
}
