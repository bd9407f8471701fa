//! Start: the first key list into the log, the keys compared with it, writer and feed set going.

use std::sync::{Arc, Mutex, Weak};

use procura_verifier::ids::{Clock, ClockId, Tenant, UtcMillis};
use procura_verifier::key_list::{Anchors, KeyListError, KeyUse, UnverifiedKeyList};
use procura_verifier::wire::{Canonical as _, Malformed};
use rand::RngCore;

use super::{Context, Unavailable};
use crate::domain::grants::Grants;
use crate::feed::Feed;
use crate::feed::beat::Pulse;
use crate::keys::Keys;
use crate::log::checkpoint::Origin;
use crate::log::event;
use crate::metrics::Metrics;
use crate::seal::{Seals, SessionSecret};
use crate::signer::Signer;
use crate::signer::released::Released;
use crate::store::{Batch, Change, CommitError, Refused, Row, Store, StoreError};
use crate::watch::Watch;
use crate::writer::{Parts, StartError, Writer};

/// What a start needs.
pub struct Start {
    /// One tenant's store.
    pub store: Arc<dyn Store>,
    /// Its keys.
    pub signer: Arc<dyn Signer>,
    /// Who may sign key lists.
    pub anchors: Anchors,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Randomness of the process: a generator for ids, seeds and salts, and one for the writer.
    pub rngs: [Box<dyn RngCore + Send + Sync>; 2],
    /// What was released last.
    pub released: Released,
    /// What all replicas seal under.
    pub session_secret: SessionSecret,
    /// The log's name in epoch 1 (`Origin::of_epoch`).
    pub origin: Origin,
    /// Who may delegate what.
    pub grants: Grants,
}

/// Why the authority does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first key list could not be written.
    #[error("first key list: {0}")]
    First(String),
    /// The anchors did not sign the stored list.
    #[error(transparent)]
    KeyList(#[from] KeyListError),
    /// The stored list is not one.
    #[error("stored key list: {0}")]
    Malformed(#[from] Malformed),
    /// Keys and list do not belong together.
    #[error("no {} key of the key folder is in the key list in force, or those are dead", usage.name())]
    NotListed {
        /// The use.
        usage: KeyUse,
    },
    /// The log would fork, or the checkpoint cannot be written.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running authority, and the signed key list for its trust file.
pub struct Started {
    /// What use cases work with.
    pub context: Arc<Context>,
    /// The key list in force, as it travels.
    pub key_list: UnverifiedKeyList,
    /// The log's name.
    pub origin: Origin,
}

/// Starts one tenant's authority. `first_list` is asked for a list only where the store has none: it becomes the log's first leaf.
pub async fn bootstrap(mut start: Start, first_list: impl FnOnce(UtcMillis) -> UnverifiedKeyList) -> Result<Started, BootstrapError> {
    let tenant = start.store.tenant().clone();
    let signed = match start.store.key_list().await? {
        Some((_, bytes)) => UnverifiedKeyList::from_bytes(&bytes)?,
        None => record_first(&mut start, &tenant, first_list).await?,
    };
    let keys = Arc::new(Keys::new(start.anchors.clone(), tenant.clone(), signed.clone())?);
    let list = keys.load();
    for usage in [KeyUse::Feed, KeyUse::Event, KeyUse::Log] {
        // Signing with a key that no verifier accepts would look like work and be none. One that has ended is another matter:
        // only a running authority can publish the list that mends it, and until then it signs nothing.
        if !list.of(usage).any(|k| start.signer.holds(usage, &k.key)) {
            return Err(BootstrapError::NotListed { usage });
        }
    }
    for key in start.store.killed_root_keys().await? {
        keys.kill_root(key);
    }
    start.signer.follow(Arc::clone(&keys));
    let Start { store, signer, clock, rngs: [mut rng, writer_rng], released, session_secret, origin, grants, .. } = start;
    let seals = Seals::new(&session_secret, &tenant);
    let head = store.head().await?;
    let released = released.of_epoch(head.feed.epoch).map_err(StartError::from)?;
    let origin = origin.of_epoch(head.feed.epoch).map_err(StartError::from)?;
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let key_list = (list.payload().version, *list.hash());
    let pulse = Pulse::new(tenant.clone(), Arc::clone(&clock), Arc::clone(&signer), ClockId::from_bytes(id), head.feed, head.tree, key_list);
    let pulse = Arc::new(pulse.proven_by(&store));
    let feed = Feed::start(Arc::clone(&store), Arc::clone(&signer), Arc::clone(&pulse));
    let (keys_at_hand, beats) = (Arc::downgrade(&signer), feed.downgrade());
    keys.on_change(move |now| {
        // First the private halves, then those who sign with them.
        if let Some(Err(e)) = keys_at_hand.upgrade().map(|s| s.reload()) {
            tracing::error!(error = %e, "key folder not read again");
        }
        if let Some(feed) = beats.upgrade() {
            feed.key_list_changed(now.list.payload().version, *now.list.hash());
            feed.announce_key_list(&now.signed, &now.list, now.since);
        }
    });
    let metrics = Arc::new(Metrics::new());
    let watch = Watch::start(Arc::clone(&clock), store.board());
    let parts = Parts {
        metrics: Arc::clone(&metrics),
        store: Arc::clone(&store),
        signer: Arc::clone(&signer),
        keys: Arc::clone(&keys),
        clock: Arc::clone(&clock),
        rng: writer_rng,
        origin: origin.clone(),
        released,
        pulse,
        feed: feed.clone(),
    };
    let writer = Writer::start(parts).await?;
    tokio::spawn(take_over_lists(feed.key_lists(), Arc::downgrade(&keys), Arc::downgrade(&store), Arc::clone(&clock)));
    let (cutter, cutters_clock) = (Arc::clone(&signer), Arc::clone(&clock));
    tokio::spawn(crate::feed::snapshot::keep_cutting(Arc::downgrade(&store), cutter, cutters_clock, crate::failpoint::snapshots()));
    let context = Arc::new(Context { tenant, store, writer, signer, clock, rng: Mutex::new(rng), keys, grants, seals, feed, watch, metrics });
    super::publish_keys::keep_warning(&context);
    Ok(Started { context, key_list: signed, origin })
}

/// A list that another replica published is taken over when a beat finds it in the database. Ends with the feed.
async fn take_over_lists(mut heard: tokio::sync::watch::Receiver<u64>, keys: Weak<Keys>, store: Weak<dyn Store>, clock: Arc<dyn Clock>) {
    while heard.changed().await.is_ok() {
        let (Some(keys), Some(store)) = (keys.upgrade(), store.upgrade()) else { return };
        if let Err(e) = keys.refresh(&*store, clock.wall()).await {
            tracing::error!(error = %e, "a key list that is stored is not taken over");
        }
    }
}

/// Before the writer runs.
async fn record_first(
    start: &mut Start,
    tenant: &Tenant,
    first_list: impl FnOnce(UtcMillis) -> UnverifiedKeyList,
) -> Result<UnverifiedKeyList, BootstrapError> {
    let now = start.clock.wall();
    let signed = first_list(now);
    let keys = start.anchors.accept(&signed, tenant)?;
    let (version, bytes) = (keys.payload().version, signed.to_bytes());
    let leaf = event::KeyListRecorded { version, hash: event::Digest(*keys.hash()), key_list: event::Encoded(bytes.clone()) };
    let leaf = start.signer.key_list_leaf(&keys, &leaf.into(), tenant, now).map_err(|e| BootstrapError::First(e.to_string()))?;
    let change = Change { rows: vec![Row::KeyList(version, bytes)], leaves: vec![leaf.into_bytes()], ..Change::default() };
    let mut id = [0; 16];
    for rng in &mut start.rngs {
        rng.fill_bytes(&mut id);
    }
    let first = |e: &dyn std::fmt::Display| BootstrapError::First(e.to_string());
    // The batch has no items, so no message is signed; the column wants a key all the same.
    let feed_key = keys.of(KeyUse::Feed).map(|k| k.key).next().ok_or_else(|| first(&"it names no feed key"))?;
    let batch = Batch { id, at: now, feed_key, changes: vec![change] };
    // An unknown outcome ends the start as well: the next one finds the list or writes it.
    let done = start.store.commit(&batch).await.map_err(|e: CommitError| first(&e))?;
    match done.outcomes.first() {
        Some(Ok(_)) => Ok(signed),
        // Another replica that starts for the first time was faster: its list counts.
        Some(Err(Refused::KeyListMoved(_))) => match start.store.key_list().await? {
            Some((_, bytes)) => Ok(UnverifiedKeyList::from_bytes(&bytes)?),
            None => Err(first(&Unavailable::Busy)),
        },
        Some(Err(refused)) => Err(first(refused)),
        None => Err(first(&Unavailable::Busy)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn the_first_leaf_is_the_key_list_and_a_restart_adds_none() {
        let folder = tempfile::tempdir().unwrap();
        let first = app_in(&folder).await.unwrap();
        let events = first.events().await;
        assert!(matches!(events.as_slice(), [event::Event::KeyListRecorded(e)] if e.version == 1));
        let (keys, tree) = (first.ctx.keys.load(), first.ctx.writer.checkpoint());
        first.close().await;
        let again = app_in(&folder).await.unwrap();
        assert_eq!(again.ctx.keys.load(), keys);
        assert_eq!(again.ctx.writer.checkpoint(), tree, "the same size has the same signed checkpoint");
        assert_eq!(again.events().await.len(), 1);
    }

    #[tokio::test]
    async fn keys_of_another_list_do_not_start() {
        let folder = tempfile::tempdir().unwrap();
        app_in(&folder).await.unwrap().close().await;
        let feed = std::fs::read_dir(folder.path().join("keys")).unwrap().map(|f| f.unwrap().path());
        feed.filter(|f| f.to_string_lossy().contains("/feed-")).for_each(|f| std::fs::remove_file(f).unwrap());
        assert!(matches!(app_in(&folder).await, Err(BootstrapError::NotListed { usage: KeyUse::Feed, .. })));
    }

    #[tokio::test]
    async fn a_database_older_than_what_was_released_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let app = app_in(&folder).await.unwrap();
        app.close().await;
        checkpoint(&folder).await;
        let backup = std::fs::read(folder.path().join("procura.db")).unwrap();
        let app = app_in(&folder).await.unwrap();
        app.person("alice").await;
        app.close().await;
        checkpoint(&folder).await;
        std::fs::remove_file(folder.path().join("procura.db")).unwrap();
        for side in ["procura.db-wal", "procura.db-shm"] {
            let _ = std::fs::remove_file(folder.path().join(side));
        }
        std::fs::write(folder.path().join("procura.db"), backup).unwrap();
        assert!(matches!(app_in(&folder).await, Err(BootstrapError::Start(StartError::Release(_)))));
    }

    /// Brings everything from the write-ahead log into the database's own file.
    async fn checkpoint(folder: &tempfile::TempDir) {
        use sqlx::Connection as _;
        let mut c = sqlx::SqliteConnection::connect(&format!("sqlite://{}/procura.db", folder.path().display())).await.unwrap();
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    }
}
