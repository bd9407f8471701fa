//! Proof of possession: the last holder's signature over one call, spent once (law 5).
//!
//! ```text
//! proof     = [1, audience, time_ms, nonce (32), seed (32), signature (64)]
//! signature over "procura-proof/1\0" || [kind 0, SHA-256 of the presented token, audience, call hash, time_ms, nonce]
//! ```
//! The first half of the nonce is the instance's challenge, the second half random.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use ed25519_dalek::Signer as _;
use minicbor::{Decoder, Encoder};

use crate::call::{Call, Seed};
use crate::claims::Audience;
use crate::decision::Cause;
use crate::ids::{Key, UtcMillis};
use crate::wire::{Canonical, Enc, Malformed, array, fixed};

/// A challenge of an instance: the first half of every nonce made for it.
pub type Challenge = [u8; 16];

/// How far a proof's time may lie from authority time, before or after.
pub const WINDOW_MS: u64 = 30_000;

/// A proof as it travels beside a token.
#[derive(Clone, PartialEq, Eq)]
pub struct UnverifiedProof {
    audience: Audience,
    time: UtcMillis,
    nonce: [u8; 32],
    seed: Seed,
    signature: [u8; 64],
}

impl UnverifiedProof {
    /// Signs a call. `nonce_half` and `seed` are fresh and random for each call.
    pub fn sign(
        holder: &ed25519_dalek::SigningKey,
        token_hash: &[u8; 32],
        call: &Call<'_>,
        time: UtcMillis,
        challenge: &Challenge,
        nonce_half: [u8; 16],
        seed: Seed,
    ) -> Self {
        let mut nonce = [0; 32];
        for (to, from) in nonce.iter_mut().zip(challenge.iter().chain(&nonce_half)) {
            *to = *from;
        }
        let message = message(token_hash, call.audience, &call.hash(&seed), time, &nonce);
        Self { audience: call.audience.clone(), time, nonce, seed, signature: holder.sign(&message).to_bytes() }
    }

    /// The proof, if `holder` made it for this token and this call. Whether it is fresh is for [`ReplayCache::spend`].
    ///
    /// Costs one Ed25519 verification.
    pub fn verify<'a>(self, holder: &Key, token_hash: &[u8; 32], call: &Call<'a>) -> Result<VerifiedProof<'a>, Cause> {
        if self.audience != *call.audience {
            return Err(Cause::Audience);
        }
        let call_hash = call.hash(&self.seed);
        let signed = SignedProof { audience: self.audience, time: self.time, nonce: self.nonce, signature: self.signature };
        let proven = signed.prove(holder, token_hash, *call, &call_hash).ok_or(Cause::Holder)?;
        Ok(VerifiedProof { proven, seed: self.seed, signed })
    }
}

/// A proof without its seed, as a receipt keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedProof {
    /// The instance it was made for.
    pub audience: Audience,
    /// When the holder says it was made.
    pub time: UtcMillis,
    /// Challenge and random half.
    pub nonce: [u8; 32],
    /// The holder's signature.
    pub signature: [u8; 64],
}

impl SignedProof {
    const fn is_inside(&self, now: UtcMillis) -> bool {
        self.time.0.abs_diff(now.0) <= WINDOW_MS
    }

    /// What is proven, if `holder` signed this token hash and call hash. The caller answers for the hash being the call's.
    pub(crate) fn prove<'a>(&self, holder: &Key, token_hash: &[u8; 32], call: Call<'a>, call_hash: &[u8; 32]) -> Option<Proven<'a>> {
        let message = message(token_hash, &self.audience, call_hash, self.time, &self.nonce);
        holder.verifies(&message, &self.signature).then_some(Proven { holder: *holder, token_hash: *token_hash, call })
    }
}

/// That a key signed for a token and a call: only a verification makes one, and the decision is about the call in it.
#[derive(Clone, Copy)]
pub struct Proven<'a> {
    holder: Key,
    token_hash: [u8; 32],
    call: Call<'a>,
}

impl<'a> Proven<'a> {
    /// The key that signed.
    pub const fn holder(&self) -> &Key {
        &self.holder
    }
    /// SHA-256 of the token it was made for.
    pub const fn token_hash(&self) -> &[u8; 32] {
        &self.token_hash
    }
    /// The call it was made for.
    pub const fn call(&self) -> &Call<'a> {
        &self.call
    }
}

impl Canonical for UnverifiedProof {
    const MAX_BYTES: usize = 256;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(6)?.u8(1)?.str(self.audience.as_str())?.u64(self.time.0)?;
        e.bytes(&self.nonce)?.bytes(self.seed.as_bytes())?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 6)?;
        if d.u8()? != 1 {
            return Err(Malformed::new("expected a proof of version 1"));
        }
        let audience = d.str()?.parse()?;
        Ok(Self { audience, time: UtcMillis(d.u64()?), nonce: fixed(d)?, seed: Seed::from_bytes(fixed(d)?), signature: fixed(d)? })
    }
}

// No derived `Debug`: the seed opens the commitments of a receipt.
impl std::fmt::Debug for UnverifiedProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UnverifiedProof({})", self.audience)
    }
}

fn message(token_hash: &[u8; 32], audience: &Audience, call_hash: &[u8; 32], time: UtcMillis, nonce: &[u8; 32]) -> Vec<u8> {
    let mut m = Vec::with_capacity(224);
    m.extend_from_slice(b"procura-proof/1\0");
    let mut e = Encoder::new(m);
    // Writing into a `Vec` cannot fail.
    _ = (|| e.array(6)?.u8(0)?.bytes(token_hash)?.str(audience.as_str())?.bytes(call_hash)?.u64(time.0)?.bytes(nonce)?.ok())();
    e.into_writer()
}

/// A proof whose signature was checked: only [`UnverifiedProof::verify`] makes one.
#[derive(Clone)]
pub struct VerifiedProof<'a> {
    proven: Proven<'a>,
    seed: Seed,
    signed: SignedProof,
}

impl<'a> VerifiedProof<'a> {
    /// Who signed for what.
    pub const fn proven(&self) -> &Proven<'a> {
        &self.proven
    }
    /// What makes the salts of the arguments.
    pub const fn seed(&self) -> &Seed {
        &self.seed
    }
    /// What a receipt keeps.
    pub const fn signed(&self) -> &SignedProof {
        &self.signed
    }
}

/// Spends proofs once, for one instance (`replay = single`). Bounded: full means `unavailable`, never a second use.
///
/// Two generations of nonces, each living at least two windows: a nonce is forgotten only when its proof is too old to be taken.
pub struct ReplayCache {
    capacity: usize,
    state: Mutex<Spent>,
}

struct Spent {
    challenge: Challenge,
    young: HashSet<[u8; 32], ahash::RandomState>,
    /// How many of the young ones are whose: one holder cannot fill the cache for all.
    shares: HashMap<Key, usize, ahash::RandomState>,
    old: HashSet<[u8; 32], ahash::RandomState>,
    turned: UtcMillis,
}

impl ReplayCache {
    /// A cache for at most `capacity` proofs per two windows (64 bytes each), with a fresh random challenge.
    pub fn new(challenge: Challenge, capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            state: Mutex::new(Spent { challenge, young: HashSet::default(), shares: HashMap::default(), old: HashSet::default(), turned: UtcMillis(0) }),
        }
    }

    /// The challenge that nonces must start with.
    pub fn challenge(&self) -> Challenge {
        self.lock().challenge
    }

    /// Draws a new challenge: proofs made for the old one are refused. After a pause nobody knows what was forgotten (law 7).
    pub fn renew(&self, challenge: Challenge) {
        self.lock().challenge = challenge;
    }

    /// True if the proof is of now: for this challenge and, where the time is known, inside its window. Only such a one says
    /// that its holder is there; an older one may come from whoever saw it pass.
    pub fn is_current(&self, proof: &VerifiedProof<'_>, now: Option<UtcMillis>) -> bool {
        proof.signed.nonce.starts_with(&self.challenge()) && now.is_none_or(|now| proof.signed.is_inside(now))
    }

    /// Spends a proof, or says why it cannot be: [`Cause::Replay`] or [`Cause::Unavailable`].
    pub fn spend(&self, proof: &VerifiedProof<'_>, now: UtcMillis) -> Result<(), Cause> {
        self.spend_noting(proof, now).0
    }

    /// [`ReplayCache::spend`], and the challenge it went by: a receipt that named one drawn a moment before or after would
    /// make an honest verifier look like a liar.
    pub fn spend_noting(&self, proof: &VerifiedProof<'_>, now: UtcMillis) -> (Result<(), Cause>, Challenge) {
        let mut spent = self.lock();
        let challenge = spent.challenge;
        (self.take(&mut spent, proof, now), challenge)
    }

    fn take(&self, spent: &mut Spent, proof: &VerifiedProof<'_>, now: UtcMillis) -> Result<(), Cause> {
        let nonce = &proof.signed.nonce;
        if !nonce.starts_with(&spent.challenge) || !proof.signed.is_inside(now) {
            return Err(Cause::Replay);
        }
        if now.0.saturating_sub(spent.turned.0) > 2 * WINDOW_MS {
            spent.old = std::mem::take(&mut spent.young);
            spent.shares.clear();
            spent.turned = now;
        }
        // Nonces are random and signed; the holder is not part of the key, so two holders cannot share one either.
        if spent.old.contains(nonce) || spent.young.contains(nonce) {
            return Err(Cause::Replay);
        }
        let full = spent.young.len() >= self.capacity;
        let share = spent.shares.entry(*proof.proven.holder()).or_default();
        if full || *share >= self.capacity.div_ceil(HOLDERS_SHARE) {
            return Err(Cause::Unavailable);
        }
        *share += 1;
        spent.young.insert(*nonce);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Spent> {
        // Nothing panics while the lock is held; a poisoned cache is still complete.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One holder has at most this part of the cache.
const HOLDERS_SHARE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Arguments;
    use crate::claims::DataClass;
    use crate::token::tests::key;

    fn with_call<R>(audience: &str, json: &str, f: impl FnOnce(&Call<'_>) -> R) -> R {
        let args = Arguments::from_json(json.as_bytes()).unwrap();
        f(&Call {
            tenant: &"acme".parse().unwrap(),
            audience: &audience.parse().unwrap(),
            tool: &"payments".parse().unwrap(),
            action: &"transfer".parse().unwrap(),
            resource: &"acct/eu/7".parse().unwrap(),
            args: &args,
            data_class: DataClass::Restricted,
        })
    }

    fn proof(n: u8, time: u64) -> UnverifiedProof {
        with_call("payments/1", r#"{"amount":1}"#, |c| {
            UnverifiedProof::sign(&key(10), &[1; 32], c, UtcMillis(time), &[7; 16], [n; 16], Seed::from_bytes([n; 32]))
        })
    }

    fn spend(cache: &ReplayCache, n: u8, time: u64, now: u64) -> Result<(), Cause> {
        with_call("payments/1", r#"{"amount":1}"#, |c| cache.spend(&proof(n, time).verify(&Key::of(&key(10)), &[1; 32], c).unwrap(), UtcMillis(now)))
    }

    #[test]
    fn a_proof_is_for_one_holder_token_audience_and_call() {
        let holder = Key::of(&key(10));
        let check =
            |audience: &str, json: &str, holder: &Key, token: [u8; 32]| with_call(audience, json, |c| proof(1, 5).verify(holder, &token, c).map(|_| ()));
        assert_eq!(check("payments/1", r#"{"amount":1}"#, &holder, [1; 32]), Ok(()));
        assert_eq!(check("payments/2", r#"{"amount":1}"#, &holder, [1; 32]), Err(Cause::Audience));
        assert_eq!(check("payments/1", r#"{"amount":2}"#, &holder, [1; 32]), Err(Cause::Holder));
        assert_eq!(check("payments/1", r#"{"amount":1}"#, &Key::of(&key(11)), [1; 32]), Err(Cause::Holder));
        assert_eq!(check("payments/1", r#"{"amount":1}"#, &holder, [2; 32]), Err(Cause::Holder));
        let wire = proof(1, 5).to_bytes();
        assert_eq!(UnverifiedProof::from_bytes(&wire), Ok(proof(1, 5)));
        assert!(wire.len() < 200);
    }

    #[test]
    fn a_proof_is_spent_once_inside_its_window_and_for_its_challenge() {
        let t = 1_000_000;
        let cache = ReplayCache::new([7; 16], 8);
        assert_eq!(spend(&cache, 1, t, t), Ok(()));
        assert_eq!(spend(&cache, 1, t, t + 1), Err(Cause::Replay));
        assert_eq!(spend(&cache, 2, t, t + WINDOW_MS + 1), Err(Cause::Replay));
        assert_eq!(spend(&cache, 2, t, t + WINDOW_MS), Ok(()));
        assert_eq!(spend(&cache, 3, t, t), Err(Cause::Unavailable));
        assert_eq!(spend(&cache, 2, t, t), Err(Cause::Replay), "a full share still knows what it spent");

        let cache = ReplayCache::new([7; 16], 2);
        let noted = |cache: &ReplayCache| {
            with_call("payments/1", r#"{"amount":1}"#, |c| cache.spend_noting(&proof(1, t).verify(&Key::of(&key(10)), &[1; 32], c).unwrap(), UtcMillis(t)))
        };
        cache.renew([8; 16]);
        assert_eq!(noted(&cache), (Err(Cause::Replay), [8; 16]));
        cache.renew([7; 16]);
        assert_eq!(noted(&cache), (Ok(()), [7; 16]));
    }

    #[test]
    fn no_nonce_is_forgotten_while_its_proof_could_be_taken() {
        let cache = ReplayCache::new([7; 16], 100);
        let t = 1_000_000;
        assert_eq!(spend(&cache, 1, t + WINDOW_MS, t), Ok(()));
        for later in (0..=2 * WINDOW_MS).step_by(500) {
            assert_eq!(spend(&cache, 1, t + WINDOW_MS, t + later), Err(Cause::Replay), "{later} ms later");
            _ = spend(&cache, (later / 500 % 200) as u8 + 2, t + later, t + later);
        }
    }
}
