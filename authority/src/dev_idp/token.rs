//! `/token`: a code, once, for the client it was made for, becomes an ID token.

use std::sync::{Arc, PoisonError};

use axum::Form;
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use procura_verifier::ids::UtcMillis;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha512};

use super::{Client, Idp, Person};
use crate::secret;

/// What a code stands for.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) redirect_uri: String,
    pub(super) nonce: Option<String>,
    pub(super) challenge: [u8; 32],
    pub(super) person: Person,
    pub(super) signed_in: UtcMillis,
}

#[derive(Deserialize)]
pub(super) struct Params {
    grant_type: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    client_id: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    iat: u64,
    auth_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    /// OIDC Core §2: level "0", the sign-in does not meet ISO 29115 level 1. No password was asked for.
    acr: &'static str,
    /// RFC 8176: somebody was there.
    amr: [&'static str; 1],
    at_hash: String,
    name: &'a str,
}

pub(super) async fn exchange(State(idp): State<Arc<Idp>>, headers: HeaderMap, params: Result<Form<Params>, FormRejection>) -> Response {
    let Ok(Form(params)) = params else { return refuse("invalid_request", "expected a form with each parameter once") };
    let Some(client) = authenticate(&idp, &headers, params.client_id.as_deref()) else {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"procura-dev\"")];
        return (StatusCode::UNAUTHORIZED, challenge, Json(json!({ "error": "invalid_client" }))).into_response();
    };
    if params.grant_type.as_deref() != Some("authorization_code") {
        return refuse("unsupported_grant_type", "expected `authorization_code`");
    }
    let (Some(code), Some(verifier)) = (params.code, params.code_verifier) else {
        return refuse("invalid_request", "expected `code` and `code_verifier`");
    };
    let now = idp.now();
    // Taken before it is judged: a code is good for one try, whoever makes it.
    let taken = idp.codes.lock().unwrap_or_else(PoisonError::into_inner).take(now, &secret::digest(&code));
    let fits = |g: &Grant| {
        g.client_id == client.client_id
            && params.redirect_uri.as_ref() == Some(&g.redirect_uri)
            && (43..=128).contains(&verifier.len())
            && secret::same(&g.challenge, &secret::digest(&verifier))
    };
    let Some(grant) = taken.filter(fits) else {
        return refuse("invalid_grant", "expected a code of this client, its `redirect_uri` and `code_verifier`, once, within 60 s");
    };

    let access_token = idp.draw();
    let iat = now.secs();
    let claims = Claims {
        iss: &idp.issuer,
        sub: &grant.person.subject,
        aud: &client.client_id,
        exp: iat.saturating_add(ID_TOKEN_LIFE_SECS),
        iat,
        auth_time: grant.signed_in.secs(),
        nonce: grant.nonce.as_deref(),
        acr: "0",
        amr: ["user"],
        at_hash: at_hash(access_token.expose_secret()),
        name: &grant.person.display_name,
    };
    let header = jsonwebtoken::Header { kid: Some(idp.kid.clone()), ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA) };
    let Ok(id_token) = jsonwebtoken::encode(&header, &claims, &idp.signing) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "server_error" }))).into_response();
    };
    // The access token opens nothing here; OAuth demands that there is one.
    Json(json!({
        "access_token": access_token.expose_secret(),
        "token_type": "Bearer",
        "expires_in": ID_TOKEN_LIFE_SECS,
        "scope": "openid profile",
        "id_token": id_token,
    }))
    .into_response()
}

/// The client, by `client_secret_basic`; a public client by its name alone. Both ways at once is neither.
fn authenticate<'a>(idp: &'a Idp, headers: &HeaderMap, named: Option<&str>) -> Option<&'a Client> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return idp.client(named?).filter(|c| c.secret.is_none());
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(value.to_str().ok()?.strip_prefix("Basic ")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (id, password) = decoded.split_once(':')?;
    // RFC 6749 §2.3.1: both are form-encoded before they are joined.
    let client = idp.client(&form_decode(id)?)?;
    let expected = secret::digest(client.secret.as_ref()?.expose_secret());
    let agrees = named.is_none_or(|n| n == client.client_id);
    (agrees && secret::same(&expected, &secret::digest(&form_decode(password)?))).then_some(client)
}

fn form_decode(text: &str) -> Option<String> {
    let mut url = reqwest::Url::parse("x:").ok()?;
    url.set_query(Some(&format!("v={text}")));
    let mut pairs = url.query_pairs();
    let (_, value) = pairs.next()?;
    pairs.next().is_none().then(|| value.into_owned())
}

/// OIDC Core §3.1.3.6: the left half of the hash that the signature algorithm uses, SHA-512 for Ed25519.
fn at_hash(access_token: &str) -> String {
    let hash = Sha512::digest(access_token);
    secret::base64url(hash.get(..32).unwrap_or_default())
}

fn refuse(error: &'static str, description: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "error_description": description }))).into_response()
}

pub(super) const CODE_LIFE_MS: u64 = 60_000;
const ID_TOKEN_LIFE_SECS: u64 = 300;
