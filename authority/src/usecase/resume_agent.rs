//! Resumes a suspended or revoked agent. What was delegated to it stays dead until each delegator confirms it.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::AgentId;
use sha2::{Digest as _, Sha256};

use super::inspect;
use super::revoke::MAX_REASON;
use super::{ATTEMPTS, Context, SignedOut, Unavailable, standing};
use crate::domain::agent::{Agent, AgentState};
use crate::domain::delegation::Delegation;
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::event::{self, Actor};
use crate::store::{Answer, Change, Refused, Require, Row};
use crate::writer::WriteError;

/// An agent that may act again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// Its generation.
    pub generation: u64,
    /// Where the log says so.
    pub leaf: u64,
    /// What was delegated to it and waits for its delegator (`usecase::confirm_delegation`).
    pub waiting: Vec<Delegation>,
}

/// Why it stays stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Not theirs, or nothing that they may know of.
    #[error("not your agent")]
    Forbidden,
    /// Somebody else stopped it.
    #[error("the agent was stopped by somebody else: only they or the role security resume it")]
    NotTheirStop,
    /// There is no such agent.
    #[error("no agent {0}")]
    Unknown(AgentId),
    /// It is not stopped.
    #[error("the agent is active already")]
    Active,
    /// For ever.
    #[error("the agent is retired, and that is for ever")]
    Retired,
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

/// Makes it active at the generation of this moment. No token of before comes back, and no delegation by itself.
///
/// What its owner stopped the owner resumes; what security stopped, security: a stop that the stopped can undo is none.
pub async fn resume(ctx: &Context, by: &Principal, id: AgentId, reason: String) -> Result<Resumed, ResumeError> {
    let security = by.has(Role::Security);
    let actor = match by {
        Principal::Human { id, .. } => Actor::Human(*id),
        Principal::LocalOperator => Actor::LocalOperator,
        Principal::Agent(_) | Principal::Verifier(_) => return Err(ResumeError::Forbidden),
    };
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        return Err(ResumeError::Reason(reason.len()));
    }
    let scope = FloorScope::Agent(id);
    for _ in 0..ATTEMPTS {
        let found = ctx.store.find_agent(id).await.map_err(Unavailable::from)?;
        let agent = found.ok_or(if security { ResumeError::Unknown(id) } else { ResumeError::Forbidden })?;
        if !(security || by.human() == Some(agent.owner)) {
            return Err(ResumeError::Forbidden);
        }
        let generation = ctx.generation(scope).await.map_err(Unavailable::from)?;
        match agent.state {
            AgentState::Retired => return Err(ResumeError::Retired),
            AgentState::Active if agent.generation == generation => return Err(ResumeError::Active),
            AgentState::Active | AgentState::Suspended => {}
        }
        if !security && agent.stopped_by != by.human() {
            return Err(ResumeError::NotTheirStop);
        }
        let (opening, reason_hash) = ctx.salted(reason.clone());
        let leaf = event::AgentState { agent: id, state: AgentState::Active, generation, by: actor, reason_hash };
        // One resume for each stop, however many ask at once: every stop has a generation of its own.
        let key: [u8; 32] = Sha256::new_with_prefix(b"procura/resume/1\0").chain_update(id.as_bytes()).chain_update(generation.to_be_bytes()).finalize().into();
        let once = Row::Answer(Answer { key, request: key, body: "{}".to_owned(), expires: ctx.now().plus(24 * 3_600_000) });
        let rows = vec![opening, once, Row::Agent(Agent { state: AgentState::Active, generation, stopped_by: None, ..agent.clone() })];
        let requires = [standing(by), vec![Require::GenerationIs(scope, generation)]].concat();
        match ctx.writer.submit(Change { requires, rows, leaves: vec![ctx.leaf(leaf, ctx.now())?], ..Change::default() }).await {
            Ok(w) => {
                let waiting = inspect::waiting_under(ctx, id).await?;
                return Ok(Resumed { generation, leaf: w.placed.leaves.start, waiting });
            }
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::Answered)) => {}
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}
