//! The store in memory: for tests, and able to fail in both ways a database can.

mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use procura_verifier::claims::{Audience, Name};
use procura_verifier::feed::message::{FloorScope, genesis_hash};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};
use tokio::sync::Semaphore;

use super::plan::{Facts, Needs, Plan};
use super::{
    Answered, Answering, Batch, CommitError, Committed, FeedHead, FeedRow, Head, JtiHash, ReceiptSlot, Row, Store, StoreError, Taken, TokenRecord,
    partial_tiles, restored,
};
use crate::domain::agent::{Agent, AgentKey};
use crate::domain::delegation::Delegation;
use crate::domain::human::{Human, Subject};
use crate::domain::opening::Opening;
use crate::domain::session::{FoundSession, HashedToken, MAX_PER_HUMAN, Session, SessionChange, SignInGenerations};
use crate::domain::verifier::Verifier;
use crate::log::tree::empty_root;
use crate::signer::released::TreeHead;

/// One tenant's state, gone with the value.
pub struct Memory {
    tenant: Tenant,
    state: Mutex<State>,
    gate: Semaphore,
    snapshots: Mutex<snapshot::Snapshots>,
}

/// How the next commit fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Nothing is written, and the caller knows.
    NotWritten,
    /// Nothing is written, and the caller cannot know.
    UnknownNotWritten,
    /// All is written, and the caller cannot know.
    UnknownWritten,
}

struct State {
    head: Head,
    leaves: Vec<Vec<u8>>,
    tiles: HashMap<(u8, u64), Vec<u8>>,
    feed: BTreeMap<(u64, u64), FeedRow>,
    key_lists: BTreeMap<u64, Vec<u8>>,
    killed_root_keys: BTreeSet<Key>,
    generations: HashMap<FloorScope, u64>,
    humans: HashMap<HumanId, Human>,
    agents: HashMap<AgentId, Agent>,
    keys: HashMap<Key, AgentKey>,
    delegations: HashMap<DelegationId, Delegation>,
    tokens: HashMap<Tid, TokenRecord>,
    jtis: HashSet<(AgentId, JtiHash)>,
    verifiers: HashMap<VerifierId, Verifier>,
    drill: Option<(UtcMillis, u64)>,
    receipts: HashMap<ReceiptSlot, Taken>,
    openings: HashMap<[u8; 32], Opening>,
    answers: HashMap<[u8; 32], Answered>,
    sessions: HashMap<HashedToken, Session>,
    spent: HashMap<HashedToken, UtcMillis>,
    batches: HashSet<[u8; 16]>,
    failures: Vec<Failure>,
    commits: usize,
    let_in: usize,
    down: bool,
}

impl Memory {
    /// An empty store.
    pub fn new(tenant: Tenant) -> Self {
        let head = Head { tree: TreeHead { size: 0, root: empty_root() }, feed: FeedHead { epoch: 1, seq: 0, hash: genesis_hash(&tenant, 1) } };
        let state = State {
            head,
            leaves: Vec::new(),
            tiles: HashMap::new(),
            feed: BTreeMap::new(),
            key_lists: BTreeMap::new(),
            killed_root_keys: BTreeSet::new(),
            generations: HashMap::new(),
            humans: HashMap::new(),
            agents: HashMap::new(),
            keys: HashMap::new(),
            delegations: HashMap::new(),
            tokens: HashMap::new(),
            jtis: HashSet::new(),
            verifiers: HashMap::new(),
            drill: None,
            receipts: HashMap::new(),
            openings: HashMap::new(),
            answers: HashMap::new(),
            sessions: HashMap::new(),
            spent: HashMap::new(),
            batches: HashSet::new(),
            failures: Vec::new(),
            commits: 0,
            let_in: 0,
            down: false,
        };
        Self { tenant, state: Mutex::new(state), gate: Semaphore::new(Semaphore::MAX_PERMITS), snapshots: Mutex::default() }
    }

    /// Makes the next commit fail; said twice, the next two.
    pub fn fail(&self, failure: Failure) {
        self.state().failures.push(failure);
    }

    /// From now on commits wait until they are let through.
    pub fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets this many commits through.
    pub fn let_through(&self, commits: usize) {
        self.gate.add_permits(commits);
    }

    /// How many commits wait to be let through: those begun, less those let in.
    pub fn waiting(&self) -> usize {
        let state = self.state();
        state.commits - state.let_in
    }

    /// While true, reads fail.
    pub fn set_reads_down(&self, down: bool) {
        self.state().down = down;
    }

    /// How many commits were begun.
    pub fn commits(&self) -> usize {
        self.state().commits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<'a, T: Send + 'a>(&self, f: impl FnOnce(&State) -> T) -> Answering<'a, T> {
        let state = self.state();
        let answer = if state.down { Err(StoreError::Unavailable("down".to_owned())) } else { Ok(f(&state)) };
        ready(answer).boxed()
    }
}

impl State {
    fn facts(&self, n: &Needs) -> Facts {
        Facts {
            generations: n.scopes.iter().filter_map(|s| Some((*s, *self.generations.get(s)?))).collect(),
            agents: n.agents.iter().filter_map(|id| Some((*id, self.agents.get(id)?.state))).collect(),
            names: self.agents.values().filter(|a| n.names.contains(&a.name)).map(|a| (a.name.clone(), a.id)).collect(),
            keys: n.keys.iter().filter_map(|k| self.keys.get(k).map(|r| (*k, (r.agent, r.state)))).collect(),
            verifier_keys: self.verifiers.values().map(|v| v.key).filter(|k| n.keys.contains(k)).collect(),
            killed_root_keys: n.root_keys.iter().filter(|k| self.killed_root_keys.contains(*k)).copied().collect(),
            delegations: n.delegations.iter().filter_map(|id| self.delegations.get(id).map(|d| (*id, (d.version, d.state)))).collect(),
            jtis: n.jtis.intersection(&self.jtis).copied().collect(),
            subjects: self.humans.values().filter(|h| n.subjects.contains(&h.subject)).map(|h| (h.subject.clone(), h.id)).collect(),
            verifiers: n.verifiers.iter().filter(|id| self.verifiers.get(id).is_some_and(|v| v.retired.is_none())).copied().collect(),
            audiences: self.verifiers.values().filter(|v| v.retired.is_none()).map(|v| v.audience.clone()).filter(|a| n.audiences.contains(a)).collect(),
            receipts: n.receipts.iter().filter(|s| self.receipts.contains_key(s)).copied().collect(),
            answers: n.answers.iter().filter(|k| self.answers.contains_key(*k)).copied().collect(),
            spent: n.spent.iter().filter(|s| self.spent.contains_key(*s)).copied().collect(),
            key_list: self.key_lists.keys().next_back().copied().unwrap_or(0),
        }
    }

    fn write(&mut self, batch: &Batch, plan: Plan) -> Committed {
        for at in plan.accepted {
            let (Some(change), Some(Ok(placed))) = (batch.changes.get(at), plan.committed.outcomes.get(at)) else { continue };
            self.leaves.extend(change.leaves.iter().cloned());
            for row in &change.rows {
                match row.clone() {
                    Row::Human(h) => _ = self.humans.insert(h.id, h),
                    Row::Agent(a) => _ = self.agents.insert(a.id, a),
                    Row::AgentKey(k) => _ = self.keys.insert(k.key, k),
                    Row::Delegation(d) => _ = self.delegations.insert(d.id, d),
                    Row::Token(t) => _ = self.tokens.insert(t.tid, t),
                    Row::Generation(scope, to) => _ = self.generations.insert(scope, to),
                    Row::Jti(agent, jti, _) => _ = self.jtis.insert((agent, jti)),
                    Row::KeyList(version, signed) => _ = self.key_lists.insert(version, signed),
                    Row::RootKeyKilled(key) => _ = self.killed_root_keys.insert(key),
                    Row::EpochStart(..) => {}
                    Row::Drill(at) => self.drill = Some((at, placed.leaves.start)),
                    Row::Verifier(v) => _ = self.verifiers.insert(v.id, v),
                    Row::Receipt(r) => _ = self.receipts.insert(r.slot, Taken { hash: r.hash, leaf: placed.leaves.start }),
                    Row::Opening(o) => _ = self.openings.insert(o.hash(), o),
                    Row::Answer(a) => _ = self.answers.insert(a.key, Answered { answer: a, placed: placed.clone() }),
                    Row::Session(change) => self.session(change),
                    Row::Spent(secret, expires) => _ = self.spent.insert(secret, expires),
                }
            }
        }
        for tile in plan.tiles {
            self.tiles.insert((tile.level, tile.index), tile.hashes);
        }
        self.head = plan.committed.head;
        for m in &plan.committed.messages {
            self.feed.insert((m.epoch, m.seq), m.clone());
        }
        let before = batch.at.0.saturating_sub(3_600_000);
        self.sessions.retain(|_, s| s.idle_until.0 >= before);
        self.spent.retain(|_, expires| expires.0 >= before);
        self.batches.insert(batch.id);
        plan.committed
    }

    fn session(&mut self, change: SessionChange) {
        match change {
            SessionChange::Began(session) => {
                let human = session.human;
                self.sessions.insert(session.secret, session);
                for gone in self.sessions_of(human).into_iter().skip(MAX_PER_HUMAN) {
                    self.sessions.remove(&gone.secret);
                }
            }
            SessionChange::Used(secret, until) => {
                if let Some(session) = self.sessions.get_mut(&secret) {
                    session.idle_until = session.idle_until.max(until);
                }
            }
            SessionChange::Ended(secret) => _ = self.sessions.remove(&secret),
            SessionChange::AllEnded(human) => self.sessions.retain(|_, s| s.human != human),
        }
    }

    fn sessions_of(&self, human: HumanId) -> Vec<Session> {
        sorted(self.sessions.values().filter(|s| s.human == human), |s| (std::cmp::Reverse(s.created), s.secret), usize::MAX)
    }

    fn found(&self, secret: &HashedToken) -> Option<FoundSession> {
        let session = self.sessions.get(secret)?.clone();
        let [global, tenant, human] = SignInGenerations::scopes(session.human).map(|s| self.generations.get(&s).copied().unwrap_or(0));
        let subject = self.humans.get(&session.human).map(|h| h.subject.clone());
        Some(FoundSession { session, subject, floors: SignInGenerations { global, tenant, human } })
    }
}

impl Store for Memory {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }
    fn head(&self) -> Answering<'_, Head> {
        self.read(|s| s.head)
    }
    fn leaves(&self, from: u64, limit: u32) -> Answering<'_, Vec<Vec<u8>>> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.read(|s| s.leaves.iter().skip(from).take(limit as usize).cloned().collect())
    }
    fn tile(&self, level: u8, index: u64) -> Answering<'_, Option<Vec<u8>>> {
        self.read(|s| s.tiles.get(&(level, index)).cloned())
    }
    fn feed_since(&self, epoch: u64, seq: u64, limit: u32) -> Answering<'_, Vec<FeedRow>> {
        let after = (Bound::Excluded((epoch, seq)), Bound::Unbounded);
        self.read(|s| s.feed.range(after).take(limit as usize).map(|(_, row)| row.clone()).collect())
    }
    fn key_list(&self) -> Answering<'_, Option<(u64, Vec<u8>)>> {
        self.read(|s| s.key_lists.last_key_value().map(|(v, b)| (*v, b.clone())))
    }
    fn killed_root_keys(&self) -> Answering<'_, Vec<Key>> {
        self.read(|s| s.killed_root_keys.iter().copied().collect())
    }
    fn generations<'a>(&'a self, of: &'a [FloorScope]) -> Answering<'a, Vec<u64>> {
        self.read(|s| of.iter().map(|scope| s.generations.get(scope).copied().unwrap_or(0)).collect())
    }
    fn find_human(&self, id: HumanId) -> Answering<'_, Option<Human>> {
        self.read(|s| s.humans.get(&id).cloned())
    }
    fn find_human_by_subject<'a>(&'a self, subject: &'a Subject) -> Answering<'a, Option<Human>> {
        self.read(|s| s.humans.values().find(|h| h.subject == *subject).cloned())
    }
    fn find_agent(&self, id: AgentId) -> Answering<'_, Option<Agent>> {
        self.read(|s| s.agents.get(&id).cloned())
    }
    fn find_agent_by_name<'a>(&'a self, name: &'a Name) -> Answering<'a, Option<Agent>> {
        self.read(|s| s.agents.values().find(|a| a.name == *name).cloned())
    }
    fn find_agent_key(&self, key: Key) -> Answering<'_, Option<AgentKey>> {
        self.read(|s| s.keys.get(&key).cloned())
    }
    fn keys_of(&self, agent: AgentId) -> Answering<'_, Vec<AgentKey>> {
        self.read(|s| sorted(s.keys.values().filter(|k| k.agent == agent), |k| (k.added, k.key), 64))
    }
    fn agents_of(&self, owner: HumanId) -> Answering<'_, Vec<Agent>> {
        self.read(|s| sorted(s.agents.values().filter(|a| a.owner == owner), |a| a.name.clone(), 1000))
    }
    fn find_delegation(&self, id: DelegationId) -> Answering<'_, Option<Delegation>> {
        self.read(|s| s.delegations.get(&id).cloned())
    }
    fn delegations_of(&self, human: HumanId) -> Answering<'_, Vec<Delegation>> {
        self.read(|s| sorted(s.delegations.values().filter(|d| d.human == human), |d| (std::cmp::Reverse(d.created), d.id), 1000))
    }
    fn delegations_to(&self, agent: AgentId) -> Answering<'_, Vec<Delegation>> {
        self.read(|s| sorted(s.delegations.values().filter(|d| d.agent == agent), |d| (std::cmp::Reverse(d.created), d.id), 1000))
    }
    fn find_token(&self, tid: Tid) -> Answering<'_, Option<TokenRecord>> {
        self.read(|s| s.tokens.get(&tid).cloned())
    }
    fn last_drill(&self) -> Answering<'_, Option<(UtcMillis, u64)>> {
        self.read(|s| s.drill)
    }
    fn find_verifier(&self, id: VerifierId) -> Answering<'_, Option<Verifier>> {
        self.read(|s| s.verifiers.get(&id).cloned())
    }
    fn find_verifier_of<'a>(&'a self, audience: &'a Audience) -> Answering<'a, Option<Verifier>> {
        self.read(|s| s.verifiers.values().find(|v| v.audience == *audience && v.retired.is_none()).cloned())
    }
    fn verifiers(&self) -> Answering<'_, Vec<Verifier>> {
        self.read(|s| sorted(s.verifiers.values().filter(|v| v.retired.is_none()), |v| v.audience.clone(), 20_000))
    }
    fn find_receipt(&self, slot: ReceiptSlot) -> Answering<'_, Option<Taken>> {
        self.read(|s| s.receipts.get(&slot).copied())
    }
    fn find_opening(&self, hash: [u8; 32]) -> Answering<'_, Option<Opening>> {
        self.read(|s| s.openings.get(&hash).cloned())
    }
    fn find_answer(&self, key: [u8; 32]) -> Answering<'_, Option<Answered>> {
        self.read(|s| s.answers.get(&key).cloned())
    }
    fn find_session(&self, secret: HashedToken) -> Answering<'_, Option<FoundSession>> {
        self.read(|s| s.found(&secret))
    }
    fn sessions_of(&self, human: HumanId) -> Answering<'_, Vec<Session>> {
        self.read(|s| s.sessions_of(human))
    }
    fn has_batch(&self, id: [u8; 16]) -> Answering<'_, bool> {
        self.read(|s| s.batches.contains(&id))
    }

    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Committed, CommitError>> {
        async {
            self.state().commits += 1;
            // The gate is never closed.
            if let Ok(permit) = self.gate.acquire().await {
                permit.forget();
            }
            self.state().let_in += 1;
            self.commit_now(batch)
        }
        .boxed()
    }
}

impl Memory {
    fn commit_now(&self, batch: &Batch) -> Result<Committed, CommitError> {
        let mut state = self.state();
        let unavailable = |why: &str| Err(CommitError::Unavailable(StoreError::Unavailable(why.to_owned())));
        let failure = if state.failures.is_empty() { None } else { Some(state.failures.remove(0)) };
        if failure == Some(Failure::NotWritten) {
            return unavailable("down");
        }
        if state.batches.contains(&batch.id) {
            return unavailable("the batch was committed before");
        }
        let head = state.head;
        debug_assert!(partial_tiles(head.tree.size).all(|place| state.tiles.contains_key(&place)));
        let tree = restored(head, |level, index| state.tiles.get(&(level, index)).cloned())?;
        let plan = Plan::make(&self.tenant, head, tree, state.facts(&Needs::of(batch)), batch);
        match failure {
            Some(Failure::UnknownNotWritten) => Err(CommitError::Unknown(Box::new(plan.committed), "injected".to_owned())),
            Some(_) => Err(CommitError::Unknown(Box::new(state.write(batch, plan)), "injected".to_owned())),
            None => Ok(state.write(batch, plan)),
        }
    }
}

fn sorted<'a, T: Clone + 'a, K: Ord>(rows: impl Iterator<Item = &'a T>, by: impl FnMut(&T) -> K, limit: usize) -> Vec<T> {
    let mut rows: Vec<T> = rows.cloned().collect();
    rows.sort_by_key(by);
    rows.truncate(limit);
    rows
}
