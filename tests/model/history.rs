//! Histories of the feed, spelled out: what a hash is in the code is the whole history here, so equal means equal.

use std::fmt;

/// What was revoked, numbered from 0.
pub type Item = u8;

/// All messages from the genesis on, four bits each. It names its last message as well: epoch, number, `prev` and content follow from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct History(u32);

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Says {
    Batch(Item),
    EpochStart,
}

const START: u32 = 15;

impl History {
    pub const GENESIS: Self = Self(0);

    pub fn then(self, says: Says) -> Self {
        assert!(self.0 >> 28 == 0, "at most eight messages");
        Self(self.0 << 4 | if let Says::Batch(item) = says { u32::from(item) + 1 } else { START })
    }

    /// The history before the last message.
    pub fn prev(self) -> Self {
        Self(self.0 >> 4)
    }

    pub fn says(self) -> Option<Says> {
        match self.0 & 15 {
            0 => None,
            START => Some(Says::EpochStart),
            n => Some(Says::Batch(n as Item - 1)),
        }
    }

    /// This history and all that it grew from, the genesis last.
    pub fn back(self) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), |h| h.says().map(|_| h.prev()))
    }

    pub fn epoch(self) -> u8 {
        1 + self.back().filter(|h| h.says() == Some(Says::EpochStart)).count() as u8
    }

    /// Number of the last message in its epoch; the epoch's start stands as 0.
    pub fn seq(self) -> u8 {
        self.back().take_while(|h| matches!(h.says(), Some(Says::Batch(_)))).count() as u8
    }

    pub fn contains(self, item: Item) -> bool {
        self.back().any(|h| h.says() == Some(Says::Batch(item)))
    }

    pub fn grew_from(self, earlier: Self) -> bool {
        self.back().any(|h| h == earlier)
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> = self.back().filter_map(Self::says).collect();
        parts.reverse();
        let text = parts.iter().map(|s| if let Says::Batch(item) = s { char::from(b'a' + item) } else { '|' });
        write!(f, "<{}>", text.collect::<String>())
    }
}
