//! A fresh card for an agent's live key.

use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::feed::message::FloorScope;
use procura_verifier::ids::{Key, UtcMillis};
use procura_verifier::key_list::KeyUse;

use super::{Context, Unavailable};
use crate::agent_auth::Assertion;
use crate::domain::agent::Agent;
use crate::store::{Change, Refused, Require, Row};
use crate::usecase::issue::jti_hash;
use crate::writer::WriteError;

/// Why there is no card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Unknown, suspended or retired; or the key is not a live one of its own.
    #[error("the agent or its key is not active")]
    NotActive,
    /// Killed: no card until somebody resumes the agent.
    #[error("the agent was revoked")]
    Revoked,
    /// The assertion has done its work.
    #[error("the assertion was used before")]
    Replayed,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A card for one of the asking agent's own keys, for at most 24 hours. Spends the assertion.
pub async fn card(ctx: &Context, by: &Assertion, key: Key) -> Result<SignedCard, CardError> {
    let agent = ctx.store.find_agent(by.agent).await.map_err(Unavailable::from)?.ok_or(CardError::NotActive)?;
    let change = Change {
        requires: vec![
            // After a kill there is no card: the generation recorded with the agent lies below the floor (law 4).
            Require::NotBelowFloor(FloorScope::Agent(agent.id), agent.generation),
            Require::AgentActive(agent.id),
            Require::KeyLive(agent.id, key),
        ],
        rows: vec![Row::Jti(agent.id, jti_hash(&by.jti), by.exp)],
        ..Change::default()
    };
    ctx.writer.submit(change).await.map_err(|e| match e {
        WriteError::Refused(Refused::Killed(_)) => CardError::Revoked,
        WriteError::Refused(Refused::AgentNotActive | Refused::KeyNotLive) => CardError::NotActive,
        WriteError::Refused(Refused::JtiSpent) => CardError::Replayed,
        e => Unavailable::from_write(e).into(),
    })?;
    Ok(sign(ctx, &agent, key, ctx.now())?)
}

/// Signs a card that ends after 24 hours, or with the card key.
pub(super) fn sign(ctx: &Context, agent: &Agent, holder: Key, now: UtcMillis) -> Result<SignedCard, Unavailable> {
    let none = || Unavailable::Store("no card key is inside its window".to_owned());
    let key = |until| ctx.signer.key_for(KeyUse::Card, now, until);
    let by = key(now.plus(AgentCard::MAX_TTL_SECS * 1000)).or_else(|| key(now.plus(1000))).ok_or_else(none)?;
    let until = ctx.keys.load().find(KeyUse::Card, &by).ok_or_else(none)?.until;
    let expires_secs = (now.secs() + AgentCard::MAX_TTL_SECS).min(until.secs());
    let card = AgentCard { tenant: ctx.tenant.clone(), agent: agent.id, holder, generation: agent.generation, expires_secs };
    ctx.signer.card(&card, &by).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::usecase::revoke::{Target, revoke};

    #[tokio::test]
    async fn a_card_is_renewed_until_the_agent_is_killed() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        app.clock.advance_ms(3_600_000);
        let renewed = card(&app.ctx, &app.assertion(bot.agent), key(1)).await.unwrap();
        assert_eq!(renewed.claimed().expires_secs, bot.card.claimed().expires_secs + 3600);
        assert_eq!(card(&app.ctx, &app.assertion(bot.agent), key(2)).await, Err(CardError::NotActive));

        revoke(&app.ctx, &alice, Target::Agent(bot.agent), None, None).await.unwrap();
        assert_eq!(card(&app.ctx, &app.assertion(bot.agent), key(1)).await, Err(CardError::Revoked));
    }

    #[tokio::test]
    async fn an_assertion_gives_one_card() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        let assertion = app.assertion(bot.agent);
        card(&app.ctx, &assertion, key(1)).await.unwrap();
        assert_eq!(card(&app.ctx, &assertion, key(1)).await, Err(CardError::Replayed));
    }
}
