//! The authority's clock as known here (F12).

use super::sync::{AtomicU64, Ordering};
use crate::ids::{BootTime, UtcMillis};

/// Authority UTC as an offset to the boot clock. Readers never see it fall.
pub(super) struct AuthorityUtc {
    /// UTC minus boot time in microseconds; 0: unknown.
    offset_us: AtomicU64,
    /// When a heartbeat last counted, in boot time.
    heard_us: AtomicU64,
    /// The highest value shown, in milliseconds.
    shown_ms: AtomicU64,
}

impl Default for AuthorityUtc {
    fn default() -> Self {
        Self { offset_us: AtomicU64::new(0), heard_us: AtomicU64::new(0), shown_ms: AtomicU64::new(0) }
    }
}

impl AuthorityUtc {
    pub(super) fn at(&self, now: BootTime) -> Option<UtcMillis> {
        let offset = self.offset_us.load(Ordering::Acquire);
        if offset == 0 {
            return None;
        }
        let ms = offset.saturating_add(now.0) / 1000;
        let shown = self.shown_ms.load(Ordering::Acquire);
        if ms > shown {
            self.shown_ms.fetch_max(ms, Ordering::AcqRel);
        }
        Some(UtcMillis(ms.max(shown)))
    }

    pub(super) fn observe(&self, utc: UtcMillis, began: Option<UtcMillis>, now: BootTime) -> bool {
        let sample = utc.0.saturating_mul(1000).saturating_sub(now.0);
        let offset = self.offset_us.load(Ordering::Acquire);
        let heard = self.heard_us.load(Ordering::Acquire);
        let drift = now.micros_since(BootTime(heard)) / 2000;
        // F12: the epoch began after the last heartbeat that counted. However long its start was on the way, it is no longer ago than that.
        let confirmed = began.map_or(0, |began| began.0.saturating_mul(1000).saturating_sub(heard));
        let next = if offset == 0 || sample >= offset {
            // L7: a clock that runs away could end tokens and, by collection, forget revocations.
            if offset != 0 && sample.saturating_sub(offset.max(confirmed)) > UTC_AHEAD_US.saturating_add(drift) {
                return false;
            }
            sample
        } else {
            // A heartbeat that took longer on its way than the best one says little: give in by no more than clocks drift.
            offset - (offset - sample).min(drift)
        };
        self.offset_us.store(next, Ordering::Release);
        self.heard_us.store(now.0, Ordering::Release);
        true
    }

    pub(super) fn confirm(&self, utc: UtcMillis, now: BootTime) {
        let sample = utc.0.saturating_mul(1000).saturating_sub(now.0);
        let offset = self.offset_us.load(Ordering::Acquire);
        // An epoch start may be years old where the tail is read from its start: alone it says nothing of now, and every
        // heartbeat after it would seem to run ahead.
        if offset != 0 && sample > offset {
            self.offset_us.store(sample, Ordering::Release);
        }
    }

    pub(super) fn restore(&self, utc: UtcMillis) {
        self.shown_ms.fetch_max(utc.0, Ordering::AcqRel);
    }
}

const UTC_AHEAD_US: u64 = 2_000_000;
