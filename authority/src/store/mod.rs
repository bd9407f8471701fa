//! What is durable. Reads speak the domain; there is one door for writes.
//!
//! # Contract (`contract.rs` tests every sentence on every backend)
//! A store is one tenant's. On SQLite a second process is refused when it opens the store; on PostgreSQL any number of
//! processes write, one transaction at a time: the lock on the head row is their queue.
//!
//! [`Store::commit`] is one transaction over a batch of changes, taken in order.
//! - On `Ok` everything accepted is durable, and the head is the one returned. Later reads see all of it; no read ever sees a part.
//! - A change whose condition does not hold is refused by name and leaves the batch; the others are not touched by it.
//!   Conditions see the changes accepted before them in the same batch.
//! - Leaves get consecutive places in the log, feed messages consecutive numbers, both in the order of acceptance and
//!   without holes, rolled-back attempts included.
//! - [`CommitError::Unavailable`] means that nothing was written. [`CommitError::Unknown`] means that it may have been:
//!   [`Store::has_batch`] tells, and only then may anyone be answered.
//! - A batch is committed at most once: the second attempt with the same id is refused as `Unavailable`.
//! - A change without items and leaves (a session, a secret spent) is written like any other and leaves the head where it is.
//! - Sessions and secrets that ended over an hour ago are forgotten, a bounded portion at a time.
//!
//! Not found is `Ok(None)`. What cannot be read as a domain value is [`StoreError::Inconsistent`], never a default.

#[cfg(test)]
pub(crate) mod contract;
pub mod lock;
pub mod memory;
mod plan;
pub mod postgres;
mod rows;
pub mod shared;
pub mod snapshot;
pub mod sqlite;
pub mod used;

use std::ops::Range;

use futures_util::future::BoxFuture;
use procura_verifier::claims::{Audience, Name};
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};

use crate::domain::agent::{Agent, AgentKey};
use crate::domain::delegation::Delegation;
use crate::domain::human::{Human, Subject};
use crate::domain::opening::Opening;
use crate::domain::session::{FoundSession, HashedToken, Session, SessionChange};
use crate::domain::verifier::Verifier;
use crate::log::tree::{MAX_LEVELS, TILE_WIDTH, Tree};
use crate::signer::released::TreeHead;

/// Where the feed ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedHead {
    /// The epoch, from 1.
    pub epoch: u64,
    /// The last number given, 0 before the first message.
    pub seq: u64,
    /// SHA-256 of the last message's payload; before the first, the hash that stands for the epoch's beginning.
    pub hash: [u8; 32],
}

/// Where log and feed end: one row, which every commit locks first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The log.
    pub tree: TreeHead,
    /// The feed.
    pub feed: FeedHead,
}

/// A token as the authority remembers it: never its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRecord {
    /// Its id.
    pub tid: Tid,
    /// What it rests on.
    pub delegation: DelegationId,
    /// First second after its validity.
    pub expires_secs: u64,
    /// What it was re-minted from.
    pub ancestors: Vec<Tid>,
    /// When it was revoked by name, if it was.
    pub revoked: Option<UtcMillis>,
}

/// A hashed `jti`: bounded whatever the client sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct JtiHash(pub [u8; 32]);

/// Which of a verifier's records: a tagged hash of verifier, run, kind and number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReceiptSlot(pub [u8; 32]);

/// A record to be taken in: the next of its run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// Which one.
    pub slot: ReceiptSlot,
    /// The one before it, which must be in: a gap would stand in the log for ever.
    pub after: Option<ReceiptSlot>,
    /// Hash of what it says.
    pub hash: [u8; 32],
    /// The delegation that its token claims to rest on: whose receipt it is ([`Store::receipts`]).
    pub delegation: Option<DelegationId>,
}

/// A record taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Hash of what it says.
    pub hash: [u8; 32],
    /// Place of its leaf.
    pub leaf: u64,
}

/// The remembered answer to a request with an idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The client's key, hashed together with who it is.
    pub key: [u8; 32],
    /// Hash of the request: the same key with another request is a mistake.
    pub request: [u8; 32],
    /// What was answered, JSON. Never a token.
    pub body: String,
    /// When it may be forgotten.
    pub expires: UtcMillis,
}

/// A remembered answer with the places that the commit gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// Where its leaves and items stand.
    pub placed: Placed,
}

/// A condition that must hold inside the transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Require {
    /// The generation is exactly this: nobody has raised it since it was read.
    GenerationIs(FloorScope, u64),
    /// The recorded generation is not below the floor (law 6): there has been no kill since.
    NotBelowFloor(FloorScope, u64),
    /// The agent is known and active.
    AgentActive(AgentId),
    /// The key is this agent's and lives.
    KeyLive(AgentId, Key),
    /// The delegation lives and is at this version.
    DelegationLive(DelegationId, u32),
    /// The verifier is enrolled and not retired.
    Enrolled(VerifierId),
    /// No newer key list than this stands: the change's leaves were signed under it (`spec/log.md` section 3).
    KeyList(u64),
    /// The root key was not revoked: what it signed is worth nothing afterwards.
    RootKeyLives(Key),
}

/// Something to write. Rows that may exist once are checked without being asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Row {
    /// A person's first sign-in.
    Human(Human),
    /// An agent, new or in a new state.
    Agent(Agent),
    /// An agent's key, new or in a new state.
    AgentKey(AgentKey),
    /// A delegation, new, revoked, or in its next version.
    Delegation(Delegation),
    /// A token, new or revoked by name.
    Token(TokenRecord),
    /// A generation raised to this value.
    Generation(FloorScope, u64),
    /// An assertion used up, remembered until it has expired.
    Jti(AgentId, JtiHash, UtcMillis),
    /// The next key list: version and signed bytes.
    KeyList(u64, Vec<u8>),
    /// A root key is revoked, for good. A second time changes nothing.
    RootKeyKilled(Key),
    /// A verifier enrolled, or one in force retired.
    Verifier(Verifier),
    /// The kill switch was tried at that moment; the change's first leaf says how it went.
    Drill(UtcMillis),
    /// A receipt or a count of denials taken in.
    Receipt(Delivered),
    /// What a receipt has shown of a delegation, added to what was known. The change's first leaf is the receipt.
    Used(used::Used),
    /// The answer to remember.
    Answer(Answer),
    /// A new epoch of the feed, grown from exactly this head. Alone in its batch.
    EpochStart(u64, FeedHead),
    /// What opens a salted hash in a leaf.
    Opening(Opening),
    /// A session begun, used or ended. No leaf: the sign-in has one.
    Session(SessionChange),
    /// A secret that is good once, used up and remembered until it has expired.
    Spent(HashedToken, UtcMillis),
}

/// One request's part of a commit: all of it or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// What must hold.
    pub requires: Vec<Require>,
    /// What to write.
    pub rows: Vec<Row>,
    /// What to tell verifiers.
    pub items: Vec<Item>,
    /// Signed leaves, as the log keeps them: first one for each item, in order, then the others.
    pub leaves: Vec<Vec<u8>>,
}

/// Changes for one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Random: how an unknown outcome is looked up.
    pub id: [u8; 16],
    /// When it was put together; the feed message says so.
    pub at: UtcMillis,
    /// The key that will sign its feed message: the row names it, since a later key's window may not hold that moment.
    pub feed_key: Key,
    /// In order.
    pub changes: Vec<Change>,
}

/// Where an accepted change ended up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Places of its leaves.
    pub leaves: Range<u64>,
    /// Number of the feed message that holds its items, if it has any.
    pub feed_seq: Option<u64>,
}

/// One stored feed message: what was signed is the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedRow {
    /// Its epoch.
    pub epoch: u64,
    /// Its number; 0 is the start of an epoch.
    pub seq: u64,
    /// The payload bytes.
    pub payload: Vec<u8>,
    /// The feed key that signs it.
    pub key: Key,
}

/// What a commit did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// The head after it.
    pub head: Head,
    /// For each change in order: where it is, or why not.
    pub outcomes: Vec<Result<Placed, Refused>>,
    /// The feed messages to sign and publish.
    pub messages: Vec<FeedRow>,
    /// Version of the newest key list, 0 if none: another replica's may have gone before.
    pub key_list: u64,
}

/// Which condition a change failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody else raised it in between: read again and try again.
    #[error("the generation of {0:?} is {1} by now")]
    GenerationMoved(FloorScope, u64),
    /// A recorded generation is below its floor: killed.
    #[error("{0:?} was revoked after this was granted")]
    Killed(FloorScope),
    /// Unknown, suspended or retired.
    #[error("the agent is not active")]
    AgentNotActive,
    /// Unknown, revoked or another agent's.
    #[error("the key is not a live key of this agent")]
    KeyNotLive,
    /// Unknown or revoked.
    #[error("the delegation is revoked or unknown")]
    DelegationNotLive,
    /// Somebody else wrote another version in between.
    #[error("the delegation is at version {0} by now")]
    DelegationMoved(u32),
    /// Used before.
    #[error("the assertion was used before")]
    JtiSpent,
    /// Another agent has it.
    #[error("another agent has this name")]
    NameTaken,
    /// Another agent has it, or an enrolled verifier.
    #[error("the key is registered already")]
    KeyTaken,
    /// Somebody signed in as this person in between.
    #[error("the person has signed in before")]
    HumanKnown,
    /// It is not the next one.
    #[error("expected key list version {0}")]
    KeyListMoved(u64),
    /// Somebody revoked it in between.
    #[error("root key {0} was revoked")]
    RootKeyKilled(Key),
    /// Another verifier is enrolled for it.
    #[error("a verifier is enrolled for this audience already")]
    AudienceTaken,
    /// No such verifier.
    #[error("the verifier is not enrolled")]
    NotEnrolled,
    /// Taken in before.
    #[error("the receipt was taken in before")]
    ReceiptKnown,
    /// The one before it is missing.
    #[error("the receipt before this one has not been taken in")]
    ReceiptGap,
    /// Used up before.
    #[error("the secret was used before")]
    Spent,
    /// Its idempotency key has an answer.
    #[error("the request was answered before")]
    Answered,
    /// A row of another tenant. A bug of ours; nothing is written.
    #[error("the change is of tenant `{0}`")]
    OtherTenant(Tenant),
    /// The feed ends elsewhere by now, or that epoch is not later, or something else is in the batch.
    #[error("no epoch begins here: the feed ends with number {seq} of epoch {epoch}", epoch = .0.epoch, seq = .0.seq)]
    EpochMoved(FeedHead),
    /// A leaf or an item count that the formats cannot hold.
    #[error("the change is too big for one commit")]
    TooBig,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// It holds what no code of ours wrote.
    #[error("store inconsistent: table {table}, column {column}, row {id}")]
    Inconsistent {
        /// Where.
        table: &'static str,
        /// Where.
        column: &'static str,
        /// Which row, as far as it can be told.
        id: String,
    },
}

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written.
    #[error("nothing was written: {0}")]
    Unavailable(#[from] StoreError),
    /// It may have been written; this is what it did if so. Ask [`Store::has_batch`].
    #[error("the outcome of the commit is unknown: {1}")]
    Unknown(Box<Committed>, String),
}

/// The tree of a head from its partial tiles. A root other than the head's is a damaged database: nothing is written on top of it.
fn restored(head: Head, mut tile: impl FnMut(u8, u64) -> Option<Vec<u8>>) -> Result<Tree, StoreError> {
    let damaged = |id: String| StoreError::Inconsistent { table: "tile", column: "hashes", id };
    let tree = Tree::restore(head.tree.size, |level, index, _| tile(level, index).ok_or("missing")).map_err(|e| damaged(e.to_string()))?;
    if tree.root() == head.tree.root { Ok(tree) } else { Err(damaged(format!("root of size {}", head.tree.size))) }
}

/// Level and place of the tiles that are not full in a tree of this size.
pub(crate) fn partial_tiles(size: u64) -> impl Iterator<Item = (u8, u64)> {
    (0..MAX_LEVELS)
        .map(move |level| (level, size >> (8 * level)))
        .filter(|(_, hashes)| hashes % TILE_WIDTH != 0)
        .map(|(level, hashes)| (level, hashes / TILE_WIDTH))
}

/// A future that a store returns.
pub type Answering<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// One tenant's durable state. See the module for the contract.
pub trait Store: snapshot::SnapshotStore + Send + Sync {
    /// Whose state.
    fn tenant(&self) -> &Tenant;
    /// Where log and feed end.
    fn head(&self) -> Answering<'_, Head>;
    /// Leaves from a place on, at most `limit`, in order.
    fn leaves(&self, from: u64, limit: u32) -> Answering<'_, Vec<Vec<u8>>>;
    /// A hash tile as far as it has grown: 32 bytes for each of up to 256 hashes. A narrower tile is its prefix.
    fn tile(&self, level: u8, index: u64) -> Answering<'_, Option<Vec<u8>>>;
    /// Feed messages after a number of an epoch, across epochs, at most `limit`, in order. The start of an epoch is its number 0.
    fn feed_since(&self, epoch: u64, seq: u64, limit: u32) -> Answering<'_, Vec<FeedRow>>;
    /// The newest signed key list with its version.
    fn key_list(&self) -> Answering<'_, Option<(u64, Vec<u8>)>>;
    /// The root keys that were revoked by their public key, at most 4,096.
    fn killed_root_keys(&self) -> Answering<'_, Vec<Key>>;
    /// The generations of these, 0 where none was ever raised, in order. All at one moment.
    fn generations<'a>(&'a self, of: &'a [FloorScope]) -> Answering<'a, Vec<u64>>;
    /// A person by pseudonym.
    fn find_human(&self, id: HumanId) -> Answering<'_, Option<Human>>;
    /// A person by what the provider says.
    fn find_human_by_subject<'a>(&'a self, subject: &'a Subject) -> Answering<'a, Option<Human>>;
    /// An agent.
    fn find_agent(&self, id: AgentId) -> Answering<'_, Option<Agent>>;
    /// An agent by its name.
    fn find_agent_by_name<'a>(&'a self, name: &'a Name) -> Answering<'a, Option<Agent>>;
    /// A holder key, whoever's it is.
    fn find_agent_key(&self, key: Key) -> Answering<'_, Option<AgentKey>>;
    /// The keys of an agent: those that live, then the revoked ones, each newest first, at most 64.
    fn keys_of(&self, agent: AgentId) -> Answering<'_, Vec<AgentKey>>;
    /// The agents of an owner by name, at most 1000.
    fn agents_of(&self, owner: HumanId) -> Answering<'_, Vec<Agent>>;
    /// A delegation.
    fn find_delegation(&self, id: DelegationId) -> Answering<'_, Option<Delegation>>;
    /// The delegations of a human, newest first, at most 1000.
    fn delegations_of(&self, human: HumanId) -> Answering<'_, Vec<Delegation>>;
    /// The delegations to an agent, newest first, at most 1000.
    fn delegations_to(&self, agent: AgentId) -> Answering<'_, Vec<Delegation>>;
    /// Keys that another has followed, that are not revoked, and that end at or before this moment: at most 256, by their end.
    fn ending_keys(&self, before: UtcMillis) -> Answering<'_, Vec<AgentKey>>;
    /// What receipts have shown of a delegation: tokens and links, newest use first, at most 256. Forgotten a month after
    /// the token's expiry.
    fn uses_of(&self, delegation: DelegationId) -> Answering<'_, Vec<used::Used>>;
    /// A token, until it is forgotten some time after its expiry.
    fn find_token(&self, tid: Tid) -> Answering<'_, Option<TokenRecord>>;
    /// When the kill switch was last tried, and the leaf that says how it went.
    fn last_drill(&self) -> Answering<'_, Option<(UtcMillis, u64)>>;
    /// Where replicas on one database tell each other what verifiers acknowledged; none where this process is alone.
    fn board(&self) -> Option<std::sync::Arc<dyn crate::watch::Board>> {
        None
    }
    /// A verifier, in force or retired.
    fn find_verifier(&self, id: VerifierId) -> Answering<'_, Option<Verifier>>;
    /// The verifier in force for an audience.
    fn find_verifier_of<'a>(&'a self, audience: &'a Audience) -> Answering<'a, Option<Verifier>>;
    /// All verifiers in force, at most 20,000.
    fn verifiers(&self) -> Answering<'_, Vec<Verifier>>;
    /// A receipt taken in.
    fn find_receipt(&self, slot: ReceiptSlot) -> Answering<'_, Option<Taken>>;
    /// Records taken in within these places of the log, newest first, at most `limit`: place and leaf. Those whose token
    /// claims to rest on this human's delegation, or all.
    fn receipts(&self, of: Option<HumanId>, places: Range<u64>, limit: u32) -> Answering<'_, Vec<(u64, Vec<u8>)>>;
    /// What opens a salted hash, until it is erased.
    fn find_opening(&self, hash: [u8; 32]) -> Answering<'_, Option<Opening>>;
    /// A session with its human and the floors of this moment, ended or not: [`FoundSession::is_alive`] judges. One query.
    fn find_session(&self, secret: HashedToken) -> Answering<'_, Option<FoundSession>>;
    /// The sessions of a human, newest first, ended ones among them until they are collected.
    fn sessions_of(&self, human: HumanId) -> Answering<'_, Vec<Session>>;
    /// The answer remembered under an idempotency key.
    fn find_answer(&self, key: [u8; 32]) -> Answering<'_, Option<Answered>>;
    /// True if the batch with this id was committed and is durable. Waits for a commit that is still under way, so that a
    /// `false` stays true; an error while it is not known.
    /// Remembered for the last thousand batches (SQLite) or an hour (PostgreSQL).
    fn has_batch(&self, id: [u8; 16]) -> Answering<'_, bool>;
    /// What there is beyond where other processes write the same database.
    fn shared(&self) -> Option<&dyn shared::Shared> {
        None
    }
    /// Writes a batch. The only way in.
    fn commit<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<Committed, CommitError>>;
}

/// Why a database's schema and this program do not fit together.
fn schema_sentence(ours: &sqlx::migrate::Migrator, e: &sqlx::migrate::MigrateError) -> String {
    let newest = ours.iter().map(|m| m.version).max().unwrap_or_default();
    match e {
        sqlx::migrate::MigrateError::VersionMissing(version) if *version > newest => {
            format!("its schema is of version {version}, expected at most {newest}: a newer procura has used it, start that one or a later")
        }
        e => e.to_string(),
    }
}
