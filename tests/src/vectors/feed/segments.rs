//! Segments of snapshots, byte for byte (F16).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::feed::snapshot::{Segment, SegmentEntry, SegmentError, SegmentKind};
use procura_verifier::revocation::IdKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::cbor::{array, bytes, uint};
use super::{FeedVector, Outcome, item_of};

/// One vector: a segment as it is served, and the line of the manifest that names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentCase {
    /// The rule.
    pub rule: String,
    /// What is special here, in one line.
    pub about: String,
    /// Kind, bucket, count, SHA-256 in hex and length, as the manifest has them.
    pub entry: (u8, u64, u64, String, u64),
    /// The segment, base64url.
    pub segment: String,
    /// What comes out: ids as hex, or items.
    pub expect: Outcome,
}

impl SegmentCase {
    pub(super) fn check(&self) -> Result<(), String> {
        let (kind, bucket, count, sha256, length) = &self.entry;
        let kind = match kind {
            0 => SegmentKind::Lasting,
            1 => SegmentKind::Ids(IdKind::Tid),
            2 => SegmentKind::Ids(IdKind::Lid),
            3 => SegmentKind::Ids(IdKind::Block),
            other => return Err(format!("there is no segment of kind {other}")),
        };
        let mut hash = [0; 32];
        hex::decode_to_slice(sha256, &mut hash).map_err(|e| e.to_string())?;
        let entry = SegmentEntry { kind, bucket: *bucket, sha256: hash, count: *count, bytes: *length };
        let got = match entry.open(&BASE64.decode(&self.segment).map_err(|e| e.to_string())?) {
            Ok(Segment::Ids(_, ids)) => Outcome::Read { read: ids.iter().map(hex::encode).collect() },
            Ok(Segment::Items(items)) => Outcome::Read { read: items.iter().map(item_of).collect() },
            Err(SegmentError::Differs { .. }) => Outcome::refused("differs"),
            Err(_) => Outcome::refused("malformed"),
        };
        self.expect.compare(&got, &self.about)
    }
}

pub(super) fn all() -> Vec<(String, FeedVector)> {
    const HOUR: u64 = 525_960;
    let mut all = Vec::new();
    let mut put = |name: &str, about: &str, (kind, bucket, count): (u8, u64, u64), segment: &[u8], named: Option<&[u8]>, expect: Outcome| {
        let named = named.unwrap_or(segment);
        let entry = (kind, bucket, count, hex::encode(Sha256::digest(named)), named.len() as u64);
        let case = SegmentCase { rule: "F16".to_owned(), about: about.to_owned(), entry, segment: BASE64.encode(segment), expect };
        all.push((format!("feed/F16/{name}.json"), FeedVector::Segment(case)));
    };
    let ids = |ns: &[u8]| ns.iter().flat_map(|n| [*n; 16]).collect::<Vec<_>>();
    let read = |read: Value| Outcome::Read { read };
    let id = |n: u8| hex::encode([n; 16]);
    for (kind, name) in [(1, "tokens"), (2, "links"), (3, "blocks")] {
        let about = format!("two ids of one hour, kind {kind}");
        put(name, &about, (kind, HOUR, 2), &ids(&[1, 2]), None, read(json!([id(1), id(2)])));
    }
    let item = |kind: u64, body: &[Vec<u8>]| array(&[uint(kind), bytes(&array(body))]);
    let holder = item(4, &[bytes(&[4; 32])]);
    let floor = item(5, &[uint(0), bytes(&[]), uint(3)]);
    let root = item(6, &[bytes(&[6; 32])]);
    let to_come = item(200, &[uint(1), uint(2)]);
    put(
        "lasting",
        "a holder key, a floor, a root key and an item of a kind to come, in the order of their bytes",
        (0, 0, 4),
        &[holder.clone(), floor.clone(), root.clone(), to_come].concat(),
        None,
        read(
            json!([{ "holder_key": "04".repeat(32) }, { "floor": "global", "generation": 3 }, { "root_key": "06".repeat(32) }, { "unknown": 200, "body": "820102" }]),
        ),
    );
    let good = ids(&[1, 2]);
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    let (differs, malformed) = (Outcome::refused("differs"), Outcome::refused("malformed"));
    put("one_bit_flipped", "another hash than the manifest's", (1, HOUR, 2), &flipped, Some(&good), differs.clone());
    put("one_id_less", "another length than the manifest's", (1, HOUR, 2), &good[..16], Some(&good), differs);
    for (name, about, entry, segment) in [
        ("ids_descending", "the greater one first", (1, HOUR, 2), ids(&[2, 1])),
        ("id_twice", "one id two times", (1, HOUR, 2), ids(&[1, 1])),
        ("half_an_id", "24 bytes", (1, HOUR, 1), good[..24].to_vec()),
        ("three_counted", "the manifest counts one more", (1, HOUR, 3), good.clone()),
        ("items_descending", "the floor before the key", (0, 0, 2), [floor.clone(), holder.clone()].concat()),
        ("item_twice", "one item two times", (0, 0, 2), [holder.clone(), holder.clone()].concat()),
        ("item_that_ends", "a token's id among what lasts", (0, 0, 1), item(1, &[bytes(&[1; 16]), uint(1_893_459_600)])),
        ("item_in_a_longer_form", "its kind in two bytes", (0, 0, 1), [vec![0x82, 0x18, 4], bytes(&array(&[bytes(&[4; 32])]))].concat()),
        ("cut_off", "one byte less", (0, 0, 1), holder[..holder.len() - 1].to_vec()),
        ("with_more", "one byte more", (0, 0, 1), [holder.clone(), vec![0]].concat()),
    ] {
        put(name, about, entry, &segment, None, malformed.clone());
    }
    all
}
