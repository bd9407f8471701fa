//! Where snapshots of the feed are kept: derived from it, shared by all replicas, and worth no line in the log.

use std::collections::HashSet;

use procura_verifier::feed::message::Message;
use procura_verifier::ids::{Key, UtcMillis};
use procura_verifier::wire::Canonical as _;

use super::{Answering, StoreError};

/// The contents page of a snapshot; what is signed is the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotRow {
    /// Its place in the feed.
    pub epoch: u64,
    /// Its place in the feed.
    pub seq: u64,
    /// The payload bytes of the manifest.
    pub payload: Vec<u8>,
    /// The feed key that signs it.
    pub key: Key,
}

/// The part of a [`super::Store`] that keeps snapshots.
///
/// Nothing here waits for a commit, and no commit for it but a few milliseconds of SQLite's one writer.
pub trait SnapshotStore: Send + Sync {
    /// The one farthest on in the feed.
    fn snapshot(&self) -> Answering<'_, Option<SnapshotRow>>;
    /// A segment by its SHA-256.
    fn segment(&self, hash: [u8; 32]) -> Answering<'_, Option<Vec<u8>>>;
    /// Stores a segment, or notes that it is wanted still. It stays for [`ORPHAN_MS`] from `at` though nothing names it.
    fn put_segment<'a>(&'a self, hash: [u8; 32], bytes: &'a [u8], at: UtcMillis) -> Answering<'a, ()>;
    /// Stores a page, in place of one at its place, if every segment that it names is there; false if not. Keeps the newest
    /// [`KEPT`] pages with their segments, and drops others that are old.
    fn put_snapshot<'a>(&'a self, row: &'a SnapshotRow, at: UtcMillis) -> Answering<'a, bool>;
}

/// Pages that are kept: who has read one has time to fetch its segments.
pub const KEPT: usize = 4;
/// How long a segment stays that no page names: somebody may be about to.
pub const ORPHAN_MS: u64 = 15 * 60_000;

/// The segments that a page names.
pub(super) fn named(row: &SnapshotRow) -> Result<HashSet<[u8; 32]>, StoreError> {
    match Message::from_bytes(&row.payload) {
        Ok(Message::Manifest(m)) => Ok(m.segments.iter().map(|s| s.sha256).collect()),
        _ => Err(StoreError::Inconsistent { table: "snapshot", column: "payload", id: format!("{}/{}", row.epoch, row.seq) }),
    }
}

pub(super) type Columns = (i64, i64, Vec<u8>, Vec<u8>);

pub(super) fn row((epoch, seq, payload, key): Columns) -> Result<SnapshotRow, StoreError> {
    use super::rows::{fixed, number};
    Ok(SnapshotRow {
        epoch: number(epoch, "snapshot", "epoch")?,
        seq: number(seq, "snapshot", "seq")?,
        payload,
        key: Key::from_bytes(fixed(&key, "snapshot", "key")?),
    })
}

/// Hashes that are named, and a place.
type Kept = (HashSet<[u8; 32]>, (u64, u64));

/// What is named by the newest [`KEPT`] of these pages, newest first; and the place from which on pages are kept.
pub(super) fn kept(newest_first: Vec<SnapshotRow>) -> Result<Kept, StoreError> {
    let (mut all, mut from) = (HashSet::new(), (0, 0));
    for row in newest_first.iter().take(KEPT) {
        all.extend(named(row)?);
        from = (row.epoch, row.seq);
    }
    Ok((all, from))
}
