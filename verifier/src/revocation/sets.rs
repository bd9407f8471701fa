//! What was taken back: sets that only grow, floors that only rise.

use std::collections::{BTreeMap, HashMap};

use super::{Known, Lineage, Lookup, RevokedBy, RevokedWhat};
use crate::claims::{HumanRef, Name};
use crate::feed::message::{FloorScope, Item};
use crate::ids::{AgentId, BlockId, DelegationId, HumanId, Key, Lid, Tid};

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

#[derive(Default)]
pub(super) struct Sets {
    tids: Map<Tid, Gone>,
    lids: Map<Lid, Gone>,
    blocks: Map<BlockId, Gone>,
    /// To the feed number.
    holders: Map<Key, u64>,
    global: Floor,
    tenant: Floor,
    humans: Map<HumanId, Floor>,
    /// The same floors under the names that tokens for this service alone use.
    pairwise: Map<[u8; 32], Floor>,
    agents: Map<AgentId, Floor>,
    delegations: Map<DelegationId, Floor>,
    /// Which ids may be dropped when, in steps of [`EXPIRY_STEP_SECS`].
    expiring: BTreeMap<u64, Vec<Expiring>>,
}

impl PartialEq for Sets {
    /// The index of expiries follows from the rest, in order of arrival.
    fn eq(&self, o: &Self) -> bool {
        self.tids == o.tids
            && self.lids == o.lids
            && self.blocks == o.blocks
            && self.holders == o.holders
            && (self.global, self.tenant) == (o.global, o.tenant)
            && self.humans == o.humans
            && self.pairwise == o.pairwise
            && self.agents == o.agents
            && self.delegations == o.delegations
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Gone {
    seq: u64,
    exp_secs: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Floor {
    generation: u64,
    seq: u64,
}

impl Floor {
    /// The higher one; of equals the one known from the lower number.
    fn raise(&mut self, generation: u64, seq: u64) {
        if generation > self.generation || (generation == self.generation && seq < self.seq) {
            *self = Self { generation, seq };
        }
    }
}

#[derive(Clone, Copy)]
enum Expiring {
    Tid(Tid),
    Lid(Lid),
    Block(BlockId),
}

impl Sets {
    pub(super) fn apply(&mut self, seq: u64, item: &Item, service: &Name) {
        match item {
            Item::Tid { tid, exp_secs } => {
                if remember(&mut self.tids, *tid, seq, *exp_secs) {
                    self.expire(*exp_secs, Expiring::Tid(*tid));
                }
            }
            Item::Lid { lid, exp_secs } => {
                if remember(&mut self.lids, *lid, seq, *exp_secs) {
                    self.expire(*exp_secs, Expiring::Lid(*lid));
                }
            }
            Item::Block { block, exp_secs } => {
                if remember(&mut self.blocks, *block, seq, *exp_secs) {
                    self.expire(*exp_secs, Expiring::Block(*block));
                }
            }
            Item::HolderKey { key } => {
                self.holders.entry(*key).and_modify(|s| *s = seq.min(*s)).or_insert(seq);
            }
            // Floor 0 ends nothing, and would be told apart from no floor.
            Item::Floor { generation: 0, .. } | Item::Unknown { .. } => {}
            Item::Floor { scope, generation } => {
                let floor = match scope {
                    FloorScope::Global => &mut self.global,
                    FloorScope::Tenant => &mut self.tenant,
                    FloorScope::Human(id) => {
                        if let HumanRef::Pairwise(name) = HumanRef::pairwise(*id, service) {
                            self.pairwise.entry(name).or_default().raise(*generation, seq);
                        }
                        self.humans.entry(*id).or_default()
                    }
                    FloorScope::Agent(id) => self.agents.entry(*id).or_default(),
                    FloorScope::Delegation(id) => self.delegations.entry(*id).or_default(),
                };
                floor.raise(*generation, seq);
            }
        }
    }

    fn expire(&mut self, exp_secs: u64, what: Expiring) {
        self.expiring.entry(exp_secs / EXPIRY_STEP_SECS).or_default().push(what);
    }

    /// L6. Revocations are named before doubts.
    pub(super) fn lookup(&self, l: &Lineage<'_>) -> Lookup {
        // Without an own id or agent nothing could be found: that is no lineage, and no reason to allow.
        let ([own, ancestors @ ..], [(agent, agent_generation), hops @ ..]) = (l.tids, l.agents) else { return Lookup::Behind };
        let gone = |what, seq| Lookup::Revoked(RevokedBy { what, seq });
        if let Some(g) = self.tids.get(own) {
            return gone(RevokedWhat::Tid, g.seq);
        }
        if let Some(g) = ancestors.iter().find_map(|t| self.tids.get(t)) {
            return gone(RevokedWhat::Ancestor, g.seq);
        }
        if let Some(g) = l.lids.iter().find_map(|i| self.lids.get(i)) {
            return gone(RevokedWhat::Lid, g.seq);
        }
        if let Some(g) = l.blocks.iter().find_map(|b| self.blocks.get(b)) {
            return gone(RevokedWhat::Block, g.seq);
        }
        if let Some(seq) = l.holders.iter().find_map(|k| self.holders.get(k)) {
            return gone(RevokedWhat::HolderKey, *seq);
        }

        let human = match &l.human {
            HumanRef::Id(id) => self.humans.get(id),
            HumanRef::Pairwise(name) => self.pairwise.get(name),
        };
        let g = &l.generations;
        let of_agent = |id| self.agents.get(id).copied().unwrap_or_default();
        // Block 0's agent stands in both places; the lower of two different claims is judged, and the higher.
        let agent_low = g.agent.min(*agent_generation);
        let agent_high = g.agent.max(*agent_generation);
        let agent_floor = of_agent(agent);
        let fixed = [
            (RevokedWhat::GlobalFloor, self.global, g.global, g.global),
            (RevokedWhat::TenantFloor, self.tenant, g.tenant, g.tenant),
            (RevokedWhat::HumanFloor, human.copied().unwrap_or_default(), g.human, g.human),
            (RevokedWhat::AgentFloor, agent_floor, agent_low, agent_high),
        ];
        let mut behind = false;
        for (what, floor, low, high) in fixed {
            if low < floor.generation {
                return gone(what, floor.seq);
            }
            behind |= high > floor.generation;
        }
        for (id, generation) in hops {
            let floor = of_agent(id);
            if *generation < floor.generation {
                return gone(RevokedWhat::AgentFloor, floor.seq);
            }
            behind |= *generation > floor.generation;
        }
        let floor = self.delegations.get(&l.delegation).copied().unwrap_or_default();
        if g.delegation < floor.generation {
            return gone(RevokedWhat::DelegationFloor, floor.seq);
        }
        behind |= g.delegation > floor.generation;
        if behind { Lookup::Behind } else { Lookup::Live }
    }

    /// Drops up to `portion` ids; how many, and whether more are due.
    pub(super) fn collect(&mut self, utc_secs: u64, portion: usize) -> (usize, bool) {
        let due = |step: u64| step.saturating_add(1).saturating_mul(EXPIRY_STEP_SECS).saturating_add(KEPT_AFTER_EXPIRY_SECS) <= utc_secs;
        let mut dropped = 0;
        while let Some(mut first) = self.expiring.first_entry() {
            if !due(*first.key()) {
                return (dropped, false);
            }
            let step = *first.key();
            if dropped >= portion {
                return (dropped, true);
            }
            let Some(what) = first.get_mut().pop() else {
                first.remove();
                continue;
            };
            // A later expiry of the same id stands in a later step.
            match what {
                Expiring::Tid(id) => forget(&mut self.tids, id, step),
                Expiring::Lid(id) => forget(&mut self.lids, id, step),
                Expiring::Block(id) => forget(&mut self.blocks, id, step),
            }
            dropped += 1;
        }
        (dropped, false)
    }

    pub(super) fn known(&self) -> Known {
        Known {
            ids: self.tids.len() + self.lids.len() + self.blocks.len(),
            holder_keys: self.holders.len(),
            floors: usize::from(self.global.generation > 0)
                + usize::from(self.tenant.generation > 0)
                + self.humans.len()
                + self.agents.len()
                + self.delegations.len(),
        }
    }
}

/// True if the id is new or expires later than known.
fn remember<K: Eq + std::hash::Hash>(map: &mut Map<K, Gone>, id: K, seq: u64, exp_secs: u64) -> bool {
    let mut grown = false;
    map.entry(id)
        .and_modify(|g| {
            g.seq = g.seq.min(seq);
            grown = exp_secs > g.exp_secs;
            g.exp_secs = g.exp_secs.max(exp_secs);
        })
        .or_insert_with(|| {
            grown = true;
            Gone { seq, exp_secs }
        });
    grown
}

fn forget<K: Eq + std::hash::Hash>(map: &mut Map<K, Gone>, id: K, step: u64) {
    if map.get(&id).is_some_and(|g| g.exp_secs / EXPIRY_STEP_SECS <= step) {
        map.remove(&id);
    }
}

/// Skew between the clock that collects and one that still takes a token.
const KEPT_AFTER_EXPIRY_SECS: u64 = 60;
const EXPIRY_STEP_SECS: u64 = 64;
