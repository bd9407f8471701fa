//! Verified tokens, kept by their full bytes: a second presentation costs a look-up instead of its signatures.
//!
//! A hit says only that these very bytes verified once. Time, revocation, freshness and key state are asked at each
//! decision, so nothing has to be thrown out when they change.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::token::VerifiedToken;

/// A bounded cache: two generations; when the young one is full it becomes the old one.
pub struct TokenCache {
    capacity: usize,
    kept: RwLock<[Generation; 2]>,
}

type Generation = HashMap<Box<[u8]>, Arc<VerifiedToken>, ahash::RandomState>;

impl TokenCache {
    /// A cache of at most `capacity` tokens (at most about 32 KiB each, mostly 2 to 5).
    pub fn new(capacity: usize) -> Self {
        Self { capacity: (capacity / 2).max(1), kept: RwLock::default() }
    }

    /// The verified token with exactly these bytes, if it is kept. Allocates nothing.
    pub fn find(&self, bytes: &[u8]) -> Option<Arc<VerifiedToken>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find_map(|g| g.get(bytes)).cloned()
    }

    /// Keeps a token. The caller passes the bytes that were verified.
    pub fn insert(&self, bytes: &[u8], token: Arc<VerifiedToken>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *kept;
        if young.len() >= self.capacity {
            *old = std::mem::take(young);
        }
        young.insert(bytes.into(), token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::tests::{block0, key, key_list};
    use crate::token::{UnverifiedToken, mint};

    #[test]
    fn a_hit_is_the_very_bytes_and_the_cache_stays_bounded() {
        let cache = TokenCache::new(4);
        // Above the holders' seeds: a next key that is a holder's would be refused.
        for n in 100..200 {
            let bytes = mint(&block0(), &key(1), [n; 32]).unwrap();
            cache.insert(&bytes, Arc::new(UnverifiedToken::parse(&bytes).unwrap().verify(&key_list()).unwrap()));
            assert!(cache.find(&bytes).is_some());
            assert!(cache.find(&bytes[1..]).is_none());
            assert!(cache.kept.read().unwrap().iter().map(HashMap::len).sum::<usize>() <= 4);
        }
    }
}
