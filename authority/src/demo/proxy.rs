//! A proxy between a tool and its authority, so that the demo can cut one path or all of them.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use tokio::sync::watch;

/// What goes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Everything.
    All,
    /// Everything but the stream of the feed.
    NoStream,
    /// Nothing: requests hang, as they do in a network that swallows packets.
    Nothing,
}

/// A running proxy.
pub struct Proxy {
    /// Where it answers.
    pub url: String,
    open: watch::Sender<Open>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    open: watch::Receiver<Open>,
}

impl Proxy {
    /// Starts on a free loopback port in front of `upstream`.
    pub async fn start(upstream: String, http: reqwest::Client) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (open, receiver) = watch::channel(Open::All);
        let shared = Arc::new(Shared { upstream, http, open: receiver });
        tokio::spawn(axum::serve(listener, Router::new().fallback(forward).with_state(shared)).into_future());
        Ok(Self { url, open })
    }

    /// Changes what goes through; what no longer may is cut off at once.
    pub fn set(&self, open: Open) {
        _ = self.open.send(open);
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let is_stream = request.uri().path() == "/v1/feed";
    let passes = move |open: &Open| *open == Open::All || (*open == Open::NoStream && !is_stream);
    let mut open = shared.open.clone();
    if !passes(&open.borrow()) {
        if *open.borrow() == Open::NoStream {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        _ = open.wait_for(passes).await;
    }
    let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let (method, url) = (request.method().clone(), format!("{}{target}", shared.upstream));
    let headers = request.headers().clone();
    let Ok(body) = axum::body::to_bytes(request.into_body(), 16 * 1024 * 1024).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let mut onward = shared.http.request(method, url).body(body);
    for (name, value) in headers.iter().filter(|(name, _)| !matches!(name.as_str(), "host" | "connection" | "content-length" | "transfer-encoding")) {
        onward = onward.header(name, value);
    }
    let Ok(answer) = onward.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !matches!(name.as_str(), "connection" | "transfer-encoding" | "content-length")) {
        response = response.header(name, value);
    }
    let cut = async move {
        _ = open.wait_for(|o| !passes(o)).await;
    };
    let body = Body::from_stream(answer.bytes_stream().take_until(Box::pin(cut)));
    response.body(body).unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}
