//! Feed messages, byte for byte (`spec/feed.md`). Written here by a CBOR encoder of a dozen lines, so that the verifier's own is held against another.

mod histories;
mod segments;
mod statements;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::Signer as _;
use procura_verifier::feed::message::{FeedError, FloorScope, Item, Message, SignedMessage};
use procura_verifier::ids::UtcMillis;
use procura_verifier::key_list::{Anchors, KeyList, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fixtures::{ANCHOR, NOW, key, key_list_payload, public, signed};

pub use histories::HistoryCase;
pub use segments::SegmentCase;
pub use statements::StatementCase;

/// One vector of the feed, of one of four shapes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FeedVector {
    /// A message (F1, F3, F9).
    Message(FeedCase),
    /// A segment of a snapshot (F16).
    Segment(SegmentCase),
    /// What a verifier says of itself (A1, A3).
    Statement(StatementCase),
    /// Messages one after the other (F6, F22).
    History(HistoryCase),
}

impl FeedVector {
    /// The rule: `F1` and so on.
    pub fn rule(&self) -> &str {
        match self {
            Self::Message(c) => &c.rule,
            Self::Segment(c) => &c.rule,
            Self::Statement(c) => &c.rule,
            Self::History(c) => &c.rule,
        }
    }

    /// True if what comes out is what was meant by whoever wrote it.
    pub fn is_taken(&self) -> bool {
        match self {
            Self::Message(c) => matches!(c.expect, FeedExpect::Read { .. }),
            Self::Segment(c) => c.expect.is_read(),
            Self::Statement(c) => c.expect.is_read(),
            Self::History(c) => c.expect.alarms.is_empty(),
        }
    }

    /// The difference between what comes out and what is expected, as one sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Message(c) => c.check(),
            Self::Segment(c) => c.check(),
            Self::Statement(c) => c.check(),
            Self::History(c) => c.check(),
        }
    }
}

/// What must come out of a segment or a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Outcome {
    /// It is read as this; bytes as hex.
    Read {
        /// Field by field.
        read: Value,
    },
    /// It is refused.
    Refused {
        /// The error's word.
        refused: String,
    },
}

impl Outcome {
    const fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    fn refused(word: &str) -> Self {
        Self::Refused { refused: word.to_owned() }
    }

    fn compare(&self, got: &Self, about: &str) -> Result<(), String> {
        if got == self { Ok(()) } else { Err(format!("expected {self:?}, got {got:?}: {about}")) }
    }
}

/// One vector: a message, what is known of keys and time, and what is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedCase {
    /// The rule: `F1` and so on.
    pub rule: String,
    /// What is special here, in one line.
    pub about: String,
    /// The key list, signed by the anchor, base64url.
    pub key_list: String,
    /// The anchor's key.
    pub anchor: procura_verifier::ids::Key,
    /// Authority UTC in milliseconds, as far as it is known.
    pub now_ms: Option<u64>,
    /// The message as it travels, base64url.
    pub message: String,
    /// What comes out.
    pub expect: FeedExpect,
}

/// What must come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum FeedExpect {
    /// It is read as this.
    Read {
        /// Field by field; bytes as hex.
        read: Value,
        /// The hash in the chain, hex.
        hash: String,
    },
    /// It is refused.
    Refused {
        /// The error's word.
        refused: String,
    },
}

impl FeedCase {
    /// Reads the message, and compares; the difference as one sentence.
    pub fn check(&self) -> Result<(), String> {
        let bytes = BASE64.decode(&self.message).map_err(|e| e.to_string())?;
        let keys = accepted(&self.key_list, self.anchor)?;
        let read = SignedMessage::from_bytes(&bytes)
            .map_err(FeedError::from)
            .and_then(|signed| Ok((signed.verify(&keys, self.now_ms.map(UtcMillis))?, hex::encode(signed.hash()), signed.to_bytes())));
        let got = match &read {
            Ok((message, hash, _)) => FeedExpect::Read { read: described(message), hash: hash.clone() },
            Err(error) => FeedExpect::Refused { refused: word(error).to_owned() },
        };
        if read.as_ref().is_ok_and(|(_, _, again)| *again != bytes) {
            return Err(format!("is written again as other bytes: {}", self.about));
        }
        if got == self.expect { Ok(()) } else { Err(format!("expected {:?}, got {got:?}: {}", self.expect, self.about)) }
    }
}

fn word(error: &FeedError) -> &'static str {
    match error {
        FeedError::Malformed(_) => "malformed",
        FeedError::UnknownKey { .. } => "unknown_key",
        FeedError::Signature => "signature",
        FeedError::Window { .. } => "window",
        FeedError::Tenant { .. } => "tenant",
        FeedError::Unreadable(_) => "unreadable",
        _ => "another",
    }
}

fn described(message: &Message) -> Value {
    match message {
        Message::Batch(m) => json!({
            "kind": 1, "tenant": m.tenant, "epoch": m.epoch, "seq": m.seq, "prev": hex::encode(m.prev), "issued_ms": m.issued,
            "items": m.items.iter().map(|(index, item)| json!([index, item_of(item)])).collect::<Vec<_>>(),
        }),
        Message::Heartbeat(m) => json!({
            "kind": 2, "tenant": m.tenant, "epoch": m.epoch, "head_seq": m.head_seq, "head_hash": hex::encode(m.head_hash),
            "clock": hex::encode(m.clock.as_bytes()), "t_us": m.t_us, "utc_ms": m.utc, "key_list_version": m.key_list_version,
            "key_list_hash": hex::encode(m.key_list_hash), "checkpoint": [json!(m.checkpoint.0), json!(hex::encode(m.checkpoint.1))],
            "nonces": m.nonces.iter().map(hex::encode).collect::<Vec<_>>(),
        }),
        Message::EpochStart(m) => json!({
            "kind": 3, "tenant": m.tenant, "epoch": m.epoch, "prev_epoch": m.prev_epoch, "last_seq": m.last_seq,
            "last_hash": hex::encode(m.last_hash), "issued_ms": m.issued,
        }),
        Message::KeyListChange(m) => json!({
            "kind": 4, "tenant": m.tenant, "version": m.version, "hash": hex::encode(m.hash), "list": hex::encode(&m.list), "issued_ms": m.issued,
        }),
        Message::Manifest(m) => json!({
            "kind": 5, "tenant": m.tenant, "epoch": m.epoch, "seq": m.seq, "hash": hex::encode(m.hash), "issued_ms": m.issued,
            "segments": m.segments.iter().map(|s| json!([format!("{:?}", s.kind), s.bucket, s.count, hex::encode(s.sha256), s.bytes])).collect::<Vec<_>>(),
        }),
    }
}

fn item_of(item: &Item) -> Value {
    let subject = |scope: &FloorScope| match scope {
        FloorScope::Global => json!("global"),
        FloorScope::Tenant => json!("tenant"),
        FloorScope::Human(id) => json!(id),
        FloorScope::Agent(id) => json!(id),
        FloorScope::Delegation(id) => json!(id),
    };
    match item {
        Item::Tid { tid, exp_secs } => json!({ "token": tid, "exp_secs": exp_secs }),
        Item::Lid { lid, exp_secs } => json!({ "link": lid, "exp_secs": exp_secs }),
        Item::Block { block, exp_secs } => json!({ "block": block, "exp_secs": exp_secs }),
        Item::HolderKey { key } => json!({ "holder_key": key }),
        Item::Floor { scope, generation } => json!({ "floor": subject(scope), "generation": generation }),
        Item::RootKey { key } => json!({ "root_key": key }),
        Item::Freeze(f) => json!({ "freeze": f.id, "of": subject(&f.scope), "from_ms": f.from, "until_ms": f.until, "version": f.version }),
        Item::Unknown { kind, body } => json!({ "unknown": kind, "body": hex::encode(body) }),
    }
}

/// Deterministic CBOR by hand.
mod cbor {
    pub fn head(major: u8, n: u64) -> Vec<u8> {
        let m = major << 5;
        match n {
            0..24 => vec![m | n as u8],
            24..0x100 => vec![m | 24, n as u8],
            0x100..0x1_0000 => [vec![m | 25], (n as u16).to_be_bytes().to_vec()].concat(),
            0x1_0000..0x1_0000_0000 => [vec![m | 26], (n as u32).to_be_bytes().to_vec()].concat(),
            _ => [vec![m | 27], n.to_be_bytes().to_vec()].concat(),
        }
    }
    pub fn uint(n: u64) -> Vec<u8> {
        head(0, n)
    }
    pub fn bytes(b: &[u8]) -> Vec<u8> {
        [head(2, b.len() as u64), b.to_vec()].concat()
    }
    pub fn text(t: &str) -> Vec<u8> {
        [head(3, t.len() as u64), t.as_bytes().to_vec()].concat()
    }
    pub fn array(items: &[Vec<u8>]) -> Vec<u8> {
        [head(4, items.len() as u64), items.concat()].concat()
    }
}
use cbor::{array, bytes, text, uint};

const FEED: u8 = 30;
const DEAD: u8 = 31;
const ENDED: u8 = 32;
/// When [`ENDED`] ended.
const END: u64 = NOW.0 - 60_000;

fn travelling(payload: &[u8], signer: u8) -> Vec<u8> {
    let signature = key(signer).sign(&[b"procura-feed/1\0".as_slice(), payload].concat()).to_bytes();
    array(&[bytes(payload), bytes(public(signer).as_bytes()), bytes(&signature)])
}

fn start(kind: u64) -> Vec<Vec<u8>> {
    vec![uint(1), text("acme"), uint(kind)]
}

fn payload(kind: u64, fields: Vec<Vec<u8>>) -> Vec<u8> {
    array(&[start(kind), fields].concat())
}

fn item(index: u64, kind: u64, body: &[Vec<u8>]) -> Vec<u8> {
    array(&[uint(index), array(&[uint(kind), bytes(&array(body))])])
}

fn batch(seq: u64, issued: u64, items: &[Vec<u8>]) -> Vec<u8> {
    payload(1, vec![uint(1), uint(seq), bytes(&[3; 32]), uint(issued), array(items)])
}

fn heartbeat(utc: u64, nonces: &[Vec<u8>]) -> Vec<u8> {
    let nonces: Vec<_> = nonces.iter().map(|n| bytes(n)).collect();
    let list = [uint(7), bytes(&[8; 32])];
    let head = [uint(1), uint(9), bytes(&[4; 32]), bytes(&[5; 16]), uint(77_000_000_000), uint(utc)];
    payload(2, [head.to_vec(), list.to_vec(), vec![array(&[uint(12), bytes(&[6; 32])]), array(&nonces)]].concat())
}

fn beat_json(utc: u64, nonces: &[&str]) -> Value {
    json!({
        "kind": 2, "tenant": "acme", "epoch": 1, "head_seq": 9, "head_hash": "04".repeat(32), "clock": "05".repeat(16), "t_us": 77_000_000_000_u64,
        "utc_ms": utc, "key_list_version": 7, "key_list_hash": "08".repeat(32), "checkpoint": [12, "06".repeat(32)], "nonces": nonces,
    })
}

fn batch_json(seq: u64, items: Value) -> Value {
    json!({ "kind": 1, "tenant": "acme", "epoch": 1, "seq": seq, "prev": "03".repeat(32), "issued_ms": NOW.0, "items": items })
}

/// The signed key list of all cases.
fn list() -> Vec<u8> {
    let mut list = key_list_payload();
    list.version = 7;
    for (n, until) in [(FEED, UtcMillis(NOW.0 + 86_400_000)), (DEAD, UtcMillis(NOW.0 + 86_400_000)), (ENDED, UtcMillis(END))] {
        list.keys.push(ListedKey { usage: KeyUse::Feed, key: public(n), from: UtcMillis(NOW.0 - 86_400_000), until });
    }
    list.keys.sort_unstable_by_key(|k| (k.usage, k.key));
    list.dead = vec![public(DEAD)];
    signed(&list)
}

fn accepted(list: &str, anchor: procura_verifier::ids::Key) -> Result<KeyList, String> {
    let list = UnverifiedKeyList::from_bytes(&BASE64.decode(list).map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    Anchors::new(vec![anchor], 1).and_then(|a| a.accept(&list, &"acme".parse().unwrap())).map_err(|e| e.to_string())
}

struct Rules(Vec<(String, FeedCase)>);

impl Rules {
    fn push(&mut self, name: &str, about: &str, message: Vec<u8>, now_ms: Option<u64>, expect: FeedExpect) {
        let case = FeedCase {
            rule: name.split('/').next().unwrap_or_default().to_owned(),
            about: about.to_owned(),
            key_list: BASE64.encode(list()),
            anchor: public(ANCHOR),
            now_ms,
            message: BASE64.encode(message),
            expect,
        };
        self.0.push((format!("feed/{name}.json"), case));
    }

    fn read(&mut self, name: &str, about: &str, payload: &[u8], read: Value) {
        use sha2::Digest as _;
        let hash = hex::encode(sha2::Sha256::digest(payload));
        self.push(name, about, travelling(payload, FEED), Some(NOW.0), FeedExpect::Read { read, hash });
    }

    fn refused(&mut self, name: &str, about: &str, message: Vec<u8>, word: &str) {
        self.push(name, about, message, Some(NOW.0), FeedExpect::Refused { refused: word.to_owned() });
    }

    /// Signed, and not to be read.
    fn unreadable(&mut self, name: &str, about: &str, payload: &[u8]) {
        self.refused(name, about, travelling(payload, FEED), "unreadable");
    }
}

/// Every vector of the feed, by its path.
pub fn all() -> Vec<(String, FeedVector)> {
    let mut v = Rules(Vec::new());
    f1(&mut v);
    f3(&mut v);
    f9(&mut v);
    let messages = v.0.into_iter().map(|(name, case)| (name, FeedVector::Message(case)));
    messages.chain(segments::all()).chain(statements::all()).chain(histories::all()).collect()
}

fn f1(v: &mut Rules) {
    let id = |n: u8| bytes(&[n; 16]);
    let exp = 1_893_459_600_u64;
    let (hex16, hex32) = (|n: &str| n.repeat(16), |n: &str| n.repeat(32));
    for (name, about, items, read) in [
        ("batch_of_nothing", "no item", vec![], json!([])),
        ("item_token", "kind 1", vec![item(40, 1, &[id(1), uint(exp)])], json!([[40, { "token": format!("tid_{}", hex16("01")), "exp_secs": exp }]])),
        ("item_link", "kind 2", vec![item(40, 2, &[id(2), uint(exp)])], json!([[40, { "link": format!("lid_{}", hex16("02")), "exp_secs": exp }]])),
        ("item_block", "kind 3", vec![item(40, 3, &[id(3), uint(exp)])], json!([[40, { "block": format!("blk_{}", hex16("03")), "exp_secs": exp }]])),
        ("item_holder_key", "kind 4", vec![item(40, 4, &[bytes(&[4; 32])])], json!([[40, { "holder_key": hex32("04") }]])),
        ("item_floor_global", "kind 5, scope 0", vec![item(40, 5, &[uint(0), bytes(&[]), uint(1)])], json!([[40, { "floor": "global", "generation": 1 }]])),
        ("item_floor_tenant", "kind 5, scope 1", vec![item(40, 5, &[uint(1), bytes(&[]), uint(2)])], json!([[40, { "floor": "tenant", "generation": 2 }]])),
        (
            "item_floor_human",
            "kind 5, scope 2",
            vec![item(40, 5, &[uint(2), id(5), uint(3)])],
            json!([[40, { "floor": format!("hid_{}", hex16("05")), "generation": 3 }]]),
        ),
        ("item_root_key", "kind 6", vec![item(40, 6, &[bytes(&[6; 32])])], json!([[40, { "root_key": hex32("06") }]])),
        (
            "item_freeze_tenant",
            "kind 7, scope 1, an hour",
            vec![item(40, 7, &[id(7), uint(1), bytes(&[]), uint(NOW.0), uint(NOW.0 + 3_600_000), uint(1)])],
            json!([[40, { "freeze": format!("frz_{}", hex16("07")), "of": "tenant", "from_ms": NOW.0, "until_ms": NOW.0 + 3_600_000, "version": 1 }]]),
        ),
        (
            "item_freeze_agent",
            "kind 7, scope 3, without end",
            vec![item(40, 7, &[id(7), uint(3), id(8), uint(0), uint(u64::MAX), uint(2)])],
            json!([[40, { "freeze": format!("frz_{}", hex16("07")), "of": format!("agt_{}", hex16("08")), "from_ms": 0, "until_ms": u64::MAX, "version": 2 }]]),
        ),
        (
            "item_freeze_lifted",
            "kind 7, scope 4, an empty window",
            vec![item(40, 7, &[id(7), uint(4), id(9), uint(0), uint(0), uint(300)])],
            json!([[40, { "freeze": format!("frz_{}", hex16("07")), "of": format!("dlg_{}", hex16("09")), "from_ms": 0, "until_ms": 0, "version": 300 }]]),
        ),
        (
            "two_items",
            "in the order of their leaves",
            vec![item(40, 4, &[bytes(&[4; 32])]), item(41, 6, &[bytes(&[6; 32])])],
            json!([[40, { "holder_key": hex32("04") }], [41, { "root_key": hex32("06") }]]),
        ),
    ] {
        v.read(&format!("F1/{name}"), about, &batch(7, NOW.0, &items), batch_json(7, read));
    }
    v.read("F1/heartbeat", "answers nobody", &heartbeat(NOW.0, &[]), beat_json(NOW.0, &[]));
    let (short, long) = ("0a".repeat(16), "0b".repeat(32));
    v.read("F1/heartbeat_with_nonces", "of 16 and 32 bytes", &heartbeat(NOW.0, &[vec![10; 16], vec![11; 32]]), beat_json(NOW.0, &[&short, &long]));
    let epoch = |prev: u64| payload(3, vec![uint(2), uint(prev), uint(5), bytes(&[9; 32]), uint(NOW.0)]);
    let read = json!({ "kind": 3, "tenant": "acme", "epoch": 2, "prev_epoch": 1, "last_seq": 5, "last_hash": hex32("09"), "issued_ms": NOW.0 });
    v.read("F1/epoch_start", "epoch 2 goes on after number 5 of epoch 1", &epoch(1), read);
    let change = payload(4, vec![uint(8), bytes(&[1; 32]), bytes(b"a list"), uint(NOW.0)]);
    let read = json!({ "kind": 4, "tenant": "acme", "version": 8, "hash": hex32("01"), "list": hex::encode("a list"), "issued_ms": NOW.0 });
    v.read("F1/key_list_change", "whose list nobody has believed yet", &change, read);

    let segment = |kind: u64, bucket: u64, count: u64, hash: u8, length: u64| array(&[uint(kind), uint(bucket), uint(count), bytes(&[hash; 32]), uint(length)]);
    let manifest = |segments: &[Vec<u8>]| payload(5, vec![uint(1), uint(9), bytes(&[4; 32]), uint(NOW.0), array(segments)]);
    let page = |segments: Value| json!({ "kind": 5, "tenant": "acme", "epoch": 1, "seq": 9, "hash": hex32("04"), "issued_ms": NOW.0, "segments": segments });
    let (lasting, tids) = (segment(0, 0, 3, 0xa0, 120), segment(1, 525_960, 2, 0xa1, 32));
    v.read("F1/manifest_of_nothing", "no segment", &manifest(&[]), page(json!([])));
    let at_the_start = payload(5, vec![uint(2), uint(0), bytes(&[4; 32]), uint(NOW.0), array(&[])]);
    v.unreadable("F1/manifest_that_ends_with_an_epoch_start", "number 0 (F22)", &at_the_start);
    v.read(
        "F1/manifest",
        "items that last, and two token ids of one hour",
        &manifest(&[lasting.clone(), tids.clone()]),
        page(json!([["Lasting", 0, 3, hex32("a0"), 120], ["Ids(Tid)", 525_960, 2, hex32("a1"), 32]])),
    );

    let good = travelling(&batch(7, NOW.0, &[]), FEED);
    v.refused("F1/trailing_byte", "one byte more", [good.clone(), vec![0]].concat(), "malformed");
    v.refused("F1/cut_off", "one byte less", good[..good.len() - 1].to_vec(), "malformed");
    v.refused("F1/four_fields", "an array of four", array(&[bytes(&[]), bytes(&[0; 32]), bytes(&[0; 64]), uint(0)]), "malformed");
    let long_head = [vec![0x98, 3], good[1..].to_vec()].concat();
    v.refused("F1/long_head", "the number of fields in two bytes", long_head, "malformed");
    for (name, about, bytes) in [
        ("manifest_descending", "segments out of order", manifest(&[tids.clone(), lasting.clone()])),
        ("manifest_segment_twice", "one segment named twice", manifest(&[tids.clone(), tids.clone()])),
        ("manifest_count_that_does_not_fit", "two ids in 33 bytes", manifest(&[segment(1, 525_960, 2, 0xa1, 33)])),
        ("manifest_segment_kind_4", "a kind of segment that is none", manifest(&[segment(4, 525_960, 2, 0xa1, 32)])),
        ("number_0", "batches count from 1", batch(0, NOW.0, &[])),
        ("epoch_0", "epochs count from 1", payload(1, vec![uint(0), uint(1), bytes(&[3; 32]), uint(NOW.0), array(&[])])),
        ("epoch_that_follows_itself", "epoch 2 after epoch 2", epoch(2)),
        ("nonce_of_15_bytes", "too short", heartbeat(NOW.0, &[vec![1; 15]])),
        ("nonce_of_33_bytes", "too long", heartbeat(NOW.0, &[vec![1; 33]])),
        ("nonces_65", "one more than 64", heartbeat(NOW.0, &vec![vec![1; 16]; 65])),
        ("item_scope_5", "a scope that is none", batch(7, NOW.0, &[item(40, 5, &[uint(5), bytes(&[]), uint(1)])])),
        ("item_floor_global_with_subject", "everything has no id", batch(7, NOW.0, &[item(40, 5, &[uint(0), id(1), uint(1)])])),
        ("item_freeze_without_version", "five fields", batch(7, NOW.0, &[item(40, 7, &[id(7), uint(1), bytes(&[]), uint(0), uint(1)])])),
        ("item_root_key_of_31_bytes", "too short", batch(7, NOW.0, &[item(40, 6, &[bytes(&[6; 31])])])),
        (
            "item_body_with_more",
            "a byte after the body's array",
            batch(7, NOW.0, &[array(&[uint(40), array(&[uint(4), bytes(&[array(&[bytes(&[4; 32])]), vec![0]].concat())])])]),
        ),
        ("long_integer", "an integer that has a shorter form", {
            let mut p = batch(7, NOW.0, &[]);
            let at = p.windows(2).position(|w| w == [1, 7]).unwrap();
            p.splice(at + 1..at + 2, [0x18, 7]);
            p
        }),
    ] {
        v.unreadable(&format!("F1/{name}"), about, &bytes);
    }
}

fn f3(v: &mut Rules) {
    let p = batch(7, NOW.0, &[]);
    v.read("F3/listed_key", "a living feed key inside its window", &p, batch_json(7, json!([])));
    v.refused("F3/unlisted_key", "a key that is in no list", travelling(&p, 99), "unknown_key");
    v.refused("F3/root_key_of_the_list", "a listed key of another use", travelling(&p, crate::fixtures::ROOT), "unknown_key");
    v.refused("F3/dead_key", "inside its window, and dead", travelling(&p, DEAD), "unknown_key");
    let mut flipped = travelling(&p, FEED);
    *flipped.last_mut().unwrap() ^= 1;
    v.refused("F3/signature_flipped", "one bit", flipped, "signature");
    let signature = key(FEED).sign(&p).to_bytes();
    let bare = array(&[bytes(&p), bytes(public(FEED).as_bytes()), bytes(&signature)]);
    v.refused("F3/signature_without_prefix", "over the payload alone", bare, "signature");
    v.refused("F3/before_its_window", "issued two days ago", travelling(&batch(7, NOW.0 - 172_800_000, &[]), FEED), "window");
    v.refused("F3/after_its_window", "issued in two days", travelling(&batch(7, NOW.0 + 172_800_000, &[]), FEED), "window");
    let other = array(&[uint(1), text("globex"), uint(1), uint(1), uint(7), bytes(&[3; 32]), uint(NOW.0), array(&[])]);
    v.refused("F3/another_tenant", "signed by our key", travelling(&other, FEED), "tenant");
    // A batch of an ended key is history; its heartbeat would be a lie about now.
    let old = batch(7, END - 1_000, &[]);
    let mut read = batch_json(7, json!([]));
    read["issued_ms"] = json!(END - 1_000);
    use sha2::Digest as _;
    let expect = FeedExpect::Read { read, hash: hex::encode(sha2::Sha256::digest(&old)) };
    v.push("F3/batch_of_an_ended_key", "issued before its end", travelling(&old, ENDED), Some(NOW.0), expect);
    v.refused("F3/heartbeat_of_an_ended_key", "dated before its end, heard after it", travelling(&heartbeat(END - 1_000, &[]), ENDED), "window");
}

fn f9(v: &mut Rules) {
    let read = json!([[40, { "unknown": 200, "body": "820102" }]]);
    v.read("F9/item_of_a_kind_to_come", "read, kept to the byte, and stale", &batch(7, NOW.0, &[item(40, 200, &[uint(1), uint(2)])]), batch_json(7, read));
    v.unreadable("F9/message_of_a_kind_to_come", "kind 5", &payload(5, vec![uint(1), uint(2)]));
    v.unreadable("F9/version_2", "another version", &array(&[uint(2), text("acme"), uint(1), uint(1), uint(7), bytes(&[3; 32]), uint(NOW.0), array(&[])]));
    v.refused("F9/unsigned_and_unreadable", "junk that nobody vouches for is only dropped", travelling(&[0xff], 99), "unknown_key");
}
