//! Snapshots of the feed: cut from the last one and what came since, beside the writes (`spec/feed.md`, F18).
//!
//! Any replica cuts, and from the same beginning gets the same bytes. What has not changed is named again and not read; a
//! cut takes the ids of at most `MAX_ITEMS` items into memory, and of old segments a handful at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use procura_verifier::feed::message::{Item, Message, SignedMessage, genesis_hash};
use procura_verifier::feed::snapshot::{ID_BYTES, MAX_SEGMENT_BYTES, MAX_SEGMENTS, Manifest, Segment, SegmentEntry, SegmentKind};
use procura_verifier::ids::{Clock, Key, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::revocation::IdKind;
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use crate::signer::Signer;
use crate::store::snapshot::SnapshotRow;
use crate::store::{FeedHead, Store, StoreError};

/// When a snapshot is cut anew.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Once this many messages came since the last.
    pub messages: u64,
    /// Once this long has passed, if any came.
    pub after: Duration,
    /// How often to look.
    pub look_every: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { messages: 4096, after: Duration::from_secs(300), look_every: Duration::from_secs(2) }
    }
}

/// Why no snapshot was cut. Verifiers read the tail; the next look tries again.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The last snapshot, a segment of it or the feed are not what was written.
    #[error("snapshot cannot be continued: {0}")]
    Broken(String),
    /// More segments than a manifest names.
    #[error("snapshot would have {0} segments, expected at most {MAX_SEGMENTS}")]
    TooMany(usize),
}

/// Looks again and again, and cuts, for as long as the store lives.
pub(crate) async fn keep_cutting(store: Weak<dyn Store>, signer: Arc<dyn Signer>, clock: Arc<dyn Clock>, policy: Policy) {
    let mut last_cut = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(policy.look_every).await;
        let Some(store) = store.upgrade() else { return };
        match look(&*store, &*signer, &*clock, policy, last_cut.elapsed()).await {
            Ok(false) => {}
            Ok(true) => last_cut = tokio::time::Instant::now(),
            Err(e) => tracing::error!(error = %e, "snapshot not cut"),
        }
    }
}

async fn look(store: &dyn Store, signer: &dyn Signer, clock: &dyn Clock, policy: Policy, since: Duration) -> Result<bool, CutError> {
    let head = store.head().await?.feed;
    let last = store.snapshot().await?.map_or((1, 0), |row| (row.epoch, row.seq));
    let grown = if head.epoch > last.0 { u64::MAX } else { head.seq.saturating_sub(last.1) };
    if grown < policy.messages && (grown == 0 || since < policy.after) {
        return Ok(false);
    }
    // A long feed is caught up with in portions.
    loop {
        let now = clock.wall();
        let key = signer.key_for(KeyUse::Feed, now, now).ok_or_else(|| CutError::Broken("no feed key is alive".to_owned()))?;
        if !cut(store, key, now).await? {
            break;
        }
    }
    Ok(true)
}

/// Signs the page for whoever asks; none if it is none, or if no living key at hand holds its time.
pub fn signed(row: &SnapshotRow, signer: &dyn Signer) -> Option<SignedMessage> {
    let message = Message::from_bytes(&row.payload).ok()?;
    signer.feed_again(&message, &row.key)
}

/// Cuts one snapshot, of at most `MAX_ITEMS` items more than the last. False if nothing came since.
pub async fn cut(store: &dyn Store, key: Key, at: UtcMillis) -> Result<bool, CutError> {
    let base = base(store).await?;
    let Some(news) = read_on(store, &base).await? else { return Ok(false) };
    let now_secs = news.issued.secs();
    let mut segments: BTreeMap<(SegmentKind, u64), Vec<SegmentEntry>> = BTreeMap::new();
    for entry in base.segments.into_iter().filter(|e| !has_ended(e.kind, e.bucket, now_secs)) {
        segments.entry((entry.kind, entry.bucket)).or_default().push(entry);
    }
    for (place, entries) in news.parts {
        if has_ended(place.0, place.1, now_secs) {
            continue;
        }
        let held = segments.entry(place).or_default();
        let (whole, mut small): (Vec<_>, Vec<_>) = held.drain(..).partition(is_whole);
        *held = whole;
        if small.len() >= MAX_SMALL {
            held.extend(merge(store, place, &small, entries, at).await?);
        } else {
            small.extend(put(store, place, &entries, at).await?);
            held.append(&mut small);
        }
    }
    if segments.values().map(Vec::len).sum::<usize>() > MAX_SEGMENTS {
        for (place, held) in &mut segments {
            let (whole, small): (Vec<_>, Vec<_>) = held.drain(..).partition(is_whole);
            *held = whole;
            held.extend(merge(store, *place, &small, BTreeSet::new(), at).await?);
        }
    }
    // The same bytes may come twice to one place: named once.
    let segments: BTreeSet<_> = segments.into_values().flatten().collect();
    if segments.len() > MAX_SEGMENTS {
        return Err(CutError::TooMany(segments.len()));
    }
    let FeedHead { epoch, seq, hash } = news.head;
    let manifest = Manifest { tenant: store.tenant().clone(), epoch, seq, hash, issued: news.issued, segments: segments.into_iter().collect() };
    let row = SnapshotRow { epoch, seq, payload: Message::Manifest(manifest).to_bytes(), key };
    if store.put_snapshot(&row, at).await? { Ok(true) } else { Err(CutError::Broken("a segment was dropped meanwhile".to_owned())) }
}

struct Base {
    head: FeedHead,
    segments: Vec<SegmentEntry>,
}

/// The last snapshot, if the feed still has the message that it ends with.
async fn base(store: &dyn Store) -> Result<Base, CutError> {
    let Some(row) = store.snapshot().await? else {
        return Ok(Base { head: FeedHead { epoch: 1, seq: 0, hash: genesis_hash(store.tenant(), 1) }, segments: Vec::new() });
    };
    let Ok(Message::Manifest(m)) = Message::from_bytes(&row.payload) else { return Err(CutError::Broken("the last one is unreadable".to_owned())) };
    let there = store.feed_since(m.epoch, m.seq.saturating_sub(1), 1).await?;
    if there.first().is_none_or(|r| (r.epoch, r.seq) != (m.epoch, m.seq) || m.hash != <[u8; 32]>::from(Sha256::digest(&r.payload))) {
        return Err(CutError::Broken(format!("the feed has another message at number {} of epoch {}", m.seq, m.epoch)));
    }
    Ok(Base { head: FeedHead { epoch: m.epoch, seq: m.seq, hash: m.hash }, segments: m.segments })
}

struct News {
    head: FeedHead,
    issued: UtcMillis,
    /// By place, each entry's bytes.
    parts: BTreeMap<(SegmentKind, u64), BTreeSet<Vec<u8>>>,
}

/// The messages since, across epochs; none if there are none.
async fn read_on(store: &dyn Store, base: &Base) -> Result<Option<News>, CutError> {
    let (mut head, mut issued, mut items) = (base.head, None, Vec::new());
    while items.len() < MAX_ITEMS {
        let rows = store.feed_since(head.epoch, head.seq, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let hash = Sha256::digest(&row.payload).into();
            let missing = |head: FeedHead| CutError::Broken(format!("what follows number {} of epoch {} is missing", head.seq, head.epoch));
            match Message::from_bytes(&row.payload) {
                Ok(Message::Batch(batch)) => {
                    if (row.epoch, row.seq) != (head.epoch, head.seq + 1) {
                        return Err(missing(head));
                    }
                    head = FeedHead { seq: row.seq, hash, ..head };
                    issued = Some((head, batch.issued));
                    items.extend(batch.items.into_iter().map(|(_, item)| item));
                }
                // A manifest ends with a batch: one that ended here could not name its number (F15).
                Ok(Message::EpochStart(start)) => {
                    if (start.prev_epoch, start.last_seq, start.last_hash) != (head.epoch, head.seq, head.hash) {
                        return Err(missing(head));
                    }
                    head = FeedHead { epoch: row.epoch, seq: 0, hash };
                }
                _ => return Err(CutError::Broken(format!("message {} of epoch {} is no batch", row.seq, row.epoch))),
            }
        }
    }
    let Some((head, issued)) = issued else { return Ok(None) };
    let mut parts: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for item in items {
        let (place, bytes) = placed(&item, issued.secs());
        parts.entry(place).or_default().insert(bytes);
    }
    Ok(Some(News { head, issued, parts }))
}

/// Where an item goes in a snapshot of this time, and as what.
pub(crate) fn placed(item: &Item, now_secs: u64) -> ((SegmentKind, u64), Vec<u8>) {
    let ids = |kind, id: &[u8; ID_BYTES], exp_secs: u64| ((SegmentKind::Ids(kind), bucket(exp_secs / HOUR, now_secs / HOUR)), id.to_vec());
    match item {
        Item::Tid { tid, exp_secs } => ids(IdKind::Tid, tid.as_bytes(), *exp_secs),
        Item::Lid { lid, exp_secs } => ids(IdKind::Lid, lid.as_bytes(), *exp_secs),
        Item::Block { block, exp_secs } => ids(IdKind::Block, block.as_bytes(), *exp_secs),
        lasting => ((SegmentKind::Lasting, 0), lasting.to_bytes()),
    }
}

/// The next 72 hours one by one; farther off rounded up to ever wider steps, so that long-lived tokens fill no manifest.
fn bucket(hour: u64, now: u64) -> u64 {
    let mut width = 1_u64;
    while hour.saturating_sub(now) / width >= 72 {
        width *= 2;
    }
    hour.div_ceil(width).saturating_mul(width)
}

fn has_ended(kind: SegmentKind, bucket: u64, now_secs: u64) -> bool {
    kind != SegmentKind::Lasting && bucket.saturating_add(1).saturating_mul(HOUR).saturating_add(60) <= now_secs
}

/// Never read again.
fn is_whole(entry: &SegmentEntry) -> bool {
    entry.bytes > (MAX_SEGMENT_BYTES / 2) as u64
}

/// New segments from small ones and new entries.
async fn merge(
    store: &dyn Store,
    place: (SegmentKind, u64),
    small: &[SegmentEntry],
    mut entries: BTreeSet<Vec<u8>>,
    at: UtcMillis,
) -> Result<Vec<SegmentEntry>, CutError> {
    for entry in small {
        let bytes = store.segment(entry.sha256).await?.ok_or_else(|| CutError::Broken("a segment is missing".to_owned()))?;
        match entry.open(&bytes).map_err(|e| CutError::Broken(e.to_string()))? {
            Segment::Ids(_, ids) => entries.extend(ids.into_iter().map(|id| id.to_vec())),
            Segment::Items(items) => entries.extend(items.iter().map(procura_verifier::wire::Canonical::to_bytes)),
        }
    }
    if place.0 == SegmentKind::Lasting {
        entries = highest(entries);
    }
    put(store, place, &entries, at).await
}

/// Of each floor the highest, of each freeze what supersedes the others; everything else as it is.
fn highest(entries: BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let (mut floors, mut freezes) = (BTreeMap::new(), BTreeMap::new());
    let mut kept = BTreeSet::new();
    for bytes in entries {
        match Item::from_bytes(&bytes) {
            Ok(Item::Floor { scope, generation }) => {
                let known = floors.entry(scope).or_insert(generation);
                *known = generation.max(*known);
            }
            Ok(Item::Freeze(freeze)) => {
                let known = freezes.entry(freeze.id).or_insert(freeze);
                if freeze.supersedes(known) {
                    *known = freeze;
                }
            }
            _ => _ = kept.insert(bytes),
        }
    }
    kept.extend(freezes.into_values().map(|freeze| Item::Freeze(freeze).to_bytes()));
    kept.extend(floors.into_iter().map(|(scope, generation)| Item::Floor { scope, generation }.to_bytes()));
    kept
}

/// Stores entries as segments of at most [`MAX_SEGMENT_BYTES`].
async fn put(store: &dyn Store, (kind, bucket): (SegmentKind, u64), entries: &BTreeSet<Vec<u8>>, at: UtcMillis) -> Result<Vec<SegmentEntry>, CutError> {
    let (mut made, mut bytes, mut count) = (Vec::new(), Vec::new(), 0);
    let mut entries = entries.iter().peekable();
    while let Some(entry) = entries.next() {
        bytes.extend_from_slice(entry);
        count += 1;
        if entries.peek().is_none_or(|next| bytes.len() + next.len() > MAX_SEGMENT_BYTES) {
            let segment = SegmentEntry::of(kind, bucket, count, &bytes);
            store.put_segment(segment.sha256, &bytes, at).await?;
            made.push(segment);
            bytes.clear();
            count = 0;
            // Beside mints and revocations, not before them.
            tokio::task::yield_now().await;
        }
    }
    Ok(made)
}

const HOUR: u64 = 3600;
/// Items that one cut reads: 1 M of them are some 80 MB.
const MAX_ITEMS: usize = 500_000;
/// Small segments that may stand at one place.
const MAX_SMALL: usize = 4;
const PAGE: u32 = 256;

#[cfg(test)]
mod tests;
