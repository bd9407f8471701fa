//! The revocation feed: its messages, what a verifier makes of them, and a client (`spec/feed.md`).
//!
//! [`FeedState`] does no I/O: bytes and clock readings go in, a [`Need`] comes out, and the [`View`](crate::revocation::View)
//! that decisions read follows. Transports only carry bytes: what they lose, repeat, reorder or invent costs freshness, never truth.

pub mod ack;
pub mod clock;
#[cfg(feature = "sse")]
pub mod folder;
pub mod message;
pub mod snapshot;
pub mod state;

#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sse")]
pub mod sse;

#[cfg(test)]
pub(crate) mod fixture;

pub use message::{Batch, EpochStart, FeedError, FloorScope, Heartbeat, Item, Message, SignedMessage, genesis_hash};
pub use state::{Alarm, FeedCounters, FeedState, Need, Nonce};
