//! What a path may cost: who floods it is no longer listened to.

use crate::ids::BootTime;

/// A token bucket. A refused message costs ten times one that merely brought nothing: 200 refused a second, or 2,000 useless ones.
///
/// Verifying costs about 92 µs, so a flood takes a fifth of a core for a second at most, and then nothing.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    at: BootTime,
}

impl Budget {
    pub(super) const REFUSED: u64 = 10;
    const USELESS: u64 = 1;

    /// What a message of so many bytes costs that moved nothing. Hashing and reading a long one that somebody repeats takes longer than
    /// verifying a short one.
    pub(super) const fn useless(bytes: usize) -> u64 {
        Self::USELESS + bytes as u64 / 4096
    }

    pub(super) const fn new(now: BootTime) -> Self {
        Self { left: PER_SECOND, at: now }
    }

    /// True while there is enough.
    pub(super) fn spend(&mut self, cost: u64, now: BootTime) -> bool {
        let earned = now.micros_since(self.at).saturating_mul(PER_SECOND) / 1_000_000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(PER_SECOND);
            self.at = now;
        }
        let enough = self.left >= cost;
        self.left = self.left.saturating_sub(cost);
        enough
    }
}

/// Ten replicas beat 200 times a second, and group commit gives at most 500 batches: what the stream brought first is no flood.
const PER_SECOND: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hundred_refusals_a_second_are_borne_and_more_are_not() {
        let mut budget = Budget::new(BootTime(0));
        let mut spend = |n: u64, at: u64| (0..n).filter(|_| budget.spend(Budget::REFUSED, BootTime(at))).count();
        assert_eq!(spend(201, 0), 200);
        assert_eq!(spend(10, 10_000), 2, "a hundredth of a second earns two");
        assert_eq!(spend(300, 60_000_000), 200, "and nothing is saved up");
    }

    #[test]
    fn what_the_stream_brought_first_is_no_flood() {
        let mut budget = Budget::new(BootTime(0));
        // Ten replicas and 500 batches a second, for a minute.
        assert!((0..42_000).all(|n| budget.spend(Budget::useless(400), BootTime(n * 1_000_000 / 700))));
        // A hundred of the longest batches, all at once.
        let mut budget = Budget::new(BootTime(0));
        assert!((0..100).all(|_| budget.spend(Budget::useless(64 * 1024), BootTime(0))));
    }

    #[test]
    fn the_longest_message_repeated_a_thousand_times_is_a_flood() {
        let mut budget = Budget::new(BootTime(0));
        let borne = (0..1000).filter(|n| budget.spend(Budget::useless(64 * 1024), BootTime(n * 1000))).count();
        assert!(borne < 250, "{borne} in a second");
    }
}
