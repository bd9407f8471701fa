//! A bound on cold verifications: token buckets in a fixed table, so that strangers cannot make it grow.

use std::sync::{Mutex, PoisonError};

use procura_verifier::ids::BootTime;

/// 1,024 buckets under a random keyed hash. Two keys in one bucket make each other's bound tighter, never looser.
pub(crate) struct Limiter {
    hash: ahash::RandomState,
    per_second: u32,
    buckets: Mutex<Vec<Bucket>>,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Spent, in micro-verifications.
    spent: u64,
    at: BootTime,
}

impl Limiter {
    /// Allows `per_second` in a stream and twice as many at once.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { hash: ahash::RandomState::new(), per_second, buckets: Mutex::new(vec![Bucket::default(); BUCKETS]) }
    }

    /// True if one more is within the bound for this key.
    pub(crate) fn take(&self, key: impl std::hash::Hash, now: BootTime) -> bool {
        let at = usize::try_from(self.hash.hash_one(key) % BUCKETS as u64).unwrap_or(0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(at) else { return false };
        let flowed = now.micros_since(bucket.at).saturating_mul(self.per_second.into());
        bucket.spent = bucket.spent.saturating_sub(flowed);
        bucket.at = now;
        let fits = bucket.spent + ONE <= ONE * 2 * u64::from(self.per_second);
        if fits {
            bucket.spent += ONE;
        }
        fits
    }
}

const BUCKETS: usize = 1024;
const ONE: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_bounded_and_flows_off() {
        let limiter = Limiter::new(10);
        let start = BootTime(1_000_000);
        assert_eq!((0..100).filter(|_| limiter.take("a", start)).count(), 20);
        assert_eq!((0..100).filter(|_| limiter.take("a", start.plus_micros(500_000))).count(), 5);
        assert_eq!((0..100).filter(|_| limiter.take("a", start.plus_micros(60_000_000))).count(), 20);
    }
}
