//! The same as it fills: who has heard of a revocation, while one looks; and afterwards, from the log.

use std::sync::Arc;
use std::time::Duration;

use procura_verifier::ids::UtcMillis;
use tokio::sync::watch;

use super::super::revoke::{RevokeError, Revoked, Target, revoke};
use super::{Context, Coverage, MAX_WAIT, Standpoint, Unavailable, actor, look, record};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::event::{self, Actor, Event};
use crate::log::leaf::UnverifiedLeaf;

/// How it stands at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Who has heard so far; what could not be asked says so.
    pub coverage: Result<Coverage, Unavailable>,
    /// True if nothing more will come.
    pub is_over: bool,
}

/// Revokes, and answers as soon as that is durable. The wait for verifiers goes on by itself, ends on record in the log, and
/// is told through the receiver.
pub async fn revoke_and_follow(
    ctx: &Arc<Context>,
    by: &Principal,
    target: Target,
    reason: String,
    patience: Duration,
) -> Result<(Revoked, watch::Receiver<Progress>), RevokeError> {
    // Beside each other: a board that hangs must not hold up a kill.
    let (waiting, revoked) = tokio::join!(ctx.watch.begin_wait(), revoke(ctx, by, target, Some(reason), None));
    let revoked = revoked?;
    let nobody = Coverage { waited_ms: 0, runs: Vec::new(), anonymous: 0, leaf: None };
    let (show, shown) = watch::channel(Progress { coverage: Ok(nobody), is_over: false });
    let (ctx, by, told) = (Arc::clone(ctx), actor(by), revoked.clone());
    tokio::spawn(async move {
        let tell = |coverage: Coverage| {
            show.send_if_modified(|p| {
                let moved = p.coverage.as_ref().map_or(true, |c| c.runs != coverage.runs);
                p.coverage = Ok(coverage);
                moved
            });
        };
        let mut coverage = look(&ctx, waiting, &told, patience.min(MAX_WAIT), tell).await;
        if let Ok(coverage) = &mut coverage {
            match record(&ctx, &told, coverage, by, |_| Ok((Vec::new(), Vec::new()))).await {
                Ok(leaf) => coverage.leaf = Some(leaf),
                Err(e) => tracing::error!(error = %e, revocation = told.leaf, "coverage.not_recorded"),
            }
        }
        show.send_replace(Progress { coverage, is_over: true });
    });
    Ok((revoked, shown))
}

/// What the log has of a revocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// When it was asked for.
    pub at: UtcMillis,
    /// Who had heard, if somebody waited for the answer.
    pub coverage: Option<Coverage>,
}

/// A revocation and who has heard of it, from the leaf on; none if there is no revocation at this place, or it does not
/// concern the asker: who asked for it, and the roles that watch verifiers.
pub async fn recorded(ctx: &Context, by: &Principal, leaf: u64) -> Result<Option<Recorded>, Unavailable> {
    if leaf >= ctx.writer.checkpoint().tree.size {
        return Ok(None);
    }
    let read = |place: u64, bytes: &[u8]| UnverifiedLeaf::parse(bytes).map_err(|e| Unavailable::Store(format!("leaf {place}: {e}")));
    let Some(bytes) = ctx.store.leaves(leaf, 1).await?.pop() else { return Ok(None) };
    let first = read(leaf, &bytes)?;
    let Event::Revoke(revoke) = first.unverified_event() else { return Ok(None) };
    let own = by.human().is_some_and(|h| revoke.by == Actor::Human(h));
    if !own && ![Role::Security, Role::Admin, Role::Auditor].into_iter().any(|r| by.has(r)) {
        return Ok(None);
    }
    let mut recorded = Recorded { at: first.unverified_at(), coverage: None };
    let mut from = leaf + 1;
    while from <= leaf + LOOKED_THROUGH {
        let leaves = ctx.store.leaves(from, AT_ONCE).await?;
        for (place, bytes) in (from..).zip(&leaves) {
            if let Event::Coverage(part) = read(place, bytes)?.unverified_event()
                && part.revocation == leaf
            {
                add(ctx, &mut recorded.coverage, part, place).await?;
                if part.part + 1 >= part.parts {
                    return Ok(Some(recorded));
                }
            }
        }
        if leaves.len() < AT_ONCE as usize {
            break;
        }
        from += u64::from(AT_ONCE);
    }
    Ok(Some(recorded))
}

async fn add(ctx: &Context, coverage: &mut Option<Coverage>, part: &event::Coverage, place: u64) -> Result<(), Unavailable> {
    let to = coverage.get_or_insert_with(|| Coverage { waited_ms: part.waited_ms, runs: Vec::new(), anonymous: part.anonymous, leaf: Some(place) });
    for covered in &part.verifiers {
        let Some(verifier) = ctx.store.find_verifier(covered.verifier).await? else { continue };
        let run = covered.run.as_ref().and_then(|r| r.0.as_slice().try_into().ok());
        to.runs.push(Standpoint { verifier: verifier.id, audience: verifier.audience, run, standing: covered.standing.clone() });
    }
    Ok(())
}

/// How far behind a revocation its answer is looked for: the wait is 15 s at most, and a busy log grows by thousands a second.
const LOOKED_THROUGH: u64 = 4_096;
const AT_ONCE: u32 = 256;

#[cfg(test)]
mod tests {
    use super::super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn the_board_ends_on_record_and_is_read_from_there() {
        let app = app().await;
        let (alice, _, grant) = app.granted().await;
        let (bob, sam) = (app.person("bob").await, app.person("sam").await);
        let asked = revoke_and_follow(&app.ctx, &alice, Target::Delegation(grant), "done".into(), Duration::from_millis(100)).await;
        let (revoked, mut shown) = asked.unwrap();
        let last = shown.wait_for(|p| p.is_over).await.unwrap().clone();
        let at = last.coverage.unwrap().leaf;
        assert_eq!(at, Some(revoked.leaf + 1));
        for by in [&alice, &sam] {
            let found = recorded(&app.ctx, by, revoked.leaf).await.unwrap().unwrap();
            assert_eq!(found.coverage.map(|c| c.runs), Some(Vec::new()));
        }
        assert_eq!(recorded(&app.ctx, &bob, revoked.leaf).await.unwrap(), None, "it does not concern him");
        assert_eq!(recorded(&app.ctx, &sam, revoked.leaf - 1).await.unwrap(), None, "not a revocation");
        assert_eq!(recorded(&app.ctx, &sam, u64::MAX).await.unwrap(), None);
    }
}
