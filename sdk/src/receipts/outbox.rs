//! What waits for the authority, numbered without gaps, and what it acknowledged of late: a restored backup has lost that.
//!
//! An authority that misses the record before the next answers 409. Then what was kept is delivered again; where that does
//! not close the gap, the run ends, and what waits is numbered from 1 under the run that follows it (`spec/log.md`, receipts).

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::decision::Cause;
use procura_verifier::denials::Denials;
use procura_verifier::ids::{UtcMillis, VerifierId};
use procura_verifier::receipt::{SignedReceipt, run_after};
use procura_verifier::wire::Canonical as _;

use super::{MAX_WAITING, MAX_WAITING_BYTES};

/// Who signs records.
pub(super) struct Signer {
    pub(super) verifier: VerifierId,
    pub(super) key: SigningKey,
}

/// The records of one verifier. Deliveries are one at a time; records are added meanwhile.
pub(super) struct Queue {
    receipts: Series,
    counted: Series,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Acknowledged under this run, the newest last, right before those that wait.
    sent: VecDeque<Waiting>,
    sent_bytes: usize,
    again: bool,
    /// The number at which a gap was met that what was kept has to close, and how often it was tried.
    gap: (u64, u32),
    /// Counts not yet made into a record.
    counts: BTreeMap<&'static str, u64>,
    /// Since the start.
    all_counts: BTreeMap<&'static str, u64>,
    /// The record of counts on its way.
    record: Option<Denials>,
    counts_next: bool,
    /// Places promised to allows.
    reserved: usize,
}

/// A run, and the number given last in it.
#[derive(Clone, Copy)]
struct Series {
    run: [u8; 16],
    number: u64,
}

struct Waiting {
    run: [u8; 16],
    text: String,
}

/// One delivery: receipts, or counts. Apart, so that an answer says which of them has a gap.
#[derive(Default, serde::Serialize)]
pub(super) struct Parcel {
    receipts: Vec<String>,
    denials: Vec<String>,
}

impl Queue {
    pub(super) fn of_run(run: [u8; 16]) -> Self {
        let series = Series { run, number: 0 };
        Self {
            receipts: series,
            counted: series,
            waiting: VecDeque::new(),
            bytes: 0,
            sent: VecDeque::new(),
            sent_bytes: 0,
            again: false,
            gap: (0, 0),
            counts: BTreeMap::new(),
            all_counts: BTreeMap::new(),
            record: None,
            counts_next: false,
            reserved: 0,
        }
    }

    /// Run and number of the receipt that [`Self::push`] takes next.
    pub(super) const fn next_receipt(&self) -> ([u8; 16], u64) {
        (self.receipts.run, self.receipts.number + 1)
    }

    pub(super) fn push(&mut self, text: String) {
        self.receipts.number += 1;
        self.bytes += text.len();
        self.waiting.push_back(Waiting { run: self.receipts.run, text });
    }

    /// Room for one more in the first `1 / part` of the queue. A record is at most some 40 KiB of text.
    pub(super) fn has_room(&self, part: usize) -> bool {
        self.waiting.len() + self.reserved < MAX_WAITING / part && self.bytes < MAX_WAITING_BYTES / part
    }

    pub(super) const fn reserve(&mut self) {
        self.reserved += 1;
    }

    pub(super) const fn free(&mut self) {
        self.reserved -= 1;
    }

    pub(super) fn count(&mut self, cause: Cause) {
        *self.counts.entry(cause.word()).or_default() += 1;
        *self.all_counts.entry(cause.word()).or_default() += 1;
    }

    pub(super) const fn all_counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.all_counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.counts.is_empty() && self.record.is_none() && !self.again
    }

    pub(super) const fn deliver_again(&mut self) {
        self.again = true;
    }

    /// What to deliver next; the same again until [`Self::taken`] or [`Self::broken`] is told of it. Receipts and counts in turn: neither
    /// waits for the other's gap.
    pub(super) fn parcel(&mut self, signer: &Signer, now: UtcMillis) -> Option<Parcel> {
        if std::mem::take(&mut self.again) {
            self.requeue();
        }
        if self.record.is_none() && !self.counts.is_empty() {
            let counts = std::mem::take(&mut self.counts).into_iter().map(|(word, n)| (word.to_owned(), n)).collect();
            self.counted.number += 1;
            let Series { run, number } = self.counted;
            self.record = Some(Denials { verifier: signer.verifier, run, number, minute: now.0 / 60_000, counts });
        }
        self.counts_next = !self.counts_next;
        match &self.record {
            Some(record) if self.counts_next || self.waiting.is_empty() => {
                Some(Parcel { denials: vec![BASE64.encode(record.sign(&signer.key).to_bytes())], ..Parcel::default() })
            }
            _ if self.waiting.is_empty() => None,
            _ => Some(Parcel { receipts: self.front(signer), ..Parcel::default() }),
        }
    }

    /// The first that wait, under the run and the numbers that they have now.
    fn front(&mut self, signer: &Signer) -> Vec<String> {
        let (run, first) = (self.receipts.run, self.first());
        let mut texts = Vec::new();
        for (number, waiting) in (first..).zip(self.waiting.iter_mut().take(AT_ONCE)) {
            if waiting.run != run {
                let claimed = BASE64.decode(&waiting.text).ok().and_then(|b| SignedReceipt::from_bytes(&b).ok()).and_then(|r| r.claimed().ok());
                // Never none: it was written here, and read back before it was taken in.
                if let Some(mut receipt) = claimed {
                    (receipt.run, receipt.number) = (run, number);
                    let text = BASE64.encode(receipt.sign(&signer.key).to_bytes());
                    self.bytes = self.bytes + text.len() - waiting.text.len();
                    *waiting = Waiting { run, text };
                }
            }
            texts.push(waiting.text.clone());
        }
        texts
    }

    /// The number of the first that waits.
    fn first(&self) -> u64 {
        self.receipts.number + 1 - self.waiting.len() as u64
    }

    /// The authority has acknowledged it.
    pub(super) fn taken(&mut self, parcel: Parcel) {
        for waiting in self.waiting.drain(..parcel.receipts.len()) {
            self.bytes -= waiting.text.len();
            self.sent_bytes += waiting.text.len();
            self.sent.push_back(waiting);
        }
        while self.sent.len() > MAX_KEPT || self.sent_bytes > MAX_KEPT_BYTES {
            let Some(oldest) = self.sent.pop_front() else { break };
            self.sent_bytes -= oldest.text.len();
        }
        if !parcel.denials.is_empty() {
            self.record = None;
        }
    }

    /// The authority does not have the one before it.
    pub(super) fn broken(&mut self, parcel: &Parcel) {
        if let Some(record) = &mut self.record
            && !parcel.denials.is_empty()
        {
            let lost = self.counted.number - 1;
            self.counted = Series { run: run_after(self.counted.run, lost), number: 1 };
            (record.run, record.number) = (self.counted.run, 1);
            tracing::warn!(acknowledged = lost, "receipts.counts_lost");
            return;
        }
        let first = self.first();
        let tried = if self.gap.0 == first { self.gap.1 } else { 0 };
        // An authority that takes all before it and still finds a gap there contradicts itself, or is restored again and again.
        if self.sent.is_empty() || tried == MAX_TRIED {
            let waiting = self.waiting.len() as u64;
            self.receipts = Series { run: run_after(self.receipts.run, first - 1), number: waiting };
            (self.sent_bytes, self.gap) = (0, (0, 0));
            self.sent.clear();
            tracing::warn!(acknowledged = first - 1, waiting, "receipts.run_ended");
        } else {
            self.gap = (first, tried + 1);
            self.requeue();
        }
    }

    fn requeue(&mut self) {
        self.bytes += std::mem::take(&mut self.sent_bytes);
        while let Some(sent) = self.sent.pop_back() {
            self.waiting.push_front(sent);
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn last(&self) -> String {
        self.waiting.back().unwrap().text.clone()
    }
}

/// Most receipts in one delivery.
const AT_ONCE: usize = 64;
const MAX_TRIED: u32 = 3;
/// Acknowledged ones that are kept: some seconds of a busy tool, as long as a standby lags.
const MAX_KEPT: usize = 1024;
const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
