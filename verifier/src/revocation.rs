//! What a verifier knows of revocations: sets that only grow, floors that only rise, and how fresh that knowledge is.
//!
//! One writer (the feed) applies items and then publishes freshness; any number of decisions read freshness and then look up.
//! That order on both sides is law 7: an allow never rests on a freshness whose items it did not see.

mod freeze;
mod ids;
mod merge;
mod sets;
mod utc;

use crate::claims::{Generations, HumanRef, Name};
use crate::feed::message::Item;
use crate::ids::{AgentId, BlockId, BootTime, DelegationId, Key, Lid, Tenant, Tid, UtcMillis};
use crate::key_list::KeyList;
use crate::receipt::Relied;
pub use freeze::Frozen;
pub use sets::IdKind;
use sets::Sets;
use sync::{Arc, AtomicBool, AtomicU64, Ordering, RwLock};
use utc::AuthorityUtc;

/// What revocation is looked up by: everything in a token that can be taken back (law 6).
#[derive(Debug, Clone, Copy)]
pub struct Lineage<'a> {
    /// The token's own id first, then its ancestors'.
    pub tids: &'a [Tid],
    /// Of its links.
    pub lids: &'a [Lid],
    /// Of its narrowing blocks.
    pub blocks: &'a [BlockId],
    /// All holder keys, from block 0 on.
    pub holders: &'a [Key],
    /// The root key that signed block 0: the one under which it verified, not one that it names.
    pub root: &'a Key,
    /// The accountable human.
    pub human: HumanRef,
    /// The agent of block 0 with its generation, then those of the links' cards.
    pub agents: &'a [(AgentId, u64)],
    /// The grant.
    pub delegation: DelegationId,
    /// The generations it was minted under.
    pub generations: Generations,
}

/// By what a token was taken back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RevokedWhat {
    /// Its own id.
    Tid,
    /// The id of a token that it was re-minted from.
    Ancestor,
    /// A link.
    Lid,
    /// A narrowing block.
    Block,
    /// A holder key.
    HolderKey,
    /// The root key that signed it.
    RootKey,
    /// The floor of everything.
    GlobalFloor,
    /// The tenant's floor.
    TenantFloor,
    /// The human's floor.
    HumanFloor,
    /// An agent's floor.
    AgentFloor,
    /// The delegation's floor.
    DelegationFloor,
}

impl RevokedWhat {
    /// All of them, in the order in which the first is named.
    pub const ALL: [Self; 11] = [
        Self::Tid,
        Self::Ancestor,
        Self::Lid,
        Self::Block,
        Self::HolderKey,
        Self::RootKey,
        Self::GlobalFloor,
        Self::TenantFloor,
        Self::HumanFloor,
        Self::AgentFloor,
        Self::DelegationFloor,
    ];

    /// The word in receipts, logs and vectors.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tid => "tid",
            Self::Ancestor => "ancestor",
            Self::Lid => "lid",
            Self::Block => "block",
            Self::HolderKey => "holder_key",
            Self::RootKey => "root_key",
            Self::GlobalFloor => "global_floor",
            Self::TenantFloor => "tenant_floor",
            Self::HumanFloor => "human_floor",
            Self::AgentFloor => "agent_floor",
            Self::DelegationFloor => "delegation_floor",
        }
    }

    /// The one that this word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|w| w.word() == word)
    }
}

/// What took a token back, and where the feed says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RevokedBy {
    /// By what.
    pub what: RevokedWhat,
    /// A feed number by which it was said. Of a floor or a key that came in a batch, and of an id until it is merged with the
    /// others, the lowest known; of what came in a snapshot, the snapshot's.
    pub seq: u64,
}

/// The outcome of a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Lookup {
    /// Nothing known stands against it.
    Live,
    /// Taken back.
    Revoked(RevokedBy),
    /// It carries a generation above the known floor: the view lacks something, or the token lies.
    Behind,
}

/// What a decision reads. Implemented by [`View`]; a trait, so that replay can answer from a log instead.
pub trait RevocationView {
    /// The moment up to which all revocations are in the view; none if it is stale whatever the bound.
    fn fresh_as_of(&self) -> Option<BootTime>;
    /// What is known of a token.
    fn lookup(&self, lineage: &Lineage<'_>) -> Lookup;
    /// What freezes say of it at a moment of authority UTC.
    fn frozen(&self, lineage: &Lineage<'_>, utc: UtcMillis) -> Frozen;
    /// True if the view once knew all there was, however long ago: best effort rests on that and on no less.
    fn was_complete(&self) -> bool;
    /// The key list in force.
    fn key_list(&self) -> std::sync::Arc<KeyList>;
    /// Authority UTC at `now`, never falling; none before the first heartbeat.
    fn utc(&self, now: BootTime) -> Option<UtcMillis>;
}

/// The verifier's knowledge, shared by all decisions of a process.
pub struct View {
    tenant: Tenant,
    service: Name,
    sets: RwLock<Sets>,
    /// Held while shards are built: one builder at a time. The hour from which on the shards hold ids.
    merging: std::sync::Mutex<u64>,
    /// Microseconds of fresh-as-of plus one; 0: stale.
    fresh: AtomicU64,
    /// Set for good when something was signed that this version cannot apply.
    stuck: AtomicBool,
    keys: RwLock<std::sync::Arc<KeyList>>,
    relied: RwLock<Vouched>,
    utc: AuthorityUtc,
    /// Called after each change but a rise of the freshness. Of no interest to loom.
    listeners: std::sync::RwLock<Vec<Listener>>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

impl View {
    /// An empty view: stale, knowing no time. `service` is the verifier's own, for floors of humans that tokens name pairwise.
    pub fn new(service: Name, key_list: KeyList) -> Self {
        Self {
            tenant: key_list.payload().tenant.clone(),
            service,
            sets: RwLock::new(Sets::default()),
            merging: std::sync::Mutex::new(0),
            fresh: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            keys: RwLock::new(std::sync::Arc::new(key_list)),
            relied: RwLock::new(Vouched::default()),
            utc: AuthorityUtc::default(),
            listeners: std::sync::RwLock::default(),
        }
    }

    /// Calls `changed` whenever something was taken back or frozen, the freshness ended, or the key list is another; not when
    /// freshness rises. From the feed's thread, after the change is visible: it must not block.
    pub fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        if let Ok(mut listeners) = self.listeners.write() {
            listeners.push(Box::new(changed));
        }
    }

    fn changed(&self) {
        if let Ok(listeners) = self.listeners.read() {
            listeners.iter().for_each(|changed| changed());
        }
    }

    /// Whose feed it follows: the key list's.
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Adds what message `seq` took back. Any order, any number of times: the result is the same.
    ///
    /// An unknown item leaves the view stale until the process runs newer code (F9).
    pub fn apply(&self, seq: u64, items: &[(u64, Item)]) {
        if items.iter().any(|(_, item)| matches!(item, Item::Unknown { .. })) {
            self.stick();
        }
        let Ok(mut sets) = self.sets.write() else { return self.stick() };
        for (_, item) in items {
            sets.apply(seq, item, &self.service);
        }
        drop(sets);
        self.changed();
    }

    /// Says that everything committed up to `at` has been applied. The caller has applied it: law 7 rests on that order.
    ///
    /// Never goes back; see [`Self::fence`] for that. `relied` is the feed position that vouches, for receipts.
    pub fn publish(&self, at: BootTime, relied: Relied) {
        if self.stuck.load(Ordering::Acquire) {
            return;
        }
        let fresh = at.0.saturating_add(1);
        // Before the freshness, so that no allow is without it: the items of this position are here already.
        let Ok(mut slot) = self.relied.write() else { return };
        if fresh > slot.fresh {
            *slot = Vouched { fresh, relied: Some(relied) };
        }
        drop(slot);
        // L7: release, after the items.
        self.fresh.fetch_max(fresh, Ordering::Release);
    }

    /// Stale at once, until something is published again.
    pub fn fence(&self) {
        self.fresh.store(0, Ordering::Release);
        if let Ok(mut slot) = self.relied.write() {
            slot.fresh = 0;
        }
        self.changed();
    }

    /// The feed position behind the published freshness, or behind the last one if it was fenced. To be read before a decision: all
    /// items up to it are in the view by then, so that a receipt claims no more than was looked at.
    pub fn relied(&self) -> Option<Relied> {
        self.relied.read().ok().and_then(|slot| slot.relied)
    }

    /// True if something was signed that this version cannot apply: stale for good.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// Stale until the process runs newer code.
    pub fn stick(&self) {
        self.stuck.store(true, Ordering::Release);
        self.fence();
    }

    /// Takes a newer key list. Versions only rise; the same payload under other anchors' signatures replaces itself.
    pub fn replace_key_list(&self, list: KeyList) -> Result<(), KeyListStays> {
        let Ok(mut slot) = self.keys.write() else { return Err(KeyListStays::Older { got: list.payload().version, held: u64::MAX }) };
        let (new, held) = (list.payload(), slot.payload());
        if new.tenant != self.tenant {
            return Err(KeyListStays::Tenant);
        }
        if new.version < held.version {
            return Err(KeyListStays::Older { got: new.version, held: held.version });
        }
        if new.version == held.version && new != held {
            return Err(KeyListStays::Differs { version: new.version });
        }
        *slot = std::sync::Arc::new(list);
        drop(slot);
        self.changed();
        Ok(())
    }

    /// Takes the authority's UTC, as a heartbeat that arrived at `now` said it. False if it is more than 2 s (and 500 ppm of the time
    /// since the last one) ahead of what is known: such a heartbeat proves no freshness.
    pub fn observe_utc(&self, utc: UtcMillis, now: BootTime) -> bool {
        self.utc.observe(utc, None, now)
    }

    /// [`Self::observe_utc`] after an epoch start that said `began`, until a heartbeat of that epoch has counted: where the authority's
    /// clock jumped, this one may be ahead by as much more as no heartbeat has counted for.
    pub fn observe_utc_after(&self, began: UtcMillis, utc: UtcMillis, now: BootTime) -> bool {
        self.utc.observe(utc, Some(began), now)
    }

    /// Takes the authority's UTC from a signed epoch start, which may jump ahead.
    pub fn confirm_utc(&self, utc: UtcMillis, now: BootTime) {
        self.utc.confirm(utc, now);
    }

    /// Drops ids whose tokens ended over 60 s ago by authority UTC from among those that came last. Holder keys and floors stay.
    /// Returns how many. The others go an hour at a time, by [`Self::merge`].
    pub fn collect(&self, now: BootTime) -> usize {
        let Some(utc) = self.utc.at(now) else { return 0 };
        self.sets.write().map(|mut sets| sets.collect(utc.secs())).unwrap_or(0)
    }

    /// Root keys and freezes as the items that made them, sorted: what a copy of the view needs of them.
    pub fn root_keys_and_freezes(&self) -> Vec<(u64, Item)> {
        self.sets.read().map(|s| s.freezes.items()).unwrap_or_default()
    }

    /// Holds authority UTC to be at least this: what was shown before the process began. Until a heartbeat comes no time is known.
    pub fn restore_utc(&self, utc: UtcMillis) {
        self.utc.restore(utc);
    }

    /// How many ids, keys and floors are known. An id that is told again counts twice until it is merged.
    pub fn known(&self) -> Known {
        self.sets.read().map(|s| s.known()).unwrap_or_default()
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn knows_the_same_as(&self, other: &Self) -> bool {
        let (a, b) = (self.sets.read().unwrap(), other.sets.read().unwrap());
        a.all() == b.all() && a.hot_seqs() == b.hot_seqs()
    }

    /// The same things are taken back, by whatever numbers.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn takes_back_the_same_as(&self, other: &Self) -> bool {
        let gist = |view: &Self| view.sets.read().unwrap().all().into_iter().map(|(what, (until, _))| (what, until)).collect::<Vec<_>>();
        gist(self) == gist(other)
    }
}

impl RevocationView for View {
    fn fresh_as_of(&self) -> Option<BootTime> {
        // L7: acquire, before the lookup.
        self.fresh.load(Ordering::Acquire).checked_sub(1).map(BootTime)
    }

    fn lookup(&self, lineage: &Lineage<'_>) -> Lookup {
        // A panic while writing leaves half of a message: nothing may rest on that.
        self.sets.read().map_or(Lookup::Behind, |sets| sets.lookup(lineage))
    }

    fn frozen(&self, lineage: &Lineage<'_>, utc: UtcMillis) -> Frozen {
        // As above; what cannot be read has been answered `Behind` by the lookup, which no allow survives.
        self.sets.read().map_or(Frozen::NOT, |sets| sets.freezes.at(lineage, utc))
    }

    fn was_complete(&self) -> bool {
        self.relied().is_some()
    }

    fn key_list(&self) -> std::sync::Arc<KeyList> {
        match self.keys.read() {
            Ok(list) => std::sync::Arc::clone(&list),
            // The slot is replaced as a whole: there is no half of it.
            Err(poisoned) => std::sync::Arc::clone(&poisoned.into_inner()),
        }
    }

    fn utc(&self, now: BootTime) -> Option<UtcMillis> {
        self.utc.at(now)
    }
}

impl<V: RevocationView> RevocationView for Arc<V> {
    fn fresh_as_of(&self) -> Option<BootTime> {
        (**self).fresh_as_of()
    }
    fn lookup(&self, lineage: &Lineage<'_>) -> Lookup {
        (**self).lookup(lineage)
    }
    fn frozen(&self, lineage: &Lineage<'_>, utc: UtcMillis) -> Frozen {
        (**self).frozen(lineage, utc)
    }
    fn was_complete(&self) -> bool {
        (**self).was_complete()
    }
    fn key_list(&self) -> std::sync::Arc<KeyList> {
        (**self).key_list()
    }
    fn utc(&self, now: BootTime) -> Option<UtcMillis> {
        (**self).utc(now)
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("tenant", &self.tenant).field("known", &self.known()).finish_non_exhaustive()
    }
}

/// Why a key list was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyListStays {
    /// Versions only rise.
    #[error("key list has version {got}, expected at least {held}")]
    Older {
        /// Its version.
        got: u64,
        /// The version held.
        held: u64,
    },
    /// The anchors signed two lists under one version.
    #[error("key list of version {version} differs from the one held under that version")]
    Differs {
        /// The version.
        version: u64,
    },
    /// Of another tenant.
    #[error("key list is of another tenant than the view")]
    Tenant,
}

/// Sizes of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Token, link and block ids.
    pub ids: usize,
    /// Holder keys.
    pub holder_keys: usize,
    /// Floors above 0.
    pub floors: usize,
    /// Root keys.
    pub root_keys: usize,
    /// Freezes, lifted ones among them.
    pub freezes: usize,
}

/// The position behind the published freshness.
#[derive(Default)]
struct Vouched {
    /// As in [`View::fresh`].
    fresh: u64,
    relied: Option<Relied>,
}

/// Locks and atomics: std's, or loom's, which tries out every interleaving.
mod sync {
    #[cfg(all(test, loom))]
    pub(super) use loom::sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };
    #[cfg(not(all(test, loom)))]
    pub(super) use std::sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    };
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
