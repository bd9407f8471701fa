//! What an enrolled verifier says of itself: who opens a stream, and how far it has applied the feed (A1, A3).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{FetchError, Shared};
use crate::feed::ack::{Ack, SignIn, Signed};
use crate::feed::state::Nonce;
use crate::revocation::RevocationView as _;
use crate::wire::Canonical as _;

/// Acknowledges as soon as the watermark has moved, and once a second. One at a time and at least [`ACK_GAP`] apart: what moves
/// meanwhile goes with the next, so that a burst of revocations is not answered by as many words from each of thousands.
pub(super) async fn keep_acknowledging(shared: Arc<Shared>) {
    let (mut number, mut failures) = (0, 0);
    loop {
        let _ = timeout(ACK_EVERY, shared.moved.notified()).await;
        let Some(ack) = shared.acknowledgement(number + 1) else { continue };
        number += 1;
        let not_before = Instant::now() + ACK_GAP;
        match shared.acknowledge(&ack).await {
            Ok(()) => {
                failures = 0;
                shared.acks.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                failures += 1;
                shared.note(&error);
                sleep(shared.backoff(failures)).await;
                // What it would have said is still to be said.
                shared.moved.notify_one();
            }
        }
        sleep_until(not_before).await;
    }
}

impl Shared {
    /// What can be said now; nothing before the first answer of the authority.
    fn acknowledgement(&self, number: u64) -> Option<Signed<Ack>> {
        let me = self.config.enrolment.as_ref()?;
        // The watermark first: what it says is applied, whatever comes in between.
        let (epoch, seq, hash) = self.state().watermark();
        let (now, fresh) = (self.config.clock.boot(), self.view.fresh_as_of()?);
        let ack = Ack {
            tenant: self.view.tenant().clone(),
            verifier: me.verifier,
            run: me.run,
            number,
            epoch,
            seq,
            hash,
            fresh_age_ms: now.micros_since(fresh) / 1000,
            utc: self.view.utc(now)?,
            mode: me.mode,
        };
        Some(Signed::sign(&ack, &me.key))
    }

    async fn acknowledge(&self, ack: &Signed<Ack>) -> Result<(), FetchError> {
        let body = serde_json::json!({ "ack": BASE64_URL_SAFE_NO_PAD.encode(ack.to_bytes()) });
        let request = self.config.http.post(format!("{}/v1/feed/acks", self.base)).header("content-type", "application/json").body(body.to_string());
        request.timeout(ACK_WAIT).send().await?.error_for_status()?;
        Ok(())
    }

    /// The header of a stream request.
    pub(super) fn sign_in(&self, nonce: &Nonce) -> Option<String> {
        let me = self.config.enrolment.as_ref()?;
        let now = self.config.clock.boot();
        let sign_in = SignIn {
            tenant: self.view.tenant().clone(),
            verifier: me.verifier,
            run: me.run,
            audience: me.audience.clone(),
            nonce: nonce.to_vec(),
            utc: self.view.utc(now).unwrap_or_else(|| self.config.clock.wall()),
            mode: me.mode,
        };
        Some(BASE64_URL_SAFE_NO_PAD.encode(Signed::sign(&sign_in, &me.key).to_bytes()))
    }
}

const ACK_EVERY: Duration = Duration::from_secs(1);
const ACK_GAP: Duration = Duration::from_millis(100);
const ACK_WAIT: Duration = Duration::from_millis(500);
