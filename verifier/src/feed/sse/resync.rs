//! Beginning with a snapshot where the tail is long, and the folder: warm start, keeping, handing back (F17, F19, F20).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::{FetchError, Lowered, MAX_EVENT_BYTES, Shared, bounded, lock};
use crate::feed::folder::{Folder, FolderError};
use crate::feed::message::{FeedError, SignedMessage};
use crate::feed::snapshot::{Loading, MAX_SEGMENT_BYTES, SegmentError, Snapshot};
use crate::feed::state::{Alarm, Need};
use crate::revocation::RevocationView as _;
use crate::wire::Canonical as _;

/// The folder, and what waits to be written to it.
pub(super) struct Disk {
    folder: Mutex<Folder>,
    waiting: Mutex<(VecDeque<Vec<u8>>, usize)>,
    wake: Notify,
    /// The authority lost something that may be here.
    lost: AtomicBool,
    /// The next length of the messages at which a newer manifest is asked for.
    adopt_at: Mutex<u64>,
}

impl Disk {
    pub(super) fn open(path: &std::path::Path) -> Result<Self, FolderError> {
        Ok(Self {
            folder: Mutex::new(Folder::open(path)?),
            waiting: Mutex::default(),
            wake: Notify::new(),
            lost: AtomicBool::new(false),
            adopt_at: Mutex::new(ADOPT_BYTES),
        })
    }

    /// Takes what was received to be written soon. Bounded: what does not fit is in the tail, and this disk too slow to hand it back.
    pub(super) fn push(&self, messages: Vec<Vec<u8>>) {
        if messages.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        for message in messages {
            if waiting.1 + message.len() > MAX_WAITING_BYTES {
                break;
            }
            waiting.1 += message.len();
            waiting.0.push_back(message);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Writes what waits. What the disk does not take waits on: a message that is nowhere cannot be handed back.
    pub(super) fn write(&self) -> std::io::Result<()> {
        let messages: Vec<_> = {
            let mut waiting = lock(&self.waiting);
            waiting.1 = 0;
            waiting.0.drain(..).collect()
        };
        let written = lock(&self.folder).append(&messages);
        if written.is_err() {
            let mut waiting = lock(&self.waiting);
            for message in messages.into_iter().rev() {
                waiting.1 += message.len();
                waiting.0.push_front(message);
            }
        }
        written
    }

    pub(super) fn waiting(&self) -> Vec<Vec<u8>> {
        lock(&self.waiting).0.iter().cloned().collect()
    }

    pub(super) fn note_loss(&self) {
        self.lost.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// Loads the folder, then writes to it, hands back and begins anew, until it is dropped.
pub(super) async fn keep_folder(shared: Arc<Shared>, disk: Arc<Disk>) {
    let (loader, from) = (Arc::clone(&shared), Arc::clone(&disk));
    let loaded = spawn_blocking(move || {
        let mut folder = lock(&from.folder);
        let loaded = folder.load(&loader.view, || loader.config.clock.boot(), |with| with(&mut loader.state()));
        if let Err(error) = &loaded {
            *lock(&loader.last_error) = Some(error.to_string());
            if let Err(error) = folder.set_aside() {
                *lock(&loader.last_error) = Some(error.to_string());
            }
        }
        loaded.is_ok()
    });
    if !loaded.await.unwrap_or(false) {
        shared.report(&[Alarm::Folder]);
    }
    let alarms = shared.state().take_alarms();
    shared.report(&alarms);
    shared.warm.send_replace(true);
    loop {
        let _ = timeout(UTC_EVERY, disk.wake.notified()).await;
        let (writer, to) = (Arc::clone(&shared), Arc::clone(&disk));
        let written = spawn_blocking(move || {
            to.write()?;
            let now = writer.config.clock.boot();
            writer.view.utc(now).map_or(Ok(()), |utc| lock(&to.folder).put_utc(utc))
        });
        if let Ok(Err(error)) = written.await {
            *lock(&shared.last_error) = Some(format!("folder: {error}"));
            shared.report(&[Alarm::Folder]);
            sleep(RETRY).await;
        }
        if disk.lost.load(Ordering::Acquire) {
            match shared.hand_back(&disk).await {
                Ok(()) => disk.lost.store(false, Ordering::Release),
                Err(error) => {
                    shared.note(&error);
                    sleep(RETRY).await;
                }
            }
        } else if lock(&disk.folder).messages_bytes() > *lock(&disk.adopt_at) {
            if let Err(error) = shared.adopt(&disk).await {
                shared.note(&error);
            }
            // Whether it came or not: not at every message.
            *lock(&disk.adopt_at) = lock(&disk.folder).messages_bytes() + ADOPT_BYTES;
        }
    }
}

impl Shared {
    /// Until the folder is loaded, if there is one.
    pub(in crate::feed) async fn warmed_up(&self) {
        let _ = self.warm.subscribe().wait_for(|warm| *warm).await;
    }

    /// Merges the view where that is due, in a thread of its own. Decisions go on.
    pub(super) fn merge_soon(self: &Arc<Self>) {
        if !self.view.wants_merge(self.config.clock.boot()) || self.merging.swap(true, Ordering::AcqRel) {
            return;
        }
        let merging = Lowered { shared: Arc::clone(self), flag: |shared| &shared.merging };
        spawn_blocking(move || merging.shared.view.merge(merging.shared.config.clock.boot()));
    }

    /// Loads the authority's snapshot if it is farther on than the watermark (F17).
    pub(super) async fn fetch_snapshot(self: &Arc<Self>) -> Result<Need, FetchError> {
        let Some((signed, snapshot)) = self.fetch_manifest().await? else { return Ok(self.state().tail()) };
        let (epoch, seq, _) = self.state().watermark();
        let m = snapshot.manifest();
        if (m.epoch, m.seq) <= (epoch, seq) {
            return Ok(self.state().tail());
        }
        let hashes: Vec<_> = Loading::new(snapshot.clone(), &self.view, self.config.clock.boot()).missing().copied().collect();
        let (send, mut receive) = tokio::sync::mpsc::channel::<Vec<u8>>(AT_ONCE);
        let (shared, disk, loaded) = (Arc::clone(self), self.disk.clone(), snapshot.clone());
        let loader = spawn_blocking(move || {
            let mut loading = Loading::new(loaded, &shared.view, shared.config.clock.boot());
            while let Some(bytes) = receive.blocking_recv() {
                loading.segment(&bytes)?;
                if let Some(disk) = &disk {
                    use sha2::Digest as _;
                    // A disk that is full makes the next start cold, not this one.
                    let _ = lock(&disk.folder).put_segment(&sha2::Sha256::digest(&bytes).into(), &bytes);
                }
            }
            loading.finish()
        });
        let fetched = self.fetch_segments(hashes, |bytes| {
            let send = send.clone();
            async move { send.send(bytes).await.map_err(|_| FetchError::Broken("expected the segments that the manifest names")) }
        });
        let fetched = fetched.await;
        drop(send);
        let loaded = loader.await.map_err(|_| FetchError::Broken("snapshot could not be loaded"))??;
        fetched?;
        let now = self.config.clock.boot();
        let (need, alarms) = {
            let mut state = self.state();
            (state.reach(&loaded, now), state.take_alarms())
        };
        self.moved.notify_one();
        self.report(&alarms);
        if let Some(disk) = self.disk.clone().filter(|d| !d.lost.load(Ordering::Acquire)) {
            let adopted = spawn_blocking(move || lock(&disk.folder).adopt(&signed, &snapshot));
            if !matches!(adopted.await, Ok(Ok(()))) {
                self.report(&[Alarm::Folder]);
            }
        }
        Ok(if need == Need::Nothing { self.state().tail() } else { need })
    }

    /// A newer manifest for the folder: it holds nothing that this view lacks.
    async fn adopt(self: &Arc<Self>, disk: &Arc<Disk>) -> Result<(), FetchError> {
        let Some((signed, snapshot)) = self.fetch_manifest().await? else { return Ok(()) };
        let (epoch, seq, _) = self.state().watermark();
        let place = (snapshot.manifest().epoch, snapshot.manifest().seq);
        let held = lock(&disk.folder).manifest_place();
        if place > (epoch, seq) || held.is_some_and(|held| place <= held) {
            return Ok(());
        }
        let missing: Vec<_> = snapshot.manifest().segments.iter().map(|s| s.sha256).filter(|hash| !lock(&disk.folder).has_segment(hash)).collect();
        self.fetch_segments(missing, |bytes| {
            let (disk, snapshot) = (Arc::clone(disk), snapshot.clone());
            async move {
                let stored = spawn_blocking(move || {
                    let entry = snapshot.manifest().segments.iter().find(|s| s.open(&bytes).is_ok());
                    let entry = entry.ok_or(FetchError::Segment(SegmentError::Differs { bytes: bytes.len() }))?;
                    lock(&disk.folder).put_segment(&entry.sha256, &bytes).map_err(FetchError::Disk)
                });
                stored.await.unwrap_or(Err(FetchError::Broken("segment could not be stored")))
            }
        })
        .await?;
        let disk = Arc::clone(disk);
        spawn_blocking(move || lock(&disk.folder).adopt(&signed, &snapshot)).await.map_err(|_| FetchError::Broken("manifest could not be stored"))??;
        Ok(())
    }

    /// The newest manifest; none if the authority has none.
    async fn fetch_manifest(self: &Arc<Self>) -> Result<Option<(SignedMessage, Snapshot)>, FetchError> {
        #[derive(serde::Deserialize)]
        struct Newest {
            message: String,
        }
        let body = match self.get("/v1/feed/snapshot", &[], MAX_EVENT_BYTES + 1024).await {
            Err(FetchError::Http(e)) if e.status().is_some_and(|s| s.as_u16() == 404) => return Ok(None),
            body => body?,
        };
        let newest: Newest = serde_json::from_slice(&body)?;
        let signed = SignedMessage::from_bytes(&BASE64_URL_SAFE_NO_PAD.decode(newest.message)?)?;
        let snapshot = match Snapshot::verify(&signed, &self.view.key_list()) {
            Err(FeedError::UnknownKey { .. }) => {
                // The list held may be behind; the anchors decide.
                let _ = self.fetch_key_list().await?;
                Snapshot::verify(&signed, &self.view.key_list())?
            }
            verified => verified?,
        };
        Ok(Some((signed, snapshot)))
    }

    /// Segments, a few at a time, each handed on as it comes.
    async fn fetch_segments<F: Future<Output = Result<(), FetchError>>>(
        self: &Arc<Self>,
        hashes: Vec<[u8; 32]>,
        mut hand_on: impl FnMut(Vec<u8>) -> F,
    ) -> Result<(), FetchError> {
        let mut hashes = hashes.into_iter();
        let mut fetching = JoinSet::new();
        loop {
            while fetching.len() < AT_ONCE
                && let Some(hash) = hashes.next()
            {
                let shared = Arc::clone(self);
                fetching
                    .spawn(async move { shared.get_within(&format!("/v1/feed/segment/{}", hex::encode(hash)), &[], MAX_SEGMENT_BYTES, SEGMENT_WAIT).await });
            }
            let Some(fetched) = fetching.join_next().await else { return Ok(()) };
            hand_on(fetched.map_err(|_| FetchError::Broken("segment could not be fetched"))??).await?;
        }
    }

    /// Gives the authority every signed message that is here, and the snapshot if it lacks that one. It skips what it has (F20).
    async fn hand_back(self: &Arc<Self>, disk: &Arc<Disk>) -> Result<(), FetchError> {
        let from = Arc::clone(disk);
        let held = spawn_blocking(move || {
            let mut messages = lock(&from.folder).messages()?;
            // What the disk has not taken is here all the same.
            messages.extend(from.waiting());
            Ok::<_, std::io::Error>(messages)
        });
        let messages = held.await.map_err(|_| FetchError::Broken("folder could not be read"))??;
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(MAX_HANDED).take_while(|m| {
                bytes += m.len();
                bytes <= MAX_HANDED_BYTES
            });
            let (page, later) = rest.split_at(fits.count().max(1));
            let page: Vec<_> = page.iter().map(|m| text(m)).collect();
            self.post_lost(&serde_json::json!({ "messages": page })).await?;
            rest = later;
        }
        let (from, view) = (Arc::clone(disk), Arc::clone(&self.view));
        let held = spawn_blocking(move || lock(&from.folder).snapshot(&view)).await.map_err(|_| FetchError::Broken("folder could not be read"))?;
        let Ok(Some((signed, snapshot))) = held else { return Ok(()) };
        let manifest = text(&signed.to_bytes());
        if !self.post_lost(&serde_json::json!({ "manifest": manifest })).await?.wanted {
            return Ok(());
        }
        for entry in &snapshot.manifest().segments {
            let (from, hash) = (Arc::clone(disk), entry.sha256);
            let bytes = spawn_blocking(move || lock(&from.folder).segment(&hash)).await.map_err(|_| FetchError::Broken("folder could not be read"))??;
            if let Some(bytes) = bytes {
                self.post_lost(&serde_json::json!({ "manifest": manifest, "segment": text(&bytes) })).await?;
            }
        }
        Ok(())
    }

    async fn post_lost(&self, body: &serde_json::Value) -> Result<Handed, FetchError> {
        let request = self.config.http.post(format!("{}/v1/feed/lost", self.base)).query(&[("tenant", self.view.tenant().as_str())]);
        let response = request.timeout(HAND_WAIT).json(body).send().await?.error_for_status()?;
        Ok(serde_json::from_slice(&bounded(response, MAX_HANDED_ANSWER_BYTES).await?)?)
    }
}

/// What the authority says of what it was handed.
#[derive(serde::Deserialize)]
struct Handed {
    #[serde(default)]
    wanted: bool,
}

/// Pages of the tail after which a snapshot is asked for.
pub(super) const PAGES_BEFORE_SNAPSHOT: usize = 2;
const AT_ONCE: usize = 8;
const SEGMENT_WAIT: Duration = Duration::from_secs(10);
const HAND_WAIT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_secs(1);
const UTC_EVERY: Duration = Duration::from_secs(5);
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;
const ADOPT_BYTES: u64 = 4 * 1024 * 1024;
const MAX_HANDED: usize = 128;
const MAX_HANDED_BYTES: usize = 1024 * 1024;
const MAX_HANDED_ANSWER_BYTES: usize = 1024;
