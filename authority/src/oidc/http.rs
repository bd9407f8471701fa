//! The one HTTP client towards providers: no redirects (a provider must not send us to a host of its choice), bounded in time and size.

use std::time::Duration;

use openidconnect::{HttpRequest, HttpResponse};
use reqwest::Url;

/// Why a provider could not be asked. Says nothing of what was sent or received.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    Transport(&'static str),
    #[error("its answer is longer than {MAX_BODY_BYTES} bytes")]
    TooLong,
    #[error("expected an https address, or one on loopback for a provider on loopback")]
    Address,
}

#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    loopback: bool,
}

impl Http {
    /// A client for one issuer. `None` if the process has no TLS provider installed, or TLS cannot start.
    pub(super) fn new(issuer: &Url) -> Option<Self> {
        // reqwest would panic instead.
        rustls::crypto::CryptoProvider::get_default()?;
        let loopback = is_loopback(issuer);
        let builder =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).connect_timeout(Duration::from_secs(3)).timeout(Duration::from_secs(10));
        let builder = if loopback { builder.no_proxy() } else { builder };
        Some(Self { client: builder.build().ok()?, loopback })
    }

    /// True if requests may go there: https, or plain http between two ends on loopback. Metadata names
    /// the other endpoints, so each request is checked, not only the issuer.
    pub(super) fn may_ask(&self, url: &Url) -> bool {
        url.scheme() == "https" || (self.loopback && is_loopback(url))
    }

    pub(super) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let request = reqwest::Request::try_from(request).map_err(|_| FetchError::Address)?;
        if !self.may_ask(request.url()) {
            return Err(FetchError::Address);
        }
        let mut response = self.client.execute(request).await.map_err(|e| transport(&e))?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| transport(&e))? {
            if body.len().saturating_add(chunk.len()) > MAX_BODY_BYTES {
                return Err(FetchError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        let mut answer = HttpResponse::new(body);
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        Ok(answer)
    }
}

/// True for `http://127.0.0.1`, `http://[::1]` and their kin by number: names can be made to point anywhere.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    url.scheme() == "http" && host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn transport(error: &reqwest::Error) -> FetchError {
    FetchError::Transport(if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the exchange broke off"
    })
}

const MAX_BODY_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn answers_are_bounded_and_redirects_not_followed() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", bound.local_addr().unwrap());
        let app = Router::new()
            .route("/full", get(|| async { "x".repeat(MAX_BODY_BYTES) }))
            .route("/long", get(|| async { "x".repeat(MAX_BODY_BYTES + 1) }))
            .route("/away", get(|| async { Redirect::to("/full") }));
        tokio::spawn(async { axum::serve(bound, app).await.unwrap() });
        let http = Http::new(&url(&base)).unwrap();
        let ask = |path: &str| {
            let mut request = HttpRequest::new(vec![]);
            *request.uri_mut() = format!("{base}{path}").parse().unwrap();
            http.send(request)
        };
        assert_eq!(ask("/full").await.unwrap().body().len(), MAX_BODY_BYTES);
        assert!(matches!(ask("/long").await, Err(FetchError::TooLong)));
        assert_eq!(ask("/away").await.unwrap().status(), 303);
    }

    #[test]
    fn plain_http_is_between_two_ends_on_loopback() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let loopback = Http::new(&url("http://127.0.0.1:1")).unwrap();
        let company = Http::new(&url("https://idp.example")).unwrap();
        for (address, from_loopback, from_company) in [
            ("https://keys.example/jwks", true, true),
            ("http://[::1]:1/jwks", true, false),
            ("http://127.0.0.1:1/jwks", true, false),
            ("http://idp.example/jwks", false, false),
            ("http://localhost:1/jwks", false, false),
            ("ftp://127.0.0.1/jwks", false, false),
        ] {
            assert_eq!((loopback.may_ask(&url(address)), company.may_ask(&url(address))), (from_loopback, from_company), "{address}");
        }
    }
}
