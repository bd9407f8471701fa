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
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(3))
            .timeout(Duration::from_secs(10));
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
