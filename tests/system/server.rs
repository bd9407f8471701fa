//! The server as one operates it: certificates, proxies, limits, its end, what it tells systemd and a collector.

use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use procura_sdk::client::MintRequest;
use procura_verifier::ids::DelegationId;
use prost_otlp::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::support::raw::{Answer, Request};
use super::support::serve::{Replica, Site};
use super::support::{Agent, PATIENCE, beside_others, delegated, key, rng, text};
use super::tls;

const INIT: &[&str] = &["--init-single-anchor"];
const HEALTH: &str = "https://127.0.0.1/healthz";

async fn awaited(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_over_tls_and_a_renewed_certificate_without_a_restart() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let files = site.with_tls();
    tls::make_pair(&files);
    let one = site.replica("one", INIT).await;
    assert!(one.url.starts_with("https://"), "{}", one.url);
    let first = tls::certificate(&files[0]);
    let mut held = tls::connect(one.address(), &first, b"h2").await.unwrap();
    let mut old_school = tls::connect(one.address(), &first, b"http/1.1").await.unwrap();
    assert_eq!((held.get(HEALTH).await.0, old_school.get(HEALTH).await.0), (200, 200));
    let (status, readable) = held.get("https://127.0.0.1/v1/me").await;
    assert!(status == 401 && readable.contains("request_id"), "{status} {readable}");
    // In the clear there is nothing to hear.
    assert!(Request::new("GET", "/healthz").send(one.address()).await.is_none());

    // Asked to.
    tls::make_pair(&files);
    let second = tls::certificate(&files[0]);
    one.signal("HUP");
    awaited("the second certificate", async || tls::connect(one.address(), &second, b"h2").await.is_some()).await;
    assert!(tls::connect(one.address(), &first, b"h2").await.is_none());
    assert_eq!(held.get(HEALTH).await.0, 200, "what is open stays open");
    // Seen to have changed.
    tls::make_pair(&files);
    let third = tls::certificate(&files[0]);
    awaited("the third certificate", async || tls::connect(one.address(), &third, b"h2").await.is_some()).await;
    // A renewal that went wrong changes nothing, and is said.
    std::fs::write(&files[0], "half a certificate").unwrap();
    one.signal("HUP");
    awaited("an error in the log", async || one.said().contains("tls.certificate")).await;
    let mut now = tls::connect(one.address(), &third, b"h2").await.unwrap();
    let (_, page) = now.get("https://127.0.0.1/metrics").await;
    assert!(page.contains("procura_tls_reloads_total{result=\"refused\"} 1") && page.contains("procura_tls_reloads_total{result=\"accepted\"} 2"), "{page}");
    assert!(page.contains("procura_connections "), "{page}");
}

/// Asks faster than once a second until the answer is 429.
async fn until_limited(mut ask: impl AsyncFnMut(u8) -> Answer) -> Answer {
    for n in 0..200 {
        let answer = ask(n).await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("never limited");
}

/// The address that a request says it is forwarded for.
fn for_client(path: &str, client: &str) -> Request {
    Request::new("GET", path).header("x-forwarded-for", client)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_trusted_proxy_are_limited_each_for_itself_and_others_name_nobody() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[limits]\nsign_in_per_second = 1\n[log]\nfilter = \"warn,procura::request=info\"\nformat = \"json\"\n");
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.add("[proxies]\ntrusted = [\"127.0.0.1\"]\n");
    let mut one = site.replica("one", INIT).await;
    let login = async |client: &str| for_client("/login", client).send(one.address()).await.unwrap();
    assert_eq!((login("203.0.113.7").await.status, login("203.0.113.7").await.status), (303, 303));
    let refused = until_limited(async |_| login("203.0.113.7").await).await;
    assert!(refused.is_error_form(), "{refused:?}");
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(login("203.0.113.8").await.status, 303, "another client");
    assert_eq!(login("203.0.113.7, 203.0.113.9").await.status, 303, "what a client writes itself names nobody");
    assert!(one.metric("procura_rate_limited_total{door=\"sign_in\",per=\"address\"}").await >= 1.0);
    // What costs nothing to ask is not behind that door.
    assert_eq!(for_client("/healthz", "203.0.113.7").send(one.address()).await.unwrap().status, 200);

    // The proxy names requests, in the answer, its error and the log; a name that does not fit a line is replaced.
    let named = Request::new("GET", "/v1/me").header("x-request-id", "edge-4711").header("x-forwarded-for", "203.0.113.7").send(one.address()).await.unwrap();
    assert_eq!(named.json().unwrap()["request_id"], "edge-4711");
    assert!(named.head.contains("x-request-id: edge-4711"), "{}", named.head);
    let line = one.said().lines().find(|l| l.contains("edge-4711")).map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).unwrap();
    assert_eq!((&line["status"], &line["span"]["route"], &line["span"]["client"]), (&401.into(), &"/v1/me".into(), &"203.0.113.7".into()), "{line}");
    assert!(line["latency_us"].is_u64(), "{line}");
    let forged = Request::new("GET", "/v1/me").header("x-request-id", "a\tb \"level\":\"ERROR\"").send(one.address()).await.unwrap();
    let given = forged.json().unwrap()["request_id"].as_str().unwrap().to_owned();
    assert!(given.len() == 32 && given.bytes().all(|b| b.is_ascii_hexdigit()), "{given}");

    // The twin without proxies: whatever it says, it is one client, and names nothing.
    one.kill().await;
    std::fs::write(site.config(), config).unwrap();
    let one = site.replica("one", &[]).await;
    until_limited(async |n| for_client("/login", &format!("203.0.113.{n}")).send(one.address()).await.unwrap()).await;
    let named = Request::new("GET", "/v1/me").header("x-request-id", "edge-4711").send(one.address()).await.unwrap();
    assert_ne!(named.json().unwrap()["request_id"], "edge-4711");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_person_are_limited_from_however_many_addresses() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    site.set("PROCURA_LIMITS__MINT_PER_AGENT_PER_SECOND", "1");
    site.set("PROCURA_LIMITS__PERSON_PER_SECOND", "10");
    site.add("[proxies]\ntrusted = [\"127.0.0.1\"]\n");
    let one = site.replica("one", INIT).await;
    let (alice, sam) = (one.person("alice").await, one.person("sam").await);
    let (bot, delegation) = delegated(&alice, "bot", &key(&mut rng())).await;
    let (other, granted) = delegated(&alice, "other", &key(&mut rng())).await;
    let mint = async |agent: &Agent, delegation: DelegationId| {
        let ask = MintRequest { delegation, ttl_secs: None };
        agent.at(&one.http, &one.public_url).mint(&ask, &mut rng()).await
    };
    assert!(mint(&bot, delegation).await.is_ok() && mint(&bot, delegation).await.is_ok());
    let mut refused = None;
    for _ in 0..100 {
        refused = refused.or(mint(&bot, delegation).await.err());
    }
    let refused = refused.expect("limited").to_string();
    assert!(refused.contains("too many requests"), "{refused}");
    assert!(mint(&other, granted).await.is_ok(), "another agent of the same person at the same address");

    let me = async |session: &str, n: u8| for_client("/v1/me", &format!("198.51.100.{n}")).session(session).send(one.address()).await.unwrap();
    until_limited(async |n| me(&alice.session().session, n).await).await;
    assert_eq!(me(&sam.session().session, 1).await.status, 200, "another person");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_on_purpose_is_ended_and_nobody_else_notices() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[limits]\nheader_secs = 1\nbody_secs = 1\n");
    let one = site.replica("one", INIT).await;
    // A head that never ends, one that never begins, and a kept connection on which nothing more comes.
    let heads: [&[u8]; 3] = [b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"];
    let open: Vec<_> = heads
        .map(|head| {
            let address = one.address().to_owned();
            tokio::spawn(async move {
                let mut connection = TcpStream::connect(address).await.unwrap();
                connection.write_all(head).await.unwrap();
                let mut answer = Vec::new();
                tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await.expect("ended by the server").unwrap_or_default();
                text(&answer)
            })
        })
        .into();
    let mut said = Vec::new();
    for one in open {
        said.push(one.await.unwrap());
    }
    assert!(!said[0].contains("200 OK") && said[1].is_empty() && said[2].starts_with("HTTP/1.1 200 OK"), "{said:?}");

    // Bodies that never end: announced and held back, and drop by drop.
    for head in ["content-length: 5000\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"] {
        let mut connection = TcpStream::connect(one.address()).await.unwrap();
        let request = format!("POST /v1/card HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{head}");
        connection.write_all(request.as_bytes()).await.unwrap();
        let begun = Instant::now();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await.expect("ended by the server").unwrap();
        let answer = text(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"too_slow\"") && answer.contains("within 1 s"), "{answer}");
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    }
    // Its twin comes in two parts and in time.
    let mut connection = TcpStream::connect(one.address()).await.unwrap();
    connection
        .write_all(b"POST /v1/card HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{")
        .await
        .unwrap();
    connection.write_all(b"}").await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    assert!(text(&answer).starts_with("HTTP/1.1 400 "), "{}", text(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_connections_and_no_more() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[limits]\nconnections = 64\nconnections_per_client = 8\n");
    let one = site.replica("one", INIT).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut connection = TcpStream::connect(one.address()).await.unwrap();
        connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        connection.read_exact(&mut [0; 12]).await.unwrap();
        held.push(connection);
    }
    assert!(Request::new("GET", "/healthz").send(one.address()).await.is_none());
    held.truncate(4);
    awaited("a place", async || Request::new("GET", "/healthz").send(one.address()).await.is_some()).await;
    drop(held);
    awaited("the count of those turned away", async || one.metric("procura_connections_turned_away_total{why=\"per_client\"}").await >= 1.0).await;
}

/// A request whose body is not all there yet.
async fn half_asked(one: &Replica) -> TcpStream {
    let mut connection = TcpStream::connect(one.address()).await.unwrap();
    connection
        .write_all(b"POST /v1/card HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    // The handler reads: the request is under way.
    let mut told = [0; 25];
    connection.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection
}

async fn stream(one: &Replica) -> TcpStream {
    let mut connection = TcpStream::connect(one.address()).await.unwrap();
    connection.write_all(b"GET /v1/feed?tenant=acme&nonce=00112233445566778899aabbccddeeff HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    connection.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_end_it_finishes_what_is_under_way_and_says_a_word_to_streams() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    let mut one = site.replica("one", INIT).await;
    let (mut asked, mut listening) = (half_asked(&one).await, stream(&one).await);
    one.signal("TERM");
    let mut heard = Vec::new();
    tokio::time::timeout(PATIENCE, listening.read_to_end(&mut heard)).await.expect("the stream ends").unwrap();
    let heard = text(&heard);
    assert!(heard.trim_end().ends_with("0") && heard.contains(": the authority is stopping"), "{}", &heard[heard.len().saturating_sub(300)..]);
    // Nobody else comes in, and who was in is answered.
    awaited("no more connections", async || TcpStream::connect(one.address()).await.is_err()).await;
    asked.write_all(b"{}").await.unwrap();
    let mut answer = Vec::new();
    asked.read_to_end(&mut answer).await.unwrap();
    assert!(text(&answer).starts_with("HTTP/1.1 400 ") && text(&answer).contains("request_id"), "{}", text(&answer));
    assert_eq!(one.ended().await.code(), Some(0));
    assert!(!one.said().contains("ERROR"), "{}", one.said());
    // It let go of everything: the same folder starts again.
    site.replica("one", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_in_time_is_cut_off_and_a_second_signal_ends_at_once() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    site.add("[limits]\nstop_secs = 1\nbody_secs = 20\n");
    let mut one = site.replica("one", INIT).await;
    let under_way = half_asked(&one).await;
    one.signal("TERM");
    assert_eq!(one.ended().await.code(), Some(0));
    assert!(one.said().contains("server.cut_off"), "{}", one.said());
    drop(under_way);

    let patient = std::fs::read_to_string(site.config()).unwrap().replace("stop_secs = 1", "stop_secs = 300");
    std::fs::write(site.config(), patient).unwrap();
    let mut one = site.replica("one", &[]).await;
    let _under_way = half_asked(&one).await;
    one.signal("TERM");
    awaited("no more connections", async || TcpStream::connect(one.address()).await.is_err()).await;
    one.signal("INT");
    assert_eq!(one.ended().await.code(), Some(1));
    assert!(one.said().contains("asked to end twice"), "{}", one.said());
    site.replica("one", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_ready_reload_watchdog_and_stop() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut site = Site::new(scratch.path(), "sqlite:").await;
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    site.set("NOTIFY_SOCKET", path.to_str().unwrap());
    site.set("WATCHDOG_USEC", "200000");
    let (tell, mut told) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut word = [0; 512];
        while let Ok(n) = socket.recv(&mut word) {
            if tell.send(text(&word[..n])).is_err() {
                break;
            }
        }
    });
    let mut hear = async |wanted: &str| {
        let heard = async { while !told.recv().await.unwrap().contains(wanted) {} };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{wanted}"));
    };
    let mut one = site.replica("one", INIT).await;
    hear("READY=1").await;
    hear("WATCHDOG=1").await;
    hear("WATCHDOG=1").await;
    one.signal("HUP");
    hear("RELOADING=1\nMONOTONIC_USEC=").await;
    hear("READY=1").await;
    one.signal("TERM");
    hear("STOPPING=1").await;
    assert!(one.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_and_hold_nothing_secret() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    let exports: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.add(&format!("[traces]\nendpoint = \"http://{}/v1/traces\"\n", collector.local_addr().unwrap()));
    let kept = Arc::clone(&exports);
    let routes = axum::Router::new().route(
        "/v1/traces",
        axum::routing::post(async move |headers: HeaderMap, body: Bytes| {
            kept.lock().unwrap().push((headers, body));
        }),
    );
    tokio::spawn(async move { axum::serve(collector, routes).await.unwrap() });
    let mut one = site.replica("one", INIT).await;
    let alice = one.person("alice").await;
    let session = alice.session().session.clone();
    let me = |flags: &str| {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        Request::new("GET", "/v1/me").session(&session).header("traceparent", parent)
    };
    assert_eq!(me("01").send(one.address()).await.unwrap().status, 200);
    assert_eq!(me("00").header("x-other", "1").send(one.address()).await.unwrap().status, 200);
    assert_eq!(Request::new("BREW", "/v1/nothing/7").send(one.address()).await.unwrap().status, 404);
    // What is queued is sent before it ends.
    one.signal("TERM");
    assert!(one.ended().await.success());
    let exports = exports.lock().unwrap();
    assert!(exports.iter().all(|(h, _)| h["content-type"] == "application/x-protobuf"));
    let sent: Vec<_> = exports.iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect();
    let resources: Vec<_> = sent.iter().flat_map(|s| &s.resource_spans).collect();
    let service = resources[0].resource.as_ref().unwrap().attributes.iter().find(|a| a.key == "service.name").unwrap();
    assert_eq!(service.value.as_ref().unwrap().value, Some(Value::StringValue("procura".to_owned())));
    let spans: Vec<&Span> = resources.iter().flat_map(|r| &r.scope_spans).flat_map(|s| &s.spans).collect();
    let trace = hex::decode("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
    let [mine] = spans.iter().filter(|s| s.trace_id == trace).collect::<Vec<_>>()[..] else { panic!("one of the two: {spans:#?}") };
    assert_eq!((mine.name.as_str(), hex::encode(&mine.parent_span_id).as_str()), ("GET /v1/me", "00f067aa0ba902b7"));
    let mut named: Vec<_> = mine.attributes.iter().map(|a| a.key.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["http.request.method", "http.response.status_code", "http.route", "procura.request.id"]);
    assert!(mine.end_time_unix_nano > mine.start_time_unix_nano);
    assert!(spans.iter().any(|s| s.name == "_OTHER unmatched"), "a stranger's words make no names");
    for (_, body) in exports.iter() {
        for secret in [session.as_str(), "brew", "BREW", "nothing", "127.0.0.1", "dev-alice"] {
            assert!(!body.windows(secret.len()).any(|w| w == secret.as_bytes()), "{secret} in an export");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_or_hangs_holds_up_nobody() {
    let _machine = beside_others().await;
    let scratch = tempfile::tempdir().unwrap();
    let site = Site::new(scratch.path(), "sqlite:").await;
    // Accepts and never answers.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    site.add(&format!("[traces]\nendpoint = \"http://{}/v1/traces\"\n", hangs.local_addr().unwrap()));
    let mut one = site.replica("one", INIT).await;
    // More than are queued, on one connection.
    let mut connection = TcpStream::connect(one.address()).await.unwrap();
    let (mut answers, mut asks) = connection.split();
    let all = ["GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2_999), "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned()].concat();
    let mut said = Vec::new();
    let (asked, answered) = tokio::join!(asks.write_all(all.as_bytes()), tokio::time::timeout(PATIENCE, answers.read_to_end(&mut said)));
    asked.unwrap();
    answered.expect("nobody waits for the collector").unwrap();
    assert_eq!(text(&said).matches("HTTP/1.1 ").count(), 3_000);
    one.signal("TERM");
    assert_eq!(one.ended().await.code(), Some(0));
}
