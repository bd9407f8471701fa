//! Receipts on their way to the authority: one for each decision on a verified token and proof, counts for the rest.
//!
//! Kept in memory, at most [`MAX_WAITING`] and [`MAX_WAITING_BYTES`], until the authority has acknowledged them; full means
//! deny `unavailable`. An authority that lost what it had acknowledged gets it again (`outbox`). Denials take half of that room and few a second for each holder, the rest of them is counted: a
//! recorded call shown again and again must neither fill the log nor keep others out. (The durable spool of `receipt_first` takes this module's place in front of the effect.)

mod outbox;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ed25519_dalek::SigningKey;
use procura_verifier::call::Call;
use procura_verifier::decision::Cause;
use procura_verifier::ids::{UtcMillis, VerifierId};
use procura_verifier::proof::{Challenge, VerifiedProof};
use procura_verifier::receipt::{Evidence, Receipt, Relied};
use procura_verifier::revocation::RevocationView as _;
use procura_verifier::token::VerifiedToken;
use procura_verifier::wire::Canonical as _;
use tokio::sync::Notify;

use crate::guard::Guard;
use crate::limiter::Limiter;
use outbox::{Queue, Signer};

/// Most receipts waiting for acknowledgement.
pub const MAX_WAITING: usize = 16_384;

/// Most bytes of receipts waiting for acknowledgement.
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// The queue of one verifier.
#[derive(Clone)]
pub(crate) struct Receipts(Arc<Shared>);

struct Shared {
    signer: Signer,
    denials: Limiter,
    queue: Mutex<Queue>,
    more: Notify,
    acknowledged: Notify,
}

impl Receipts {
    pub(crate) fn new(verifier: VerifierId, run: [u8; 16], key: SigningKey) -> Self {
        Self(Arc::new(Shared {
            signer: Signer { verifier, key },
            denials: Limiter::new(DENIALS_PER_SECOND),
            queue: Mutex::new(Queue::of_run(run)),
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
        queue.reserve();
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
        let (run, number) = queue.next_receipt();
        let evidence = Evidence {
            from: (self.0.signer.verifier, run, number),
            challenge,
            token: (bytes, token),
            proof,
            policy: &guard.policy,
            time,
            relied,
            key_list_version,
        };
        let receipt = Receipt::record(call, &evidence, verdict).sign(&self.0.signer.key);
        // One that the authority cannot read would be delivered for ever, and all behind it never.
        if receipt.claimed().is_err() {
            return self.leave_out(queue, verdict);
        }
        queue.push(BASE64.encode(receipt.to_bytes()));
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

    /// The authority may have lost what it acknowledged: what is still here is delivered again.
    pub(crate) fn deliver_again(&self) {
        self.0.lock().deliver_again();
        self.0.more.notify_one();
    }

    /// Delivers until the task is aborted: at most 64 at a time, again and again until acknowledged.
    pub(crate) async fn deliver(self, http: reqwest::Client, authority: String, now: impl Fn() -> Option<UtcMillis> + Send + 'static) {
        let (mut pause, mut refused) = (FIRST_PAUSE, None);
        loop {
            self.0.more.notified().await;
            // Whatever comes in the meantime goes along.
            tokio::time::sleep(GATHER).await;
            loop {
                let parcel = self.0.lock().parcel(&self.0.signer, now().unwrap_or_default());
                let Some(parcel) = parcel else { break };
                // An authority that takes the connection and never answers must not hold the queue for ever.
                let answer = http.post(format!("{authority}/v1/receipts")).timeout(ANSWER_WAIT).json(&parcel).send().await;
                let status = answer.ok().map(|a| a.status().as_u16());
                if matches!(status, Some(200..300)) {
                    (pause, refused) = (FIRST_PAUSE, None);
                    self.0.lock().taken(parcel);
                    self.0.acknowledged.notify_waiters();
                    continue;
                }
                if status == Some(GAP) {
                    self.0.lock().broken(&parcel);
                } else if status.is_some_and(|s| (400..500).contains(&s)) && refused != status {
                    // Retired, or the enrolment was lost: until an operator mends that, nothing is delivered.
                    tracing::error!(status, "receipts.refused");
                    refused = status;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting()
    }

    #[cfg(test)]
    pub(crate) fn last(&self) -> Receipt {
        let text = self.0.lock().last();
        procura_verifier::receipt::SignedReceipt::from_bytes(&BASE64.decode(text).unwrap()).unwrap().claimed().unwrap()
    }

    /// Denials counted since the start.
    pub(crate) fn denials(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().all_counts().clone()
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
        self.0.lock().free();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Denials with a receipt, for each holder.
const DENIALS_PER_SECOND: u32 = 10;
/// 409: the record before it is not there, or another of its number.
const GAP: u16 = 409;
const ANSWER_WAIT: Duration = Duration::from_secs(10);
const GATHER: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);
