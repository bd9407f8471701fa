//! Bad input at a tool: garbage for tokens and proofs, and a feed that lies, floods or falls silent. The tool stays up,
//! allows nothing it should not, and keeps its size.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use procura_sdk::caller::Answered;
use procura_sdk::held::SealedToken;
use procura_verifier::feed::{Message, SignedMessage};
use procura_verifier::ids::{Clock as _, SystemClock};
use procura_verifier::wire::Canonical as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::sync::watch;

use super::support::raw::Request as Raw;
use super::support::{Authority, PATIENCE, Tool, alone, beside_others, delegated, http, key, mint, path, resident_kib, rng, wish};

/// An authority, an agent's sealed token, and one instance that hears the authority through a door of ours.
struct Site {
    authority: Authority,
    door: Door,
    tool: Tool,
    token: SealedToken,
    key: SigningKey,
    _scratch: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let authority = Authority::start(&scratch.path().join("authority")).await;
        let door = Door::open(&authority.url).await;
        let mut rng = rng();
        let (alice, sam) = (authority.person("alice").await, authority.person("sam").await);
        let (holder, verifier_key) = (key(&mut rng), key(&mut rng));
        let (bot, delegation) = delegated(&alice, "bot", &holder).await;
        let token = mint(&authority, &bot, delegation).await.seal().unwrap();
        let verifier = sam.enrol("payments/1", &verifier_key).await.unwrap();
        let tool = Tool::start(&authority.trust_path(), scratch.path(), &door.url, "payments/1", verifier, &verifier_key).await;
        Self { authority, door, tool, token, key: holder, _scratch: scratch }
    }

    async fn call(&self) -> Answered {
        let wish = wish("acme", "acct/eu/7", 100);
        self.tool.instance.call(&path(&wish), &self.token, &self.key, &wish, SystemClock.wall(), &mut rng()).await.unwrap()
    }

    async fn until_allowed(&self) {
        let began = Instant::now();
        while !matches!(self.call().await, Answered::Done(_)) {
            assert!(began.elapsed() < PATIENCE, "the tool does not allow what it should");
        }
    }

    /// Sends exactly these headers; the status.
    async fn present(&self, authorization: &str, proof: &str) -> u16 {
        let wish = wish("acme", "acct/eu/7", 100);
        match self.tool.instance.send(&path(&wish), authorization, Some(proof), &wish.args).await.unwrap() {
            Answered::Done(_) => 200,
            Answered::Refused { status, .. } => status,
        }
    }

    fn proof(&self) -> String {
        self.tool.instance.prove(&self.token, &self.key, &wish("acme", "acct/eu/7", 100), SystemClock.wall(), &mut rng())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_for_tokens_and_proofs_is_refused_and_forgotten() {
    let _machine = beside_others().await;
    let mut site = Site::start().await;
    site.until_allowed().await;
    let before = resident_kib(site.tool.pid());
    let seed: u64 = 0x5eed;
    let mut random = StdRng::seed_from_u64(seed);
    let (good, proof) = (site.token.authorization(), site.proof());

    // Random bytes, every length a header takes, with a proof that is right for another token, or random itself.
    let garbage = (0..2_000).map(|i| {
        let mut bytes = vec![0; random.random_range(0..5_500)];
        random.fill_bytes(&mut bytes);
        // Half of them begin as a token does.
        if i % 2 == 0 {
            let n = bytes.len().min(random.random_range(1..200));
            bytes[..n].copy_from_slice(&site.token.as_bytes()[..n]);
        }
        (format!("Bearer {}", BASE64.encode(&bytes)), if i % 3 == 0 { BASE64.encode(bytes) } else { proof.clone() })
    });
    let garbage: Vec<_> = garbage.collect();
    let site_ref = &site;
    let refused = |s: u16| matches!(s, 401 | 503);
    let statuses: Vec<u16> = stream::iter(garbage).map(|(a, p)| async move { site_ref.present(&a, &p).await }).buffer_unordered(8).collect().await;
    assert_eq!(statuses.len(), 2_000);
    assert!(statuses.iter().copied().all(refused), "seed {seed}: {statuses:?}");

    // Every truncation of a good token and of a good proof, as text: also the lengths that are no base64.
    let cut = (0..good.len()).map(|n| (good[..n].to_owned(), proof.clone())).chain((0..proof.len()).map(|n| (good.clone(), proof[..n].to_owned())));
    let statuses: Vec<u16> = stream::iter(cut).map(|(a, p)| async move { site_ref.present(&a, &p).await }).buffer_unordered(8).collect().await;
    assert!(statuses.iter().copied().all(refused), "{statuses:?}");
    // The twin: whole, with a proof of this moment, since thousands of requests on a busy machine outlast a proof's 30 s.
    // What was seen cut off is still good when it comes whole.
    let began = Instant::now();
    loop {
        site.until_allowed().await;
        let fresh = site.proof();
        assert!(refused(site.present(&good, &fresh[..fresh.len() - 1]).await));
        if site.present(&good, &fresh).await == 200 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "a whole proof is refused after its cut-off twin");
    }

    // By hand: what no client sends.
    let target = path(&wish("acme", "acct/eu/7", 100));
    let body = r#"{"amount":{"minor":100,"unit":"EUR"}}"#;
    let call = || Raw::new("POST", &target).json(body);
    let odd: Vec<Vec<u8>> =
        [&b""[..], b"Bearer", b"Bearer ", b"Bearer \xff\xfe\xfd", b"bearer AAAA", b"Basic YTpi", b"Bearer ====", b"Bearer AAAA, Bearer AAAA"]
            .into_iter()
            .map(<[u8]>::to_vec)
            .chain([1_000, 6_900, 8_000, 16_000, 65_000].map(|n| [b"Bearer ".to_vec(), vec![b'A'; n]].concat()))
            .collect();
    for value in &odd {
        for request in
            [call().header("authorization", value).header("procura-proof", site.proof()), call().header("authorization", &good).header("procura-proof", value)]
        {
            let answer = request.send(site.tool.address()).await.expect("an answer");
            assert_eq!(answer.status, 401, "{}", String::from_utf8_lossy(value));
            let said = answer.json().unwrap();
            assert!(said["code"].is_string() && said["message"].is_string(), "{said}");
        }
    }
    let twice = call().header("authorization", &good).header("authorization", &good).header("procura-proof", site.proof());
    assert_eq!(twice.send(site.tool.address()).await.unwrap().status, 401, "two tokens");
    let twice = call().header("authorization", &good).header("procura-proof", site.proof()).header("procura-proof", site.proof());
    assert_eq!(twice.send(site.tool.address()).await.unwrap().status, 401, "two proofs");
    for size in [200_000, 2_000_000] {
        let answer = call().header("authorization", vec![b'A'; size]).send(site.tool.address()).await;
        assert!(answer.is_none_or(|a| matches!(a.status, 401 | 431)), "a header of {size} bytes");
    }
    for (why, body) in [
        ("nothing", b"".to_vec()),
        ("a key twice", br#"{"amount":{"minor":1,"unit":"EUR"},"amount":{"minor":1,"unit":"EUR"}}"#.to_vec()),
        ("a float", br#"{"amount":1.5}"#.to_vec()),
        ("bytes that are not UTF-8", b"{\"amount\":\"\xff\"}".to_vec()),
        ("an unfinished object", b"{\"amount\":".to_vec()),
        ("deep nesting", "[".repeat(60_000).into_bytes()),
        ("100 KB", vec![b' '; 100_000]),
        ("5 MB", vec![b' '; 5_000_000]),
    ] {
        let answer = Raw::new("POST", &target)
            .header("authorization", &good)
            .header("procura-proof", site.proof())
            .json(body)
            .send(site.tool.address())
            .await
            .expect("an answer");
        assert!(matches!(answer.status, 400 | 413), "arguments: {why}: {}", answer.status);
    }
    for target in [
        "/acme/transfer/acct/eu/../us",
        "/acme/transfer/acct//eu",
        "/acme/transfer/acct/%65u/7",
        "/ACME/transfer/acct/eu/7",
        "/acme/transfer/ACCT/eu/7",
        "/acme/transfer/",
        "//transfer/acct",
        "/acme/*/acct/eu/7",
    ] {
        let answer = Raw::new("POST", target)
            .header("authorization", &good)
            .header("procura-proof", site.proof())
            .json(body)
            .send(site.tool.address())
            .await
            .expect("an answer");
        assert!((400..500).contains(&answer.status), "{target}: {}", answer.status);
    }

    site.until_allowed().await;
    let after = resident_kib(site.tool.pid());
    assert!(after < before + MAX_GROWTH_KIB, "{before} KiB before, {after} KiB after");
    assert!(site.tool.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_lies_or_floods_makes_a_tool_stale_and_nothing_else() {
    let _machine = alone().await;
    let mut site = Site::start().await;
    site.until_allowed().await;
    // What an eavesdropper has: an answer of the real authority, for another's nonce.
    let recorded = site.authority.get("/v1/feed/head?tenant=acme&nonce=00112233445566778899aabbccddeeff").await.1;
    let recorded = serde_json::from_slice::<serde_json::Value>(&recorded).unwrap()["message"].as_str().unwrap().to_owned();
    let forged = forged(&recorded);
    let before = resident_kib(site.tool.pid());
    let lies = [
        Lie::Silence,
        Lie::Late,
        Lie::Refuse,
        Lie::Bytes,
        Lie::LineWithoutEnd,
        Lie::Comments,
        Lie::EmptyEvents,
        Lie::Message(recorded),
        Lie::Message(forged),
        Lie::Message("AAAA".to_owned()),
        Lie::Message("=%/".repeat(100)),
    ];
    for lie in lies {
        site.door.says.send_replace(Some(lie.clone()));
        let began = Instant::now();
        let mut denied = None;
        while began.elapsed() < Duration::from_secs(1) {
            let asked = began.elapsed();
            match site.call().await {
                // P4: an allow is decided within the bound of the last true word.
                Answered::Done(_) => {
                    assert!(asked < Duration::from_millis(200) && denied.is_none(), "{lie:?}: allowed a call sent {asked:?} after the last true word")
                }
                Answered::Refused { code, .. } => {
                    assert_eq!(code, "stale", "{lie:?}");
                    denied.get_or_insert(asked);
                }
            }
        }
        let denied = denied.unwrap_or_else(|| panic!("{lie:?}: never denied"));
        assert!(site.tool.runs(), "{lie:?}");
        let grown = resident_kib(site.tool.pid());
        assert!(grown < before + MAX_GROWTH_KIB, "{lie:?}: {before} KiB before, {grown} KiB after");
        // The truth mends it.
        site.door.says.send_replace(None);
        let began = Instant::now();
        site.until_allowed().await;
        let lie = format!("{lie:.40?}").chars().take(40).collect::<String>();
        println!("{lie}: denied after {denied:?}, {grown} KiB, mended in {:?}", began.elapsed());
    }
}

/// The same heartbeat for every nonce, by a key that the list does not name.
fn forged(recorded: &str) -> String {
    let signed = SignedMessage::from_bytes(&BASE64.decode(recorded).unwrap()).unwrap();
    let message = Message::from_bytes(signed.unverified_payload()).unwrap();
    BASE64.encode(SignedMessage::sign(&message, &SigningKey::from_bytes(&[9; 32])).to_bytes())
}

/// What stands in for the authority's answers.
#[derive(Clone, Debug)]
enum Lie {
    /// Requests hang.
    Silence,
    /// The truth, held back longer than it is good for.
    Late,
    /// 500, at once.
    Refuse,
    /// Random bytes, as fast as they are taken.
    Bytes,
    /// An event that never ends.
    LineWithoutEnd,
    /// Comments, as fast as they are taken.
    Comments,
    /// Events without data, as fast as they are taken.
    EmptyEvents,
    /// This message as answer to every nonce, and as every event.
    Message(String),
}

/// A door before the authority: the truth, or a lie in its place.
struct Door {
    url: String,
    says: watch::Sender<Option<Lie>>,
}

struct Behind {
    upstream: String,
    http: reqwest::Client,
    says: watch::Receiver<Option<Lie>>,
}

impl Door {
    async fn open(upstream: &str) -> Self {
        _ = http();
        let (says, heard) = watch::channel(None);
        let http = reqwest::Client::builder().tcp_nodelay(true).build().unwrap();
        let behind = Arc::new(Behind { upstream: upstream.to_owned(), http, says: heard });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().fallback(answer).with_state(behind)).into_future());
        Self { url, says }
    }
}

async fn answer(State(behind): State<Arc<Behind>>, request: Request) -> Response {
    let mut says = behind.says.clone();
    let lie = says.borrow_and_update().clone();
    // Whatever is said ends when something else is to be said.
    let until = async move {
        _ = says.changed().await;
    };
    let Some(lie) = lie else { return forward(&behind, request, Duration::ZERO, until).await };
    let stream_type = [("content-type", "text/event-stream")];
    let is_stream = request.uri().path() == "/v1/feed";
    let flood = |chunk: Bytes| Body::from_stream(stream::repeat(chunk).map(Ok::<_, Infallible>));
    match lie {
        Lie::Silence => {
            until.await;
            Response::new(Body::empty())
        }
        Lie::Late => forward(&behind, request, Duration::from_millis(300), until).await,
        Lie::Refuse => axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Lie::Bytes => {
            let mut noise = vec![0; 64 * 1024];
            StdRng::seed_from_u64(7).fill_bytes(&mut noise);
            (stream_type, flood(noise.into())).into_response()
        }
        Lie::LineWithoutEnd => (
            stream_type,
            Body::from_stream(stream::iter([Bytes::from("data: ")]).chain(stream::repeat(Bytes::from("A".repeat(64 * 1024)))).map(Ok::<_, Infallible>)),
        )
            .into_response(),
        Lie::Comments => (stream_type, flood(": a comment is no heartbeat\n".repeat(2_000).into())).into_response(),
        Lie::EmptyEvents => (stream_type, flood("event: x\ndata:\n\n".repeat(4_000).into())).into_response(),
        Lie::Message(text) if is_stream => {
            // At the pace of a feed; a flood of them is the case above.
            let events = stream::unfold(text, |text| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok::<_, Infallible>(Bytes::from(format!("data: {text}\n\n"))), text))
            });
            (stream_type, Body::from_stream(events.take_until(Box::pin(until)))).into_response()
        }
        Lie::Message(text) => {
            axum::Json(serde_json::json!({ "message": text, "messages": [text], "more": true, "version": 9, "key_list": text, "log_vkeys": [] }))
                .into_response()
        }
    }
}

async fn forward(behind: &Behind, request: Request, late: Duration, until: impl Future<Output = ()> + Send + 'static) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut onward = behind.http.request(parts.method, format!("{}{target}", behind.upstream)).body(axum::body::to_bytes(body, 16 << 20).await.unwrap());
    if let Some(kind) = parts.headers.get("content-type") {
        onward = onward.header("content-type", kind);
    }
    let Ok(answer) = onward.send().await else { return axum::http::StatusCode::BAD_GATEWAY.into_response() };
    tokio::time::sleep(late).await;
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    let body = answer.bytes_stream().map_err(std::io::Error::other).then(move |chunk| async move {
        tokio::time::sleep(late).await;
        chunk
    });
    response.body(Body::from_stream(body.take_until(Box::pin(until)))).unwrap()
}

const MAX_GROWTH_KIB: u64 = 64 * 1024;
