//! A human registers an agent, which shows that it holds its key.

use procura_verifier::card::SignedCard;
use procura_verifier::claims::Name;
use procura_verifier::ids::{AgentId, Key};

use super::{Context, SignedOut, Unavailable, card, standing};
use crate::agent_auth::{self, PossessionError};
use crate::domain::agent::{Agent, AgentKey, AgentState, KeyState};
use crate::domain::principal::Principal;
use crate::log::event;
use crate::store::{Change, Refused, Row};
use crate::writer::WriteError;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registration {
    /// What people call the agent; one of a kind in its tenant.
    pub name: Name,
    /// Its holder key.
    pub key: Key,
    /// The challenge drawn for the asking human.
    pub nonce: [u8; 32],
    /// The key's signature over it.
    pub signature: [u8; 64],
}

/// An agent registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its id.
    pub agent: AgentId,
    /// Its first card.
    pub card: SignedCard,
    /// Where the log says so.
    pub leaf: u64,
}

/// Why there is no new agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Only a human can answer for an agent.
    #[error("only a signed-in human registers agents")]
    NotHuman,
    /// The key was not shown.
    #[error(transparent)]
    Possession(#[from] PossessionError),
    /// Another agent has this name.
    #[error("agent name `{0}` is taken")]
    NameTaken(Name),
    /// Another agent has this key, or a verifier.
    #[error("key {0} is registered already")]
    KeyTaken(Key),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Draws the challenge that the agent's key must sign (`procura_verifier::challenge::message`).
pub fn challenge(ctx: &Context, by: &Principal) -> Result<[u8; 32], RegisterError> {
    let owner = by.human().ok_or(RegisterError::NotHuman)?;
    let mut rng = ctx.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(agent_auth::draw_challenge(&ctx.seals, ctx.now(), &mut **rng, owner))
}

/// The agent with its first card. Recorded in the log before it returns.
pub async fn register_agent(ctx: &Context, by: &Principal, asked: &Registration) -> Result<Registered, RegisterError> {
    let owner = by.human().ok_or(RegisterError::NotHuman)?;
    if asked.name.as_str() == super::drill::NAME {
        return Err(RegisterError::NameTaken(asked.name.clone()));
    }
    let now = ctx.now();
    let spends = agent_auth::redeem_challenge(&ctx.seals, now, owner, &ctx.tenant, &asked.nonce, &asked.key, &asked.signature)?;
    let agent = Agent {
        id: AgentId::from_bytes(ctx.random()),
        name: asked.name.clone(),
        owner,
        state: AgentState::Active,
        generation: 0,
        created: now,
        stopped_by: None,
    };
    let (opening, name_salted_hash) = ctx.salted(asked.name.to_string());
    let leaf = event::Agent { agent: agent.id, owner, name_salted_hash, key: asked.key, generation: agent.generation };
    let key = AgentKey { key: asked.key, agent: agent.id, state: KeyState::Live, added: now, ends: None };
    let rows = vec![Row::Spent(spends.0, spends.1), Row::Agent(agent.clone()), Row::AgentKey(key), opening];
    let change = Change { requires: standing(by), rows, leaves: vec![ctx.leaf(leaf, now)?], ..Change::default() };
    let written = ctx.writer.submit(change).await.map_err(|e| match e {
        WriteError::Refused(Refused::Killed(_)) => SignedOut.into(),
        WriteError::Refused(Refused::Spent) => PossessionError::Nonce.into(),
        WriteError::Refused(Refused::NameTaken) => RegisterError::NameTaken(asked.name.clone()),
        WriteError::Refused(Refused::KeyTaken) => RegisterError::KeyTaken(asked.key),
        e => Unavailable::from_write(e).into(),
    })?;
    let card = card::sign(ctx, &agent, asked.key, now)?;
    Ok(Registered { agent: agent.id, card, leaf: written.placed.leaves.start })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn an_agent_that_shows_its_key_gets_a_card_for_it() {
        let app = app().await;
        let alice = app.person("alice").await;
        let bot = app.register(&alice, "invoice-bot", 1).await.unwrap();
        let card = bot.card.claimed();
        assert_eq!((card.agent, card.holder, card.generation), (bot.agent, key(1), 0));
        assert!(bot.card.verify(&app.ctx.keys.load()).is_some());
        assert_eq!(card.expires_secs, NOW.secs() + 86_400);
        assert!(matches!(app.events().await.last(), Some(event::Event::Agent(e)) if e.agent == bot.agent && e.key == key(1)));
    }

    #[tokio::test]
    async fn names_and_keys_belong_to_one_agent() {
        let app = app().await;
        let alice = app.person("alice").await;
        app.register(&alice, "invoice-bot", 1).await.unwrap();
        assert_eq!(app.register(&alice, "invoice-bot", 2).await, Err(RegisterError::NameTaken("invoice-bot".parse().unwrap())));
        assert_eq!(app.register(&alice, "fx-helper", 1).await, Err(RegisterError::KeyTaken(key(1))));
        app.register(&alice, "fx-helper", 2).await.unwrap();
    }

    #[tokio::test]
    async fn a_challenge_registers_one_agent() {
        let app = app().await;
        let alice = app.person("alice").await;
        let nonce = challenge(&app.ctx, &alice).unwrap();
        let asked = |name: &str, n| Registration { name: name.parse().unwrap(), key: key(n), nonce, signature: possession(&nonce, key(n), n) };
        register_agent(&app.ctx, &alice, &asked("invoice-bot", 1)).await.unwrap();
        assert_eq!(register_agent(&app.ctx, &alice, &asked("fx-helper", 2)).await, Err(RegisterError::Possession(PossessionError::Nonce)));
        app.register(&alice, "fx-helper", 2).await.unwrap();
    }

    #[tokio::test]
    async fn a_signature_by_another_key_registers_nothing() {
        let app = app().await;
        let alice = app.person("alice").await;
        let nonce = challenge(&app.ctx, &alice).unwrap();
        let signature = possession(&nonce, key(1), 2);
        let asked = Registration { name: "invoice-bot".parse().unwrap(), key: key(1), nonce, signature };
        assert_eq!(register_agent(&app.ctx, &alice, &asked).await, Err(RegisterError::Possession(PossessionError::Signature)));
        assert_eq!(register_agent(&app.ctx, &Principal::LocalOperator, &asked).await, Err(RegisterError::NotHuman));
        assert_eq!(app.ctx.store.find_agent_by_name(&asked.name).await.unwrap(), None);
    }
}
