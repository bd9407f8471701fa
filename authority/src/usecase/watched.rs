//! Who listens: every enrolled verifier with what is known of it, and the same in numbers.

use procura_verifier::key_list::KeyUse;

use super::parts::parts;
use super::{Context, Unavailable};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::domain::verifier::Verifier;
use crate::metrics::Gauges;
use crate::watch::Heard;

/// A verifier in force, and its runs, the newest first. Empty: never heard of by this authority.
#[derive(Clone, Debug)]
pub struct Watched {
    /// As enrolled.
    pub verifier: Verifier,
    /// What its processes last said.
    pub runs: Vec<Heard>,
}

/// What a verifier's newest word amounts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Heard of within [`SILENT_MS`], with everything applied that this process knows to be committed.
    Current,
    /// Heard of, and behind.
    Behind,
    /// Not heard of for longer.
    Silent,
    /// Never.
    NeverSeen,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Current, Self::Behind, Self::Silent, Self::NeverSeen];

    /// As the API and metrics say it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Silent => "silent",
            Self::NeverSeen => "never_seen",
        }
    }
}

/// Why they are not listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchedError {
    /// Security, admin and auditor see them.
    #[error("only the roles security, admin and auditor see verifiers")]
    Forbidden,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// After three acknowledgements that did not come.
pub const SILENT_MS: u64 = 3_000;

/// Everyone enrolled, by audience, as of now: what other replicas have heard is included.
pub async fn watched(ctx: &Context, by: &Principal) -> Result<Vec<Watched>, WatchedError> {
    if ![Role::Security, Role::Admin, Role::Auditor].into_iter().any(|r| by.has(r)) {
        return Err(WatchedError::Forbidden);
    }
    Ok(everyone(ctx).await?)
}

async fn everyone(ctx: &Context) -> Result<Vec<Watched>, Unavailable> {
    ctx.watch.refresh().await;
    let enrolled = ctx.store.verifiers().await?;
    let mut all = ctx.watch.runs();
    all.sort_by_key(|h| std::cmp::Reverse(h.heard));
    let runs = |v: &Verifier| all.iter().filter(|h| h.verifier == v.id).cloned().collect();
    Ok(enrolled.into_iter().map(|verifier| Watched { runs: runs(&verifier), verifier }).collect())
}

impl Watched {
    /// Where its newest run stands.
    pub fn state(&self, ctx: &Context) -> State {
        let Some(newest) = self.runs.first() else { return State::NeverSeen };
        let (now, head) = (ctx.clock.boot(), ctx.feed.head());
        match &newest.seen {
            _ if now.micros_since(newest.heard) > SILENT_MS * 1000 => State::Silent,
            Some(seen) if seen.has(head.epoch, head.seq) => State::Current,
            _ => State::Behind,
        }
    }
}

/// What the metrics page says of this moment, or of one at most 200 ms ago: anybody may ask for it, and what it reads of
/// the database is what a kill's wait reads.
pub async fn gauges(ctx: &Context) -> Result<Gauges, Unavailable> {
    let mut last = ctx.metrics.looked_up.lock().await;
    let now = ctx.clock.boot();
    match &*last {
        Some((at, gauges)) if now.micros_since(*at) < GAUGES_US => Ok(gauges.clone()),
        _ => Ok(last.insert((now, look(ctx).await?)).1.clone()),
    }
}

async fn look(ctx: &Context) -> Result<Gauges, Unavailable> {
    let (all, head, drill) = (everyone(ctx).await?, ctx.store.head().await?, ctx.store.last_drill().await?);
    let modes = |word: &str| all.iter().filter_map(|w| w.runs.first()).filter(|h| h.mode.word() == word).count();
    let age_ms = drill.map(|(at, _)| ctx.now().0.saturating_sub(at.0));
    // Who could not read the database does not come to this line.
    let known: Vec<_> = parts(ctx).into_iter().map(|p| (p.name, p.condition as u8)).collect();
    let left_secs = |usage: KeyUse| ctx.signs_until(usage, ctx.now()).map_or(0, |until| until.0.saturating_sub(ctx.now().0) / 1000);
    Ok(Gauges {
        parts: [vec![("database", if ctx.writer.is_running() { 0 } else { 2 })], known].concat(),
        keys_left_secs: KeyUse::ALL.map(|usage| (usage.name(), left_secs(usage))).to_vec(),
        beat_age_secs: ctx.feed.beat_age_us(ctx.clock.boot()).map(|us| std::time::Duration::from_micros(us).as_secs_f64()),
        redis: ctx.feed.redis().map(|r| [("published", r.published), ("dropped", r.dropped)]),
        drill_age_secs: age_ms.map(|ms| std::time::Duration::from_millis(ms).as_secs_f64()),
        feed: (head.feed.epoch, head.feed.seq),
        log_size: head.tree.size,
        listeners: vec![("signed_in", ctx.watch.signed_in_streams()), ("anonymous", ctx.watch.anonymous_streams())],
        verifiers: State::ALL.map(|s| (s.word(), all.iter().filter(|w| w.state(ctx) == s).count())).to_vec(),
        modes: ["strict", "bounded", "best_effort"].map(|word| (word, modes(word))).to_vec(),
    })
}

const GAUGES_US: u64 = 200_000;
