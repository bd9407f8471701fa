//! One leaf and the proof that it stands in the log that was released: for whoever may read leaves.

use std::collections::HashMap;

use procura_verifier::ids::Key;
use procura_verifier::key_list::KeyUse;

use super::events::{Entry, EventsError};
use super::{Context, Unavailable};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::leaf::{UnverifiedLeaf, key_id};
use crate::log::proof::{ProofError, inclusion_proof, verify_inclusion};
use crate::log::tree::{Hash, leaf_hash};
use crate::signer::released::TreeHead;

/// A leaf with its proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proven {
    /// The leaf.
    pub entry: Entry,
    /// The signed statement, as JSON that people read.
    pub statement: String,
    /// The released tree.
    pub tree: TreeHead,
    /// The hashes beside the way from the leaf to the root, from below.
    pub path: Vec<Hash>,
    /// True if leaf and path come to the released root: computed here, with the auditor's own check.
    pub is_included: bool,
    /// The key that signed the leaf, if the key list in force names it as event key and its signature holds.
    pub signed_by: Option<Key>,
}

/// The leaf at a place, with its proof; none beyond what was released.
pub async fn prove(ctx: &Context, by: &Principal, index: u64) -> Result<Option<Proven>, EventsError> {
    if !by.has(Role::Auditor) {
        return Err(EventsError::Forbidden);
    }
    let tree = ctx.writer.checkpoint().tree;
    if index >= tree.size {
        return Ok(None);
    }
    let Some(bytes) = ctx.store.leaves(index, 1).await.map_err(Unavailable::from)?.pop() else { return Ok(None) };
    let wrong = |e: &dyn std::fmt::Display| Unavailable::Store(format!("leaf {index}: {e}"));
    let leaf = UnverifiedLeaf::parse(&bytes).map_err(|e| wrong(&e))?;
    let hash = leaf_hash(&bytes);
    let entry = Entry { index, hash, at: leaf.unverified_at(), event: leaf.unverified_event().clone() };
    let statement: serde_json::Value = serde_json::from_slice(leaf.unverified_statement()).map_err(|e| wrong(&e))?;
    let statement = serde_json::to_string_pretty(&statement).map_err(|e| wrong(&e))?;
    let keys = ctx.keys.load();
    let signed_by = leaf.verify(|id| keys.of(KeyUse::Event).map(|k| k.key).find(|k| key_id(k) == id)).ok();
    let path = path(ctx, tree.size, index).await.map_err(|e| wrong(&e))?;
    let is_included = verify_inclusion(tree.size, index, &hash, &tree.root, &path);
    Ok(Some(Proven { entry, statement, tree, path, is_included, signed_by: signed_by.map(|l| l.key) }))
}

/// The proof asks for one tile after the other, and the store answers later: what is missing is fetched, and asked again.
async fn path(ctx: &Context, size: u64, index: u64) -> Result<Vec<Hash>, String> {
    let mut tiles: HashMap<(u8, u64), Vec<u8>> = HashMap::new();
    loop {
        let read = |level, place, width: u64| {
            let tile = tiles.get(&(level, place)).and_then(|t| t.get(..usize::try_from(width).ok()?.checked_mul(32)?));
            tile.map(<[u8]>::to_vec).ok_or("missing or too narrow")
        };
        match inclusion_proof(size, index, read) {
            Err(ProofError::Read { level, index, .. }) if !tiles.contains_key(&(level, index)) => {
                let tile = ctx.store.tile(level, index).await.map_err(|e| e.to_string())?;
                tiles.insert((level, index), tile.unwrap_or_default());
            }
            made => return made.map_err(|e| e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;

    #[tokio::test]
    async fn every_leaf_is_proven_to_auditors_and_none_to_others() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let by = Principal::LocalOperator;
        assert_eq!(prove(&app.ctx, &alice, 0).await, Err(EventsError::Forbidden));
        for _ in 0..3 {
            app.mint(bot, grant).await.unwrap();
        }
        let size = app.ctx.writer.checkpoint().tree.size;
        for index in 0..size {
            let p = prove(&app.ctx, &by, index).await.unwrap().unwrap();
            assert!(p.is_included && p.signed_by.is_some(), "{index}");
            assert!(p.statement.contains("https://in-toto.io/Statement/v1"));
            // The twin: the same path from another leaf comes to another root.
            assert!(!verify_inclusion(size, index, &[0; 32], &p.tree.root, &p.path));
        }
        assert_eq!(prove(&app.ctx, &by, size).await, Ok(None));
    }
}
