//! What is the state of a delegation or a token? For those it concerns.

use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{AgentId, DelegationId, Tid, UtcMillis};

use super::{Context, Unavailable};
use crate::domain::agent::Agent;
use crate::domain::delegation::{Delegation, DelegationState};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::store::TokenRecord;

/// Whether something gives authority at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It does.
    Live,
    /// It was taken back by name.
    Revoked(UtcMillis),
    /// Something it rests on was killed after it was made.
    Killed(FloorScope),
    /// Its end has come.
    Ended(UtcMillis),
}

/// A delegation and how it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DelegationView {
    /// The grant.
    pub delegation: Delegation,
    /// To whom.
    pub agent: Agent,
    /// How it stands.
    pub standing: Standing,
}

/// A token and how it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenView {
    /// The token.
    pub token: TokenRecord,
    /// What it rests on.
    pub under: DelegationView,
    /// How it stands itself.
    pub standing: Standing,
}

/// A delegation, if it exists and concerns the asker: delegator, the agent and its owner, roles security and auditor.
pub async fn delegation(ctx: &Context, by: &Principal, id: DelegationId) -> Result<Option<DelegationView>, Unavailable> {
    let Some(delegation) = ctx.store.find_delegation(id).await? else { return Ok(None) };
    view(ctx, by, delegation).await
}

/// The delegations that a human granted, newest first.
pub async fn delegations_of(ctx: &Context, by: &Principal) -> Result<Vec<DelegationView>, Unavailable> {
    let Some(human) = by.human() else { return Ok(Vec::new()) };
    let mut views = Vec::new();
    for delegation in ctx.store.delegations_of(human).await? {
        views.extend(view(ctx, by, delegation).await?);
    }
    Ok(views)
}

/// What was delegated to an agent and waits for its delegator to confirm it: not revoked by name, not over, and resting on
/// something that was killed since. Newest first, of the newest thousand.
pub(super) async fn waiting_under(ctx: &Context, agent: AgentId) -> Result<Vec<Delegation>, Unavailable> {
    let now = ctx.now();
    let mut all = ctx.store.delegations_to(agent).await?;
    all.retain(|d| d.state == DelegationState::Live && d.terms.not_after > now);
    let recorded: Vec<_> = all.iter().flat_map(Delegation::recorded).collect();
    let floors = ctx.store.generations(&recorded.iter().map(|(scope, _)| *scope).collect::<Vec<_>>()).await?;
    let below: Vec<bool> = recorded.iter().zip(floors).map(|((_, recorded), floor)| *recorded < floor).collect();
    Ok(all.into_iter().zip(below.chunks(5)).filter(|(_, below)| below.contains(&true)).map(|(d, _)| d).collect())
}

/// A token, if it is remembered and concerns the asker.
pub async fn token(ctx: &Context, by: &Principal, tid: Tid) -> Result<Option<TokenView>, Unavailable> {
    let Some(token) = ctx.store.find_token(tid).await? else { return Ok(None) };
    let Some(under) = delegation(ctx, by, token.delegation).await? else { return Ok(None) };
    let ends = UtcMillis(token.expires_secs.saturating_mul(1000));
    let standing = match (token.revoked, under.standing) {
        (Some(at), _) => Standing::Revoked(at),
        (None, Standing::Live | Standing::Ended(_)) if ends <= ctx.now() => Standing::Ended(ends),
        (None, standing) => standing,
    };
    Ok(Some(TokenView { token, under, standing }))
}

pub(super) async fn view(ctx: &Context, by: &Principal, delegation: Delegation) -> Result<Option<DelegationView>, Unavailable> {
    let Some(agent) = ctx.store.find_agent(delegation.agent).await? else { return Ok(None) };
    let concerns = match by {
        Principal::Human { id, .. } => *id == delegation.human || *id == agent.owner || by.has(Role::Security) || by.has(Role::Auditor),
        Principal::Agent(id) => *id == delegation.agent,
        Principal::LocalOperator => true,
        Principal::Verifier(_) => false,
    };
    if !concerns {
        return Ok(None);
    }
    let recorded = delegation.recorded();
    let floors = ctx.store.generations(&recorded.map(|(scope, _)| scope)).await?;
    let killed = recorded.iter().zip(floors).find(|((_, recorded), floor)| recorded < floor).map(|((scope, _), _)| *scope);
    let standing = match (delegation.state, killed) {
        (DelegationState::Revoked { at }, _) => Standing::Revoked(at),
        (DelegationState::Live, Some(scope)) => Standing::Killed(scope),
        (DelegationState::Live, None) if delegation.terms.not_after <= ctx.now() => Standing::Ended(delegation.terms.not_after),
        (DelegationState::Live, None) => Standing::Live,
    };
    Ok(Some(DelegationView { delegation, agent, standing }))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn the_standing_follows_what_was_taken_back() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let (bob, sam) = (app.person("bob").await, app.person("sam").await);
        let tid = app.mint(bot, grant).await.unwrap().tid;
        let of = async |by: &Principal| token(&app.ctx, by, tid).await.unwrap().map(|t| (t.standing, t.under.standing));
        assert_eq!(of(&alice).await, Some((Standing::Live, Standing::Live)));
        assert_eq!(of(&Principal::Agent(bot)).await, Some((Standing::Live, Standing::Live)));
        assert_eq!(of(&bob).await, None, "it does not concern him");

        let human = FloorScope::Human(alice.human().unwrap());
        revoke(&app.ctx, &sam, Target::Human(alice.human().unwrap()), None, None).await.unwrap();
        assert_eq!(of(&sam).await, Some((Standing::Killed(human), Standing::Killed(human))));
        let alice = app.person("alice").await;
        revoke(&app.ctx, &alice, Target::Token(tid), None, None).await.unwrap();
        revoke(&app.ctx, &alice, Target::Delegation(grant), None, None).await.unwrap();
        assert_eq!(of(&alice).await, Some((Standing::Revoked(NOW), Standing::Revoked(NOW))));
        assert_eq!(delegations_of(&app.ctx, &alice).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_has_ended_says_when() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let tid = app.mint(bot, grant).await.unwrap().tid;
        app.clock.advance_ms(3_600_000);
        assert_eq!(token(&app.ctx, &alice, tid).await.unwrap().unwrap().standing, Standing::Ended(NOW.plus(3_600_000)));
    }
}
