//! Replay: a bundle's events as a state machine, every decision derived again (`spec/log.md`, checks 10 to 13).
//!
//! The bundle has been opened: hashes, root, signatures and key windows hold. Here it is asked whether the story holds:
//! feed and leaves one to one, nothing granted, minted or allowed that could not have been, receipts without gaps.

mod decisions;
mod feed;
mod watch;

use std::collections::{HashMap, HashSet};

use procura_verifier::claims::{Block0, Hops, HumanRef, Possession};
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, DelegationId, FreezeId, HumanId, Key, Tid, UtcMillis, VerifierId};
use procura_verifier::wire::Canonical as _;

use self::decisions::Receipts;
use self::feed::Taken;
use self::watch::Watched;
use super::bundle::Bundle;
use super::event::{self, Actor, Event, Generations};
use super::finding::{Finding, FindingClass, Place};
use super::leaf::OpenedLeaf;
use super::tree::Tree;

/// What a replay that found nothing wrong has seen.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Summary {
    /// Leaves in the log.
    pub leaves: u64,
    /// Delegations granted.
    pub delegations: u64,
    /// Tokens minted.
    pub tokens: u64,
    /// Revocations and floors.
    pub revocations: u64,
    /// Decisions with a receipt, each derived again.
    pub decisions: u64,
    /// Those that allowed.
    pub allowed: u64,
    /// Times that the kill switch was tried.
    pub drills: u64,
    /// Denials that have no receipt, as verifiers counted them.
    pub counted_denials: u64,
    /// Where the log went on after its database had lost what was released.
    pub breaks: Vec<Break>,
    /// Decisions on tokens that the log has lost with a break, and that are not derived again.
    pub lost_uses: u64,
    /// Who else signed the checkpoint. Empty until witnesses do: then say so.
    pub witnesses: Vec<String>,
}

/// A break that the log names.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Break {
    /// The leaf that says so.
    pub leaf: u64,
    /// The origin that ended.
    pub previous: String,
    /// The origin that began.
    pub origin: String,
    /// How many leaves were released and are not in this log.
    pub lost: u64,
}

/// Replays an opened bundle, or says the first thing that does not follow.
pub fn replay(bundle: &Bundle) -> Result<Summary, Finding> {
    let taken = Taken::read(bundle)?;
    let mut state = State { taken: &taken, summary: Summary { leaves: bundle.leaves().len() as u64, ..Summary::default() }, ..State::new(&taken) };
    // Only a break names a root in the middle of the log; where there is none nothing is hashed a second time.
    let mut tree = bundle.leaves().iter().any(|l| matches!(l.event, Event::Recovered(_))).then(Tree::new);
    for (index, leaf) in (0..).zip(bundle.leaves()) {
        state.step(bundle, index, leaf, tree.as_ref())?;
        if let Some(tree) = &mut tree {
            tree.append(leaf.hash);
            if tree.size().is_multiple_of(FORGET_TILES_EVERY) {
                tree.take_changed_tiles();
            }
        }
    }
    if let Some(index) = state.receipts.unexplained() {
        return Err(Finding::new(FindingClass::Decision, Place::Leaf(index), "denies as replay a proof that was never spent"));
    }
    if state.summary.breaks.last().is_some_and(|b| b.origin != bundle.manifest().origin.as_str()) {
        return Err(Finding::new(FindingClass::State, Place::Member("manifest.json".to_owned()), "the log's last break opens another origin"));
    }
    Ok(state.summary)
}

struct State<'a> {
    taken: &'a Taken,
    humans: HashSet<HumanId>,
    /// Who answers for each agent, from its first registration on.
    owners: HashMap<AgentId, HumanId>,
    /// Whose each key is; nobody's once it was revoked.
    keys: HashMap<Key, Option<AgentId>>,
    delegations: HashMap<DelegationId, event::Delegation>,
    tokens: HashMap<Tid, event::Issue>,
    /// Generations in force: the floors so far.
    floors: HashMap<FloorScope, u64>,
    killed: HashSet<Tid>,
    /// The version of each freeze.
    freezes: HashMap<FreezeId, u64>,
    verifiers: HashMap<VerifierId, event::Verifier>,
    receipts: Receipts,
    watched: Watched,
    summary: Summary,
}

impl<'a> State<'a> {
    fn new(taken: &'a Taken) -> Self {
        Self {
            taken,
            humans: HashSet::new(),
            owners: HashMap::new(),
            keys: HashMap::new(),
            delegations: HashMap::new(),
            tokens: HashMap::new(),
            floors: HashMap::new(),
            killed: HashSet::new(),
            freezes: HashMap::new(),
            verifiers: HashMap::new(),
            receipts: Receipts::default(),
            watched: Watched::default(),
            summary: Summary::default(),
        }
    }

    /// `before` is the tree of the leaves before this one, where the log names a break.
    fn step(&mut self, bundle: &Bundle, index: u64, leaf: &OpenedLeaf, before: Option<&Tree>) -> Result<(), Finding> {
        let wrong = |sentence: String| Finding::new(FindingClass::State, Place::Leaf(index), sentence);
        match &leaf.event {
            // Accepted by the anchors when the bundle was opened.
            Event::KeyListRecorded(_) => Ok(()),
            Event::Recovered(e) => self.recovered(bundle, e, index, before).map_err(wrong),
            // Beside its message in the feed (`feed::Taken`); only a break begins one.
            Event::EpochStart(e) => match self.summary.breaks.last() {
                Some(b) if b.leaf + 1 == index && b.origin.strip_suffix(&format!("/{}", e.epoch)).is_some() => Ok(()),
                _ => Err(wrong(format!("epoch {} of the feed begins without a break named right before it", e.epoch))),
            },
            Event::SignIn(e) if self.watched.is_canary(e.human) => Err(wrong(format!("{} signs in and is the drill's own", e.human))),
            Event::SignIn(e) => {
                if self.humans.insert(e.human) == e.first {
                    Ok(())
                } else {
                    Err(wrong(format!("{} signs in for the first time twice, or never did", e.human)))
                }
            }
            Event::Agent(e) => self.agent(e).map_err(wrong),
            Event::Delegation(e) => self.delegation(e).map_err(wrong),
            Event::Issue(e) => self.issue(e, leaf).map_err(wrong),
            Event::Revoke(e) => self.revoke(e, index).map_err(wrong),
            Event::Verifier(e) => {
                let known = self.verifiers.insert(e.verifier, e.clone()).is_some();
                if known { Err(wrong(format!("{} is enrolled twice", e.verifier))) } else { Ok(()) }
            }
            Event::VerifierRetired(e) => self.watched.retire(e, &self.verifiers).map_err(wrong),
            Event::Coverage(e) => self.watched.coverage(e, index, self.taken, &self.verifiers, leaf).map_err(wrong),
            Event::Canary(e) => {
                if self.humans.insert(e.human) && self.watched.canary(e.human) {
                    Ok(())
                } else {
                    Err(wrong(format!("{} is drawn twice", e.human)))
                }
            }
            Event::Drill(e) => {
                self.watched.drill(e, index, self.taken, &self.delegations, &self.tokens).map_err(wrong)?;
                self.summary.drills += 1;
                Ok(())
            }
            Event::Receipt(e) => self.receipt(bundle, index, leaf, e),
            Event::Denials(e) => {
                let verifier = self.verifiers.get(&e.verifier).filter(|v| self.watched.is_in_force(v.verifier));
                let verifier = verifier.ok_or_else(|| wrong(format!("{} is not enrolled, or retired", e.verifier)))?;
                let counted = self.receipts.counts(verifier, &e.denials.0).map_err(wrong)?;
                // Counts are a verifier's word: they may be absurd, they may not end the replay.
                self.summary.counted_denials = self.summary.counted_denials.saturating_add(counted);
                Ok(())
            }
        }
    }

    /// What is kept is what stands before this leaf; what was released beyond it is lost, and said so.
    fn recovered(&mut self, bundle: &Bundle, e: &event::Recovered, index: u64, before: Option<&Tree>) -> Result<(), String> {
        // One log, whose name ends with the epoch after each break.
        let (base, of) = (bundle.manifest().origin.as_str().rsplit_once('/'), e.origin.rsplit_once('/'));
        let is_ours = base.zip(of).is_some_and(|((ours, _), (this, _))| ours == this && (e.previous == this || e.previous.starts_with(&format!("{this}/"))));
        if !is_ours || self.summary.breaks.last().is_some_and(|b| b.origin != e.previous) {
            return Err(format!("opens {} after {}, which is not how this log is called", e.origin, e.previous));
        }
        if e.kept.size != index {
            return Err(format!("says that {} leaves were kept, expected {index}", e.kept.size));
        }
        // Else the break could claim to keep what it had replaced.
        let root = before.map(Tree::root).unwrap_or_default();
        if e.kept.root.0 != root {
            return Err(format!("says that leaves of root {} were kept, expected {}", hex::encode(e.kept.root.0), hex::encode(root)));
        }
        let begins = matches!(usize::try_from(index).ok().and_then(|i| bundle.leaves().get(i + 1)).map(|l| &l.event), Some(Event::EpochStart(_)));
        if !begins {
            return Err("names a break, but the feed begins no epoch with it".to_owned());
        }
        let lost = e.released.size.saturating_sub(e.kept.size);
        self.summary.breaks.push(Break { leaf: index, previous: e.previous.clone(), origin: e.origin.clone(), lost });
        Ok(())
    }

    fn agent(&mut self, e: &event::Agent) -> Result<(), String> {
        if !self.humans.contains(&e.owner) {
            return Err(format!("{} has an owner who never signed in", e.agent));
        }
        if *self.owners.entry(e.agent).or_insert(e.owner) != e.owner {
            return Err(format!("{} gets a key from another than its owner", e.agent));
        }
        if self.keys.insert(e.key, Some(e.agent)).is_some() {
            return Err(format!("key {} is registered twice", e.key));
        }
        if e.generation != self.floor(FloorScope::Agent(e.agent)) {
            return Err(format!("{} is registered at generation {}, expected {}", e.agent, e.generation, self.floor(FloorScope::Agent(e.agent))));
        }
        Ok(())
    }

    fn delegation(&mut self, e: &event::Delegation) -> Result<(), String> {
        if !self.humans.contains(&e.human) || !self.owners.contains_key(&e.agent) {
            return Err(format!("{} is granted by or to somebody the log does not know", e.delegation));
        }
        let expected = self.generations(e.human, e.agent, e.delegation);
        if e.generations != expected {
            return Err(format!("{} records generations {:?}, expected {expected:?}", e.delegation, e.generations));
        }
        let next = self.delegations.get(&e.delegation).map_or(1, |d| d.version + 1);
        if e.version != next {
            return Err(format!("{} is at version {}, expected {next}", e.delegation, e.version));
        }
        // P2, over time: what a human granted may become less, never more, and never another's.
        if self.delegations.get(&e.delegation).is_some_and(|before| !is_narrower(e, before)) {
            return Err(format!("version {} of {} is wider than the one before, or another's", e.version, e.delegation));
        }
        self.summary.delegations += u64::from(next == 1);
        self.delegations.insert(e.delegation, e.clone());
        Ok(())
    }

    /// Minting copies the generations of the grant, and they are not below any floor: after a kill there is nothing to mint under.
    fn issue(&mut self, e: &event::Issue, leaf: &OpenedLeaf) -> Result<(), String> {
        let d = self.delegations.get(&e.delegation).ok_or_else(|| format!("{} is minted under an unknown delegation", e.tid))?;
        if e.agent != d.agent || self.keys.get(&e.holder) != Some(&Some(e.agent)) {
            return Err(format!("{} is minted for another agent or key than its delegation's", e.tid));
        }
        if e.generations != d.generations {
            return Err(format!("{} carries other generations than its delegation records", e.tid));
        }
        let floors = self.generations(d.human, d.agent, d.delegation);
        if below(&e.generations, &floors) {
            return Err(format!("{} is minted under something that was revoked before", e.tid));
        }
        // A day's slack for the clocks of one authority would be a day of life: the leaf's own time counts.
        let longest = leaf.at.plus(d.ttl_secs.saturating_mul(1000)).plus(1000);
        if e.expires > d.not_after || e.expires > longest {
            return Err(format!("{} lives longer than its delegation allows", e.tid));
        }
        if e.ancestors.iter().any(|a| self.killed.contains(a) || !self.tokens.contains_key(a)) {
            return Err(format!("{} is minted from a token that was revoked or never issued", e.tid));
        }
        if self.tokens.insert(e.tid, e.clone()).is_some() {
            return Err(format!("{} is issued twice", e.tid));
        }
        self.summary.tokens += 1;
        Ok(())
    }

    fn revoke(&mut self, e: &event::Revoke, index: u64) -> Result<(), String> {
        // Roles are not in the log: whether this person may is for the authority to say, that there is one for the log.
        if let Actor::Human(human) = e.by
            && (!self.humans.contains(&human) || self.watched.is_canary(human))
        {
            return Err(format!("{human} takes something back and never signed in"));
        }
        let item = Item::from_bytes(&e.item.0).map_err(|e| format!("revoked item: {e}"))?;
        if self.taken.at_leaf(index) != Some(&item) {
            return Err("the feed does not carry this item with this leaf".to_owned());
        }
        match item {
            Item::Floor { scope, generation } => {
                let known = self.floor(scope);
                if generation != known + 1 {
                    return Err(format!("floor of {scope:?} rises from {known} to {generation}, expected {}", known + 1));
                }
                self.floors.insert(scope, generation);
            }
            Item::Tid { tid, .. } => {
                self.killed.insert(tid);
            }
            Item::HolderKey { key } => {
                if let Some(whose) = self.keys.get_mut(&key) {
                    *whose = None;
                }
            }
            Item::Freeze(freeze) => {
                // Versions only rise: a lift that a repeated older version could undo would be none.
                if self.freezes.get(&freeze.id).is_some_and(|held| freeze.version <= *held) {
                    return Err(format!("{} is changed under a version that was there before", freeze.id));
                }
                self.freezes.insert(freeze.id, freeze.version);
            }
            // What it signed shows where it is used.
            Item::RootKey { .. } | Item::Lid { .. } | Item::Block { .. } => {}
            Item::Unknown { kind, .. } => return Err(format!("item is of kind {kind}, which this version does not know")),
        }
        self.summary.revocations += 1;
        Ok(())
    }

    fn receipt(&mut self, bundle: &Bundle, index: u64, leaf: &OpenedLeaf, e: &event::Receipt) -> Result<(), Finding> {
        let wrong = |sentence: String| Finding::new(FindingClass::Decision, Place::Leaf(index), sentence);
        let verifier = self.verifiers.get(&e.verifier).filter(|v| self.watched.is_in_force(v.verifier));
        let verifier = verifier.ok_or_else(|| wrong(format!("{} is not enrolled, or retired", e.verifier)))?;
        let receipt = self.receipts.open(verifier, &e.receipt.0).map_err(wrong)?;
        // The list it was decided under, which may have been followed by another before the receipt was delivered.
        let version = receipt.key_list_version;
        let (keys, next) =
            bundle.key_list_of(version, index).ok_or_else(|| wrong(format!("was decided under key list version {version}, which the log had not")))?;
        // F8: a heartbeat after the next list was recorded names that one, and counts only once it is held.
        if let (Some(relied), Some(next)) = (&receipt.relied, next)
            && receipt.verdict.is_ok()
            && relied.utc > next.plus(decisions::CLOCK_SLACK_MS)
        {
            return Err(wrong(format!("allows under key list version {version} on a heartbeat of {}, but the next list was recorded at {next}", relied.utc)));
        }
        let (token, block0) = decisions::reopen(&receipt, keys).map_err(wrong)?;
        let issued = match self.tokens.get(&token.block0().tid) {
            Some(issued) => issued,
            // Signed by a root key of the list, and its leaf may be one of the lost: counted, since nothing here can derive it.
            None if self.summary.breaks.iter().any(|b| b.lost > 0) => {
                self.summary.lost_uses += 1;
                return Ok(());
            }
            None => return Err(wrong(format!("{} was used and never issued", token.block0().tid))),
        };
        if issued.block0_sha256.0 != block0 {
            return Err(wrong(format!("{} was used with another block 0 than was issued", issued.tid)));
        }
        let granted = self.delegations.get(&issued.delegation).filter(|d| d.generations == issued.generations);
        let within = granted.is_some_and(|d| is_within(token.block0(), issued, d));
        if !within {
            return Err(wrong(format!("{} says more than its issue and its delegation record", issued.tid)));
        }
        self.receipts.judge(&receipt, &token, keys, self.taken, (index, leaf.at)).map_err(wrong)?;
        self.summary.decisions += 1;
        self.summary.allowed += u64::from(receipt.verdict.is_ok());
        Ok(())
    }

    fn floor(&self, scope: FloorScope) -> u64 {
        self.floors.get(&scope).copied().unwrap_or(0)
    }

    fn generations(&self, human: HumanId, agent: AgentId, delegation: DelegationId) -> Generations {
        Generations {
            global: self.floor(FloorScope::Global),
            tenant: self.floor(FloorScope::Tenant),
            human: self.floor(FloorScope::Human(human)),
            agent: self.floor(FloorScope::Agent(agent)),
            delegation: self.floor(FloorScope::Delegation(delegation)),
        }
    }
}

/// P2 over the authority itself: block 0 holds nothing that the human did not grant.
fn is_within(block: &Block0, issued: &event::Issue, d: &event::Delegation) -> bool {
    let human = match block.human {
        HumanRef::Id(id) => id == d.human,
        HumanRef::Pairwise(_) => block.audiences.iter().any(|service| HumanRef::pairwise(d.human, service) == block.human),
    };
    human
        && (block.delegation, block.agent, block.holder) == (issued.delegation, issued.agent, issued.holder)
        && block.ancestors == issued.ancestors
        && UtcMillis(block.expires_secs.saturating_mul(1000)) == issued.expires
        && block.capabilities.iter().all(|c| d.capabilities.iter().any(|granted| granted.includes(c)))
        && block.audiences.iter().all(|a| d.audiences.contains(a))
        && block.class_max <= d.class_max
        && block.depth <= d.depth
        && (block.hops == Hops::Registered || d.unregistered_hops)
        && (block.possession == Possession::Proof || d.bearer)
        && u64::from(block.freshness_ms) <= d.freshness_ms
        && log_generations(&block.generations) == issued.generations
}

/// True if the next version of a grant is the same human's to the same agent and permits nothing that the one before did not.
fn is_narrower(next: &event::Delegation, before: &event::Delegation) -> bool {
    (next.human, next.agent) == (before.human, before.agent)
        && next.capabilities.iter().all(|c| before.capabilities.iter().any(|granted| granted.includes(c)))
        && next.audiences.iter().all(|a| before.audiences.contains(a))
        && next.class_max <= before.class_max
        && next.ttl_secs <= before.ttl_secs
        && next.not_after <= before.not_after
        && next.depth <= before.depth
        && next.unregistered_hops <= before.unregistered_hops
        && next.bearer <= before.bearer
        && next.freshness_ms <= before.freshness_ms
}

const fn log_generations(g: &procura_verifier::claims::Generations) -> Generations {
    Generations { global: g.global, tenant: g.tenant, human: g.human, agent: g.agent, delegation: g.delegation }
}

const fn below(g: &Generations, floors: &Generations) -> bool {
    g.global < floors.global || g.tenant < floors.tenant || g.human < floors.human || g.agent < floors.agent || g.delegation < floors.delegation
}

/// Full tiles are of no use here: at most 8 MiB of them wait.
const FORGET_TILES_EVERY: u64 = 1 << 18;
