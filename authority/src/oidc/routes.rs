//! The pages of signing in: `/login`, `/oidc/callback`, `/login/cli`, `/login/cli/token`, `/logout`.

use std::sync::{Arc, PoisonError};

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Json, Router};
use rand::RngCore;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::attempts::{self, LoginAttempt, Then, Tried};
use super::cli::{CliCode, CliError, CliRequest, PendingCli};
use super::http::is_loopback;
use super::provider::Provider;
use super::relying_party::{Callback, LoginError, RelyingParty};
use crate::domain::principal::Principal;
use crate::domain::session::LIFE_MS;
use crate::secret;
use crate::usecase::session::{self, BeginError};
use crate::usecase::sign_in::{self, Identity, Journey, SignInError};
use crate::usecase::{Context, Unavailable};

/// What the pages share.
pub struct OidcState {
    ctx: Arc<Context>,
    provider: Provider,
    tried: Tried,
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
    pub fn new(authority: &str, provider: impl Into<Provider>, ctx: Arc<Context>) -> Result<Self, AddressError> {
        let cookies = Cookies::for_address(authority)?;
        Ok(Self { ctx, provider: provider.into(), tried: Tried::default(), authority: authority.to_owned(), cookies })
    }

    /// The provider, found or looked for.
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    fn with_rng<T>(&self, f: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        f(&mut **self.ctx.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the browser to the provider, with the attempt sealed in a cookie: one for each tab.
    fn begin(&self, headers: &HeaderMap, then: Then) -> Response {
        let Some(relying_party) = self.provider.relying_party() else { return no_provider() };
        let (begun, sealed) = self.with_rng(|rng| {
            let begun = relying_party.begin(self.ctx.now(), rng);
            let sealed = begun.attempt.seal(&self.ctx.seals, rng, then);
            (begun, sealed)
        });
        let Some(sealed) = sealed else { return login_refused(&LoginError::Unavailable("its names are longer than a cookie holds".to_owned())) };
        let mut response = Redirect::to(begun.url.as_str()).into_response();
        let name = self.cookies.login(begun.attempt.state());
        response.headers_mut().append(header::SET_COOKIE, self.cookies.set(&name, &sealed, attempts::LIFE_MS / 1000));
        for name in self.too_many(headers) {
            response.headers_mut().append(header::SET_COOKIE, self.cookies.forget(&name));
        }
        response
    }

    /// The cookies of attempts beyond the newest few: a browser sends all it has with each request, and has room for so many.
    fn too_many(&self, headers: &HeaderMap) -> Vec<String> {
        let prefix = self.cookies.login_prefix();
        let is_ours = |name: &str| name.strip_prefix(prefix).is_some_and(|tag| tag.len() == 16 && tag.bytes().all(|b| b.is_ascii_hexdigit()));
        let age = |value: &str| LoginAttempt::open(&self.ctx.seals, value).map(|(attempt, _)| attempt.created());
        let all = pairs(headers).filter(|(name, _)| is_ours(name)).take(MAX_SEEN);
        let mut found: Vec<_> = all.map(|(name, value)| (age(value), name.to_owned())).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().skip(MAX_TABS - 1).map(|(_, name)| name).collect()
    }

    /// The attempt that this browser began with this `state`.
    fn attempt(&self, headers: &HeaderMap, state: Option<&str>) -> Option<(LoginAttempt, Then)> {
        let (attempt, then) = LoginAttempt::open(&self.ctx.seals, cookie(headers, &self.cookies.login(state?))?)?;
        self.tried.is_first(self.ctx.now(), &attempt).then_some((attempt, then))
    }

    /// The end of a journey, once the provider has vouched: recorded, and for a browser with its session begun.
    async fn land(
        &self,
        relying_party: &RelyingParty,
        headers: &HeaderMap,
        attempt: LoginAttempt,
        callback: Callback,
        then: &Then,
    ) -> Result<Response, Response> {
        // Before the provider is asked: whom a kill hits while it answers is not let in on its word.
        let before = sign_in::before(&self.ctx).await.map_err(|e| sign_in_refused(&e.into()))?;
        let spends = attempt.spends();
        let who = relying_party.finish(attempt, callback, self.ctx.now()).await;
        self.provider.asked(&who);
        let who = who.map_err(|e| login_refused(&e))?;
        let (secret, ends) = match then {
            Then::Browser => (Some(self.with_rng(|rng| secret::draw(rng))), cookie(headers, self.cookies.session()).map(session::hashed)),
            Then::Cli(_) => (None, None),
        };
        let opens = secret.as_ref().map(|s| session::hashed(s.expose_secret()));
        let (identity, journey) = (Identity::from(&who), Journey { before, spends, opens, ends });
        let signed_in = sign_in::sign_in(&self.ctx, &identity, &journey).await.map_err(|e| sign_in_refused(&e))?;
        match (signed_in, then, secret) {
            (_, Then::Browser, Some(secret)) => {
                let keep = self.cookies.set(self.cookies.session(), &secret, LIFE_MS / 1000);
                Ok(([(header::SET_COOKIE, keep)], Redirect::to("/")).into_response())
            }
            (Principal::Human { id, generations, .. }, Then::Cli(pending), _) => {
                let code = CliCode::new(pending, self.ctx.now(), id, who.name().map(str::to_owned), identity.assurance, generations);
                let to = self.with_rng(|rng| code.deliver(&self.ctx.seals, rng, pending, &self.authority));
                let to = to.ok_or_else(|| sign_in_refused(&Unavailable::Store("the code is longer than a URL may be".to_owned()).into()))?;
                Ok(Redirect::to(to.as_str()).into_response())
            }
            _ => Err(sign_in_refused(&SignInError::Subject)),
        }
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

async fn login(State(state): State<Arc<OidcState>>, headers: HeaderMap) -> Response {
    state.begin(&headers, Then::Browser)
}

async fn login_cli(State(state): State<Arc<OidcState>>, headers: HeaderMap, query: Result<Query<CliRequest>, QueryRejection>) -> Response {
    let Ok(Query(request)) = query else {
        return sentence(StatusCode::BAD_REQUEST, "expected `redirect_uri`, `code_challenge` and `state`, once each");
    };
    match PendingCli::try_from(request) {
        Ok(pending) => state.begin(&headers, Then::Cli(pending)),
        // Never to the redirect URI: it is what may be wrong.
        Err(e) => sentence(StatusCode::BAD_REQUEST, &e.to_string()),
    }
}

async fn callback(State(state): State<Arc<OidcState>>, headers: HeaderMap, query: Result<Query<Callback>, QueryRejection>) -> Response {
    let Ok(Query(callback)) = query else { return sentence(StatusCode::BAD_REQUEST, "expected each parameter once, in UTF-8") };
    // Asked first: an attempt is good once, and this one may come again.
    let Some(relying_party) = state.provider.relying_party() else { return no_provider() };
    let found = state.attempt(&headers, callback.state.as_deref());
    let Some((attempt, then)) = found else { return login_refused(&LoginError::State) };
    let used = state.cookies.login(attempt.state());
    let mut response = match (state.land(relying_party, &headers, attempt, callback, &then).await, then) {
        (Ok(landed), _) => landed,
        (Err(refusal), Then::Browser) => refusal,
        // The command line waits; it hears that it failed, the person reads why at the authority's log.
        (Err(_), Then::Cli(pending)) => Redirect::to(pending.refused(&state.authority).as_str()).into_response(),
    };
    response.headers_mut().append(header::SET_COOKIE, state.cookies.forget(&used));
    response
}

#[derive(Deserialize)]
struct CliExchange {
    code: String,
    code_verifier: String,
}

async fn cli_token(State(state): State<Arc<OidcState>>, form: Result<Form<CliExchange>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else {
        return oauth_error(StatusCode::BAD_REQUEST, "invalid_request", "expected a form with `code` and `code_verifier`, once each");
    };
    let ctx = &state.ctx;
    let refused = |e: CliError| oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", &e.to_string());
    let unavailable = |e: &Unavailable| {
        tracing::error!(error = %e, "login.unavailable");
        oauth_error(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", "the authority cannot do this just now; try again")
    };
    let (code, spends) = match CliCode::open(&ctx.seals, ctx.now(), &form.code) {
        Ok(opened) => opened,
        Err(e) => return refused(e),
    };
    if !code.is_asked_by(&form.code_verifier) {
        return match session::spend(ctx, spends).await {
            Ok(()) => refused(CliError::Code),
            Err(e) => unavailable(&e),
        };
    }
    let secret = state.with_rng(|rng| secret::draw(rng));
    match session::begin(ctx, code.human, code.assurance, code.generations, spends, session::hashed(secret.expose_secret())).await {
        Ok(()) => {
            let answer = json!({ "session": secret.expose_secret(), "human": code.human, "name": code.name, "expires_in": LIFE_MS / 1000 });
            Json(answer).into_response()
        }
        Err(BeginError::Spent) => refused(CliError::Code),
        Err(BeginError::SignedOut(e)) => oauth_error(StatusCode::BAD_REQUEST, "invalid_grant", &e.to_string()),
        Err(BeginError::Unavailable(e)) => unavailable(&e),
    }
}

/// Without a bearer secret from our own pages only: another site's form posts here as well, and the answer takes the cookie
/// away whether or not the browser sent it (login CSRF's other half).
async fn logout(State(state): State<Arc<OidcState>>, headers: HeaderMap) -> Response {
    if !is_own_pages(&headers, &state.authority) {
        return sentence(StatusCode::FORBIDDEN, "expected the authority's own pages as origin of this request");
    }
    if let Some(secret) = state.cookies.presented_session(&headers)
        && let Err(e) = session::end(&state.ctx, secret).await
    {
        tracing::error!(error = %e, "logout.unavailable");
        return sentence(StatusCode::SERVICE_UNAVAILABLE, "the session could not be ended, try again");
    }
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, state.cookies.forget(state.cookies.session()))]).into_response()
}

/// A browser sends its cookie with whatever another site makes it post; only our own pages name us as origin. What carries
/// its secret itself is no browser's doing.
pub fn is_own_pages(headers: &HeaderMap, authority: &str) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes() == authority.as_bytes())
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

    /// Takes the session cookie away.
    pub fn forget_session(&self) -> HeaderValue {
        self.forget(self.session())
    }

    /// Name of the cookie of the attempt with this `state`.
    fn login(&self, state: &str) -> String {
        self.login_prefix().to_owned() + &LoginAttempt::cookie_suffix(state)
    }

    const fn login_prefix(&self) -> &'static str {
        match self {
            Self::Https => "__Host-procura-login-",
            Self::LoopbackHttp => "procura_dev_login_",
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
    let mut values = pairs(headers).filter(|(n, _)| *n == name).map(|(_, value)| value);
    let first = values.next();
    if values.next().is_some() { None } else { first }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    all.filter_map(|pair| pair.trim().split_once('='))
}

fn login_refused(e: &LoginError) -> Response {
    let status = match e {
        LoginError::State | LoginError::Code => StatusCode::BAD_REQUEST,
        LoginError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        // The provider's fault, not the browser's.
        LoginError::Exchange(_) | LoginError::IdToken(_) => StatusCode::BAD_GATEWAY,
        LoginError::CallbackIssuer { .. } | LoginError::Refused(_) => StatusCode::FORBIDDEN,
    };
    tracing::warn!(error = %e, "login.refused");
    sentence(status, &e.to_string())
}

/// The authority runs, and has not found the provider yet.
fn no_provider() -> Response {
    let text = "nobody can sign in just now: the OpenID provider has not answered this authority since it was started; try again in a minute";
    let mut response = sentence(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    response
}

fn sign_in_refused(e: &SignInError) -> Response {
    let (status, text) = match e {
        SignInError::Subject => (StatusCode::FORBIDDEN, "you have signed in, but this authority does not admit you".to_owned()),
        SignInError::Spent => (StatusCode::BAD_REQUEST, e.to_string()),
        SignInError::SignedOut(_) => (StatusCode::FORBIDDEN, e.to_string()),
        SignInError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "your sign-in could not be recorded, try again".to_owned()),
    };
    tracing::warn!(error = %e, "login.refused");
    sentence(status, &text)
}

fn sentence(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}

fn oauth_error(status: StatusCode, error: &'static str, description: &str) -> Response {
    (status, Json(json!({ "error": error, "error_description": description }))).into_response()
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
/// Most sign-ins under way in one browser.
const MAX_TABS: usize = 8;
/// Most of its cookies that are looked at to find the oldest.
const MAX_SEEN: usize = 64;
