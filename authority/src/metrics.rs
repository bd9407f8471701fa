//! What the process counts and measures, in Prometheus' text form (`docs/operations.md`, metrics). No names, no ids: only numbers.

mod http;

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::http::{HttpMetrics, Open};

type Float = Gauge<f64, AtomicU64>;

/// A word of ours: label values are a closed set, so that nothing from outside makes a series.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Word(pub &'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

macro_rules! label {
    ($name:ident, $field:ident) => {
        #[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
        struct $name {
            $field: Word,
        }
    };
}
label!(What, what);
label!(Outcome, result);
label!(State, state);
label!(ModeLabel, mode);
label!(Kind, kind);
label!(PartLabel, part);
label!(UseLabel, usage);

/// Everything measured by one process. Cheap to share behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    commit_seconds: Histogram,
    commit_failures: Counter,
    revocations: Family<What, Counter>,
    acks: Family<Outcome, Counter>,
    sign_ins: Family<Outcome, Counter>,
    confirm_seconds: Histogram,
    drills: Family<Outcome, Counter>,
    drill_age: Float,
    feed_epoch: Gauge,
    feed_head: Gauge,
    log_size: Gauge,
    listeners: Family<Kind, Gauge>,
    verifiers: Family<State, Gauge>,
    modes: Family<ModeLabel, Gauge>,
    /// At the doors.
    pub http: HttpMetrics,
    parts: Family<PartLabel, Gauge>,
    keys_left: Family<UseLabel, Gauge>,
    beat_age: Float,
    redis: Family<Outcome, Gauge>,
    /// What was looked up last, and when: whoever looks holds it, and the others wait for what comes of it.
    pub looked_up: tokio::sync::Mutex<Option<(procura_verifier::ids::BootTime, Gauges)>>,
}

/// What is looked up at the moment of asking.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Seconds since the last drill; none if there never was one.
    pub drill_age_secs: Option<f64>,
    /// The feed: epoch and number.
    pub feed: (u64, u64),
    /// Leaves in the log.
    pub log_size: u64,
    /// Streams by kind.
    pub listeners: Vec<(&'static str, usize)>,
    /// Verifiers by state.
    pub verifiers: Vec<(&'static str, usize)>,
    /// Runs of verifiers by mode.
    pub modes: Vec<(&'static str, usize)>,
    /// Parts with 0 for ok, 1 for degraded, 2 for failed.
    pub parts: Vec<(&'static str, u8)>,
    /// Seconds until the last key of each use ends; 0 if there is none.
    pub keys_left_secs: Vec<(&'static str, u64)>,
    /// Seconds since the newest heartbeat that this process signed; none if it has signed none.
    pub beat_age_secs: Option<f64>,
    /// Messages given to Redis, by what became of them; none where there is no Redis.
    pub redis: Option<[(&'static str, u64); 2]>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("procura");
        let commit_seconds = Histogram::new(LATENCY);
        let confirm_seconds = Histogram::new(LATENCY);
        let m = Self {
            commit_seconds: commit_seconds.clone(),
            confirm_seconds: confirm_seconds.clone(),
            commit_failures: Counter::default(),
            revocations: Family::default(),
            acks: Family::default(),
            sign_ins: Family::default(),
            drills: Family::default(),
            drill_age: Float::default(),
            feed_epoch: Gauge::default(),
            feed_head: Gauge::default(),
            log_size: Gauge::default(),
            listeners: Family::default(),
            verifiers: Family::default(),
            modes: Family::default(),
            http: HttpMetrics::default(),
            parts: Family::default(),
            keys_left: Family::default(),
            beat_age: Float::default(),
            redis: Family::default(),
            registry: Registry::default(),
            looked_up: tokio::sync::Mutex::default(),
        };
        registry.register("commit_seconds", "From handing a batch to the database until COMMIT returned", commit_seconds);
        registry.register("commit_failures", "Batches that were not written", m.commit_failures.clone());
        registry.register("revocations", "Revocations committed by this process", m.revocations.clone());
        registry.register("acknowledgements", "Acknowledgements of verifiers by what became of them", m.acks.clone());
        registry.register("sign_ins", "Verifiers' sign-ins to streams by what became of them", m.sign_ins.clone());
        registry.register("confirm_seconds", "From the commit of a revocation that was waited for until a verifier's word was here", confirm_seconds);
        registry.register("drills", "Drills run by this process", m.drills.clone());
        registry.register("drill_age_seconds", "Age of the last drill of the tenant; +Inf if there never was one", m.drill_age.clone());
        registry.register("feed_epoch", "Epoch of the revocation feed", m.feed_epoch.clone());
        registry.register("feed_head", "Number of the newest feed message in its epoch", m.feed_head.clone());
        registry.register("log_size", "Leaves in the log", m.log_size.clone());
        registry.register("listeners", "Streams of the feed at this process", m.listeners.clone());
        registry.register("verifiers", "Enrolled verifiers by state", m.verifiers.clone());
        registry.register("verifier_modes", "Runs of verifiers by the mode they last gave", m.modes.clone());
        m.http.register(&mut registry);
        registry.register("part", "Parts as /readyz names them: 0 ok, 1 degraded, 2 failed", m.parts.clone());
        registry.register("key_left_seconds", "Until the last key at hand of that use ends, without a gap from now on", m.keys_left.clone());
        registry.register("beat_age_seconds", "Since the newest heartbeat that this process signed; it signs none while nobody listens", m.beat_age.clone());
        registry.register("redis_messages", "Messages given to Redis by what became of them", m.redis.clone());
        // From the start: a series that appears with its first event cannot be compared with before.
        for result in ["accepted", "old", "refused", "above_head"] {
            _ = m.acks.get_or_create(&Outcome { result: Word(result) });
        }
        for result in ["accepted", "refused"] {
            _ = m.sign_ins.get_or_create(&Outcome { result: Word(result) });
        }
        Self { registry, ..m }
    }

    /// A batch was committed after so many microseconds.
    pub fn committed(&self, us: u64) {
        self.commit_seconds.observe(secs(us));
    }

    /// A batch was not written.
    pub fn commit_failed(&self) {
        self.commit_failures.inc();
    }

    /// Something was taken back.
    pub fn revoked(&self, what: &'static str) {
        self.revocations.get_or_create(&What { what: Word(what) }).inc();
    }

    /// An acknowledgement came in: `accepted`, `old`, `refused` or `above_head`.
    pub fn acknowledged(&self, result: &'static str) {
        self.acks.get_or_create(&Outcome { result: Word(result) }).inc();
    }

    /// A verifier signed in, or tried to: `accepted` or `refused`.
    pub fn signed_in(&self, result: &'static str) {
        self.sign_ins.get_or_create(&Outcome { result: Word(result) }).inc();
    }

    /// A verifier confirmed a revocation that somebody waited for, so many milliseconds after its commit.
    pub fn confirmed(&self, ms: u64) {
        self.confirm_seconds.observe(secs(ms.saturating_mul(1000)));
    }

    /// A drill ended: `covered` or `not_covered`.
    pub fn drilled(&self, result: &'static str) {
        self.drills.get_or_create(&Outcome { result: Word(result) }).inc();
    }

    /// The whole page.
    pub fn page(&self, now: &Gauges) -> Result<String, std::fmt::Error> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.drill_age.set(now.drill_age_secs.unwrap_or(f64::INFINITY));
        self.feed_epoch.set(number(now.feed.0));
        self.feed_head.set(number(now.feed.1));
        self.log_size.set(number(now.log_size));
        for (kind, n) in &now.listeners {
            self.listeners.get_or_create(&Kind { kind: Word(kind) }).set(count(*n));
        }
        for (state, n) in &now.verifiers {
            self.verifiers.get_or_create(&State { state: Word(state) }).set(count(*n));
        }
        for (mode, n) in &now.modes {
            self.modes.get_or_create(&ModeLabel { mode: Word(mode) }).set(count(*n));
        }
        for (part, condition) in &now.parts {
            self.parts.get_or_create(&PartLabel { part: Word(part) }).set(i64::from(*condition));
        }
        for (usage, secs) in &now.keys_left_secs {
            self.keys_left.get_or_create(&UseLabel { usage: Word(usage) }).set(number(*secs));
        }
        self.beat_age.set(now.beat_age_secs.unwrap_or(f64::INFINITY));
        for (result, n) in now.redis.iter().flatten() {
            self.redis.get_or_create(&Outcome { result: Word(result) }).set(number(*n));
        }
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn secs(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

/// From half a millisecond to five seconds, close together where the promises are.
const LATENCY: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0, 5.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_metric_with_its_labels() {
        let m = Metrics::new();
        let page = m.page(&Gauges::default()).unwrap();
        assert!(page.contains("procura_drill_age_seconds +Inf") || page.contains("procura_drill_age_seconds inf"), "{page}");
        assert!(page.contains("procura_acknowledgements_total{result=\"above_head\"} 0"), "{page}");
        m.revoked("human");
        m.acknowledged("above_head");
        m.committed(3_000);
        let gauges = Gauges { drill_age_secs: Some(3.5), feed: (1, 7), verifiers: vec![("current", 2)], modes: vec![("best_effort", 1)], ..Gauges::default() };
        let page = m.page(&gauges).unwrap();
        for line in [
            "procura_drill_age_seconds 3.5",
            "procura_feed_head 7",
            "procura_revocations_total{what=\"human\"} 1",
            "procura_acknowledgements_total{result=\"above_head\"} 1",
            "procura_commit_seconds_bucket{le=\"0.005\"} 1",
            "procura_commit_seconds_bucket{le=\"0.002\"} 0",
            "procura_verifiers{state=\"current\"} 2",
            "procura_verifier_modes{mode=\"best_effort\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in {page}");
        }
    }
}
