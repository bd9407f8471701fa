//! The bundle: all that an auditor needs, in one tar whose every byte is a function of log, feed, key list and time of export.
//!
//! ```text
//! manifest.json      what follows: path, size and SHA-256 of each member; a DSSE envelope by a log key
//! checkpoint         the signed note
//! feed               per signed feed message: length as 4 bytes, big-endian, and the message
//! keys/list          the key list, signed by the anchors
//! keys/<key>.vkey    each living log key of that list, for other people's tools
//! tile/<L>/<N>       hash tiles, all levels
//! tile/entries/<N>   the leaves
//! ```
//!
//! Built and read in memory: [`Limits`] bounds the file, and with it all that is kept.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyList, KeyUse, UnverifiedKeyList, hash as key_list_hash};
use procura_verifier::wire::Canonical as _;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, CheckpointError, Origin, Vkey};
use super::dsse::{self, EnvelopeError};
use super::event::Digest;
use super::tile::{EntriesError, Layer, TilePath, push_entry};
use super::tree::{MAX_LEVELS, TILE_WIDTH, Tree, leaf_hash};
use super::ustar;

mod read;
#[cfg(test)]
mod tests;

pub use read::{Bundle, Limits, LoadError};

/// Longest feed message in a bundle, in bytes.
pub const MAX_FEED_MESSAGE_BYTES: usize = 64 * 1024;

/// What a bundle says of itself, signed by a log key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// Whose log.
    pub tenant: Tenant,
    /// Which log.
    pub origin: Origin,
    /// Leaves in it.
    pub tree_size: u64,
    /// When it was exported, by the authority's clock.
    pub exported_ms: UtcMillis,
    /// The members after the manifest, in their order.
    pub members: Vec<Listed>,
}

/// A member as the manifest lists it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
}

/// Why a bundle could not be written. Each is a fault in what the caller read from the store, or a wrong key.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The signed key list and the accepted one differ.
    #[error("expected the bytes of the key list that was accepted")]
    KeyList,
    /// A log begins with the leaf that records its key list.
    #[error("the log has no leaves")]
    Empty,
    /// A leaf does not fit an entry bundle.
    #[error(transparent)]
    Leaf(#[from] EntriesError),
    /// A feed message is empty or longer than [`MAX_FEED_MESSAGE_BYTES`].
    #[error("feed message is {0} bytes long, expected 1 to {MAX_FEED_MESSAGE_BYTES}")]
    FeedMessage(usize),
    /// The checkpoint does not open with the log keys of the list.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The leaves are not those of the checkpoint.
    #[error("the {got} leaves given are not the tree of {expected} leaves that the checkpoint signs")]
    Root {
        /// Leaves given.
        got: u64,
        /// Size that the checkpoint signs.
        expected: u64,
    },
    /// The key for the manifest is not a log key inside its window.
    #[error("manifest key `{0}` is not a living log key of the list at the time of export")]
    ManifestKey(Key),
    /// No log key at hand lives at the time of export.
    #[error("no log key at hand is inside its window at {0}, the time of export")]
    NoKey(UtcMillis),
    /// The manifest could not be sealed.
    #[error(transparent)]
    Manifest(#[from] EnvelopeError),
    /// Larger than a tar of this form can hold.
    #[error("member `{0}` does not fit the tar")]
    Member(String),
}

/// Collects leaves and feed messages, in order, and writes the bundle.
#[derive(Debug)]
pub struct BundleWriter<'a> {
    list: &'a KeyList,
    signed_list: Vec<u8>,
    tree: Tree,
    /// By level and index; a partial tile is replaced by the wider one of the next round.
    tiles: BTreeMap<(u8, u64), Vec<u8>>,
    entries: Vec<Vec<u8>>,
    feed: Vec<u8>,
}

impl<'a> BundleWriter<'a> {
    /// Starts a bundle for the tenant of this list: the one that the log's last key-list leaf records, as signed and as accepted.
    pub fn new(list: &'a KeyList, signed: &UnverifiedKeyList) -> Result<Self, ExportError> {
        if key_list_hash(signed) != *list.hash() {
            return Err(ExportError::KeyList);
        }
        Ok(Self { list, signed_list: signed.to_bytes(), tree: Tree::new(), tiles: BTreeMap::new(), entries: Vec::new(), feed: Vec::new() })
    }

    /// The next leaf, as stored.
    pub fn leaf(&mut self, stored: &[u8]) -> Result<(), ExportError> {
        if self.tree.size().is_multiple_of(TILE_WIDTH) {
            self.entries.push(Vec::new());
            self.take_tiles();
        }
        if let Some(bundle) = self.entries.last_mut() {
            push_entry(bundle, stored)?;
        }
        self.tree.append(leaf_hash(stored));
        Ok(())
    }

    fn take_tiles(&mut self) {
        self.tiles.extend(self.tree.take_changed_tiles().into_iter().map(|t| ((t.level, t.index), t.hashes)));
    }

    /// The next signed feed message, as published.
    pub fn feed_message(&mut self, signed: &[u8]) -> Result<(), ExportError> {
        if signed.is_empty() || signed.len() > MAX_FEED_MESSAGE_BYTES {
            return Err(ExportError::FeedMessage(signed.len()));
        }
        self.feed.extend((signed.len() as u32).to_be_bytes());
        self.feed.extend(signed);
        Ok(())
    }

    /// The bundle. `checkpoint` is the signed note over exactly the leaves given; `log_key` signs the manifest.
    pub fn finish(mut self, checkpoint: &[u8], exported: UtcMillis, log_key: &SigningKey) -> Result<Vec<u8>, ExportError> {
        let size = self.tree.size();
        if size == 0 {
            return Err(ExportError::Empty);
        }
        let key = Key::of(log_key);
        if !self.list.is_live(KeyUse::Log, &key, exported) {
            return Err(ExportError::ManifestKey(key));
        }
        let origin: Origin = String::from_utf8_lossy(checkpoint.split(|b| *b == b'\n').next().unwrap_or_default()).parse()?;
        let vkeys = vkeys(self.list, &origin);
        let (head, _) = Checkpoint::open(checkpoint, &vkeys)?;
        if head.size != size || head.root != self.tree.root() {
            return Err(ExportError::Root { got: size, expected: head.size });
        }
        self.take_tiles();
        let fixed = [checkpoint.to_vec(), self.feed, self.signed_list];
        let vkeys_text = vkeys.iter().map(|k| vkey_member(k).into_bytes());
        let bodies = fixed.into_iter().chain(vkeys_text).chain(self.tiles.into_values()).chain(self.entries);
        let members: Vec<(String, Vec<u8>)> = layout(size, &vkeys).into_iter().zip(bodies).collect();
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            tenant: self.list.payload().tenant.clone(),
            origin,
            tree_size: size,
            exported_ms: exported,
            members: members.iter().map(|(path, bytes)| Listed { path: path.clone(), size: bytes.len() as u64, sha256: Digest::of(bytes) }).collect(),
        };
        let mut tar = Vec::new();
        let mut push = |path: &str, bytes: &[u8]| ustar::push(&mut tar, path, bytes).ok_or_else(|| ExportError::Member(path.to_owned()));
        push(MANIFEST, &manifest.seal(log_key)?)?;
        for (path, bytes) in &members {
            push(path, bytes)?;
        }
        ustar::finish(&mut tar);
        Ok(tar)
    }
}

impl Manifest {
    fn payload(&self) -> Result<Vec<u8>, EnvelopeError> {
        serde_json::to_vec(self).map_err(|e| EnvelopeError::Malformed(e.to_string()))
    }

    fn seal(&self, key: &SigningKey) -> Result<Vec<u8>, EnvelopeError> {
        dsse::seal(MANIFEST_TYPE, &self.payload()?, key)
    }
}

/// The log keys of a list under the name of the log, sorted by key.
fn vkeys(list: &KeyList, origin: &Origin) -> Vec<Vkey> {
    list.of(KeyUse::Log).map(|k| Vkey { origin: origin.clone(), key: k.key }).collect()
}

/// What stands in `keys/<key>.vkey`.
fn vkey_member(vkey: &Vkey) -> String {
    format!("{vkey}\n")
}

/// The paths of the members after the manifest, for a log of that size: nothing in a bundle chooses them.
fn layout(size: u64, vkeys: &[Vkey]) -> Vec<String> {
    let mut paths: Vec<String> = [CHECKPOINT, FEED, KEY_LIST].map(str::to_owned).into();
    paths.extend(vkeys.iter().map(|k| format!("keys/{}.vkey", k.key)));
    for level in 0..MAX_LEVELS {
        paths.extend(TilePath::all(Layer::Hashes(level), size).map(|t| t.to_string()));
    }
    paths.extend(TilePath::all(Layer::Entries, size).map(|t| t.to_string()));
    paths
}

const FORMAT: &str = "procura-bundle/1";
const MANIFEST: &str = "manifest.json";
const MANIFEST_TYPE: &str = "application/vnd.procura.bundle-manifest.v1+json";
/// A bundle of 1 GiB has a manifest of some 3 MB.
const MAX_MANIFEST_BYTES: usize = 16 << 20;
const CHECKPOINT: &str = "checkpoint";
const FEED: &str = "feed";
const KEY_LIST: &str = "keys/list";
