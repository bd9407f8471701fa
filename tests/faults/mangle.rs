//! A relay of the stream and the head that reads them and does not mean well.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::stream;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::twist::{Mangling, Recording, Twist, flipped, junk, truncated};

/// The relay.
pub struct Mangler {
    pub url: String,
    how: watch::Sender<Mangling>,
    relay: Arc<Relay>,
}

struct Relay {
    target: String,
    http: reqwest::Client,
    how: watch::Receiver<Mangling>,
    /// Messages of streams, and the first answer for the head.
    stream: Recording,
    head: Mutex<Option<Vec<u8>>>,
    flooded: AtomicU64,
}

impl Mangler {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (how, is) = watch::channel(Mangling::None);
        let http = reqwest::Client::builder().tcp_nodelay(true).build().unwrap();
        let target = format!("http://{target}");
        let relay = Arc::new(Relay { target, http, how: is, stream: Mutex::default(), head: Mutex::default(), flooded: AtomicU64::new(0) });
        let app = axum::Router::new().fallback(pass).with_state(Arc::clone(&relay));
        tokio::spawn(async move { axum::serve(axum::serve::ListenerExt::tap_io(listener, |s| _ = s.set_nodelay(true)), app).await });
        Self { url, how, relay }
    }

    pub fn set(&self, how: Mangling) {
        self.how.send_replace(how);
    }

    /// From now on this is what was recorded: messages of a stream, and an answer for the head.
    pub fn recorded(&self, stream: &[Vec<u8>], head: Vec<u8>) {
        *self.relay.stream.lock().unwrap() = stream.to_vec();
        *self.relay.head.lock().unwrap() = Some(head);
    }

    /// Messages that a flood has sent.
    pub fn flooded(&self) -> u64 {
        self.relay.flooded.load(Ordering::Relaxed)
    }
}

async fn pass(State(relay): State<Arc<Relay>>, request: Request) -> Response {
    let target = format!("{}{}", relay.target, request.uri().path_and_query().map_or("/", |p| p.as_str()));
    let Ok(answer) = relay.http.get(target).send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let status = answer.status();
    let kind = answer.headers().get("content-type").cloned();
    let body = match request.uri().path() {
        "/v1/feed" => Body::from_stream(stream::unfold(Streaming::new(relay, answer), Streaming::next)),
        "/v1/feed/head" => {
            let Ok(text) = answer.text().await else { return StatusCode::BAD_GATEWAY.into_response() };
            Body::from(relay.head(text))
        }
        _ => Body::from_stream(answer.bytes_stream()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

impl Relay {
    fn how(&self) -> Mangling {
        *self.how.borrow()
    }

    /// Of what was said, anything.
    fn echo(&self, count: usize) -> Vec<Vec<u8>> {
        let said = self.stream.lock().unwrap();
        std::iter::repeat_with(|| said.choose(&mut StdRng::from_os_rng()).cloned()).take(count).flatten().collect()
    }

    fn head(&self, answer: String) -> String {
        let Ok(mut json) = serde_json::from_str::<serde_json::Value>(&answer) else { return answer };
        let Some(message) = json["message"].as_str().and_then(|m| BASE64.decode(m).ok()) else { return answer };
        let kept = self.head.lock().unwrap().get_or_insert_with(|| message.clone()).clone();
        let said = match self.how() {
            Mangling::Truncate => truncated(&message),
            Mangling::Flip => flipped(message),
            Mangling::Replay => kept,
            _ => message,
        };
        json["message"] = BASE64.encode(said).into();
        json.to_string()
    }
}

struct Streaming {
    relay: Arc<Relay>,
    answer: reqwest::Response,
    read: Vec<u8>,
    twist: Twist,
    out: VecDeque<String>,
}

impl Streaming {
    fn new(relay: Arc<Relay>, answer: reqwest::Response) -> Self {
        Self { relay, answer, read: Vec::new(), twist: Twist::default(), out: VecDeque::new() }
    }

    async fn next(mut self) -> Option<(Result<String, std::io::Error>, Self)> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Some((Ok(event), self));
            }
            let mut how = self.relay.how.clone();
            let flood = async {
                let is_flood = how.wait_for(|h| matches!(h, Mangling::Flood | Mangling::Echo)).await.map(|how| *how);
                sleep(FLOOD_EVERY).await;
                is_flood
            };
            let chunk = tokio::select! {
                chunk = self.answer.chunk() => chunk.ok()??,
                // Without the mangler nobody listens either.
                flood = flood => {
                    let messages = match flood.ok()? {
                        Mangling::Echo => self.relay.echo(FLOOD_AT_ONCE),
                        _ => junk(FLOOD_AT_ONCE).collect(),
                    };
                    self.relay.flooded.fetch_add(messages.len() as u64, Ordering::Relaxed);
                    messages.iter().for_each(|m| self.say(m));
                    continue;
                }
            };
            self.read.extend_from_slice(&chunk);
            while let Some(end) = self.read.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                let event = String::from_utf8(event).ok()?;
                match event.strip_prefix("data: ").and_then(|d| BASE64.decode(d.trim_end()).ok()) {
                    Some(message) => {
                        let said = self.twist.of(self.relay.how(), message, &self.relay.stream);
                        said.iter().for_each(|m| self.say(m));
                    }
                    None => self.out.push_back(event),
                }
            }
        }
    }

    fn say(&mut self, message: &[u8]) {
        self.out.push_back(format!("data: {}\n\n", BASE64.encode(message)));
    }
}

/// Five thousand a second.
const FLOOD_EVERY: Duration = Duration::from_millis(5);
const FLOOD_AT_ONCE: usize = 25;
