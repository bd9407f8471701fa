//! The door on the network: connections come in, bounded in number and in time, and their requests go to the router.
//!
//! Against clients that are slow on purpose: a head, a handshake and an idle connection have `header_secs`, a body has
//! `body_secs` (`http::in_time`), and an answer that is not taken has `stall_secs`. Against many connections: so many in all,
//! so many for each client address.

pub mod proxy;
mod seats;
mod stall;
pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service as _;

use self::proxy::Proxies;
use self::seats::Seats;
use self::stall::Stalling;
use self::tls::Certificates;
use crate::config::Limits;
use crate::metrics::Metrics;

/// A listener and what its connections may cost.
pub struct Door {
    /// Where they come in.
    pub listener: TcpListener,
    /// Our certificate; none: in the clear.
    pub certificates: Option<Arc<Certificates>>,
    /// Whose connections carry those of many clients.
    pub proxies: Proxies,
    /// How many, and how long.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Door {
    /// Serves until `stopping` says so, then ends every connection with the request under way, and cuts off what lasts longer
    /// than `stop_secs`.
    pub async fn serve(self, router: Router, stopping: watch::Receiver<bool>) {
        let Self { listener, certificates, proxies, limits, metrics } = self;
        let places = Arc::new(Semaphore::new(limits.connections as usize));
        let seats = Seats::new(limits.connections_per_client as usize);
        let shared = Arc::new(Shared { router, certificates, limits, metrics, stopping: stopping.clone() });
        let mut open = JoinSet::new();
        let mut stop = std::pin::pin!(crate::app::until(stopping));
        loop {
            // Waiting for a place leaves the rest to the kernel's queue: nobody is refused because somebody is slow for a moment.
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = &mut stop => break,
            };
            let Ok(place) = place else { break };
            let accepted = loop {
                tokio::select! {
                    accepted = listener.accept() => break Some(accepted),
                    Some(_) = open.join_next() => {}
                    () = &mut stop => break None,
                }
            };
            let (stream, peer) = match accepted {
                None => break,
                Some(Ok(accepted)) => accepted,
                Some(Err(e)) if is_of_one_connection(&e) => continue,
                Some(Err(e)) => {
                    // Out of file descriptors, most likely: accepting again at once would only spin.
                    tracing::error!(error = %e, "server.not_accepted");
                    shared.metrics.http.turned_away("not_accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let seat = if proxies.trusts(peer.ip()) { None } else { Some(seats.take(peer.ip())) };
            if matches!(seat, Some(None)) {
                shared.metrics.http.turned_away("per_client");
                continue;
            }
            let shared = Arc::clone(&shared);
            open.spawn(async move {
                let counted = shared.metrics.http.connection();
                shared.connection(stream, peer).await;
                drop((counted, seat, place));
            });
        }
        drop(listener);
        let last = Duration::from_secs(shared.limits.stop_secs.into());
        if timeout(last, async { while open.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!(connections = open.len(), after_secs = last.as_secs(), "server.cut_off");
            open.shutdown().await;
        }
    }
}

struct Shared {
    router: Router,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<bool>,
}

impl Shared {
    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        // Heartbeats are small and each matters now: no waiting for more to send.
        _ = stream.set_nodelay(true);
        let stream = Stalling::new(stream, Duration::from_secs(self.limits.stall_secs.into()));
        let Some(certificates) = &self.certificates else { return self.http1(stream, peer).await };
        let handshake = tokio_rustls::TlsAcceptor::from(certificates.current()).accept(stream);
        match timeout(self.header_time(), handshake).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(tls::H2) => self.http2(stream, peer).await,
            Ok(Ok(stream)) => self.http1(stream, peer).await,
            // A stranger's failure: counted, and written only for who looks for it.
            Ok(Err(e)) => {
                self.metrics.http.turned_away("handshake");
                tracing::debug!(client = %peer.ip(), error = %e, "tls.handshake_failed");
            }
            Err(_) => self.metrics.http.turned_away("handshake"),
        }
    }

    async fn http1(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let router = self.router.clone();
        let service = service_fn(move |request| answer(router.clone(), request, peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_time())
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(io), service);
        self.see_out(connection, None).await;
    }

    async fn http2(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let asked = Arc::new(AtomicBool::new(false));
        let (router, has_asked) = (self.router.clone(), Arc::clone(&asked));
        let service = service_fn(move |request| {
            has_asked.store(true, Ordering::Relaxed);
            answer(router.clone(), request, peer)
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD_BYTES_H2)
            .max_concurrent_streams(MAX_STREAMS_H2)
            .keep_alive_interval(self.header_time())
            .keep_alive_timeout(self.header_time())
            .serve_connection(TokioIo::new(io), service);
        self.see_out(connection, Some(asked)).await;
    }

    /// Until it ends of itself, or the server stops. A connection of HTTP/2 has no time for its first head in hyper: here it has.
    async fn see_out<C: GracefulConnection>(&self, connection: C, asked: Option<Arc<AtomicBool>>) {
        let mut connection = std::pin::pin!(connection);
        let mut stop = std::pin::pin!(crate::app::until(self.stopping.clone()));
        let mut first = std::pin::pin!(tokio::time::sleep(self.header_time()));
        let (mut is_stopping, mut waits) = (false, asked.is_some());
        loop {
            tokio::select! {
                // What a client does wrong to its own connection is no news.
                _ = connection.as_mut() => return,
                () = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut first, if waits => {
                    waits = false;
                    if asked.as_ref().is_some_and(|a| !a.load(Ordering::Relaxed)) {
                        return;
                    }
                }
            }
        }
    }

    fn header_time(&self) -> Duration {
        Duration::from_secs(self.limits.header_secs.into())
    }
}

async fn answer(mut router: Router, mut request: Request<Incoming>, peer: SocketAddr) -> Result<Response, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    router.call(request.map(Body::new)).await
}

/// Given up by the client between its connecting and our accepting.
fn is_of_one_connection(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A presented token has to fit a head of 8 KiB; a browser brings eight sign-ins under way of 4 KiB each.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEAD_BYTES_H2: u32 = 64 * 1024;
/// Requests at once on one connection of HTTP/2.
const MAX_STREAMS_H2: u32 = 128;
