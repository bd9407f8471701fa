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

    /// Keeps `value` until `until` (exclusive); gives back what had to go for it.
    pub fn insert(&mut self, now: UtcMillis, key: K, value: V, until: UtcMillis) -> Vec<(K, V)> {
        let mut gone = self.expire(now);
        gone.extend(self.remove(&key).map(|old| (key.clone(), old)));
        while self.entries.len() >= self.max {
            let Some((_, first)) = self.by_end.first().cloned() else { break };
            gone.extend(self.remove(&first).map(|old| (first, old)));
        }
        self.by_end.insert((until, key.clone()));
        self.entries.insert(key, (until, value));
        gone
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

    /// Moves the end of an entry, if it is there.
    pub fn prolong(&mut self, key: &K, until: UtcMillis) {
        if let Some((end, _)) = self.entries.get_mut(key) {
            self.by_end.remove(&(*end, key.clone()));
            *end = until;
            self.by_end.insert((until, key.clone()));
        }
    }

    /// Removes the entries that fit; looks at all of them.
    pub fn remove_if(&mut self, fits: impl Fn(&V) -> bool) {
        let gone: Vec<_> = self.entries.iter().filter(|(_, (_, value))| fits(value)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// Removes what has ended.
    pub fn expire(&mut self, now: UtcMillis) -> Vec<(K, V)> {
        let mut gone = Vec::new();
        while let Some((_, key)) = self.by_end.first().filter(|(until, _)| *until <= now).cloned() {
            gone.extend(self.remove(&key).map(|old| (key, old)));
        }
        gone
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
        map.prolong(&"a", at(20));
        assert_eq!(map.find(at(19), &"a"), Some(&1));
        map.insert(at(0), "b", 2, at(30));
        assert_eq!(map.insert(at(0), "c", 3, at(40)), [("a", 1)], "the one that would end first goes");
        assert_eq!(map.take(at(1), &"b"), Some(2));
        assert_eq!(map.take(at(1), &"b"), None);
        assert_eq!(map.take(at(40), &"c"), None);
        assert!(map.entries.is_empty() && map.by_end.is_empty());
    }
}
