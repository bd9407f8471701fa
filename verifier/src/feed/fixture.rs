//! A small authority for the feed's tests: real keys, real signatures.

use ed25519_dalek::SigningKey;

use super::message::Heartbeat;
use crate::ids::{ClockId, Key, Tenant, UtcMillis};
use crate::key_list::{Anchors, KeyList, KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};

pub const UTC: UtcMillis = UtcMillis(1_800_000_000_000);
pub const FEED_UNTIL: UtcMillis = UtcMillis(1_900_000_000_000);
pub const CLOCK: ClockId = ClockId::from_bytes([5; 16]);

pub fn tenant() -> Tenant {
    "acme".parse().unwrap()
}

pub fn feed_key() -> SigningKey {
    SigningKey::from_bytes(&[21; 32])
}

pub fn second_feed_key() -> SigningKey {
    SigningKey::from_bytes(&[22; 32])
}

pub fn anchor() -> SigningKey {
    SigningKey::from_bytes(&[20; 32])
}

pub fn anchors() -> Anchors {
    Anchors::new(vec![Key::of(&anchor())], 1).unwrap()
}

pub fn signed_key_list(version: u64, dead: &[Key]) -> UnverifiedKeyList {
    let mut keys: Vec<_> =
        [feed_key(), second_feed_key()].iter().map(|k| ListedKey { usage: KeyUse::Feed, key: Key::of(k), from: UtcMillis(0), until: FEED_UNTIL }).collect();
    keys.sort_unstable_by_key(|k| (k.usage, k.key));
    UnverifiedKeyList::sign(&KeyListPayload { tenant: tenant(), version, issued: UTC, max_ttl_secs: 3600, keys, dead: dead.to_vec() }, &[&anchor()])
}

pub fn key_list(version: u64, dead: &[Key]) -> KeyList {
    anchors().accept(&signed_key_list(version, dead), &tenant()).unwrap()
}

pub fn heartbeat(utc: UtcMillis) -> Heartbeat {
    Heartbeat {
        tenant: tenant(),
        epoch: 1,
        head_seq: 0,
        head_hash: super::genesis_hash(&tenant(), 1),
        clock: CLOCK,
        t_us: 0,
        utc,
        key_list_version: 1,
        key_list_hash: *key_list(1, &[]).hash(),
        checkpoint: (0, [0; 32]),
        nonces: vec![],
    }
}
