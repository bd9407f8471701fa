//! The newest leaves of the log, for whoever may read it.

use procura_verifier::ids::UtcMillis;

use super::{Context, Unavailable};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::event::Event;
use crate::log::leaf::UnverifiedLeaf;
use crate::log::tree::{Hash, leaf_hash};
use crate::signer::released::TreeHead;

/// Most leaves at once.
pub const MAX_AT_ONCE: u32 = 50;

/// A stretch of the log, newest first, under one released checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// What the released checkpoint covers.
    pub tree: TreeHead,
    /// Its leaves.
    pub entries: Vec<Entry>,
}

/// A leaf as this authority's own store has it: to be believed by whoever believes the store. Others replay a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place.
    pub index: u64,
    /// Its hash in the tree.
    pub hash: Hash,
    /// When it says that it happened.
    pub at: UtcMillis,
    /// What it says.
    pub event: Event,
}

/// Why nothing is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventsError {
    /// Leaves name agents and, by pseudonym, humans.
    #[error("entries need the role auditor")]
    Forbidden,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// At most [`MAX_AT_ONCE`] leaves before a place, or before the end; only what a released checkpoint covers.
pub async fn events(ctx: &Context, by: &Principal, before: Option<u64>) -> Result<Stretch, EventsError> {
    if !by.has(Role::Auditor) {
        return Err(EventsError::Forbidden);
    }
    let tree = ctx.writer.checkpoint().tree;
    let end = before.unwrap_or(tree.size).min(tree.size);
    let from = end.saturating_sub(u64::from(MAX_AT_ONCE));
    let leaves = ctx.store.leaves(from, u32::try_from(end - from).unwrap_or(0)).await.map_err(Unavailable::from)?;
    let mut entries = Vec::with_capacity(leaves.len());
    for (index, bytes) in (from..end).zip(leaves) {
        let leaf = UnverifiedLeaf::parse(&bytes).map_err(|e| Unavailable::Store(format!("leaf {index}: {e}")))?;
        entries.push(Entry { index, hash: leaf_hash(&bytes), at: leaf.unverified_at(), event: leaf.unverified_event().clone() });
    }
    entries.reverse();
    Ok(Stretch { tree, entries })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn auditors_see_the_newest_leaves_first_and_others_none() {
        let app = app().await;
        let (alice, ..) = app.granted().await;
        let by = Principal::LocalOperator;
        assert_eq!(events(&app.ctx, &alice, None).await, Err(EventsError::Forbidden));
        let all = events(&app.ctx, &by, None).await.unwrap();
        let mut expected = app.events().await;
        expected.reverse();
        assert_eq!(all.entries.iter().map(|e| e.event.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(all.entries[0].index + 1, all.tree.size);
        let older = events(&app.ctx, &by, Some(2)).await.unwrap();
        assert_eq!(older.entries.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(events(&app.ctx, &by, Some(u64::MAX)).await.unwrap(), all);
    }
}
