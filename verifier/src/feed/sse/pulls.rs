//! One pull of the head for all who find the view stale at once (`spec/feed.md`, transport).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{FetchError, MAX_EVENT_BYTES, Shared, lock, micros};
use crate::feed::message::FeedError;
use crate::feed::state::Need;
use crate::ids::BootTime;

#[derive(Default)]
pub(super) struct Pulls {
    /// The newest, when it was to start, and whether it has ended.
    newest: Option<(BootTime, watch::Receiver<bool>)>,
    pub(super) begun: u64,
    failures: u32,
    /// Not before then, unless a decision asks.
    pub(super) retry_at: BootTime,
}

impl Shared {
    /// Where no stream brings answers to nonces, the clocks are mapped by pulls (F11).
    pub(super) fn is_mapping_due(&self, now: BootTime) -> bool {
        lock(&self.pulls).newest.as_ref().is_none_or(|(started, _)| now.micros_since(*started) > micros(self.config.reopen_every))
    }

    /// The pull that whoever asks now may wait for.
    pub(in crate::feed) fn start_pull(self: &Arc<Self>) -> watch::Receiver<bool> {
        let now = self.config.clock.boot();
        let mut pulls = lock(&self.pulls);
        let mut wait = 0;
        if let Some((started, ended)) = &pulls.newest {
            // A pull is fresh as of its start: one that began long ago answers for little.
            if !*ended.borrow() && now.micros_since(*started) < SHARED_FOR_US {
                return ended.clone();
            }
            wait = started.plus_micros(PULL_GAP_US).micros_since(now);
        }
        let (end, ended) = watch::channel(false);
        pulls.newest = Some((now.plus_micros(wait), ended.clone()));
        pulls.begun += 1;
        drop(pulls);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            sleep(Duration::from_micros(wait)).await;
            let result = shared.pull().await;
            let mut pulls = lock(&shared.pulls);
            match result {
                Ok(()) => (pulls.failures, pulls.retry_at) = (0, BootTime(0)),
                Err(error) => {
                    pulls.failures = pulls.failures.saturating_add(1);
                    pulls.retry_at = shared.config.clock.boot().plus_micros(micros(shared.backoff(pulls.failures)));
                    shared.note(&error);
                }
            }
            drop(pulls);
            let _ = end.send(true);
        });
        ended
    }

    async fn pull(self: &Arc<Self>) -> Result<(), FetchError> {
        #[derive(serde::Deserialize)]
        struct Head {
            message: String,
        }
        let nonce = self.ask();
        let body = self.get("/v1/feed/head", &[("nonce", hex::encode(nonce))], MAX_HEAD_BYTES).await?;
        let head: Head = serde_json::from_slice(&body)?;
        let need = match self.receive(&BASE64_URL_SAFE_NO_PAD.decode(head.message)?) {
            Err(FeedError::UnknownKey { .. }) => Need::KeyList,
            need => need?,
        };
        if self.state().awaits(&nonce) && need == Need::Nothing {
            return Err(FetchError::Broken("expected the answer to the nonce asked"));
        }
        self.follow(need).await
    }
}

/// Half the bound: who joins a pull later than that had better start one.
const SHARED_FOR_US: u64 = 75_000;
/// 20 a second.
const PULL_GAP_US: u64 = 50_000;
const MAX_HEAD_BYTES: usize = MAX_EVENT_BYTES + 1024;
