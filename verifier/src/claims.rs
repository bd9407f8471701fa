//! What a token says, as values: names, resources, capabilities, limits. Parsed once, valid by construction.

mod resource;

use std::fmt;
use std::str::FromStr;

use crate::ids::{AgentId, DelegationId, HumanId, Key, Tenant, Tid};
use crate::wire::Malformed;
pub use resource::{Pattern, Resource};

/// A tool, action, service or argument: 1 to 48 of `a-z`, `0-9`, `_`, `-`, `.`, starting with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 48;
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let fits = text.len() <= Self::MAX_BYTES
            && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'));
        if fits { Ok(Self(text.into())) } else { Err(Malformed::new("expected a name of 1 to 48 of a-z, 0-9, `_`, `-`, `.`, starting with a letter")) }
    }
}

/// The unit of an amount, such as `EUR` for euro cents: 1 to 16 of letters, digits, `-`, `.`; or nothing for a bare count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Unit(Box<str>);

impl Unit {
    /// The unit as text; empty for a bare count.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Unit {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let fits = text.len() <= 16 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        if fits { Ok(Self(text.into())) } else { Err(Malformed::new("expected a unit of at most 16 letters, digits, `-`, `.`")) }
    }
}

/// A service and, where there are several, the instance: `payments` or `payments/2`. Proofs are made for an instance, tokens for services (law 5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience {
    text: Box<str>,
    service: Name,
}

impl Audience {
    /// The whole, as proofs sign it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// What tokens list.
    pub const fn service(&self) -> &Name {
        &self.service
    }
}

impl FromStr for Audience {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (service, instance) = text.split_once('/').map_or((text, None), |(s, i)| (s, Some(i)));
        let instance_fits =
            instance.is_none_or(|i| (1..=16).contains(&i.len()) && i.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        if !instance_fits {
            return Err(Malformed::new("expected an instance of 1 to 16 of a-z, 0-9, `-` after the `/` of an audience"));
        }
        Ok(Self { text: text.into(), service: service.parse()? })
    }
}

/// One bound on one argument. A missing or ill-typed argument fails it (law 8).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, tag = "kind")]
pub enum Limit {
    /// The argument is an integer in this unit, in minor units, and at most `max`.
    AtMost {
        /// Which argument.
        arg: Name,
        /// The greatest value allowed.
        max: i64,
        /// Its unit; empty for a bare count.
        #[serde(default)]
        unit: Unit,
    },
    /// The argument is an integer in this unit, in minor units, and at least `min`.
    AtLeast {
        /// Which argument.
        arg: Name,
        /// The least value allowed.
        min: i64,
        /// Its unit; empty for a bare count.
        #[serde(default)]
        unit: Unit,
    },
    /// The argument is one of these texts, byte for byte. 1 to 32, sorted, at most 64 bytes each.
    OneOf {
        /// Which argument.
        arg: Name,
        /// The texts.
        values: Vec<String>,
    },
}

impl Limit {
    /// Which argument it bounds.
    pub const fn arg(&self) -> &Name {
        match self {
            Self::AtMost { arg, .. } | Self::AtLeast { arg, .. } | Self::OneOf { arg, .. } => arg,
        }
    }

    /// True if whatever satisfies `other` satisfies this limit too.
    pub fn allows_all_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AtMost { arg, max, unit }, Self::AtMost { arg: a, max: m, unit: u }) => arg == a && unit == u && m <= max,
            (Self::AtLeast { arg, min, unit }, Self::AtLeast { arg: a, min: m, unit: u }) => arg == a && unit == u && m >= min,
            (Self::OneOf { arg, values }, Self::OneOf { arg: a, values: v }) => arg == a && v.iter().all(|x| values.contains(x)),
            _ => false,
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        if let Self::OneOf { values, .. } = self {
            let fits = (1..=MAX_VALUES).contains(&values.len()) && values.iter().all(|v| v.len() <= 64) && values.is_sorted_by(|a, b| a < b);
            if !fits {
                return Err(Malformed::new("expected 1 to 32 values of at most 64 bytes, sorted, none twice"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost { arg, max, unit } => write!(f, "{arg} at most {}", Amount(*max, unit)),
            Self::AtLeast { arg, min, unit } => write!(f, "{arg} at least {}", Amount(*min, unit)),
            Self::OneOf { arg, values } => write!(f, "{arg} one of {}", values.join(", ")),
        }
    }
}

/// An amount as a person reads it: `500.00 EUR` for 50000 minor units of a currency with two decimals.
pub struct Amount<'a>(pub i64, pub &'a Unit);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(minor, unit) = self;
        // ISO 4217: three capitals are a currency; these have other than two decimals.
        let decimals: usize = match unit.as_str() {
            "JPY" | "KRW" | "VND" | "CLP" | "ISK" | "UGX" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
            u if u.len() == 3 && u.bytes().all(|b| b.is_ascii_uppercase()) => 2,
            _ => 0,
        };
        let (sign, digits) = (if *minor < 0 { "-" } else { "" }, minor.unsigned_abs());
        let scale = 10_u64.pow(decimals as u32);
        write!(f, "{sign}{}", digits / scale)?;
        if decimals > 0 {
            write!(f, ".{:0decimals$}", digits % scale)?;
        }
        if unit.as_str().is_empty() { Ok(()) } else { write!(f, " {unit}") }
    }
}

/// One thing an agent may do: an action of a tool on resources, within limits that all hold together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "CapabilityText", into = "CapabilityText")]
pub struct Capability {
    tool: Name,
    action: Name,
    resource: Pattern,
    limits: Vec<Limit>,
}

impl Capability {
    /// A capability with limits: at most 8, no two of one kind for one argument. An empty list means *unlimited* and is said so by name in the token.
    pub fn new(tool: Name, action: Name, resource: Pattern, mut limits: Vec<Limit>) -> Result<Self, Malformed> {
        limits.sort_unstable();
        for limit in &limits {
            limit.check()?;
        }
        let doubled = limits.windows(2).any(|w| matches!(w, [a, b] if a.arg() == b.arg() && std::mem::discriminant(a) == std::mem::discriminant(b)));
        if limits.len() > MAX_LIMITS || doubled {
            return Err(Malformed::new("expected at most 8 limits and one of a kind for each argument"));
        }
        Ok(Self { tool, action, resource, limits })
    }
    /// The tool.
    pub const fn tool(&self) -> &Name {
        &self.tool
    }
    /// The action.
    pub const fn action(&self) -> &Name {
        &self.action
    }
    /// The resources.
    pub const fn resource(&self) -> &Pattern {
        &self.resource
    }
    /// The limits, sorted; empty means unlimited.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }
    /// True if whatever `other` permits is permitted by this one: what a person may delegate out of what they hold.
    pub fn includes(&self, other: &Self) -> bool {
        self.covers_scope_of(other) && self.limits.iter().all(|mine| other.limits.iter().any(|theirs| mine.allows_all_of(theirs)))
    }
    /// True if tool, action and resources of `other` lie inside this one's, whatever the limits.
    pub fn covers_scope_of(&self, other: &Self) -> bool {
        self.tool == other.tool && self.action == other.action && self.resource.includes(&other.resource)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} on {}", self.tool, self.action, self.resource)?;
        if self.limits.is_empty() {
            return f.write_str(", unlimited");
        }
        self.limits.iter().try_for_each(|l| write!(f, ", {l}"))
    }
}

/// The form of a capability in JSON and configuration. `limits` is mandatory: no limits is `[]`, written by somebody's hand.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct CapabilityText {
    tool: Name,
    action: Name,
    resource: Pattern,
    limits: Vec<Limit>,
}

impl TryFrom<CapabilityText> for Capability {
    type Error = Malformed;
    fn try_from(t: CapabilityText) -> Result<Self, Malformed> {
        Self::new(t.tool, t.action, t.resource, t.limits)
    }
}
impl From<Capability> for CapabilityText {
    fn from(c: Capability) -> Self {
        Self { tool: c.tool, action: c.action, resource: c.resource, limits: c.limits }
    }
}

/// How sensitive what an action touches may be. Unlabelled counts as the highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum DataClass {
    /// For anyone.
    Public = 0,
    /// For the organisation.
    Internal = 1,
    /// For those who need it.
    Confidential = 2,
    /// The most sensitive, and anything without a label.
    #[default]
    Restricted = 3,
}

impl DataClass {
    pub(crate) const fn from_number(n: i64) -> Option<Self> {
        match n {
            0 => Some(Self::Public),
            1 => Some(Self::Internal),
            2 => Some(Self::Confidential),
            3 => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// Whom a token names as accountable human: the *hid*, or for a token of exactly one service a value only that service can match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HumanRef {
    /// The pseudonym.
    Id(HumanId),
    /// [`HumanRef::pairwise`].
    Pairwise([u8; 32]),
}

impl HumanRef {
    /// SHA-256 of tag, hid and service: services cannot tell that two tokens are of one human.
    pub fn pairwise(human: HumanId, service: &Name) -> Self {
        use sha2::Digest as _;
        let hash = sha2::Sha256::new_with_prefix(b"procura-pairwise/1\0").chain_update(human.as_bytes()).chain_update(service.as_str());
        Self::Pairwise(hash.finalize().into())
    }
}

/// The generations that a token was minted under. A kill raises one, and its floor in the feed ends all below (law 6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generations {
    /// Of everything.
    pub global: u64,
    /// Of the tenant.
    pub tenant: u64,
    /// Of the human.
    pub human: u64,
    /// Of the agent of block 0.
    pub agent: u64,
    /// Of the delegation.
    pub delegation: u64,
}

/// Whether the agent's key must sign each call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Possession {
    /// Each call carries a proof by the last holder's key.
    Proof,
    /// Whoever has the token may use it. Never together with links.
    Bearer,
}

/// Who may receive a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hops {
    /// Agents with a card of the authority.
    Registered,
    /// Any key: such a sub-agent can only be killed through its parent.
    Any,
}

/// Everything block 0 says (`spec/token.md`, vocabulary).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block0 {
    /// Whose authority minted it.
    pub tenant: Tenant,
    /// The token's id.
    pub tid: Tid,
    /// Ids of the tokens it was re-minted from, oldest first, at most [`Block0::MAX_ANCESTORS`].
    pub ancestors: Vec<Tid>,
    /// The grant it rests on.
    pub delegation: DelegationId,
    /// The accountable human.
    pub human: HumanRef,
    /// The agent it was minted for.
    pub agent: AgentId,
    /// The agent's key.
    pub holder: Key,
    /// Whether calls carry proofs.
    pub possession: Possession,
    /// Services that may accept it, sorted, 1 to 8.
    pub audiences: Vec<Name>,
    /// What it permits, any one of them, sorted, 1 to 8.
    pub capabilities: Vec<Capability>,
    /// Ceiling on the class of data touched.
    pub class_max: DataClass,
    /// First second of its validity, since 1970.
    pub not_before_secs: u64,
    /// First second after its validity, since 1970.
    pub expires_secs: u64,
    /// How many links may follow, at most [`Block0::MAX_DEPTH`].
    pub depth: u8,
    /// Who may receive them.
    pub hops: Hops,
    /// Freshness bound, in milliseconds. Longer than 150 only where the tool says so too (law 7).
    pub freshness_ms: u32,
    /// What it was minted under.
    pub generations: Generations,
}

impl Block0 {
    /// Most ancestors; a ninth re-mint is refused.
    pub const MAX_ANCESTORS: usize = 8;
    /// Most links a token may carry.
    pub const MAX_DEPTH: u8 = 8;
    /// Longest freshness bound that a token may carry, in milliseconds: 5 minutes.
    pub const MAX_FRESHNESS_MS: u32 = 300_000;
    /// The name of best effort in block 0 (law 7): a tool that says best effort too may go on without hearing of revocations.
    /// To a tool that says a bound it is five minutes like any other number.
    pub const BEST_EFFORT_MS: u32 = Self::MAX_FRESHNESS_MS;

    /// Refuses what no block 0 may say (laws 2, 3, 5).
    pub fn check(&self) -> Result<(), Malformed> {
        let wrong = |what| Err(Malformed::new(what));
        if self.ancestors.len() > Self::MAX_ANCESTORS {
            return wrong("expected at most 8 ancestors");
        }
        if self.ancestors.contains(&self.tid) || has_twice(&self.ancestors) {
            return wrong("expected every ancestor once and none that is the token itself");
        }
        if !(1..=MAX_LISTED).contains(&self.audiences.len()) || !self.audiences.is_sorted_by(|a, b| a < b) {
            return wrong("expected 1 to 8 audiences, sorted, none twice");
        }
        if matches!(self.human, HumanRef::Pairwise(_)) && self.audiences.len() != 1 {
            return wrong("expected exactly one audience beside a pairwise human");
        }
        if !(1..=MAX_LISTED).contains(&self.capabilities.len()) || !self.capabilities.is_sorted_by(|a, b| a < b) {
            return wrong("expected 1 to 8 capabilities, sorted, none twice");
        }
        if self.not_before_secs >= self.expires_secs {
            return wrong("expected an expiry after not-before");
        }
        if self.depth > Self::MAX_DEPTH || (self.possession == Possession::Bearer && self.depth > 0) {
            return wrong("expected a link depth of at most 8, and 0 for bearer use");
        }
        if self.freshness_ms == 0 || self.freshness_ms > Self::MAX_FRESHNESS_MS {
            return wrong("expected a freshness bound of 1 ms to 5 minutes");
        }
        Ok(())
    }
}

/// One narrowing of what came before: an extra check that must hold too (law 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Restriction {
    /// Ends earlier: the first second after.
    Until(u64),
    /// Only these services, sorted, 1 to 8.
    Audiences(Vec<Name>),
    /// A lower ceiling on the class of data.
    ClassMax(DataClass),
    /// Only these capabilities, sorted, 1 to 8.
    Capabilities(Vec<Capability>),
    /// A limit whatever the capability.
    Limit(Limit),
}

impl Restriction {
    /// Most restrictions in one block.
    pub const MAX_PER_BLOCK: usize = 8;

    /// Refuses what no block may say.
    pub fn check(&self) -> Result<(), Malformed> {
        let fits = match self {
            Self::Until(_) | Self::ClassMax(_) => true,
            Self::Audiences(a) => (1..=MAX_LISTED).contains(&a.len()) && a.is_sorted_by(|x, y| x < y),
            Self::Capabilities(c) => (1..=MAX_LISTED).contains(&c.len()) && c.is_sorted_by(|x, y| x < y),
            Self::Limit(l) => return l.check(),
        };
        if fits { Ok(()) } else { Err(Malformed::new("expected 1 to 8 elements, sorted, none twice")) }
    }
}

/// True if an element occurs twice; for short lists.
pub(crate) fn has_twice<T: PartialEq>(list: &[T]) -> bool {
    list.iter().enumerate().any(|(i, x)| list.get(i + 1..).is_some_and(|rest| rest.contains(x)))
}

macro_rules! text_form {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
text_form!(Name, Unit, Audience, Resource, Pattern);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const MAX_LISTED: usize = 8;
const MAX_LIMITS: usize = 8;
const MAX_VALUES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_includes_what_is_narrower() {
        let cap = |resource: &str, max: Option<i64>| {
            let limits = max.map(|max| Limit::AtMost { arg: "amount".parse().expect("a name"), max, unit: "EUR".parse().expect("a unit") });
            Capability::new(
                "payments".parse().expect("a name"),
                "transfer".parse().expect("a name"),
                resource.parse().expect("a pattern"),
                limits.into_iter().collect(),
            )
            .expect("a capability")
        };
        assert!(cap("acct/*", Some(500)).includes(&cap("acct/eu/*", Some(400))));
        assert!(!cap("acct/*", Some(500)).includes(&cap("acct/eu/*", Some(501))));
        assert!(!cap("acct/*", Some(500)).includes(&cap("acct/eu/*", None)), "no limit is wider than any");
        assert!(!cap("acct/eu/*", None).includes(&cap("acct/*", None)));
        assert_eq!(cap("acct/eu/*", Some(50_000)).to_string(), "payments:transfer on acct/eu/*, amount at most 500.00 EUR");
    }
}
