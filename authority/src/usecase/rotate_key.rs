//! An agent's next key. Those it follows go on for a stated overlap and are then revoked.

use procura_verifier::card::SignedCard;
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, Key, UtcMillis};
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use super::{ATTEMPTS, Context, SignedOut, Unavailable, card, standing};
use crate::agent_auth::{self, PossessionError};
use crate::domain::agent::{AgentKey, AgentState, KeyState, MAX_LIVE_KEYS, MAX_OVERLAP_MS};
use crate::domain::principal::Principal;
use crate::log::event::{self, Actor, Replaced};
use crate::store::{Answer, Change, Refused, Require, Row};
use crate::writer::WriteError;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// Whose.
    pub agent: AgentId,
    /// The next key.
    pub key: Key,
    /// The challenge drawn for the asking human.
    pub nonce: [u8; 32],
    /// The next key's signature over it.
    pub signature: [u8; 64],
    /// How long the keys of now go on, in milliseconds; 0 revokes them with this.
    pub overlap_ms: u64,
}

/// The next key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotated {
    /// A card for it; none while the agent is stopped.
    pub card: Option<SignedCard>,
    /// The keys it follows, and when each ends.
    pub replaces: Vec<Replaced>,
    /// Where the log says so.
    pub leaf: u64,
}

/// Why nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// Only the owner gives an agent its key.
    #[error("not your agent")]
    Forbidden,
    /// For ever.
    #[error("the agent is retired, and that is for ever")]
    Retired,
    /// An overlap of days would be two keys.
    #[error("an overlap of {0} s is too long, expected at most {max} s", max = MAX_OVERLAP_MS / 1000)]
    Overlap(u64),
    /// The overlaps of earlier rotations are not over.
    #[error("{MAX_LIVE_KEYS} keys of the agent live already: wait for an overlap to end, or end them now")]
    TooMany,
    /// The key was not shown.
    #[error(transparent)]
    Possession(#[from] PossessionError),
    /// Registered before: this agent's, another's, or a verifier's.
    #[error("key {0} is registered already")]
    KeyTaken(Key),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Gives an agent its next key, from now on. In the log before it returns, and the end of the others with it.
pub async fn rotate(ctx: &Context, by: &Principal, asked: &Rotation) -> Result<Rotated, RotateError> {
    let owner = by.human().ok_or(RotateError::Forbidden)?;
    if asked.overlap_ms > MAX_OVERLAP_MS {
        return Err(RotateError::Overlap(asked.overlap_ms / 1000));
    }
    let now = ctx.now();
    let scope = FloorScope::Agent(asked.agent);
    for _ in 0..ATTEMPTS {
        let found = ctx.store.find_agent(asked.agent).await.map_err(Unavailable::from)?;
        let agent = found.filter(|a| a.owner == owner).ok_or(RotateError::Forbidden)?;
        if agent.state == AgentState::Retired {
            return Err(RotateError::Retired);
        }
        let spends = agent_auth::redeem_challenge(&ctx.seals, now, owner, &ctx.tenant, &asked.nonce, &asked.key, &asked.signature)?;
        if ctx.store.find_agent_key(asked.key).await.map_err(Unavailable::from)?.is_some() {
            return Err(RotateError::KeyTaken(asked.key));
        }
        let generation = ctx.generation(scope).await.map_err(Unavailable::from)?;
        let keys = ctx.store.keys_of(asked.agent).await.map_err(Unavailable::from)?;
        let live: Vec<_> = keys.iter().filter(|k| k.state == KeyState::Live).collect();
        if live.len() >= MAX_LIVE_KEYS && asked.overlap_ms > 0 {
            return Err(RotateError::TooMany);
        }
        let mut requires = [standing(by), vec![Require::GenerationIs(scope, generation)]].concat();
        let mut rows = vec![Row::Spent(spends.0, spends.1), once(ctx, asked.agent, &keys)];
        let (mut items, mut leaves, mut replaces) = (Vec::new(), Vec::new(), Vec::new());
        for key in live {
            // What ends earlier already does not go on for that.
            let until = now.plus(asked.overlap_ms).min(key.ends.unwrap_or(UtcMillis(u64::MAX)));
            // A revocation that comes in between must not be written over.
            requires.push(Require::KeyLive(asked.agent, key.key));
            replaces.push(Replaced { key: key.key, until });
            if until > now {
                rows.push(Row::AgentKey(AgentKey { ends: Some(until), ..key.clone() }));
            } else {
                rows.push(Row::AgentKey(AgentKey { ends: Some(until), state: KeyState::Revoked, ..key.clone() }));
                let item = Item::HolderKey { key: key.key };
                let revoke = event::Revoke { item: event::Encoded(item.to_bytes()), by: Actor::Human(owner), reason_hash: None, delegation: None };
                leaves.push(ctx.leaf(revoke, now)?);
                items.push(item);
            }
        }
        rows.push(Row::AgentKey(AgentKey { key: asked.key, agent: asked.agent, state: KeyState::Live, added: now, ends: None }));
        leaves.push(ctx.leaf(event::AgentKey { agent: asked.agent, key: asked.key, replaces: replaces.clone(), by: Actor::Human(owner) }, now)?);
        let written = match ctx.writer.submit(Change { requires, rows, items, leaves }).await {
            Ok(written) => written,
            Err(WriteError::Refused(Refused::Killed(_))) => return Err(SignedOut.into()),
            Err(WriteError::Refused(Refused::Spent)) => return Err(PossessionError::Nonce.into()),
            Err(WriteError::Refused(Refused::KeyTaken)) => return Err(RotateError::KeyTaken(asked.key)),
            Err(WriteError::Refused(Refused::GenerationMoved(..) | Refused::KeyNotLive | Refused::Answered)) => continue,
            Err(e) => return Err(Unavailable::from_write(e).into()),
        };
        // Law 4: after a kill there is no card until a resume.
        let carded = agent.state == AgentState::Active && agent.generation == generation;
        let card = if carded { Some(card::sign(ctx, &agent, asked.key, now)?) } else { None };
        return Ok(Rotated { card, replaces, leaf: written.placed.leaves.end.saturating_sub(1) });
    }
    Err(Unavailable::Busy.into())
}

/// What only one of those writes who read the same living keys: the others read again. Living keys never come back, so
/// each set of them is there once.
pub(super) fn once(ctx: &Context, agent: AgentId, keys: &[AgentKey]) -> Row {
    let mut live: Vec<_> = keys.iter().filter(|k| k.state == KeyState::Live).map(|k| k.key).collect();
    live.sort_unstable();
    let mut hash = Sha256::new_with_prefix(b"procura/living-keys/1\0").chain_update(agent.as_bytes());
    live.iter().for_each(|k| hash.update(k.as_bytes()));
    let key: [u8; 32] = hash.finalize().into();
    Row::Answer(Answer { key, request: key, body: "{}".to_owned(), expires: ctx.now().plus(24 * 3_600_000) })
}
