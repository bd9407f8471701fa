//! Goes on after a restored backup or lost commits: a new origin that names the break, and a new epoch of the feed
//! (`spec/log.md` section 10, `spec/feed.md` F20).
//!
//! Nothing that the database still has is thrown away and nothing is made up: the log under the new origin begins with the
//! leaves that are left, and the next one says what was released beyond them. Old and new origin can be compared by whoever
//! holds a checkpoint of either. What was lost of the feed comes back from verifiers.

use std::sync::Arc;

use procura_verifier::key_list::{KeyListError, KeyUse, UnverifiedKeyList};
use procura_verifier::wire::{Canonical as _, Malformed};

use super::bootstrap::Start;
use super::revoke::MAX_REASON;
use crate::checkpoints::continues;
use crate::domain::opening::Opening;
use crate::keys::Keys;
use crate::log::checkpoint::{CheckpointError, Origin};
use crate::log::event::{self, Actor};
use crate::signer::released::{ReleaseError, TreeHead};
use crate::store::{Batch, Change, CommitError, Head, Refused, Row, StoreError};

/// The break, as the log has it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The origin before.
    pub previous: Origin,
    /// The origin from now on.
    pub origin: Origin,
    /// The epoch of the feed from now on.
    pub epoch: u64,
    /// What was released last.
    pub released: TreeHead,
    /// What the database still had.
    pub kept: TreeHead,
}

impl Recovered {
    /// What an operator reads.
    pub fn in_words(&self) -> String {
        let (lost, of) = (self.released.size.saturating_sub(self.kept.size), self.released.size);
        let what =
            if lost == 0 { format!("its leaves are not those that {} was released of", self.previous) } else { format!("{lost} of {of} leaves are lost") };
        format!(
            "The log goes on as {}, the feed in epoch {}: {what}, and the log says so.\nStart the authority. Verifiers with a folder hand back the revocations that they kept; publish a key list that is newer than the database's again.",
            self.origin, self.epoch
        )
    }
}

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The database has all that was released.
    #[error("the database continues what was released: there is nothing to recover, start the authority")]
    Whole,
    /// Nothing is known to have been released.
    #[error("no checkpoint was released from here, so nothing is known to be lost: expected the data folder of a replica that has served")]
    NothingReleased,
    /// The reason is too long.
    #[error("reason is {0} bytes long, expected 1 to {MAX_REASON}")]
    Reason(usize),
    /// The database holds no key list: it is new.
    #[error("the database has no key list, so nothing of the log is left to go on from")]
    Empty,
    /// The anchors did not sign the stored list.
    #[error(transparent)]
    KeyList(#[from] KeyListError),
    /// The stored list is not one.
    #[error("stored key list: {0}")]
    Malformed(#[from] Malformed),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It may have been written: ask again.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The origin is too long, or no key signs.
    #[error(transparent)]
    Origin(#[from] CheckpointError),
    /// No living event or feed key.
    #[error("cannot sign: {0}")]
    Key(String),
    /// The file beside the signer.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Somebody writes this database at the same time.
    #[error("{0}: end every replica first")]
    Refused(#[from] Refused),
}

/// Writes the break down, in one transaction, and begins the new origin's file of released checkpoints. Nobody else may run.
pub async fn recover(start: Start, reason: String) -> Result<Recovered, RecoverError> {
    if reason.is_empty() || reason.len() > MAX_REASON {
        return Err(RecoverError::Reason(reason.len()));
    }
    let Start { store, signer, anchors, clock, rngs: [mut rng, _], released: file, origin, .. } = start;
    let (_, bytes) = store.key_list().await?.ok_or(RecoverError::Empty)?;
    signer.follow(Arc::new(Keys::new(anchors, store.tenant().clone(), UnverifiedKeyList::from_bytes(&bytes)?)?));
    let Head { tree: kept, feed } = store.head().await?;
    // Recovered already, from here or by another replica: this folder's file is about an origin that has ended.
    if feed.epoch > file.epoch() {
        return Err(RecoverError::Whole);
    }
    let released = file.last().ok_or(RecoverError::NothingReleased)?;
    if feed.epoch == file.epoch() && released.may_precede(kept, true).is_ok() && continues(&*store, released).await? {
        return Err(RecoverError::Whole);
    }
    // Above both: an epoch that verifiers have seen begin never begins again.
    let epoch = file.epoch().max(feed.epoch) + 1;
    let (previous, origin) = (origin.of_epoch(file.epoch())?, origin.of_epoch(epoch)?);
    let now = clock.wall();
    let mut salt = [0; 16];
    rng.fill_bytes(&mut salt);
    let opening = Opening { salt, text: reason };
    let tree = |t: TreeHead| event::TreeHead { size: t.size, root: event::Digest(t.root) };
    let says = event::Recovered {
        origin: origin.to_string(),
        previous: previous.to_string(),
        released: tree(released),
        kept: tree(kept),
        reason_hash: event::Digest(opening.hash()),
        by: Actor::LocalOperator,
    };
    let before = event::FeedHead { epoch: feed.epoch, seq: feed.seq, hash: event::Digest(feed.hash) };
    let begins = event::EpochStart { epoch, previous: Some(before), by: Actor::LocalOperator };
    let mut leaves = Vec::new();
    for event in [event::Event::from(says), begins.into()] {
        leaves.push(signer.leaf(&event, store.tenant(), now).map_err(|e| RecoverError::Key(e.to_string()))?.into_bytes());
    }
    let feed_key = signer.key_for(KeyUse::Feed, now, now).ok_or_else(|| RecoverError::Key("no feed key is alive".to_owned()))?;
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let change = Change { rows: vec![Row::Opening(opening), Row::EpochStart(epoch, feed)], leaves, ..Change::default() };
    let done = store.commit(&Batch { id, at: now, feed_key, changes: vec![change] }).await?;
    for outcome in done.outcomes {
        outcome?;
    }
    // A backup that is restored once more is found by this file, even if the authority never starts in between.
    file.of_epoch(epoch)?.release(done.head.tree, None)?;
    Ok(Recovered { previous, origin, epoch, released, kept })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::app::export;
    use crate::log::bundle::{Bundle, Limits};
    use crate::log::finding::{Finding, FindingClass};
    use crate::log::replay::{Summary, replay};
    use crate::store::contract::tenant;
    use crate::store::memory::Memory;

    /// What an operator with all keys writes after a break: `kept` says what they claim to have kept.
    async fn replayed(kept: impl FnOnce(TreeHead) -> TreeHead) -> Result<Summary, Finding> {
        let (folder, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Arc::new(Memory::new(tenant()));
        let app = start(Arc::clone(&store) as _, folder.path()).await.unwrap();
        app.granted().await;
        let (ctx, head) = (Arc::clone(&app.ctx), app.ctx.store.head().await.unwrap());
        let tree = |t: TreeHead| event::TreeHead { size: t.size, root: event::Digest(t.root) };
        let says = event::Recovered {
            origin: "127.0.0.1/acme/2".to_owned(),
            previous: "127.0.0.1/acme".to_owned(),
            released: tree(TreeHead { size: head.tree.size + 3, root: [7; 32] }),
            kept: tree(kept(head.tree)),
            reason_hash: event::Digest([1; 32]),
            by: Actor::LocalOperator,
        };
        let before = event::FeedHead { epoch: 1, seq: head.feed.seq, hash: event::Digest(head.feed.hash) };
        let begins = event::EpochStart { epoch: 2, previous: Some(before), by: Actor::LocalOperator };
        let leaves = vec![ctx.leaf(says, ctx.now()).unwrap(), ctx.leaf(begins, ctx.now()).unwrap()];
        let change = Change { rows: vec![Row::EpochStart(2, head.feed)], leaves, ..Change::default() };
        let feed_key = ctx.signer.key_for(KeyUse::Feed, ctx.now(), ctx.now()).unwrap();
        let done = ctx.store.commit(&Batch { id: [9; 16], at: ctx.now(), feed_key, changes: vec![change] }).await.unwrap();
        assert!(done.outcomes[0].is_ok());
        drop((app, ctx));
        std::fs::rename(folder.path().join("keys"), after.path().join("keys")).unwrap();
        let app = start(store, after.path()).await.unwrap();
        app.granted_more().await;
        let bytes = export(&app.ctx, &app.ctx.writer.checkpoint()).await.unwrap();
        replay(&Bundle::read(&bytes, &app.anchors, &tenant(), Limits::default()).unwrap())
    }

    impl App {
        /// Something stands after the break as well.
        async fn granted_more(&self) {
            let alice = self.person("alice").await;
            self.register(&alice, "fx-helper", 2).await.unwrap();
        }
    }

    #[tokio::test]
    async fn replay_computes_the_root_of_what_was_kept() {
        let whole = replayed(|kept| kept).await.unwrap();
        assert_eq!(whole.breaks.iter().map(|b| b.lost).collect::<Vec<_>>(), [3]);
        let found = replayed(|kept| TreeHead { root: [8; 32], ..kept }).await.unwrap_err();
        assert!(found.class == FindingClass::State && found.to_string().contains("were kept, expected"), "{found}");
    }
}
