//! The pages: server-rendered, one stylesheet, and one small script for what moves ([`live`]): every page is whole without
//! it. A handler parses, calls one use case, and shapes the page.
//!
//! Against other sites: `Origin` is our own, and every form carries a token bound to the session (`Posted`). Against injected
//! markup: askama escapes, and the policy of [`dressed`] runs no script but the one file of ours.

mod agents;
mod board;
mod decisions;
mod delegate;
mod delegations;
mod events;
mod home;
mod kill;
mod live;
mod verifiers;

#[cfg(test)]
mod tests;

use askama::Template;
use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Form, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use procura_verifier::ids::{HumanId, UtcMillis};
use sha2::{Digest as _, Sha256};
use tower_http::timeout::TimeoutLayer;

pub use self::live::Live;
use super::{ApiError, AppState, REQUEST_TIMEOUT, body};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::domain::session::HashedToken;
use crate::oidc::routes::is_own_pages;
use crate::secret;
use crate::usecase::session;

/// Every page.
pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(home::show))
        .route("/sign-out", post(home::sign_out))
        .route("/agents", get(agents::list).post(agents::register))
        .route("/agents/new", get(agents::form).post(agents::challenge))
        .route("/agents/{id}", get(agents::show))
        .route("/delegate", get(delegate::form).post(delegate::confirm))
        .route("/delegate/preview", post(delegate::preview))
        .route("/delegations", get(delegations::list))
        .route("/delegations/{id}/revoke", get(delegations::ask).post(delegations::revoke))
        .route("/delegations/{id}/links/{leaf}/{lid}/revoke", get(delegations::ask_link).post(delegations::revoke_link))
        .route("/decisions", get(decisions::list))
        .route("/decisions/stream", get(decisions::stream))
        .route("/revocations/{leaf}", get(board::show))
        .route("/revocations/{leaf}/stream", get(board::stream))
        .route("/kill", get(kill::form).post(kill::kill))
        .route("/verifiers", get(verifiers::list))
        .route("/events", get(events::list))
        .route("/events/{index}", get(events::show))
        .route("/style.css", get(async || still("text/css; charset=utf-8", STYLE)))
        .route("/live.js", get(async || still("text/javascript; charset=utf-8", SCRIPT)))
        .route("/icon.svg", get(async || still("image/svg+xml", ICON)))
        .layer(DefaultBodyLimit::max(body::MAX_SMALL_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, REQUEST_TIMEOUT))
        .layer(middleware::from_fn(dressed))
}

/// For addresses that nothing answers at: a browser reads a page, a program the one form of error.
pub(super) async fn unknown(headers: HeaderMap) -> Response {
    let browser = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).is_some_and(|a| a.contains("text/html"));
    if browser {
        dress(PageError(ApiError::not_found("there is no page at this address")).into_response())
    } else {
        ApiError::not_found("no such route").into_response()
    }
}

/// What surrounds every page.
pub(crate) struct Frame {
    title: &'static str,
    /// The address of the page in the menu.
    here: &'static str,
    visitor: Option<Seen>,
}

/// Who is signed in, as the menu and the forms need it.
struct Seen {
    human: String,
    csrf: String,
    security: bool,
    watches: bool,
    auditor: bool,
}

/// A person with a session, who opens a page.
pub(crate) struct Visitor {
    by: Principal,
    human: HumanId,
    session: HashedToken,
    csrf: String,
}

impl Visitor {
    /// Whoever the request's session is of.
    async fn find(app: &AppState, headers: &HeaderMap) -> Result<Option<Self>, PageError> {
        let Some(secret) = app.cookies.presented_session(headers) else { return Ok(None) };
        let found = session::find(&app.ctx, secret).await.map_err(ApiError::unavailable)?;
        let Some((human, by)) = found.and_then(|by| Some((by.human()?, by))) else { return Ok(None) };
        app.is_in_measure(&by)?;
        let session = session::hashed(secret);
        let csrf = secret::base64url(&app.ctx.seals.form_tag(&[b"csrf\0", session.as_bytes()]));
        Ok(Some(Self { by, human, session, csrf }))
    }

    fn frame(&self, title: &'static str, here: &'static str) -> Frame {
        let (security, watches, auditor) = (self.is_security(), self.watches(), self.is_auditor());
        let seen = Seen { human: self.human.to_string(), csrf: self.csrf.clone(), security, watches, auditor };
        Frame { title, here, visitor: Some(seen) }
    }

    fn is_security(&self) -> bool {
        self.by.has(Role::Security)
    }

    fn is_auditor(&self) -> bool {
        self.by.has(Role::Auditor)
    }

    /// True for who may see how verifiers stand.
    fn watches(&self) -> bool {
        [Role::Security, Role::Admin, Role::Auditor].into_iter().any(|role| self.by.has(role))
    }

    /// Refuses whoever has not the role. The use case asks again; this is for pages that would show an empty form.
    fn needs(&self, role: Role, sentence: &'static str) -> Result<(), PageError> {
        if self.by.has(role) { Ok(()) } else { Err(ApiError::forbidden(sentence).into()) }
    }

    /// A tag on what this session was shown: what comes back with it is what was shown.
    fn tag(&self, app: &AppState, shown: &[&str]) -> String {
        let mut hash = Sha256::new();
        for part in shown {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        secret::base64url(&app.ctx.seals.form_tag(&[b"show\0", self.session.as_bytes(), &hash.finalize()]))
    }
}

impl FromRequestParts<AppState> for Visitor {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, PageError> {
        let found = Self::find(app, &parts.headers).await?;
        found.ok_or_else(|| ApiError::unauthenticated("sign in to see this page").into())
    }
}

/// A form of ours, sent from our own pages by the person whose session it was made for.
pub(crate) struct Posted {
    visitor: Visitor,
    fields: Fields,
}

impl FromRequest<AppState> for Posted {
    type Rejection = PageError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, PageError> {
        let (mut parts, body) = request.into_parts();
        if !is_own_pages(&parts.headers, &app.authority) {
            return Err(ApiError::forbidden("expected the authority's own pages as origin of this form").into());
        }
        let visitor = Visitor::from_request_parts(&mut parts, app).await?;
        let form: Result<Form<Vec<(String, String)>>, FormRejection> = Form::from_request(Request::from_parts(parts, body), app).await;
        let Form(fields) = form.map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            _ => ApiError::bad_request("expected the fields of a form of this page, in UTF-8"),
        })?;
        let fields = Fields(fields);
        if !same_text(fields.one("csrf")?, &visitor.csrf) {
            return Err(ApiError::forbidden("this form was not made for your present sign-in: open the page again").into());
        }
        Ok(Self { visitor, fields })
    }
}

/// What a form says. A field that comes twice is refused.
struct Fields(Vec<(String, String)>);

impl Fields {
    /// The field's text without spaces around it; empty if it is not there.
    fn one(&self, name: &str) -> Result<&str, ApiError> {
        let mut values = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.trim());
        let first = values.next().unwrap_or_default();
        if values.next().is_some() { Err(ApiError::bad_request(format!("expected `{name}` once"))) } else { Ok(first) }
    }
}

/// One sentence in the style of all pages.
#[derive(Debug)]
pub(crate) struct PageError(ApiError);

impl From<ApiError> for PageError {
    fn from(e: ApiError) -> Self {
        Self(e)
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    frame: Frame,
    sentence: &'a str,
    sign_in: bool,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, sentence) = self.0.said();
        let title = match status {
            StatusCode::UNAUTHORIZED => "Sign in first",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::NOT_FOUND => "Not found",
            s if s.is_server_error() => "Not available",
            _ => "That did not work",
        };
        let page = ErrorPage { frame: Frame { title, here: "", visitor: None }, sentence, sign_in: status == StatusCode::UNAUTHORIZED };
        (status, rendered(&page)).into_response()
    }
}

type Page = Result<Response, PageError>;

fn page(template: &impl Template) -> Page {
    Ok(rendered(template))
}

/// Writing into a string fails for no template of ours; if one did, nothing half-done is shown.
fn rendered(template: &impl Template) -> Response {
    match template.render() {
        Ok(html) => Html(html).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "page.not_rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn dressed(request: Request, next: Next) -> Response {
    dress(next.run(request).await)
}

/// Every answer under the strict policy, and every error as a page.
fn dress(mut response: Response) -> Response {
    let html = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"text/html"));
    if (response.status().is_client_error() || response.status().is_server_error()) && !html {
        response = PageError(ApiError::of_status(response.status())).into_response();
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn still(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text).into_response()
}

fn same_text(a: &str, b: &str) -> bool {
    secret::same(&secret::digest(a), &secret::digest(b))
}

/// A length of time as people say it, in its two largest units.
fn span(ms: u64) -> String {
    let mins = ms / 60_000;
    match (mins / 1440, mins / 60 % 24, mins % 60) {
        (0, 0, 0) => "less than a minute".to_owned(),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// A moment as people read it, to the second.
fn stamp(at: UtcMillis) -> String {
    let text = at.to_string();
    text.get(..19).map_or_else(|| text.clone(), |seconds| seconds.replace('T', " "))
}

/// No script but ours, no foreign content, no frame, no form to elsewhere. `same-origin`, not `no-referrer`: with that, browsers send
/// `Origin: null` with our own forms.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];
const STYLE: &str = include_str!("../../../templates/style.css");
const SCRIPT: &str = include_str!("../../../templates/live.js");
const ICON: &str = include_str!("../../../templates/icon.svg");
