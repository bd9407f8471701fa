//! A token in the hands of its agent: narrowed, linked and sealed offline.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::call::{Call, Seed};
use procura_verifier::card::SignedCard;
use procura_verifier::claims::Restriction;
use procura_verifier::ids::{Key, Lid, UtcMillis};
use procura_verifier::proof::{Challenge, UnverifiedProof};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::vocabulary::LinkClaims;
use procura_verifier::wire::{Canonical as _, Malformed};
use rand::CryptoRng;

/// A token that can still be narrowed and linked. A credential: `Debug` names it and shows nothing more.
#[derive(Clone)]
pub struct HeldToken {
    bytes: Vec<u8>,
    read: UnverifiedToken,
}

impl HeldToken {
    /// The token in Base64url without padding, as the authority answers it and agents pass it on.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        Self::from_bytes(BASE64.decode(text).map_err(|_| Malformed::new("expected a token in base64url without padding"))?)
    }

    /// The token from its bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let read = UnverifiedToken::parse(&bytes)?;
        Ok(Self { bytes, read })
    }

    /// The text form. Whoever has it and the holder's key can use it and pass it on.
    pub fn to_text(&self) -> String {
        BASE64.encode(&self.bytes)
    }

    /// What it says. Not verified: the holder trusts whom it got the token from.
    pub const fn claims(&self) -> &UnverifiedToken {
        &self.read
    }

    /// The token with one more block that narrows it (law 3). Offline; cannot be undone by whoever gets the result.
    pub fn narrow(&self, restrictions: &[Restriction], rng: &mut impl CryptoRng) -> Result<Self, Malformed> {
        Self::from_bytes(self.read.narrow(restrictions, random(rng))?)
    }

    /// The token linked to the agent of a card, narrowed by `restrictions`; `depth` is how many links may still follow (law 4).
    ///
    /// The result works with the next holder's key only, until the card ends.
    pub fn link(&self, card: &SignedCard, depth: u8, restrictions: Vec<Restriction>, holder: &SigningKey, rng: &mut impl CryptoRng) -> Result<Self, Malformed> {
        let link = LinkClaims { lid: Lid::from_bytes(random(rng)), holder: card.claimed().holder, depth, card: Some(card.clone()), restrictions };
        Self::from_bytes(self.read.link(&link, holder, random(rng))?)
    }

    /// The token linked to a bare key: only where the delegation allows unregistered agents.
    pub fn link_unregistered(
        &self,
        next: Key,
        depth: u8,
        restrictions: Vec<Restriction>,
        holder: &SigningKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, Malformed> {
        let link = LinkClaims { lid: Lid::from_bytes(random(rng)), holder: next, depth, card: None, restrictions };
        Self::from_bytes(self.read.link(&link, holder, random(rng))?)
    }

    /// The token as it is presented: nobody who sees it can append to it (law 5).
    pub fn seal(&self) -> Result<SealedToken, Malformed> {
        let bytes = self.read.seal();
        let hash = *UnverifiedToken::parse(&bytes)?.hash();
        Ok(SealedToken { bytes, hash })
    }
}

impl std::fmt::Debug for HeldToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldToken({})", self.read.claimed().tid)
    }
}

/// A sealed token, ready to be presented with a proof for each call.
#[derive(Clone)]
pub struct SealedToken {
    bytes: Vec<u8>,
    hash: [u8; 32],
}

impl SealedToken {
    /// The value of the `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", BASE64.encode(&self.bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The value of the `Procura-Proof` header for one call: good once, at the instance that drew the challenge, for 30 s.
    ///
    /// `now` is this machine's wall clock; it may be off by up to 30 s from the authority's.
    pub fn prove(&self, call: &Call<'_>, holder: &SigningKey, challenge: &Challenge, now: UtcMillis, rng: &mut impl CryptoRng) -> String {
        let proof = UnverifiedProof::sign(holder, &self.hash, call, now, challenge, random(rng), Seed::from_bytes(random(rng)));
        BASE64.encode(proof.to_bytes())
    }
}

impl std::fmt::Debug for SealedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedToken")
    }
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}
