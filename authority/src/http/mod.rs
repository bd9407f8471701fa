//! The API: routes, readable as a list. A handler parses, calls one use case, and shapes the answer.

mod agents;
mod auth;
mod body;
mod delegations;
mod drills;
mod error;
mod feed;
mod health;
mod keys;
mod lives;
mod log;
mod metrics;
mod pages;
pub mod rates;
mod revocations;
mod snapshot;
mod tokens;
mod trail;
mod tree;
mod verifiers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use procura_verifier::ids::Tenant;
use tokio::sync::{Semaphore, watch};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;

pub use self::auth::OverSocket;
pub use self::error::ApiError;
pub use self::pages::Live;
use self::rates::Rates;
use self::trail::RequestId;
use crate::feed::turns::{Bounds, Turns};
use crate::listen::proxy::Proxies;
use crate::log::checkpoint::Origin;
use crate::oidc::routes::{Cookies, OidcState};
use crate::telemetry::Exporter;
use crate::usecase::Context;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// Behind [`AppState`].
pub struct Shared {
    /// For the use cases.
    pub ctx: Arc<Context>,
    /// The authority's URL: issuer, and origin of its own pages.
    pub authority: String,
    /// The log's name.
    pub origin: Origin,
    /// How sessions travel.
    pub cookies: Cookies,
    /// Sign-in pages; none where nobody can sign in, on a folder at rest.
    pub oidc: Option<Arc<OidcState>>,
    /// Places for streams of the feed.
    pub streams: Arc<Semaphore>,
    /// What pages keep between a request and its stream.
    pub live: Live,
    /// Who says on whose behalf a request comes.
    pub proxies: Proxies,
    /// How often one client may come.
    pub rates: Rates,
    /// How long a body may take.
    pub body_time: Duration,
    /// Where spans go.
    pub traces: Option<Exporter>,
    /// Turns true when the server is to end: streams say so and end.
    pub stopping: watch::Receiver<bool>,
    /// Turns at handing back what was lost.
    pub lost: Turns,
}

impl std::ops::Deref for AppState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl AppState {
    /// The state of one authority.
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Refuses another tenant than the one this authority serves.
    fn is_ours(&self, tenant: &Tenant) -> Result<(), ApiError> {
        if *tenant == self.ctx.tenant { Ok(()) } else { Err(ApiError::not_found(format!("tenant is `{tenant}`, which is not served here"))) }
    }

    async fn export(&self) -> anyhow::Result<Vec<u8>> {
        crate::app::export(&self.ctx, &self.ctx.writer.checkpoint()).await
    }
}

/// Every route.
pub fn router(app: AppState) -> Router {
    let timed = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/checkpoint", get(log::checkpoint))
        .route("/tile/{*path}", get(log::tile))
        .route("/v1/keys", get(keys::list).post(keys::publish))
        .route("/v1/me", get(health::me))
        .route("/v1/agents/challenges", post(agents::challenge))
        .route("/v1/agents", get(agents::list).post(agents::register))
        .route("/v1/agents/{id}", get(lives::show))
        .route("/v1/agents/{id}/keys", post(lives::rotate))
        .route("/v1/agents/{id}/suspend", post(lives::suspend))
        .route("/v1/agents/{id}/resume", post(lives::resume))
        .route("/v1/agents/{id}/retire", post(lives::retire))
        .route("/v1/card", post(tokens::card))
        .route("/v1/delegations", get(delegations::list).post(delegations::create))
        .route("/v1/delegations/tree", get(tree::all))
        .route("/v1/delegations/{id}", get(tree::one))
        .route("/v1/delegations/{id}/confirm", post(lives::confirm))
        // Minting waits for minting: a revocation finds at most so many before it at the database, however many agents ask.
        .route("/v1/token", post(tokens::mint).layer(GlobalConcurrencyLimitLayer::new(MAX_MINTING)))
        .route("/v1/revocations", post(revocations::create))
        .route("/v1/verifiers", get(verifiers::list).post(verifiers::enrol))
        .route("/v1/verifiers/retire", post(verifiers::retire))
        .route("/v1/drills", post(drills::create))
        .route("/v1/feed/acks", post(feed::acks))
        .route("/metrics", get(metrics::page))
        .route("/v1/feed/tail", get(feed::tail))
        .route("/v1/feed/head", get(feed::head))
        .route("/v1/feed/snapshot", get(snapshot::manifest))
        .route("/v1/feed/segment/{sha256}", get(snapshot::segment))
        // Most of these are asked before anybody is known: a small body is all that is read of a stranger's.
        .layer(DefaultBodyLimit::max(body::MAX_SMALL_BODY_BYTES))
        .route("/v1/receipts", post(verifiers::receipts))
        .route("/v1/feed/lost", post(snapshot::lost))
        .merge(pages::router())
        .fallback(pages::unknown)
        .with_state(app.clone())
        .merge(app.oidc.clone().map(crate::oidc::routes::router).unwrap_or_default())
        .layer(middleware::from_fn_with_state(app.clone(), trail::in_time));
    // A stream has no end, and a bundle takes as long as the log is long: each is held whole, so few at once.
    let bundle = get(log::bundle).layer(GlobalConcurrencyLimitLayer::new(MAX_BUNDLES));
    let untimed = Router::new().route("/v1/feed", get(feed::stream)).route("/v1/log/bundle", bundle).with_state(app.clone());
    timed
        .merge(untimed)
        .layer(DefaultBodyLimit::max(body::MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(app.clone(), rates::limited))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(one_form))
        .layer(middleware::from_fn_with_state(app, trail::trail))
}

/// Errors in the one form, axum's own included, and `nosniff` on everything.
async fn one_form(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(|RequestId(id)| id.clone());
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.with_request_id(id);
    } else if is_axums_own(&response) {
        response = ApiError::of_status(response.status()).with_request_id(id);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Extractors and the router answer plain text: bad queries, missing methods, bodies too long.
fn is_axums_own(response: &Response) -> bool {
    let plain = response.headers().get(header::CONTENT_TYPE).is_none_or(|t| t.as_bytes().starts_with(b"text/plain"));
    let from_login = response.headers().contains_key(header::REFERRER_POLICY);
    plain && !from_login && (response.status().is_client_error() || response.status().is_server_error())
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("request.panicked");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// Most streams of the feed at once.
pub const MAX_STREAMS: usize = 4096;
/// Who hands back: verifiers after a restored backup, all at once.
pub const LOST: Bounds = Bounds { at_once: 8, waiting: 256, of_one: 32 };
/// Most mints under way at once: a full batch of the writer's.
const MAX_MINTING: usize = crate::writer::MAX_BATCH;
/// Most bundles made at once.
const MAX_BUNDLES: usize = 2;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod replicas;
