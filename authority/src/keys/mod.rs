//! The key list in force: one per tenant, shared by everything that signs or asks what lives, taken at the moment of need.
//!
//! A list comes from this process's own publish or, noticed in the store, from another replica's. The anchors are asked
//! again for every one of them: a database that is written by somebody else names no keys.

pub mod change;
pub mod proposal;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyList, KeyListError, KeyUse, UnverifiedKeyList};
use procura_verifier::wire::{Canonical as _, Malformed};

use crate::store::{Store, StoreError};

/// How long a key that a list newly names waits for its first signature while an older one can sign: every verifier has
/// heard of the list by then, so none meets a key that it does not know.
pub const LEAD_MS: u64 = 5_000;

/// A list that the anchors signed, and since when it is used here.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What lives.
    pub list: Arc<KeyList>,
    /// The same as it travels.
    pub signed: Arc<UnverifiedKeyList>,
    /// When it was taken over here; 0 for the list of the start.
    pub since: UtcMillis,
    before: Option<Arc<KeyList>>,
}

/// Why a stored list is not taken over. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not a list.
    #[error("stored key list: {0}")]
    Malformed(#[from] Malformed),
    /// The anchors did not sign it.
    #[error("stored key list: {0}")]
    KeyList(#[from] KeyListError),
}

type Hook = Box<dyn Fn(&InForce) + Send + Sync>;

/// One tenant's key list, as it is now.
pub struct Keys {
    anchors: Anchors,
    tenant: Tenant,
    in_force: RwLock<InForce>,
    /// Root keys that were revoked by their public key, as far as this process has heard: nothing new is signed with them. Only a
    /// transaction knows for certain (`Require::RootKeyLives`).
    killed: RwLock<BTreeSet<Key>>,
    changed: Mutex<Vec<Hook>>,
}

impl Keys {
    /// Starts with a list, if the anchors signed it.
    pub fn new(anchors: Anchors, tenant: Tenant, signed: UnverifiedKeyList) -> Result<Self, KeyListError> {
        let list = Arc::new(anchors.accept(&signed, &tenant)?);
        let in_force = InForce { list, signed: Arc::new(signed), before: None, since: UtcMillis(0) };
        Ok(Self { anchors, tenant, in_force: RwLock::new(in_force), killed: RwLock::default(), changed: Mutex::default() })
    }

    /// The list in force at this moment. Take it where it is needed, and do not keep it.
    pub fn load(&self) -> Arc<KeyList> {
        Arc::clone(&self.read().list)
    }

    /// The same as it travels.
    pub fn signed(&self) -> Arc<UnverifiedKeyList> {
        Arc::clone(&self.read().signed)
    }

    /// Who signs lists.
    pub const fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// From now on nothing is signed with this root key: it was revoked, whatever the list says.
    pub fn kill_root(&self, key: Key) {
        if self.killed.write().unwrap_or_else(PoisonError::into_inner).insert(key) {
            tracing::warn!(%key, "keys.root_key_revoked");
        }
    }

    /// True of a root key that was revoked by its public key.
    pub fn is_killed(&self, usage: KeyUse, key: &Key) -> bool {
        usage == KeyUse::Root && self.killed.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Takes a list over if it is newer, and tells everybody who asked to be told before it returns. `Ok(false)`: it is not newer.
    pub fn accept(&self, signed: &UnverifiedKeyList, now: UtcMillis) -> Result<bool, KeyListError> {
        let list = Arc::new(self.anchors.accept(signed, &self.tenant)?);
        // Held while the others are told: two lists at once are told of in their order.
        let hooks = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let next = {
            let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
            if list.payload().version <= in_force.list.payload().version {
                if list.payload().version == in_force.list.payload().version && list.hash() != in_force.list.hash() {
                    tracing::error!(version = list.payload().version, "keys.two_lists_of_one_version");
                }
                return Ok(false);
            }
            let before = Some(Arc::clone(&in_force.list));
            *in_force = InForce { list, signed: Arc::new(signed.clone()), before, since: now };
            in_force.clone()
        };
        tracing::info!(version = next.list.payload().version, "keys.list_in_force");
        hooks.iter().for_each(|tell| tell(&next));
        Ok(true)
    }

    /// Looks whether another replica has published a list, and takes it over. Call it on every hint that something was committed.
    pub async fn refresh(&self, store: &dyn Store, now: UtcMillis) -> Result<bool, RefreshError> {
        match store.key_list().await? {
            Some((version, bytes)) if version > self.load().payload().version => Ok(self.accept(&UnverifiedKeyList::from_bytes(&bytes)?, now)?),
            _ => Ok(false),
        }
    }

    /// `tell` is called with every list from the next one on, in their order. It holds nothing strongly that holds these keys.
    pub fn on_change(&self, tell: impl Fn(&InForce) + Send + Sync + 'static) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(tell));
    }

    /// Which key signs what holds from `from` to `until`: a living one at hand whose window holds all of it. The newest,
    /// once every verifier has heard of it.
    pub fn choose(&self, usage: KeyUse, from: UtcMillis, until: UtcMillis, at_hand: impl Fn(&Key) -> bool) -> Option<Key> {
        let now = self.read();
        let rested = |key: &Key| now.since.plus(LEAD_MS) <= from || now.before.as_ref().is_none_or(|b| b.find(usage, key).is_some());
        let holding = now.list.of(usage).filter(|k| k.from <= from && until <= k.until && at_hand(&k.key) && !self.is_killed(usage, &k.key));
        // The key's own bytes last: replicas choose alike.
        holding.max_by_key(|k| (rested(&k.key), k.from, k.key)).map(|k| k.key)
    }

    /// Until when, without a gap from `now` on, living keys at hand hold.
    pub fn until(&self, usage: KeyUse, now: UtcMillis, at_hand: impl Fn(&Key) -> bool) -> Option<UtcMillis> {
        let list = self.load();
        let mut windows: Vec<_> =
            list.of(usage).filter(|k| now < k.until && at_hand(&k.key) && !self.is_killed(usage, &k.key)).map(|k| (k.from, k.until)).collect();
        windows.sort_unstable();
        let mut end = None;
        for (from, until) in windows {
            if from <= end.unwrap_or(now) {
                end = end.max(Some(until));
            }
        }
        end
    }

    fn read(&self) -> InForce {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use procura_verifier::key_list::{KeyListPayload, ListedKey};
    use std::sync::atomic::{AtomicU64, Ordering};

    fn signing(n: u8) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[n; 32])
    }
    fn key(n: u8) -> Key {
        Key::of(&signing(n))
    }
    fn tenant() -> Tenant {
        "acme".parse().unwrap()
    }
    fn list(version: u64, keys: &[(u8, u64, u64)], dead: &[u8]) -> UnverifiedKeyList {
        let of = |(n, from, until): &(u8, u64, u64)| ListedKey { usage: KeyUse::Root, key: key(*n), from: UtcMillis(*from), until: UtcMillis(*until) };
        let mut keys: Vec<_> = keys.iter().map(of).collect();
        keys.sort_unstable_by_key(|k| k.key);
        let mut dead: Vec<_> = dead.iter().map(|n| key(*n)).collect();
        dead.sort_unstable();
        UnverifiedKeyList::sign(&KeyListPayload { tenant: tenant(), version, issued: UtcMillis(0), max_ttl_secs: 60, keys, dead }, &[&signing(200)])
    }
    fn anchors() -> Anchors {
        Anchors::new(vec![key(200)], 1).unwrap()
    }

    #[test]
    fn a_key_signs_only_what_its_window_holds_whole_and_a_new_one_waits_until_all_have_heard_of_it() {
        let keys = Keys::new(anchors(), tenant(), list(1, &[(1, 0, 100_000)], &[])).unwrap();
        let choose = |from, until| keys.choose(KeyUse::Root, UtcMillis(from), UtcMillis(until), |_| true);
        assert_eq!((choose(50_000, 100_000), choose(50_000, 100_001)), (Some(key(1)), None));
        assert!(keys.accept(&list(2, &[(1, 0, 100_000), (2, 40_000, 200_000)], &[]), UtcMillis(50_000)).unwrap());
        assert_eq!(choose(50_000, 60_000), Some(key(1)), "the new one rests");
        assert_eq!(choose(50_000, 100_001), Some(key(2)), "but there is no other");
        assert_eq!(choose(54_999, 60_000), Some(key(1)));
        assert_eq!(choose(55_000, 60_000), Some(key(2)));
        assert_eq!(keys.choose(KeyUse::Root, UtcMillis(55_000), UtcMillis(60_000), |k| *k != key(2)), Some(key(1)), "not at hand");
        assert_eq!(keys.choose(KeyUse::Feed, UtcMillis(55_000), UtcMillis(60_000), |_| true), None);
        assert!(keys.accept(&list(3, &[(1, 0, 100_000), (2, 40_000, 200_000), (3, 50_000, 300_000)], &[1, 2]), UtcMillis(60_000)).unwrap());
        assert_eq!(choose(60_000, 70_000), Some(key(3)), "the dead sign nothing");
    }

    #[test]
    fn a_killed_root_key_signs_nothing_whatever_the_list_says_and_another_takes_its_place() {
        let keys = Keys::new(anchors(), tenant(), list(1, &[(1, 0, 100), (2, 50, 200)], &[])).unwrap();
        let choose = |usage| keys.choose(usage, UtcMillis(60), UtcMillis(90), |_| true);
        assert_eq!(choose(KeyUse::Root), Some(key(2)));
        keys.kill_root(key(2));
        assert_eq!((choose(KeyUse::Root), keys.until(KeyUse::Root, UtcMillis(10), |_| true)), (Some(key(1)), Some(UtcMillis(100))));
        keys.kill_root(key(1));
        assert_eq!((choose(KeyUse::Root), keys.until(KeyUse::Root, UtcMillis(10), |_| true)), (None, None));
        assert!(keys.accept(&list(2, &[(1, 0, 100), (3, 50, 200)], &[2]), UtcMillis(60)).unwrap());
        assert_eq!(choose(KeyUse::Root), Some(key(3)), "a list brings a new one and none back");
        assert!(!keys.is_killed(KeyUse::Feed, &key(1)));
    }

    #[test]
    fn keys_hold_until_the_first_gap() {
        let keys = Keys::new(anchors(), tenant(), list(1, &[(1, 0, 100), (2, 50, 200), (3, 201, 300), (4, 0, 90), (5, 0, 900)], &[5])).unwrap();
        let until = |now| keys.until(KeyUse::Root, UtcMillis(now), |_| true);
        assert_eq!((until(10), until(199), until(200), until(250), until(300)), (Some(UtcMillis(200)), Some(UtcMillis(200)), None, Some(UtcMillis(300)), None));
        assert_eq!(keys.until(KeyUse::Root, UtcMillis(10), |k| *k != key(2)), Some(UtcMillis(100)));
    }

    #[test]
    fn only_a_newer_list_of_the_anchors_is_taken_over_and_each_is_told_once() {
        let keys = Keys::new(anchors(), tenant(), list(2, &[(1, 0, 10)], &[])).unwrap();
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        keys.on_change(move |now| {
            count.fetch_add(now.list.payload().version, Ordering::SeqCst);
        });
        for (old, why) in [(list(1, &[(2, 0, 10)], &[]), "earlier"), (list(2, &[(2, 0, 10)], &[]), "of the same version")] {
            assert!(!keys.accept(&old, UtcMillis(0)).unwrap(), "{why}");
        }
        let stranger = UnverifiedKeyList::sign(&list(3, &[], &[]).unverified_payload().unwrap(), &[&signing(9)]);
        assert!(keys.accept(&stranger, UtcMillis(0)).is_err());
        let other = KeyListPayload { tenant: "other".parse().unwrap(), ..list(3, &[], &[]).unverified_payload().unwrap() };
        assert!(matches!(keys.accept(&UnverifiedKeyList::sign(&other, &[&signing(200)]), UtcMillis(0)), Err(KeyListError::Tenant { .. })));
        assert_eq!((keys.load().payload().version, told.load(Ordering::SeqCst)), (2, 0));
        assert!(keys.accept(&list(3, &[(2, 0, 10)], &[]), UtcMillis(0)).unwrap());
        assert_eq!((keys.load().payload().version, told.load(Ordering::SeqCst)), (3, 3));
    }
}
