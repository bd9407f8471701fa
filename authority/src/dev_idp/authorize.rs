//! `/authorize`: a request waits, a person signs the form, the answer goes to the registered redirect URI.

use std::sync::{Arc, PoisonError};

use axum::Form;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::{Idp, Person, token};
use crate::secret;

/// An authorization request (RFC 6749 §4.1.1, OIDC Core §3.1.2.1). Parameters we do not know are ignored, twice the same is refused.
#[derive(Deserialize)]
pub(super) struct Params {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    response_type: Option<String>,
    response_mode: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
    prompt: Option<String>,
    request: Option<String>,
    request_uri: Option<String>,
}

/// A checked request that waits for its form.
#[derive(Clone)]
pub(super) struct Pending {
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
    nonce: Option<String>,
    challenge: [u8; 32],
    csrf: [u8; 32],
}

#[derive(Deserialize)]
pub(super) struct Submitted {
    request: String,
    csrf: String,
    username: String,
}

pub(super) async fn form(State(idp): State<Arc<Idp>>, params: Result<Query<Params>, QueryRejection>) -> Response {
    let Ok(Query(params)) = params else { return page(StatusCode::BAD_REQUEST, "expected each parameter once, in UTF-8") };
    // Until the redirect URI is known to be the client's, an error must not be sent to it (open redirect).
    let Some(client) = params.client_id.as_deref().and_then(|id| idp.client(id)) else {
        return page(StatusCode::BAD_REQUEST, "unknown `client_id`");
    };
    let Some(redirect_uri) = params.redirect_uri.filter(|uri| client.redirect_uris.contains(uri)) else {
        return page(StatusCode::BAD_REQUEST, "expected a `redirect_uri` registered for this client, letter by letter");
    };
    let refuse = |error| answer(&idp, &redirect_uri, params.state.as_deref(), ("error", error));
    if [&params.state, &params.nonce].into_iter().flatten().any(|text| text.len() > MAX_TEXT) {
        return page(StatusCode::BAD_REQUEST, "`state` or `nonce` longer than 512 bytes");
    }
    if params.request.is_some() || params.request_uri.is_some() {
        return refuse("request_not_supported");
    }
    if params.response_type.as_deref() != Some("code") || params.response_mode.as_deref().is_some_and(|m| m != "query") {
        return refuse("unsupported_response_type");
    }
    if !params.scope.as_deref().is_some_and(|s| s.split(' ').any(|s| s == "openid")) {
        return refuse("invalid_scope");
    }
    if params.prompt.as_deref() == Some("none") {
        return refuse("login_required");
    }
    let challenge = params.code_challenge.as_deref().and_then(secret::from_base64url).and_then(|c| c.try_into().ok());
    let (Some(challenge), Some("S256")) = (challenge, params.code_challenge_method.as_deref()) else {
        return refuse("invalid_request");
    };

    let (request, csrf) = (idp.draw(), idp.draw());
    let pending = Pending {
        client_id: client.client_id.clone(),
        redirect_uri,
        state: params.state,
        nonce: params.nonce,
        challenge,
        csrf: secret::digest(csrf.expose_secret()),
    };
    let now = idp.now();
    let mut waiting = idp.pending.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.insert(now, secret::digest(request.expose_secret()), pending, now.plus(FORM_LIFE_MS));
    sign_in_page(StatusCode::OK, &client.client_id, request.expose_secret(), csrf.expose_secret(), None)
}

pub(super) async fn submit(State(idp): State<Arc<Idp>>, form: Result<Form<Submitted>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else { return page(StatusCode::BAD_REQUEST, "expected the fields of the sign-in form, once each") };
    let now = idp.now();
    let id = secret::digest(&form.request);
    let waiting = idp.pending.lock().unwrap_or_else(PoisonError::into_inner).find(now, &id).cloned();
    // The token was on the form we gave out for this very request: without it another page is submitting.
    let Some(pending) = waiting.filter(|p| secret::same(&p.csrf, &secret::digest(&form.csrf))) else {
        return page(StatusCode::FORBIDDEN, "expected a form given out for this sign-in in the last 10 minutes: begin again");
    };
    let Some(person) = idp.people.iter().find(|p| p.username == form.username) else {
        let sentence = "Nobody of this name is configured here.";
        return sign_in_page(StatusCode::UNPROCESSABLE_ENTITY, &pending.client_id, &form.request, &form.csrf, Some(sentence));
    };
    // One form, one code: of two submissions the second finds nothing.
    if idp.pending.lock().unwrap_or_else(PoisonError::into_inner).take(now, &id).is_none() {
        return page(StatusCode::FORBIDDEN, "this form was submitted already: begin again");
    }
    let code = idp.draw();
    idp.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(
        now,
        secret::digest(code.expose_secret()),
        grant(&pending, person, now),
        now.plus(token::CODE_LIFE_MS),
    );
    answer(&idp, &pending.redirect_uri, pending.state.as_deref(), ("code", code.expose_secret()))
}

fn grant(pending: &Pending, person: &Person, now: procura_verifier::ids::UtcMillis) -> token::Grant {
    token::Grant {
        client_id: pending.client_id.clone(),
        redirect_uri: pending.redirect_uri.clone(),
        nonce: pending.nonce.clone(),
        challenge: pending.challenge,
        person: person.clone(),
        signed_in: now,
    }
}

fn answer(idp: &Idp, to: &str, state: Option<&str>, (name, value): (&str, &str)) -> Response {
    let Ok(mut to) = Url::parse(to) else { return page(StatusCode::BAD_REQUEST, "the registered `redirect_uri` is not a URL") };
    {
        let mut query = to.query_pairs_mut();
        query.append_pair(name, value);
        if let Some(state) = state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &idp.issuer); // RFC 9207
    }
    Redirect::to(to.as_str()).into_response()
}

fn sign_in_page(status: StatusCode, client_id: &str, request: &str, csrf: &str, error: Option<&str>) -> Response {
    let (client_id, request, csrf) = (escape(client_id), escape(request), escape(csrf));
    let (error, described) = match error {
        Some(sentence) => (format!(r#"<p id="error" role="alert">{}</p>"#, escape(sentence)), r#" aria-invalid="true" aria-describedby="error""#),
        None => (String::new(), ""),
    };
    let html = format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Sign in (development)</title>
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem}}input,button{{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin:.25rem 0 1rem}}</style></head>
<body><main><h1>Sign in</h1><p>Provider for development: it asks for no password. You continue to <strong>{client_id}</strong>.</p>{error}
<form method="post" action="/authorize"><input type="hidden" name="request" value="{request}"><input type="hidden" name="csrf" value="{csrf}">
<label for="username">User name</label><input id="username" name="username" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus{described}>
<button type="submit">Sign in</button></form></main></body></html>
"#
    );
    (status, Html(html)).into_response()
}

fn page(status: StatusCode, sentence: &str) -> Response {
    (status, Html(format!("<!doctype html><html lang=\"en\"><title>Sign in (development)</title><p role=\"alert\">{}</p></html>\n", escape(sentence))))
        .into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

const FORM_LIFE_MS: u64 = 10 * 60 * 1000;
const MAX_TEXT: usize = 512;
