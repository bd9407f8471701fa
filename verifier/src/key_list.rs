//! The key list: which keys of a tenant's authority live, for what, and when. Signed by the anchors (`spec/token.md`, Keys).
//!
//! ```text
//! payload    = [1, tenant, version, issued_ms, max_ttl_secs, [[use, key, from_ms, until_ms], …], [dead key, …]]
//! key list   = [payload bytes, [[anchor key, signature], …]]      signature over "procura-key-list/1\0" || payload
//! ```

use minicbor::Decoder;

use crate::ids::{Key, Tenant, UtcMillis};
use crate::wire::{Canonical, Enc, Malformed, array, fixed, list};

/// What a key of the authority signs, and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum KeyUse {
    /// Block 0 of tokens.
    Root = 0,
    /// Feed messages.
    Feed = 1,
    /// Log leaves.
    Event = 2,
    /// Log checkpoints.
    Log = 3,
    /// Agent cards.
    Card = 4,
    /// Approvals.
    Approval = 5,
}

impl KeyUse {
    /// Every use.
    pub const ALL: [Self; 6] = [Self::Root, Self::Feed, Self::Event, Self::Log, Self::Card, Self::Approval];

    /// Its word, as on the command line and in names of key files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Feed => "feed",
            Self::Event => "event",
            Self::Log => "log",
            Self::Card => "card",
            Self::Approval => "approval",
        }
    }

    fn from_number(n: u8) -> Result<Self, Malformed> {
        Self::ALL.get(usize::from(n)).copied().ok_or(Malformed::new("expected a key use from 0 to 5"))
    }
}

impl std::str::FromStr for KeyUse {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|u| u.name() == text).ok_or(Malformed::new("expected root, feed, event, log, card or approval"))
    }
}

/// A key with its use and validity window: valid at `t` when `from ≤ t ≤ until`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedKey {
    /// What it signs.
    pub usage: KeyUse,
    /// The public key.
    pub key: Key,
    /// First moment of its validity.
    pub from: UtcMillis,
    /// Last moment of its validity.
    pub until: UtcMillis,
}

/// What the anchors sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyListPayload {
    /// Whose keys.
    pub tenant: Tenant,
    /// Rises with each list; verifiers never go back.
    pub version: u64,
    /// When it was made.
    pub issued: UtcMillis,
    /// Longest life of a token, in seconds (law 2).
    pub max_ttl_secs: u64,
    /// The keys, sorted by use and key.
    pub keys: Vec<ListedKey>,
    /// Keys that are dead whatever their window says, sorted.
    pub dead: Vec<Key>,
}

impl Canonical for KeyListPayload {
    const MAX_BYTES: usize = 32 * 1024;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(7)?.u8(1)?.str(self.tenant.as_str())?.u64(self.version)?.u64(self.issued.0)?.u64(self.max_ttl_secs)?;
        e.array(self.keys.len() as u64)?;
        for k in &self.keys {
            e.array(4)?.u8(k.usage as u8)?.bytes(k.key.as_bytes())?.u64(k.from.0)?.u64(k.until.0)?;
        }
        e.array(self.dead.len() as u64)?;
        for key in &self.dead {
            e.bytes(key.as_bytes())?;
        }
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 7)?;
        if d.u8()? != 1 {
            return Err(Malformed::new("expected a key list of version 1"));
        }
        let tenant = d.str()?.parse().map_err(|_| Malformed::new("expected a tenant name"))?;
        let (version, issued, max_ttl_secs) = (d.u64()?, UtcMillis(d.u64()?), d.u64()?);
        let keys = (0..list(d, MAX_KEYS)?)
            .map(|_| {
                array(d, 4)?;
                Ok(ListedKey { usage: KeyUse::from_number(d.u8()?)?, key: Key::from_bytes(fixed(d)?), from: UtcMillis(d.u64()?), until: UtcMillis(d.u64()?) })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let dead = (0..list(d, MAX_KEYS)?).map(|_| Ok(Key::from_bytes(fixed(d)?))).collect::<Result<Vec<_>, Malformed>>()?;
        // A key listed twice, under one use or two, could be inside one window and outside another.
        let mut seen: Vec<_> = keys.iter().map(|k| k.key).collect();
        seen.sort_unstable();
        if seen.windows(2).any(|w| w.first() == w.last()) || !keys.is_sorted_by_key(|k| (k.usage, k.key)) || !dead.is_sorted_by(|a, b| a < b) {
            return Err(Malformed::new("expected keys sorted and none listed twice"));
        }
        Ok(Self { tenant, version, issued, max_ttl_secs, keys, dead })
    }
}

/// A signed key list as it travels. Nothing in it may be used before [`Anchors::accept`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnverifiedKeyList {
    payload: Vec<u8>,
    signatures: Vec<(Key, [u8; 64])>,
}

impl UnverifiedKeyList {
    /// Signs a payload with anchors' keys.
    pub fn sign(payload: &KeyListPayload, anchors: &[&ed25519_dalek::SigningKey]) -> Self {
        use ed25519_dalek::Signer as _;
        let payload = payload.to_bytes();
        let message = signed_bytes(&payload);
        let mut signatures: Vec<_> = anchors.iter().map(|a| (Key::of(a), a.sign(&message).to_bytes())).collect();
        signatures.sort_unstable();
        Self { payload, signatures }
    }

    /// What it says, for people to look at and for anchors to sign. Nobody vouches for it.
    pub fn unverified_payload(&self) -> Result<KeyListPayload, Malformed> {
        KeyListPayload::from_bytes(&self.payload)
    }

    /// SHA-256 of what is signed: the same however many anchors have signed. What people compare before they sign.
    pub fn fingerprint(&self) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(&self.payload).into()
    }

    /// The anchors whose signature it carries, wrong ones excepted.
    pub fn signers(&self) -> impl Iterator<Item = &Key> {
        let message = signed_bytes(&self.payload);
        self.signatures.iter().filter(move |(k, s)| k.verifies(&message, s)).map(|(k, _)| k)
    }

    /// Adds one anchor's signature, or writes it again. At most 16 stand beside each other.
    pub fn add_signature(&mut self, anchor: &ed25519_dalek::SigningKey) -> Result<(), Malformed> {
        let one = Self { payload: self.payload.clone(), signatures: Vec::new() };
        let signed = Self::sign(&one.unverified_payload()?, &[anchor]);
        self.merge(&signed)
    }

    /// Takes over the signatures of the same list: anchors sign apart and in any order.
    pub fn merge(&mut self, other: &Self) -> Result<(), Malformed> {
        if self.payload != other.payload {
            return Err(Malformed::new("expected signatures of the same key list"));
        }
        for signature in &other.signatures {
            self.signatures.retain(|(key, _)| *key != signature.0);
            self.signatures.push(*signature);
        }
        if self.signatures.len() > MAX_ANCHORS {
            return Err(Malformed::new("expected at most 16 anchor signatures"));
        }
        self.signatures.sort_unstable();
        Ok(())
    }
}

impl Canonical for UnverifiedKeyList {
    const MAX_BYTES: usize = 40 * 1024;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(2)?.bytes(&self.payload)?.array(self.signatures.len() as u64)?;
        for (key, signature) in &self.signatures {
            e.array(2)?.bytes(key.as_bytes())?.bytes(signature)?;
        }
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 2)?;
        let payload = d.bytes()?.to_vec();
        let signatures = (0..list(d, MAX_ANCHORS)?)
            .map(|_| {
                array(d, 2)?;
                Ok((Key::from_bytes(fixed(d)?), fixed(d)?))
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        if !signatures.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Malformed::new("expected anchor signatures sorted by key, one each"));
        }
        Ok(Self { payload, signatures })
    }
}

/// The offline keys that alone can say which keys live: any `threshold` of them together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anchors {
    keys: Vec<Key>,
    threshold: usize,
}

/// Why a key list was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyListError {
    /// Not the documented bytes.
    #[error("key list: {0}")]
    Malformed(#[from] Malformed),
    /// Too few anchors signed it.
    #[error("key list carries {valid} valid anchor signatures, expected at least {expected}")]
    Signatures {
        /// Valid signatures by distinct anchors.
        valid: usize,
        /// The threshold.
        expected: usize,
    },
    /// It is another tenant's.
    #[error("key list is of tenant `{got}`, expected `{expected}`")]
    Tenant {
        /// The tenant it names.
        got: Tenant,
        /// The tenant expected.
        expected: Tenant,
    },
    /// The anchors of a trust file make no sense.
    #[error("expected 1 to {MAX_ANCHORS} distinct anchors and a threshold from 1 to their number")]
    Anchors,
}

impl Anchors {
    /// These keys, of which `threshold` must sign.
    pub fn new(mut keys: Vec<Key>, threshold: usize) -> Result<Self, KeyListError> {
        keys.sort_unstable();
        keys.dedup();
        if keys.len() > MAX_ANCHORS || threshold == 0 || threshold > keys.len() {
            return Err(KeyListError::Anchors);
        }
        Ok(Self { keys, threshold })
    }

    /// The anchors' keys, sorted.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many of them must sign.
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// The list, if enough anchors signed it and it is of this tenant. The caller keeps the highest version.
    pub fn accept(&self, list: &UnverifiedKeyList, tenant: &Tenant) -> Result<KeyList, KeyListError> {
        let message = signed_bytes(&list.payload);
        let valid = list.signatures.iter().filter(|(k, s)| self.keys.contains(k) && k.verifies(&message, s)).count();
        if valid < self.threshold {
            return Err(KeyListError::Signatures { valid, expected: self.threshold });
        }
        let payload = KeyListPayload::from_bytes(&list.payload)?;
        if payload.tenant != *tenant {
            return Err(KeyListError::Tenant { got: payload.tenant, expected: tenant.clone() });
        }
        let points = payload.keys.iter().map(|k| ed25519_dalek::VerifyingKey::from_bytes(k.key.as_bytes()).ok()).collect();
        Ok(KeyList { hash: hash(list), payload, points })
    }
}

/// A key list that the anchors signed: only [`Anchors::accept`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyList {
    payload: KeyListPayload,
    hash: [u8; 32],
    /// The keys as points of the curve, in the order of the payload: decoding one costs a tenth of a verification, and every token would pay it.
    points: Vec<Option<ed25519_dalek::VerifyingKey>>,
}

impl KeyList {
    /// What the anchors signed.
    pub const fn payload(&self) -> &KeyListPayload {
        &self.payload
    }

    /// SHA-256 of the signed list: heartbeats carry it beside the version.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// True if `key` is dead whatever its window says.
    pub fn is_dead(&self, key: &Key) -> bool {
        self.payload.dead.binary_search(key).is_ok()
    }

    /// The entry for a key with this use, dead ones excepted.
    pub fn find(&self, usage: KeyUse, key: &Key) -> Option<&ListedKey> {
        if self.is_dead(key) {
            return None;
        }
        let at = self.payload.keys.binary_search_by_key(&(usage, *key), |k| (k.usage, k.key)).ok()?;
        self.payload.keys.get(at)
    }

    /// True if `key` has this use and is inside its window at `t`.
    pub fn is_live(&self, usage: KeyUse, key: &Key, t: UtcMillis) -> bool {
        self.find(usage, key).is_some_and(|k| k.from <= t && t <= k.until)
    }

    /// The living key of one use, begun as `hint` says, that made this signature.
    pub(crate) fn signer(&self, usage: KeyUse, hint: [u8; 4], message: &[u8], signature: &[u8; 64]) -> Option<Key> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        let listed = self.payload.keys.iter().zip(&self.points);
        let meant = listed.filter(|(k, _)| k.usage == usage && crate::card::hint(&k.key) == hint && !self.is_dead(&k.key));
        let mut signers = meant.filter(|(_, point)| point.is_some_and(|p| p.verify_strict(message, &signature).is_ok()));
        signers.next().map(|(k, _)| k.key)
    }

    /// The living keys of one use.
    pub fn of(&self, usage: KeyUse) -> impl Iterator<Item = &ListedKey> {
        self.payload.keys.iter().filter(move |k| k.usage == usage && !self.is_dead(&k.key))
    }
}

/// SHA-256 of a signed list as it travels.
pub fn hash(list: &UnverifiedKeyList) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(list.to_bytes()).into()
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [PREFIX, payload].concat()
}

const PREFIX: &[u8] = b"procura-key-list/1\0";
const MAX_KEYS: usize = 256;
const MAX_ANCHORS: usize = 16;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn signing(n: u8) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[n; 32])
    }

    fn payload() -> KeyListPayload {
        KeyListPayload {
            tenant: "acme".parse().expect("a tenant"),
            version: 3,
            issued: UtcMillis(5),
            max_ttl_secs: 3600,
            keys: vec![ListedKey { usage: KeyUse::Root, key: Key::of(&signing(9)), from: UtcMillis(10), until: UtcMillis(20) }],
            dead: vec![],
        }
    }

    #[test]
    fn two_of_three_anchors_suffice_and_one_twice_does_not() {
        let anchors = Anchors::new(vec![Key::of(&signing(1)), Key::of(&signing(2)), Key::of(&signing(3))], 2).expect("anchors");
        let tenant = "acme".parse().expect("a tenant");
        let good = UnverifiedKeyList::sign(&payload(), &[&signing(1), &signing(3)]);
        let list = anchors.accept(&UnverifiedKeyList::from_bytes(&good.to_bytes()).expect("canonical"), &tenant).expect("accepted");
        assert!(list.is_live(KeyUse::Root, &Key::of(&signing(9)), UtcMillis(20)));
        assert!(!list.is_live(KeyUse::Root, &Key::of(&signing(9)), UtcMillis(21)));
        assert!(!list.is_live(KeyUse::Feed, &Key::of(&signing(9)), UtcMillis(15)));

        let twice = UnverifiedKeyList::sign(&payload(), &[&signing(1), &signing(1)]);
        assert!(UnverifiedKeyList::from_bytes(&twice.to_bytes()).is_err());
        let stranger = UnverifiedKeyList::sign(&payload(), &[&signing(1), &signing(7)]);
        assert_eq!(anchors.accept(&stranger, &tenant), Err(KeyListError::Signatures { valid: 1, expected: 2 }));
        assert!(matches!(anchors.accept(&good, &"other".parse().expect("a tenant")), Err(KeyListError::Tenant { .. })));
    }

    #[test]
    fn anchors_sign_apart_and_in_any_order() {
        let unsigned = UnverifiedKeyList::sign(&payload(), &[]);
        let (mut a, mut b) = (unsigned.clone(), unsigned.clone());
        a.add_signature(&signing(1)).expect("signed");
        b.add_signature(&signing(3)).expect("signed");
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.merge(&b).expect("the same list");
        ba.merge(&a).expect("the same list");
        assert_eq!((&ab, ab.fingerprint()), (&ba, unsigned.fingerprint()));
        assert_eq!(ab, UnverifiedKeyList::sign(&payload(), &[&signing(1), &signing(3)]));
        ab.add_signature(&signing(1)).expect("again");
        assert_eq!(ab, ba);
        assert_eq!(ab.signers().count(), 2);
        let other = UnverifiedKeyList::sign(&KeyListPayload { version: 4, ..payload() }, &[&signing(2)]);
        assert!(ab.merge(&other).is_err());
        ab.signatures[0].1[0] ^= 1;
        assert_eq!(ab.signers().count(), 1);
    }

    #[test]
    fn a_dead_key_is_dead_inside_its_window() {
        let anchors = Anchors::new(vec![Key::of(&signing(1))], 1).expect("anchors");
        let tenant = "acme".parse().expect("a tenant");
        let dead = KeyListPayload { dead: vec![Key::of(&signing(9))], ..payload() };
        let list = anchors.accept(&UnverifiedKeyList::sign(&dead, &[&signing(1)]), &tenant).expect("accepted");
        assert!(!list.is_live(KeyUse::Root, &Key::of(&signing(9)), UtcMillis(15)));
    }
}
