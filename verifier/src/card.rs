//! Agent cards: the authority's word that a key is an agent's, for at most 24 hours (law 4).
//!
//! ```text
//! card      = [payload bytes, key hint (4), signature]        signature over "procura-card/1\0" || payload
//! payload   = [1, tenant, agent, holder key, generation, expires_secs]
//! ```
//! The hint is the first four bytes of the card key: it says which listed key to try, and proves nothing.

use minicbor::Decoder;

use crate::ids::{AgentId, Key, Tenant, UtcMillis};
use crate::key_list::{KeyList, KeyUse};
use crate::wire::{Canonical, Enc, Malformed, array, fixed};

/// What a card says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentCard {
    /// The agent's tenant.
    pub tenant: Tenant,
    /// The agent.
    pub agent: AgentId,
    /// A key of that agent.
    pub holder: Key,
    /// The agent's generation when the card was made: a kill of the agent ends every link made with it.
    pub generation: u64,
    /// First second after its validity, since 1970.
    pub expires_secs: u64,
}

impl AgentCard {
    /// Longest life of a card.
    pub const MAX_TTL_SECS: u64 = 24 * 60 * 60;

    /// Signs the card.
    pub fn sign(&self, card_key: &ed25519_dalek::SigningKey) -> SignedCard {
        use ed25519_dalek::Signer as _;
        let payload = self.to_bytes();
        let signature = card_key.sign(&message(&payload)).to_bytes();
        SignedCard { card: self.clone(), hint: hint(&Key::of(card_key)), signature }
    }
}

impl Canonical for AgentCard {
    const MAX_BYTES: usize = 160;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(6)?.u8(1)?.str(self.tenant.as_str())?.bytes(self.agent.as_bytes())?;
        e.bytes(self.holder.as_bytes())?.u64(self.generation)?.u64(self.expires_secs)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 6)?;
        if d.u8()? != 1 {
            return Err(Malformed::new("expected an agent card of version 1"));
        }
        Ok(Self {
            tenant: d.str()?.parse().map_err(|_| Malformed::new("expected a tenant name"))?,
            agent: AgentId::from_bytes(fixed(d)?),
            holder: Key::from_bytes(fixed(d)?),
            generation: d.u64()?,
            expires_secs: d.u64()?,
        })
    }
}

/// A card as it travels. Its words count only after [`SignedCard::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCard {
    card: AgentCard,
    hint: [u8; 4],
    signature: [u8; 64],
}

impl SignedCard {
    /// What the card claims. An agent that links reads it here; a verifier only after [`SignedCard::verify`].
    pub const fn claimed(&self) -> &AgentCard {
        &self.card
    }

    /// The listed key that signed the card, dead ones excepted. Whether the key's window holds the card is asked at each decision.
    pub fn verify(&self, keys: &KeyList) -> Option<Key> {
        let message = message(&self.card.to_bytes());
        keys.signer(KeyUse::Card, self.hint, &message, &self.signature)
    }

    /// True if `t` is before the card's end.
    pub const fn is_current(&self, t: UtcMillis) -> bool {
        t.secs() < self.card.expires_secs
    }
}

impl Canonical for SignedCard {
    const MAX_BYTES: usize = 240;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(3)?.bytes(&self.card.to_bytes())?.bytes(&self.hint)?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 3)?;
        Ok(Self { card: AgentCard::from_bytes(d.bytes()?)?, hint: fixed(d)?, signature: fixed(d)? })
    }
}

fn message(payload: &[u8]) -> Vec<u8> {
    [b"procura-card/1\0".as_slice(), payload].concat()
}

pub(crate) fn hint(key: &Key) -> [u8; 4] {
    let [a, b, c, d, ..] = *key.as_bytes();
    [a, b, c, d]
}
