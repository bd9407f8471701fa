//! A small world: tenant `acme`, its authority's keys, agents with cards, and the token of the demo. No clock, no randomness.

use ed25519_dalek::SigningKey;
use procura_verifier::call::{Arguments, Call, Seed};
use procura_verifier::card::AgentCard;
use procura_verifier::claims::{Block0, Capability, DataClass, Generations, Hops, HumanRef, Limit, Possession, Restriction};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Lid, Tid, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyList, KeyListPayload, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::proof::UnverifiedProof;
use procura_verifier::token::{UnverifiedToken, mint};
use procura_verifier::vocabulary::LinkClaims;
use procura_verifier::wire::Canonical as _;

/// The one root key of `acme`.
pub const ROOT: u8 = 1;
/// The one card key of `acme`.
pub const CARD: u8 = 2;
/// A root key of another tenant: on no list here.
pub const FOREIGN_ROOT: u8 = 3;
/// The anchor.
pub const ANCHOR: u8 = 9;
/// The agent that block 0 names.
pub const AGENT: u8 = 10;
/// The agent of the first link.
pub const SUB: u8 = 11;
/// The agent of the second link.
pub const SUB_SUB: u8 = 12;
/// Nobody.
pub const STRANGER: u8 = 99;

/// 2030-01-01T00:00:00Z, in seconds: ten minutes after the token of [`block0`] began.
pub const NOW_SECS: u64 = 1_893_456_000;
/// [`NOW_SECS`] in milliseconds.
pub const NOW: UtcMillis = UtcMillis(NOW_SECS * 1000);

/// The challenge of the tool's instance.
pub const CHALLENGE: [u8; 16] = [7; 16];

/// A signing key by number.
pub fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// The public half of [`key`].
pub fn public(n: u8) -> Key {
    Key::of(&key(n))
}

/// What the anchors of `acme` sign: one root and one card key, valid for a year around [`NOW`], tokens of at most a day.
pub fn key_list_payload() -> KeyListPayload {
    let window =
        |usage, n| ListedKey { usage, key: public(n), from: UtcMillis((NOW_SECS - 180 * 86_400) * 1000), until: UtcMillis((NOW_SECS + 180 * 86_400) * 1000) };
    KeyListPayload {
        tenant: "acme".parse().unwrap(),
        version: 3,
        issued: UtcMillis((NOW_SECS - 86_400) * 1000),
        max_ttl_secs: 86_400,
        keys: vec![window(KeyUse::Root, ROOT), window(KeyUse::Card, CARD)],
        dead: vec![],
    }
}

/// A payload signed by the anchor, as it travels.
pub fn signed(payload: &KeyListPayload) -> Vec<u8> {
    UnverifiedKeyList::sign(payload, &[&key(ANCHOR)]).to_bytes()
}

/// The key list of `acme`, accepted.
pub fn key_list() -> KeyList {
    let payload = key_list_payload();
    Anchors::new(vec![public(ANCHOR)], 1).unwrap().accept(&UnverifiedKeyList::sign(&payload, &[&key(ANCHOR)]), &payload.tenant).unwrap()
}

/// An upper limit in a unit.
pub fn at_most(arg: &str, max: i64, unit: &str) -> Limit {
    Limit::AtMost { arg: arg.parse().unwrap(), max, unit: unit.parse().unwrap() }
}

/// A lower limit in a unit.
pub fn at_least(arg: &str, min: i64, unit: &str) -> Limit {
    Limit::AtLeast { arg: arg.parse().unwrap(), min, unit: unit.parse().unwrap() }
}

/// A limit to some texts.
pub fn one_of(arg: &str, values: &[&str]) -> Limit {
    Limit::OneOf { arg: arg.parse().unwrap(), values: values.iter().map(|v| (*v).to_owned()).collect() }
}

/// A capability.
pub fn capability(tool: &str, action: &str, resource: &str, limits: Vec<Limit>) -> Capability {
    Capability::new(tool.parse().unwrap(), action.parse().unwrap(), resource.parse().unwrap(), limits).unwrap()
}

/// `payments:transfer` on `acct/eu/*`, at most 500.00 EUR, for an hour since ten minutes ago, two links.
pub fn block0() -> Block0 {
    Block0 {
        tenant: "acme".parse().unwrap(),
        tid: Tid::from_bytes([0x71; 16]),
        ancestors: vec![],
        delegation: DelegationId::from_bytes([0xd1; 16]),
        human: HumanRef::Id(HumanId::from_bytes([0xa1; 16])),
        agent: AgentId::from_bytes([AGENT; 16]),
        holder: public(AGENT),
        possession: Possession::Proof,
        audiences: vec!["payments".parse().unwrap()],
        capabilities: vec![capability("payments", "transfer", "acct/eu/*", vec![at_most("amount", 50_000, "EUR")])],
        class_max: DataClass::Confidential,
        not_before_secs: NOW_SECS - 600,
        expires_secs: NOW_SECS + 3_000,
        depth: 2,
        hops: Hops::Registered,
        freshness_ms: 150,
        generations: Generations { global: 0, tenant: 0, human: 2, agent: 1, delegation: 0 },
    }
}

/// The card of agent `n`, valid for six hours.
pub fn card(n: u8) -> AgentCard {
    AgentCard { tenant: "acme".parse().unwrap(), agent: AgentId::from_bytes([n; 16]), holder: public(n), generation: 0, expires_secs: NOW_SECS + 6 * 3_600 }
}

/// A link to agent `n` with its card, after which `depth` may follow.
pub fn link_to(n: u8, depth: u8) -> LinkClaims {
    LinkClaims { lid: Lid::from_bytes([n; 16]), holder: public(n), depth, card: Some(card(n).sign(&key(CARD))), restrictions: vec![] }
}

/// An unsealed token. Appending goes through the verifier crate and so refuses what is outside the profile.
#[derive(Clone)]
pub struct Held(pub Vec<u8>);

impl Held {
    /// Minted by the root key of `acme`. Next keys are numbered from 200 on.
    pub fn mint(block: &Block0) -> Self {
        Self(mint(block, &key(ROOT), [200; 32]).unwrap())
    }
    fn parsed(&self) -> UnverifiedToken {
        UnverifiedToken::parse(&self.0).unwrap()
    }
    fn next_seed(&self) -> [u8; 32] {
        // The next block's key differs from every key before it, and the same token always grows the same way.
        let blocks = crate::forge::Forged::of(&self.0).proto.blocks.len();
        [201 + u8::try_from(blocks).unwrap(); 32]
    }
    /// With a block that narrows.
    pub fn narrow(&self, restrictions: &[Restriction]) -> Self {
        Self(self.parsed().narrow(restrictions, self.next_seed()).unwrap())
    }
    /// With a link, signed by agent `from`.
    pub fn link(&self, link: &LinkClaims, from: u8) -> Self {
        Self(self.parsed().link(link, &key(from), self.next_seed()).unwrap())
    }
    /// Sealed, as it is presented.
    pub fn seal(&self) -> Vec<u8> {
        self.parsed().seal()
    }
}

/// The arguments of the call that the token of [`block0`] allows: 120.00 EUR.
pub const ARGS: &str = r#"{"amount":{"minor":12000,"unit":"EUR"},"note":"invoice 7"}"#;

/// A call of [`block0`]'s tool at its first instance, given as text.
pub fn with_call<R>(parts: CallText<'_>, use_it: impl FnOnce(&Call<'_>) -> R) -> R {
    use_it(&Call {
        tenant: &parts.tenant.parse().unwrap(),
        audience: &parts.audience.parse().unwrap(),
        tool: &parts.tool.parse().unwrap(),
        action: &parts.action.parse().unwrap(),
        resource: &parts.resource.parse().unwrap(),
        args: &Arguments::from_json(parts.args.as_bytes()).unwrap(),
        data_class: parts.data_class,
    })
}

/// The parts of a call.
#[derive(Clone, Copy)]
pub struct CallText<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// Service and instance.
    pub audience: &'a str,
    /// The tool.
    pub tool: &'a str,
    /// The action.
    pub action: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// The arguments, as JSON.
    pub args: &'a str,
    /// The class of data.
    pub data_class: DataClass,
}

impl Default for CallText<'_> {
    fn default() -> Self {
        Self {
            tenant: "acme",
            audience: "payments/1",
            tool: "payments",
            action: "transfer",
            resource: "acct/eu/7",
            args: ARGS,
            data_class: DataClass::Internal,
        }
    }
}

/// A proof by key `holder` for these token bytes and this call, made at `at`.
pub fn proof(token: &[u8], holder: u8, call: CallText<'_>, at: UtcMillis) -> UnverifiedProof {
    with_call(call, |c| UnverifiedProof::sign(&key(holder), &sha256(token), c, at, &CHALLENGE, [0x55; 16], Seed::from_bytes([0x33; 32])))
}

/// SHA-256, of what may be no token at all.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
