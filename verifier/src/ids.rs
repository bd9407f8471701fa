//! Names of things: random 16-byte identifiers, tenants, keys, and the two kinds of time.
//!
//! Each identifier is a type of its own; in text it carries a prefix (`tid_…`), in tokens and storage it is bytes.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier, a tenant name or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The identifier with these bytes. The caller draws them at random.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
            /// The bytes, as tokens and storage hold them.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let body = text.strip_prefix($prefix).ok_or_else(|| {
                    IdError(format!(concat!("expected `", $prefix, "` and 32 hex digits, got `{}`"), shorten(text)))
                })?;
                Ok(Self(lower_hex::<16>(body)?))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/// A token: random, inside the signed block 0, so that nothing a presenter can change names it (law 6).
    Tid, "tid_");
id!(/// A link: random, inside the payload that the present holder signs (law 4).
    Lid, "lid_");
id!(/// A human's recorded grant to an agent.
    DelegationId, "dlg_");
id!(/// A human, under a pseudonym drawn at first sign-in (*hid*): never a subject, never an e-mail.
    HumanId, "hid_");
id!(/// A non-human identity with an owner and Ed25519 keys.
    AgentId, "agt_");
id!(/// An enrolled verifier.
    VerifierId, "vrf_");
id!(/// A block of a token that only narrows: the first half of a tagged hash of its signature (law 6).
    BlockId, "blk_");
id!(/// A freeze: a stop that can be lifted.
    FreezeId, "frz_");
id!(/// The life of one boot-time clock in one process: drawn at random when the process starts (`spec/feed.md`).
    ClockId, "clk_");

/// An organisation: 1 to 32 of `a-z`, `0-9`, `-`, starting with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Box<str>);

impl Tenant {
    /// Longest name, in bytes: it stands in every block 0 and every agent card.
    pub const MAX_BYTES: usize = 32;
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tenant {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = text.as_bytes();
        let fits = bytes.len() <= Self::MAX_BYTES
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(IdError(format!("expected a tenant of 1 to 32 of a-z, 0-9, `-`, starting with a letter, got `{}`", shorten(text))))
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl serde::Serialize for Tenant {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}
impl<'de> serde::Deserialize<'de> for Tenant {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The 32 bytes of an Ed25519 public key: a name. Whether it is a point is seen when it verifies something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The public half of a signing key.
    pub fn of(signing: &ed25519_dalek::SigningKey) -> Self {
        Self(signing.verifying_key().to_bytes())
    }
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// True if `signature` over `message` is by this key. `verify_strict`: no small-order keys, no second form of a signature.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&self.0) else { return false };
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Key {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Ok(Self(lower_hex::<32>(text)?))
    }
}
impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A moment of authority UTC, in milliseconds since 1970. Not comparable with [`BootTime`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UtcMillis(pub u64);

impl UtcMillis {
    /// Whole seconds since 1970, rounded down: the granularity of dates inside tokens.
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }
    /// This moment and `ms` milliseconds, saturating.
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for UtcMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let text = time::OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{} ms after 1970", self.0),
        }
    }
}

/// A reading of a clock that counts suspend (`CLOCK_BOOTTIME`), in microseconds. Means nothing on another machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This reading and `us` microseconds, saturating.
    pub const fn plus_micros(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }
    /// Microseconds from `earlier` to this reading, 0 if it is later.
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from. An argument everywhere: tests move it by hand.
pub trait Clock: Send + Sync {
    /// The boot-time clock.
    fn boot(&self) -> BootTime;
    /// The machine's wall clock. Never trusted for expiry or freshness (law 7).
    fn wall(&self) -> UtcMillis;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0) / 1000))
    }
    fn wall(&self) -> UtcMillis {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        UtcMillis(u64::try_from(t.tv_sec).unwrap_or(0).saturating_mul(1000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000))
    }
}

/// Exactly `N` bytes of lower-case hex: one text per value, so that identifiers compare as text too.
fn lower_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let wrong = || IdError(format!("expected {} lower-case hex digits, got `{}`", N * 2, shorten(text)));
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(wrong());
    }
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).map_err(|_| wrong())?;
    Ok(out)
}

/// Input as an error sentence may show it: at most 40 characters, no control characters.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_what_it_writes_and_nothing_else() {
        let tid = Tid::from_bytes([7; 16]);
        assert_eq!(tid.to_string().parse(), Ok(tid));
        assert!(tid.to_string().to_uppercase().parse::<Tid>().is_err());
        assert!("lid_07070707070707070707070707070707".parse::<Tid>().is_err());
        assert!("acme".parse::<Tenant>().is_ok());
        for bad in ["", "Acme", "1a", "a/b", "a".repeat(33).as_str()] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad}");
        }
    }
}
