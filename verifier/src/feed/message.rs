//! The feed's messages: read and write side by side (`spec/feed.md`, messages).
//!
//! ```text
//! message     = [payload bytes, feed key, signature]      signature over "procura-feed/1\0" || payload
//! batch       = [1, tenant, 1, epoch, seq, prev, issued_ms, [[log_index, [kind, body]], …]]
//! heartbeat   = [1, tenant, 2, epoch, head_seq, head_hash, clock, t_us, utc_ms, key_list_version, key_list_hash, [size, root], [nonce, …]]
//! epoch start = [1, tenant, 3, epoch, prev_epoch, last_seq, last_hash, issued_ms]
//! key list    = [1, tenant, 4, version, hash, signed list bytes, issued_ms]
//! manifest    = [1, tenant, 5, epoch, seq, hash, issued_ms, [[kind, bucket, count, sha256, bytes], …]]    (snapshot.rs)
//! ```
//! The hash of a message is SHA-256 of its payload: signing it again, with whatever key, makes no other message.

mod item;

use minicbor::Decoder;
use sha2::{Digest as _, Sha256};

use super::snapshot::Manifest;
use crate::ids::{ClockId, Key, Tenant, UtcMillis};
use crate::key_list::{KeyList, KeyListError, KeyUse};
use crate::wire::{Canonical, Enc, Malformed, array, fixed, list};
pub use item::{FloorScope, Freeze, Item};

/// Longest signed message, in bytes (F2).
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Most nonces that one heartbeat answers (F2).
pub const MAX_NONCES: usize = 64;

/// What one commit took back. It takes one number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Whose feed.
    pub tenant: Tenant,
    /// The numbering it belongs to, from 1.
    pub epoch: u64,
    /// Its number, from 1 in each epoch.
    pub seq: u64,
    /// Hash of the message numbered one less.
    pub prev: [u8; 32],
    /// When it was committed, by the authority's clock.
    pub issued: UtcMillis,
    /// Each item with the index of its leaf in the log.
    pub items: Vec<(u64, Item)>,
}

/// "At my clock's `t_us` the head was `head_seq`" (F10). Takes no number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// Whose feed.
    pub tenant: Tenant,
    /// The numbering of the head.
    pub epoch: u64,
    /// Number of the newest batch, 0 if none in this epoch.
    pub head_seq: u64,
    /// Its hash; at 0 the hash of the epoch start, in epoch 1 [`genesis_hash`].
    pub head_hash: [u8; 32],
    /// Which boot-time clock `t_us` was read on.
    pub clock: ClockId,
    /// When, in microseconds of that clock: taken before the head was read.
    pub t_us: u64,
    /// The same moment in authority UTC.
    pub utc: UtcMillis,
    /// Version of the newest key list.
    pub key_list_version: u64,
    /// Hash of that list.
    pub key_list_hash: [u8; 32],
    /// Size and root of the newest log checkpoint.
    pub checkpoint: (u64, [u8; 32]),
    /// The nonces it answers: each arrived before `t_us` was taken. At most 64, of 16 to 32 bytes.
    pub nonces: Vec<Vec<u8>>,
}

/// The numbering begins anew: after a loss (a restored backup), under a name that the break can be seen by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// Whose feed.
    pub tenant: Tenant,
    /// The new epoch. Stands where number 0 would.
    pub epoch: u64,
    /// The epoch before it.
    pub prev_epoch: u64,
    /// The last number of that epoch that the authority still has.
    pub last_seq: u64,
    /// Its hash.
    pub last_hash: [u8; 32],
    /// When it began, by the authority's clock. Confirms a jump of that clock.
    pub issued: UtcMillis,
}

/// A push of a new key list, so that nobody waits for the pull. Takes no number; the list is believed for its anchors' signatures alone (F8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyListChange {
    /// Whose feed.
    pub tenant: Tenant,
    /// The list's version.
    pub version: u64,
    /// Its hash, as heartbeats name it.
    pub hash: [u8; 32],
    /// The signed list as it travels. Not read before somebody is to believe it: junk in here is no reason to be stale.
    pub list: Vec<u8>,
    /// When it was announced, by the authority's clock.
    pub issued: UtcMillis,
}

/// What a feed key signs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Something was taken back.
    Batch(Batch),
    /// The head at a moment.
    Heartbeat(Heartbeat),
    /// A new numbering.
    EpochStart(EpochStart),
    /// A new key list.
    KeyListChange(KeyListChange),
    /// The contents page of a snapshot.
    Manifest(Manifest),
}

impl Message {
    /// Whose feed.
    pub const fn tenant(&self) -> &Tenant {
        match self {
            Self::Batch(m) => &m.tenant,
            Self::Heartbeat(m) => &m.tenant,
            Self::EpochStart(m) => &m.tenant,
            Self::KeyListChange(m) => &m.tenant,
            Self::Manifest(m) => &m.tenant,
        }
    }

    /// When it was made, by the authority's clock: the feed key's window is asked about this moment.
    pub const fn utc(&self) -> UtcMillis {
        match self {
            Self::Batch(m) => m.issued,
            Self::Heartbeat(m) => m.utc,
            Self::EpochStart(m) => m.issued,
            Self::KeyListChange(m) => m.issued,
            Self::Manifest(m) => m.issued,
        }
    }
}

impl Canonical for Message {
    const MAX_BYTES: usize = MAX_MESSAGE_BYTES;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        match self {
            Self::Batch(m) => {
                e.array(8)?.u8(VERSION)?.str(m.tenant.as_str())?.u8(1)?.u64(m.epoch)?.u64(m.seq)?.bytes(&m.prev)?.u64(m.issued.0)?;
                e.array(m.items.len() as u64)?;
                for (log_index, item) in &m.items {
                    e.array(2)?.u64(*log_index)?;
                    item.write(e)?;
                }
            }
            Self::Heartbeat(m) => {
                e.array(13)?.u8(VERSION)?.str(m.tenant.as_str())?.u8(2)?.u64(m.epoch)?.u64(m.head_seq)?.bytes(&m.head_hash)?;
                e.bytes(m.clock.as_bytes())?.u64(m.t_us)?.u64(m.utc.0)?.u64(m.key_list_version)?.bytes(&m.key_list_hash)?;
                e.array(2)?.u64(m.checkpoint.0)?.bytes(&m.checkpoint.1)?.array(m.nonces.len() as u64)?;
                for nonce in &m.nonces {
                    e.bytes(nonce)?;
                }
            }
            Self::EpochStart(m) => {
                e.array(8)?.u8(VERSION)?.str(m.tenant.as_str())?.u8(3)?.u64(m.epoch)?;
                e.u64(m.prev_epoch)?.u64(m.last_seq)?.bytes(&m.last_hash)?.u64(m.issued.0)?;
            }
            Self::KeyListChange(m) => {
                e.array(7)?.u8(VERSION)?.str(m.tenant.as_str())?.u8(4)?.u64(m.version)?.bytes(&m.hash)?.bytes(&m.list)?.u64(m.issued.0)?;
            }
            Self::Manifest(m) => m.write(VERSION, e)?,
        }
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let fields = d.array()?.ok_or(Malformed::new("expected an array of definite length"))?;
        if d.u8()? != VERSION {
            return Err(Malformed::new("expected a feed message of version 1"));
        }
        let tenant = d.str()?.parse().map_err(|_| Malformed::new("expected a tenant name"))?;
        // The number after the kind is the epoch, but for a key list, which has a version and no place in any epoch.
        let (kind, epoch) = (d.u8()?, d.u64()?);
        if epoch == 0 && kind != 4 {
            return Err(Malformed::new("expected an epoch from 1"));
        }
        match (kind, fields) {
            (1, 8) => {
                let (seq, prev, issued) = (d.u64()?, fixed(d)?, UtcMillis(d.u64()?));
                if seq == 0 {
                    return Err(Malformed::new("expected a number from 1"));
                }
                let items = (0..list(d, MAX_ITEMS)?)
                    .map(|_| {
                        array(d, 2)?;
                        Ok((d.u64()?, Item::read(d)?))
                    })
                    .collect::<Result<_, Malformed>>()?;
                Ok(Self::Batch(Batch { tenant, epoch, seq, prev, issued, items }))
            }
            (2, 13) => {
                let (head_seq, head_hash, clock) = (d.u64()?, fixed(d)?, ClockId::from_bytes(fixed(d)?));
                let (t_us, utc, key_list_version, key_list_hash) = (d.u64()?, UtcMillis(d.u64()?), d.u64()?, fixed(d)?);
                array(d, 2)?;
                let checkpoint = (d.u64()?, fixed(d)?);
                let nonces = (0..list(d, MAX_NONCES)?)
                    .map(|_| {
                        let nonce = d.bytes()?;
                        if (16..=32).contains(&nonce.len()) { Ok(nonce.to_vec()) } else { Err(Malformed::new("expected nonces of 16 to 32 bytes")) }
                    })
                    .collect::<Result<_, Malformed>>()?;
                let beat = Heartbeat { tenant, epoch, head_seq, head_hash, clock, t_us, utc, key_list_version, key_list_hash, checkpoint, nonces };
                Ok(Self::Heartbeat(beat))
            }
            (3, 8) => {
                let (prev_epoch, last_seq, last_hash, issued) = (d.u64()?, d.u64()?, fixed(d)?, UtcMillis(d.u64()?));
                if prev_epoch == 0 || prev_epoch >= epoch {
                    return Err(Malformed::new("expected an epoch after the one it follows"));
                }
                Ok(Self::EpochStart(EpochStart { tenant, epoch, prev_epoch, last_seq, last_hash, issued }))
            }
            (4, 7) => {
                let (hash, list, issued) = (fixed(d)?, d.bytes()?.to_vec(), UtcMillis(d.u64()?));
                Ok(Self::KeyListChange(KeyListChange { tenant, version: epoch, hash, list, issued }))
            }
            (super::snapshot::KIND, 8) => Ok(Self::Manifest(Manifest::read(tenant, epoch, d)?)),
            _ => Err(Malformed::new("expected a feed message of kind 1 to 5 with its fields")),
        }
    }
}

/// The head of epoch 1 before its first batch.
pub fn genesis_hash(tenant: &Tenant, epoch: u64) -> [u8; 32] {
    Sha256::new_with_prefix(b"procura-feed-genesis/1\0").chain_update(tenant.as_str()).chain_update(epoch.to_be_bytes()).finalize().into()
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// Not the documented bytes, and nobody vouches for them: junk.
    #[error("feed message: {0}")]
    Malformed(#[from] Malformed),
    /// Signed by a key that the key list does not name as a living feed key. The list may be behind.
    #[error("feed message names key {key}, expected a living feed key of the key list")]
    UnknownKey {
        /// The key it names.
        key: Key,
    },
    /// The signature does not verify.
    #[error("signature of the feed message does not verify under the feed key it names")]
    Signature,
    /// The feed key was not, or is no longer, valid at that moment.
    #[error("feed key {key} is outside its window at {at}")]
    Window {
        /// The key.
        key: Key,
        /// The moment asked about.
        at: UtcMillis,
    },
    /// Of another tenant.
    #[error("feed message is of tenant `{got}`, expected `{expected}`")]
    Tenant {
        /// The tenant it names.
        got: Tenant,
        /// The tenant expected.
        expected: Tenant,
    },
    /// A feed key announced a key list that the anchors did not sign, or that is another than it says.
    #[error("announced key list: {0}")]
    KeyList(#[from] KeyListError),
    /// A feed key vouches for something this version cannot read: what it takes back is unknown (F9).
    #[error("signed feed message cannot be read by this version: {0}")]
    Unreadable(Malformed),
}

/// A message as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedMessage {
    payload: Vec<u8>,
    key: Key,
    signature: [u8; 64],
}

impl SignedMessage {
    /// Signs with a feed key. Ed25519 is deterministic: any replica gives the same bytes.
    pub fn sign(message: &Message, key: &ed25519_dalek::SigningKey) -> Self {
        use ed25519_dalek::Signer as _;
        let payload = message.to_bytes();
        let signature = key.sign(&signed_bytes(&payload)).to_bytes();
        Self { payload, key: Key::of(key), signature }
    }

    /// The signed bytes.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The key that is said to have signed.
    pub const fn claimed_key(&self) -> &Key {
        &self.key
    }

    /// SHA-256 of the payload: the message's hash in the chain.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    /// The message, if a feed key of this list vouches for it (F3).
    ///
    /// The key's window is asked about the message's own time; for a heartbeat also about `now`, the authority's UTC as far as it is
    /// known, so that a key that has ended cannot beat on under old dates.
    pub fn verify(&self, keys: &KeyList, now: Option<UtcMillis>) -> Result<Message, FeedError> {
        let listed = keys.find(KeyUse::Feed, &self.key).ok_or(FeedError::UnknownKey { key: self.key })?;
        if !self.key.verifies(&signed_bytes(&self.payload), &self.signature) {
            return Err(FeedError::Signature);
        }
        let inside = |at: UtcMillis| {
            if listed.from <= at && at <= listed.until { Ok(()) } else { Err(FeedError::Window { key: self.key, at }) }
        };
        let message = match Message::from_bytes(&self.payload) {
            Ok(message) => message,
            Err(error) => {
                now.map_or(Ok(()), inside)?;
                return Err(FeedError::Unreadable(error));
            }
        };
        let expected = &keys.payload().tenant;
        if message.tenant() != expected {
            return Err(FeedError::Tenant { got: message.tenant().clone(), expected: expected.clone() });
        }
        inside(message.utc())?;
        if matches!(message, Message::Heartbeat(_)) {
            now.map_or(Ok(()), inside)?;
        }
        Ok(message)
    }
}

impl Canonical for SignedMessage {
    const MAX_BYTES: usize = MAX_MESSAGE_BYTES;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        e.array(3)?.bytes(&self.payload)?.bytes(self.key.as_bytes())?.bytes(&self.signature)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 3)?;
        Ok(Self { payload: d.bytes()?.to_vec(), key: Key::from_bytes(fixed(d)?), signature: fixed(d)? })
    }
}

fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [PREFIX, payload].concat()
}

const PREFIX: &[u8] = b"procura-feed/1\0";
const VERSION: u8 = 1;
/// Never reached: 64 KiB hold fewer.
const MAX_ITEMS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::fixture;
    use item::tests::item;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_reads_what_it_writes_and_no_other_bytes(items in prop::collection::vec((any::<u64>(), item()), 0..20), at in 0_usize..400, bit in 0..8) {
            let batch = Message::Batch(Batch { tenant: fixture::tenant(), epoch: 1, seq: 7, prev: [3; 32], issued: UtcMillis(9), items });
            let bytes = batch.to_bytes();
            prop_assert_eq!(Message::from_bytes(&bytes), Ok(batch));
            let mut other = bytes.clone();
            if let Some(b) = other.get_mut(at) {
                *b ^= 1_u8 << bit;
                // Another message or none, never a second form of this one.
                if let Ok(read) = Message::from_bytes(&other) {
                    prop_assert_eq!(read.to_bytes(), other);
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SignedMessage::from_bytes(&bytes);
            let _ = Message::from_bytes(&bytes);
        }
    }

    #[test]
    fn only_a_living_feed_key_of_the_tenant_inside_its_window_vouches() {
        let keys = fixture::key_list(1, &[]);
        let beat = |utc| Message::Heartbeat(fixture::heartbeat(utc));
        let signed = SignedMessage::sign(&beat(fixture::UTC), &fixture::feed_key());
        assert!(signed.verify(&keys, None).is_ok());
        assert!(signed.verify(&keys, Some(fixture::UTC)).is_ok());
        assert!(matches!(signed.verify(&keys, Some(fixture::FEED_UNTIL.plus(1))), Err(FeedError::Window { .. })), "an ended key beats on");
        let late = SignedMessage::sign(&beat(fixture::FEED_UNTIL.plus(1)), &fixture::feed_key());
        assert!(matches!(late.verify(&keys, None), Err(FeedError::Window { .. })));
        let stranger = SignedMessage::sign(&beat(fixture::UTC), &ed25519_dalek::SigningKey::from_bytes(&[99; 32]));
        assert!(matches!(stranger.verify(&keys, None), Err(FeedError::UnknownKey { .. })));
        let dead = fixture::key_list(2, &[Key::of(&fixture::feed_key())]);
        assert!(matches!(signed.verify(&dead, None), Err(FeedError::UnknownKey { .. })));
        let mut forged = signed.clone();
        forged.signature = [0; 64];
        assert_eq!(forged.verify(&keys, None), Err(FeedError::Signature));
        let other = Message::Heartbeat(Heartbeat { tenant: "other".parse().unwrap(), ..fixture::heartbeat(fixture::UTC) });
        assert!(matches!(SignedMessage::sign(&other, &fixture::feed_key()).verify(&keys, None), Err(FeedError::Tenant { .. })));
    }

    #[test]
    fn the_longest_message_fits_and_one_more_byte_does_not() {
        let keys = fixture::key_list(1, &[]);
        let of = |n| {
            let items = vec![(1, Item::Unknown { kind: 9, body: vec![0; n] })];
            Message::Batch(Batch { tenant: fixture::tenant(), epoch: 1, seq: 1, prev: [0; 32], issued: fixture::UTC, items })
        };
        let empty = SignedMessage::sign(&of(MAX_MESSAGE_BYTES / 2), &fixture::feed_key()).to_bytes().len() - MAX_MESSAGE_BYTES / 2;
        let fits = SignedMessage::sign(&of(MAX_MESSAGE_BYTES - empty), &fixture::feed_key()).to_bytes();
        assert_eq!(fits.len(), MAX_MESSAGE_BYTES);
        assert!(SignedMessage::from_bytes(&fits).unwrap().verify(&keys, None).is_ok());
        assert!(SignedMessage::from_bytes(&SignedMessage::sign(&of(MAX_MESSAGE_BYTES - empty + 1), &fixture::feed_key()).to_bytes()).is_err());
    }
}
