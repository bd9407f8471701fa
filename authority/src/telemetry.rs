//! What the process says of its work: events as lines, and a span for each request to a collector of OTLP.
//!
//! A span says method, route, status, request id and times, all from closed sets or of our making: no address, no header, no
//! body, no name. It is queued without waiting; what the collector does not take is dropped.

use std::fmt;
use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat, Traces};

/// Writes events to standard error from now on. `PROCURA_LOG` goes before the filter of the configuration.
pub fn init(log: &Log) {
    let filter = EnvFilter::try_from_env("PROCURA_LOG").unwrap_or_else(|_| EnvFilter::new(&log.filter));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
}

/// Where spans go. Cheap to clone.
#[derive(Clone)]
pub struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span that is sent when it ends, or is dropped because the client has gone away.
pub struct Traced(Span);

impl Exporter {
    /// Sends to the configured collector. A collector that is down is not waited for.
    pub fn start(traces: &Traces) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(EXPORT_TIME).redirect(reqwest::redirect::Policy::none()).build()?;
        let client = Client { http, runtime: tokio::runtime::Handle::current() };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&traces.endpoint)
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(EXPORT_TIME)
            .build()
            .context("traces.endpoint")?;
        let bounds =
            BatchConfigBuilder::default().with_max_queue_size(MAX_QUEUED).with_max_export_batch_size(MAX_AT_ONCE).with_scheduled_delay(SEND_EVERY).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(bounds).build())
            // By the trace's id and nothing else: a stranger's flag does not make us send more.
            .with_sampler(Sampler::TraceIdRatioBased(traces.ratio))
            .with_resource(Resource::builder().with_service_name("procura").with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build())
            .build();
        Ok(Self { tracer: provider.tracer("procura"), provider })
    }

    /// A span of a request that just came in; none if its caller's trace is not to be recorded.
    pub fn begin(&self, method: &Method, route: &str, parent: Option<&TraceParent>, id: &str) -> Option<Traced> {
        if parent.is_some_and(|p| !p.is_sampled) {
            return None;
        }
        let method = if KNOWN.contains(method) { method.to_string() } else { "_OTHER".to_owned() };
        let context = parent.map_or_else(Context::new, |p| Context::new().with_remote_span_context(p.context()));
        let attributes = [("http.request.method", method.clone()), ("http.route", route.to_owned()), ("procura.request.id", id.to_owned())];
        let span = self
            .tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes.map(|(name, value)| KeyValue::new(name, value)))
            .start_with_context(&self.tracer, &context);
        Some(Traced(span))
    }

    /// Sends what is queued, for at most `within`.
    pub async fn end(self, within: Duration) {
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(within)).await;
        if let Ok(Err(e)) = ended {
            tracing::warn!(error = %e, "traces.not_sent");
        }
    }
}

impl Traced {
    /// The answer's head is ready.
    pub fn end(mut self, status: StatusCode) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.0.set_status(Status::error(""));
        }
        self.0.end();
    }
}

/// The caller's place in its own trace (W3C Trace Context): a name to group by, which proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

impl TraceParent {
    /// From the one `traceparent` of a request; anything that is not in its form counts as none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut said = headers.get_all("traceparent").iter();
        let text = said.next().filter(|_| said.next().is_none())?.to_str().ok()?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = lower_hex::<1>(version)?;
        // §3.2: later versions may say more behind.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace, span, [flags]) = (lower_hex::<16>(trace)?, lower_hex::<8>(span)?, lower_hex::<1>(flags)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }

    /// The trace's id in hex.
    pub fn trace_text(&self) -> String {
        hex::encode(self.trace)
    }

    fn context(&self) -> SpanContext {
        SpanContext::new(TraceId::from_bytes(self.trace), SpanId::from_bytes(self.span), TraceFlags::SAMPLED, true, TraceState::default())
    }
}

fn lower_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}

/// The exporter's thread has no runtime of its own: what it sends runs on ours.
struct Client {
    http: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = http.execute(request.try_into()?).await?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                    return Err("the collector's answer is longer than an answer may be".into());
                }
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::builder().status(answer.status()).body(Bytes::from(body))?;
            *response.headers_mut() = std::mem::take(answer.headers_mut());
            Ok::<_, HttpError>(response)
        });
        Box::pin(async move { sent.await? })
    }
}

/// Names of methods that stand in a span; any other is `_OTHER`.
const KNOWN: [Method; 7] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PATCH];
const MAX_QUEUED: usize = 2048;
const MAX_AT_ONCE: usize = 512;
const SEND_EVERY: Duration = Duration::from_secs(1);
const EXPORT_TIME: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_parent_is_read_as_the_recommendation_says() {
        let read = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|l| _ = headers.append("traceparent", l.parse().unwrap()));
            TraceParent::of(&headers)
        };
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = read(&[GOOD]).unwrap();
        assert_eq!((parent.trace_text().as_str(), parent.is_sampled), ("4bf92f3577b34da6a3ce929d0e0e4736", true));
        assert!(!read(&[&GOOD.replace("-01", "-00")]).unwrap().is_sampled);
        assert!(read(&[&format!("cc{}-more", &GOOD[2..])]).is_some(), "a later version");
        for bad in [
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &format!("ff{}", &GOOD[2..]),
            &GOOD[..50].to_owned(),
            &String::new(),
        ] {
            assert_eq!(read(&[bad]), None, "{bad}");
        }
        assert_eq!(read(&[GOOD, GOOD]), None, "said twice");
    }
}
