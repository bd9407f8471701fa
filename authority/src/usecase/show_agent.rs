//! An agent with its keys, for those it concerns.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::AgentId;

use super::{Context, Unavailable, inspect};
use crate::domain::agent::{Agent, AgentKey};
use crate::domain::delegation::Delegation;
use crate::domain::human::Role;
use crate::domain::principal::Principal;

/// An agent as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// Its keys: those that live, then the revoked ones, at most 64.
    pub keys: Vec<AgentKey>,
    /// Its generation in force. Above the agent's own it was killed, and there is no card until a resume.
    pub generation: u64,
    /// What was delegated to it and waits for its delegator.
    pub waiting: Vec<Delegation>,
}

impl AgentView {
    /// True if it was revoked, or suspended, since it was registered or resumed.
    pub const fn is_killed(&self) -> bool {
        self.agent.generation < self.generation
    }
}

/// An agent, if it exists and concerns the asker: its owner, itself, roles security and auditor.
pub async fn show(ctx: &Context, by: &Principal, id: AgentId) -> Result<Option<AgentView>, Unavailable> {
    let Some(agent) = ctx.store.find_agent(id).await? else { return Ok(None) };
    let concerns = match by {
        Principal::Human { id, .. } => *id == agent.owner || by.has(Role::Security) || by.has(Role::Auditor),
        Principal::Agent(id) => *id == agent.id,
        Principal::LocalOperator => true,
        Principal::Verifier(_) => false,
    };
    if !concerns {
        return Ok(None);
    }
    let keys = ctx.store.keys_of(id).await?;
    let generation = ctx.generation(FloorScope::Agent(id)).await?;
    let waiting = inspect::waiting_under(ctx, id).await?;
    Ok(Some(AgentView { agent, keys, generation, waiting }))
}
