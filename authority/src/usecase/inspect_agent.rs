//! What is the state of an agent? For its owner and those who watch.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::AgentId;

use super::inspect::{self, DelegationView};
use super::{Context, Unavailable};
use crate::domain::agent::{Agent, AgentKey};
use crate::domain::human::Role;
use crate::domain::principal::Principal;

/// An agent with all that it rests on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// True if it was killed: no card, no token, until it is resumed.
    pub is_killed: bool,
    /// Its keys, oldest first.
    pub keys: Vec<AgentKey>,
    /// What was delegated to it, newest first, as far as it concerns the asker.
    pub delegations: Vec<DelegationView>,
}

/// An agent, if it exists and concerns the asker: its owner, roles security and auditor.
pub async fn agent(ctx: &Context, by: &Principal, id: AgentId) -> Result<Option<AgentView>, Unavailable> {
    let Some(agent) = ctx.store.find_agent(id).await? else { return Ok(None) };
    if by.human() != Some(agent.owner) && !by.has(Role::Security) && !by.has(Role::Auditor) {
        return Ok(None);
    }
    let is_killed = ctx.generation(FloorScope::Agent(id)).await? > agent.generation;
    let keys = ctx.store.keys_of(id).await?;
    let mut delegations = Vec::new();
    for delegation in ctx.store.delegations_to(id).await?.into_iter().take(MAX_DELEGATIONS) {
        delegations.extend(inspect::view(ctx, by, delegation).await?);
    }
    Ok(Some(AgentView { agent, is_killed, keys, delegations }))
}

/// Most delegations on one page.
const MAX_DELEGATIONS: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn an_agent_shows_its_keys_and_its_kill_to_its_owner_and_to_security() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let (bob, sam) = (app.person("bob").await, app.person("sam").await);
        assert_eq!(agent(&app.ctx, &bob, bot).await.unwrap(), None);
        let seen = agent(&app.ctx, &alice, bot).await.unwrap().unwrap();
        assert_eq!((seen.is_killed, seen.keys.len(), seen.delegations[0].delegation.id), (false, 1, grant));
        revoke(&app.ctx, &sam, Target::Agent(bot), None, None).await.unwrap();
        assert!(agent(&app.ctx, &sam, bot).await.unwrap().unwrap().is_killed);
    }
}
