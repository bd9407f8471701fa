//! What is counted at the doors: requests, limits, connections, certificates.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{LATENCY, Outcome, Word};

/// A route as it is written in the route table, never a path that somebody asked for: the set is closed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Limited {
    door: Word,
    per: Word,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Why {
    why: Word,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Lane {
    lane: Word,
}

/// The doors' part of the metrics page.
#[derive(Default)]
pub struct HttpMetrics {
    requests: Family<Request, Counter>,
    seconds: Seconds,
    limited: Family<Limited, Counter>,
    connections: Gauge<i64, AtomicI64>,
    turned_away: Family<Why, Counter>,
    tls_reloads: Family<Outcome, Counter>,
    writer_waiting: Family<Lane, Gauge>,
}

struct Seconds(Family<Route, Histogram, fn() -> Histogram>);

impl Default for Seconds {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(LATENCY)))
    }
}

/// An open connection; closed when dropped.
pub struct Open(Gauge<i64, AtomicI64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl HttpMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("http_requests", "Requests by route and status of the answer", self.requests.clone());
        registry.register("http_request_seconds", "From the head of a request until the head of its answer was ready", self.seconds.0.clone());
        registry.register("rate_limited", "Requests answered 429, by door and by whose limit it was", self.limited.clone());
        registry.register("connections", "Connections open", self.connections.clone());
        registry.register("connections_turned_away", "Connections ended before their first request", self.turned_away.clone());
        registry.register("tls_reloads", "Readings of the certificate after the start", self.tls_reloads.clone());
        registry.register("writer_waiting", "Changes that wait for the writer", self.writer_waiting.clone());
        for result in ["accepted", "refused"] {
            _ = self.tls_reloads.get_or_create(&Outcome { result: Word(result) });
        }
        for why in ["per_client", "handshake", "not_accepted"] {
            _ = self.turned_away.get_or_create(&Why { why: Word(why) });
        }
    }

    /// A request of that route was answered with that status after so many microseconds.
    pub fn answered(&self, route: &str, status: u16, us: u64) {
        self.requests.get_or_create(&Request { route: route.to_owned(), status }).inc();
        self.seconds.0.get_or_create(&Route { route: route.to_owned() }).observe(super::secs(us));
    }

    /// A request was answered 429.
    pub fn limited(&self, door: &'static str, per: &'static str) {
        self.limited.get_or_create(&Limited { door: Word(door), per: Word(per) }).inc();
    }

    /// A connection is open for as long as the answer lives.
    pub fn connection(&self) -> Open {
        self.connections.inc();
        Open(self.connections.clone())
    }

    /// A connection was ended before its first request: `per_client`, `handshake` or `not_accepted`.
    pub fn turned_away(&self, why: &'static str) {
        self.turned_away.get_or_create(&Why { why: Word(why) }).inc();
    }

    /// The certificate was read again: `accepted` or `refused`.
    pub fn tls_reloaded(&self, result: &'static str) {
        self.tls_reloads.get_or_create(&Outcome { result: Word(result) }).inc();
    }

    /// So many changes wait, by lane.
    pub fn writer_waits(&self, lanes: [(&'static str, usize); 2]) {
        for (lane, n) in lanes {
            self.writer_waiting.get_or_create(&Lane { lane: Word(lane) }).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
}
