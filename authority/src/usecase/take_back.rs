//! Takes lost items in again: what verifiers kept of the feed and this authority has no more (`spec/feed.md`, F20).
//!
//! Everything is verified under the feed keys of the key list, so it matters little who hands it in. What is known is
//! skipped; the rest becomes new leaves and new feed messages like any revocation. After a restored backup this is what
//! keeps revocations from being undone.

use std::collections::{BTreeSet, HashMap};

use procura_verifier::feed::message::{FeedError, FloorScope, Item, Message, SignedMessage};
use procura_verifier::feed::snapshot::{Segment, SegmentEntry, SegmentError, SegmentKind, Snapshot};
use procura_verifier::ids::{BlockId, Lid, Tid};
use procura_verifier::revocation::IdKind;
use procura_verifier::wire::Canonical as _;
use sha2::{Digest as _, Sha256};

use super::{Context, Unavailable};
use crate::domain::agent::{AgentKey, KeyState};
use crate::log::event::{self, Actor};
use crate::store::{Answer, Change, Refused, Require, Row, TokenRecord};
use crate::writer::WriteError;

/// Most messages handed in at once.
pub const MAX_MESSAGES: usize = 256;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TakenBack {
    /// Items written again.
    pub taken: usize,
    /// Items known already, or past their end.
    pub known: usize,
}

/// Why something was not taken back. What came before it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TakeBackError {
    /// More than [`MAX_MESSAGES`].
    #[error("{0} messages at once, expected at most {MAX_MESSAGES}")]
    TooMany(usize),
    /// No feed key vouches for it.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// Not a segment of the manifest.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A floor so far above the known one that it cannot be followed step by step.
    #[error("floor is {0} generations above the known one, expected at most {MAX_STEPS}")]
    TooHigh(u64),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Takes signed batches: those that this feed has are skipped whole. Idempotent, in any order, by any number of verifiers at once.
pub async fn messages(ctx: &Context, signed: &[SignedMessage]) -> Result<TakenBack, TakeBackError> {
    if signed.len() > MAX_MESSAGES {
        return Err(TakeBackError::TooMany(signed.len()));
    }
    let (mut items, mut known) = (Vec::new(), 0);
    for message in signed {
        // An ended key still vouches for its own time; a dead one for nothing.
        let Message::Batch(batch) = message.verify(&ctx.keys.load(), None)? else { continue };
        if has(ctx, batch.epoch, batch.seq, &message.hash()).await? {
            known += batch.items.len();
        } else {
            items.extend(batch.items.into_iter().map(|(_, item)| item));
        }
    }
    let taken = take(ctx, items).await?;
    Ok(TakenBack { known: taken.known + known, ..taken })
}

/// True if this feed does not have the message that the manifest ends with: then its segments are wanted.
pub async fn is_wanted(ctx: &Context, manifest: &SignedMessage) -> Result<bool, TakeBackError> {
    let snapshot = Snapshot::verify(manifest, &ctx.keys.load())?;
    let m = snapshot.manifest();
    Ok(!has(ctx, m.epoch, m.seq, &m.hash).await?)
}

/// Takes one segment of a manifest.
pub async fn segment(ctx: &Context, manifest: &SignedMessage, bytes: &[u8]) -> Result<TakenBack, TakeBackError> {
    let snapshot = Snapshot::verify(manifest, &ctx.keys.load())?;
    let m = snapshot.manifest();
    if has(ctx, m.epoch, m.seq, &m.hash).await? {
        // What the manifest says is in the feed: not read, not compared.
        return Ok(TakenBack::default());
    }
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let entries: Vec<&SegmentEntry> = snapshot.manifest().segments.iter().filter(|s| s.sha256 == hash).collect();
    if entries.is_empty() {
        return Err(SegmentError::Differs { bytes: bytes.len() }.into());
    }
    let mut total = TakenBack::default();
    for entry in entries {
        // The end of the bucket: no item ends later.
        let exp_secs = entry.bucket.saturating_add(1).saturating_mul(3600).saturating_sub(1);
        let items = match entry.open(bytes)? {
            Segment::Items(items) => items,
            Segment::Ids(kind, ids) => ids.into_iter().map(|id| dated(kind, id, exp_secs)).collect(),
        };
        let taken = take(ctx, items).await?;
        total = TakenBack { taken: total.taken + taken.taken, known: total.known + taken.known };
    }
    Ok(total)
}

fn dated(kind: IdKind, id: [u8; 16], exp_secs: u64) -> Item {
    match kind {
        IdKind::Tid => Item::Tid { tid: Tid::from_bytes(id), exp_secs },
        IdKind::Lid => Item::Lid { lid: Lid::from_bytes(id), exp_secs },
        IdKind::Block => Item::Block { block: BlockId::from_bytes(id), exp_secs },
    }
}

/// True if the feed has this message at this number.
async fn has(ctx: &Context, epoch: u64, seq: u64, hash: &[u8; 32]) -> Result<bool, Unavailable> {
    let Some(before) = seq.checked_sub(1) else { return Ok(true) };
    let rows = ctx.store.feed_since(epoch, before, 1).await?;
    Ok(rows.first().is_some_and(|row| (row.epoch, row.seq) == (epoch, seq) && *hash == <[u8; 32]>::from(Sha256::digest(&row.payload))))
}

async fn take(ctx: &Context, items: Vec<Item>) -> Result<TakenBack, TakeBackError> {
    let all = items.len();
    let mut taken = 0;
    // Anybody can hand in what the feed has, as often as they like: that waits for nobody and holds nobody up. To be written
    // is only what a feed key signed and the feed has not.
    let items = unknown(ctx, items).await?;
    if items.is_empty() {
        return Ok(TakenBack { taken, known: all });
    }
    let _alone = TAKING.lock().await;
    for items in unknown(ctx, items).await?.chunks(AT_ONCE) {
        let mut changes = Vec::new();
        for item in items {
            changes.extend(prepare(ctx, item).await?);
        }
        for written in ctx.writer.submit_all(changes).await {
            match written {
                Ok(_) => taken += 1,
                // Another replica was handed the same.
                Err(WriteError::Refused(Refused::Answered | Refused::GenerationMoved(..))) => {}
                Err(e) => return Err(Unavailable::from_write(e).into()),
            }
        }
    }
    Ok(TakenBack { taken, known: all.saturating_sub(taken) })
}

/// Those of the items that neither the last snapshot nor the feed since has, and that have not ended.
async fn unknown(ctx: &Context, items: Vec<Item>) -> Result<Vec<Item>, TakeBackError> {
    let now_secs = ctx.now().secs();
    let mut wanted: HashMap<Wanted, Item> = HashMap::new();
    let mut floors = Vec::new();
    for item in items {
        match item {
            Item::Tid { exp_secs, .. } | Item::Lid { exp_secs, .. } | Item::Block { exp_secs, .. } if exp_secs.saturating_add(60) <= now_secs => {}
            // Generations are asked of the store; in order, so that each step of one is taken.
            Item::Floor { scope, generation } => floors.push((scope, generation)),
            item => _ = wanted.insert(name(&item), item),
        }
    }
    let kinds: BTreeSet<SegmentKind> = wanted.keys().map(|w| w.0).collect();
    let mut from = (1, 0);
    if let Some(row) = ctx.store.snapshot().await.map_err(Unavailable::from)?.filter(|_| !wanted.is_empty())
        && let Ok(Message::Manifest(m)) = Message::from_bytes(&row.payload)
        && has(ctx, m.epoch, m.seq, &m.hash).await?
    {
        from = (m.epoch, m.seq);
        for entry in m.segments.iter().filter(|e| kinds.contains(&e.kind)) {
            let bytes = ctx.store.segment(entry.sha256).await.map_err(Unavailable::from)?;
            let bytes = bytes.ok_or_else(|| Unavailable::Store("a segment is missing".to_owned()))?;
            match entry.open(&bytes)? {
                Segment::Ids(_, ids) => ids.iter().for_each(|id| _ = wanted.remove(&(entry.kind, id.to_vec()))),
                Segment::Items(items) => items.iter().for_each(|item| _ = wanted.remove(&name(item))),
            }
        }
    }
    while !wanted.is_empty() {
        let rows = ctx.store.feed_since(from.0, from.1, 256).await.map_err(Unavailable::from)?;
        let Some(last) = rows.last() else { break };
        from = (last.epoch, last.seq);
        for row in rows {
            if let Ok(Message::Batch(batch)) = Message::from_bytes(&row.payload) {
                batch.items.iter().for_each(|(_, item)| _ = wanted.remove(&name(item)));
            }
        }
    }
    let scopes: Vec<FloorScope> = floors.iter().map(|(scope, _)| *scope).collect();
    let reached = ctx.store.generations(&scopes).await.map_err(Unavailable::from)?;
    let above = floors.into_iter().zip(reached).filter(|((_, generation), reached)| generation > reached);
    Ok(above.map(|((scope, generation), _)| Item::Floor { scope, generation }).chain(wanted.into_values()).collect())
}

/// What an item is known by, whatever its end.
type Wanted = (SegmentKind, Vec<u8>);

fn name(item: &Item) -> Wanted {
    let ((kind, _), bytes) = crate::feed::snapshot::placed(item, 0);
    (kind, bytes)
}

/// The changes that write it: one, or for a floor one for each step up to it; none for a floor that is reached.
async fn prepare(ctx: &Context, item: &Item) -> Result<Vec<Change>, TakeBackError> {
    let mut rows = Vec::new();
    match item {
        Item::Floor { scope, generation } => {
            let known = ctx.generation(*scope).await.map_err(Unavailable::from)?;
            if generation.saturating_sub(known) > MAX_STEPS {
                return Err(TakeBackError::TooHigh(generation - known));
            }
            return (known + 1..=*generation)
                .map(|step| {
                    let requires = vec![Require::GenerationIs(*scope, step - 1)];
                    written(ctx, &Item::Floor { scope: *scope, generation: step }, requires, vec![Row::Generation(*scope, step)])
                })
                .collect();
        }
        Item::Tid { tid, .. } => {
            let record = ctx.store.find_token(*tid).await.map_err(Unavailable::from)?;
            rows.extend(record.map(|r| Row::Token(TokenRecord { revoked: r.revoked.or_else(|| Some(ctx.now())), ..r })));
        }
        Item::HolderKey { key } => {
            let known = ctx.store.find_agent_key(*key).await.map_err(Unavailable::from)?;
            rows.extend(known.map(|k| Row::AgentKey(AgentKey { state: KeyState::Revoked, ..k })));
        }
        Item::RootKey { key } => {
            // Before the row is there: a mint that is refused a moment too early is no harm.
            ctx.keys.kill_root(*key);
            rows.push(Row::RootKeyKilled(*key));
        }
        _ => {}
    }
    Ok(vec![written(ctx, item, Vec::new(), rows)?])
}

fn written(ctx: &Context, item: &Item, requires: Vec<Require>, mut rows: Vec<Row>) -> Result<Change, TakeBackError> {
    let bytes = item.to_bytes();
    // Remembered like an answer: of a hundred verifiers that hand it to three replicas one writes it.
    let key: [u8; 32] = Sha256::new_with_prefix(b"procura/take-back/1\0").chain_update(&bytes).finalize().into();
    rows.push(Row::Answer(Answer { key, request: key, body: "{}".to_owned(), expires: ctx.now().plus(24 * 3_600_000) }));
    let leaf = ctx.leaf(event::Revoke { item: event::Encoded(bytes), by: Actor::HandedBack, reason_hash: None, delegation: None }, ctx.now())?;
    Ok(Change { requires, rows, items: vec![item.clone()], leaves: vec![leaf] })
}

/// One at a time in a process: what the first wrote the second finds.
static TAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const AT_ONCE: usize = 256;
const MAX_STEPS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::revoke::{Target, revoke};
    use super::*;
    use crate::feed::snapshot::cut;
    use crate::store::memory::Memory;
    use procura_verifier::key_list::KeyUse;
    use std::sync::Arc;

    async fn feed(app: &App) -> Vec<SignedMessage> {
        app.ctx.feed.tail(1, 0).await.unwrap().iter().map(|m| (**m).clone()).collect()
    }

    async fn items(app: &App) -> Vec<Item> {
        let read = |m: SignedMessage| match Message::from_bytes(m.unverified_payload()).unwrap() {
            Message::Batch(b) => b.items.into_iter().map(|(_, item)| item).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        feed(app).await.into_iter().flat_map(read).collect()
    }

    /// One authority, and the same restored from a backup made before its revocations: the same keys, an empty store.
    async fn before_and_after(folder: &tempfile::TempDir) -> (App, App) {
        let before = start(Arc::new(Memory::new(crate::store::contract::tenant())), folder.path()).await.unwrap();
        let (_, bot, grant) = before.granted().await;
        let sam = before.person("sam").await;
        let tid = before.mint(bot, grant).await.unwrap().tid;
        for target in [Target::Token(tid), Target::Agent(bot), Target::Agent(bot), Target::HolderKey(key(1)), Target::Delegation(grant)] {
            revoke(&before.ctx, &sam, target, None, None).await.unwrap();
        }
        std::fs::remove_file(folder.path().join("released-checkpoint")).unwrap();
        let after = start(Arc::new(Memory::new(crate::store::contract::tenant())), folder.path()).await.unwrap();
        (before, after)
    }

    #[tokio::test]
    async fn what_a_restored_backup_lost_is_taken_in_again_once() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = before_and_after(&folder).await;
        let (lost, wanted) = (feed(&before).await, items(&before).await);
        assert_eq!(messages(&before.ctx, &lost).await, Ok(TakenBack { taken: 0, known: 5 }), "whoever has them skips them");
        let (a, b) = tokio::join!(messages(&after.ctx, &lost), messages(&after.ctx, &lost));
        assert_eq!(a.unwrap().taken + b.unwrap().taken, 5);
        let mut got = items(&after).await;
        assert!(wanted.iter().all(|item| got.contains(item)));
        got.sort_by_key(|i| i.to_bytes());
        got.dedup();
        assert_eq!(got.len(), 5);
        let by: Vec<_> = after.events().await.into_iter().filter_map(|e| if let event::Event::Revoke(r) = e { Some(r.by) } else { None }).collect();
        assert_eq!(by, [Actor::HandedBack; 5]);
    }

    #[tokio::test]
    async fn a_snapshot_brings_back_what_no_message_is_left_of() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = before_and_after(&folder).await;
        let key = before.ctx.signer.key_for(KeyUse::Feed, before.ctx.now(), before.ctx.now()).unwrap();
        assert!(cut(&*before.ctx.store, key, before.ctx.now()).await.unwrap());
        let row = before.ctx.store.snapshot().await.unwrap().unwrap();
        let manifest = crate::feed::snapshot::signed(&row, &*before.ctx.signer).unwrap();
        assert_eq!(is_wanted(&before.ctx, &manifest).await, Ok(false));
        assert_eq!(is_wanted(&after.ctx, &manifest).await, Ok(true));
        let snapshot = Snapshot::verify(&manifest, &before.ctx.keys.load()).unwrap();
        for entry in &snapshot.manifest().segments {
            let bytes = before.ctx.store.segment(entry.sha256).await.unwrap().unwrap();
            let mut flipped = bytes.clone();
            flipped[0] ^= 1;
            assert!(matches!(segment(&after.ctx, &manifest, &flipped).await, Err(TakeBackError::Segment(_))));
            assert!(segment(&after.ctx, &manifest, &bytes).await.unwrap().taken > 0);
            assert_eq!(segment(&after.ctx, &manifest, &bytes).await.unwrap().taken, 0, "a second time");
        }
        let floors = |items: Vec<Item>| items.into_iter().filter(|i| matches!(i, Item::Floor { .. } | Item::HolderKey { .. })).count();
        assert_eq!(floors(items(&after).await), 4, "a floor rises step by step, as replay wants it");
        assert_eq!(items(&after).await.len(), 5);
    }

    /// Whoever repeats what everybody can read must not stand between a verifier and the authority.
    #[tokio::test]
    async fn what_is_known_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = before_and_after(&folder).await;
        let lost = feed(&before).await;
        let key = before.ctx.signer.key_for(KeyUse::Feed, before.ctx.now(), before.ctx.now()).unwrap();
        assert!(cut(&*before.ctx.store, key, before.ctx.now()).await.unwrap());
        let manifest = crate::feed::snapshot::signed(&before.ctx.store.snapshot().await.unwrap().unwrap(), &*before.ctx.signer).unwrap();
        let writing = TAKING.lock().await;
        assert_eq!(messages(&before.ctx, &lost).await, Ok(TakenBack { taken: 0, known: 5 }));
        for entry in Snapshot::verify(&manifest, &before.ctx.keys.load()).unwrap().manifest().segments.clone() {
            let bytes = before.ctx.store.segment(entry.sha256).await.unwrap().unwrap();
            assert_eq!(segment(&before.ctx, &manifest, &bytes).await.unwrap().taken, 0);
        }
        let lacking = messages(&after.ctx, &lost);
        tokio::pin!(lacking);
        assert!(futures_util::poll!(lacking.as_mut()).is_pending());
        drop(writing);
        assert_eq!(lacking.await.unwrap().taken, 5, "one at a time for what is written");
    }

    #[tokio::test]
    async fn what_no_feed_key_signed_is_not_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = before_and_after(&folder).await;
        let lost = feed(&before).await;
        let forged = SignedMessage::sign(&Message::from_bytes(lost[0].unverified_payload()).unwrap(), &signing(77));
        assert!(matches!(messages(&after.ctx, &[forged]).await, Err(TakeBackError::Feed(FeedError::UnknownKey { .. }))));
        assert_eq!(items(&after).await, []);
        assert_eq!(messages(&after.ctx, &vec![lost[0].clone(); 257]).await, Err(TakeBackError::TooMany(257)));
        assert_eq!(messages(&after.ctx, &lost[..1]).await, Ok(TakenBack { taken: 1, known: 0 }));
    }
}
