//! Who holds the authority's private keys. Files today; the trait is what a KMS would answer.

pub mod file;
pub mod released;

use procura_verifier::card::{AgentCard, SignedCard};
use procura_verifier::claims::Block0;
use procura_verifier::ids::Key;
use procura_verifier::key_list::KeyUse;
use procura_verifier::wire::Malformed;

/// The authority's keys, one of each use. Each signs its own kind of thing and nothing else.
pub trait Signer: Send + Sync {
    /// The public half of the key in use.
    fn public(&self, usage: KeyUse) -> Key;
    /// Signs bytes that already carry the prefix of their kind. Never for [`KeyUse::Root`] and [`KeyUse::Card`]: see below.
    fn sign(&self, usage: KeyUse, message: &[u8]) -> [u8; 64];
    /// A token with this block 0: the only thing that the root key signs. `next_seed` is 32 random bytes, used once.
    fn mint(&self, block: &Block0, next_seed: [u8; 32]) -> Result<Vec<u8>, Malformed>;
    /// The signed card: the only thing that the card key signs.
    fn card(&self, card: &AgentCard) -> SignedCard;
}
