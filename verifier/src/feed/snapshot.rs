//! All that the feed took back up to a number: a signed manifest and the segments it names (`spec/feed.md`, F15 to F17).
//!
//! Segments never change and are named by their hash: whoever carries or stores them need not be trusted. Loading adds and
//! never removes; only when every segment is in may the watermark move to the manifest's place.

use std::collections::BTreeMap;

use minicbor::Decoder;
use sha2::{Digest as _, Sha256};

use super::message::{FeedError, Item, Message, SignedMessage};
use crate::ids::{BootTime, Key, Tenant, UtcMillis};
use crate::key_list::KeyList;
use crate::revocation::{IdKind, View};
use crate::wire::{Canonical as _, Enc, Malformed, array, fixed, list};

/// Most segments that a manifest names (F15).
pub const MAX_SEGMENTS: usize = 1024;
/// Longest segment, in bytes (F15): 65,536 ids.
pub const MAX_SEGMENT_BYTES: usize = 1024 * 1024;
/// Length of an id.
pub const ID_BYTES: usize = 16;

/// What a segment holds. The numbers are those of the items.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SegmentKind {
    /// Items that are never forgotten: floors, keys and whatever kinds are to come. Bucket 0.
    Lasting,
    /// Ids whose tokens end in the hour that the bucket counts from 1970, or earlier.
    Ids(IdKind),
}

impl SegmentKind {
    const fn number(self) -> u8 {
        match self {
            Self::Lasting => 0,
            Self::Ids(IdKind::Tid) => 1,
            Self::Ids(IdKind::Lid) => 2,
            Self::Ids(IdKind::Block) => 3,
        }
    }

    fn of_number(number: u8) -> Result<Self, Malformed> {
        [Self::Lasting, Self::Ids(IdKind::Tid), Self::Ids(IdKind::Lid), Self::Ids(IdKind::Block)]
            .into_iter()
            .find(|k| k.number() == number)
            .ok_or(Malformed::new("expected a segment of kind 0 to 3"))
    }
}

/// A segment as a manifest names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentEntry {
    /// What it holds.
    pub kind: SegmentKind,
    /// The hour after which its ids may be forgotten.
    pub bucket: u64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// How many ids or items.
    pub count: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl SegmentEntry {
    /// What these bytes are called in a manifest.
    pub fn of(kind: SegmentKind, bucket: u64, count: u64, bytes: &[u8]) -> Self {
        Self { kind, bucket, sha256: Sha256::digest(bytes).into(), count, bytes: bytes.len() as u64 }
    }

    /// The ids or items in these bytes, if they are the segment that is named here (F16).
    pub fn open(&self, bytes: &[u8]) -> Result<Segment, SegmentError> {
        if bytes.len() as u64 != self.bytes || bytes.len() > MAX_SEGMENT_BYTES || self.sha256 != <[u8; 32]>::from(Sha256::digest(bytes)) {
            return Err(SegmentError::Differs { bytes: bytes.len() });
        }
        let segment = match self.kind {
            SegmentKind::Lasting => Segment::Items(read_items(bytes)?),
            SegmentKind::Ids(kind) => Segment::Ids(kind, read_ids(bytes)?),
        };
        if segment.len() as u64 == self.count { Ok(segment) } else { Err(Malformed::new("expected as many entries as the manifest counts").into()) }
    }
}

/// What a segment holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Items that are never forgotten, ascending by their bytes.
    Items(Vec<Item>),
    /// Ids, ascending.
    Ids(IdKind, Vec<[u8; ID_BYTES]>),
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Items(items) => items.len(),
            Self::Ids(_, ids) => ids.len(),
        }
    }
}

fn read_ids(bytes: &[u8]) -> Result<Vec<[u8; ID_BYTES]>, Malformed> {
    let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
    if !rest.is_empty() || !ids.is_sorted_by(|a, b| a < b) {
        return Err(Malformed::new("expected ids in ascending order, each once"));
    }
    Ok(ids.to_vec())
}

fn read_items(bytes: &[u8]) -> Result<Vec<Item>, Malformed> {
    let mut d = Decoder::new(bytes);
    let (mut items, mut last): (Vec<Item>, &[u8]) = (Vec::new(), &[]);
    while d.position() < bytes.len() {
        let from = d.position();
        let item = Item::read(&mut d)?;
        let this = bytes.get(from..d.position()).unwrap_or_default();
        if item.to_bytes() != this || this <= last {
            return Err(Malformed::new("expected deterministic items in ascending order of their bytes, each once"));
        }
        if matches!(item, Item::Tid { .. } | Item::Lid { .. } | Item::Block { .. }) {
            return Err(Malformed::new("expected items that are never forgotten"));
        }
        last = this;
        items.push(item);
    }
    Ok(items)
}

/// The contents page of a snapshot: "this is all that was taken back and may still matter at this number".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Whose feed.
    pub tenant: Tenant,
    /// The numbering.
    pub epoch: u64,
    /// The number up to which everything is in it.
    pub seq: u64,
    /// Hash of the message there: the next one's `prev`.
    pub hash: [u8; 32],
    /// When the message there was made.
    pub issued: UtcMillis,
    /// Ascending by kind, bucket and hash.
    pub segments: Vec<SegmentEntry>,
}

impl Manifest {
    pub(super) fn write(&self, version: u8, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(8)?.u8(version)?.str(self.tenant.as_str())?.u8(KIND)?.u64(self.epoch)?.u64(self.seq)?.bytes(&self.hash)?.u64(self.issued.0)?;
        e.array(self.segments.len() as u64)?;
        for s in &self.segments {
            e.array(5)?.u8(s.kind.number())?.u64(s.bucket)?.u64(s.count)?.bytes(&s.sha256)?.u64(s.bytes)?;
        }
        Ok(())
    }

    pub(super) fn read(tenant: Tenant, epoch: u64, d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let (seq, hash, issued) = (d.u64()?, fixed(d)?, UtcMillis(d.u64()?));
        if seq == 0 {
            // F22
            return Err(Malformed::new("expected a number from 1"));
        }
        let mut segments = Vec::new();
        for _ in 0..list(d, MAX_SEGMENTS)? {
            array(d, 5)?;
            let kind = SegmentKind::of_number(d.u8()?)?;
            let (bucket, count, sha256, bytes) = (d.u64()?, d.u64()?, fixed(d)?, d.u64()?);
            let s = SegmentEntry { kind, bucket, sha256, count, bytes };
            if segments.last().is_some_and(|last| *last >= s) {
                return Err(Malformed::new("expected segments in ascending order, each once"));
            }
            let fits = match kind {
                SegmentKind::Lasting => bucket == 0 && count <= bytes,
                SegmentKind::Ids(_) => count.checked_mul(ID_BYTES as u64) == Some(bytes),
            };
            if count == 0 || bytes > MAX_SEGMENT_BYTES as u64 || !fits {
                return Err(Malformed::new("expected segments of 1 byte to 1 MiB whose counts fit their lengths"));
            }
            segments.push(s);
        }
        Ok(Self { tenant, epoch, seq, hash, issued, segments })
    }
}

/// A manifest that a feed key vouches for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    manifest: Manifest,
    key: Key,
}

impl Snapshot {
    /// The manifest, if a feed key of this list signed one.
    pub fn verify(signed: &SignedMessage, keys: &KeyList) -> Result<Self, FeedError> {
        match signed.verify(keys, None)? {
            Message::Manifest(manifest) => Ok(Self { manifest, key: *signed.claimed_key() }),
            _ => Err(Malformed::new("expected a manifest").into()),
        }
    }

    /// What it says.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Why a segment was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Another length or hash than the manifest's.
    #[error("segment of {bytes} bytes is none that the manifest names")]
    Differs {
        /// Its length.
        bytes: usize,
    },
    /// The manifest names it, and it is not sorted, or not what it is said to hold.
    #[error("segment: {0}")]
    Malformed(#[from] Malformed),
    /// Some are not here.
    #[error("snapshot lacks {0} of its segments")]
    Missing(usize),
}

/// A snapshot being added to a view, segment by segment, in any order.
pub struct Loading<'a> {
    snapshot: Snapshot,
    view: &'a View,
    now: BootTime,
    /// The same bytes may stand under several names: a holder chooses its link's id, and could take a token's.
    missing: BTreeMap<[u8; 32], Vec<SegmentEntry>>,
    ids: BTreeMap<IdKind, Vec<([u8; ID_BYTES], u64)>>,
}

impl<'a> Loading<'a> {
    /// Nothing of it is loaded yet. Blocks while it loads: not for an async thread.
    pub fn new(snapshot: Snapshot, view: &'a View, now: BootTime) -> Self {
        let mut missing: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in &snapshot.manifest.segments {
            missing.entry(entry.sha256).or_default().push(*entry);
        }
        Self { snapshot, view, now, missing, ids: BTreeMap::new() }
    }

    /// Takes one segment. What is refused changes nothing.
    pub fn segment(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let entries = self.missing.get(&hash).ok_or(SegmentError::Differs { bytes: bytes.len() })?;
        let opened: Vec<_> = entries.iter().map(|entry| Ok((entry.bucket, entry.open(bytes)?))).collect::<Result<_, SegmentError>>()?;
        for (bucket, segment) in opened {
            self.add(bucket, segment);
        }
        self.missing.remove(&hash);
        Ok(())
    }

    fn add(&mut self, bucket: u64, segment: Segment) {
        let seq = self.snapshot.manifest.seq;
        match segment {
            Segment::Items(items) => {
                let items: Vec<_> = items.into_iter().map(|item| (0, item)).collect();
                self.view.apply(seq, &items);
            }
            Segment::Ids(kind, ids) => {
                let waiting = self.ids.entry(kind).or_default();
                waiting.extend(ids.into_iter().map(|id| (id, bucket)));
                if waiting.len() >= AT_ONCE {
                    self.view.load(kind, waiting, seq, self.now);
                    waiting.clear();
                }
            }
        }
    }

    /// The hashes of the segments that are not here yet.
    pub fn missing(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.missing.keys()
    }

    /// The proof that all of it is in the view.
    pub fn finish(mut self) -> Result<Loaded, SegmentError> {
        if !self.missing.is_empty() {
            return Err(SegmentError::Missing(self.missing.len()));
        }
        for (kind, ids) in &mut self.ids {
            self.view.load(*kind, ids, self.snapshot.manifest.seq, self.now);
        }
        let Snapshot { manifest: Manifest { epoch, seq, hash, issued, .. }, key } = self.snapshot;
        Ok(Loaded { epoch, seq, hash, issued, key })
    }
}

/// A place in the feed up to which everything has been loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
    pub(super) issued: UtcMillis,
    pub(super) key: Key,
}

pub(super) const KIND: u8 = 5;
/// Ids merged into a view together: each merge passes over all that it knows.
const AT_ONCE: usize = 524_288;

#[cfg(all(test, not(loom)))]
mod tests;
