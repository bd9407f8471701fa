//! The pages of signing in: `/login`, `/oidc/callback`, `/login/cli`, `/login/cli/token`, `/logout`.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use procura_verifier::ids::{Clock, HumanId, UtcMillis};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::attempts::{self, LoginAttempts, Then};
use super::cli::{CliCodes, CliError, CliRequest, PendingCli};
use super::http::is_loopback;
use super::relying_party::{Callback, LoginError, RelyingParty};
use super::session::{self, Session, Sessions};
use super::{SignInSink, SinkError};
use crate::secret::Rng;

/// What the pages share.
pub struct OidcState {
    relying_party: RelyingParty,
    sessions: Arc<Sessions>,
    attempts: LoginAttempts,
    cli_codes: CliCodes,
    sink: Arc<dyn SignInSink>,
    clock: Arc<dyn Clock>,
    rng: Mutex<Rng>,
    authority: String,
    cookies: Cookies,
}

/// The authority's address is neither https nor http on a loopback address: cookies would travel in the clear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("authority address: expected https, or http on a loopback address, got `{0}`")]
pub struct AddressError(String);

/// The cookies' names and attributes for one authority address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookies {
    /// `__Host-`: no other host of the domain, and no plain-text page, can plant one.
    Https,
    /// Loopback without TLS, where browsers refuse `__Host-`.
    LoopbackHttp,
}

impl OidcState {
    /// `authority` is our own issuer identifier, and the `iss` that the command line compares.
    pub fn new(
        authority: &str,
        relying_party: RelyingParty,
        sessions: Arc<Sessions>,
        sink: Arc<dyn SignInSink>,
        clock: Arc<dyn Clock>,
        rng: Rng,
    ) -> Result<Self, AddressError> {
        let cookies = Cookies::for_address(authority)?;
        let (attempts, cli_codes, rng) = (LoginAttempts::default(), CliCodes::default(), Mutex::new(rng));
        Ok(Self { relying_party, sessions, attempts, cli_codes, sink, clock, rng, authority: authority.to_owned(), cookies })
    }

    /// Spends codes of the command line's login that nobody has redeemed yet: part of a kill.
    pub fn forget_codes(&self, human: HumanId) {
        self.cli_codes.forget(human);
    }

    fn now(&self) -> UtcMillis {
        self.clock.wall()
    }

    fn with_rng<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the browser to the provider, with a cookie to know it by.
    fn begin(&self, then: Then) -> Response {
        let begun = self.with_rng(|rng| self.relying_party.begin(self.now(), rng));
        self.attempts.insert(begun.attempt, then);
        let cookie = self.cookies.set(self.cookies.login(), &begun.browser, attempts::LIFE_MS / 1000);
        ([(header::SET_COOKIE, cookie)], Redirect::to(begun.url.as_str())).into_response()
    }
}

/// The routes, with `no-store` on every answer.
pub fn router(state: Arc<OidcState>) -> Router {
    Router::new()
        .route("/login", get(login))
        .route("/oidc/callback", get(callback))
        .route("/login/cli", get(login_cli))
        .route("/login/cli/token", post(cli_token))
        .route("/logout", post(logout))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(private))
        .with_state(state)
}

async fn login(State(state): State<Arc<OidcState>>) -> Response {
    state.begin(Then::Browser)
}

async fn login_cli(State(state): State<Arc<OidcState>>, query: Result<Query<CliRequest>, QueryRejection>) -> Response {
    let Ok(Query(request)) = query else {
        return sentence(StatusCode::BAD_REQUEST, "expected `redirect_uri`, `code_challenge` and `state`, once each");
    };
    match PendingCli::try_from(request) {
        Ok(pending) => state.begin(Then::Cli(pending)),
        // Never to the redirect URI: it is what may be wrong.
        Err(e) => sentence(StatusCode::BAD_REQUEST, &e.to_string()),
    }
}

async fn callback(State(state): State<Arc<OidcState>>, headers: HeaderMap, query: Result<Query<Callback>, QueryRejection>) -> Response {
    let Ok(Query(callback)) = query else { return sentence(StatusCode::BAD_REQUEST, "expected each parameter once, in UTF-8") };
    let now = state.now();
    let found = callback.state.as_deref().and_then(|s| state.attempts.take(now, s));
    let Some((attempt, then)) = found else { return login_refused(&LoginError::State) };
    let browser = cookie(&headers, state.cookies.login());
    let outcome = match state.relying_party.finish(attempt, callback, browser, now).await {
        // Durable before a session exists: nobody acts whom the log does not know.
        Ok(who) => state.sink.signed_in(&who).await.map(|human| Session::of(human, &who)).map_err(sink_refused),
        Err(e) => Err(login_refused(&e)),
    };
    let forget = state.cookies.forget(state.cookies.login());
    // The clock is read again: provider and log may have taken their time.
    let now = state.now();
    match (outcome, then) {
        (Ok(session), Then::Browser) => {
            if let Some(old) = cookie(&headers, state.cookies.session()) {
                state.sessions.remove(now, old);
            }
            let secret = state.with_rng(|rng| state.sessions.create(now, rng, session));
            let keep = state.cookies.set(state.cookies.session(), &secret, session::LIFE_MS / 1000);
            let mut response = Redirect::to("/").into_response();
            response.headers_mut().append(header::SET_COOKIE, forget);
            response.headers_mut().append(header::SET_COOKIE, keep);
            response
        }
        (Ok(session), Then::Cli(pending)) => {
            let to = state.with_rng(|rng| state.cli_codes.issue(now, rng, &pending, session, &state.authority));
            ([(header::SET_COOKIE, forget)], Redirect::to(to.as_str())).into_response()
        }
        (Err(refusal), Then::Browser) => refusal,
        // The command line waits; it hears that it failed, the person reads why at the authority's log.
        (Err(_), Then::Cli(pending)) => Redirect::to(pending.refused(&state.authority).as_str()).into_response(),
    }
}

#[derive(Deserialize)]
struct CliExchange {
    code: String,
    code_verifier: String,
}

async fn cli_token(State(state): State<Arc<OidcState>>, form: Result<Form<CliExchange>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else { return oauth_error("invalid_request", "expected a form with `code` and `code_verifier`, once each") };
    let now = state.now();
    match state.cli_codes.redeem(now, &form.code, &form.code_verifier) {
        Ok(session) => {
            let (human, name) = (session.human, session.name.clone());
            let secret = state.with_rng(|rng| state.sessions.create(now, rng, session));
            Json(json!({ "session": secret.expose_secret(), "human": human, "name": name, "expires_in": session::LIFE_MS / 1000 })).into_response()
        }
        Err(e @ CliError::Code) => oauth_error("invalid_grant", &e.to_string()),
        Err(e) => oauth_error("invalid_request", &e.to_string()),
    }
}

/// A POST, and `SameSite=Lax`: a link or an image on another site cannot sign anybody out.
async fn logout(State(state): State<Arc<OidcState>>, headers: HeaderMap) -> Response {
    if let Some(secret) = state.cookies.presented_session(&headers) {
        state.sessions.remove(state.now(), secret);
    }
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, state.cookies.forget(state.cookies.session()))]).into_response()
}

impl Cookies {
    /// The cookies for an authority at this address.
    pub fn for_address(authority: &str) -> Result<Self, AddressError> {
        match Url::parse(authority) {
            Ok(url) if url.scheme() == "https" => Ok(Self::Https),
            Ok(url) if is_loopback(&url) => Ok(Self::LoopbackHttp),
            _ => Err(AddressError(authority.to_owned())),
        }
    }

    /// The session secret a request carries: `Authorization: Bearer` (the command line) before the cookie (a browser).
    pub fn presented_session<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        match headers.get(header::AUTHORIZATION) {
            Some(value) => value.to_str().ok()?.strip_prefix("Bearer "),
            None => cookie(headers, self.session()),
        }
    }

    /// Name of the session cookie.
    pub const fn session(&self) -> &'static str {
        match self {
            Self::Https => "__Host-procura",
            Self::LoopbackHttp => "procura_dev",
        }
    }

    const fn login(&self) -> &'static str {
        match self {
            Self::Https => "__Host-procura-login",
            Self::LoopbackHttp => "procura_dev_login",
        }
    }

    /// `Lax`, not `Strict`: the callback is a navigation that comes from the provider's site.
    fn set(&self, name: &str, secret: &SecretString, max_age_secs: u64) -> HeaderValue {
        self.header(name, secret.expose_secret(), max_age_secs)
    }

    fn forget(&self, name: &str) -> HeaderValue {
        self.header(name, "", 0)
    }

    fn header(&self, name: &str, value: &str, max_age_secs: u64) -> HeaderValue {
        let secure = if matches!(self, Self::Https) { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_secs}{secure}");
        // Base64url and our own words: always a header value; an empty one keeps the browser signed out.
        let mut header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        header.set_sensitive(true);
        header
    }
}

/// The cookie's value; of two with one name (planted by a neighbour) neither.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut values = all.filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='));
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

fn login_refused(e: &LoginError) -> Response {
    let status = match e {
        LoginError::State | LoginError::Code => StatusCode::BAD_REQUEST,
        LoginError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        // The provider's fault, not the browser's.
        LoginError::Exchange(_) | LoginError::IdToken(_) => StatusCode::BAD_GATEWAY,
        LoginError::Browser | LoginError::CallbackIssuer { .. } | LoginError::Refused(_) => StatusCode::FORBIDDEN,
    };
    tracing::warn!(error = %e, "login.refused");
    sentence(status, &e.to_string())
}

fn sink_refused(e: SinkError) -> Response {
    let status = match e {
        SinkError::NotAdmitted => StatusCode::FORBIDDEN,
        SinkError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    tracing::warn!(error = %e, "login.refused");
    sentence(status, &e.to_string())
}

fn sentence(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}

fn oauth_error(error: &'static str, description: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "error_description": description }))).into_response()
}

async fn private(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

const MAX_BODY_BYTES: usize = 8 * 1024;
