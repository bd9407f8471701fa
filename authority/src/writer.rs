//! The group-commit writer: every change of state goes through here, many to a transaction.
//!
//! One commit at a time; what arrives meanwhile waits and goes into the next one together, so batches grow with the load
//! and a lone request waits for nobody. Revocations have a queue of their own and go first: their batch is not held up by
//! a full one of mints. The order after a COMMIT is: enter the head for heartbeats, sign feed messages, record the
//! checkpoint as released, sign it, answer the callers, publish. So nothing that leaves can be rolled back (`DESIGN.md` section 7).

use std::sync::Arc;
use std::time::Duration;

use procura_verifier::feed::message::Message;
use procura_verifier::ids::{BootTime, Clock, Key, Tenant};
use procura_verifier::key_list::{KeyUse, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;
use rand::RngCore;
use tokio::sync::{mpsc, oneshot, watch};

use crate::checkpoints::Checkpoints;
pub use crate::checkpoints::ReleasedCheckpoint;
use crate::feed::Feed;
use crate::feed::beat::Pulse;
use crate::keys::Keys;
use crate::log::checkpoint::Origin;
use crate::log::leaf::UnverifiedLeaf;
use crate::metrics::Metrics;
use crate::signer::Signer;
use crate::signer::released::{ReleaseError, Released};
use crate::store::{Batch, Change, CommitError, Committed, Placed, Refused, Require, Row, Store};

mod resign;

/// Most changes in one transaction.
pub const MAX_BATCH: usize = 512;
/// Most changes in a transaction that carries a revocation: a small batch commits fast.
pub const MAX_URGENT_BATCH: usize = 64;
/// No more is added to a batch whose leaves are this long together: 512 receipts of the longest would hold up the
/// database, and with it the heartbeats and the next revocation, for longer than verifiers wait (`DESIGN.md` section 8).
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Most changes that wait in each queue.
pub const MAX_WAITING: usize = 4096;

/// Why a change was not written, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// One of its own conditions does not hold.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The queue is full. Nothing was written.
    #[error("too many changes are waiting, try again")]
    Busy,
    /// Nothing was written, or it is not known whether it was: a request with an idempotency key may be repeated.
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

/// Why the writer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The log would fork.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] crate::log::checkpoint::CheckpointError),
}

/// What the writer works with.
pub struct Parts {
    /// Where it writes.
    pub store: Arc<dyn Store>,
    /// Who signs checkpoint and feed.
    pub signer: Arc<dyn Signer>,
    /// The key list in force.
    pub keys: Arc<Keys>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Batch ids.
    pub rng: Box<dyn RngCore + Send + Sync>,
    /// The log's name.
    pub origin: Origin,
    /// What was released last.
    pub released: Released,
    /// Who beats about the head.
    pub pulse: Arc<Pulse>,
    /// Where messages go.
    pub feed: Feed,
    /// How long commits take.
    pub metrics: Arc<Metrics>,
}

/// The door to the writer. Cheap to clone; the writer ends when the last clone is gone.
#[derive(Clone)]
pub struct Writer {
    routine: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
    checkpoints: Arc<Checkpoints>,
    ending: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<()>,
}

struct Job {
    change: Change,
    tell: Tell,
}

impl Job {
    fn bytes(&self) -> usize {
        self.change.leaves.iter().map(Vec::len).sum()
    }
}

type Tell = oneshot::Sender<Result<Written, WriteError>>;

/// A change that is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where its leaves and items stand.
    pub placed: Placed,
    /// A reading of this process's boot-time clock right after COMMIT returned: what late allows are measured against.
    pub committed: BootTime,
}

impl Writer {
    /// Compares the store's head with what was released, releases it again, and starts the task.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { store, signer, keys, clock, rng, origin, released, pulse, feed, metrics } = parts;
        let checkpoints = Checkpoints::start(&*store, Arc::clone(&signer), Arc::clone(&keys), origin, Arc::clone(&pulse), released).await?;
        let checkpoints = Arc::new(checkpoints);
        feed.follow(Arc::clone(&checkpoints));
        let (routine, from_routine) = mpsc::channel(MAX_WAITING);
        let (urgent, from_urgent) = mpsc::channel(MAX_WAITING);
        let parts = Tools { store, signer, keys, clock, rng, pulse, feed, metrics };
        let ((ending, to_end), (_ends, ended)) = (watch::channel(false), watch::channel(()));
        tokio::spawn(Task { parts, from_routine, from_urgent, checkpoints: Arc::clone(&checkpoints), again: Vec::new(), to_end, _ends }.run());
        Ok(Self { routine, urgent, checkpoints, ending: Arc::new(ending), ended })
    }

    /// Writes a change. On `Ok` it is durable and its feed message is on its way; on an error of its own nothing of it was written.
    ///
    /// A caller that goes away does not take its change back.
    pub async fn submit(&self, change: Change) -> Result<Written, WriteError> {
        self.enqueue(change)?.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Asks for a change whose outcome nobody waits for: it is written soon, or refused, or lost.
    pub fn post(&self, change: Change) {
        _ = self.enqueue(change);
    }

    /// Writes changes in this order, though not all at once: one may be refused or fail and the next not.
    pub async fn submit_all(&self, changes: Vec<Change>) -> Vec<Result<Written, WriteError>> {
        let told: Vec<_> = changes.into_iter().map(|c| self.enqueue(c)).collect();
        let mut outcomes = Vec::with_capacity(told.len());
        for told in told {
            outcomes.push(match told {
                Ok(told) => told.await.unwrap_or_else(|_| Err(stopped())),
                Err(e) => Err(e),
            });
        }
        outcomes
    }

    fn enqueue(&self, change: Change) -> Result<oneshot::Receiver<Result<Written, WriteError>>, WriteError> {
        let (tell, told) = oneshot::channel();
        let lane = if change.items.is_empty() { &self.routine } else { &self.urgent };
        lane.try_send(Job { change, tell }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        Ok(told)
    }

    /// The newest checkpoint that may be shown.
    pub fn checkpoint(&self) -> ReleasedCheckpoint {
        self.checkpoints.newest()
    }

    /// Takes no more changes, writes and answers those it has, and returns when it has ended.
    pub async fn end(&self) {
        self.ending.send_replace(true);
        // The other end is dropped, and says nothing before.
        _ = self.ended.clone().changed().await;
    }

    /// How many changes wait: revocations, and all others.
    pub fn waiting(&self) -> [(&'static str, usize); 2] {
        let waits = |lane: &mpsc::Sender<Job>| lane.max_capacity() - lane.capacity();
        [("urgent", waits(&self.urgent)), ("routine", waits(&self.routine))]
    }

    /// True while the writer takes changes.
    pub fn is_running(&self) -> bool {
        !self.routine.is_closed()
    }
}

/// [`Parts`] without what shows checkpoints.
struct Tools {
    store: Arc<dyn Store>,
    signer: Arc<dyn Signer>,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    rng: Box<dyn RngCore + Send + Sync>,
    pulse: Arc<Pulse>,
    feed: Feed,
    metrics: Arc<Metrics>,
}

struct Task {
    parts: Tools,
    from_routine: mpsc::Receiver<Job>,
    from_urgent: mpsc::Receiver<Job>,
    checkpoints: Arc<Checkpoints>,
    /// What a newer key list of another replica overtook: signed anew, and first in the next batch.
    again: Vec<Job>,
    to_end: watch::Receiver<bool>,
    /// Dropped with the task.
    _ends: watch::Sender<()>,
}

impl Task {
    async fn run(mut self) {
        while let Some(mut jobs) = self.gather().await {
            let under = self.settle_leaves(&mut jobs);
            let (changes, waiting): (Vec<_>, Vec<_>) = jobs.into_iter().map(|j| (j.change, j.tell)).unzip();
            if self.parts.pulse.is_stopped() {
                answer(waiting, std::iter::repeat_with(|| Err(stopped())));
                return;
            }
            let mut id = [0; 16];
            self.parts.rng.fill_bytes(&mut id);
            let at = self.parts.clock.wall();
            let feed_key = self.parts.signer.key_for(KeyUse::Feed, at, at).unwrap_or(NO_KEY);
            let batch = Batch { id, at, feed_key, changes };
            let known = self.checkpoints.known();
            self.parts.pulse.begin();
            let begun = self.parts.clock.boot();
            let committed = match self.parts.store.commit(&batch).await {
                Ok(committed) => Ok(committed),
                Err(CommitError::Unavailable(e)) => Err(e.to_string()),
                Err(CommitError::Unknown(would_be, why)) => find_out(&*self.parts.store, batch.id, *would_be, why).await,
            };
            let committed = match committed {
                Ok(committed) => committed,
                Err(why) => {
                    self.parts.pulse.abandon();
                    self.parts.metrics.commit_failed();
                    tracing::error!(error = %why, changes = waiting.len(), "commit failed");
                    answer(waiting, std::iter::repeat_with(|| Err(WriteError::Unavailable(why.clone()))));
                    continue;
                }
            };
            let at = self.parts.clock.boot();
            self.parts.metrics.committed(at.micros_since(begun));
            crate::failpoint::reach("committed");
            self.parts.pulse.settle(committed.head.feed);
            note_key_list(&self.parts, &batch, &committed);
            self.catch_up(batch.at, committed.key_list).await;
            let list = self.parts.feed.lists();
            let messages = self.sign_feed(&committed);
            match self.release(&batch, &committed, known) {
                // The database is not the one that was released from. Whatever it says, nothing more is signed for it.
                Err(e @ (ReleaseError::Fork { .. } | ReleaseError::Stopped)) => {
                    tracing::error!(error = %e, "the writer stops");
                    return;
                }
                Err(e) => tracing::error!(error = %e, "checkpoint not released"),
                Ok(()) => {}
            }
            let (waiting, outcomes) = self.put_back(waiting, batch, committed.outcomes, under);
            answer(waiting, outcomes.into_iter().map(|o| o.map(|placed| Written { placed, committed: at })));
            self.parts.feed.publish(committed.head.feed.epoch, messages, list);
        }
    }

    /// Shows the checkpoint of a commit that went on from what was shown. Where others committed in between, the feed's
    /// follower shows it, after it has seen that the log between the two is one.
    fn release(&self, batch: &Batch, committed: &Committed, known: crate::signer::released::TreeHead) -> Result<(), ReleaseError> {
        let written = committed.outcomes.iter().flatten().map(|p| p.leaves.end - p.leaves.start).sum::<u64>();
        if committed.head.tree.size.saturating_sub(written) > known.size {
            self.parts.feed.hint();
            return Ok(());
        }
        self.checkpoints.release(committed.head.tree, Some(known), self.last_leaf_at(batch, committed))
    }

    /// Waits for a change, then takes what else is there: revocations first.
    async fn gather(&mut self) -> Option<Vec<Job>> {
        if !self.again.is_empty() {
            return Some(std::mem::take(&mut self.again));
        }
        let first = loop {
            let is_open = !self.from_routine.is_closed();
            tokio::select! {
                biased;
                Ok(_) = self.to_end.wait_for(|end| *end), if is_open => {
                    // What is in the queues is still taken out of them.
                    self.from_urgent.close();
                    self.from_routine.close();
                }
                Some(job) = self.from_urgent.recv() => break job,
                Some(job) = self.from_routine.recv() => break job,
                else => return None,
            }
        };
        let mut urgent = Vec::new();
        let mut routine = Vec::new();
        if first.change.items.is_empty() {
            routine.push(first)
        } else {
            urgent.push(first)
        }
        // Callers that the last answers woke are about to ask again: one turn for them saves a transaction.
        tokio::task::yield_now().await;
        while urgent.len() < MAX_URGENT_BATCH
            && let Ok(job) = self.from_urgent.try_recv()
        {
            urgent.push(job);
        }
        let most = if urgent.is_empty() { MAX_BATCH } else { MAX_URGENT_BATCH };
        let mut bytes: usize = urgent.iter().chain(&routine).map(Job::bytes).sum();
        while urgent.len() + routine.len() < most
            && bytes < MAX_BATCH_BYTES
            && let Ok(job) = self.from_routine.try_recv()
        {
            bytes += job.bytes();
            routine.push(job);
        }
        urgent.append(&mut routine);
        Some(urgent)
    }

    fn sign_feed(&self, committed: &Committed) -> Vec<(u64, procura_verifier::feed::message::SignedMessage)> {
        let read = |payload: &[u8]| Message::from_bytes(payload);
        committed
            .messages
            .iter()
            .filter_map(|row| match read(&row.payload) {
                Ok(message) => Some((row.seq, self.parts.signer.feed(&message))),
                // Our own bytes of a moment ago. The heartbeat tells verifiers that something is missing: they deny.
                Err(e) => {
                    tracing::error!(error = %e, seq = row.seq, "feed message unreadable");
                    None
                }
            })
            .collect()
    }
}

/// Reads until it is known whether the batch was written. Until then nobody is answered, nothing else is written, and
/// heartbeats claim no moment after the attempt.
async fn find_out(store: &dyn Store, id: [u8; 16], would_be: Committed, why: String) -> Result<Committed, String> {
    tracing::error!(error = %why, "outcome of a commit unknown");
    let mut pause = Duration::from_millis(5);
    loop {
        match store.has_batch(id).await {
            Ok(true) => return Ok(would_be),
            Ok(false) => return Err(why),
            Err(e) => tracing::error!(error = %e, "outcome of a commit still unknown"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(FIND_OUT_EVERY);
    }
}

/// A committed list is in force before anything else is signed: its own batch's messages and checkpoint are by its keys.
fn note_key_list(parts: &Tools, batch: &Batch, committed: &Committed) {
    let written = batch.changes.iter().zip(&committed.outcomes).filter(|(_, o)| o.is_ok()).flat_map(|(c, _)| &c.rows);
    for row in written {
        if let Row::KeyList(version, signed) = row {
            let taken = UnverifiedKeyList::from_bytes(signed).map_err(|e| e.to_string());
            if let Err(e) = taken.and_then(|list| parts.keys.accept(&list, batch.at).map_err(|e| e.to_string())) {
                tracing::error!(error = %e, version, "committed key list not taken over");
            }
        }
    }
}

fn answer(waiting: Vec<Tell>, answers: impl Iterator<Item = Result<Written, WriteError>>) {
    for (tell, answer) in waiting.into_iter().zip(answers) {
        // Whoever no longer waits has gone away; the change stands.
        let _ = tell.send(answer);
    }
}

fn stopped() -> WriteError {
    WriteError::Unavailable("the writer has stopped".to_owned())
}

/// While it is asked nothing else is written here, so it is asked soon.
const FIND_OUT_EVERY: Duration = Duration::from_millis(200);
/// Stands in the row of a message that no key at hand could sign when it was committed. A later list's key may (F3).
const NO_KEY: Key = Key::from_bytes([0; 32]);

/// A tenant's name is in the checkpoint's origin already.
pub fn origin(authority: &str, tenant: &Tenant) -> Result<Origin, crate::log::checkpoint::CheckpointError> {
    let host = authority.split_once("://").map_or(authority, |(_, rest)| rest);
    format!("{host}/{tenant}").parse()
}

#[cfg(test)]
mod tests;
