//! Fetching until nothing is needed: the tail, a snapshot where that is long, the key list (F6, F8, F17).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::time::sleep;

use super::{FetchError, Lowered, Shared, resync};
use crate::feed::message::FeedError;
use crate::feed::state::{Alarm, Need};
use crate::key_list::{KeyListError, UnverifiedKeyList};
use crate::revocation::RevocationView as _;
use crate::wire::Canonical as _;

impl Shared {
    /// Fetches what is needed in the background, if nobody is at it. If this comes to nothing, the next heartbeat asks again.
    pub(in crate::feed) fn follow_soon(self: &Arc<Self>, need: Need) {
        match need {
            Need::Nothing => {}
            Need::Pull => drop(self.start_pull()),
            Need::Tail { .. } | Need::KeyList => {
                if self.follower_spawned.swap(true, Ordering::AcqRel) {
                    return;
                }
                let spawned = Lowered { shared: Arc::clone(self), flag: |shared| &shared.follower_spawned };
                tokio::spawn(async move {
                    if let Err(error) = spawned.shared.follow(need).await {
                        spawned.shared.note(&error);
                        sleep(FOLLOW_GAP).await;
                    }
                });
            }
        }
    }

    /// Fetches until nothing is needed.
    pub(super) async fn follow(self: &Arc<Self>, mut need: Need) -> Result<(), FetchError> {
        if need == Need::Nothing {
            return Ok(());
        }
        let _alone = self.following.lock().await;
        if matches!(need, Need::Tail { .. }) && need != self.state().tail() {
            // Another was here meanwhile; heartbeats that waited for the tail have been settled with it.
            return Ok(());
        }
        for page in 1..=MAX_PAGES {
            need = match need {
                Need::Nothing => return Ok(()),
                Need::Pull => {
                    drop(self.start_pull());
                    return Ok(());
                }
                Need::KeyList => self.fetch_key_list().await?,
                Need::Tail { epoch, from_seq } => self.fetch_tail(epoch, from_seq).await?,
            };
            // F17: a page has shown that the authority knows what is known here; what lies between need not be read one by one.
            if page == resync::PAGES_BEFORE_SNAPSHOT && matches!(need, Need::Tail { .. }) {
                match self.fetch_snapshot().await {
                    Ok(next) => need = next,
                    Err(error) => self.note(&error),
                }
            }
        }
        Err(FetchError::Broken("feed did not come to an end of its tail"))
    }

    async fn fetch_tail(self: &Arc<Self>, epoch: u64, from_seq: u64) -> Result<Need, FetchError> {
        #[derive(serde::Deserialize)]
        struct Tail {
            messages: Vec<String>,
            more: bool,
        }
        let query = [("epoch", epoch.to_string()), ("from", from_seq.to_string())];
        let tail: Tail = serde_json::from_slice(&self.get("/v1/feed/tail", &query, MAX_TAIL_BYTES).await?)?;
        let before = self.state().watermark();
        let mut need = Need::Nothing;
        for message in &tail.messages {
            need = self.receive(&BASE64_URL_SAFE_NO_PAD.decode(message)?)?;
        }
        let (after, next) = {
            let state = self.state();
            (state.watermark(), state.tail())
        };
        if tail.more && matches!(need, Need::Nothing) {
            need = next;
        }
        if after == before && matches!(need, Need::Tail { .. }) {
            return Err(FetchError::Broken("tail brought nothing new"));
        }
        Ok(need)
    }

    pub(super) async fn fetch_key_list(self: &Arc<Self>) -> Result<Need, FetchError> {
        #[derive(serde::Deserialize)]
        struct Keys {
            key_list: String,
        }
        let keys: Keys = serde_json::from_slice(&self.get("/v1/keys", &[], MAX_KEYS_BYTES).await?)?;
        let list = UnverifiedKeyList::from_bytes(&BASE64_URL_SAFE_NO_PAD.decode(keys.key_list)?)?;
        match self.believe(list)? {
            Need::KeyList => Err(FetchError::Broken("expected the key list that heartbeats name")),
            need => Ok(need),
        }
    }

    /// Takes a key list, fetched or pushed: for the anchors' signatures alone, whoever brought it (F8).
    fn believe(self: &Arc<Self>, signed: UnverifiedKeyList) -> Result<Need, FetchError> {
        let list = self.config.anchors.accept(&signed, self.view.tenant())?;
        let version = list.payload().version;
        let rises = version > self.view.key_list().payload().version;
        let now = self.config.clock.boot();
        let (result, alarms) = {
            let mut state = self.state();
            (state.accept_key_list(list, now), state.take_alarms())
        };
        self.report(&alarms);
        let need = result?;
        if let Some(path) = self.config.trust_path.clone().filter(|_| rises) {
            let shared = Arc::clone(self);
            // It counts already; the disk may take its time.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = crate::trust::keep(&path, &signed) {
                    shared.note(&error.into());
                    shared.report(&[Alarm::TrustFile { version }]);
                }
            });
        }
        Ok(need)
    }

    /// A key list that a feed key pushed: believed for its anchors alone (F8).
    pub(super) fn hear_list(self: &Arc<Self>, need: Need, list: &[u8]) -> Result<Need, FeedError> {
        let list = UnverifiedKeyList::from_bytes(list).map_err(KeyListError::Malformed)?;
        match self.believe(list) {
            Ok(after) => Ok(if after == Need::Nothing { need } else { after }),
            Err(FetchError::KeyList(error)) => Err(error.into()),
            // Overtaken, or an alarm by now.
            Err(_) => Ok(need),
        }
    }
}

const FOLLOW_GAP: Duration = Duration::from_millis(50);
/// A walk from the start of a long feed; the next heartbeat goes on where it stopped.
const MAX_PAGES: usize = 10_000;
const MAX_TAIL_BYTES: usize = 8 * 1024 * 1024;
const MAX_KEYS_BYTES: usize = 256 * 1024;
