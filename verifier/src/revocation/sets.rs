//! What was taken back: sets that only grow, floors that only rise.

use std::collections::HashMap;

use super::freeze::Freezes;
use super::ids::Ids;
use super::{Known, Lineage, Lookup, RevokedBy, RevokedWhat};
use crate::claims::{HumanRef, Name};
use crate::feed::message::{FloorScope, Item};
use crate::ids::{AgentId, DelegationId, HumanId, Key};

pub(super) type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// Whose ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IdKind {
    /// Tokens.
    Tid,
    /// Links.
    Lid,
    /// Narrowing blocks.
    Block,
}

impl IdKind {
    pub(super) const ALL: [Self; 3] = [Self::Tid, Self::Lid, Self::Block];
}

#[derive(Default)]
pub(super) struct Sets {
    tids: Ids,
    lids: Ids,
    blocks: Ids,
    /// To the feed number.
    holders: Map<Key, u64>,
    global: Floor,
    tenant: Floor,
    humans: Map<HumanId, Floor>,
    /// The same floors under the names that tokens for this service alone use.
    pairwise: Map<[u8; 32], Floor>,
    agents: Map<AgentId, Floor>,
    delegations: Map<DelegationId, Floor>,
    pub(super) freezes: Freezes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) seq: u64,
    pub(super) exp_secs: u64,
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

impl Sets {
    pub(super) fn apply(&mut self, seq: u64, item: &Item, service: &Name) {
        match item {
            Item::Tid { tid, exp_secs } => self.tids.apply(*tid.as_bytes(), seq, *exp_secs),
            Item::Lid { lid, exp_secs } => self.lids.apply(*lid.as_bytes(), seq, *exp_secs),
            Item::Block { block, exp_secs } => self.blocks.apply(*block.as_bytes(), seq, *exp_secs),
            Item::HolderKey { key } => {
                self.holders.entry(*key).and_modify(|s| *s = seq.min(*s)).or_insert(seq);
            }
            Item::RootKey { key } => self.freezes.kill(*key, seq),
            Item::Freeze(freeze) => self.freezes.put(*freeze, service),
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

    pub(super) const fn of(&self, kind: IdKind) -> &Ids {
        match kind {
            IdKind::Tid => &self.tids,
            IdKind::Lid => &self.lids,
            IdKind::Block => &self.blocks,
        }
    }

    pub(super) const fn of_mut(&mut self, kind: IdKind) -> &mut Ids {
        match kind {
            IdKind::Tid => &mut self.tids,
            IdKind::Lid => &mut self.lids,
            IdKind::Block => &mut self.blocks,
        }
    }

    /// L6. Revocations are named before doubts.
    pub(super) fn lookup(&self, l: &Lineage<'_>) -> Lookup {
        // Without an own id or agent nothing could be found: that is no lineage, and no reason to allow.
        let ([own, ancestors @ ..], [(agent, agent_generation), hops @ ..]) = (l.tids, l.agents) else { return Lookup::Behind };
        let gone = |what, seq| Lookup::Revoked(RevokedBy { what, seq });
        if let Some(seq) = self.tids.find(own.as_bytes()) {
            return gone(RevokedWhat::Tid, seq);
        }
        if let Some(seq) = ancestors.iter().find_map(|t| self.tids.find(t.as_bytes())) {
            return gone(RevokedWhat::Ancestor, seq);
        }
        if let Some(seq) = l.lids.iter().find_map(|i| self.lids.find(i.as_bytes())) {
            return gone(RevokedWhat::Lid, seq);
        }
        if let Some(seq) = l.blocks.iter().find_map(|b| self.blocks.find(b.as_bytes())) {
            return gone(RevokedWhat::Block, seq);
        }
        if let Some(seq) = l.holders.iter().find_map(|k| self.holders.get(k)) {
            return gone(RevokedWhat::HolderKey, *seq);
        }
        if let Some(seq) = self.freezes.killed(l.root) {
            return gone(RevokedWhat::RootKey, seq);
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

    /// Drops what ended among the ids that came last; the shards are looked through when they are merged.
    pub(super) fn collect(&mut self, utc_secs: u64) -> usize {
        IdKind::ALL.into_iter().map(|kind| self.of_mut(kind).collect(utc_secs)).sum()
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
            root_keys: self.freezes.root_keys(),
            freezes: self.freezes.len(),
        }
    }
}

/// What the sets say, whatever they are kept in.
#[cfg(all(test, not(loom)))]
impl Sets {
    /// Each floor and key with its number, each id with its hour.
    pub(super) fn all(&self) -> std::collections::BTreeMap<(u8, Vec<u8>), (u64, u64)> {
        let mut all = std::collections::BTreeMap::new();
        for (n, kind) in (1..).zip(IdKind::ALL) {
            all.extend(self.of(kind).all().into_iter().map(|(id, hour)| ((n, id.to_vec()), (hour, 0))));
        }
        all.extend(self.holders.iter().map(|(key, seq)| ((4, key.as_bytes().to_vec()), (0, *seq))));
        let mut floor = |n: u8, of: &[u8], floor: &Floor| _ = all.insert((n, of.to_vec()), (floor.generation, floor.seq));
        floor(5, &[], &self.global);
        floor(6, &[], &self.tenant);
        self.humans.iter().for_each(|(id, f)| floor(7, id.as_bytes(), f));
        self.pairwise.iter().for_each(|(name, f)| floor(8, name, f));
        self.agents.iter().for_each(|(id, f)| floor(9, id.as_bytes(), f));
        self.delegations.iter().for_each(|(id, f)| floor(10, id.as_bytes(), f));
        all.extend(self.freezes.items().into_iter().map(|(seq, item)| ((11, format!("{item:?}").into_bytes()), (0, seq))));
        all
    }

    /// The numbers of the ids that are not merged yet.
    pub(super) fn hot_seqs(&self) -> Vec<std::collections::BTreeMap<[u8; 16], u64>> {
        IdKind::ALL.into_iter().map(|kind| self.of(kind).hot_seqs()).collect()
    }
}

/// Skew between the clock that collects and one that still takes a token.
pub(super) const KEPT_AFTER_EXPIRY_SECS: u64 = 60;
