//! One tower layer for axum: configure, map request to action, done.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Method, Request, StatusCode, request::Parts};
use axum::response::{IntoResponse as _, Response};
use procura_verifier::call::Arguments;
use procura_verifier::claims::{DataClass, Name};
use procura_verifier::decision::Cause;
use tower::{Layer, Service};

use crate::guard::{Action, Guard, Presented, Refusal, Told};

/// How a tool maps a request to an action: its parts and its whole body, or a sentence why it is not one.
pub type Mapping = dyn Fn(&Parts, &[u8]) -> Result<Action, String> + Send + Sync;

/// Guards every route below it. A handler gets `Extension<Action>` (what was decided about, and what it must run) and
/// `Extension<Permit>`; it runs only inside the permit.
#[derive(Clone)]
pub struct ProcuraLayer {
    guard: Arc<Guard>,
    mapping: Arc<Mapping>,
    max_body_bytes: usize,
}

impl ProcuraLayer {
    /// A layer that decides with `guard` what `mapping` makes of each request. Bodies of at most 64 KiB.
    pub fn new(guard: Arc<Guard>, mapping: impl Fn(&Parts, &[u8]) -> Result<Action, String> + Send + Sync + 'static) -> Self {
        Self { guard, mapping: Arc::new(mapping), max_body_bytes: 64 * 1024 }
    }
}

impl<S> Layer<S> for ProcuraLayer {
    type Service = ProcuraService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ProcuraService { layer: self.clone(), inner }
    }
}

/// A service behind the layer.
#[derive(Clone)]
pub struct ProcuraService<S> {
    layer: ProcuraLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for ProcuraService<S>
where
    S: Service<Request<Body>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let layer = self.layer.clone();
        // The clone is not known to be ready; the service that was polled is.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            match layer.admit(request).await {
                Ok(request) => inner.call(request).await,
                Err(answer) => Ok(answer),
            }
        })
    }
}

impl ProcuraLayer {
    async fn admit(&self, request: Request<Body>) -> Result<Request<Body>, Response> {
        let (mut parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, self.max_body_bytes).await else {
            return Err(answer(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "body is longer than 65536 bytes"));
        };
        let action = (self.mapping)(&parts, &body).map_err(|why| answer(StatusCode::BAD_REQUEST, "bad_request", &why))?;
        let header = |name: &str| {
            // Two of a header could be read as one by us and as the other by somebody else: that, and bytes that are no
            // text, is something malformed and not nothing.
            let mut all = parts.headers.get_all(name).iter();
            let first = all.next()?;
            if all.next().is_some() { Some("") } else { Some(first.to_str().unwrap_or_default()) }
        };
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|c| c.0.ip());
        let presented = Presented { authorization: header("authorization"), proof: header("procura-proof"), peer };
        let permit = self.guard.check(presented, &action).await.map_err(refused)?;
        // L7: the last clock reading before the effect.
        if !permit.is_valid() {
            return Err(answer(StatusCode::SERVICE_UNAVAILABLE, "stale", "the decision was not used in time; try again"));
        }
        parts.extensions.insert(permit);
        parts.extensions.insert(action);
        Ok(Request::from_parts(parts, Body::from(body)))
    }
}

/// The mapping of a tool whose routes are `POST /{tenant}/{action}/{resource…}`, with the arguments as a JSON object: what most tools
/// need. The class of data is the highest, for nothing says less.
///
/// Another method, or a query, is refused: neither is under the holder's signature, so a handler that read them would do what nobody signed (L5).
pub fn by_path(tool: Name) -> impl Fn(&Parts, &[u8]) -> Result<Action, String> + Send + Sync + 'static {
    move |parts, body| {
        if parts.method != Method::POST || parts.uri.query().is_some() {
            return Err("expected POST without a query: all that is done stands in path and body".to_owned());
        }
        let path = parts.uri.path().strip_prefix('/').unwrap_or_default();
        let mut words = path.splitn(3, '/');
        let (Some(tenant), Some(action), Some(resource)) = (words.next(), words.next(), words.next()) else {
            return Err("expected /tenant/action/resource".to_owned());
        };
        Ok(Action {
            tenant: tenant.parse().map_err(|e| format!("tenant: {e}"))?,
            tool: tool.clone(),
            action: action.parse().map_err(|e| format!("action: {e}"))?,
            resource: resource.parse().map_err(|e| format!("resource: {e}"))?,
            args: Arguments::from_json(body).map_err(|e| e.to_string())?,
            data_class: DataClass::Restricted,
        })
    }
}

fn refused(refusal: Refusal) -> Response {
    let status = match refusal.cause {
        Cause::Malformed | Cause::Signature | Cause::Holder => StatusCode::UNAUTHORIZED,
        // The only ones that waiting mends.
        Cause::Stale | Cause::EngineLimit | Cause::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    };
    let mut response = match refusal.audience {
        Told::Holder => answer(status, refusal.cause.word(), &refusal.cause.to_string()),
        // Whether a stranger's token is forged, revoked or merely not theirs is not for strangers.
        Told::Stranger => answer(StatusCode::UNAUTHORIZED, "denied", "not allowed"),
    };
    let challenge: String = refusal.challenge.iter().map(|b| format!("{b:02x}")).collect();
    if let Ok(value) = HeaderValue::from_str(&challenge) {
        response.headers_mut().insert("procura-challenge", value);
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert("www-authenticate", HeaderValue::from_static("Bearer realm=\"procura\""));
    }
    response
}

fn answer(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(serde_json::json!({ "code": code, "message": message }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(method: &str, uri: &str) -> Result<Action, String> {
        let (parts, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        by_path("payments".parse().unwrap())(&parts, br#"{"amount":1}"#)
    }

    #[test]
    fn a_path_is_an_action_and_what_nobody_signed_is_refused() {
        let action = mapped("POST", "/acme/transfer/acct/eu/7").unwrap();
        assert_eq!((action.tenant.as_str(), action.action.as_str(), action.resource.to_string().as_str()), ("acme", "transfer", "acct/eu/7"));
        assert_eq!(action.data_class, DataClass::Restricted);
        for (method, uri) in [
            ("GET", "/acme/transfer/acct/eu/7"),
            ("POST", "/acme/transfer/acct/eu/7?to=acct/us/1"),
            ("POST", "/acme/transfer/acct/eu/7?"),
            ("POST", "/acme/transfer"),
            ("POST", "/acme/transfer/acct/../7"),
            ("POST", "/acme/transfer/acct/%65u/7"),
        ] {
            assert!(mapped(method, uri).is_err(), "{method} {uri}");
        }
    }
}
