//! Waits until every verifier has confirmed a revocation or is presumed to deny, and puts the answer on record.

pub mod live;

use std::collections::BTreeMap;
use std::time::Duration;

use procura_verifier::claims::Audience;
use procura_verifier::decision::Mode;
use procura_verifier::ids::{BootTime, VerifierId};

use super::revoke::{RevokeError, Revoked, Target, revoke};
use super::{Context, Once, Unavailable};
use crate::domain::principal::Principal;
use crate::domain::verifier::Verifier;
use crate::log::event::{self, Actor, Covered, Encoded, NotCovered, Standing};
use crate::store::{Change, Row};
use crate::watch::{Gone, Heard, Run, Waiting, memory_ms};

/// Longest wait.
pub const MAX_WAIT: Duration = Duration::from_secs(15);

/// Who has heard of a revocation, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Milliseconds from the commit to this answer.
    pub waited_ms: u64,
    /// Every run of every verifier in force: exceptions first, then by audience.
    pub runs: Vec<Standpoint>,
    /// Streams of nobody known: not covered, whoever they are.
    pub anonymous: u64,
    /// Where the log says so, its first part; none if that could not be written.
    pub leaf: Option<u64>,
}

/// One run of a verifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standpoint {
    /// Which verifier.
    pub verifier: VerifierId,
    /// For which service and instance.
    pub audience: Audience,
    /// Which run; none of one that was never heard of, and of those that made room for later ones.
    pub run: Option<[u8; 16]>,
    /// Where it stands.
    pub standing: Standing,
}

impl Coverage {
    /// How many have confirmed, are presumed to deny, and are not covered.
    pub fn counts(&self) -> (u64, u64, u64) {
        self.runs.iter().fold((0, 0, 0), |(c, f, n), s| match s.standing {
            Standing::Confirmed { .. } => (c + 1, f, n),
            Standing::Fenced { .. } => (c, f + 1, n),
            Standing::NotCovered { .. } => (c, f, n + 1),
        })
    }

    /// True if nobody is left who may go on allowing.
    pub fn is_whole(&self) -> bool {
        self.counts().2 == 0 && self.anonymous == 0
    }

    /// Milliseconds from the commit to the last confirmation.
    pub fn slowest_ms(&self) -> Option<u64> {
        self.runs.iter().filter_map(|s| if let Standing::Confirmed { after_ms, .. } = s.standing { Some(after_ms) } else { None }).max()
    }

    /// The leaves that say so, ready to be signed. Long ones name the exceptions first and count the rest.
    pub(super) fn events(&self, revoked: &Revoked, epoch: u64, by: Actor) -> Vec<event::Coverage> {
        let (confirmed, fenced, not_covered) = self.counts();
        let named: Vec<Covered> = self
            .runs
            .iter()
            .take(MAX_NAMED)
            .map(|s| Covered { verifier: s.verifier, run: s.run.map(|r| Encoded(r.to_vec())), standing: s.standing.clone() })
            .collect();
        let unnamed = self.runs.len().saturating_sub(named.len()) as u64;
        let mut chunks: Vec<Vec<Covered>> = named.chunks(NAMED_IN_A_LEAF).map(<[_]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let parts = chunks.len() as u64;
        let part = |(part, verifiers)| event::Coverage {
            revocation: revoked.leaf,
            epoch,
            seq: revoked.feed_seq,
            part,
            parts,
            waited_ms: self.waited_ms,
            verifiers,
            confirmed,
            fenced,
            not_covered,
            unnamed,
            anonymous: self.anonymous,
            by,
        };
        (0..).zip(chunks).map(part).collect()
    }
}

/// Revokes, waits, and records the answer. The revocation stands whatever becomes of the rest.
pub async fn revoke_and_wait(
    ctx: &Context,
    by: &Principal,
    target: Target,
    reason: Option<String>,
    once: Option<Once>,
    patience: Duration,
) -> Result<(Revoked, Result<Coverage, Unavailable>), RevokeError> {
    let (revoked, coverage) = revoke_and_look(ctx, by, target, reason, once, patience).await?;
    let mut coverage = match coverage {
        Ok(coverage) => coverage,
        Err(e) => return Ok((revoked, Err(e))),
    };
    match record(ctx, &revoked, &coverage, actor(by), |_| Ok((Vec::new(), Vec::new()))).await {
        Ok(leaf) => coverage.leaf = Some(leaf),
        Err(e) => tracing::error!(error = %e, revocation = revoked.leaf, "coverage.not_recorded"),
    }
    Ok((revoked, Ok(coverage)))
}

/// [`revoke_and_wait`] up to the record.
pub(super) async fn revoke_and_look(
    ctx: &Context,
    by: &Principal,
    target: Target,
    reason: Option<String>,
    once: Option<Once>,
    patience: Duration,
) -> Result<(Revoked, Result<Coverage, Unavailable>), RevokeError> {
    // Beside each other: a board that hangs must not hold up a kill.
    let (waiting, revoked) = tokio::join!(ctx.watch.begin_wait(), revoke(ctx, by, target, reason, once));
    let revoked = revoked?;
    let coverage = look(ctx, waiting, &revoked, patience.min(MAX_WAIT), |_| ()).await;
    Ok((revoked, coverage))
}

/// Writes the answer, and what `more` adds to it, in one change.
pub(super) async fn record(
    ctx: &Context,
    revoked: &Revoked,
    coverage: &Coverage,
    by: Actor,
    more: impl FnOnce(&Context) -> Result<(Vec<Vec<u8>>, Vec<Row>), Unavailable>,
) -> Result<u64, Unavailable> {
    let now = ctx.now();
    let events = coverage.events(revoked, ctx.feed.head().epoch, by);
    let mut leaves = events.into_iter().map(|e| ctx.leaf(e, now)).collect::<Result<Vec<_>, _>>()?;
    let (last, rows) = more(ctx)?;
    leaves.extend(last);
    let written = ctx.writer.submit(Change { rows, leaves, ..Change::default() }).await.map_err(Unavailable::from_write)?;
    Ok(written.placed.leaves.start)
}

/// As leaves name who asked.
pub(super) fn actor(by: &Principal) -> Actor {
    by.human().map_or(Actor::LocalOperator, Actor::Human)
}

/// Waits until all is said or `patience` is over; `tell` hears how it stands each time that somebody has moved.
async fn look(ctx: &Context, mut waiting: Waiting, revoked: &Revoked, patience: Duration, mut tell: impl FnMut(Coverage)) -> Result<Coverage, Unavailable> {
    // An answer given again has no reading of the clock: what is waited for begins now.
    let committed = revoked.committed.unwrap_or_else(|| ctx.clock.boot());
    let enrolled = ctx.store.verifiers().await?;
    let target = (ctx.feed.head().epoch, revoked.feed_seq);
    let mut confirmed = BTreeMap::new();
    loop {
        let now = ctx.clock.boot();
        let elapsed_ms = now.micros_since(committed) / 1000;
        let over = elapsed_ms >= ms(patience);
        let known = Known { enrolled: &enrolled, heard: &ctx.watch.runs(), gone: &ctx.watch.gone() };
        let Look { runs, next_ms } = judge(&known, target, elapsed_ms, now, over, &mut confirmed);
        if next_ms.is_none() || over {
            let mut runs = runs;
            runs.sort_by_cached_key(|s| (rank(&s.standing), s.audience.clone()));
            for s in &runs {
                if let Standing::Confirmed { after_ms, .. } = s.standing {
                    ctx.metrics.confirmed(after_ms);
                }
            }
            return Ok(Coverage { waited_ms: elapsed_ms, runs, anonymous: ctx.watch.anonymous_streams() as u64, leaf: None });
        }
        tell(Coverage { waited_ms: elapsed_ms, runs, anonymous: ctx.watch.anonymous_streams() as u64, leaf: None });
        let wait_ms = next_ms.unwrap_or(0).clamp(1, LOOK_AGAIN_MS).min(ms(patience).saturating_sub(elapsed_ms).max(1));
        _ = tokio::time::timeout(Duration::from_millis(wait_ms), waiting.moved()).await;
    }
}

struct Look {
    runs: Vec<Standpoint>,
    /// When to look again at the latest; none if nothing can change any more that is worth waiting for.
    next_ms: Option<u64>,
}

/// Who is enrolled, and what was heard of them.
struct Known<'a> {
    enrolled: &'a [Verifier],
    heard: &'a [Heard],
    gone: &'a [(VerifierId, Gone)],
}

/// Where everybody stands at a moment. `confirmed` keeps the first word of each run: a later one would look slower.
fn judge(known: &Known<'_>, (epoch, seq): (u64, u64), elapsed_ms: u64, now: BootTime, over: bool, confirmed: &mut BTreeMap<Run, (u64, Vec<u8>)>) -> Look {
    let mut look = Look { runs: Vec::with_capacity(known.enrolled.len()), next_ms: None };
    let unconfirmed = |mode: Mode, next_ms: &mut Option<u64>| match mode.bound_ms().map(u64::from) {
        // It allows only on knowledge of at most its bound ago: of before the commit no more.
        Some(bound_ms) if elapsed_ms >= bound_ms + FENCE_MARGIN_MS => Standing::Fenced { bound_ms },
        bound_ms => {
            if !over {
                let next = bound_ms.map_or(u64::MAX, |ms| (ms + FENCE_MARGIN_MS).saturating_sub(elapsed_ms));
                *next_ms = Some(next_ms.unwrap_or(u64::MAX).min(next));
            }
            Standing::NotCovered { why: if bound_ms.is_some() { NotCovered::LongerBound } else { NotCovered::BestEffort } }
        }
    };
    for v in known.enrolled {
        let of: Vec<&Heard> = known.heard.iter().filter(|h| h.verifier == v.id).collect();
        let newest = of.iter().map(|h| h.heard).max();
        let counted = of.into_iter().filter(|h| Some(h.heard) == newest || h.streams > 0 || now.micros_since(h.heard) <= memory_ms(h.mode) * 1000);
        let before = look.runs.len();
        for h in counted {
            if let Some(seen) = h.seen.as_ref().filter(|s| s.has(epoch, seq)) {
                confirmed.entry((h.verifier, h.run)).or_insert_with(|| (elapsed_ms, seen.signed.clone()));
            }
            let standing = match confirmed.get(&(h.verifier, h.run)) {
                Some((after_ms, ack)) => Standing::Confirmed { after_ms: *after_ms, ack: Encoded(ack.clone()) },
                None => unconfirmed(h.mode, &mut look.next_ms),
            };
            look.runs.push(Standpoint { verifier: v.id, audience: v.audience.clone(), run: Some(h.run), standing });
        }
        // Whoever made room for later runs can confirm nothing any more, and may still allow.
        if let Some((_, gone)) = known.gone.iter().find(|(id, _)| *id == v.id) {
            let standing = unconfirmed(gone.mode, &mut look.next_ms);
            look.runs.push(Standpoint { verifier: v.id, audience: v.audience.clone(), run: None, standing });
        }
        if look.runs.len() == before {
            // Enrolled and never heard of: no word is waited for.
            let standing = Standing::NotCovered { why: NotCovered::NeverSeen };
            look.runs.push(Standpoint { verifier: v.id, audience: v.audience.clone(), run: None, standing });
        }
    }
    look
}

const fn rank(s: &Standing) -> u8 {
    match s {
        Standing::NotCovered { .. } => 0,
        Standing::Fenced { .. } => 1,
        Standing::Confirmed { .. } => 2,
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// Beyond its bound: one's last reading of the clock and the beginning of the effect are not the same instant.
const FENCE_MARGIN_MS: u64 = 50;
/// A word that no notice announced is seen by then.
const LOOK_AGAIN_MS: u64 = 25;
/// With their signed words they fill a leaf by half.
const NAMED_IN_A_LEAF: usize = 64;
const MAX_NAMED: usize = 1024;

#[cfg(test)]
mod tests;
