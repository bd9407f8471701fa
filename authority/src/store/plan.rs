//! What a batch does to a store: conditions, numbers, tree. Pure, so that every backend decides alike.

use std::collections::{HashMap, HashSet};

use procura_verifier::claims::{Audience, Name};
use procura_verifier::feed::message::{self, EpochStart, FloorScope, Item, Message};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, VerifierId};
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use super::{Batch, Change, Committed, FeedHead, FeedRow, Head, JtiHash, Placed, ReceiptSlot, Refused, Require, Row};
use crate::domain::agent::{AgentState, KeyState};
use crate::domain::delegation::DelegationState;
use crate::domain::human::Subject;
use crate::domain::session::HashedToken;
use crate::log::tile::MAX_LEAF_BYTES;
use crate::log::tree::{TileUpdate, Tree, leaf_hash};
use crate::signer::released::TreeHead;

/// What the conditions of a batch ask about: the backend looks it up, in bulk, inside the transaction.
#[derive(Default)]
pub(super) struct Needs {
    pub scopes: HashSet<FloorScope>,
    pub agents: HashSet<AgentId>,
    pub names: HashSet<Name>,
    pub keys: HashSet<Key>,
    pub root_keys: HashSet<Key>,
    pub delegations: HashSet<DelegationId>,
    pub jtis: HashSet<(AgentId, JtiHash)>,
    pub subjects: HashSet<Subject>,
    pub verifiers: HashSet<VerifierId>,
    pub audiences: HashSet<Audience>,
    pub receipts: HashSet<ReceiptSlot>,
    pub answers: HashSet<[u8; 32]>,
    pub spent: HashSet<HashedToken>,
}

impl Needs {
    pub(super) fn of(batch: &Batch) -> Self {
        let mut n = Self::default();
        for change in &batch.changes {
            for require in &change.requires {
                match require {
                    Require::GenerationIs(scope, _) | Require::NotBelowFloor(scope, _) => _ = n.scopes.insert(*scope),
                    Require::AgentActive(id) => _ = n.agents.insert(*id),
                    Require::KeyLive(_, key) => _ = n.keys.insert(*key),
                    Require::DelegationLive(id, _) => _ = n.delegations.insert(*id),
                    Require::Enrolled(id) => _ = n.verifiers.insert(*id),
                    Require::RootKeyLives(key) => _ = n.root_keys.insert(*key),
                    Require::KeyList(_) => {}
                }
            }
            for row in &change.rows {
                match row {
                    Row::Human(h) => _ = n.subjects.insert(h.subject.clone()),
                    Row::Agent(a) => _ = n.names.insert(a.name.clone()),
                    Row::AgentKey(k) => _ = n.keys.insert(k.key),
                    Row::Verifier(v) if v.retired.is_some() => _ = n.verifiers.insert(v.id),
                    Row::Verifier(v) => {
                        n.audiences.insert(v.audience.clone());
                        n.keys.insert(v.key);
                    }
                    Row::Generation(scope, _) => _ = n.scopes.insert(*scope),
                    Row::Jti(agent, jti, _) => _ = n.jtis.insert((*agent, *jti)),
                    Row::Receipt(r) => n.receipts.extend(std::iter::once(r.slot).chain(r.after)),
                    Row::Answer(a) => _ = n.answers.insert(a.key),
                    Row::Spent(secret, _) => _ = n.spent.insert(*secret),
                    Row::RootKeyKilled(_) | Row::Delegation(_) | Row::Token(_) | Row::KeyList(..) | Row::Opening(_) | Row::Session(_) | Row::Drill(_) | Row::EpochStart(..) => {}
                }
            }
        }
        n
    }
}

/// What the backend found. The rows accepted so far are entered here, so that later changes of the batch see them.
#[derive(Default)]
pub(super) struct Facts {
    pub generations: HashMap<FloorScope, u64>,
    pub agents: HashMap<AgentId, AgentState>,
    pub names: HashMap<Name, AgentId>,
    pub keys: HashMap<Key, (AgentId, KeyState)>,
    /// Of the keys asked about, those that enrolled verifiers have.
    pub verifier_keys: HashSet<Key>,
    /// Of the root keys asked about, those that were revoked.
    pub killed_root_keys: HashSet<Key>,
    pub delegations: HashMap<DelegationId, (u32, DelegationState)>,
    pub jtis: HashSet<(AgentId, JtiHash)>,
    pub subjects: HashMap<Subject, HumanId>,
    pub verifiers: HashSet<VerifierId>,
    pub audiences: HashSet<Audience>,
    pub receipts: HashSet<ReceiptSlot>,
    pub answers: HashSet<[u8; 32]>,
    pub spent: HashSet<HashedToken>,
    /// Version of the newest key list, 0 if none.
    pub key_list: u64,
}

/// What to write if the transaction goes through.
pub(super) struct Plan {
    pub committed: Committed,
    /// Which changes of the batch were accepted.
    pub accepted: Vec<usize>,
    pub tiles: Vec<TileUpdate>,
    pub tree: Tree,
}

impl Plan {
    pub(super) fn make(tenant: &Tenant, head: Head, mut tree: Tree, mut facts: Facts, batch: &Batch) -> Self {
        let (mut outcomes, mut accepted, mut writer) =
            (Vec::with_capacity(batch.changes.len()), Vec::new(), FeedWriter { tenant, from: head.feed, batch, items: Vec::new(), start: None });
        for (at, change) in batch.changes.iter().enumerate() {
            let allowed = facts.allow(tenant, change).and_then(|()| writer.begin(change));
            if let Err(refused) = allowed {
                outcomes.push(Err(refused));
                continue;
            }
            let from = tree.size();
            for leaf in &change.leaves {
                tree.append(leaf_hash(leaf));
            }
            let feed_seq = writer.push(&change.items, from);
            facts.enter(change);
            accepted.push(at);
            outcomes.push(Ok(Placed { leaves: from..tree.size(), feed_seq }));
        }
        let (feed, messages) = writer.finish();
        let tiles = tree.take_changed_tiles();
        let head = Head { tree: TreeHead { size: tree.size(), root: tree.root() }, feed };
        Self { committed: Committed { head, outcomes, messages, key_list: facts.key_list }, accepted, tiles, tree }
    }
}

/// Gives items their numbers: one message for a commit, more only where one would grow too long.
struct FeedWriter<'a> {
    tenant: &'a Tenant,
    from: FeedHead,
    batch: &'a Batch,
    items: Vec<(u64, Item)>,
    start: Option<EpochStart>,
}

impl FeedWriter<'_> {
    /// A new epoch, if the change asks for one: it grows from the end of the feed and nothing is beside it.
    fn begin(&mut self, change: &Change) -> Result<(), Refused> {
        let Some((epoch, from)) = change.rows.iter().find_map(|row| if let Row::EpochStart(epoch, from) = row { Some((*epoch, *from)) } else { None }) else {
            return Ok(());
        };
        let alone = self.batch.changes.len() == 1 && change.items.is_empty();
        if !alone || from != self.from || epoch <= from.epoch {
            return Err(Refused::EpochMoved(self.from));
        }
        let FeedHead { epoch: prev_epoch, seq: last_seq, hash: last_hash } = from;
        self.start = Some(EpochStart { tenant: self.tenant.clone(), epoch, prev_epoch, last_seq, last_hash, issued: self.batch.at });
        Ok(())
    }

    /// Takes items whose leaves begin at `leaf`; says which message holds the last of them.
    fn push(&mut self, items: &[Item], leaf: u64) -> Option<u64> {
        self.items.extend((leaf..).zip(items.iter().cloned()));
        (!items.is_empty()).then(|| self.from.seq + self.items.len().div_ceil(ITEMS_PER_MESSAGE) as u64)
    }

    fn finish(self) -> (FeedHead, Vec<FeedRow>) {
        let (mut head, mut rows) = (self.from, Vec::new());
        if let Some(start) = self.start {
            let (epoch, payload) = (start.epoch, Message::EpochStart(start).to_bytes());
            head = FeedHead { epoch, seq: 0, hash: Sha256::digest(&payload).into() };
            rows.push(FeedRow { epoch, seq: 0, payload, key: self.batch.feed_key });
        }
        for items in self.items.chunks(ITEMS_PER_MESSAGE) {
            let seq = head.seq + 1;
            let batch = message::Batch { tenant: self.tenant.clone(), epoch: head.epoch, seq, prev: head.hash, issued: self.batch.at, items: items.to_vec() };
            let payload = Message::Batch(batch).to_bytes();
            head = FeedHead { seq, hash: Sha256::digest(&payload).into(), ..head };
            rows.push(FeedRow { epoch: head.epoch, seq, payload, key: self.batch.feed_key });
        }
        (head, rows)
    }
}

impl Facts {
    fn allow(&self, tenant: &Tenant, change: &Change) -> Result<(), Refused> {
        if change.leaves.iter().any(|l| l.len() > MAX_LEAF_BYTES) || change.items.len() > MAX_ITEMS || change.items.len() > change.leaves.len() {
            return Err(Refused::TooBig);
        }
        // What the feed has of it is asked first: a killed human's agent hears `killed`, not `assertion used`.
        change.requires.iter().try_for_each(|r| self.holds(r))?;
        change.rows.iter().try_for_each(|r| self.fits(tenant, r))
    }

    fn holds(&self, require: &Require) -> Result<(), Refused> {
        let ok = |holds, refused| if holds { Ok(()) } else { Err(refused) };
        match require {
            Require::GenerationIs(scope, expected) => {
                let now = self.generation(scope);
                ok(now == *expected, Refused::GenerationMoved(*scope, now))
            }
            Require::NotBelowFloor(scope, recorded) => ok(*recorded >= self.generation(scope), Refused::Killed(*scope)),
            Require::AgentActive(id) => ok(self.agents.get(id) == Some(&AgentState::Active), Refused::AgentNotActive),
            Require::KeyLive(agent, key) => ok(self.keys.get(key) == Some(&(*agent, KeyState::Live)), Refused::KeyNotLive),
            Require::DelegationLive(id, version) => match self.delegations.get(id) {
                Some((now, DelegationState::Live)) => ok(now == version, Refused::DelegationMoved(*now)),
                Some((_, DelegationState::Revoked { .. })) | None => Err(Refused::DelegationNotLive),
            },
            Require::Enrolled(id) => ok(self.verifiers.contains(id), Refused::NotEnrolled),
            Require::RootKeyLives(key) => ok(!self.killed_root_keys.contains(key), Refused::RootKeyKilled(*key)),
            Require::KeyList(newest) => ok(self.key_list <= *newest, Refused::KeyListMoved(self.key_list + 1)),
        }
    }

    fn fits(&self, tenant: &Tenant, row: &Row) -> Result<(), Refused> {
        let ok = |fits, refused| if fits { Ok(()) } else { Err(refused) };
        match row {
            Row::Human(h) => ok(!self.subjects.contains_key(&h.subject), Refused::HumanKnown),
            Row::Agent(a) => ok(self.names.get(&a.name).is_none_or(|id| *id == a.id), Refused::NameTaken),
            Row::AgentKey(k) => ok(self.keys.get(&k.key).is_none_or(|(id, _)| *id == k.agent) && !self.verifier_keys.contains(&k.key), Refused::KeyTaken),
            Row::Delegation(d) => ok(d.tenant == *tenant, Refused::OtherTenant(d.tenant.clone())),
            Row::Generation(scope, to) => {
                let now = self.generation(scope);
                ok(*to > now, Refused::GenerationMoved(*scope, now))
            }
            Row::Jti(agent, jti, _) => ok(!self.jtis.contains(&(*agent, *jti)), Refused::JtiSpent),
            Row::KeyList(version, _) => ok(*version == self.key_list + 1, Refused::KeyListMoved(self.key_list + 1)),
            Row::Verifier(v) if v.retired.is_some() => ok(self.verifiers.contains(&v.id), Refused::NotEnrolled),
            Row::Verifier(v) => {
                ok(!self.audiences.contains(&v.audience), Refused::AudienceTaken)?;
                ok(!self.keys.contains_key(&v.key) && !self.verifier_keys.contains(&v.key), Refused::KeyTaken)
            }
            Row::Receipt(r) => {
                ok(!self.receipts.contains(&r.slot), Refused::ReceiptKnown)?;
                ok(r.after.is_none_or(|s| self.receipts.contains(&s)), Refused::ReceiptGap)
            }
            Row::Answer(a) => ok(!self.answers.contains(&a.key), Refused::Answered),
            Row::Spent(secret, _) => ok(!self.spent.contains(secret), Refused::Spent),
            // Their keys are random or hashes of something random: a second one is a broken source of randomness, and the primary key stops it.
            Row::Token(_) | Row::Opening(_) | Row::Session(_) | Row::Drill(_) => Ok(()),
            // As often as one likes: a kill is never too late.
            Row::RootKeyKilled(_) => Ok(()),
            // [`Plan::make`] has asked.
            Row::EpochStart(..) => Ok(()),
        }
    }

    fn enter(&mut self, change: &Change) {
        for row in &change.rows {
            match row {
                Row::Human(h) => _ = self.subjects.insert(h.subject.clone(), h.id),
                Row::Agent(a) => {
                    self.names.insert(a.name.clone(), a.id);
                    self.agents.insert(a.id, a.state);
                }
                Row::AgentKey(k) => _ = self.keys.insert(k.key, (k.agent, k.state)),
                Row::Delegation(d) => _ = self.delegations.insert(d.id, (d.version, d.state)),
                Row::Generation(scope, to) => _ = self.generations.insert(*scope, *to),
                Row::Jti(agent, jti, _) => _ = self.jtis.insert((*agent, *jti)),
                Row::KeyList(version, _) => self.key_list = *version,
                Row::RootKeyKilled(key) => _ = self.killed_root_keys.insert(*key),
                Row::Verifier(v) if v.retired.is_some() => {
                    self.verifiers.remove(&v.id);
                    self.audiences.remove(&v.audience);
                }
                Row::Verifier(v) => {
                    self.verifiers.insert(v.id);
                    self.audiences.insert(v.audience.clone());
                    self.verifier_keys.insert(v.key);
                }
                Row::Receipt(r) => _ = self.receipts.insert(r.slot),
                Row::Answer(a) => _ = self.answers.insert(a.key),
                Row::Spent(secret, _) => _ = self.spent.insert(*secret),
                Row::Token(_) | Row::Opening(_) | Row::Session(_) | Row::Drill(_) | Row::EpochStart(..) => {}
            }
        }
    }

    fn generation(&self, scope: &FloorScope) -> u64 {
        self.generations.get(scope).copied().unwrap_or(0)
    }
}

/// Fewer than 64 KiB hold: the longest of our items takes some 60 bytes.
const ITEMS_PER_MESSAGE: usize = 512;
/// Most items of one change; a longer list is the caller's to split.
const MAX_ITEMS: usize = 4096;
