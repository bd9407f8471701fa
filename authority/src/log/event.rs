//! What leaves say: one predicate type per kind of event, `https://procura.dev/attest/<kind>/v1` (`spec/log.md`, Predicates).
//!
//! No personal text: humans by hid, everything a person wrote or read as a salted hash.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use procura_verifier::claims::{Capability, DataClass, Name};
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid, UtcMillis, VerifierId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

macro_rules! hashed_or_encoded {
    ($name:ident, $($text:tt)*) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text())
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.text())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom($($text)*))
            }
        }
    };
}

/// A SHA-256: lower-case hex in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
    fn text(&self) -> String {
        hex::encode(self.0)
    }
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok().filter(|()| hex::encode(bytes) == text)?;
        Some(Self(bytes))
    }
}
hashed_or_encoded!(Digest, "expected 64 lower-case hex digits");

/// Bytes of another format inside JSON: base64url without padding. Base64 twice over: at most [`Encoded::MAX_BYTES`] fit a leaf.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Encoded(pub Vec<u8>);

impl Encoded {
    /// What fits a leaf of any kind, in bytes. Whoever takes receipts, counts or feed items in refuses longer ones at the door.
    pub const MAX_BYTES: usize = 35 * 1024;

    fn text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.0)
    }
    fn parse(text: &str) -> Option<Self> {
        BASE64_URL_SAFE_NO_PAD.decode(text).ok().map(Self)
    }
}
hashed_or_encoded!(Encoded, "expected base64url without padding");

/// Who asked for a change: a human, or whoever holds the authority's data folder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Actor {
    /// A signed-in human.
    Human(HumanId),
    /// The CLI over the socket in the data folder.
    LocalOperator,
    /// A verifier that kept what the authority lost, under the feed key's own signature (`spec/feed.md`, F20).
    HandedBack,
    /// The authority itself, for a key whose overlap with the one that followed it has ended.
    OverlapEnded,
}

impl Actor {
    fn text(&self) -> String {
        match self {
            Self::Human(hid) => hid.to_string(),
            Self::LocalOperator => LOCAL_OPERATOR.to_owned(),
            Self::HandedBack => HANDED_BACK.to_owned(),
            Self::OverlapEnded => OVERLAP_ENDED.to_owned(),
        }
    }
    fn parse(text: &str) -> Option<Self> {
        match text {
            LOCAL_OPERATOR => Some(Self::LocalOperator),
            HANDED_BACK => Some(Self::HandedBack),
            OVERLAP_ENDED => Some(Self::OverlapEnded),
            hid => HumanId::from_str(hid).ok().map(Self::Human),
        }
    }
}
hashed_or_encoded!(Actor, "expected a hid, `local-operator`, `handed-back` or `overlap-ended`");

const LOCAL_OPERATOR: &str = "local-operator";
const HANDED_BACK: &str = "handed-back";
const OVERLAP_ENDED: &str = "overlap-ended";

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $kind:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $variant { $($(#[$field_doc])* pub $field: $type,)* }

            impl From<$variant> for Event {
                fn from(body: $variant) -> Self {
                    Self::$variant(body)
                }
            }
        )*

        /// What happened.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "each variant holds the struct of its name")]
        pub enum Event { $($variant($variant),)* }

        impl Event {
            /// The kinds of this version.
            pub const KINDS: &[&str] = &[$($kind,)*];

            /// The kind: the word in the predicate type.
            pub const fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind,)* }
            }

            /// The statement about it, as JSON.
            pub(super) fn write(&self, tenant: &Tenant, at: UtcMillis) -> Result<Vec<u8>, serde_json::Error> {
                match self { $(Self::$variant(body) => self.statement(tenant, at, body),)* }
            }

            /// The event of that kind in these bytes; `None` if there is no such kind.
            pub(super) fn read(kind: &str, statement: &[u8], max_bytes: usize) -> Option<Result<Stated, crate::strict_json::JsonError>> {
                match kind {
                    $($kind => Some(stated::<$variant>(statement, max_bytes)),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// The anchors' key list that holds from here on. The first leaf of every log.
    KeyListRecorded = "key_list" {
        /// Its version.
        version: u64,
        /// SHA-256 of the signed list.
        hash: Digest,
        /// The signed list.
        key_list: Encoded,
    }
    /// A human signed in, and something came of it.
    SignIn = "sign_in" {
        /// Who.
        human: HumanId,
        /// True at the first sign-in: here the hid was drawn.
        first: bool,
        /// When the provider authenticated them, in seconds since 1970.
        auth_time: u64,
        /// The provider's authentication context class.
        acr: Option<String>,
        /// The provider's authentication methods.
        amr: Vec<String>,
    }
    /// An agent's key was registered, after it proved possession.
    Agent = "agent" {
        /// Which agent.
        agent: AgentId,
        /// Who answers for it.
        owner: HumanId,
        /// Salted hash of its name.
        name_salted_hash: Digest,
        /// Its holder key.
        key: Key,
        /// Its generation then.
        generation: u64,
    }
    /// An agent's next key, after it proved possession. The others that live go on until a stated end.
    AgentKey = "agent_key" {
        /// Which agent.
        agent: AgentId,
        /// The key that follows.
        key: Key,
        /// The keys that it follows.
        replaces: Vec<Replaced>,
        /// Who asked: the owner.
        by: Actor,
    }
    /// An agent was suspended, resumed or retired.
    AgentState = "agent_state" {
        /// Which agent.
        agent: AgentId,
        /// Whether it may act from here on.
        state: crate::domain::agent::AgentState,
        /// Its generation from here on: risen by a suspension or retirement, the floor at a resume.
        generation: u64,
        /// Who asked.
        by: Actor,
        /// Salted hash of the reason given.
        reason_hash: Digest,
    }
    /// A human granted a part of their authority to an agent.
    Delegation = "delegation" {
        /// Which grant.
        delegation: DelegationId,
        /// Its version: narrower ones follow.
        version: u64,
        /// Who granted.
        human: HumanId,
        /// To whom.
        agent: AgentId,
        /// What it permits, any one of them.
        capabilities: Vec<Capability>,
        /// Services that may accept its tokens.
        audiences: Vec<Name>,
        /// Ceiling on the class of data.
        class_max: DataClass,
        /// Longest life of a token under it, in seconds.
        ttl_secs: u64,
        /// Its own end.
        not_after: UtcMillis,
        /// Links allowed below a token.
        depth: u8,
        /// True if hops without an agent card are allowed.
        unregistered_hops: bool,
        /// True if tokens may be used without proof of possession.
        bearer: bool,
        /// Freshness bound in milliseconds.
        freshness_ms: u64,
        /// The generations at the grant.
        generations: Generations,
        /// Salted hash of the text that the human was shown.
        text_hash: Digest,
    }
    /// A token was minted.
    Issue = "issue" {
        /// Which token.
        tid: Tid,
        /// Under which grant.
        delegation: DelegationId,
        /// For which agent.
        agent: AgentId,
        /// The holder key in block 0.
        holder: Key,
        /// SHA-256 of block 0.
        block0_sha256: Digest,
        /// Its expiry.
        expires: UtcMillis,
        /// The tokens it was re-minted from.
        ancestors: Vec<Tid>,
        /// The generations in block 0.
        generations: Generations,
    }
    /// A feed item: something was revoked, or a floor rose.
    Revoke = "revoke" {
        /// The item's bytes as the feed carries them.
        item: Encoded,
        /// Who asked.
        by: Actor,
        /// Salted hash of the reason given.
        reason_hash: Option<Digest>,
        /// The delegation it concerns, if one.
        delegation: Option<DelegationId>,
    }
    /// A verifier was enrolled.
    Verifier = "verifier" {
        /// Which verifier.
        verifier: VerifierId,
        /// Its key.
        key: Key,
        /// The audience it judges for.
        service: String,
        /// Which instance of it.
        instance: String,
        /// Who enrolled it.
        by: Actor,
    }
    /// A verifier's signed receipt of one decision.
    Receipt = "receipt" {
        /// The receipt as the verifier signed it.
        receipt: Encoded,
        /// The verifier.
        verifier: VerifierId,
    }
    /// How often a verifier denied, in one minute and per cause, before signatures and proof were verified.
    Denials = "denials" {
        /// The counts as the verifier signed them.
        denials: Encoded,
        /// The verifier.
        verifier: VerifierId,
    }
    /// The feed began to count anew.
    EpochStart = "epoch_start" {
        /// The new epoch.
        epoch: u64,
        /// The last epoch that this authority knows, its last seq and the hash of the message there.
        previous: Option<FeedHead>,
        /// Who asked.
        by: Actor,
    }
    /// The log goes on under a new origin: the database is older than what was released from it, and an operator says so.
    /// The next leaf begins the epoch of the feed that bears the same number.
    Recovered = "recovered" {
        /// The new origin, which this leaf opens.
        origin: String,
        /// The origin before it.
        previous: String,
        /// What was released there last, as the file beside the signer knows.
        released: TreeHead,
        /// What the database still has of it: all leaves before this one.
        kept: TreeHead,
        /// Salted hash of the reason given.
        reason_hash: Digest,
        /// Who asked.
        by: Actor,
    }
    /// A verifier was retired: nothing that it signs is taken from here on.
    VerifierRetired = "verifier_retired" {
        /// Which verifier.
        verifier: VerifierId,
        /// Who retired it.
        by: Actor,
        /// Salted hash of the reason given.
        reason_hash: Digest,
    }
    /// What was answered to somebody who waited for a revocation: who has heard, who is presumed to deny, whom it does not
    /// cover. A long answer takes several leaves that follow each other; the counts are those of all.
    Coverage = "coverage" {
        /// The leaf of the revocation.
        revocation: u64,
        /// Its feed message: the epoch.
        epoch: u64,
        /// Its feed message: the number.
        seq: u64,
        /// Which part this is, from 0.
        part: u64,
        /// How many there are.
        parts: u64,
        /// Milliseconds from the commit to the answer.
        waited_ms: u64,
        /// Runs of verifiers, exceptions first.
        verifiers: Vec<Covered>,
        /// How many have confirmed.
        confirmed: u64,
        /// How many are presumed to deny.
        fenced: u64,
        /// How many are not covered.
        not_covered: u64,
        /// How many of all these no part names, for want of room.
        unnamed: u64,
        /// Streams of nobody known.
        anonymous: u64,
        /// Who waited.
        by: Actor,
    }
    /// The drill's own human was drawn: nobody signs in as that one, and what it grants no tool accepts.
    Canary = "canary" {
        /// The pseudonym.
        human: HumanId,
        /// Who asked for the drill.
        by: Actor,
    }
    /// The kill switch was tried on a delegation of the canary's.
    Drill = "drill" {
        /// The delegation that was granted and revoked.
        delegation: DelegationId,
        /// The token that was minted under it.
        tid: Tid,
        /// The leaf of the revocation.
        revocation: u64,
        /// How many verifiers have confirmed.
        confirmed: u64,
        /// How many are presumed to deny.
        fenced: u64,
        /// How many are not covered.
        not_covered: u64,
        /// Streams of nobody known.
        anonymous: u64,
        /// Milliseconds from the commit to the last confirmation; none if nobody confirmed.
        slowest_ms: Option<u64>,
        /// Who asked.
        by: Actor,
    }
}

/// The generations of everything that can be killed above a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "each field holds the generation of what it names")]
pub struct Generations {
    pub global: u64,
    pub tenant: u64,
    pub human: u64,
    pub agent: u64,
    pub delegation: u64,
}

/// A key that another has followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replaced {
    /// The key.
    pub key: Key,
    /// From when on it is not accepted.
    pub until: UtcMillis,
}

/// One run of a verifier in the answer to a revocation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covered {
    /// Which verifier.
    pub verifier: VerifierId,
    /// The run of its process; none of one that was never heard of.
    pub run: Option<Encoded>,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a verifier stands towards a revocation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state", deny_unknown_fields)]
pub enum Standing {
    /// It has said so.
    Confirmed {
        /// Milliseconds from the commit until its word was here.
        after_ms: u64,
        /// Its word, as it signed it.
        ack: Encoded,
    },
    /// Silent for longer than its own bound: it has heard, or it denies.
    Fenced {
        /// The bound that it has given, in milliseconds.
        bound_ms: u64,
    },
    /// It may go on allowing.
    NotCovered {
        /// Why.
        why: NotCovered,
    },
}

/// Why a verifier is not covered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotCovered {
    /// Its bound is longer than the wait was.
    LongerBound,
    /// It goes on allowing however old its knowledge is.
    BestEffort,
    /// Enrolled, and never heard of by this authority: nothing is known of its bound.
    NeverSeen,
}

/// A place in the feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedHead {
    /// The epoch.
    pub epoch: u64,
    /// The number in it.
    pub seq: u64,
    /// Hash of the message there.
    pub hash: Digest,
}

/// Size and root of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeHead {
    /// How many leaves.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Digest,
}

/// An event with its tenant and time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stated {
    pub tenant: Tenant,
    pub at: UtcMillis,
    pub event: Event,
}

impl Event {
    /// The predicate type.
    pub fn predicate_type(&self) -> String {
        format!("{ATTEST}{}{VERSION}", self.kind())
    }

    /// What the statement is about: a function of the event, so that no leaf can be about something else than it says.
    fn subject(&self) -> Subject {
        let artifact = |name: String, sha256: Digest| Subject { name, digest: DigestSet { sha256 } };
        // A name without bytes behind it is the digest of itself.
        let named = |name: String| artifact(name.clone(), Digest::of(name.as_bytes()));
        match self {
            Self::KeyListRecorded(e) => artifact(format!("key_list/{}", e.version), e.hash),
            Self::SignIn(e) => named(e.human.to_string()),
            Self::Agent(e) => named(e.agent.to_string()),
            Self::AgentKey(e) => named(format!("{}/{}", e.agent, e.key)),
            Self::AgentState(e) => named(format!("{}/{}", e.agent, e.generation)),
            Self::Delegation(e) => named(format!("{}/{}", e.delegation, e.version)),
            Self::Issue(e) => artifact(e.tid.to_string(), e.block0_sha256),
            Self::Revoke(e) => artifact("item".to_owned(), Digest::of(&e.item.0)),
            Self::Verifier(e) => named(e.verifier.to_string()),
            Self::VerifierRetired(e) => named(e.verifier.to_string()),
            Self::Coverage(e) => named(format!("coverage/{}/{}", e.revocation, e.part)),
            Self::Canary(e) => named(e.human.to_string()),
            Self::Drill(e) => named(format!("drill/{}", e.revocation)),
            Self::Receipt(e) => artifact("receipt".to_owned(), Digest::of(&e.receipt.0)),
            Self::Denials(e) => artifact("denials".to_owned(), Digest::of(&e.denials.0)),
            Self::Recovered(e) => named(format!("origin/{}", e.origin)),
            Self::EpochStart(e) => named(format!("epoch/{}", e.epoch)),
        }
    }

    fn statement<T: Serialize>(&self, tenant: &Tenant, at: UtcMillis, body: T) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Statement {
            kind: STATEMENT.to_owned(),
            subject: vec![self.subject()],
            predicate_type: self.predicate_type(),
            predicate: Predicate { tenant: tenant.clone(), at_ms: at, event: body },
        })
    }
}

/// The kind in a statement's predicate type. Its own pass: only then is it known how to read the rest.
pub(super) fn kind(statement: &[u8], max_bytes: usize) -> Result<String, String> {
    let head: Statement<serde::de::IgnoredAny> = crate::strict_json::from_slice(statement, max_bytes).map_err(|e| e.to_string())?;
    let kind = head.predicate_type.strip_prefix(ATTEST).and_then(|t| t.strip_suffix(VERSION));
    kind.map(str::to_owned).ok_or_else(|| format!("expected a predicate type `{ATTEST}<kind>{VERSION}`"))
}

fn stated<T: DeserializeOwned + Into<Event>>(statement: &[u8], max_bytes: usize) -> Result<Stated, crate::strict_json::JsonError> {
    let statement: Statement<Predicate<T>> = crate::strict_json::from_slice(statement, max_bytes)?;
    let Predicate { tenant, at_ms, event } = statement.predicate;
    let this = Stated { tenant, at: at_ms, event: event.into() };
    if statement.kind != STATEMENT || statement.subject != [this.event.subject()] {
        return Err(crate::strict_json::JsonError::new("expected an in-toto Statement v1 whose one subject is that of its event"));
    }
    Ok(this)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement<P> {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: P,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: DigestSet,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestSet {
    sha256: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Predicate<T> {
    tenant: Tenant,
    at_ms: UtcMillis,
    event: T,
}

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const ATTEST: &str = "https://procura.dev/attest/";
const VERSION: &str = "/v1";
