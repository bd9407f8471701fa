//! A relay of the feed that reads it and does not mean well: repeats, reorders, truncates, flips bits, adds junk, replays.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::stream;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mangling {
    None,
    /// Each message three times.
    Repeat,
    /// Three at a time, in any order.
    Shuffle,
    /// Each message is cut short.
    Truncate,
    /// One bit of each message.
    Flip,
    /// Fifty messages of nobody's before each.
    Junk,
    /// What was said since the relay started, from the beginning, instead of what is said now; answers of then as well.
    Replay,
}

/// The relay.
pub struct Mangler {
    pub url: String,
    how: watch::Sender<Mangling>,
}

struct Relay {
    target: String,
    http: reqwest::Client,
    how: watch::Receiver<Mangling>,
    /// Messages in base64url: of streams, and of answers for the head.
    recorded: Mutex<(Vec<String>, Option<String>)>,
}

impl Mangler {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (how, is) = watch::channel(Mangling::None);
        let http = reqwest::Client::builder().tcp_nodelay(true).build().unwrap();
        let relay = Arc::new(Relay { target: format!("http://{target}"), http, how: is, recorded: Mutex::default() });
        let app = axum::Router::new().fallback(pass).with_state(relay);
        tokio::spawn(async move { axum::serve(axum::serve::ListenerExt::tap_io(listener, |s| _ = s.set_nodelay(true)), app).await });
        Self { url, how }
    }

    pub fn set(&self, how: Mangling) {
        self.how.send_replace(how);
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

    fn head(&self, answer: String) -> String {
        let Ok(mut json) = serde_json::from_str::<serde_json::Value>(&answer) else { return answer };
        let Some(message) = json["message"].as_str().map(str::to_owned) else { return answer };
        let kept = self.recorded.lock().unwrap().1.get_or_insert_with(|| message.clone()).clone();
        json["message"] = match self.how() {
            Mangling::Truncate => truncated(&message).into(),
            Mangling::Flip => flipped(&message).into(),
            Mangling::Replay => kept.into(),
            _ => message.into(),
        };
        json.to_string()
    }
}

struct Streaming {
    relay: Arc<Relay>,
    answer: reqwest::Response,
    read: Vec<u8>,
    held: Vec<String>,
    out: VecDeque<String>,
    replayed: usize,
}

impl Streaming {
    fn new(relay: Arc<Relay>, answer: reqwest::Response) -> Self {
        Self { relay, answer, read: Vec::new(), held: Vec::new(), out: VecDeque::new(), replayed: 0 }
    }

    async fn next(mut self) -> Option<(Result<String, std::io::Error>, Self)> {
        loop {
            if let Some(event) = self.out.pop_front() {
                return Some((Ok(event), self));
            }
            let chunk = self.answer.chunk().await.ok()??;
            self.read.extend_from_slice(&chunk);
            while let Some(end) = self.read.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                let event = String::from_utf8(event).ok()?;
                match event.strip_prefix("data: ").map(|d| d.trim_end().to_owned()) {
                    Some(message) => self.mangle(message),
                    None => self.out.push_back(event),
                }
            }
        }
    }

    fn mangle(&mut self, message: String) {
        let how = self.relay.how();
        let recorded = {
            let mut recorded = self.relay.recorded.lock().unwrap();
            if how == Mangling::None && recorded.0.len() < 10_000 {
                recorded.0.push(message.clone());
            }
            recorded.0.get(self.replayed).cloned()
        };
        let mut say = |message: &str| self.out.push_back(format!("data: {message}\n\n"));
        match how {
            Mangling::None => {
                // What was held back comes when it may.
                self.held.drain(..).for_each(|m| say(&m));
                say(&message);
            }
            Mangling::Repeat => (0..3).for_each(|_| say(&message)),
            Mangling::Shuffle => {
                self.held.push(message);
                if self.held.len() == 3 {
                    self.held.shuffle(&mut StdRng::from_os_rng());
                    self.held.drain(..).for_each(|m| say(&m));
                }
            }
            Mangling::Truncate => say(&truncated(&message)),
            Mangling::Flip => say(&flipped(&message)),
            Mangling::Junk => {
                let mut rng = StdRng::from_os_rng();
                for _ in 0..50 {
                    let mut junk = vec![0; rng.random_range(1..400)];
                    rng.fill_bytes(&mut junk);
                    say(&BASE64.encode(junk));
                }
                say(&message);
            }
            Mangling::Replay => {
                self.replayed += 1;
                recorded.iter().for_each(|m| say(m));
            }
        }
    }
}

fn truncated(message: &str) -> String {
    let bytes = BASE64.decode(message).unwrap_or_default();
    BASE64.encode(&bytes[..StdRng::from_os_rng().random_range(0..bytes.len().max(1))])
}

fn flipped(message: &str) -> String {
    let mut bytes = BASE64.decode(message).unwrap_or_default();
    let bit = StdRng::from_os_rng().random_range(0..bytes.len().max(1) * 8);
    bytes.iter_mut().skip(bit / 8).take(1).for_each(|b| *b ^= 1 << (bit % 8));
    BASE64.encode(bytes)
}
