//! Delegations as a tree: each grant, the tokens and links that receipts have shown under it, when each was used last.

use procura_verifier::ids::DelegationId;

use super::inspect::{self, DelegationView};
use super::{Context, Unavailable};
use crate::domain::principal::Principal;
use crate::store::used::Used;

/// A delegation with what was seen of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grown {
    /// The grant and how it stands.
    pub view: DelegationView,
    /// The tokens that were presented, newest use first.
    pub tokens: Vec<Branch>,
    /// False if there were more tokens and links than are read.
    pub is_whole: bool,
}

/// A token or link, and the links under it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch {
    /// What was seen.
    pub used: Used,
    /// The links made from it, newest use first.
    pub links: Vec<Branch>,
}

/// Most delegations in one tree.
pub const MAX_GRANTS: usize = 100;

/// The newest delegations of a human with what receipts have shown of them.
pub async fn tree(ctx: &Context, by: &Principal) -> Result<Vec<Grown>, Unavailable> {
    let mut views = inspect::delegations_of(ctx, by).await?;
    views.truncate(MAX_GRANTS);
    let mut grown = Vec::with_capacity(views.len());
    for view in views {
        grown.push(grow(ctx, view).await?);
    }
    Ok(grown)
}

/// One delegation with what receipts have shown of it, if it concerns the asker.
pub async fn delegation(ctx: &Context, by: &Principal, id: DelegationId) -> Result<Option<Grown>, Unavailable> {
    match inspect::delegation(ctx, by, id).await? {
        Some(view) => grow(ctx, view).await.map(Some),
        None => Ok(None),
    }
}

async fn grow(ctx: &Context, view: DelegationView) -> Result<Grown, Unavailable> {
    let uses = ctx.store.uses_of(view.delegation.id).await?;
    let is_whole = uses.len() < MAX_USES;
    let tokens = uses.iter().filter(|u| u.lid.is_none()).map(|u| branch(u, &uses, MAX_LINKS)).collect();
    Ok(Grown { view, tokens, is_whole })
}

/// A parent is always used as late as what hangs from it, so that it is read with it.
fn branch(used: &Used, all: &[Used], deepest: u8) -> Branch {
    let hangs = |u: &&Used| u.tid == used.tid && u.lid.is_some() && u.lid != used.lid && u.parent == used.lid;
    let links = match deepest.checked_sub(1) {
        Some(left) => all.iter().filter(hangs).map(|u| branch(u, all, left)).collect(),
        None => Vec::new(),
    };
    Branch { used: used.clone(), links }
}

/// The store reads so many.
const MAX_USES: usize = 256;
/// No token has more (law 4).
const MAX_LINKS: u8 = procura_verifier::claims::Block0::MAX_DEPTH;
