//! Counts of denials: what a verifier records of those that came before a token and its proof were verified.

use minicbor::Decoder;

use crate::ids::{Key, VerifierId};
use crate::receipt::PLAIN_CAUSES;
use crate::wire::{Canonical, Enc, Malformed, array, fixed, list};

/// Denials that came before a token and its proof were verified: counts per cause, one record a minute.
///
/// ```text
/// denials   = [[1, verifier, run, number, minute, [[cause word, count], …]] as bytes, signature]
/// ```
/// Signed over `"procura-denials/1\0" || payload`. Numbered apart from receipts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denials {
    /// The enrolled verifier.
    pub verifier: VerifierId,
    /// The run of its process.
    pub run: [u8; 16],
    /// The run's records, counted from 1 without gaps.
    pub number: u64,
    /// Minutes since 1970, authority time; 0 if unknown.
    pub minute: u64,
    /// Count per cause, sorted by word.
    pub counts: Vec<(String, u64)>,
}

/// [`Denials`] as they travel and as a leaf holds them.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedDenials {
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl Denials {
    /// Signs with the verifier's key.
    pub fn sign(&self, key: &ed25519_dalek::SigningKey) -> SignedDenials {
        use ed25519_dalek::Signer as _;
        let payload = self.to_bytes();
        let signature = key.sign(&[DENIALS_PREFIX, &payload].concat()).to_bytes();
        SignedDenials { payload, signature }
    }
}

impl SignedDenials {
    /// The counts, if this verifier's key signed them.
    pub fn open(&self, key: &Key) -> Result<Denials, Malformed> {
        if !key.verifies(&[DENIALS_PREFIX, &self.payload].concat(), &self.signature) {
            return Err(Malformed::new("counts are not signed by the verifier's enrolled key"));
        }
        Denials::from_bytes(&self.payload)
    }

    /// What it claims: whose key to look up.
    pub fn claimed(&self) -> Result<Denials, Malformed> {
        Denials::from_bytes(&self.payload)
    }
}

impl Canonical for Denials {
    const MAX_BYTES: usize = 1024;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(6)?.u8(1)?.bytes(self.verifier.as_bytes())?.bytes(&self.run)?.u64(self.number)?.u64(self.minute)?.array(self.counts.len() as u64)?;
        for (word, count) in &self.counts {
            e.array(2)?.str(word)?.u64(*count)?;
        }
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 6)?;
        if d.u8()? != 1 {
            return Err(Malformed::new("expected counts of version 1"));
        }
        let (verifier, run, number, minute) = (VerifierId::from_bytes(fixed(d)?), fixed(d)?, d.u64()?, d.u64()?);
        let counts = (0..list(d, PLAIN_CAUSES.len() + DETAILED_CAUSES.len())?)
            .map(|_| {
                array(d, 2)?;
                let word = d.str()?;
                let known = PLAIN_CAUSES.iter().any(|c| c.word() == word) || DETAILED_CAUSES.contains(&word);
                if known { Ok((word.to_owned(), d.u64()?)) } else { Err(Malformed::new("expected a cause")) }
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        if !counts.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Malformed::new("expected counts sorted by cause, one each"));
        }
        Ok(Self { verifier, run, number, minute, counts })
    }
}

impl Canonical for SignedDenials {
    const MAX_BYTES: usize = 1200;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(2)?.bytes(&self.payload)?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 2)?;
        Ok(Self { payload: d.bytes()?.to_vec(), signature: fixed(d)? })
    }
}

const DENIALS_PREFIX: &[u8] = b"procura-denials/1\0";

/// Causes that carry more than their word; counts leave that out.
const DETAILED_CAUSES: [&str; 2] = ["revoked", "frozen"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::tests::key;

    #[test]
    fn any_cause_can_be_counted_and_nothing_else() {
        let counts = |word: &str| Denials { verifier: VerifierId::from_bytes([6; 16]), run: [8; 16], number: 1, minute: 3, counts: vec![(word.to_owned(), 2)] };
        for word in PLAIN_CAUSES.iter().map(|c| c.word()).chain(DETAILED_CAUSES) {
            let signed = counts(word).sign(&key(20));
            assert_eq!(SignedDenials::from_bytes(&signed.to_bytes()).unwrap().open(&Key::of(&key(20))), Ok(counts(word)), "{word}");
        }
        assert!(counts("bored").sign(&key(20)).open(&Key::of(&key(20))).is_err());
    }
}
