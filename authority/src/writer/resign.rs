//! What a key list overtook: leaves are signed before the commit, and a list may kill their key in between (`spec/log.md` section 3).

use procura_verifier::ids::UtcMillis;
use procura_verifier::key_list::KeyUse;

use super::{Batch, Change, Committed, Job, Placed, Refused, Require, Row, Task, Tell, UnverifiedLeaf, WriteError};
use crate::log::leaf::{claimed_key_id, key_id};

impl Task {
    /// Before a batch is written: a key list goes last, so that the leaves beside it stand under the list before; every other
    /// leaf is by a key that lives in the list in force, and asks that none newer be stored.
    ///
    /// Returns the version of that list.
    pub(super) fn settle_leaves(&self, jobs: &mut [Job]) -> u64 {
        jobs.sort_by_key(|job| is_key_list(&job.change));
        let list = self.parts.keys.load();
        let living: Vec<String> = list.of(KeyUse::Event).map(|k| key_id(&k.key)).collect();
        for change in jobs.iter_mut().map(|job| &mut job.change).filter(|c| !c.leaves.is_empty() && !is_key_list(c)) {
            change.requires.retain(|r| !matches!(r, Require::KeyList(_)));
            change.requires.push(Require::KeyList(list.payload().version));
            for leaf in &mut change.leaves {
                let Some(id) = claimed_key_id(leaf) else { continue };
                if living.iter().any(|l| l == id) {
                    continue;
                }
                match self.sign_anew(leaf) {
                    Ok(signed) => *leaf = signed,
                    // Refused by the store: nothing is written that no auditor could open.
                    Err(e) => {
                        tracing::error!(error = %e, "leaf not signed anew");
                        change.requires.push(Require::KeyList(0));
                    }
                }
            }
        }
        list.payload().version
    }

    /// The same event by a living key: at its own time, or at this moment where that key is younger.
    fn sign_anew(&self, leaf: &[u8]) -> Result<Vec<u8>, crate::log::leaf::LeafError> {
        let parsed = UnverifiedLeaf::parse(leaf)?;
        let sign = |at| self.parts.signer.leaf(parsed.unverified_event(), self.parts.store.tenant(), at);
        Ok(sign(parsed.unverified_at()).or_else(|_| sign(self.parts.clock.wall()))?.into_bytes())
    }

    /// After a commit that found a newer list in the store: takes it over before anything is signed for what was committed.
    pub(super) async fn catch_up(&self, now: UtcMillis, stored: u64) {
        if stored > self.parts.keys.load().payload().version
            && let Err(e) = self.parts.keys.refresh(&*self.parts.store, now).await
        {
            tracing::error!(error = %e, stored, "the store holds a key list that is not taken over");
        }
    }

    /// After a commit: what another replica's newer list refused comes again, signed anew. The others' outcomes, in order.
    pub(super) fn put_back(
        &mut self,
        waiting: Vec<Tell>,
        batch: Batch,
        outcomes: Vec<Result<Placed, Refused>>,
        under: u64,
    ) -> (Vec<Tell>, Vec<Result<Placed, WriteError>>) {
        let overtaken = |change: &Change, o: &Result<Placed, Refused>| matches!(o, Err(Refused::KeyListMoved(_))) && !is_key_list(change);
        // Once for each newer list; where there is none to be had the caller hears of it.
        let again = self.parts.keys.load().payload().version > under;
        let (mut told, mut left) = (Vec::with_capacity(waiting.len()), Vec::with_capacity(waiting.len()));
        for ((tell, change), outcome) in waiting.into_iter().zip(batch.changes).zip(outcomes) {
            if overtaken(&change, &outcome) {
                if again {
                    self.again.push(Job { change, tell });
                    continue;
                }
                told.push(tell);
                left.push(Err(WriteError::Unavailable("the leaves' key is not alive in the key list that is stored".to_owned())));
            } else {
                told.push(tell);
                left.push(outcome.map_err(WriteError::Refused));
            }
        }
        (told, left)
    }

    /// When the last leaf of a batch was made: the log keys that hold then sign the checkpoint over it.
    pub(super) fn last_leaf_at(&self, batch: &Batch, committed: &Committed) -> UtcMillis {
        if self.parts.keys.load().of(KeyUse::Log).count() < 2 {
            return batch.at;
        }
        let written = batch.changes.iter().zip(&committed.outcomes).filter(|(_, o)| o.is_ok());
        let last = written.filter_map(|(c, _)| c.leaves.last()).next_back();
        last.and_then(|leaf| UnverifiedLeaf::parse(leaf).ok()).map_or(batch.at, |leaf| leaf.unverified_at())
    }
}

fn is_key_list(change: &Change) -> bool {
    change.rows.iter().any(|row| matches!(row, Row::KeyList(..)))
}
