//! Reading a bundle: nothing in it is believed before something outside of it, the anchors, leads there.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyList, KeyUse, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;

use super::super::checkpoint::Checkpoint;
use super::super::dsse::{UnverifiedEnvelope, key_id};
use super::super::event::{Digest, Event};
use super::super::finding::{Finding, FindingClass, Place};
use super::super::leaf::{OpenedLeaf, UnverifiedLeaf};
use super::super::tile::{Layer, TilePath, read_entries};
use super::super::tree::{TILE_WIDTH, Tree, leaf_hash};
use super::super::ustar::{self, Member};
use super::{CHECKPOINT, FEED, FORMAT, KEY_LIST, MANIFEST, MANIFEST_TYPE, MAX_FEED_MESSAGE_BYTES, MAX_MANIFEST_BYTES, Manifest, layout, vkey_member, vkeys};
use crate::strict_json;

/// Bounds of what is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest bundle, in bytes. Memory used is a small multiple of the bundle's own size.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 1 GiB: about a million leaves.
    fn default() -> Self {
        Self { max_bytes: 1 << 30 }
    }
}

/// Why a file gave no bundle.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("the bundle could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is not a bundle of this tenant's log.
    #[error(transparent)]
    Finding(#[from] Finding),
}

/// A bundle whose container, signatures, tree and leaves hold. What the events *mean* together is replay's to check.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    checkpoint: Checkpoint,
    key_list: KeyList,
    key_lists: BTreeMap<u64, KeyList>,
    feed: Vec<Vec<u8>>,
    leaves: Vec<OpenedLeaf>,
}

impl Bundle {
    /// Reads at most `limits.max_bytes` and one byte more, then as [`Bundle::read`].
    pub fn load(file: impl Read, anchors: &Anchors, tenant: &Tenant, limits: Limits) -> Result<Self, LoadError> {
        let mut bytes = Vec::new();
        file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Self::read(&bytes, anchors, tenant, limits)?)
    }

    /// The bundle in these bytes, or the first wrong thing in the order of `spec/log.md`, Order of checks.
    pub fn read(bytes: &[u8], anchors: &Anchors, tenant: &Tenant, limits: Limits) -> Result<Self, Finding> {
        if bytes.len() as u64 > limits.max_bytes {
            let sentence = format!("the file is longer than {} bytes", limits.max_bytes);
            return Err(Finding::new(FindingClass::Container, Place::Byte(limits.max_bytes), sentence));
        }
        let members = ustar::read(bytes)?;
        let key_list = read_key_list(&members, anchors, tenant)?;
        let manifest = read_manifest(&members, &key_list, tenant, bytes.len())?;
        let rest = check_listing(&members, &manifest, &key_list)?;
        let feed = read_feed(find(&rest, FEED)?)?;

        let keys = vkeys(&key_list, &manifest.origin);
        for vkey in &keys {
            let path = format!("keys/{}.vkey", vkey.key);
            if find(&rest, &path)? != vkey_member(vkey).as_bytes() {
                return Err(Finding::new(FindingClass::Container, Place::Member(path), format_args!("expected `{vkey}` and a line feed")));
            }
        }
        let (checkpoint, signers) = Checkpoint::open(find(&rest, CHECKPOINT)?, &keys).map_err(at(FindingClass::Signature, CHECKPOINT))?;
        if checkpoint.size != manifest.tree_size {
            let sentence = format!("signs {} leaves, expected the {} of the manifest", checkpoint.size, manifest.tree_size);
            return Err(Finding::new(FindingClass::Root, Place::member(CHECKPOINT), sentence));
        }
        let stored = read_tree(&rest, &checkpoint)?;

        let mut book = KeyBook { anchors, tenant, lists: BTreeMap::new(), event_keys: HashMap::new() };
        let mut leaves = Vec::with_capacity(stored.len());
        for (index, leaf) in (0..).zip(stored) {
            leaves.push(book.open(index, leaf)?);
        }
        // The checkpoint carries no time; it was signed when its last leaf was committed.
        let last = leaves.last().map(|l: &OpenedLeaf| l.at).unwrap_or_default();
        if !signers.iter().any(|s| key_list.is_live(KeyUse::Log, &s.key, last)) {
            let sentence = format!("no log key that signed it was inside its window at {last}, the time of the last leaf");
            return Err(Finding::new(FindingClass::Signature, Place::member(CHECKPOINT), sentence));
        }
        let (version, recorded) = book.lists.last_key_value().map(|(_, l)| (l.payload().version, *l.hash())).unwrap_or_default();
        if recorded != *key_list.hash() {
            let sentence = format!("is version {}, expected the list of version {version} that the log recorded last", key_list.payload().version);
            return Err(Finding::new(FindingClass::State, Place::member(KEY_LIST), sentence));
        }
        Ok(Self { manifest, checkpoint, key_list, key_lists: book.lists, feed, leaves })
    }

    /// What the bundle says of itself.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    /// The signed root over the leaves.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
    /// The key list in force at the end.
    pub const fn key_list(&self) -> &KeyList {
        &self.key_list
    }
    /// The key list in force at a leaf: the last one recorded there or before.
    pub fn key_list_at(&self, index: u64) -> Option<&KeyList> {
        self.key_lists.range(..=index).next_back().map(|(_, list)| list)
    }
    /// The key list of that version, if it was recorded at that leaf or before, and when the next one was recorded.
    pub fn key_list_of(&self, version: u64, index: u64) -> Option<(&KeyList, Option<UtcMillis>)> {
        let mut recorded = self.key_lists.iter().skip_while(|(_, list)| list.payload().version != version);
        let (_, list) = recorded.next().filter(|(at, _)| **at <= index)?;
        let next = recorded.next().and_then(|(at, _)| self.leaves.get(usize::try_from(*at).ok()?)).map(|leaf| leaf.at);
        Some((list, next))
    }
    /// The signed feed messages, in order. Framed, not yet decoded: their signatures are replay's to check.
    pub fn feed(&self) -> &[Vec<u8>] {
        &self.feed
    }
    /// The leaves, in order; a leaf's place is its index in the log.
    pub fn leaves(&self) -> &[OpenedLeaf] {
        &self.leaves
    }
}

fn at<E: std::fmt::Display>(class: FindingClass, path: &'static str) -> impl Fn(E) -> Finding {
    move |e| Finding::new(class, Place::member(path), e)
}

fn find<'a>(members: &[Member<'a>], path: &str) -> Result<&'a [u8], Finding> {
    let found = members.iter().find(|(p, _)| *p == path).map(|(_, bytes)| *bytes);
    found.ok_or_else(|| Finding::new(FindingClass::Container, Place::member(path), "is missing"))
}

/// The key list, believed because the auditor's anchors signed it.
fn read_key_list(members: &[Member<'_>], anchors: &Anchors, tenant: &Tenant) -> Result<KeyList, Finding> {
    let signed = UnverifiedKeyList::from_bytes(find(members, KEY_LIST)?).map_err(at(FindingClass::Container, KEY_LIST))?;
    anchors.accept(&signed, tenant).map_err(at(FindingClass::Signature, KEY_LIST))
}

/// The manifest, believed because a log key of that list signed it.
fn read_manifest(members: &[Member<'_>], list: &KeyList, tenant: &Tenant, bundle_bytes: usize) -> Result<Manifest, Finding> {
    let container = |sentence: &dyn std::fmt::Display| Finding::new(FindingClass::Container, Place::member(MANIFEST), sentence);
    let Some((MANIFEST, bytes)) = members.first() else {
        return Err(container(&"expected as the first member"));
    };
    let envelope = UnverifiedEnvelope::parse(bytes, MAX_MANIFEST_BYTES, MANIFEST_TYPE).map_err(|e| container(&e))?;
    let known = |id: &str| list.of(KeyUse::Log).map(|k| k.key).find(|k| key_id(k) == id);
    let sealed_again = envelope.to_bytes().map_err(|e| container(&e))?;
    let (payload, key) = envelope.verify(known).map_err(at(FindingClass::Signature, MANIFEST))?;
    let manifest: Manifest = strict_json::from_slice(&payload, MAX_MANIFEST_BYTES).map_err(|e| container(&e))?;
    if manifest.format != FORMAT {
        return Err(container(&format_args!("expected format `{FORMAT}`")));
    }
    if manifest.payload().ok() != Some(payload) || sealed_again != *bytes {
        return Err(container(&"expected the one form that export writes"));
    }
    if manifest.tenant != *tenant {
        return Err(container(&format_args!("is of tenant `{}`, expected `{tenant}`", manifest.tenant)));
    }
    // Each leaf takes two bytes at least; so no size makes the layout longer than the file.
    if manifest.tree_size == 0 || manifest.tree_size > bundle_bytes as u64 / 2 {
        return Err(container(&format_args!("lists {} leaves, expected at least one and no more than the file can hold", manifest.tree_size)));
    }
    if !list.is_live(KeyUse::Log, &key, manifest.exported_ms) {
        let sentence = format!("log key `{key}` was outside its window at {}, the time of export", manifest.exported_ms);
        return Err(Finding::new(FindingClass::Signature, Place::member(MANIFEST), sentence));
    }
    Ok(manifest)
}

/// The members after the manifest: their paths are those of a log of that size, their bytes those that the manifest lists.
fn check_listing<'a>(members: &[Member<'a>], manifest: &Manifest, list: &KeyList) -> Result<Vec<Member<'a>>, Finding> {
    let container = |path: &str, sentence: &dyn std::fmt::Display| Finding::new(FindingClass::Container, Place::member(path.escape_default()), sentence);
    let rest = members.get(1..).unwrap_or_default();
    let expected = layout(manifest.tree_size, &vkeys(list, &manifest.origin));
    for (place, path) in expected.iter().enumerate() {
        let listed = manifest.members.get(place).filter(|l| l.path == *path);
        let listed = listed.ok_or_else(|| container(path, &format_args!("expected at place {place} of the manifest's list")))?;
        let (came, bytes) = rest.get(place).ok_or_else(|| container(path, &"is missing"))?;
        if came != path {
            return Err(container(came, &format_args!("expected member `{path}` at its place")));
        }
        if bytes.len() as u64 != listed.size {
            return Err(container(path, &format_args!("is {} bytes long, expected {}", bytes.len(), listed.size)));
        }
        let sha256 = Digest::of(bytes);
        if sha256 != listed.sha256 {
            return Err(container(path, &format_args!("has sha256 {sha256}, expected {}", listed.sha256)));
        }
    }
    match (rest.get(expected.len()), manifest.members.get(expected.len())) {
        (Some((path, _)), _) => Err(container(path, &"is not a member of a bundle of that size")),
        (None, Some(listed)) => {
            Err(container(MANIFEST, &format_args!("lists `{}`, which is not a member of a bundle of that size", listed.path.escape_default())))
        }
        (None, None) => Ok(rest.to_vec()),
    }
}

/// Cuts the feed into its messages.
fn read_feed(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Finding> {
    let (mut rest, mut messages) = (bytes, Vec::new());
    while !rest.is_empty() {
        let wrong = |sentence: &dyn std::fmt::Display| Finding::new(FindingClass::Feed, Place::FeedMessage(messages.len() as u64), sentence);
        let (len, body) = rest.split_first_chunk::<4>().ok_or_else(|| wrong(&"expected a length of 4 bytes"))?;
        let len = u32::from_be_bytes(*len) as usize;
        if len == 0 || len > MAX_FEED_MESSAGE_BYTES {
            return Err(wrong(&format_args!("is {len} bytes long, expected 1 to {MAX_FEED_MESSAGE_BYTES}")));
        }
        let (message, after) = body.split_at_checked(len).ok_or_else(|| wrong(&"the feed ends inside it"))?;
        messages.push(message.to_vec());
        rest = after;
    }
    Ok(messages)
}

/// The stored leaves, if they give the tiles that are there and the root that was signed.
fn read_tree<'a>(members: &[Member<'a>], checkpoint: &Checkpoint) -> Result<Vec<&'a [u8]>, Finding> {
    let root = |path: &TilePath, sentence: &dyn std::fmt::Display| Finding::new(FindingClass::Root, Place::member(path), sentence);
    // By path: a log has thousands of tiles.
    let by_path: HashMap<&str, &[u8]> = members.iter().copied().collect();
    let member = |path: &TilePath| by_path.get(path.to_string().as_str()).copied().ok_or_else(|| root(path, &"is missing"));
    let (mut tree, mut leaves) = (Tree::new(), Vec::new());
    let mut tiles = BTreeMap::new();
    for path in TilePath::all(Layer::Entries, checkpoint.size) {
        for leaf in read_entries(member(&path)?, path.width()).map_err(|e| root(&path, &e))? {
            tree.append(leaf_hash(leaf));
            leaves.push(leaf);
        }
        // A partial tile is replaced by the wider one of the next round.
        tiles.extend(tree.take_changed_tiles().into_iter().map(|t| ((t.level, t.index), t.hashes)));
    }
    for ((level, index), hashes) in &tiles {
        let width = hashes.len() as u64 / 32;
        let path = TilePath::new(Layer::Hashes(*level), *index, width.min(TILE_WIDTH));
        let path = path.map_err(|e| Finding::new(FindingClass::Root, Place::member(CHECKPOINT), e))?;
        let came = member(&path)?;
        if came != hashes.as_slice() {
            let first = came.chunks(32).zip(hashes.chunks(32)).position(|(a, b)| a != b).unwrap_or(came.len().min(hashes.len()) / 32);
            return Err(root(&path, &format_args!("its hash {first} is not that of the leaves under it")));
        }
    }
    if tree.root() != checkpoint.root {
        let sentence = format!("signs root {}, expected {} over the leaves", hex::encode(checkpoint.root), hex::encode(tree.root()));
        return Err(Finding::new(FindingClass::Root, Place::member(CHECKPOINT), sentence));
    }
    Ok(leaves)
}

/// Which event keys hold as the log goes on: each list that the anchors signed holds from the leaf that records it.
///
/// So a key that was declared dead later still vouches for the leaves before, and for none after.
struct KeyBook<'a> {
    anchors: &'a Anchors,
    tenant: &'a Tenant,
    /// By the index of the leaf.
    lists: BTreeMap<u64, KeyList>,
    /// The event keys of the last list by their ids.
    event_keys: HashMap<String, Key>,
}

impl KeyBook<'_> {
    fn open(&mut self, index: u64, stored: &[u8]) -> Result<OpenedLeaf, Finding> {
        let wrong = |class, sentence: &dyn std::fmt::Display| Finding::new(class, Place::Leaf(index), sentence);
        let leaf = UnverifiedLeaf::parse(stored).map_err(|e| wrong(FindingClass::Leaf, &e))?;
        if let Event::KeyListRecorded(recorded) = leaf.unverified_event() {
            let signed = UnverifiedKeyList::from_bytes(&recorded.key_list.0).map_err(|e| wrong(FindingClass::Leaf, &e))?;
            let list = self.anchors.accept(&signed, self.tenant).map_err(|e| wrong(FindingClass::Signature, &e))?;
            let (version, before) = (list.payload().version, self.lists.values().next_back().map(|l| l.payload().version));
            if (version, recorded.hash.0) != (recorded.version, *list.hash()) {
                return Err(wrong(FindingClass::Leaf, &format_args!("records key list version {}, but carries another list", recorded.version)));
            }
            if before.is_some_and(|b| version <= b) {
                return Err(wrong(FindingClass::State, &format_args!("records key list version {version} after version {}", before.unwrap_or_default())));
            }
            self.event_keys = list.of(KeyUse::Event).map(|k| (key_id(&k.key), k.key)).collect();
            self.lists.insert(index, list);
        } else if self.lists.is_empty() {
            return Err(wrong(FindingClass::Leaf, &"expected the first leaf to record the key list"));
        }
        let opened = leaf.verify(|id| self.event_keys.get(id).copied()).map_err(|e| wrong(FindingClass::Leaf, &e))?;
        if opened.tenant != *self.tenant {
            return Err(wrong(FindingClass::Leaf, &format_args!("is of tenant `{}`, expected `{}`", opened.tenant, self.tenant)));
        }
        if !self.lists.values().next_back().is_some_and(|list| list.is_live(KeyUse::Event, &opened.key, opened.at)) {
            return Err(wrong(FindingClass::Leaf, &format_args!("event key `{}` was outside its window at {}", opened.key, opened.at)));
        }
        Ok(opened)
    }
}
