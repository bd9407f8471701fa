//! What an authority's clock says, in this machine's boot time: never too fresh (`spec/feed.md`, clocks).

use crate::ids::{BootTime, Clock, ClockId, UtcMillis};

/// Mappings of authority clocks to this machine's, made from answers to own nonces alone (F11).
///
/// An answer's `t` was taken after the request left, so pairing it with that instant errs to one side: everything mapped
/// comes out at most as fresh as it was.
#[derive(Debug, Default)]
pub struct ClockMap {
    clocks: Vec<Mapped>,
}

#[derive(Debug)]
struct Mapped {
    clock: ClockId,
    /// Newest last.
    pairs: Vec<Pair>,
    /// The newest `t` that a verified heartbeat showed.
    newest_t_us: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    t_us: u64,
    left: BootTime,
}

impl ClockMap {
    /// Learns that `t_us` was read on `clock` at or after `left`, when the request that it answers left this machine.
    pub fn map(&mut self, clock: ClockId, t_us: u64, left: BootTime) {
        let pair = Pair { t_us, left };
        if let Some(mapped) = self.clocks.iter_mut().find(|m| m.clock == clock) {
            if mapped.pairs.len() == KEPT_PAIRS {
                mapped.pairs.remove(0);
            }
            mapped.pairs.push(pair);
            return;
        }
        if self.clocks.len() == KEPT_CLOCKS {
            self.clocks.remove(0);
        }
        self.clocks.push(Mapped { clock, pairs: vec![pair], newest_t_us: None });
    }

    /// A moment of this machine at or before the one when `clock` showed `t_us`. None if the clock is not mapped.
    ///
    /// A result after `now` is impossible within 500 ppm: one of the clocks was set or stood still, and the mapping is dropped.
    pub fn fresh(&mut self, clock: ClockId, t_us: u64, now: BootTime) -> Option<BootTime> {
        let at = self.clocks.iter().position(|m| m.clock == clock)?;
        let best = self.clocks.get(at)?.pairs.iter().filter_map(|p| p.earliest(t_us)).max()?;
        if best > now {
            self.clocks.remove(at);
            return None;
        }
        Some(best)
    }

    /// Remembers the newest `t` of a mapped clock; true if `t_us` is newer.
    pub fn advance(&mut self, clock: ClockId, t_us: u64) -> bool {
        match self.clocks.iter_mut().find(|m| m.clock == clock) {
            Some(m) if m.newest_t_us.is_none_or(|newest| t_us > newest) => {
                m.newest_t_us = Some(t_us);
                true
            }
            _ => false,
        }
    }

    /// True if a verified heartbeat of this clock was as new as `t_us`.
    pub fn has_seen(&self, clock: ClockId, t_us: u64) -> bool {
        self.clocks.iter().any(|m| m.clock == clock && m.newest_t_us.is_some_and(|newest| t_us <= newest))
    }

    /// Forgets all mappings.
    pub fn clear(&mut self) {
        self.clocks.clear();
    }
}

impl Pair {
    fn earliest(self, t_us: u64) -> Option<BootTime> {
        let age = t_us.abs_diff(self.t_us);
        let drift = age / DRIFT_DIVISOR + 1;
        let at = if t_us >= self.t_us { self.left.0.checked_add(age)? } else { self.left.0.checked_sub(age)? };
        at.checked_sub(drift).map(BootTime)
    }
}

/// Notices that the machine was paused, restored or had its clock set (F13).
#[derive(Debug, Default)]
pub struct PauseWatch {
    last: Option<(BootTime, UtcMillis)>,
}

impl PauseWatch {
    /// True if wall clock and boot clock moved apart by more than 50 ms since the last call. To be called at least once a second.
    pub fn paused(&mut self, now: BootTime, wall: UtcMillis) -> bool {
        let Some((then, wall_then)) = self.last.replace((now, wall)) else { return false };
        // A boot clock that went back is another boot, or a restored machine.
        if now < then {
            return true;
        }
        let boot_ms = now.micros_since(then) / 1000;
        wall.0.abs_diff(wall_then.0.saturating_add(boot_ms)) > PAUSE_MS
    }
}

/// Both clocks at one moment, boot time last: a thread that was held up between two readings would see a pause where there was none.
pub(crate) fn read_both(clock: &dyn Clock) -> (BootTime, UtcMillis) {
    let mut tries = 0;
    loop {
        let (before, wall, now) = (clock.boot(), clock.wall(), clock.boot());
        tries += 1;
        if now.micros_since(before) <= AT_ONCE_US || tries == READ_TRIES {
            return (now, wall);
        }
    }
}

/// Well below what counts as a pause.
const AT_ONCE_US: u64 = 5_000;
const READ_TRIES: u32 = 8;
const KEPT_PAIRS: usize = 4;
/// Replicas of one authority, with restarts.
const KEPT_CLOCKS: usize = 32;
/// 500 ppm.
const DRIFT_DIVISOR: u64 = 2000;
const PAUSE_MS: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const CLOCK: ClockId = ClockId::from_bytes([1; 16]);

    proptest! {
        /// Whatever the delays, and with clocks that drift apart by up to 400 ppm, nothing maps later than it was.
        #[test]
        fn a_mapping_is_never_too_fresh(ppm in -400_i64..400, probes in prop::collection::vec((0_u64..60_000_000, 0_u64..200_000, 0_u64..200_000), 1..12), at in 0_u64..120_000_000) {
            // Remote clock as a function of local time.
            let remote = |local: u64| 5_000_000_000 + local + u64::try_from(i64::try_from(local).unwrap() * ppm / 1_000_000 + 1_000_000).unwrap();
            let mut map = ClockMap::default();
            let start = 1_000_000_000;
            for (when, out, _back) in probes {
                map.map(CLOCK, remote(start + when + out), BootTime(start + when));
            }
            let truth = start + at;
            let mapped = map.fresh(CLOCK, remote(truth), BootTime(start + 200_000_000));
            prop_assert!(mapped.is_some_and(|m| m.0 <= truth));
            prop_assert!(mapped.is_some_and(|m| m.0 + 200_000 + 2 * 180_000 >= truth), "useless: {mapped:?} for {truth}");
        }
    }

    #[test]
    fn an_unmapped_clock_says_nothing_and_a_jumping_one_is_dropped() {
        let mut map = ClockMap::default();
        assert_eq!(map.fresh(CLOCK, 5, BootTime(9)), None);
        map.map(CLOCK, 1_000_000, BootTime(50_000_000));
        assert_eq!(map.fresh(CLOCK, 1_050_000, BootTime(50_060_000)), Some(BootTime(50_050_000 - 26)));
        assert_eq!(map.fresh(CLOCK, 9_000_000, BootTime(50_100_000)), None);
        assert_eq!(map.fresh(CLOCK, 1_050_000, BootTime(50_100_000)), None, "the mapping is gone");
    }

    /// Held up for so many microseconds between the first two readings of boot and wall clock.
    struct HeldUp {
        readings: AtomicU64,
        by: u64,
        always: bool,
    }

    impl Clock for HeldUp {
        fn boot(&self) -> BootTime {
            let n = self.readings.fetch_add(1, Ordering::Relaxed);
            // Two readings of the boot clock to a try.
            let stops = if self.always { n.div_ceil(2) } else { u64::from(n > 0) };
            BootTime(1_000_000 + stops * self.by)
        }
        fn wall(&self) -> UtcMillis {
            UtcMillis(1_700_000_000_000 + (self.boot().0 - 1_000_000) / 1000)
        }
    }

    #[test]
    fn both_clocks_are_read_at_one_moment() {
        let clock = HeldUp { readings: AtomicU64::new(0), by: 80_000, always: false };
        let (boot, wall) = read_both(&clock);
        assert_eq!((boot.0, wall.0), (1_080_000, 1_700_000_000_080), "the first try is not what counts");
        let clock = HeldUp { readings: AtomicU64::new(0), by: 80_000, always: true };
        _ = read_both(&clock);
        assert_eq!(clock.readings.load(Ordering::Relaxed), u64::from(READ_TRIES) * 3, "and it comes to an end");
    }

    #[test]
    fn a_pause_shows_as_clocks_moving_apart() {
        let mut watch = PauseWatch::default();
        let wall = |ms: u64| UtcMillis(1_700_000_000_000 + ms);
        assert!(!watch.paused(BootTime(1_000_000), wall(0)));
        assert!(!watch.paused(BootTime(2_000_000), wall(1_050)));
        assert!(watch.paused(BootTime(3_000_000), wall(2_101)), "restored: the wall clock went on, the boot clock did not");
        assert!(!watch.paused(BootTime(4_000_000), wall(3_101)));
        assert!(watch.paused(BootTime(5_000_000), wall(4_050)), "set back");
        assert!(watch.paused(BootTime(4_000_000), wall(4_060)), "another boot");
    }
}
