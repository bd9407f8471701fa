//! Ids that were taken back: sorted shards for the many, a small map for those that came last.
//!
//! 17 bytes an id and about 1.5 of index; a miss reads one line of the index and one or two of ids. Shards never change:
//! [`Ids::merge`]'s callers build new ones beside the old and swap them in, one at a time, so that no decision waits for more
//! than a swap. When a token ends is kept for forgetting alone: an id is found whatever expiry the asker or the item names.

use std::sync::Arc;

use super::sets::{Gone, KEPT_AFTER_EXPIRY_SECS, Map};

pub(super) type Id = [u8; 16];

/// An id with the hour in which its token ends, counted from 1970. Forgotten 60 s after that hour.
pub(super) type Dated = (Id, u64);

#[derive(Default)]
pub(super) struct Ids {
    hot: Map<Id, Gone>,
    /// No expiry in `hot` is earlier.
    earliest_secs: u64,
    /// None, or 256: by the first byte of the id.
    shards: Vec<Arc<Shard>>,
    /// By this number every id in the shards had been said.
    said_by: u64,
}

impl Ids {
    /// A feed number by which the id was said to be taken back.
    pub(super) fn find(&self, id: &Id) -> Option<u64> {
        if let Some(gone) = self.hot.get(id) {
            return Some(gone.seq);
        }
        let [first, ..] = id;
        let shard = self.shards.get(usize::from(*first))?;
        shard.contains(id).then_some(self.said_by)
    }

    pub(super) fn apply(&mut self, id: Id, seq: u64, exp_secs: u64) {
        if self.hot.is_empty() {
            self.earliest_secs = exp_secs;
        }
        self.earliest_secs = self.earliest_secs.min(exp_secs);
        let gone = self.hot.entry(id).or_insert(Gone { seq, exp_secs });
        gone.seq = gone.seq.min(seq);
        gone.exp_secs = gone.exp_secs.max(exp_secs);
    }

    /// Drops what ended from the small map, if anything there did.
    pub(super) fn collect(&mut self, utc_secs: u64) -> usize {
        let ended = |exp_secs: u64| exp_secs.saturating_add(KEPT_AFTER_EXPIRY_SECS) <= utc_secs;
        if self.hot.is_empty() || !ended(self.earliest_secs) {
            return 0;
        }
        let before = self.hot.len();
        let mut earliest = u64::MAX;
        self.hot.retain(|_, gone| {
            let kept = !ended(gone.exp_secs);
            if kept {
                earliest = earliest.min(gone.exp_secs);
            }
            kept
        });
        self.earliest_secs = earliest;
        before - self.hot.len()
    }

    pub(super) fn len(&self) -> usize {
        self.hot.len() + self.shards.iter().map(|s| s.ids.len()).sum::<usize>()
    }

    pub(super) fn hot(&self) -> usize {
        self.hot.len()
    }

    /// What is to be merged, sorted, and the highest number that says it.
    pub(super) fn copy_hot(&self) -> (Vec<Dated>, u64) {
        let mut copy: Vec<Dated> = self.hot.iter().map(|(id, gone)| (*id, gone.exp_secs / HOUR_SECS)).collect();
        copy.sort_unstable();
        (copy, self.hot.values().map(|gone| gone.seq).max().unwrap_or(0))
    }

    /// Makes room for shards whose ids were said by `seq`.
    pub(super) fn prepare(&mut self, seq: u64) {
        if self.shards.is_empty() {
            let empty = Arc::new(Shard::default());
            self.shards = vec![empty; SHARDS];
        }
        self.said_by = self.said_by.max(seq);
    }

    pub(super) fn shard(&self, at: usize) -> Option<Arc<Shard>> {
        self.shards.get(at).map(Arc::clone)
    }

    /// Swaps in a shard that holds `merged` too: those leave the small map, unless they were told anew with a later end.
    pub(super) fn swap(&mut self, at: usize, shard: Arc<Shard>, merged: &[Dated]) {
        let Some(place) = self.shards.get_mut(at) else { return };
        *place = shard;
        for (id, hour) in merged {
            if self.hot.get(id).is_some_and(|gone| gone.exp_secs / HOUR_SECS <= *hour) {
                self.hot.remove(id);
            }
        }
        if self.hot.is_empty() {
            // What a burst took is given back.
            self.hot.shrink_to(HOT_KEPT);
        }
    }

    /// Every id with its hour.
    #[cfg(all(test, not(loom)))]
    pub(super) fn all(&self) -> std::collections::BTreeMap<Id, u64> {
        let mut all = std::collections::BTreeMap::new();
        let sharded = self.shards.iter().flat_map(|s| s.dated());
        for (id, hour) in sharded.chain(self.copy_hot().0) {
            let known = all.entry(id).or_insert(hour);
            *known = hour.max(*known);
        }
        all
    }

    #[cfg(all(test, not(loom)))]
    pub(super) fn hot_seqs(&self) -> std::collections::BTreeMap<Id, u64> {
        self.hot.iter().map(|(id, gone)| (*id, gone.seq)).collect()
    }
}

/// Ids that share their first byte.
#[derive(Default)]
pub(super) struct Shard {
    ids: Box<[Id]>,
    /// For each id its hour above `base`, or [`FAR`].
    hours: Box<[u8]>,
    base: u64,
    /// No far id ends later than in this hour.
    far: u64,
    /// Where the ids with these bits after the first byte begin, and a last entry.
    index: Box<[u32]>,
    bits: u32,
}

impl Shard {
    fn contains(&self, id: &Id) -> bool {
        let slot = slot(id, self.bits);
        let (Some(from), Some(to)) = (self.index.get(slot), self.index.get(slot + 1)) else { return false };
        let Some(ids) = self.ids.get(*from as usize..*to as usize) else { return false };
        // A holder chooses its link's id: whoever piles many of them into one slot costs a few comparisons more, no more.
        if ids.len() <= SCANNED { ids.contains(id) } else { ids.binary_search(id).is_ok() }
    }

    fn dated(&self) -> impl Iterator<Item = Dated> + '_ {
        self.ids.iter().zip(&self.hours).map(|(id, above)| (*id, if *above == FAR { self.far } else { self.base + u64::from(*above) }))
    }

    /// True if something in it may be forgotten, or could be dated better.
    pub(super) fn has_ended(&self, kept_from: u64) -> bool {
        !self.ids.is_empty() && self.base < kept_from
    }

    /// This and `more` (sorted), without what ended before the hour `kept_from`. Of two ends of an id the later counts.
    pub(super) fn merged(&self, more: &[Dated], kept_from: u64) -> Self {
        let earliest = more.iter().map(|(_, hour)| *hour).chain((!self.ids.is_empty()).then_some(self.base)).min().unwrap_or(0);
        let base = earliest.max(kept_from);
        let room = self.ids.len() + more.len();
        let (mut ids, mut hours, mut far) = (Vec::with_capacity(room), Vec::with_capacity(room), 0);
        let mut put = |(id, hour): Dated| {
            if hour < kept_from {
                return;
            }
            let above = u8::try_from(hour.saturating_sub(base)).unwrap_or(FAR);
            if above == FAR {
                far = hour.max(far);
            }
            ids.push(id);
            hours.push(above);
        };
        let (mut old, mut new) = (self.dated().peekable(), more.iter().copied().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) if a.0 <= b.0 => old.next(),
                (Some(_), None) => old.next(),
                _ => new.next(),
            };
            let Some((id, mut hour)) = next else { break };
            while let Some((_, again)) = old.next_if(|(other, _)| *other == id).or_else(|| new.next_if(|(other, _)| *other == id)) {
                hour = hour.max(again);
            }
            put((id, hour));
        }
        // About six ids a slot: a line of the index holds 16 slots, a line of ids four.
        let bits = (ids.len() / 4).checked_ilog2().unwrap_or(0);
        let mut index = vec![0_u32; (1 << bits) + 1];
        for id in &ids {
            if let Some(count) = index.get_mut(slot(id, bits) + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for entry in &mut index {
            sum += *entry;
            *entry = sum;
        }
        Self { ids: ids.into(), hours: hours.into(), base, far, index: index.into(), bits }
    }
}

/// The bits after the first byte.
fn slot(id: &Id, bits: u32) -> usize {
    let [_, a, b, c, d, ..] = *id;
    (u32::from_be_bytes([a, b, c, d]).checked_shr(32 - bits.min(32)).unwrap_or(0)) as usize
}

/// The first hour whose ids are still kept at this time.
pub(super) const fn kept_from(utc_secs: u64) -> u64 {
    utc_secs.saturating_sub(KEPT_AFTER_EXPIRY_SECS) / HOUR_SECS
}

/// A bucket of expiry.
pub(super) const HOUR_SECS: u64 = 3600;
/// Ids in the small map from which on merging is worth while.
pub(super) const HOT_IDS: usize = 32_768;
const HOT_KEPT: usize = 1024;
pub(super) const SHARDS: usize = 256;
const FAR: u8 = 255;
const SCANNED: usize = 32;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id() -> impl Strategy<Value = Id> {
        // Few first bytes and long common beginnings, so that ids meet.
        (0..3_u8, 0..4_u8, any::<u8>(), any::<[u8; 13]>()).prop_map(|(a, b, c, rest)| {
            let mut id = [0; 16];
            id[0] = a;
            id[1] = b;
            id[2] = c;
            id[3..].copy_from_slice(&rest);
            id
        })
    }

    proptest! {
        #[test]
        fn shards_are_a_map_from_id_to_its_latest_hour(
            rounds in prop::collection::vec((prop::collection::vec((id(), prop_oneof![0..40_u64, 200..900_u64, Just(u64::MAX)]), 0..200), 0..30_u64), 1..6),
            strangers in prop::collection::vec(id(), 50),
        ) {
            let mut model: BTreeMap<Id, u64> = BTreeMap::new();
            let mut ids = Ids::default();
            for (mut more, kept) in rounds {
                for (id, hour) in &more {
                    let known = model.entry(*id).or_insert(*hour);
                    *known = (*known).max(*hour);
                }
                model.retain(|_, hour| *hour >= kept);
                more.sort_unstable();
                ids.prepare(1);
                for at in 0..SHARDS {
                    let mine: Vec<_> = more.iter().copied().filter(|(id, _)| usize::from(id[0]) == at).collect();
                    let shard = ids.shard(at).unwrap();
                    if !mine.is_empty() || shard.has_ended(kept) {
                        ids.swap(at, Arc::new(shard.merged(&mine, kept)), &mine);
                    }
                }
                prop_assert_eq!(ids.len(), model.len());
                for (id, hour) in ids.all() {
                    // Never dated earlier; farther than ten days it may be dated later.
                    prop_assert!(hour >= model[&id]);
                    prop_assert!(hour == model[&id] || model[&id] >= 200);
                }
                for id in model.keys().chain(&strangers) {
                    prop_assert_eq!(ids.find(id).is_some(), model.contains_key(id));
                }
            }
        }
    }
}
