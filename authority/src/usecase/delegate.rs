//! A human grants a part of their own authority to an agent.

use procura_verifier::claims::{Hops, Possession};
use procura_verifier::ids::{AgentId, DelegationId, HumanId};
use serde::{Deserialize, Serialize};

use super::{ATTEMPTS, Context, Once, OtherRequest, RecallError, SignedOut, Unavailable, log_generations, standing};
use crate::domain::agent::{Agent, AgentState};
use crate::domain::delegation::{Delegation, DelegationState, Terms, TermsError};
use crate::domain::grants::{Grant, Refusal};
use crate::domain::principal::Principal;
use crate::log::event;
use crate::store::{Change, Refused, Require, Row};
use crate::writer::WriteError;

/// A grant made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delegated {
    /// Its id.
    pub delegation: DelegationId,
    /// What the human was shown; its salted hash is in the log.
    pub text: String,
    /// Where the log says so.
    pub leaf: u64,
}

/// Why nothing is granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegateError {
    /// Only a human has authority to give.
    #[error("only a signed-in human delegates")]
    NotHuman,
    /// The terms make no sense.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The terms go beyond what this human may delegate.
    #[error(transparent)]
    Beyond(#[from] Refusal),
    /// The terms go beyond what the tenant's keys allow.
    #[error("a token life of {asked} s is beyond the tenant's maximum: {max} s")]
    Ttl {
        /// What was asked.
        asked: u64,
        /// What the key list says.
        max: u64,
    },
    /// Unknown, suspended or retired.
    #[error("agent {0} is unknown or not active")]
    NoAgent(AgentId),
    /// Idempotency.
    #[error(transparent)]
    OtherRequest(#[from] OtherRequest),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What this human may delegate at most.
pub async fn maxima(ctx: &Context, by: &Principal) -> Result<Grant, DelegateError> {
    let human = by.human().ok_or(DelegateError::NotHuman)?;
    let person = ctx.store.find_human(human).await.map_err(Unavailable::from)?.ok_or(DelegateError::NotHuman)?;
    Ok(ctx.grants.of(&person.subject))
}

/// What the human would sign for: every bound in plain words, after the same checks as [`delegate`].
pub async fn preview(ctx: &Context, by: &Principal, agent: AgentId, terms: Terms) -> Result<String, DelegateError> {
    let (agent, terms) = check(ctx, by, agent, terms).await?;
    Ok(terms.summary(&agent.name))
}

/// Records the grant with the generations of this moment. In the log before it returns.
pub async fn delegate(ctx: &Context, by: &Principal, agent: AgentId, terms: Terms, once: Option<Once>) -> Result<Delegated, DelegateError> {
    let human = by.human().ok_or(DelegateError::NotHuman)?;
    for _ in 0..ATTEMPTS {
        match ctx.recall::<Remembered>(once).await {
            Ok(None) => {}
            Ok(Some((body, placed))) => return Ok(Delegated { delegation: body.delegation, text: body.text, leaf: placed.leaves.start }),
            Err(RecallError::OtherRequest) => return Err(OtherRequest.into()),
            Err(RecallError::Unavailable(e)) => return Err(e.into()),
        }
        let (agent, terms) = check(ctx, by, agent, terms.clone()).await?;
        let Granting { id, text, mut change } = granting(ctx, human, &agent, terms, Which::New).await?;
        change.requires.splice(0..0, standing(by));
        change.rows.extend(ctx.remember(once, &Remembered { delegation: id, text: text.clone() }));
        match ctx.writer.submit(change).await {
            Ok(written) => return Ok(Delegated { delegation: id, text, leaf: written.placed.leaves.start }),
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::Answered)) => {}
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::AgentNotActive)) => return Err(DelegateError::NoAgent(agent.id)),
            Err(e) => return Err(Unavailable::from_write(e).into()),
        }
    }
    Err(Unavailable::Busy.into())
}

/// A grant to be written.
pub(super) struct Granting {
    pub id: DelegationId,
    pub text: String,
    pub change: Change,
}

/// A delegation of its own, or the next version of one.
#[derive(Clone, Copy)]
pub(super) enum Which<'a> {
    New,
    Next(&'a Delegation),
}

/// The grant with the generations of this moment. Who may grant it has been asked.
pub(super) async fn granting(ctx: &Context, human: HumanId, agent: &Agent, terms: Terms, which: Which<'_>) -> Result<Granting, Unavailable> {
    let (now, text) = (ctx.now(), terms.summary(&agent.name));
    let (id, version, created) = match which {
        Which::New => (DelegationId::from_bytes(ctx.random()), 1, now),
        Which::Next(before) => (before.id, before.version + 1, before.created),
    };
    let generations = ctx.generations(human, agent.id, id).await?;
    let (opening, text_hash) = ctx.salted(text.clone());
    let leaf = event::Delegation {
        delegation: id,
        version: u64::from(version),
        human,
        agent: agent.id,
        capabilities: terms.capabilities.clone(),
        audiences: terms.audiences.clone(),
        class_max: terms.class_max,
        ttl_secs: terms.ttl_secs,
        not_after: terms.not_after,
        depth: terms.depth,
        unregistered_hops: terms.hops == Hops::Any,
        bearer: terms.possession == Possession::Bearer,
        freshness_ms: u64::from(terms.freshness_ms),
        generations: log_generations(&generations),
        text_hash,
    };
    let delegation = Delegation { id, tenant: ctx.tenant.clone(), human, agent: agent.id, terms, generations, version, state: DelegationState::Live, created };
    // A kill between reading and writing must not leave a grant behind that was asked for before it.
    let mut requires: Vec<_> = delegation.recorded().into_iter().map(|(scope, g)| Require::GenerationIs(scope, g)).collect();
    requires.push(Require::AgentActive(agent.id));
    let rows = vec![Row::Delegation(delegation), opening];
    let change = Change { requires, rows, leaves: vec![ctx.leaf(leaf, now)?], items: Vec::new() };
    Ok(Granting { id, text, change })
}

pub(super) async fn check(ctx: &Context, by: &Principal, agent: AgentId, terms: Terms) -> Result<(Agent, Terms), DelegateError> {
    by.human().ok_or(DelegateError::NotHuman)?;
    let terms = terms.normal(ctx.now())?;
    let max = ctx.keys.load().payload().max_ttl_secs;
    if terms.ttl_secs > max {
        return Err(DelegateError::Ttl { asked: terms.ttl_secs, max });
    }
    // The table names people as the provider does; a pseudonym without a person (erased) may delegate nothing.
    maxima(ctx, by).await?.may_delegate(&terms)?;
    let found = ctx.store.find_agent(agent).await.map_err(Unavailable::from)?;
    let agent = found.filter(|a| a.state == AgentState::Active).ok_or(DelegateError::NoAgent(agent))?;
    Ok((agent, terms))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    delegation: DelegationId,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::domain::delegation::tests::terms;
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn a_grant_within_the_maxima_is_recorded_with_its_text() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        let preview = preview(&app.ctx, &alice, bot.agent, terms()).await.unwrap();
        let done = delegate(&app.ctx, &alice, bot.agent, terms(), None).await.unwrap();
        assert_eq!(preview, done.text);
        let d = app.ctx.store.find_delegation(done.delegation).await.unwrap().unwrap();
        assert_eq!((Some(d.human), d.agent, d.version), (alice.human(), bot.agent, 1));
        let Some(event::Event::Delegation(e)) = app.events().await.pop() else { panic!("no event") };
        assert_eq!((e.capabilities, e.audiences, e.class_max), (terms().capabilities, terms().audiences, terms().class_max));
        let opening = app.ctx.store.find_opening(e.text_hash.0).await.unwrap().unwrap();
        assert_eq!(opening.text, done.text);
    }

    #[tokio::test]
    async fn beyond_the_maximum_nothing_is_granted_and_the_maximum_is_named() {
        let app = app().await;
        let (alice, sam) = (app.person("alice").await, app.person("sam").await);
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        let greedy = || {
            let mut t = terms();
            t.capabilities = vec![
                serde_json::from_str(
                    r#"{"tool":"payments","action":"transfer","resource":"acct/eu/*","limits":[{"kind":"at_most","arg":"amount","max":250000,"unit":"EUR"}]}"#,
                )
                .unwrap(),
            ];
            t
        };
        let said = delegate(&app.ctx, &alice, bot.agent, greedy(), None).await.unwrap_err();
        assert_eq!(said.to_string(), "amount at most 2500.00 EUR is beyond your maximum: payments:transfer on acct/*, amount at most 1000.00 EUR");
        assert!(matches!(delegate(&app.ctx, &sam, bot.agent, terms(), None).await, Err(DelegateError::Beyond(_))));
        assert_eq!(delegate(&app.ctx, &Principal::LocalOperator, bot.agent, terms(), None).await, Err(DelegateError::NotHuman));
        let nobody = AgentId::from_bytes([99; 16]);
        assert_eq!(delegate(&app.ctx, &alice, nobody, terms(), None).await, Err(DelegateError::NoAgent(nobody)));
        assert!(!app.events().await.iter().any(|e| matches!(e, event::Event::Delegation(_))));
    }

    #[tokio::test]
    async fn the_same_request_twice_is_one_grant() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        let once = Some(Once { key: [1; 32], request: [2; 32] });
        let (a, b) = tokio::join!(delegate(&app.ctx, &alice, bot.agent, terms(), once), delegate(&app.ctx, &alice, bot.agent, terms(), once));
        assert_eq!(a.unwrap(), b.unwrap());
        let other = Some(Once { key: [1; 32], request: [3; 32] });
        assert_eq!(delegate(&app.ctx, &alice, bot.agent, terms(), other).await, Err(DelegateError::OtherRequest(OtherRequest)));
        assert_eq!(app.ctx.store.delegations_of(alice.human().unwrap()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_grant_records_the_generations_of_its_moment() {
        let app = app().await;
        let (alice, sam) = (app.person("alice").await, app.person("sam").await);
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        revoke(&app.ctx, &sam, Target::Human(alice.human().unwrap()), None, None).await.unwrap();
        let alice = app.person("alice").await;
        let done = delegate(&app.ctx, &alice, bot.agent, terms(), None).await.unwrap();
        let d = app.ctx.store.find_delegation(done.delegation).await.unwrap().unwrap();
        assert_eq!((d.generations.human, d.generations.agent), (1, 0));
    }
}
