//! The life of agents: keys that follow each other, suspension, resume, retirement.

use std::collections::HashMap;

use procura_verifier::feed::message::Item;
use procura_verifier::ids::{AgentId, Key, UtcMillis};

use super::super::event;
use crate::domain::agent::{AgentState, MAX_OVERLAP_MS};

/// What the log has said so far.
#[derive(Default)]
pub(super) struct Agents {
    lives: HashMap<AgentId, Life>,
    /// When a key that another has followed ends.
    ends: HashMap<Key, UtcMillis>,
}

struct Life {
    state: AgentState,
    /// At registration, or at the last change of state.
    generation: u64,
}

impl Agents {
    pub(super) fn registered(&mut self, e: &event::Agent) -> Result<(), String> {
        let life = self.lives.entry(e.agent).or_insert(Life { state: AgentState::Active, generation: e.generation });
        if life.state == AgentState::Retired { Err(format!("{} gets a key and is retired", e.agent)) } else { Ok(()) }
    }

    /// Ends are at most [`MAX_OVERLAP_MS`] away, and never move out.
    pub(super) fn rotated(&mut self, e: &event::AgentKey, at: UtcMillis) -> Result<(), String> {
        if self.lives.get(&e.agent).is_none_or(|l| l.state == AgentState::Retired) {
            return Err(format!("{} gets a key and is retired, or was never registered", e.agent));
        }
        for replaced in &e.replaces {
            if replaced.until > at.plus(MAX_OVERLAP_MS) || self.ends.get(&replaced.key).is_some_and(|ends| replaced.until > *ends) {
                return Err(format!("key {} goes on until {}, which is later than it may", replaced.key, replaced.until));
            }
            self.ends.insert(replaced.key, replaced.until);
        }
        Ok(())
    }

    /// A stop raises the generation; a resume takes the floor and never follows a retirement.
    pub(super) fn changed(&mut self, e: &event::AgentState) -> Result<(), String> {
        let life = self.lives.get_mut(&e.agent).ok_or_else(|| format!("{} was never registered", e.agent))?;
        let fits = match (life.state, e.state) {
            (AgentState::Retired, _) => false,
            (AgentState::Suspended, AgentState::Suspended) => false,
            (_, AgentState::Suspended | AgentState::Retired) => e.generation > life.generation,
            // Suspended, or killed while it was active.
            (AgentState::Suspended, AgentState::Active) => true,
            (AgentState::Active, AgentState::Active) => e.generation > life.generation,
        };
        if !fits {
            return Err(format!(
                "{} cannot become {} at generation {}: it is {} of {}",
                e.agent,
                e.state.word(),
                e.generation,
                life.state.word(),
                life.generation
            ));
        }
        *life = Life { state: e.state, generation: e.generation };
        Ok(())
    }

    /// Nothing is granted to or minted for an agent that is stopped; `Err` says what it is.
    pub(super) fn is_active(&self, agent: AgentId) -> Result<(), &'static str> {
        match self.lives.get(&agent).map_or(AgentState::Active, |l| l.state) {
            AgentState::Active => Ok(()),
            stopped => Err(stopped.word()),
        }
    }

    pub(super) fn key_holds(&self, key: &Key, at: UtcMillis) -> Result<(), UtcMillis> {
        match self.ends.get(key) {
            // What was asked for just before the end may be written just after it.
            Some(ends) if at > ends.plus(SLACK_MS) => Err(*ends),
            _ => Ok(()),
        }
    }

    /// The authority by itself ends nothing but an overlap that somebody stated.
    pub(super) fn overlap_ended(&self, item: &Item, at: UtcMillis) -> Result<(), String> {
        match item {
            Item::HolderKey { key } if self.ends.get(key).is_some_and(|ends| *ends <= at) => Ok(()),
            _ => Err("is said to be the end of a key's overlap, which nobody stated or which has not come".to_owned()),
        }
    }
}

const SLACK_MS: u64 = 60_000;
