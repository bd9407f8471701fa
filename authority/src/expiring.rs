//! A map in memory whose entries end by themselves and whose size has a bound.

use std::collections::{BTreeMap, BTreeSet};

use procura_verifier::ids::UtcMillis;

/// Entries that live until a moment. Full, it drops the entry that would end first: a flood of strangers can cost
/// somebody a second try, it can neither lock everyone out nor fill the memory.
pub struct Expiring<K, V> {
    max: usize,
    entries: BTreeMap<K, (UtcMillis, V)>,
    by_end: BTreeSet<(UtcMillis, K)>,
}

impl<K: Ord + Clone, V> Expiring<K, V> {
    /// An empty map of at most `max` entries.
    pub const fn new(max: usize) -> Self {
        Self { max, entries: BTreeMap::new(), by_end: BTreeSet::new() }
    }

    /// Keeps `value` until `until` (exclusive).
    pub fn insert(&mut self, now: UtcMillis, key: K, value: V, until: UtcMillis) {
        while self.by_end.first().is_some_and(|(end, _)| *end <= now) {
            self.drop_first();
        }
        self.remove(&key);
        while self.entries.len() >= self.max && !self.by_end.is_empty() {
            self.drop_first();
        }
        self.by_end.insert((until, key.clone()));
        self.entries.insert(key, (until, value));
    }

    /// The living entry.
    pub fn find(&self, now: UtcMillis, key: &K) -> Option<&V> {
        self.entries.get(key).filter(|(until, _)| now < *until).map(|(_, value)| value)
    }

    /// Removes the living entry: of many callers one gets it.
    pub fn take(&mut self, now: UtcMillis, key: &K) -> Option<V> {
        let alive = self.find(now, key).is_some();
        self.remove(key).filter(|_| alive)
    }

    fn drop_first(&mut self) {
        if let Some((_, key)) = self.by_end.pop_first() {
            self.entries.remove(&key);
        }
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let (until, value) = self.entries.remove(key)?;
        self.by_end.remove(&(until, key.clone()));
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_are_taken_once_and_never_exceed_the_bound() {
        let at = UtcMillis;
        let mut map = Expiring::new(2);
        map.insert(at(0), "a", 1, at(10));
        assert_eq!(map.find(at(9), &"a"), Some(&1));
        assert_eq!(map.find(at(10), &"a"), None);
        map.insert(at(0), "b", 2, at(30));
        map.insert(at(0), "c", 3, at(40));
        assert_eq!((map.find(at(0), &"a"), map.find(at(0), &"b")), (None, Some(&2)), "the one that would end first goes");
        map.insert(at(0), "b", 4, at(50));
        map.insert(at(40), "d", 5, at(60));
        assert_eq!(map.find(at(40), &"b"), Some(&4));
        assert_eq!((map.entries.len(), map.by_end.len()), (2, 2));
        assert_eq!((map.take(at(40), &"b"), map.take(at(40), &"b"), map.take(at(60), &"d")), (Some(4), None, None));
        assert!(map.entries.is_empty() && map.by_end.is_empty());
    }
}
