//! What verifiers decided, as the receipts in the log say: newest first, for whom it concerns.
//!
//! The verifier's signature was checked when a receipt came in. The token in it is verified here, under the key list in
//! force: a verifier can hide or misjudge a use, it cannot invent one (`DESIGN.md` section 9).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use procura_verifier::call::Value;
use procura_verifier::claims::{Amount, Audience, Name, Resource};
use procura_verifier::decision::Cause;
use procura_verifier::denials::SignedDenials;
use procura_verifier::ids::{AgentId, DelegationId, HumanId, Key, Lid, Tid, UtcMillis, VerifierId};
use procura_verifier::key_list::KeyList;
use procura_verifier::receipt::{Receipt, ReceiptArg, SignedReceipt};
use procura_verifier::token::UnverifiedToken;
use procura_verifier::wire::Canonical as _;

use super::{Context, Unavailable};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::log::event::Event;
use crate::log::leaf::UnverifiedLeaf;

/// The whole log.
pub const EVERYWHERE: Range<u64> = 0..u64::MAX;
/// Most records read at once.
pub const MAX_AT_ONCE: u32 = 500;

/// One record that a verifier delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its place in the log.
    pub leaf: u64,
    /// When it was taken in.
    pub at: UtcMillis,
    /// Whose word it is.
    pub verifier: VerifierId,
    /// What it says.
    pub what: What,
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// One decision on a token of this authority.
    One(Box<One>),
    /// Denials of one minute that came before token and proof were verified: how many of each cause.
    Counted(Vec<(String, u64)>),
    /// A decision on bytes that are no token under the key list in force.
    NoToken,
}

/// One decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct One {
    /// At which service and instance.
    pub audience: Audience,
    /// What the token rests on.
    pub delegation: DelegationId,
    /// The token.
    pub tid: Tid,
    /// Its expiry in seconds, links and narrowing not considered.
    pub expires_secs: u64,
    /// Whom it was minted for, then whom it was passed on to.
    pub hops: Vec<Hop>,
    /// The tool.
    pub tool: Name,
    /// The action.
    pub action: Name,
    /// The resource.
    pub resource: Resource,
    /// The arguments that checks read, as text.
    pub arguments: Vec<String>,
    /// The verdict.
    pub verdict: Result<(), Cause>,
}

/// One holder in a token's chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The link that made it the holder; none for the first.
    pub lid: Option<Lid>,
    /// Which agent; none for a key that no card names.
    pub agent: Option<AgentId>,
    /// Its key.
    pub key: Key,
}

/// What the newest receipts say of one delegation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Use {
    /// How many were allowed.
    pub allowed: u64,
    /// How many were denied.
    pub denied: u64,
    /// The newest of them.
    pub last: UtcMillis,
    /// The links that were shown, each after the one that it was passed on from.
    pub links: Vec<Passed>,
}

/// A link that a receipt has shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The links up to it: the last is its own id.
    pub path: Vec<Lid>,
    /// To whom.
    pub to: Hop,
    /// How often tokens with it were presented.
    pub uses: u64,
    /// The newest of these.
    pub last: UtcMillis,
    /// The receipt that shows it.
    pub leaf: u64,
    /// True if the newest of them was denied as revoked.
    pub is_revoked: bool,
}

/// Why nothing is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecisionsError {
    /// Neither a person nor the operator.
    #[error("decisions are shown to people")]
    Forbidden,
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The newest records within these places of the log, at most [`MAX_AT_ONCE`]: of the asker's own authority; of everybody's
/// for the roles auditor and security.
pub async fn decisions(ctx: &Context, by: &Principal, places: Range<u64>, limit: u32) -> Result<Vec<Decision>, DecisionsError> {
    let of = concern(by)?;
    let mut read = read(ctx, of, places, limit.min(MAX_AT_ONCE)).await?;
    // Of a stranger's making: it names a delegation and proves nothing about it.
    read.retain(|d| of.is_none() || matches!(d.what, What::One(_)));
    Ok(read)
}

/// What the newest [`MAX_AT_ONCE`] records say of each delegation; true if there are older ones.
pub async fn uses(ctx: &Context, by: &Principal) -> Result<(HashMap<DelegationId, Use>, bool), DecisionsError> {
    let read = read(ctx, concern(by)?, EVERYWHERE, MAX_AT_ONCE).await?;
    let more = read.len() >= MAX_AT_ONCE as usize;
    let mut uses: HashMap<DelegationId, Use> = HashMap::new();
    let mut links: HashMap<DelegationId, BTreeMap<Vec<Lid>, Passed>> = HashMap::new();
    for d in read {
        let What::One(one) = d.what else { continue };
        let use_ = uses.entry(one.delegation).or_default();
        use_.last = use_.last.max(d.at);
        if one.verdict.is_ok() {
            use_.allowed += 1
        } else {
            use_.denied += 1
        }
        let mut path = Vec::new();
        for hop in &one.hops {
            let Some(lid) = hop.lid else { continue };
            path.push(lid);
            let passed = links.entry(one.delegation).or_default().entry(path.clone());
            let passed = passed.or_insert_with(|| Passed {
                path: path.clone(),
                to: hop.clone(),
                uses: 0,
                last: d.at,
                leaf: d.leaf,
                is_revoked: matches!(one.verdict, Err(Cause::Revoked(_))),
            });
            passed.uses += 1;
        }
    }
    for (delegation, links) in links {
        uses.entry(delegation).or_default().links = links.into_values().collect();
    }
    Ok((uses, more))
}

/// The link that the receipt at this place shows: the delegation, and when no token with it lives any more, in seconds.
pub(super) async fn shown(ctx: &Context, leaf: u64, lid: Lid) -> Result<Option<(DelegationId, u64)>, Unavailable> {
    let found = read(ctx, None, leaf..leaf.saturating_add(1), 1).await?.pop();
    Ok(found.and_then(|d| match d.what {
        What::One(one) if one.hops.iter().any(|h| h.lid == Some(lid)) => Some((one.delegation, one.expires_secs)),
        _ => None,
    }))
}

/// Whose receipts: one person's, or all.
fn concern(by: &Principal) -> Result<Option<HumanId>, DecisionsError> {
    if by.has(Role::Auditor) || by.has(Role::Security) {
        return Ok(None);
    }
    by.human().map(Some).ok_or(DecisionsError::Forbidden)
}

async fn read(ctx: &Context, of: Option<HumanId>, places: Range<u64>, limit: u32) -> Result<Vec<Decision>, Unavailable> {
    // Only what a released checkpoint covers.
    let size = ctx.writer.checkpoint().tree.size;
    let rows = ctx.store.receipts(of, places.start..places.end.min(size).max(places.start), limit).await?;
    let keys = ctx.keys.load();
    // Some signatures a token: off the threads that serve.
    let opened = tokio::task::spawn_blocking(move || {
        let mut tokens = HashMap::new();
        rows.into_iter().map(|(leaf, bytes)| open(leaf, &bytes, &keys, &mut tokens)).collect::<Result<Vec<_>, _>>()
    });
    opened.await.map_err(|e| Unavailable::Store(e.to_string()))?
}

/// What a verified token says of itself.
#[derive(Clone)]
struct Chain {
    delegation: DelegationId,
    tid: Tid,
    expires_secs: u64,
    hops: Vec<Hop>,
}

fn open(leaf: u64, bytes: &[u8], keys: &KeyList, tokens: &mut HashMap<Vec<u8>, Option<Chain>>) -> Result<Decision, Unavailable> {
    let wrong = |e: &dyn std::fmt::Display| Unavailable::Store(format!("leaf {leaf}: {e}"));
    let parsed = UnverifiedLeaf::parse(bytes).map_err(|e| wrong(&e))?;
    let at = parsed.unverified_at();
    let (verifier, what) = match parsed.unverified_event() {
        Event::Receipt(e) => {
            let receipt = SignedReceipt::from_bytes(&e.receipt.0).and_then(|r| r.claimed()).map_err(|e| wrong(&e))?;
            let chain = tokens.entry(receipt.token.clone()).or_insert_with(|| chain(&receipt.token, keys)).clone();
            (e.verifier, chain.map_or(What::NoToken, |chain| What::One(Box::new(one(receipt, chain)))))
        }
        Event::Denials(e) => {
            let denials = SignedDenials::from_bytes(&e.denials.0).and_then(|d| d.claimed()).map_err(|e| wrong(&e))?;
            (e.verifier, What::Counted(denials.counts))
        }
        other => return Err(wrong(&format!("expected a receipt, got {}", other.kind()))),
    };
    Ok(Decision { leaf, at, verifier, what })
}

fn chain(token: &[u8], keys: &KeyList) -> Option<Chain> {
    let unverified = UnverifiedToken::parse(token).ok()?;
    let verified = unverified.verify(keys).ok()?;
    let block0 = verified.block0();
    let first = Hop { lid: None, agent: Some(block0.agent), key: block0.holder };
    // Their signatures and cards hold: the token was verified whole.
    let passed = unverified.claimed_links().map(|l| Hop { lid: Some(l.lid), agent: l.card.as_ref().map(|c| c.claimed().agent), key: l.holder });
    let hops = std::iter::once(first).chain(passed).collect();
    Some(Chain { delegation: block0.delegation, tid: block0.tid, expires_secs: block0.expires_secs, hops })
}

fn one(receipt: Receipt, chain: Chain) -> One {
    let argument = |(name, arg): &(Name, ReceiptArg)| match arg {
        ReceiptArg::Disclosed { value, .. } => Some(format!("{name} {}", text(value))),
        ReceiptArg::Hidden(_) => None,
    };
    One {
        audience: receipt.audience,
        delegation: chain.delegation,
        tid: chain.tid,
        expires_secs: chain.expires_secs,
        hops: chain.hops,
        tool: receipt.tool,
        action: receipt.action,
        resource: receipt.resource,
        arguments: receipt.args.iter().filter_map(argument).collect(),
        verdict: receipt.verdict,
    }
}

/// A value as people read it; long ones are cut.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Quantity { minor, unit } => Amount(*minor, unit).to_string(),
        Value::Text(t) if t.chars().count() > MAX_TEXT => format!("\u{201c}{}\u{2026}\u{201d}", t.chars().take(MAX_TEXT).collect::<String>()),
        Value::Text(t) => format!("\u{201c}{t}\u{201d}"),
        Value::List(l) => format!("a list of {}", l.len()),
        Value::Map(m) => format!("a map of {}", m.len()),
    }
}

const MAX_TEXT: usize = 60;

#[cfg(test)]
mod tests;
