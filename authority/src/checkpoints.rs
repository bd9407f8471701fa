//! The newest checkpoint that may be shown. It is moved by whoever learns of a commit: this process's writer, or, where
//! other processes write the same database, the feed's follower.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use procura_verifier::ids::UtcMillis;
use procura_verifier::key_list::UnverifiedKeyList;
use tokio::sync::watch;

use crate::feed::beat::Pulse;
use crate::keys::Keys;
use crate::log::checkpoint::{Checkpoint, CheckpointError, Origin};
use crate::log::leaf::UnverifiedLeaf;
use crate::log::tree::Tree;
use crate::signer::Signer;
use crate::signer::released::{ReleaseError, Released, TreeHead};
use crate::store::shared::settled;
use crate::store::{Head, Store, StoreError, partial_tiles};

/// A signed checkpoint that may be shown to anyone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReleasedCheckpoint {
    /// What it says.
    pub tree: TreeHead,
    /// The signed note.
    pub note: Arc<str>,
    /// The key list that the log up to here recorded last: an export needs exactly that one.
    pub key_list: Arc<UnverifiedKeyList>,
}

/// Why a head is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log would fork.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// Records, signs, shows: in this order (`DESIGN.md` section 9).
pub struct Checkpoints {
    signer: Arc<dyn Signer>,
    keys: Arc<Keys>,
    origin: Origin,
    pulse: Arc<Pulse>,
    released: Mutex<Released>,
    show: watch::Sender<ReleasedCheckpoint>,
}

impl Checkpoints {
    /// Begins at the store's head, which must continue what this process released in an earlier life.
    pub async fn start(
        store: &dyn Store,
        signer: Arc<dyn Signer>,
        keys: Arc<Keys>,
        origin: Origin,
        pulse: Arc<Pulse>,
        mut released: Released,
    ) -> Result<Self, crate::writer::StartError> {
        let tree = store.head().await?.tree;
        settled(store).await?;
        if let Some(last) = released.last() {
            last.may_precede(tree, true)?;
            if !continues(store, last).await? {
                return Err(ReleaseError::Fork { got: tree.size, released: last.size }.into());
            }
        }
        released.release(tree, None)?;
        let first = sign(&*signer, &keys, &origin, tree, last_leaf_at(store, tree).await?.unwrap_or_else(|| pulse.utc()))?;
        pulse.released(tree);
        Ok(Self { signer, keys, origin, pulse, released: Mutex::new(released), show: watch::Sender::new(first) })
    }

    /// The newest one.
    pub fn newest(&self) -> ReleasedCheckpoint {
        self.show.borrow().clone()
    }

    /// Its size and root: to be asked before a head is read that [`Checkpoints::release`] is given.
    pub fn known(&self) -> TreeHead {
        self.show.borrow().tree
    }

    /// Shows a head that is committed, and whose last leaf is of `at`. `known` was released before it was read. On a fork nothing is signed any more, no heartbeat either.
    pub fn release(&self, tree: TreeHead, known: Option<TreeHead>, at: UtcMillis) -> Result<(), ReleaseError> {
        // Held until it is shown, so that what is shown never goes back.
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        if self.pulse.is_stopped() {
            return Err(ReleaseError::Stopped);
        }
        match released.release(tree, known) {
            Ok(true) if self.known() != tree => match sign(&*self.signer, &self.keys, &self.origin, tree, at) {
                Ok(signed) => {
                    self.pulse.released(tree);
                    self.show.send_replace(signed);
                }
                Err(e) => tracing::error!(error = %e, "checkpoint not signed"),
            },
            Ok(_) => {}
            Err(e) => {
                if matches!(e, ReleaseError::Fork { .. }) {
                    self.pulse.stop(&e);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    /// Shows the store's head if it is newer and continues what was shown. The head may be late: it is no proof of anything.
    pub async fn follow(&self, store: &dyn Store) -> Result<(), FollowError> {
        let known = self.known();
        let Head { tree, feed } = store.head().await?;
        self.pulse.stay(feed.epoch);
        if tree.size > known.size && !continues(store, known).await? {
            let fork = ReleaseError::Fork { got: tree.size, released: known.size };
            self.pulse.stop(&fork);
            return Err(fork.into());
        }
        if tree == known {
            return Ok(());
        }
        // What can be read may be lost yet; a checkpoint cannot be taken back.
        settled(store).await?;
        // A list that another replica published must be here before anything is signed for a head that holds it.
        if let Err(e) = self.keys.refresh(store, self.pulse.utc()).await {
            return Err(StoreError::Unavailable(format!("key list: {e}")).into());
        }
        Ok(self.release(tree, None, last_leaf_at(store, tree).await?.unwrap_or_else(|| self.pulse.utc()))?)
    }
}

/// True if the stored log begins with this tree: a database that lost its newest leaves and grew past them is told by this alone.
pub(crate) async fn continues(store: &dyn Store, tree: TreeHead) -> Result<bool, StoreError> {
    let mut tiles = HashMap::new();
    for (level, place) in partial_tiles(tree.size) {
        tiles.insert((level, place), store.tile(level, place).await?);
    }
    // A tile is wider by now: what it was is its prefix.
    let mut cut = |level, place, width: u64| {
        let tile = tiles.remove(&(level, place)).flatten()?;
        tile.get(..usize::try_from(width).ok()?.checked_mul(32)?).map(<[u8]>::to_vec)
    };
    let found = Tree::restore(tree.size, |level, place, width| cut(level, place, width).ok_or("missing"));
    let found = found.map_err(|e| StoreError::Unavailable(format!("tiles of the tree of size {}: {e}", tree.size)))?;
    Ok(found.root() == tree.root)
}

/// When the last leaf was made, if there is one.
async fn last_leaf_at(store: &dyn Store, tree: TreeHead) -> Result<Option<UtcMillis>, StoreError> {
    let Some(last) = tree.size.checked_sub(1) else { return Ok(None) };
    let leaf = store.leaves(last, 1).await?.into_iter().next();
    let read = leaf.and_then(|leaf| UnverifiedLeaf::parse(&leaf).ok().map(|leaf| leaf.unverified_at()));
    read.map(Some).ok_or_else(|| StoreError::Inconsistent { table: "leaf", column: "bytes", id: last.to_string() })
}

/// The log keys that hold at `at` sign.
fn sign(signer: &dyn Signer, keys: &Keys, origin: &Origin, tree: TreeHead, at: UtcMillis) -> Result<ReleasedCheckpoint, CheckpointError> {
    let note = signer.checkpoint(&Checkpoint { origin: origin.clone(), size: tree.size, root: tree.root }, at)?;
    Ok(ReleasedCheckpoint { tree, note: note.into(), key_list: keys.signed() })
}
