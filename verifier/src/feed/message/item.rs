//! What a batch takes back, one item at a time: read and write side by side.

use minicbor::{Decoder, Encoder};

use crate::ids::{AgentId, BlockId, DelegationId, FreezeId, HumanId, Key, Lid, Tid, UtcMillis};
use crate::wire::{Canonical, Enc, Malformed, array, fixed};

/// Whose generations a floor ends, or whom a freeze stops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FloorScope {
    /// Everything.
    Global,
    /// The feed's tenant.
    Tenant,
    /// A human: all tokens resting on their authority.
    Human(HumanId),
    /// An agent, as holder of block 0 or of a link.
    Agent(AgentId),
    /// A delegation and everything under it.
    Delegation(DelegationId),
}

impl FloorScope {
    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let (number, subject): (u8, &[u8]) = match self {
            Self::Global => (0, &[]),
            Self::Tenant => (1, &[]),
            Self::Human(id) => (2, id.as_bytes()),
            Self::Agent(id) => (3, id.as_bytes()),
            Self::Delegation(id) => (4, id.as_bytes()),
        };
        e.u8(number)?.bytes(subject)?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(match d.u8()? {
            0 => fixed::<0>(d).map(|_| Self::Global)?,
            1 => fixed::<0>(d).map(|_| Self::Tenant)?,
            2 => Self::Human(HumanId::from_bytes(fixed(d)?)),
            3 => Self::Agent(AgentId::from_bytes(fixed(d)?)),
            4 => Self::Delegation(DelegationId::from_bytes(fixed(d)?)),
            _ => return Err(Malformed::new("expected a scope from 0 to 4")),
        })
    }
}

/// A stop that can be lifted: whom, from when, until when. Of one id the highest version holds; a version with an empty
/// window lifts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Freeze {
    /// Its id: what denials name.
    pub id: FreezeId,
    /// Whom it stops.
    pub scope: FloorScope,
    /// First moment, in authority UTC.
    pub from: UtcMillis,
    /// First moment after it. Not after `from`: the freeze is lifted.
    pub until: UtcMillis,
    /// Rises with each change.
    pub version: u64,
}

impl Freeze {
    /// True if its window is empty.
    pub const fn is_lifted(&self) -> bool {
        self.until.0 <= self.from.0
    }

    /// True if it stops at this moment.
    pub const fn holds_at(&self, utc: UtcMillis) -> bool {
        self.from.0 <= utc.0 && utc.0 < self.until.0
    }

    /// True if this one replaces the other of the same id: by version, and between two of one version (which an authority
    /// never signs) by an order that depends on neither's arrival and lets the longer stop win.
    pub fn supersedes(&self, other: &Self) -> bool {
        let rank = |f: &Self| (f.version, !f.is_lifted(), f.until, std::cmp::Reverse(f.from), f.scope);
        rank(self) > rank(other)
    }
}

/// One thing taken back. There is no item that gives back, but for a freeze, which is made to be lifted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A token and all re-minted from it.
    Tid {
        /// The token.
        tid: Tid,
        /// Its expiry, in seconds since 1970: the item is needed no longer than that.
        exp_secs: u64,
    },
    /// A link and all under it.
    Lid {
        /// The link.
        lid: Lid,
        /// Expiry of the token it stands in.
        exp_secs: u64,
    },
    /// A narrowing block and all under it.
    Block {
        /// The block.
        block: BlockId,
        /// Expiry of the token it stands in.
        exp_secs: u64,
    },
    /// A holder key, for good.
    HolderKey {
        /// The key.
        key: Key,
    },
    /// A root key, for good: every token whose block 0 it signed, whatever the token says.
    RootKey {
        /// The key.
        key: Key,
    },
    /// A stop that can be lifted.
    Freeze(Freeze),
    /// The kill switch: every generation below this one.
    Floor {
        /// Of what.
        scope: FloorScope,
        /// The lowest generation still valid.
        generation: u64,
    },
    /// Of a later version: kept to the byte, and whoever applies it is stale until it runs newer code (F9).
    Unknown {
        /// Its kind.
        kind: u8,
        /// Its body.
        body: Vec<u8>,
    },
}

impl Item {
    fn kind(&self) -> u8 {
        match self {
            Self::Tid { .. } => 1,
            Self::Lid { .. } => 2,
            Self::Block { .. } => 3,
            Self::HolderKey { .. } => 4,
            Self::Floor { .. } => 5,
            Self::RootKey { .. } => 6,
            Self::Freeze(_) => 7,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    fn write_body(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        match self {
            Self::Tid { tid, exp_secs } => e.array(2)?.bytes(tid.as_bytes())?.u64(*exp_secs)?,
            Self::Lid { lid, exp_secs } => e.array(2)?.bytes(lid.as_bytes())?.u64(*exp_secs)?,
            Self::Block { block, exp_secs } => e.array(2)?.bytes(block.as_bytes())?.u64(*exp_secs)?,
            Self::HolderKey { key } | Self::RootKey { key } => e.array(1)?.bytes(key.as_bytes())?,
            Self::Floor { scope, generation } => {
                scope.write(e.array(3)?)?;
                e.u64(*generation)?
            }
            Self::Freeze(f) => {
                f.scope.write(e.array(6)?.bytes(f.id.as_bytes())?)?;
                e.u64(f.from.0)?.u64(f.until.0)?.u64(f.version)?
            }
            Self::Unknown { body, .. } => {
                e.writer_mut().extend_from_slice(body);
                e
            }
        };
        Ok(())
    }

    fn read_body(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(body);
        let item = match kind {
            1 => {
                array(&mut d, 2)?;
                Self::Tid { tid: Tid::from_bytes(fixed(&mut d)?), exp_secs: d.u64()? }
            }
            2 => {
                array(&mut d, 2)?;
                Self::Lid { lid: Lid::from_bytes(fixed(&mut d)?), exp_secs: d.u64()? }
            }
            3 => {
                array(&mut d, 2)?;
                Self::Block { block: BlockId::from_bytes(fixed(&mut d)?), exp_secs: d.u64()? }
            }
            4 => {
                array(&mut d, 1)?;
                Self::HolderKey { key: Key::from_bytes(fixed(&mut d)?) }
            }
            5 => {
                array(&mut d, 3)?;
                Self::Floor { scope: FloorScope::read(&mut d)?, generation: d.u64()? }
            }
            6 => {
                array(&mut d, 1)?;
                Self::RootKey { key: Key::from_bytes(fixed(&mut d)?) }
            }
            7 => {
                array(&mut d, 6)?;
                let (id, scope) = (FreezeId::from_bytes(fixed(&mut d)?), FloorScope::read(&mut d)?);
                Self::Freeze(Freeze { id, scope, from: UtcMillis(d.u64()?), until: UtcMillis(d.u64()?), version: d.u64()? })
            }
            kind => return Ok(Self::Unknown { kind, body: body.to_vec() }),
        };
        // Bytes after the body would not survive writing it again: the message as a whole is then refused as not canonical.
        Ok(item)
    }
}

/// `[kind, body bytes]`: a body is framed, so that kinds to come can be kept without being understood.
impl Canonical for Item {
    const MAX_BYTES: usize = 4 * 1024;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let mut body = Encoder::new(Vec::new());
        self.write_body(&mut body)?;
        e.array(2)?.u8(self.kind())?.bytes(body.writer())?;
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        array(d, 2)?;
        let kind = d.u8()?;
        Self::read_body(kind, d.bytes()?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            any::<([u8; 16], u64)>().prop_map(|(id, exp_secs)| Item::Tid { tid: Tid::from_bytes(id), exp_secs }),
            any::<([u8; 16], u64)>().prop_map(|(id, exp_secs)| Item::Lid { lid: Lid::from_bytes(id), exp_secs }),
            any::<([u8; 16], u64)>().prop_map(|(id, exp_secs)| Item::Block { block: BlockId::from_bytes(id), exp_secs }),
            any::<[u8; 32]>().prop_map(|key| Item::HolderKey { key: Key::from_bytes(key) }),
            any::<([u8; 16], u64)>().prop_map(|(id, generation)| Item::Floor { scope: FloorScope::Human(HumanId::from_bytes(id)), generation }),
            any::<u64>().prop_map(|generation| Item::Floor { scope: FloorScope::Global, generation }),
            any::<[u8; 32]>().prop_map(|key| Item::RootKey { key: Key::from_bytes(key) }),
            any::<([u8; 16], [u8; 16], u64, u64, u64)>().prop_map(|(id, agent, from, until, version)| {
                let scope = FloorScope::Agent(AgentId::from_bytes(agent));
                Item::Freeze(Freeze { id: FreezeId::from_bytes(id), scope, from: UtcMillis(from), until: UtcMillis(until), version })
            }),
            (8..=255_u8, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, body)| Item::Unknown { kind, body }),
        ]
    }
}
