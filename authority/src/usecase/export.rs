//! A bundle of the whole log and feed, as of the newest checkpoint: what `procura log replay` reads.

use procura_verifier::feed::message::{Message, SignedMessage};
use procura_verifier::key_list::UnverifiedKeyList;
use procura_verifier::wire::Canonical as _;

use super::{Context, Unavailable};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::bundle::{BundleWriter, ExportError as BundleError};

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Entries are for the role auditor.
    #[error("only the role auditor exports the log")]
    Forbidden,
    /// The parts do not fit together, or one does not fit the format.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The bundle's bytes.
pub async fn export(ctx: &Context, by: &Principal) -> Result<Vec<u8>, ExportError> {
    if !by.has(Role::Auditor) {
        return Err(ExportError::Forbidden);
    }
    // The checkpoint first: leaves and messages of later commits are left out.
    let checkpoint = ctx.writer.checkpoint();
    let (_, list) = ctx.store.key_list().await.map_err(Unavailable::from)?.ok_or_else(|| missing("the key list"))?;
    let signed = UnverifiedKeyList::from_bytes(&list).map_err(|e| missing(&e.to_string()))?;
    let mut bundle = BundleWriter::new(&ctx.keys, &signed)?;
    let mut next = 0;
    while next < checkpoint.tree.size {
        let page = u32::try_from(checkpoint.tree.size - next).unwrap_or(u32::MAX).min(PAGE);
        let leaves = ctx.store.leaves(next, page).await.map_err(Unavailable::from)?;
        if leaves.is_empty() {
            return Err(missing("a leaf under the checkpoint").into());
        }
        for leaf in &leaves {
            bundle.leaf(leaf)?;
        }
        next += leaves.len() as u64;
    }
    let (epoch, mut seq) = (ctx.store.head().await.map_err(Unavailable::from)?.feed.epoch, 0);
    'feed: loop {
        let messages = ctx.feed.tail(epoch, seq).await.map_err(|e| Unavailable::Store(e.to_string()))?;
        if messages.is_empty() {
            break;
        }
        for signed in &messages {
            if newest_leaf(signed)? >= checkpoint.tree.size {
                break 'feed;
            }
            bundle.feed_message(&signed.to_bytes())?;
            seq += 1;
        }
    }
    Ok(ctx.signer.bundle(bundle, checkpoint.note.as_bytes(), ctx.now())?)
}

fn newest_leaf(signed: &SignedMessage) -> Result<u64, Unavailable> {
    match Message::from_bytes(signed.unverified_payload()) {
        Ok(Message::Batch(batch)) => Ok(batch.items.iter().map(|(index, _)| *index).max().unwrap_or(0)),
        _ => Err(missing("a batch in the feed")),
    }
}

fn missing(what: &str) -> Unavailable {
    Unavailable::Store(format!("log export: {what} is missing"))
}

/// Leaves read at once: some megabytes at most.
const PAGE: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::domain::delegation::tests::terms;
    use crate::log::bundle::{Bundle, Limits};
    use crate::log::replay::replay;
    use crate::usecase::delegate::delegate;
    use crate::usecase::enroll_verifier::enroll_verifier;
    use crate::usecase::receipts::{Record, take};
    use crate::usecase::revoke::{Target, revoke};
    use procura_verifier::receipt::Denials;

    #[tokio::test]
    async fn everything_that_use_cases_do_replays() {
        let app = app().await;
        let (alice, bot, grant) = app.granted().await;
        let (sam, root) = (app.person("sam").await, Principal::LocalOperator);
        let tid = app.mint(bot, grant).await.unwrap().tid;
        let verifier = enroll_verifier(&app.ctx, &root, "payments/1".parse().unwrap(), key(9)).await.unwrap().verifier;
        let denials = Denials { verifier, run: [1; 16], number: 1, minute: 5, counts: vec![("malformed".into(), 3)] }.sign(&signing(9)).to_bytes();
        take(&app.ctx, &[Record::Denials(&denials)]).await.unwrap().remove(0).unwrap();
        let human = alice.human().unwrap();
        for target in [Target::Token(tid), Target::Human(human), Target::Human(human), Target::Delegation(grant), Target::HolderKey(key(7))] {
            revoke(&app.ctx, &sam, target, Some("drill".into()), None).await.unwrap();
        }
        let anew = delegate(&app.ctx, &alice, bot, terms(), None).await.unwrap().delegation;
        app.mint(bot, anew).await.unwrap();

        assert!(matches!(export(&app.ctx, &alice).await, Err(ExportError::Forbidden)));
        let bytes = export(&app.ctx, &root).await.unwrap();
        let bundle = Bundle::read(&bytes, &app.anchors, &app.ctx.tenant, Limits::default()).unwrap();
        let summary = replay(&bundle).unwrap();
        assert_eq!((summary.delegations, summary.tokens, summary.revocations, summary.counted_denials), (2, 2, 5, 3));
        assert_eq!(summary.leaves, app.events().await.len() as u64);
    }
}
