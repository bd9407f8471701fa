//! Snapshots in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::ready;
use procura_verifier::ids::UtcMillis;

use super::Memory;
use crate::store::snapshot::{ORPHAN_MS, SnapshotRow, SnapshotStore, kept, named};
use crate::store::{Answering, StoreError};

/// Pages by place, segments by hash with their time.
#[derive(Default)]
pub(super) struct Snapshots {
    pages: BTreeMap<(u64, u64), SnapshotRow>,
    segments: HashMap<[u8; 32], (Vec<u8>, UtcMillis)>,
}

impl Memory {
    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, page: &SnapshotRow, at: UtcMillis) -> Result<bool, StoreError> {
        let mut s = self.snapshots();
        if !named(page)?.iter().all(|hash| s.segments.contains_key(hash)) {
            return Ok(false);
        }
        s.pages.insert((page.epoch, page.seq), page.clone());
        let (wanted, from) = kept(s.pages.values().rev().cloned().collect())?;
        s.pages.retain(|place, _| *place >= from);
        s.segments.retain(|hash, (_, stored)| wanted.contains(hash) || stored.0 >= at.0.saturating_sub(ORPHAN_MS));
        Ok(true)
    }
}

impl SnapshotStore for Memory {
    fn snapshot(&self) -> Answering<'_, Option<SnapshotRow>> {
        ready(Ok(self.snapshots().pages.values().next_back().cloned())).boxed()
    }

    fn segment(&self, hash: [u8; 32]) -> Answering<'_, Option<Vec<u8>>> {
        ready(Ok(self.snapshots().segments.get(&hash).map(|(bytes, _)| bytes.clone()))).boxed()
    }

    fn put_segment<'a>(&'a self, hash: [u8; 32], bytes: &'a [u8], at: UtcMillis) -> Answering<'a, ()> {
        self.snapshots().segments.entry(hash).and_modify(|(_, stored)| *stored = at.max(*stored)).or_insert_with(|| (bytes.to_vec(), at));
        ready(Ok(())).boxed()
    }

    fn put_snapshot<'a>(&'a self, page: &'a SnapshotRow, at: UtcMillis) -> Answering<'a, bool> {
        ready(self.put(page, at)).boxed()
    }
}
