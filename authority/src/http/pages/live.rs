//! What moves on a page without a new request: server-rendered pieces over one stream, put in place by `live.js`. A page is
//! whole without it, with a link to look again.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{Stream, StreamExt as _, stream};
use procura_verifier::ids::{HumanId, UtcMillis};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::ApiError;
use crate::expiring::Expiring;
use crate::usecase::coverage::live::Progress;

/// What the pages of one process keep: boards that fill, and places for people who look on.
pub struct Live {
    boards: Mutex<Expiring<u64, Kept>>,
    seats: Arc<Semaphore>,
}

/// A board of a revocation that was asked for here, by the place of its leaf.
#[derive(Clone)]
pub(super) struct Kept {
    /// Who asked.
    pub by: HumanId,
    /// What was revoked, in words.
    pub what: String,
    /// Where the page leads back to.
    pub back: &'static str,
    /// How it stands.
    pub shown: watch::Receiver<Progress>,
}

impl Default for Live {
    fn default() -> Self {
        Self { boards: Mutex::new(Expiring::new(MAX_BOARDS)), seats: Arc::new(Semaphore::new(MAX_SEATS)) }
    }
}

impl Live {
    pub(super) fn keep(&self, now: UtcMillis, leaf: u64, kept: Kept) {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner).insert(now, leaf, kept, now.plus(BOARD_LIFE_MS));
    }

    pub(super) fn find(&self, now: UtcMillis, leaf: u64) -> Option<Kept> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner).find(now, &leaf).cloned()
    }

    /// A place for one who looks on; given back when dropped.
    pub(super) fn seat(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.seats.clone().try_acquire_owned().map_err(|_| ApiError::unavailable("no more people can look on at once"))
    }
}

/// A stream of pieces. It ends with its seat after [`STREAM_LIFE`]: the browser opens it anew, and who asks is asked again.
pub(super) fn stream(seat: OwnedSemaphorePermit, pieces: impl Stream<Item = Event> + Send + 'static) -> Response {
    let first = stream::once(async { Event::default().retry(Duration::from_millis(500)).comment("live") });
    let end = Box::pin(tokio::time::sleep(STREAM_LIFE));
    let pieces = first.chain(pieces).take_until(end).map(move |piece| {
        let _ = &seat;
        Ok::<_, Infallible>(piece)
    });
    Sse::new(pieces).keep_alive(KeepAlive::default()).into_response()
}

/// A piece of a page under a name that `live.js` knows.
pub(super) fn piece(name: &'static str, template: &impl Template) -> Event {
    match template.render() {
        Ok(html) => Event::default().event(name).data(html),
        Err(e) => {
            tracing::error!(error = %e, "page.not_rendered");
            Event::default().comment("not rendered")
        }
    }
}

/// One sentence for those who hear the page.
pub(super) fn status(sentence: &str) -> Event {
    Event::default().event("status").data(sentence)
}

/// Nothing more will come.
pub(super) fn end() -> Event {
    Event::default().event("end").data("end")
}

const MAX_BOARDS: usize = 256;
const MAX_SEATS: usize = 128;
const BOARD_LIFE_MS: u64 = 10 * 60_000;
const STREAM_LIFE: Duration = Duration::from_secs(60);
