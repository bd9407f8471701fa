//! Ten million revoked ids in a verifier: memory, cold start over HTTP from an authority's snapshot, warm start from disk, lookups.
//!
//! `cargo bench -p procura-benches --bench snapshot [-- --ids N]`. To reach: 200 MiB, 5 s, a miss in 200 ns (`DESIGN.md`
//! section 11). The authority runs in a child process, so that memory is the verifier's alone.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a bench: a failure here is a failed run")]

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::claims::{Generations, HumanRef};
use procura_verifier::feed::message::{Batch, Heartbeat, Item, Message, SignedMessage, genesis_hash};
use procura_verifier::feed::snapshot::{MAX_SEGMENT_BYTES, Manifest, SegmentEntry, SegmentKind};
use procura_verifier::feed::sse::{FeedClient, FeedConfig, http_client};
use procura_verifier::ids::{AgentId, Clock as _, ClockId, DelegationId, HumanId, Key, SystemClock, Tenant, Tid};
use procura_verifier::key_list::{Anchors, KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::revocation::{IdKind, Lineage, Lookup, RevocationView as _, View};
use procura_verifier::wire::Canonical as _;
use rand::{RngCore as _, SeedableRng as _};

/// Hours over which the ids end, as under a maximum TTL of a day.
const HOURS: u64 = 24;
/// Messages after the snapshot, and before it in the tail: more than the two pages after which a snapshot is asked for.
const TAIL: u64 = 600;

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let ids = args.iter().position(|a| a == "--ids").map_or(10_000_000, |at| args[at + 1].parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if args.iter().any(|a| a == "--serve") {
        runtime.block_on(serve(ids));
    } else {
        runtime.block_on(measure(ids));
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

fn anchors() -> Anchors {
    Anchors::new(vec![Key::of(&key(1))], 1).unwrap()
}

fn key_list() -> UnverifiedKeyList {
    let until = SystemClock.wall().plus(86_400_000);
    let from = procura_verifier::ids::UtcMillis(0);
    let keys = vec![ListedKey {
        usage: KeyUse::Feed,
        key: Key::of(&key(2)),
        from,
        until: procura_verifier::ids::UtcMillis(until.0 / 86_400_000 * 86_400_000 + 86_400_000),
    }];
    UnverifiedKeyList::sign(&KeyListPayload { tenant: tenant(), version: 1, issued: from, max_ttl_secs: 86_400, keys, dead: vec![] }, &[&key(1)])
}

fn in_message(seq: u64) -> [u8; 16] {
    let mut tid = [0; 16];
    tid[..8].copy_from_slice(&seq.to_be_bytes());
    tid
}

fn id(rng: &mut rand::rngs::StdRng) -> [u8; 16] {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    id
}

struct Feed {
    messages: Vec<SignedMessage>,
    manifest: SignedMessage,
    segments: std::collections::HashMap<String, Vec<u8>>,
    list: UnverifiedKeyList,
}

/// An authority's feed as its routes serve it: TAIL messages, a snapshot of all ids at number TAIL, TAIL more.
fn feed(ids: u64) -> Feed {
    let (now, mut prev, mut messages) = (SystemClock.wall(), genesis_hash(&tenant(), 1), Vec::new());
    for seq in 1..=2 * TAIL {
        let items = vec![(seq, Item::Tid { tid: Tid::from_bytes(in_message(seq)), exp_secs: now.secs() + 3600 })];
        let signed = SignedMessage::sign(&Message::Batch(Batch { tenant: tenant(), epoch: 1, seq, prev, issued: now, items }), &key(2));
        prev = signed.hash();
        messages.push(signed);
    }
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let (mut entries, mut segments) = (Vec::new(), std::collections::HashMap::new());
    for hour in 0..HOURS {
        let mut part: Vec<_> = (0..ids / HOURS).map(|_| id(&mut rng)).collect();
        if hour == 0 {
            // What the messages up to the snapshot said is in it.
            part.extend((1..=TAIL).map(in_message));
        }
        part.sort_unstable();
        for chunk in part.chunks(MAX_SEGMENT_BYTES / 16) {
            let bytes = chunk.concat();
            let entry = SegmentEntry::of(SegmentKind::Ids(IdKind::Tid), now.secs() / 3600 + 1 + hour, chunk.len() as u64, &bytes);
            segments.insert(hex::encode(entry.sha256), bytes);
            entries.push(entry);
        }
    }
    entries.sort_unstable();
    let hash = messages[TAIL as usize - 1].hash();
    let manifest = Manifest { tenant: tenant(), epoch: 1, seq: TAIL, hash, issued: now, segments: entries };
    Feed { messages, manifest: SignedMessage::sign(&Message::Manifest(manifest), &key(2)), segments, list: key_list() }
}

type Params = Query<std::collections::HashMap<String, String>>;

async fn serve(ids: u64) {
    let feed = Arc::new(feed(ids));
    let text = |m: &SignedMessage| BASE64.encode(m.to_bytes());
    let routes = axum::Router::new()
        .route(
            "/v1/feed/head",
            get(move |State(f): State<Arc<Feed>>, Query(q): Params| async move {
                let t_us = SystemClock.boot().0;
                let last = f.messages.last().unwrap();
                let list = anchors().accept(&f.list, &tenant()).unwrap();
                let beat = Heartbeat {
                    tenant: tenant(),
                    epoch: 1,
                    head_seq: f.messages.len() as u64,
                    head_hash: last.hash(),
                    clock: ClockId::from_bytes([3; 16]),
                    t_us,
                    utc: SystemClock.wall(),
                    key_list_version: 1,
                    key_list_hash: *list.hash(),
                    checkpoint: (0, [0; 32]),
                    nonces: vec![hex::decode(&q["nonce"]).unwrap()],
                };
                Json(serde_json::json!({ "message": text(&SignedMessage::sign(&Message::Heartbeat(beat), &key(2))) }))
            }),
        )
        .route(
            "/v1/feed/tail",
            get(move |State(f): State<Arc<Feed>>, Query(q): Params| async move {
                let from = (q["from"].parse::<usize>().unwrap() - 1).min(f.messages.len());
                let page: Vec<_> = f.messages[from..].iter().take(256).map(text).collect();
                Json(serde_json::json!({ "more": f.messages.len() - from > 256, "messages": page }))
            }),
        )
        .route("/v1/feed/snapshot", get(move |State(f): State<Arc<Feed>>| async move { Json(serde_json::json!({ "message": text(&f.manifest) })) }))
        .route("/v1/feed/segment/{hash}", get(|State(f): State<Arc<Feed>>, Path(hash): Path<String>| async move { f.segments[&hash].clone() }))
        .with_state(feed);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    // Ends with the parent: its end of standard input closes.
    let parent = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    tokio::select! {
        served = axum::serve(listener, routes) => served.unwrap(),
        _ = parent => {}
    }
}

fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn started(url: &str, folder: &std::path::Path) -> (FeedClient, Duration) {
    let list = anchors().accept(&key_list(), &tenant()).unwrap();
    let view = Arc::new(View::new("payments".parse().unwrap(), list));
    let begun = Instant::now();
    let mut config = FeedConfig::new(url, anchors(), http_client().unwrap());
    config.folder = Some(folder.to_owned());
    let client = FeedClient::start(config, view);
    while client.view().fresh_as_of().is_none() || client.status().watermark.1 < 2 * TAIL {
        assert!(begun.elapsed() < Duration::from_secs(300), "not fresh: {:?}", client.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (client, begun.elapsed())
}

fn lookup(view: &View, ids: &[[u8; 16]], expect: bool) -> u128 {
    let begun = Instant::now();
    for id in ids {
        let root = procura_verifier::ids::Key::from_bytes([1; 32]);
        let lineage = Lineage {
            root: &root,
            tids: &[Tid::from_bytes(*id)],
            lids: &[],
            blocks: &[],
            holders: &[],
            human: HumanRef::Id(HumanId::from_bytes([1; 16])),
            agents: &[(AgentId::from_bytes([1; 16]), 0)],
            delegation: DelegationId::from_bytes([1; 16]),
            generations: Generations::default(),
        };
        assert_eq!(matches!(black_box(view.lookup(&lineage)), Lookup::Revoked(_)), expect);
    }
    begun.elapsed().as_nanos() / ids.len() as u128
}

async fn measure(ids: u64) {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--serve", "--ids", &ids.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let before = memory("VmRSS:");
    let (client, cold) = started(url.trim(), folder.path()).await;
    let (after, most) = (memory("VmRSS:"), memory("VmHWM:"));
    let mut rng = rand::rngs::StdRng::seed_from_u64(7);
    let some = 1_000_000.min(ids / HOURS) as usize;
    let hits: Vec<_> = (0..some).map(|_| id(&mut rng)).collect();
    let mut rng = rand::rngs::StdRng::seed_from_u64(8);
    let misses: Vec<_> = (0..some).map(|_| id(&mut rng)).collect();
    let rounds = |ids: &[[u8; 16]], expect| {
        let mut all: Vec<_> = (0..9).map(|_| lookup(client.view(), ids, expect)).collect();
        all.sort_unstable();
        all[4]
    };
    let (miss, hit) = (rounds(&misses, false), rounds(&hits, true));
    let known = client.view().known().ids;
    drop(client);
    // The folder is written in the background; what counts is what a restart finds.
    let (warm, took) = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if folder.path().join("manifest").exists() {
            break started(url.trim(), folder.path()).await;
        }
    };
    assert_eq!(warm.view().known().ids, known);
    println!("| revoked ids | memory, MiB (before) | most | cold start | warm start | miss | hit |\n|---|---|---|---|---|---|---|");
    println!("| {known} | {after} ({before}) | {most} | {cold:.2?} | {took:.2?} | {miss} ns | {hit} ns |");
    drop(server.stdin.take());
    server.wait().unwrap();
}
