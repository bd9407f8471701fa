//! What is wrong with a bundle: one class (and exit code), one place, one sentence.

use std::fmt;

/// The class of a finding; `procura log replay` ends with its number (`spec/log.md`, Findings).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FindingClass {
    /// The file is not a bundle that export writes, or a member is not what the manifest lists.
    Container = 10,
    /// A key list, manifest or checkpoint is not signed by a key that the trust file leads to, in its window.
    Signature = 11,
    /// Leaves, tiles and checkpoint do not make one tree.
    Root = 12,
    /// A leaf does not open: form, signature, key window, tenant.
    Leaf = 13,
    /// The feed does not read, or does not match its leaves.
    Feed = 14,
    /// The events contradict each other.
    State = 15,
    /// A decision does not follow from its recorded inputs.
    Decision = 16,
}

impl FindingClass {
    /// The exit code.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// The first wrong thing found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{place}: {sentence}")]
pub struct Finding {
    /// Its class.
    pub class: FindingClass,
    /// Where: a member of the bundle, a leaf, the file.
    pub place: Place,
    /// What was expected and what came.
    pub sentence: String,
}

impl Finding {
    /// A finding.
    pub fn new(class: FindingClass, place: Place, sentence: impl fmt::Display) -> Self {
        Self { class, place, sentence: sentence.to_string() }
    }
}

/// Where something is wrong.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At this byte of the file.
    Byte(u64),
    /// In the member with this path.
    Member(String),
    /// In the leaf with this index.
    Leaf(u64),
    /// In the feed message with this number in the bundle, from 0.
    FeedMessage(u64),
}

impl Place {
    /// The member with this path.
    pub fn member(path: impl fmt::Display) -> Self {
        Self::Member(path.to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(at) => write!(f, "byte {at} of the bundle"),
            Self::Member(path) => write!(f, "member `{path}`"),
            Self::Leaf(index) => write!(f, "leaf {index}"),
            Self::FeedMessage(n) => write!(f, "feed message {n}"),
        }
    }
}
