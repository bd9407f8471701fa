//! The feed of a bundle: one signed chain, each item beside its leaf, and what it had taken back at any number.

use std::collections::HashMap;

use procura_verifier::claims::{Audience, HumanRef};
use procura_verifier::feed::message::{FloorScope, Freeze, Item, Message, SignedMessage, genesis_hash};
use procura_verifier::ids::{BlockId, FreezeId, Key, Lid, Tid, UtcMillis};
use procura_verifier::revocation::{Lineage, Lookup, RevokedBy, RevokedWhat};
use procura_verifier::wire::Canonical as _;

use super::super::bundle::Bundle;
use super::super::event::Event;
use super::super::finding::{Finding, FindingClass, Place};

/// Everything the feed took back, with the number at which it did.
#[derive(Default)]
pub(super) struct Taken {
    by_leaf: HashMap<u64, Item>,
    /// The message that holds the item of a leaf.
    seqs: HashMap<u64, u64>,
    /// Hash of each message by number; 0 is the head before the first.
    hashes: HashMap<u64, [u8; 32]>,
    /// When each message was put together, and the place of its last leaf.
    messages: HashMap<u64, (UtcMillis, u64)>,
    epoch: u64,
    tids: HashMap<Tid, u64>,
    lids: HashMap<Lid, u64>,
    blocks: HashMap<BlockId, u64>,
    holders: HashMap<Key, u64>,
    roots: HashMap<Key, u64>,
    /// Each version of each freeze with its number.
    freezes: HashMap<FreezeId, Vec<(u64, Freeze)>>,
    /// Number and floor, both rising.
    floors: HashMap<FloorScope, Vec<(u64, u64)>>,
}

impl Taken {
    /// Reads the feed of a bundle: signatures, numbers, hashes, and that items and leaves are one to one.
    pub(super) fn read(bundle: &Bundle) -> Result<Self, Finding> {
        let tenant = &bundle.manifest().tenant;
        let mut taken = Self { epoch: 1, ..Self::default() };
        let mut head = genesis_hash(tenant, 1);
        taken.hashes.insert(0, head);
        let mut last = None;
        for (place, (expected, bytes)) in (0..).zip((1_u64..).zip(bundle.feed())) {
            let wrong = |sentence: String| Finding::new(FindingClass::Feed, Place::FeedMessage(place), sentence);
            let signed = SignedMessage::from_bytes(bytes).map_err(|e| wrong(e.to_string()))?;
            // The list in force where its first item was logged; a message without items has the last.
            let message = signed.verify(bundle.key_list(), None).map_err(|e| wrong(e.to_string()))?;
            let Message::Batch(batch) = message else { return Err(wrong("expected a batch".to_owned())) };
            if (batch.epoch, batch.seq, batch.prev) != (1, expected, head) {
                return Err(wrong(format!("number {} of epoch {} does not follow number {} of epoch 1", batch.seq, batch.epoch, expected - 1)));
            }
            head = signed.hash();
            taken.hashes.insert(expected, head);
            for (index, item) in batch.items {
                // Commit order is feed order and leaf order: a revocation that was logged and held back shows here.
                if last.is_some_and(|last| index <= last) {
                    return Err(wrong(format!("carries the item of leaf {index} after that of leaf {}", last.unwrap_or_default())));
                }
                last = Some(index);
                taken.add(expected, &item);
                taken.seqs.insert(index, expected);
                if taken.by_leaf.insert(index, item).is_some() {
                    return Err(wrong(format!("leaf {index} stands beside two items")));
                }
            }
            taken.messages.insert(expected, (batch.issued, last.unwrap_or_default()));
        }
        for (index, item) in &taken.by_leaf {
            let leaf = usize::try_from(*index).ok().and_then(|i| bundle.leaves().get(i));
            let beside = matches!(leaf.map(|l| &l.event), Some(Event::Revoke(e)) if e.item.0 == item.to_bytes());
            if !beside {
                return Err(Finding::new(FindingClass::Feed, Place::Leaf(*index), "the feed carries an item that this leaf does not record"));
            }
        }
        Ok(taken)
    }

    fn add(&mut self, seq: u64, item: &Item) {
        match item {
            Item::Tid { tid, .. } => _ = self.tids.entry(*tid).or_insert(seq),
            Item::Lid { lid, .. } => _ = self.lids.entry(*lid).or_insert(seq),
            Item::Block { block, .. } => _ = self.blocks.entry(*block).or_insert(seq),
            Item::HolderKey { key } => _ = self.holders.entry(*key).or_insert(seq),
            Item::RootKey { key } => _ = self.roots.entry(*key).or_insert(seq),
            Item::Freeze(freeze) => self.freezes.entry(freeze.id).or_default().push((seq, *freeze)),
            Item::Floor { scope, generation } => self.floors.entry(*scope).or_default().push((seq, *generation)),
            Item::Unknown { .. } => {}
        }
    }

    /// The item that stands beside a leaf.
    pub(super) fn at_leaf(&self, index: u64) -> Option<&Item> {
        self.by_leaf.get(&index)
    }

    /// Epoch and number of the message that holds the item of a leaf.
    pub(super) fn place_of(&self, index: u64) -> Option<(u64, u64)> {
        self.seqs.get(&index).map(|seq| (self.epoch, *seq))
    }

    /// The hash of a message of this feed.
    pub(super) fn hash(&self, epoch: u64, seq: u64) -> Option<&[u8; 32]> {
        if epoch == self.epoch { self.hashes.get(&seq) } else { None }
    }

    /// When a message was put together, if the feed has it.
    pub(super) fn issued(&self, seq: u64) -> Option<UtcMillis> {
        self.messages.get(&seq).map(|(issued, _)| *issued)
    }

    /// True if the feed has that number and all of it was logged before that leaf.
    pub(super) fn is_logged_before(&self, seq: u64, leaf: u64) -> bool {
        seq == 0 || self.messages.get(&seq).is_some_and(|(_, last)| *last < leaf)
    }

    /// What was known of a token's lineage at a number: live, behind, or the first thing that takes it back.
    pub(super) fn lookup(&self, lineage: &Lineage<'_>, audience: &Audience, upto: u64) -> Lookup {
        let mut behind = false;
        for what in RevokedWhat::ALL {
            let (hit, above) = self.first(lineage, audience, what, upto);
            if let Some(seq) = hit {
                return Lookup::Revoked(RevokedBy { what, seq });
            }
            behind |= above;
        }
        if behind { Lookup::Behind } else { Lookup::Live }
    }

    /// True if the feed, at that number, takes the lineage back as said.
    pub(super) fn bears_out(&self, lineage: &Lineage<'_>, audience: &Audience, by: RevokedBy) -> bool {
        self.first(lineage, audience, by.what, by.seq).0.is_some()
    }

    /// The freezes that stopped a lineage at a moment, for whoever knew the feed up to `upto` and may have heard of more, but of
    /// nothing that was logged after `leaf`: one that it cannot have missed, and all that it can have seen.
    pub(super) fn frozen(&self, lineage: &Lineage<'_>, audience: &Audience, utc: UtcMillis, (upto, leaf): (u64, u64)) -> (Option<FreezeId>, Vec<FreezeId>) {
        let stops = |f: &Freeze| {
            f.holds_at(utc)
                && match f.scope {
                    FloorScope::Global | FloorScope::Tenant => true,
                    FloorScope::Human(id) => lineage.human == HumanRef::Id(id) || lineage.human == HumanRef::pairwise(id, audience.service()),
                    FloorScope::Agent(id) => lineage.agents.iter().any(|(agent, _)| *agent == id),
                    FloorScope::Delegation(id) => lineage.delegation == id,
                }
        };
        let (mut certain, mut possible) = (None, Vec::new());
        for (id, versions) in &self.freezes {
            let join = |held: Option<Freeze>, next: Freeze| Some(held.filter(|h| !next.supersedes(h)).unwrap_or(next));
            let held = versions.iter().filter(|(seq, _)| *seq <= upto).fold(None, |held, (_, f)| join(held, *f));
            let newer = |f: &Freeze| held.is_none_or(|h| f.supersedes(&h));
            let heard = versions.iter().filter(|(seq, f)| *seq > upto && self.is_logged_before(*seq, leaf) && newer(f)).map(|(_, f)| *f);
            let may_hold: Vec<_> = held.into_iter().chain(heard).map(|f| stops(&f)).collect();
            if may_hold.contains(&true) {
                possible.push(*id);
            }
            if held.is_some() && !may_hold.contains(&false) {
                certain = Some(*id);
            }
        }
        (certain, possible)
    }

    /// The first number up to `upto` at which something of this kind takes the lineage back, and whether the lineage is above a floor.
    fn first(&self, lineage: &Lineage<'_>, audience: &Audience, what: RevokedWhat, upto: u64) -> (Option<u64>, bool) {
        let known = |seq: Option<&u64>| seq.copied().filter(|s| *s <= upto);
        let g = &lineage.generations;
        let ids = |seq: Option<u64>| (seq, false);
        let (own, ancestors) = lineage.tids.split_at(lineage.tids.len().min(1));
        match what {
            RevokedWhat::Tid => ids(own.iter().find_map(|t| known(self.tids.get(t)))),
            RevokedWhat::Ancestor => ids(ancestors.iter().find_map(|t| known(self.tids.get(t)))),
            RevokedWhat::Lid => ids(lineage.lids.iter().find_map(|l| known(self.lids.get(l)))),
            RevokedWhat::Block => ids(lineage.blocks.iter().find_map(|b| known(self.blocks.get(b)))),
            RevokedWhat::HolderKey => ids(lineage.holders.iter().find_map(|k| known(self.holders.get(k)))),
            RevokedWhat::RootKey => ids(known(self.roots.get(lineage.root))),
            RevokedWhat::GlobalFloor => self.floor(FloorScope::Global, g.global, upto),
            RevokedWhat::TenantFloor => self.floor(FloorScope::Tenant, g.tenant, upto),
            RevokedWhat::HumanFloor => match lineage.human {
                HumanRef::Id(id) => self.floor(FloorScope::Human(id), g.human, upto),
                // Only the service can match it, by trying the humans that the feed names.
                HumanRef::Pairwise(_) => {
                    let named = self.floors.keys().find(|s| matches!(s, FloorScope::Human(id) if HumanRef::pairwise(*id, audience.service()) == lineage.human));
                    named.map_or((None, g.human > 0), |scope| self.floor(*scope, g.human, upto))
                }
            },
            RevokedWhat::AgentFloor => {
                let each = lineage.agents.iter().map(|(agent, generation)| self.floor(FloorScope::Agent(*agent), *generation, upto));
                each.fold((None, false), |(hit, above), (h, a)| (hit.or(h), above || a))
            }
            RevokedWhat::DelegationFloor => self.floor(FloorScope::Delegation(lineage.delegation), g.delegation, upto),
        }
    }

    fn floor(&self, scope: FloorScope, generation: u64, upto: u64) -> (Option<u64>, bool) {
        let raised = || self.floors.get(&scope).into_iter().flatten().filter(move |(seq, _)| *seq <= upto);
        let hit = raised().find(|(_, floor)| generation < *floor).map(|(seq, _)| *seq);
        let known = raised().map(|(_, floor)| *floor).max().unwrap_or(0);
        (hit, generation > known)
    }
}
