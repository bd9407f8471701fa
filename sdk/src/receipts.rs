//! Receipts on their way to the authority: one for each decision on a verified token and proof, counts for the rest.
//!
//! Kept in memory, at most [`MAX_WAITING`] and [`MAX_WAITING_BYTES`], until the authority has acknowledged them; full means
//! deny `unavailable`. Denials take half of that room and few a second for each holder, the rest of them is counted: a
//! recorded call shown again and again must neither fill the log nor keep others out. (The durable spool of `receipt_first` takes this module's place in front of the effect.)

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::call::Call;
use procura_verifier::decision::Cause;
use procura_verifier::denials::Denials;
use procura_verifier::ids::{UtcMillis, VerifierId};
use procura_verifier::proof::{Challenge, VerifiedProof};
use procura_verifier::receipt::{Evidence, Receipt, Relied};
use procura_verifier::revocation::RevocationView as _;
use procura_verifier::token::VerifiedToken;
use procura_verifier::wire::Canonical as _;
use tokio::sync::Notify;

use crate::guard::Guard;
use crate::limiter::Limiter;

/// Most receipts waiting for acknowledgement.
pub const MAX_WAITING: usize = 16_384;

/// Most bytes of receipts waiting for acknowledgement.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// The queue of one verifier.
#[derive(Clone)]
pub(crate) struct Receipts(Arc<Shared>);

struct Shared {
    verifier: VerifierId,
    run: [u8; 16],
    key: SigningKey,
    denials: Limiter,
    queue: Mutex<Queue>,
    more: Notify,
    acknowledged: Notify,
}

#[derive(Default)]
struct Queue {
    receipts: u64,
    records: u64,
    waiting: VecDeque<String>,
    bytes: usize,
    /// Counts not yet made into a record.
    counts: BTreeMap<&'static str, u64>,
    /// Since the start.
    all_counts: BTreeMap<&'static str, u64>,
    /// A record on its way.
    sending: bool,
    /// Places promised to allows.
    reserved: usize,
}

impl Receipts {
    pub(crate) fn new(verifier: VerifierId, run: [u8; 16], key: SigningKey) -> Self {
        Self(Arc::new(Shared {
            verifier,
            run,
            key,
            denials: Limiter::new(DENIALS_PER_SECOND),
            queue: Mutex::default(),
            more: Notify::new(),
            acknowledged: Notify::new(),
        }))
    }

    /// Counts a denial that has no receipt.
    pub(crate) fn count(&self, cause: Cause) {
        self.0.lock().count(cause);
        self.0.more.notify_one();
    }

    /// A place for the record of an allow, or `unavailable`. Given back when dropped: by then the record is in the queue.
    pub(crate) fn reserve(&self) -> Result<Place, Cause> {
        let mut queue = self.0.lock();
        if !queue.has_room(1) {
            return Err(Cause::Unavailable);
        }
        queue.reserved += 1;
        Ok(Place(self.0.clone()))
    }

    /// Records a decision. Where nothing more can be kept, a denial is counted and an allow becomes `unavailable`.
    pub(crate) fn record(
        &self,
        guard: &Guard,
        call: &Call<'_>,
        (bytes, token, proof): (&[u8], &VerifiedToken, Option<&VerifiedProof<'_>>),
        verdict: Result<(), Cause>,
        Known { challenge, relied, time }: Known,
    ) -> Result<(), Cause> {
        let key_list_version = guard.view.key_list().payload().version;
        let within = verdict.is_ok() || self.0.denials.take(token.last_holder(), guard.clock.boot());
        let mut queue = self.0.lock();
        // An allow has its place already; denials leave half the queue to allows.
        if verdict.is_err() && (!within || !queue.has_room(2)) {
            return self.leave_out(queue, verdict);
        }
        // Number, signature and place in the queue are one step: numbers have no gaps.
        let number = queue.receipts + 1;
        let evidence = Evidence {
            from: (self.0.verifier, self.0.run, number),
            challenge,
            token: (bytes, token),
            proof,
            policy: &guard.policy,
            time,
            relied,
            key_list_version,
        };
        let receipt = Receipt::record(call, &evidence, verdict).sign(&self.0.key);
        // One that the authority cannot read would be delivered for ever, and all behind it never.
        if receipt.claimed().is_err() {
            return self.leave_out(queue, verdict);
        }
        let text = BASE64.encode(receipt.to_bytes());
        queue.receipts = number;
        queue.bytes += text.len();
        queue.waiting.push_back(text);
        drop(queue);
        self.0.more.notify_one();
        Ok(())
    }

    fn leave_out(&self, mut queue: MutexGuard<'_, Queue>, verdict: Result<(), Cause>) -> Result<(), Cause> {
        queue.count(verdict.err().unwrap_or(Cause::Unavailable));
        drop(queue);
        self.0.more.notify_one();
        // A denial stays what it was; an allow without its record is none.
        if verdict.is_err() { Ok(()) } else { Err(Cause::Unavailable) }
    }

    /// Delivers until the task is aborted: at most 64 at a time, again and again until acknowledged.
    pub(crate) async fn deliver(self, http: reqwest::Client, authority: String, now: impl Fn() -> Option<UtcMillis> + Send + 'static) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.0.more.notified().await;
            // Whatever comes in the meantime goes along.
            tokio::time::sleep(GATHER).await;
            loop {
                let (receipts, denials) = self.batch(now().unwrap_or_default());
                if receipts.is_empty() && denials.is_none() {
                    break;
                }
                let body = serde_json::json!({ "receipts": receipts, "denials": denials.iter().collect::<Vec<_>>() });
                loop {
                    // An authority that takes the connection and never answers must not hold the queue for ever.
                    let answer = http.post(format!("{authority}/v1/receipts")).timeout(ANSWER_WAIT).json(&body).send().await;
                    if answer.is_ok_and(|a| a.status().is_success()) {
                        pause = FIRST_PAUSE;
                        break;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                let mut queue = self.0.lock();
                queue.waiting.drain(..receipts.len());
                queue.bytes -= receipts.iter().map(String::len).sum::<usize>();
                queue.sending = false;
                drop(queue);
                self.0.acknowledged.notify_waiters();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    #[cfg(test)]
    pub(crate) fn last(&self) -> Receipt {
        let text = self.0.lock().waiting.back().cloned().unwrap();
        procura_verifier::receipt::SignedReceipt::from_bytes(&BASE64.decode(text).unwrap()).unwrap().claimed().unwrap()
    }

    /// Denials counted since the start.
    pub(crate) fn denials(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().all_counts.clone()
    }

    /// Ends once everything was acknowledged.
    pub(crate) async fn delivered(&self) {
        loop {
            let acknowledged = self.0.acknowledged.notified();
            if self.0.lock().is_empty() {
                return;
            }
            acknowledged.await;
        }
    }

    fn batch(&self, now: UtcMillis) -> (Vec<String>, Option<String>) {
        let mut queue = self.0.lock();
        let receipts = queue.waiting.iter().take(64).cloned().collect();
        let counts: Vec<_> = std::mem::take(&mut queue.counts).into_iter().map(|(word, n)| (word.to_owned(), n)).collect();
        if counts.is_empty() {
            return (receipts, None);
        }
        queue.records += 1;
        queue.sending = true;
        let denials = Denials { verifier: self.0.verifier, run: self.0.run, number: queue.records, minute: now.0 / 60_000, counts };
        (receipts, Some(BASE64.encode(denials.sign(&self.0.key).to_bytes())))
    }
}

impl Queue {
    /// Room for one more in the first `1 / part` of the queue. A record is at most some 40 KiB of text.
    fn has_room(&self, part: usize) -> bool {
        self.waiting.len() + self.reserved < MAX_WAITING / part && self.bytes < MAX_WAITING_BYTES / part
    }

    fn count(&mut self, cause: Cause) {
        *self.counts.entry(cause.word()).or_default() += 1;
        *self.all_counts.entry(cause.word()).or_default() += 1;
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.counts.is_empty() && !self.sending
    }
}

/// What the verifier knew when it decided.
pub(crate) struct Known {
    pub(crate) challenge: Challenge,
    pub(crate) relied: Option<Relied>,
    pub(crate) time: UtcMillis,
}

/// A place in the queue.
pub(crate) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().reserved -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Denials with a receipt, for each holder.
const DENIALS_PER_SECOND: u32 = 10;
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const GATHER: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
