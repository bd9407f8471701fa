//! The way of signed messages within this process: bounded, at most once, unordered for whoever lags.

use std::sync::Arc;

use procura_verifier::feed::message::SignedMessage;
use tokio::sync::broadcast::{self, error::RecvError};

use super::redis::RedisBusStatus;

/// A way for signed messages. At most once, in no order, and any may be dropped: what travels is signed and numbered, so a lost message costs
/// delay, never safety. `contract.rs` says the same of each.
///
/// No `subscribe`: streams listen to the [`Bus`], verifiers to Redis themselves.
pub trait Transport: Send + Sync {
    /// Sends to whoever listens. Never waits, never fails: the writer calls it between two commits.
    fn publish(&self, message: Arc<SignedMessage>);
    /// True while somebody is known to listen. Where nobody does, no beat is signed.
    fn has_listeners(&self) -> bool;
    /// How the way over Redis is doing, if it is that way.
    fn redis(&self) -> Option<RedisBusStatus> {
        None
    }
}

/// Carries messages to every subscription within the process.
pub struct Bus(broadcast::Sender<Arc<SignedMessage>>);

/// What a subscription gives.
#[derive(Debug, Clone)]
pub enum Heard {
    /// A message.
    Message(Arc<SignedMessage>),
    /// Some were dropped because this reader was slow: read the tail.
    Lagged,
}

/// A listener. Holds at most [`BOUND`] messages; then the oldest are dropped and [`Heard::Lagged`] says so.
pub struct Subscription(broadcast::Receiver<Arc<SignedMessage>>);

/// Messages that wait for the slowest listener: three minutes of heartbeats at 6 messages a second beside them.
pub const BOUND: usize = 4096;

impl Bus {
    /// A bus nobody listens to yet.
    pub fn new() -> Self {
        Self(broadcast::Sender::new(BOUND))
    }

    /// A listener from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }
}

impl Transport for Bus {
    fn publish(&self, message: Arc<SignedMessage>) {
        // An error means that nobody listens.
        let _ = self.0.send(message);
    }

    fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Subscription {
    /// The next message; `None` when the feed has ended.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(message) => Some(Heard::Message(message)),
            Err(RecvError::Lagged(_)) => Some(Heard::Lagged),
            Err(RecvError::Closed) => None,
        }
    }
}
