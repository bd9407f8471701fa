//! Who holds the authority's private keys. Files today; the trait is what a KMS would answer.

pub mod file;
pub mod released;

use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::KeyUse;
use procura_verifier::wire::Malformed;

use crate::log::bundle::{BundleWriter, ExportError};
use crate::log::checkpoint::{Checkpoint, CheckpointError};
use crate::log::event::Event;
use crate::log::leaf::{LeafError, SignedLeaf};

/// The authority's keys, one of each use. There is no "sign these bytes": each key signs its own kind of thing and nothing else.
pub trait Signer: Send + Sync {
    /// The public half of the key in use.
    fn public(&self, usage: KeyUse) -> Key;
    /// Root key: a token with this block 0. `next_seed` is 32 random bytes, used once.
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed>;
    /// Card key.
    fn card(&self, card: &AgentCard) -> SignedCard;
    /// Event key. Called before the commit that stores the leaf; nobody sees it before.
    fn leaf(&self, event: &Event, tenant: &Tenant, at: UtcMillis) -> Result<SignedLeaf, LeafError>;
    /// Log key. Only for a head that is committed and recorded as released.
    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError>;
    /// Log key: the manifest of an export, and nothing else of it.
    fn bundle(&self, bundle: BundleWriter<'_>, checkpoint: &[u8], exported: UtcMillis) -> Result<Vec<u8>, ExportError>;
    /// Feed key. Only for messages that are committed, and for heartbeats.
    fn feed(&self, message: &Message) -> SignedMessage;
}
