//! Root keys that were killed, and freezes: what a token need not say to be stopped, and a stop that can be lifted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Lineage;
use crate::claims::{HumanRef, Name};
use crate::feed::message::{FloorScope, Freeze, Item};
use crate::ids::{AgentId, DelegationId, FreezeId, Key, UtcMillis};

/// What freezes say of a token at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// The freeze in force: the first in the order global, tenant, human, agents, delegation, and of one of these the lowest id.
    pub by: Option<FreezeId>,
    /// The first moment at which, by what is known, the answer may be another.
    pub holds_until: UtcMillis,
}

impl Frozen {
    /// No freeze concerns the token, now or later.
    pub const NOT: Self = Self { by: None, holds_until: UtcMillis(u64::MAX) };
}

/// Freezes join by [`Freeze::supersedes`], root keys by their lowest number: any order, same result. Neither is ever
/// forgotten: a lifted freeze must outlive the versions that it lifts, which anybody may repeat.
#[derive(Default)]
pub(super) struct Freezes {
    /// To the feed number.
    roots: Map<Key, u64>,
    by_id: Map<FreezeId, Freeze>,
    /// Of these the ones that are not lifted, by whom they stop; each list sorted by id.
    windows: Map<Whom, Vec<Freeze>>,
}

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Whom {
    Global,
    Tenant,
    Human(HumanRef),
    Agent(AgentId),
    Delegation(DelegationId),
}

impl PartialEq for Freezes {
    /// The windows follow from the rest.
    fn eq(&self, o: &Self) -> bool {
        self.roots == o.roots && self.by_id == o.by_id
    }
}

impl Freezes {
    pub(super) fn kill(&mut self, root: Key, seq: u64) {
        self.roots.entry(root).and_modify(|s| *s = seq.min(*s)).or_insert(seq);
    }

    /// The lowest number that kills this root key.
    pub(super) fn killed(&self, root: &Key) -> Option<u64> {
        self.roots.get(root).copied()
    }

    pub(super) fn put(&mut self, freeze: Freeze, service: &Name) {
        let before = match self.by_id.entry(freeze.id) {
            Entry::Occupied(held) if !freeze.supersedes(held.get()) => return,
            Entry::Occupied(mut held) => Some(held.insert(freeze)),
            Entry::Vacant(place) => {
                place.insert(freeze);
                None
            }
        };
        for whom in before.iter().flat_map(|old| whom(old.scope, service)).flatten() {
            if let Entry::Occupied(mut list) = self.windows.entry(whom) {
                list.get_mut().retain(|f| f.id != freeze.id);
                if list.get().is_empty() {
                    list.remove();
                }
            }
        }
        if !freeze.is_lifted() {
            for whom in whom(freeze.scope, service).into_iter().flatten() {
                let list = self.windows.entry(whom).or_default();
                list.insert(list.partition_point(|f| f.id < freeze.id), freeze);
            }
        }
    }

    pub(super) fn at(&self, l: &Lineage<'_>, utc: UtcMillis) -> Frozen {
        let mut frozen = Frozen::NOT;
        if self.windows.is_empty() {
            return frozen;
        }
        let agents = l.agents.iter().map(|(agent, _)| Whom::Agent(*agent));
        let before = [Whom::Global, Whom::Tenant, Whom::Human(l.human)];
        let whoms = before.into_iter().chain(agents).chain([Whom::Delegation(l.delegation)]);
        for freeze in whoms.filter_map(|whom| self.windows.get(&whom)).flatten() {
            if freeze.holds_at(utc) {
                return Frozen { by: Some(freeze.id), holds_until: freeze.until };
            }
            if utc < freeze.from {
                frozen.holds_until = frozen.holds_until.min(freeze.from);
            }
        }
        frozen
    }

    pub(super) fn root_keys(&self) -> usize {
        self.roots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of it as items with the lowest number known of each (a freeze is named by its id: 0), in the order of their bytes.
    pub(super) fn items(&self) -> Vec<(u64, Item)> {
        let mut roots: Vec<_> = self.roots.iter().map(|(key, seq)| (*key, *seq)).collect();
        roots.sort_unstable();
        let mut freezes: Vec<_> = self.by_id.values().copied().collect();
        freezes.sort_unstable_by_key(|f| f.id);
        let roots = roots.into_iter().map(|(key, seq)| (seq, Item::RootKey { key }));
        roots.chain(freezes.into_iter().map(|f| (0, Item::Freeze(f)))).collect()
    }
}

/// Under which names tokens can be found: a human also under the one that tokens for this service alone use.
fn whom(scope: FloorScope, service: &Name) -> [Option<Whom>; 2] {
    match scope {
        FloorScope::Global => [Some(Whom::Global), None],
        FloorScope::Tenant => [Some(Whom::Tenant), None],
        FloorScope::Human(id) => [Some(Whom::Human(HumanRef::Id(id))), Some(Whom::Human(HumanRef::pairwise(id, service)))],
        FloorScope::Agent(id) => [Some(Whom::Agent(id)), None],
        FloorScope::Delegation(id) => [Some(Whom::Delegation(id)), None],
    }
}
