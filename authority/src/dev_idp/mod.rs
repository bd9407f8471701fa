//! An OpenID provider for development: real protocol, no passwords. Whoever reaches it may be anyone it knows,
//! so it exists on loopback only: it is built from a bound listener, and one on another address is refused.
//!
//! Authorization code flow with PKCE S256 (required), exact redirect URIs, single-use codes of 60 s, `iss` in the
//! callback (RFC 9207), EdDSA ID tokens under a key drawn at start (a restart is a key rotation).

mod authorize;
mod token;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use procura_verifier::ids::{Clock, UtcMillis};
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;

use crate::expiring::Expiring;
use crate::secret::{self, Rng};

/// Somebody who may sign in.
#[derive(Debug, Clone)]
pub struct Person {
    /// What is typed into the form.
    pub username: String,
    /// The claim `name`.
    pub display_name: String,
    /// The claim `sub`.
    pub subject: String,
}

/// A relying party.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its name.
    pub client_id: String,
    /// Its secret, sent as `client_secret_basic`; a public client has none.
    pub secret: Option<SecretString>,
    /// Where answers may go: compared as text.
    pub redirect_uris: Vec<String>,
}

/// Why the provider did not start.
#[derive(Debug, thiserror::Error)]
pub enum DevIdpError {
    /// Not on loopback.
    #[error("the provider for development asks for no password: expected a loopback address, got `{0}`")]
    NotLoopback(SocketAddr),
    /// The listener or the server failed.
    #[error("provider for development: {0}")]
    Io(#[from] std::io::Error),
    /// The fresh key could not be encoded.
    #[error("provider for development: its signing key could not be encoded")]
    Key,
}

/// The provider, bound and not yet serving.
pub struct DevIdp {
    listener: TcpListener,
    idp: Arc<Idp>,
}

impl DevIdp {
    /// A provider on this listener, which must be on 127.0.0.0/8 or `::1`. Its signing key comes from `rng`.
    pub fn new(listener: TcpListener, people: Vec<Person>, clients: Vec<Client>, clock: Arc<dyn Clock>, mut rng: Rng) -> Result<Self, DevIdpError> {
        let addr = listener.local_addr()?;
        if !addr.ip().is_loopback() {
            return Err(DevIdpError::NotLoopback(addr));
        }
        let signing = SigningKey::from_bytes(&secret::draw_bytes(&mut *rng));
        let der = signing.to_pkcs8_der().map_err(|_| DevIdpError::Key)?;
        let public = signing.verifying_key().to_bytes();
        let idp = Idp {
            issuer: format!("http://{addr}"),
            host: addr.to_string(),
            people,
            clients,
            signing: jsonwebtoken::EncodingKey::from_ed_der(der.as_bytes()),
            kid: secret::base64url(&public),
            clock,
            rng: Mutex::new(rng),
            pending: Mutex::new(Expiring::new(MAX_OPEN)),
            codes: Mutex::new(Expiring::new(MAX_OPEN)),
        };
        Ok(Self { listener, idp: Arc::new(idp) })
    }

    /// The issuer identifier, `http://ADDRESS:PORT`.
    pub fn issuer(&self) -> &str {
        &self.idp.issuer
    }

    /// Serves until `stop` is ready. There is no public router: it could be served elsewhere than on loopback.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), DevIdpError> {
        Ok(axum::serve(self.listener, router(self.idp)).with_graceful_shutdown(stop).await?)
    }
}

struct Idp {
    issuer: String,
    host: String,
    people: Vec<Person>,
    clients: Vec<Client>,
    signing: jsonwebtoken::EncodingKey,
    /// The public key as base64url: name and value at once.
    kid: String,
    clock: Arc<dyn Clock>,
    rng: Mutex<Rng>,
    pending: Mutex<Expiring<[u8; 32], authorize::Pending>>,
    codes: Mutex<Expiring<[u8; 32], token::Grant>>,
}

impl Idp {
    fn draw(&self) -> SecretString {
        secret::draw(&mut **self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> UtcMillis {
        self.clock.wall()
    }

    fn client(&self, id: &str) -> Option<&Client> {
        self.clients.iter().find(|c| c.client_id == id)
    }
}

fn router(idp: Arc<Idp>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(jwks))
        .route("/authorize", get(authorize::form).post(authorize::submit))
        .route("/token", post(token::exchange))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(idp.clone(), guard))
        .with_state(idp)
}

/// A page of another site whose name was made to point at 127.0.0.1 (DNS rebinding) would be a browser's same origin:
/// it sends its own name as host, and gets nothing.
async fn guard(State(idp): State<Arc<Idp>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    if host != Some(idp.host.as_bytes()) {
        return (StatusCode::MISDIRECTED_REQUEST, "expected this provider's own address as host\n").into_response();
    }
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn discovery(State(idp): State<Arc<Idp>>) -> Json<serde_json::Value> {
    let issuer = &idp.issuer;
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "profile"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "name"],
        "authorization_response_iss_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
    }))
}

async fn jwks(State(idp): State<Arc<Idp>>) -> Json<serde_json::Value> {
    Json(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": idp.kid, "kid": idp.kid, "use": "sig", "alg": "EdDSA" }] }))
}

/// Requests that wait for the form, and codes that wait for their exchange: this many of each.
const MAX_OPEN: usize = 1000;
const MAX_BODY_BYTES: usize = 16 * 1024;
/// No `form-action`: browsers apply it to the redirects after the form too, and those lead to the relying party and on.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

#[cfg(test)]
pub(crate) mod tests;
