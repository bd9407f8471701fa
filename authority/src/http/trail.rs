//! Around every request: who it is from, what it is called, how long it may take, and what came of it.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use tracing::Instrument as _;

use super::auth::OverSocket;
use super::{ApiError, AppState};
use crate::telemetry::TraceParent;

/// The client's address, as a trusted proxy says or the connection shows. None over the socket in the data folder.
#[derive(Clone, Copy)]
pub(super) struct Client(pub(super) Option<IpAddr>);

/// What a request is called in our log and in the error that answers it.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// Names the request, writes down how it ended, and counts it.
///
/// The name is ours: one from outside could forge another's line in the log. A trusted proxy may give it, in a form that fits a line.
pub(super) async fn trail(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    let begun = app.ctx.clock.boot();
    let over_socket = request.extensions().get::<OverSocket>().is_some();
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().filter(|_| !over_socket).map(|ConnectInfo(peer)| peer.ip());
    let client = peer.map(|peer| app.proxies.client(peer, request.headers()));
    let given = peer.filter(|p| app.proxies.trusts(*p)).and_then(|_| well_formed(request.headers()));
    let id = given.unwrap_or_else(|| hex::encode(app.ctx.random::<16>()));
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    request.extensions_mut().insert(Client(client));
    request.extensions_mut().insert(RequestId(id.clone()));
    let parent = TraceParent::of(request.headers());
    let traced = app.traces.as_ref().and_then(|t| t.begin(&method, &route, parent.as_ref(), &id));
    // Of the highest level, so that every line written on behalf of a request says of which, whatever the filter is.
    let span = tracing::error_span!(
        "request",
        id,
        %method,
        route,
        client = client.map(tracing::field::display),
        trace = parent.as_ref().map(TraceParent::trace_text).map(tracing::field::display),
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let us = app.ctx.clock.boot().micros_since(begun);
    app.ctx.metrics.http.answered(&route, status.as_u16(), us);
    span.in_scope(|| tracing::info!(target: "procura::request", status = status.as_u16(), latency_us = us, "request.answered"));
    if let Some(traced) = traced {
        traced.end(status);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// 1 to 64 letters, digits, `-`, `_` and `.`, said once.
fn well_formed(headers: &HeaderMap) -> Option<String> {
    let mut said = headers.get_all(REQUEST_ID).iter();
    let id = said.next().filter(|_| said.next().is_none())?.to_str().ok()?;
    let fits = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    fits.then(|| id.to_owned())
}

/// Answers in time whatever the client does: `body_secs` for its body, [`super::REQUEST_TIMEOUT`] for everything.
pub(super) async fn in_time(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let arrived = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let request = request.map(|inner| if inner.is_end_stream() { inner } else { Body::new(Watched { inner, arrived: Arc::clone(&arrived) }) });
    let body_time = app.body_time;
    let mut answer = std::pin::pin!(next.run(request));
    match tokio::time::timeout(body_time, &mut answer).await {
        Ok(response) => response,
        Err(_) if !arrived.load(Ordering::Relaxed) => ApiError::too_slow(body_time).into_response(),
        Err(_) => match tokio::time::timeout(super::REQUEST_TIMEOUT.saturating_sub(body_time), answer).await {
            Ok(response) => response,
            Err(_) => ApiError::unavailable("the request took too long").into_response(),
        },
    }
}

/// A body that says when all of it has arrived.
struct Watched {
    inner: Body,
    arrived: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.inner.is_end_stream() {
            self.arrived.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_fits_a_line_and_is_said_once() {
        let id = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|l| _ = headers.append(REQUEST_ID, l.parse().unwrap()));
            well_formed(&headers)
        };
        assert_eq!(id(&["edge-1_A.b"]), Some("edge-1_A.b".to_owned()));
        assert!(id(&[&"a".repeat(64)]).is_some());
        for bad in [&[][..], &[""], &["a b"], &["a\"b"], &["a;b"], &["a", "a"], &[&"a".repeat(65)]] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
    }
}
