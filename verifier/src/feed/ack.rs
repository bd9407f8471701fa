//! What a verifier says of itself, signed by its enrolled key: who opens a stream, and how far it has applied the feed
//! (`spec/feed.md`, sign-in and acknowledgements).
//!
//! ```text
//! statement = [payload bytes, signature]
//! sign-in   = [1, tenant, verifier, run (16), audience, nonce, utc_ms, bound_ms | null]                            over "procura-sign-in/1\0" || payload
//! ack       = [1, tenant, verifier, run (16), number, epoch, seq, hash, fresh_age_ms, utc_ms, bound_ms | null]     over "procura-ack/1\0" || payload
//! ```

use std::marker::PhantomData;

use ed25519_dalek::SigningKey;
use minicbor::Decoder;

use crate::claims::Audience;
use crate::decision::Mode;
use crate::ids::{Key, Tenant, UtcMillis, VerifierId};
use crate::wire::{Canonical, Enc, Malformed, array, fixed};

/// "This stream is mine." Good once: for the nonce of the request it comes with, and for 30 s around `utc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignIn {
    /// Whose feed.
    pub tenant: Tenant,
    /// The enrolled verifier.
    pub verifier: VerifierId,
    /// The run of its process.
    pub run: [u8; 16],
    /// The service and instance it judges for.
    pub audience: Audience,
    /// The nonce of the stream request.
    pub nonce: Vec<u8>,
    /// Authority UTC as known from the feed; before the first answer, the machine's wall clock.
    pub utc: UtcMillis,
    /// The weakest mode in force there.
    pub mode: Mode,
}

/// "I have applied everything up to here." Numbered within a run, so that an older one never takes a newer one's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    /// Whose feed.
    pub tenant: Tenant,
    /// The enrolled verifier.
    pub verifier: VerifierId,
    /// The run of its process.
    pub run: [u8; 16],
    /// The run's acknowledgements, rising.
    pub number: u64,
    /// The watermark: its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// The hash of the message there: which history.
    pub hash: [u8; 32],
    /// How old the verifier's knowledge was when it signed, in milliseconds.
    pub fresh_age_ms: u64,
    /// Authority UTC as known there.
    pub utc: UtcMillis,
    /// The weakest mode in force there.
    pub mode: Mode,
}

/// A statement that a verifier's key signs, apart from all others by its prefix.
pub trait Statement: Canonical {
    /// Stands before the payload.
    const PREFIX: &'static [u8];
    /// Said when the signature is not the key's.
    const UNSIGNED: &'static str;
}

impl Statement for SignIn {
    const PREFIX: &'static [u8] = b"procura-sign-in/1\0";
    const UNSIGNED: &'static str = "sign-in is not signed by the verifier's enrolled key";
}

impl Statement for Ack {
    const PREFIX: &'static [u8] = b"procura-ack/1\0";
    const UNSIGNED: &'static str = "acknowledgement is not signed by the verifier's enrolled key";
}

/// A statement as it travels, and as a leaf holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed<T> {
    payload: Vec<u8>,
    signature: [u8; 64],
    kind: PhantomData<T>,
}

impl<T: Statement> Signed<T> {
    /// Signs with the verifier's key.
    pub fn sign(statement: &T, key: &SigningKey) -> Self {
        use ed25519_dalek::Signer as _;
        let payload = statement.to_bytes();
        let signature = key.sign(&[T::PREFIX, &payload].concat()).to_bytes();
        Self { payload, signature, kind: PhantomData }
    }

    /// What it claims: whose key to look up.
    pub fn claimed(&self) -> Result<T, Malformed> {
        T::from_bytes(&self.payload)
    }

    /// The statement, if this key signed it.
    pub fn open(&self, key: &Key) -> Result<T, Malformed> {
        if !key.verifies(&[T::PREFIX, &self.payload].concat(), &self.signature) {
            return Err(Malformed::new(T::UNSIGNED));
        }
        T::from_bytes(&self.payload)
    }
}

impl Canonical for SignIn {
    const MAX_BYTES: usize = 512;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(8)?.u8(VERSION)?.str(self.tenant.as_str())?.bytes(self.verifier.as_bytes())?.bytes(&self.run)?.str(self.audience.as_str())?;
        e.bytes(&self.nonce)?.u64(self.utc.0)?;
        write_mode(self.mode, e)
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let (tenant, verifier, run) = head(d, 8)?;
        let audience = d.str()?.parse().map_err(|_| Malformed::new("expected an audience"))?;
        let nonce = d.bytes()?.to_vec();
        if !(16..=32).contains(&nonce.len()) {
            return Err(Malformed::new("expected a nonce of 16 to 32 bytes"));
        }
        Ok(Self { tenant, verifier, run, audience, nonce, utc: UtcMillis(d.u64()?), mode: read_mode(d)? })
    }
}

impl Canonical for Ack {
    const MAX_BYTES: usize = 512;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(11)?.u8(VERSION)?.str(self.tenant.as_str())?.bytes(self.verifier.as_bytes())?.bytes(&self.run)?.u64(self.number)?;
        e.u64(self.epoch)?.u64(self.seq)?.bytes(&self.hash)?.u64(self.fresh_age_ms)?.u64(self.utc.0)?;
        write_mode(self.mode, e)
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let (tenant, verifier, run) = head(d, 11)?;
        let (number, epoch, seq) = (d.u64()?, d.u64()?, d.u64()?);
        if number == 0 || epoch == 0 {
            return Err(Malformed::new("expected numbers and epochs from 1"));
        }
        let (hash, fresh_age_ms, utc) = (fixed(d)?, d.u64()?, UtcMillis(d.u64()?));
        Ok(Self { tenant, verifier, run, number, epoch, seq, hash, fresh_age_ms, utc, mode: read_mode(d)? })
    }
}

/// The bound, or null where there is none.
fn write_mode(mode: Mode, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    match mode.bound_ms() {
        Some(ms) => e.u32(ms)?,
        None => e.null()?,
    };
    Ok(())
}

fn read_mode(d: &mut Decoder<'_>) -> Result<Mode, Malformed> {
    if d.datatype()? == minicbor::data::Type::Null {
        d.null()?;
        return Ok(Mode::BestEffort);
    }
    Ok(Mode::of(Some(d.u32()?)))
}

fn head(d: &mut Decoder<'_>, fields: u64) -> Result<(Tenant, VerifierId, [u8; 16]), Malformed> {
    array(d, fields)?;
    if d.u8()? != VERSION {
        return Err(Malformed::new("expected a verifier's statement of version 1"));
    }
    let tenant = d.str()?.parse().map_err(|_| Malformed::new("expected a tenant name"))?;
    Ok((tenant, VerifierId::from_bytes(fixed(d)?), fixed(d)?))
}

impl<T: Statement> Canonical for Signed<T> {
    const MAX_BYTES: usize = T::MAX_BYTES + 80;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(2)?.bytes(&self.payload)?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 2)?;
        Ok(Self { payload: d.bytes()?.to_vec(), signature: fixed(d)?, kind: PhantomData })
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::fixture::tenant;
    use crate::token::tests::key;

    fn ack() -> Ack {
        Ack {
            tenant: tenant(),
            verifier: VerifierId::from_bytes([1; 16]),
            run: [2; 16],
            number: 3,
            epoch: 1,
            seq: 4,
            hash: [5; 32],
            fresh_age_ms: 6,
            utc: UtcMillis(1_900_000_000_000),
            mode: Mode::Bounded { ms: 500 },
        }
    }

    fn sign_in() -> SignIn {
        let Ack { tenant, verifier, run, utc, .. } = ack();
        SignIn { tenant, verifier, run, audience: "payments/1".parse().unwrap(), nonce: vec![7; 32], utc, mode: Mode::Strict { ms: 150 } }
    }

    #[test]
    fn a_statement_reads_back_under_its_own_key_and_as_its_own_kind() {
        let signed = Signed::sign(&ack(), &key(20));
        let bytes = signed.to_bytes();
        assert_eq!(Signed::<Ack>::from_bytes(&bytes).unwrap().open(&Key::of(&key(20))), Ok(ack()));
        assert!(signed.open(&Key::of(&key(21))).is_err());
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        assert!(Signed::<Ack>::from_bytes(&other).unwrap().open(&Key::of(&key(20))).is_err());
        assert!(Signed::<SignIn>::from_bytes(&bytes).unwrap().open(&Key::of(&key(20))).is_err(), "an acknowledgement opens no stream");
        let stream = Signed::sign(&sign_in(), &key(20));
        assert_eq!(stream.open(&Key::of(&key(20))), Ok(sign_in()));
        assert!(bytes.len() < 256 && stream.to_bytes().len() < 256, "{} {}", bytes.len(), stream.to_bytes().len());
    }

    /// Written by hand from the specification.
    #[test]
    fn statements_are_these_bytes() {
        let utc = "1b000001ba60d33800";
        let ack_hex = format!("8b0164{}50{}50{}0301045820{}06{utc}1901f4", hex::encode("acme"), "01".repeat(16), "02".repeat(16), "05".repeat(32));
        assert_eq!(hex::encode(ack().to_bytes()), ack_hex);
        let best_effort = Ack { mode: Mode::BestEffort, ..ack() };
        assert_eq!(hex::encode(best_effort.to_bytes()), format!("{}f6", ack_hex.trim_end_matches("1901f4")));
        let head = format!("880164{}50{}50{}", hex::encode("acme"), "01".repeat(16), "02".repeat(16));
        let sign_in_hex = format!("{head}6a{}5820{}{utc}1896", hex::encode("payments/1"), "07".repeat(32));
        assert_eq!(hex::encode(sign_in().to_bytes()), sign_in_hex);
    }

    #[test]
    fn what_is_not_in_the_documented_form_is_refused() {
        for wrong in [Ack { number: 0, ..ack() }, Ack { epoch: 0, ..ack() }] {
            assert!(Ack::from_bytes(&wrong.to_bytes()).is_err(), "{wrong:?}");
        }
        for nonce in [vec![0; 15], vec![0; 33]] {
            assert!(SignIn::from_bytes(&SignIn { nonce, ..sign_in() }.to_bytes()).is_err());
        }
        let good = ack().to_bytes();
        assert_eq!(Ack::from_bytes(&good), Ok(ack()));
        let best_effort = Ack { mode: Mode::BestEffort, ..ack() };
        assert_eq!(Ack::from_bytes(&best_effort.to_bytes()), Ok(best_effort), "no bound at all");
        // A bound in words is none.
        let mut words = good.clone();
        words.truncate(words.len() - 3);
        words.extend([0x62, b'1', b's']);
        assert!(Ack::from_bytes(&words).is_err());
        assert!(Ack::from_bytes(&[good, vec![0]].concat()).is_err());
    }
}
