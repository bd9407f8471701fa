//! A delegator confirms a delegation that something killed: after a resume, or after their own sign-in was killed.

use procura_verifier::ids::DelegationId;

use super::delegate::{self, DelegateError};
use super::inspect::{self, Standing};
use super::{ATTEMPTS, Context, SignedOut, Unavailable, standing};
use crate::domain::agent::AgentState;
use crate::domain::principal::Principal;
use crate::store::{Refused, Require};
use crate::writer::WriteError;

/// A delegation that gives authority again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// Its version.
    pub version: u32,
    /// What the human was shown; its salted hash is in the log.
    pub text: String,
    /// Where the log says so.
    pub leaf: u64,
}

/// Why it stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfirmError {
    /// Not theirs, or nothing that they may know of.
    #[error("not a delegation of yours")]
    Forbidden,
    /// Nothing to confirm.
    #[error("the delegation is live: there is nothing to confirm")]
    Live,
    /// Revoked by name, or over: only a new grant gives life.
    #[error("the delegation was revoked or has ended: grant anew")]
    Over,
    /// First the agent.
    #[error("the agent is stopped: it has to be resumed first")]
    AgentStopped,
    /// No longer something that this human may grant.
    #[error(transparent)]
    Grant(#[from] DelegateError),
}

/// Writes the generations of this moment into the delegation, as its next version with the same terms. No token of before comes back.
///
/// Its delegator alone, while they may still grant it (`DESIGN.md` section 6).
pub async fn confirm(ctx: &Context, by: &Principal, id: DelegationId) -> Result<Confirmed, ConfirmError> {
    let human = by.human().ok_or(ConfirmError::Forbidden)?;
    for _ in 0..ATTEMPTS {
        let view = inspect::delegation(ctx, by, id).await.map_err(DelegateError::from)?;
        let view = view.filter(|v| v.delegation.human == human).ok_or(ConfirmError::Forbidden)?;
        match view.standing {
            Standing::Live => return Err(ConfirmError::Live),
            Standing::Revoked(_) | Standing::Ended(_) => return Err(ConfirmError::Over),
            Standing::Killed(_) if view.delegation.terms.not_after <= ctx.now() => return Err(ConfirmError::Over),
            Standing::Killed(_) => {}
        }
        let agent = view.agent;
        let generation =
            ctx.generation(procura_verifier::feed::message::FloorScope::Agent(agent.id)).await.map_err(Unavailable::from).map_err(DelegateError::from)?;
        // A killed agent has no cards: what it was granted does not come back by a side door.
        if agent.state != AgentState::Active || agent.generation < generation {
            return Err(ConfirmError::AgentStopped);
        }
        let before = view.delegation;
        let version = before.version + 1;
        let (agent, terms) = delegate::check(ctx, by, agent.id, before.terms.clone()).await?;
        let mut granting = delegate::granting(ctx, human, &agent, terms, delegate::Which::Next(&before)).await.map_err(DelegateError::from)?;
        granting.change.requires.splice(0..0, standing(by));
        granting.change.requires.push(Require::DelegationLive(id, before.version));
        match ctx.writer.submit(granting.change).await {
            Ok(w) => return Ok(Confirmed { version, text: granting.text, leaf: w.placed.leaves.start }),
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::DelegationMoved(_) | Refused::DelegationNotLive)) => {}
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(DelegateError::SignedOut(SignedOut).into()),
            Err(WriteError::Refused(Refused::AgentNotActive)) => return Err(ConfirmError::AgentStopped),
            Err(e) => return Err(DelegateError::from(Unavailable::from_write(e)).into()),
        }
    }
    Err(DelegateError::from(Unavailable::Busy).into())
}
