//! Old messages for whoever fell far behind: read from the store and signed again beside everything else, for any stranger.
//!
//! A page of the tail is 256 signatures. Made where requests are answered, a few strangers who ask for old pages in a loop
//! would hold up heartbeats, and with them every verifier. So they are made on threads that answer nothing else, in
//! [`Turns`]; and what was signed is kept for a while, since verifiers that fall behind fall behind together, and a
//! signature is the same whenever it is made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use procura_verifier::feed::message::SignedMessage;

use super::turns::{Bounds, Turns};
use super::{MAX_TAIL, MAX_TAIL_BYTES};

/// Pages under way, and those that wait for it.
pub const BOUNDS: Bounds = Bounds { at_once: 2, waiting: 256, of_one: 16 };

/// A page of the tail.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In order.
    pub messages: Vec<Arc<SignedMessage>>,
    /// True if there may be others after them.
    pub more: bool,
}

impl Page {
    /// Those of the messages that a page holds, in their order; `more` is true where some were left.
    pub(super) fn of(all: impl IntoIterator<Item = Arc<SignedMessage>>) -> Self {
        let (mut page, mut bytes) = (Self::default(), 0);
        for message in all {
            bytes += size(&message);
            // A page has one message at least, else whoever reads on would read the same for ever.
            if page.messages.len() == MAX_TAIL as usize || (bytes > MAX_TAIL_BYTES && !page.messages.is_empty()) {
                page.more = true;
                break;
            }
            page.messages.push(message);
        }
        page.more |= page.messages.len() == MAX_TAIL as usize;
        page
    }

    /// Bytes of its messages.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|m| size(m)).sum()
    }
}

/// Turns at signing, and what was signed.
pub(super) struct Tails {
    pub turns: Turns,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    messages: BTreeMap<(u64, u64), Arc<SignedMessage>>,
    /// As they came: the oldest goes first.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
    /// Counts key lists, as the feed does: what was signed under an earlier one is not kept.
    list: u64,
}

impl Tails {
    pub(super) fn new() -> Self {
        Self { turns: Turns::new(BOUNDS), kept: Mutex::default() }
    }

    /// A whole page of what was signed before: within an epoch numbers have no holes, so nothing is missing from it.
    pub(super) fn page(&self, epoch: u64, seq: u64) -> Option<Page> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let from = seq.checked_add(1)?;
        let unbroken = kept.messages.range((epoch, from)..=(epoch, u64::MAX)).zip(from..).take_while(|((at, _), n)| at.1 == *n);
        let page = Page::of(unbroken.map(|((_, message), _)| Arc::clone(message)).take(MAX_TAIL as usize + 1));
        page.more.then_some(page)
    }

    /// The message of this place, if it was signed before.
    pub(super) fn find(&self, place: (u64, u64)) -> Option<Arc<SignedMessage>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).messages.get(&place).cloned()
    }

    /// Keeps what was signed while that many key lists had come into force.
    pub(super) fn keep(&self, signed: impl IntoIterator<Item = ((u64, u64), Arc<SignedMessage>)>, list: u64) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.list != list {
            return;
        }
        for (place, message) in signed {
            if kept.messages.contains_key(&place) {
                continue;
            }
            kept.bytes += size(&message);
            kept.messages.insert(place, message);
            kept.order.push_back(place);
            while kept.bytes > MAX_KEPT_BYTES || kept.messages.len() > MAX_KEPT {
                let Some(gone) = kept.order.pop_front().and_then(|oldest| kept.messages.remove(&oldest)) else { break };
                kept.bytes -= size(&gone);
            }
        }
    }

    /// A key list came into force: a key that signed may be dead.
    pub(super) fn forget(&self, list: u64) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept { list, ..Kept::default() };
    }
}

/// Payload, key and signature.
fn size(message: &SignedMessage) -> usize {
    message.unverified_payload().len() + 104
}

/// Sixteen pages of short messages.
const MAX_KEPT: usize = 4096;
const MAX_KEPT_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
