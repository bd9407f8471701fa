//! The feed of a bundle: one signed chain, each item beside its leaf, and what it had taken back at any number.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use procura_verifier::claims::{Audience, HumanRef};
use procura_verifier::feed::message::{FloorScope, Freeze, Item, Message, SignedMessage, genesis_hash};
use procura_verifier::ids::{BlockId, FreezeId, Key, Lid, Tid, UtcMillis};
use procura_verifier::revocation::{Lineage, Lookup, RevokedBy, RevokedWhat};
use procura_verifier::wire::Canonical as _;

use super::super::bundle::Bundle;
use super::super::event::{Digest, Event, FeedHead};
use super::super::finding::{Finding, FindingClass, Place};

/// Epoch and number: where a message stands. They rise as the feed does.
pub(super) type At = (u64, u64);

/// Everything the feed took back, with the place at which it did.
#[derive(Default)]
pub(super) struct Taken {
    by_leaf: HashMap<u64, Item>,
    /// The message that holds the item of a leaf.
    seqs: HashMap<u64, At>,
    /// Hash of each message by number; 0 is the head before the first.
    hashes: HashMap<At, [u8; 32]>,
    /// When each message was put together, and the place of its last leaf.
    messages: BTreeMap<At, (UtcMillis, u64)>,
    /// Where each epoch but the last ends, as far as the authority still had it when the next began.
    ends: BTreeMap<u64, u64>,
    tids: HashMap<Tid, At>,
    lids: HashMap<Lid, At>,
    blocks: HashMap<BlockId, At>,
    holders: HashMap<Key, At>,
    roots: HashMap<Key, At>,
    /// Each version of each freeze with its number.
    freezes: HashMap<FreezeId, Vec<(At, Freeze)>>,
    /// Place and floor, both rising.
    floors: HashMap<FloorScope, Vec<(At, u64)>>,
}

impl Taken {
    /// Reads the feed of a bundle: signatures, numbers, hashes, and that items and leaves are one to one.
    pub(super) fn read(bundle: &Bundle) -> Result<Self, Finding> {
        let tenant = &bundle.manifest().tenant;
        let mut taken = Self::default();
        let (mut at, mut head) = ((1, 0), genesis_hash(tenant, 1));
        taken.hashes.insert(at, head);
        let mut starts = (0..).zip(bundle.leaves()).filter_map(|(index, l)| if let Event::EpochStart(e) = &l.event { Some((index, e)) } else { None });
        let mut last = None;
        for (place, bytes) in (0..).zip(bundle.feed()) {
            let wrong = |sentence: String| Finding::new(FindingClass::Feed, Place::FeedMessage(place), sentence);
            let signed = SignedMessage::from_bytes(bytes).map_err(|e| wrong(e.to_string()))?;
            // The list in force where its first item was logged; a message without items has the last.
            let message = signed.verify(bundle.key_list(), None).map_err(|e| wrong(e.to_string()))?;
            let batch = match message {
                Message::Batch(batch) => batch,
                Message::EpochStart(start) => {
                    if (start.prev_epoch, start.last_seq, start.last_hash) != (at.0, at.1, head) || start.epoch <= at.0 {
                        return Err(wrong(format!("epoch {} does not grow from number {} of epoch {}", start.epoch, at.1, at.0)));
                    }
                    let previous = FeedHead { epoch: at.0, seq: at.1, hash: Digest(head) };
                    let beside = starts.next().filter(|(index, e)| e.epoch == start.epoch && e.previous == Some(previous) && last.is_none_or(|l| *index > l));
                    let (index, _) = beside.ok_or_else(|| wrong(format!("epoch {} begins, which no leaf at its place records", start.epoch)))?;
                    taken.ends.insert(at.0, at.1);
                    (at, head, last) = ((start.epoch, 0), signed.hash(), Some(index));
                    taken.hashes.insert(at, head);
                    taken.messages.insert(at, (start.issued, index));
                    continue;
                }
                _ => return Err(wrong("expected a batch or the start of an epoch".to_owned())),
            };
            if (batch.epoch, batch.seq, batch.prev) != (at.0, at.1 + 1, head) {
                return Err(wrong(format!("number {} of epoch {} does not follow number {} of epoch {}", batch.seq, batch.epoch, at.1, at.0)));
            }
            (at, head) = ((at.0, batch.seq), signed.hash());
            taken.hashes.insert(at, head);
            for (index, item) in batch.items {
                // Commit order is feed order and leaf order: a revocation that was logged and held back shows here.
                if last.is_some_and(|last| index <= last) {
                    return Err(wrong(format!("carries the item of leaf {index} after that of leaf {}", last.unwrap_or_default())));
                }
                last = Some(index);
                taken.add(at, &item);
                taken.seqs.insert(index, at);
                if taken.by_leaf.insert(index, item).is_some() {
                    return Err(wrong(format!("leaf {index} stands beside two items")));
                }
            }
            taken.messages.insert(at, (batch.issued, last.unwrap_or_default()));
        }
        if let Some((index, e)) = starts.next() {
            return Err(Finding::new(FindingClass::Feed, Place::Leaf(index), format!("the feed does not begin epoch {}", e.epoch)));
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

    fn add(&mut self, seq: At, item: &Item) {
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

    /// Place of the message that holds the item of a leaf.
    pub(super) fn place_of(&self, index: u64) -> Option<At> {
        self.seqs.get(&index).copied()
    }

    /// The hash of a message of this feed.
    pub(super) fn hash(&self, at: At) -> Option<&[u8; 32]> {
        self.hashes.get(&at)
    }

    /// Up to where this feed has what stood at a place: the place itself, or for one that was lost before a later epoch began
    /// the end that is left. None if it never had it with that hash.
    pub(super) fn known_up_to(&self, at: At, hash: &[u8; 32]) -> Option<At> {
        if self.is_lost(at) { self.ends.get(&at.0).map(|end| (at.0, *end)) } else { (self.hash(at) == Some(hash)).then_some(at) }
    }

    /// True of a number above the end that its epoch had when the next began: the log names that break.
    pub(super) fn is_lost(&self, (epoch, seq): At) -> bool {
        self.ends.get(&epoch).is_some_and(|end| seq > *end)
    }

    /// When the feed went on after a place, if it did.
    pub(super) fn went_on(&self, at: At) -> Option<UtcMillis> {
        self.messages.range((Bound::Excluded(at), Bound::Unbounded)).next().map(|(_, (issued, _))| *issued)
    }

    /// True if the feed has that message and all of it was logged before that leaf.
    pub(super) fn is_logged_before(&self, at: At, leaf: u64) -> bool {
        at == (1, 0) || self.messages.get(&at).is_some_and(|(_, last)| *last < leaf)
    }

    /// What was known of a token's lineage at a number: live, behind, or the first thing that takes it back.
    pub(super) fn lookup(&self, lineage: &Lineage<'_>, audience: &Audience, upto: At) -> Lookup {
        let mut behind = false;
        for what in RevokedWhat::ALL {
            let (hit, above) = self.first(lineage, audience, what, upto);
            if let Some(seq) = hit {
                return Lookup::Revoked(RevokedBy { what, seq: seq.1 });
            }
            behind |= above;
        }
        if behind { Lookup::Behind } else { Lookup::Live }
    }

    /// True if the feed, at that number of an epoch and before that leaf, takes the lineage back as said; or if that number was
    /// lost, with which a verifier can no longer show what it heard.
    pub(super) fn bears_out(&self, lineage: &Lineage<'_>, audience: &Audience, by: RevokedBy, leaf: u64) -> bool {
        // A verdict names no epoch.
        let places = self.messages.keys().filter(|at| at.1 == by.seq && self.is_logged_before(**at, leaf));
        let has = places.into_iter().any(|at| self.first(lineage, audience, by.what, *at).0.is_some());
        has || self.ends.values().any(|end| by.seq > *end)
    }

    /// The freezes that stopped a lineage at a moment, for whoever knew the feed up to `upto` and may have heard of more, but of
    /// nothing that was logged after `leaf`: one that it cannot have missed, and all that it can have seen.
    pub(super) fn frozen(&self, lineage: &Lineage<'_>, audience: &Audience, utc: UtcMillis, (upto, leaf): (At, u64)) -> (Option<FreezeId>, Vec<FreezeId>) {
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
    fn first(&self, lineage: &Lineage<'_>, audience: &Audience, what: RevokedWhat, upto: At) -> (Option<At>, bool) {
        let known = |seq: Option<&At>| seq.copied().filter(|s| *s <= upto);
        let g = &lineage.generations;
        let ids = |seq: Option<At>| (seq, false);
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

    fn floor(&self, scope: FloorScope, generation: u64, upto: At) -> (Option<At>, bool) {
        let raised = || self.floors.get(&scope).into_iter().flatten().filter(move |(seq, _)| *seq <= upto);
        let hit = raised().find(|(_, floor)| generation < *floor).map(|(seq, _)| *seq);
        let known = raised().map(|(_, floor)| *floor).max().unwrap_or(0);
        (hit, generation > known)
    }
}
