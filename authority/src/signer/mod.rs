//! Who holds the authority's private keys. Files today; the trait is what a KMS would answer.

pub mod file;
pub mod released;

use std::sync::Arc;

use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyList, KeyUse};
use procura_verifier::wire::Malformed;

use crate::keys::Keys;
use crate::log::bundle::{BundleWriter, ExportError};
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::event::Event;
use crate::log::leaf::{LeafError, SignedLeaf};

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No living key at hand has a window that holds it.
    #[error("no {} key at hand is alive and holds {from} to {until}", usage.name())]
    NoKey {
        /// For what.
        usage: KeyUse,
        /// Its first moment.
        from: UtcMillis,
        /// Its last.
        until: UtcMillis,
    },
    /// What was to be signed is not of its form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The authority's keys, several of each use while one follows the other. There is no "sign these bytes": each key signs its own kind of thing and nothing else.
///
/// Which key signs is asked anew for each signature: a living one of the list in force whose window holds what is signed.
pub trait Signer: Send + Sync {
    /// Signs by this list and its successors from now on. Before that only [`Self::key_list_leaf`] and feed messages are signed.
    fn follow(&self, keys: Arc<Keys>);
    /// Looks again which keys are at hand: `procura keys prepare` makes some while the authority runs. On an error the old ones stay.
    fn reload(&self) -> Result<(), file::KeyFileError>;
    /// True if the private half is at hand.
    fn holds(&self, usage: KeyUse, key: &Key) -> bool;
    /// The key that would sign what holds from `from` to `until`.
    fn key_for(&self, usage: KeyUse, from: UtcMillis, until: UtcMillis) -> Option<Key>;
    /// Root key: a token with this block 0, and the key that signed it. `next_seed` is 32 random bytes, used once.
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<(Vec<u8>, Key), SignError>;
    /// Card key `by`, whose window holds the card.
    fn card(&self, card: &AgentCard, by: &Key) -> Option<SignedCard>;
    /// Event key. Called before the commit that stores the leaf; nobody sees it before.
    fn leaf(&self, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError>;
    /// Event key of the list that the leaf itself records (`spec/log.md` section 3).
    fn key_list_leaf(&self, list: &KeyList, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError>;
    /// All log keys that hold at `at`, the time of the last leaf. Only for a head that is committed and recorded as released.
    fn checkpoint(&self, checkpoint: &Checkpoint, at: UtcMillis) -> Result<String, CheckpointError>;
    /// Log key: the manifest of an export, and nothing else of it.
    fn bundle(&self, bundle: BundleWriter<'_>, checkpoint: &[u8], exported: UtcMillis) -> Result<Vec<u8>, ExportError>;
    /// Feed key. Only for messages that are committed, and for heartbeats. Where no key holds its time the newest signs all the
    /// same: verifiers refuse that, and go stale (F3).
    fn feed(&self, message: &Message) -> SignedMessage;
    /// A stored message by the feed key of its row, or, once that is dead, by a living one whose window holds it (F3).
    fn feed_again(&self, message: &Message, row_key: &Key) -> Option<SignedMessage>;
}
