//! The feed over HTTP (`spec/feed.md`, transport): a stream, the tail, and the pull of the head.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use futures_util::{Stream, stream};
use procura_verifier::feed::SignedMessage;
use procura_verifier::ids::Tenant;
use procura_verifier::wire::Canonical as _;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::body::Body;
use super::rates::{Door, Who};
use super::{ApiError, AppState};
use crate::feed::bus::{Heard, Subscription};
use crate::feed::tails::Page;
use crate::feed::turns::Client;
use crate::feed::{FeedUnavailable, in_turn};
use crate::usecase::acknowledge::{self, WordError};
use crate::watch::{NoPlace, Place};

/// `?tenant=&nonce=`: hex of 16 to 32 bytes.
#[derive(serde::Deserialize)]
pub struct Asked {
    tenant: Tenant,
    nonce: String,
}

/// `?tenant=&epoch=&from=`: the first number wanted.
#[derive(serde::Deserialize)]
pub struct TailAsked {
    tenant: Tenant,
    epoch: u64,
    from: u64,
}

/// `GET /v1/feed`: the signed answer to the nonce, then everything as it is published. A stream that falls behind is ended: the reader opens it anew and reads the tail.
///
/// A verifier that signs in has a place of its own; all others share a small part.
pub async fn stream(
    State(app): State<AppState>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let nonce = app.nonce(&asked)?;
    let sign_in = headers.get("procura-verifier").map(|h| word(h.as_bytes())).transpose()?;
    let seat = acknowledge::sign_in_stream(&app.ctx, sign_in.as_deref(), &nonce).await.map_err(not_taken)?;
    if let Place::Run(_, (verifier, _)) = &seat {
        app.rates.take(Door::Stream, Who::Verifier(*verifier), app.ctx.clock.boot())?;
    }
    // Each stream costs twenty writes a second for as long as it stands.
    let place = app.streams.clone().try_acquire_owned().map_err(|_| ApiError::unavailable("no more streams"))?;
    // Subscribed before the head is asked for: what is committed in between comes twice, never not at all.
    let subscription = app.ctx.feed.subscribe();
    let first = app.ctx.feed.answer(nonce).await.map_err(unavailable)?;
    let streaming = Streaming { first: Some(first), subscription, stopping: app.stopping.clone(), is_over: false, _places: (place, seat) };
    Ok(Sse::new(stream::unfold(streaming, next)).keep_alive(KeepAlive::default()))
}

struct Streaming {
    first: Option<Arc<SignedMessage>>,
    subscription: Subscription,
    stopping: watch::Receiver<bool>,
    is_over: bool,
    _places: (OwnedSemaphorePermit, Place),
}

async fn next(mut s: Streaming) -> Option<(Result<Event, Infallible>, Streaming)> {
    if s.is_over {
        return None;
    }
    let message = match s.first.take() {
        Some(first) => first,
        None => tokio::select! {
            heard = s.subscription.next() => match heard? {
                Heard::Message(message) => message,
                Heard::Lagged => return None,
            },
            () = crate::app::until(s.stopping.clone()) => {
                // A comment: readers skip it, people who watch the wire do not.
                s.is_over = true;
                return Some((Ok(Event::default().comment("the authority is stopping")), s));
            }
        },
    };
    Some((Ok(Event::default().data(text(&message))), s))
}

/// `GET /v1/feed/tail`: messages from a number on, at most 256 and 4 MiB; `more` if there may be others.
pub async fn tail(State(app): State<AppState>, From(client): From, Query(asked): Query<TailAsked>) -> Result<Response, ApiError> {
    app.is_ours(&asked.tenant)?;
    let after = match (asked.epoch, asked.from) {
        (0, _) | (1, 0) => return Err(ApiError::bad_request("expected an epoch from 1 and a number from 1, or the number 0 of a later epoch")),
        // Its start, which follows whatever the epoch before ended with.
        (epoch, 0) => (epoch - 1, u64::MAX),
        (epoch, from) => (epoch, from - 1),
    };
    let page = app.ctx.feed.page(client, after.0, after.1).await.map_err(unavailable)?;
    let write = |page: &Page| serde_json::json!({ "messages": page.messages.iter().map(|m| text(m)).collect::<Vec<_>>(), "more": page.more }).to_string();
    // Writing a long page costs as much as signing a short one.
    let body = if page.bytes() <= MAX_WRITTEN_HERE {
        write(&page)
    } else {
        let turn = app.ctx.feed.turn(client).await.map_err(unavailable)?;
        in_turn(turn, move || write(&page)).await.map_err(unavailable)?
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// `GET /v1/feed/head`: the head, signed over the nonce, as of a moment after the request came in.
pub async fn head(State(app): State<AppState>, Query(asked): Query<Asked>) -> Result<Json<serde_json::Value>, ApiError> {
    let nonce = app.nonce(&asked)?;
    let message = app.ctx.feed.answer(nonce).await.map_err(unavailable)?;
    Ok(Json(serde_json::json!({ "message": text(&message) })))
}

/// A signed acknowledgement, base64url.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckBody {
    ack: String,
}

/// `POST /v1/feed/acks`: how far an enrolled verifier has applied the feed. Signed by its key, so nobody else can say it.
pub async fn acks(State(app): State<AppState>, Body(body): Body<AckBody>) -> Result<Json<serde_json::Value>, ApiError> {
    acknowledge::acknowledge(&app.ctx, &word(body.ack.as_bytes())?).await.map_err(not_taken)?;
    Ok(Json(serde_json::json!({ "ok": true })))
}

/// The client behind the connection: what one may have done at once is bounded.
pub struct From(pub Client);

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Client::of(parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip()))))
    }
}

fn word(text: &[u8]) -> Result<Vec<u8>, ApiError> {
    let expected = || ApiError::bad_request("expected a verifier's word in base64url without padding");
    if text.len() > MAX_WORD_TEXT {
        return Err(expected());
    }
    BASE64.decode(text).map_err(|_| expected())
}

fn not_taken(e: WordError) -> ApiError {
    match e {
        WordError::Malformed(_) => ApiError::bad_request(e.to_string()),
        WordError::NotEnrolled(_) | WordError::OtherNonce | WordError::Time { .. } => ApiError::unauthenticated(e.to_string()),
        WordError::Elsewhere => ApiError::forbidden(e.to_string()),
        WordError::Old(_) | WordError::AboveHead { .. } | WordError::NoPlace(NoPlace::Used) => ApiError::conflict(e.to_string()),
        WordError::NoPlace(e) => ApiError::unavailable(e),
        WordError::Unavailable(e) => ApiError::unavailable(e),
    }
}

impl AppState {
    fn nonce(&self, asked: &Asked) -> Result<Vec<u8>, ApiError> {
        self.is_ours(&asked.tenant)?;
        let expected = || ApiError::bad_request("expected a nonce of 16 to 32 bytes in hex");
        if asked.nonce.len() > 64 {
            return Err(expected());
        }
        hex::decode(&asked.nonce).ok().filter(|n| n.len() >= 16).ok_or_else(expected)
    }
}

/// Pages up to this size, in bytes, are written where they are asked for.
const MAX_WRITTEN_HERE: usize = 128 * 1024;
/// Base64 of the longest statement.
const MAX_WORD_TEXT: usize = 1024;

fn text(message: &SignedMessage) -> String {
    BASE64.encode(message.to_bytes())
}

fn unavailable(e: FeedUnavailable) -> ApiError {
    match e {
        FeedUnavailable::Nonce(_) => ApiError::bad_request(e.to_string()),
        e => ApiError::unavailable(e),
    }
}
