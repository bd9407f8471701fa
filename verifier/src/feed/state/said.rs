//! What the state machine says to those around it: what to fetch, what to tell people, what it counts.

use crate::ids::UtcMillis;

/// What is to be fetched before the view can be fresh.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Need {
    /// Nothing.
    Nothing,
    /// The messages from here on, across epochs. After a fork these are all there are.
    Tail {
        /// The epoch.
        epoch: u64,
        /// The first number wanted. The start of a later epoch stands as its number 0.
        from_seq: u64,
    },
    /// The key list: a newer one exists.
    KeyList,
    /// An answer to a nonce of our own.
    Pull,
}

/// Something that people should hear of. Never holds anything back: what it means for decisions has been done already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Alarm {
    /// `feed fork`: two histories were signed. Everything ever applied is kept; the feed is read again from its start.
    Fork {
        /// The epoch.
        epoch: u64,
        /// The number where they differ, or where the shorter one ends.
        seq: u64,
    },
    /// `feed loss`: a new epoch begins below what this verifier holds. Its items stay applied here; the authority lost them.
    Loss {
        /// The epoch that was cut.
        epoch: u64,
        /// The first number that the authority no longer has.
        from_seq: u64,
    },
    /// `clock`: an authority clock runs ahead; no freshness from it until a signed epoch start confirms it.
    Clock {
        /// What the heartbeat said.
        said: UtcMillis,
        /// What was known.
        known: UtcMillis,
    },
    /// `unreadable`: a feed key signed what this version cannot read. Stale until newer code runs.
    Unreadable,
    /// `paused`: the machine stood still, was restored, or its clock was set. A new replay challenge is due.
    Paused,
    /// `key list`: anchors signed two lists under one version, or a replica names one that differs.
    KeyList {
        /// The version.
        version: u64,
    },
    /// `trust file`: an accepted key list could not be kept on disk. It counts here; a restart begins with the list before it.
    TrustFile {
        /// The version.
        version: u64,
    },
    /// `folder`: what this verifier kept on disk is damaged, another's, or cannot be written. It was set aside; the feed is read again.
    Folder,
}

/// Counts since the start, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeedCounters {
    /// Messages that came in.
    pub received: u64,
    /// Of these: dropped before their signature was looked at, as already known.
    pub duplicates: u64,
    /// Refused: not a message, by no feed key, or badly signed.
    pub refused: u64,
    /// Batches applied.
    pub batches: u64,
    /// Items in them.
    pub items: u64,
    /// Heartbeats verified.
    pub heartbeats: u64,
    /// Of these: of a clock that is not mapped.
    pub unmapped: u64,
    /// Times that freshness was published.
    pub published: u64,
    /// Forks found.
    pub forks: u64,
    /// Pauses noticed.
    pub pauses: u64,
    /// Out-of-order batches whose place was not remembered, for want of room: the tail brings them again.
    pub overflows: u64,
}
