//! Revokes keys whose overlap with the one that followed them has ended.

use std::sync::Arc;
use std::time::Duration;

use procura_verifier::feed::message::Item;
use procura_verifier::wire::Canonical as _;

use super::{Context, Unavailable};
use crate::domain::agent::{AgentKey, KeyState};
use crate::log::event::{self, Actor};
use crate::store::{Change, Refused, Require, Row};
use crate::writer::WriteError;

/// Revokes those that have ended by now; says how many. Of several replicas one writes each.
pub async fn end_keys(ctx: &Context) -> Result<usize, Unavailable> {
    let now = ctx.now();
    let mut changes = Vec::new();
    for key in ctx.store.ending_keys(now).await? {
        let item = Item::HolderKey { key: key.key };
        let leaf = event::Revoke { item: event::Encoded(item.to_bytes()), by: Actor::OverlapEnded, reason_hash: None, delegation: None };
        changes.push(Change {
            requires: vec![Require::KeyLive(key.agent, key.key)],
            rows: vec![Row::AgentKey(AgentKey { state: KeyState::Revoked, ..key })],
            items: vec![item],
            leaves: vec![ctx.leaf(leaf, now)?],
        });
    }
    let mut ended = 0;
    for written in ctx.writer.submit_all(changes).await {
        match written {
            Ok(_) => ended += 1,
            Err(WriteError::Refused(Refused::KeyNotLive)) => {}
            Err(e) => return Err(Unavailable::from_write(e)),
        }
    }
    Ok(ended)
}

/// Every second, as long as the authority lives. In between an ended key is not accepted for cards and tokens.
pub(super) fn keep_ending(ctx: &Arc<Context>) {
    // Unit tests move their clock by hand, and end keys by hand: a second of the machine's is none of theirs.
    if cfg!(test) {
        return;
    }
    let ctx = Arc::downgrade(ctx);
    tokio::spawn(async move {
        let mut each = tokio::time::interval(Duration::from_secs(1));
        // At once is for who starts; a look at a folder at rest is over by the second tick.
        each.tick().await;
        loop {
            each.tick().await;
            let Some(ctx) = ctx.upgrade() else { break };
            if let Err(e) = end_keys(&ctx).await {
                tracing::warn!(error = %e, "keys that have ended are not revoked yet");
            }
        }
    });
}
