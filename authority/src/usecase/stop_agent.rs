//! Stops an agent: suspended until it is resumed, or retired for ever.

use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, BootTime};
use procura_verifier::wire::Canonical as _;

use super::revoke::MAX_REASON;
use super::{ATTEMPTS, Context, SignedOut, Unavailable, rotate_key, standing};
use crate::domain::agent::{AgentKey, AgentState, KeyState};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::event::{self, Actor};
use crate::store::{Change, Refused, Require, Row};
use crate::writer::WriteError;

/// An agent stopped, durably; verifiers are being told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Its generation from here on.
    pub generation: u64,
    /// The feed message that says so.
    pub feed_seq: u64,
    /// Where the log says so.
    pub leaf: u64,
    /// This process's boot-time clock right after COMMIT returned.
    pub committed: BootTime,
}

/// Why it goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Not theirs to stop, or nothing that they may know of.
    #[error("not your agent")]
    Forbidden,
    /// There is no such agent. Said only to those who may stop any.
    #[error("no agent {0}")]
    Unknown(AgentId),
    /// It is what was asked for, or retired.
    #[error("the agent is {} already", .0.word())]
    Already(AgentState),
    /// Missing or too long.
    #[error("reason is {0} bytes long, expected 1 to {MAX_REASON}")]
    Reason(usize),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Suspends: no card, no mint, no grant, and all its tokens and links are dead. A resume makes it active again; it revives nothing.
///
/// Its owner may, and the role security. Durable when it returns, published right after the commit.
pub async fn suspend(ctx: &Context, by: &Principal, id: AgentId, reason: String) -> Result<Stopped, StopError> {
    stop(ctx, by, id, AgentState::Suspended, reason).await
}

/// Retires: as a suspension, and for ever. Its keys are revoked too; its id and name are never used again.
pub async fn retire(ctx: &Context, by: &Principal, id: AgentId, reason: String) -> Result<Stopped, StopError> {
    stop(ctx, by, id, AgentState::Retired, reason).await
}

async fn stop(ctx: &Context, by: &Principal, id: AgentId, state: AgentState, reason: String) -> Result<Stopped, StopError> {
    let security = by.has(Role::Security);
    let actor = match by {
        Principal::Human { id, .. } => Actor::Human(*id),
        Principal::LocalOperator => Actor::LocalOperator,
        Principal::Agent(_) | Principal::Verifier(_) => return Err(StopError::Forbidden),
    };
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        return Err(StopError::Reason(reason.len()));
    }
    let scope = FloorScope::Agent(id);
    for _ in 0..ATTEMPTS {
        let found = ctx.store.find_agent(id).await.map_err(Unavailable::from)?;
        let agent = found.ok_or(if security { StopError::Unknown(id) } else { StopError::Forbidden })?;
        // Without its agent the drill could not be run again.
        if !(security || by.human() == Some(agent.owner)) || agent.name.as_str() == super::drill::NAME {
            return Err(StopError::Forbidden);
        }
        if agent.state == AgentState::Retired || agent.state == state {
            return Err(StopError::Already(agent.state));
        }
        let (now, known) = (ctx.now(), ctx.generation(scope).await.map_err(Unavailable::from)?);
        let generation = known + 1;
        let (mut items, mut rows) = (vec![Item::Floor { scope, generation }], vec![Row::Generation(scope, generation)]);
        if state == AgentState::Retired {
            let keys = ctx.store.keys_of(id).await.map_err(Unavailable::from)?;
            // No key may slip in between reading and writing: it would outlive the agent.
            rows.push(rotate_key::once(ctx, id, &keys));
            for key in keys.into_iter().filter(|k| k.state == KeyState::Live) {
                items.push(Item::HolderKey { key: key.key });
                rows.push(Row::AgentKey(AgentKey { state: KeyState::Revoked, ..key }));
            }
        }
        let (opening, reason_hash) = ctx.salted(reason.clone());
        let killed = agent.generation < known;
        rows.extend([opening, Row::Agent(agent.stopped(by.human(), state, killed))]);
        let mut leaves = Vec::with_capacity(items.len() + 1);
        for item in &items {
            let revoke = event::Revoke { item: event::Encoded(item.to_bytes()), by: actor, reason_hash: Some(reason_hash), delegation: None };
            leaves.push(ctx.leaf(revoke, now)?);
        }
        leaves.push(ctx.leaf(event::AgentState { agent: id, state, generation, by: actor, reason_hash }, now)?);
        // Every change of an agent's life asks for its generation: whoever was second reads again.
        let requires = [standing(by), vec![Require::GenerationIs(scope, known)]].concat();
        match ctx.writer.submit(Change { requires, rows, items, leaves }).await {
            Ok(w) => {
                ctx.metrics.revoked("agent");
                return Ok(Stopped {
                    generation,
                    feed_seq: w.placed.feed_seq.unwrap_or(0),
                    leaf: w.placed.leaves.end.saturating_sub(1),
                    committed: w.committed,
                });
            }
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::Answered)) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}
