//! The relying party: authorization code flow with PKCE towards one OpenID provider.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use openidconnect::core::{
    CoreAuthDisplay, CoreAuthenticationFlow, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod, CoreGrantType, CoreIdTokenClaims,
    CoreIdTokenVerifier, CoreJsonWebKey, CoreJsonWebKeySet, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm,
    CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType, CoreTokenResponse,
};
use openidconnect::{
    AccessTokenHash, AdditionalProviderMetadata, AuthType, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, DiscoveryError,
    HttpRequest, IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, ProviderMetadata, RedirectUrl, RequestTokenError, Scope,
    SignatureVerificationError, TokenResponse as _,
};
use procura_verifier::ids::UtcMillis;
use rand::RngCore;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::SignedIn;
use super::attempts::{LIFE_MS, LoginAttempt};
use super::http::{FetchError, Http};
use crate::secret;

/// How an ID token may be signed: chosen by configuration, never by the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5, SHA-256: what most providers use.
    RS256,
    /// RSA-PSS, SHA-256.
    PS256,
    /// ECDSA P-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// One provider and what it knows us as.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// The issuer identifier, letter by letter as its metadata has it. https, or http on a loopback address.
    pub issuer: String,
    /// Our name there.
    pub client_id: String,
    /// Our secret there, sent as `client_secret_basic`. Without one we are a public client.
    pub client_secret: Option<SecretString>,
    /// Our callback, as registered there.
    pub redirect_url: String,
    /// Signature algorithms accepted; at least one.
    pub algorithms: Vec<Algorithm>,
}

/// How often discovery is tried: the pause doubles each time.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Tries in all, at least 1.
    pub tries: u32,
    /// Pause after the first.
    pub pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries: 5, pause: Duration::from_millis(500) }
    }
}

/// Why there is no relying party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// The configuration cannot work.
    #[error("OpenID provider `{0}`: {1}")]
    Config(String, &'static str),
    /// The provider did not answer, or not as one.
    #[error("OpenID provider `{0}`: {1}")]
    Provider(String, String),
}

/// What came to the callback. Nothing of it is trusted.
#[derive(Deserialize, Default)]
pub struct Callback {
    /// The authorization code.
    pub code: Option<String>,
    /// What we sent.
    pub state: Option<String>,
    /// RFC 9207.
    pub iss: Option<String>,
    /// The provider's refusal.
    pub error: Option<String>,
}

/// Why a sign-in failed. No code, token or personal name is in the sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Not an attempt of ours in this browser (login CSRF), used before, or too old.
    #[error("expected a sign-in that began in this browser in the last 10 minutes and was not finished yet: begin again")]
    State,
    /// The callback came from another provider (mix-up).
    #[error("expected `iss` of the callback to be `{expected}`, it is {got}")]
    CallbackIssuer {
        /// The provider we sent the browser to.
        expected: String,
        /// `missing` or `another`.
        got: &'static str,
    },
    /// The provider said no.
    #[error("the provider refused: {0}")]
    Refused(String),
    /// No usable code.
    #[error("expected one `code` of at most 4096 bytes in the callback")]
    Code,
    /// The provider did not accept the code.
    #[error("the provider did not accept the code: {0}")]
    Exchange(String),
    /// The ID token does not hold.
    #[error("ID token: {0}")]
    IdToken(IdTokenFault),
    /// The provider cannot be asked now.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
}

/// What is wrong with an ID token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenFault {
    /// There is none.
    #[error("the provider sent none")]
    Missing,
    /// Another provider's.
    #[error("`iss` is not the provider's")]
    Issuer,
    /// For another client, or also for another.
    #[error("`aud` is not this client alone")]
    Audience,
    /// Of another sign-in.
    #[error("`nonce` is not of this sign-in")]
    Nonce,
    /// Over.
    #[error("it has expired")]
    Expired,
    /// From before this sign-in, or from the future.
    #[error("`iat` or `auth_time` is not within this sign-in")]
    Time,
    /// Signed in a way that is not configured.
    #[error("its signature algorithm is not among those configured for the provider")]
    Algorithm,
    /// Not signed by a key of the provider.
    #[error("it is not signed by a key that the provider publishes")]
    Signature,
    /// Beside another access token.
    #[error("`at_hash` is not of the access token beside it")]
    AccessToken,
    /// Claims out of form.
    #[error("expected `sub` of 1 to 255 and `acr` of at most 256 bytes, at most 16 `amr` of 64")]
    Form,
    /// Anything else.
    #[error("it is not a JWT of the form that OpenID Connect asks for")]
    Malformed,
}

/// The first half of a sign-in.
pub struct Begun {
    /// Where the browser goes.
    pub url: Url,
    /// What the browser keeps sealed in a cookie, and shows at the callback.
    pub attempt: LoginAttempt,
}

/// Our end towards one provider.
pub struct RelyingParty {
    config: IssuerConfig,
    redirect_url: RedirectUrl,
    http: Http,
    metadata: Metadata,
    keys: RwLock<Arc<CoreJsonWebKeySet>>,
    /// When the keys were last asked for; held while asking, so that many callers ask once.
    keys_asked: tokio::sync::Mutex<UtcMillis>,
}

impl RelyingParty {
    /// Reads the provider's metadata and keys. Waits at most for `retry` and 10 s per request.
    pub async fn discover(config: IssuerConfig, now: UtcMillis, retry: Retry) -> Result<Self, DiscoverError> {
        let wrong = |sentence| DiscoverError::Config(config.issuer.clone(), sentence);
        let issuer = IssuerUrl::new(config.issuer.clone()).map_err(|_| wrong("expected the issuer to be a URL"))?;
        let redirect_url = RedirectUrl::new(config.redirect_url.clone()).map_err(|_| wrong("expected the redirect URL to be a URL"))?;
        if config.algorithms.is_empty() {
            return Err(wrong("expected at least one signature algorithm"));
        }
        let http = Http::new(issuer.url()).ok_or_else(|| wrong("no TLS provider is installed in this process"))?;
        if !http.may_ask(issuer.url()) {
            return Err(wrong("expected https, or http on a loopback address"));
        }
        let mut pause = retry.pause;
        let mut left = retry.tries.max(1);
        let metadata = loop {
            left -= 1;
            match Metadata::discover_async(issuer.clone(), &fetch(&http)).await {
                Ok(metadata) => break metadata,
                // Only silence is worth waiting for; a wrong answer stays wrong.
                Err(DiscoveryError::Request(FetchError::Transport(_))) if left > 0 => {
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
                Err(e) => return Err(DiscoverError::Provider(config.issuer, discovery_sentence(&e))),
            }
        };
        if !http.may_ask(metadata.authorization_endpoint().url()) || metadata.token_endpoint().is_none_or(|u| !http.may_ask(u.url())) {
            return Err(wrong("expected its endpoints on https, or on loopback as itself"));
        }
        let keys = RwLock::new(Arc::new(metadata.jwks().clone()));
        Ok(Self { config, redirect_url, http, metadata, keys, keys_asked: tokio::sync::Mutex::new(now) })
    }

    /// Begins a sign-in. The caller seals the attempt into a cookie and sends the browser off.
    pub fn begin(&self, now: UtcMillis, rng: &mut dyn RngCore) -> Begun {
        let (state, nonce, verifier) = (secret::draw(rng), secret::draw(rng), secret::draw(rng));
        let pkce = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.expose_secret().to_owned()));
        let client = CoreClient::from_provider_metadata(self.metadata.clone(), ClientId::new(self.config.client_id.clone()), None);
        let (csrf, sent_nonce) = (CsrfToken::new(state.expose_secret().to_owned()), Nonce::new(nonce.expose_secret().to_owned()));
        let (url, _, _) = client
            .set_redirect_uri(self.redirect_url.clone())
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, move || csrf, move || sent_nonce)
            .add_scope(Scope::new("profile".to_owned()))
            .set_pkce_challenge(pkce)
            .url();
        let attempt = LoginAttempt { state, nonce, verifier, issuer: self.config.issuer.clone(), created: now };
        Begun { url, attempt }
    }

    /// Who signed in, if the callback belongs to the attempt that its browser carries, and the provider vouches for it.
    /// Takes the attempt: there is no second try with the same one.
    pub async fn finish(&self, attempt: LoginAttempt, callback: Callback, now: UtcMillis) -> Result<SignedIn, LoginError> {
        let state = callback.state.as_deref().map(secret::digest);
        if !state.is_some_and(|s| secret::same(&s, &secret::digest(attempt.state.expose_secret()))) || now >= attempt.created.plus(LIFE_MS) {
            return Err(LoginError::State);
        }
        let wrong_issuer = |got| LoginError::CallbackIssuer { expected: self.config.issuer.clone(), got };
        match callback.iss.as_deref() {
            Some(iss) if iss == attempt.issuer && iss == self.config.issuer => {}
            None if attempt.issuer == self.config.issuer && !self.metadata.additional_metadata().names_itself_in_callback => {}
            None => return Err(wrong_issuer("missing")),
            Some(_) => return Err(wrong_issuer("another")),
        }
        if let Some(error) = callback.error {
            return Err(LoginError::Refused(code_word(&error)));
        }
        let code = callback.code.filter(|c| (1..=MAX_CODE_BYTES).contains(&c.len())).ok_or(LoginError::Code)?;
        let answer = self.exchange(code, attempt.verifier.expose_secret().to_owned()).await?;
        self.check(&answer, &attempt, now).await
    }

    pub(super) async fn exchange(&self, code: String, verifier: String) -> Result<CoreTokenResponse, LoginError> {
        let secret = self.config.client_secret.as_ref().map(|s| ClientSecret::new(s.expose_secret().to_owned()));
        let auth = if secret.is_some() { AuthType::BasicAuth } else { AuthType::RequestBody };
        let client = CoreClient::from_provider_metadata(self.metadata.clone(), ClientId::new(self.config.client_id.clone()), secret)
            .set_redirect_uri(self.redirect_url.clone())
            .set_auth_type(auth);
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| LoginError::Unavailable("it has no token endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier));
        // Parse errors carry the body, and the body carries tokens: no such error goes further than here.
        request.request_async(&fetch(&self.http)).await.map_err(|e| match e {
            RequestTokenError::ServerResponse(refusal) => LoginError::Exchange(code_word(refusal.error().as_ref())),
            RequestTokenError::Request(e) => LoginError::Unavailable(e.to_string()),
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => LoginError::IdToken(IdTokenFault::Malformed),
        })
    }

    /// The person an answer of the token endpoint vouches for; after a key rotation the keys are fetched anew, once.
    pub(super) async fn check(&self, answer: &CoreTokenResponse, attempt: &LoginAttempt, now: UtcMillis) -> Result<SignedIn, LoginError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        match self.check_with(&keys, answer, attempt, now) {
            Err(CheckError::UnknownKey) => {}
            done => return done.map_err(CheckError::into_login),
        }
        let keys = self.newer_keys(&keys, now).await?;
        self.check_with(&keys, answer, attempt, now).map_err(CheckError::into_login)
    }

    fn check_with(&self, keys: &CoreJsonWebKeySet, answer: &CoreTokenResponse, attempt: &LoginAttempt, now: UtcMillis) -> Result<SignedIn, CheckError> {
        let fault = CheckError::Fault;
        let id_token = answer.id_token().ok_or(fault(IdTokenFault::Missing))?;
        let client_id = ClientId::new(self.config.client_id.clone());
        // As a public client: without the secret no HMAC key exists that a token could claim to be signed with.
        let verifier = CoreIdTokenVerifier::new_public_client(client_id, self.metadata.issuer().clone(), keys.clone())
            .set_allowed_algs(self.config.algorithms.iter().copied().map(CoreJwsSigningAlgorithm::from))
            .set_time_fn(move || (UNIX_EPOCH + Duration::from_millis(now.0.saturating_sub(LEEWAY_MS))).into());
        let nonce = Nonce::new(attempt.nonce.expose_secret().to_owned());
        let claims = id_token.claims(&verifier, &nonce).map_err(|e| check_error(&e))?;

        // A token is issued within its sign-in; an older one is somebody's store of tokens.
        let iat = claims.issue_time().timestamp_millis();
        let earliest = i64_millis(UtcMillis(attempt.created.0.saturating_sub(LEEWAY_MS + 999)));
        let latest = i64_millis(now.plus(LEEWAY_MS));
        if iat < earliest || iat > latest || claims.auth_time().is_some_and(|t| t.timestamp_millis() > latest) {
            return Err(fault(IdTokenFault::Time));
        }
        if let Some(at_hash) = claims.access_token_hash() {
            let algorithm = id_token.signing_alg().map_err(|_| fault(IdTokenFault::Algorithm))?;
            let key = id_token.signing_key(&verifier).map_err(|_| fault(IdTokenFault::Signature))?;
            if AccessTokenHash::from_token(answer.access_token(), algorithm, key).ok().as_ref() != Some(at_hash) {
                return Err(fault(IdTokenFault::AccessToken));
            }
        }
        signed_in(&self.config.issuer, claims).ok_or(fault(IdTokenFault::Form))
    }

    /// The provider's keys as of now, unless they were asked for in the last 30 s: tokens that name
    /// made-up keys must not turn us into a hammer.
    async fn newer_keys(&self, known: &Arc<CoreJsonWebKeySet>, now: UtcMillis) -> Result<Arc<CoreJsonWebKeySet>, LoginError> {
        let mut asked = self.keys_asked.lock().await;
        let current = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        if !Arc::ptr_eq(&current, known) {
            return Ok(current);
        }
        if now < asked.plus(KEYS_COOLDOWN_MS) {
            return Err(LoginError::IdToken(IdTokenFault::Signature));
        }
        *asked = now;
        let fetched = CoreJsonWebKeySet::fetch_async(self.metadata.jwks_uri(), &fetch(&self.http)).await;
        let keys = Arc::new(fetched.map_err(|e| LoginError::Unavailable(discovery_sentence(&e)))?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&keys);
        Ok(keys)
    }
}

enum CheckError {
    UnknownKey,
    Fault(IdTokenFault),
}

impl CheckError {
    const fn into_login(self) -> LoginError {
        LoginError::IdToken(match self {
            Self::UnknownKey => IdTokenFault::Signature,
            Self::Fault(fault) => fault,
        })
    }
}

fn check_error(e: &ClaimsVerificationError) -> CheckError {
    use ClaimsVerificationError as C;
    use SignatureVerificationError as S;
    CheckError::Fault(match e {
        C::SignatureVerification(S::NoMatchingKey) => return CheckError::UnknownKey,
        C::SignatureVerification(S::DisallowedAlg(_) | S::UnsupportedAlg(_)) => IdTokenFault::Algorithm,
        C::SignatureVerification(_) => IdTokenFault::Signature,
        C::Expired(_) => IdTokenFault::Expired,
        C::InvalidAudience(_) => IdTokenFault::Audience,
        C::InvalidIssuer(_) => IdTokenFault::Issuer,
        C::InvalidNonce(_) => IdTokenFault::Nonce,
        _ => IdTokenFault::Malformed,
    })
}

fn signed_in(issuer: &str, claims: &CoreIdTokenClaims) -> Option<SignedIn> {
    let bounded = |text: &str, max: usize| (text.len() <= max).then(|| text.to_owned());
    let subject = bounded(claims.subject().as_str(), 255).filter(|s| !s.is_empty())?;
    let acr = match claims.auth_context_ref() {
        Some(acr) => Some(bounded(acr.as_str(), 256)?),
        None => None,
    };
    let amr = claims.auth_method_refs().map(Vec::as_slice).unwrap_or_default();
    let amr: Option<Vec<_>> = amr.iter().map(|m| bounded(m.as_str(), 64)).collect();
    // Controls and direction marks could make one name look like another.
    let shown = |c: &char| !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let name = claims.name().and_then(|n| n.get(None)).map(|n| n.chars().filter(shown).take(128).collect());
    let auth_time = claims.auth_time().and_then(|t| u64::try_from(t.timestamp_millis()).ok()).map(UtcMillis);
    Some(SignedIn { issuer: issuer.to_owned(), subject, name, auth_time, acr, amr: amr.filter(|a| a.len() <= 16)? })
}

impl From<Algorithm> for CoreJwsSigningAlgorithm {
    fn from(a: Algorithm) -> Self {
        match a {
            Algorithm::RS256 => Self::RsaSsaPkcs1V15Sha256,
            Algorithm::PS256 => Self::RsaSsaPssSha256,
            Algorithm::ES256 => Self::EcdsaP256Sha256,
            Algorithm::EdDSA => Self::EdDsa,
        }
    }
}

fn fetch(http: &Http) -> impl Fn(HttpRequest) -> futures_util::future::BoxFuture<'static, Result<openidconnect::HttpResponse, FetchError>> {
    let http = http.clone();
    move |request| {
        let http = http.clone();
        Box::pin(async move { http.send(request).await })
    }
}

fn discovery_sentence(e: &DiscoveryError<FetchError>) -> String {
    match e {
        DiscoveryError::Request(e) => e.to_string(),
        DiscoveryError::Response(status, ..) => format!("expected its metadata or keys as JSON, got HTTP status {}", status.as_u16()),
        DiscoveryError::Validation(_) => "its metadata names another issuer".to_owned(),
        _ => "expected its metadata or keys as JSON".to_owned(),
    }
}

/// An error code of OAuth, as far as it looks like one: what a stranger wrote is not repeated in a sentence of ours.
fn code_word(text: &str) -> String {
    let word = text.len() <= 64 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if word { format!("`{text}`") } else { "an unknown error".to_owned() }
}

fn i64_millis(t: UtcMillis) -> i64 {
    i64::try_from(t.0).unwrap_or(i64::MAX)
}

/// RFC 9207 §3: says whether a callback without `iss` is one of this provider's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CallbackIss {
    #[serde(default, rename = "authorization_response_iss_parameter_supported")]
    names_itself_in_callback: bool,
}

impl AdditionalProviderMetadata for CallbackIss {}

type Metadata = ProviderMetadata<
    CallbackIss,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

const LEEWAY_MS: u64 = 30_000;
const KEYS_COOLDOWN_MS: u64 = 30_000;
const MAX_CODE_BYTES: usize = 4096;
