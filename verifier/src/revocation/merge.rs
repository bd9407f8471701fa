//! From the small map into the shards, beside decisions: what is built is built without a lock, and swapped in shard by shard.

use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};

use super::View;
use super::ids::{Dated, HOT_IDS, SHARDS, kept_from};
use super::sets::IdKind;
use crate::ids::BootTime;

impl View {
    /// True if [`Self::merge`] would be worth its while: many ids came, or an hour of them may be forgotten.
    pub fn wants_merge(&self, now: BootTime) -> bool {
        let merged_from = match self.merging.try_lock() {
            Ok(merged_from) => merged_from,
            // As in [`Self::merger`]: what one panic left undone is still to be done.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A merge is under way.
            Err(TryLockError::WouldBlock) => return false,
        };
        let hot = self.sets.read().map(|sets| IdKind::ALL.into_iter().map(|k| sets.of(k).hot()).max().unwrap_or(0)).unwrap_or(0);
        hot >= HOT_IDS || self.kept_from(now) > *merged_from
    }

    /// Moves the ids that came last to the others, which take a quarter of the room, and forgets those whose hour ended over
    /// 60 s ago. Blocks for some 5 ns an id known, so call it from a thread that may; decisions go on meanwhile.
    pub fn merge(&self, now: BootTime) {
        let mut merged_from = self.merger();
        let kept_from = self.kept_from(now);
        for kind in IdKind::ALL {
            let Ok((hot, seq)) = self.sets.read().map(|sets| sets.of(kind).copy_hot()) else { return };
            self.merge_in(kind, &hot, seq, kept_from);
        }
        *merged_from = kept_from;
    }

    /// Adds ids with the hours in which their tokens end. `seq` is a number by which they were said.
    pub(crate) fn load(&self, kind: IdKind, ids: &mut [Dated], seq: u64, now: BootTime) {
        ids.sort_unstable();
        let _alone = self.merger();
        self.merge_in(kind, ids, seq, self.kept_from(now));
    }

    fn merge_in(&self, kind: IdKind, sorted: &[Dated], seq: u64, kept_from: u64) {
        if sorted.is_empty() && self.sets.read().is_ok_and(|sets| sets.of(kind).shard(0).is_none()) {
            return;
        }
        // A view whose lock is poisoned answers `Behind`: nothing is lost by stopping here.
        let Ok(mut sets) = self.sets.write() else { return };
        sets.of_mut(kind).prepare(seq);
        drop(sets);
        let mut rest = sorted;
        for at in 0..SHARDS {
            let (mine, others) = rest.split_at(rest.partition_point(|([first, ..], _)| usize::from(*first) <= at));
            rest = others;
            let Ok(Some(old)) = self.sets.read().map(|sets| sets.of(kind).shard(at)) else { return };
            if mine.is_empty() && !old.has_ended(kept_from) {
                continue;
            }
            let new = Arc::new(old.merged(mine, kept_from));
            // L7: an id is in the small map, in the shard, or in both, whenever a decision looks.
            let Ok(mut sets) = self.sets.write() else { return };
            sets.of_mut(kind).swap(at, new, mine);
            drop(sets);
        }
    }

    fn kept_from(&self, now: BootTime) -> u64 {
        self.utc.at(now).map_or(0, |utc| kept_from(utc.secs()))
    }

    fn merger(&self) -> MutexGuard<'_, u64> {
        // Shards are swapped whole: a panic elsewhere leaves no half of one.
        self.merging.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
