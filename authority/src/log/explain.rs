//! One decision as a person reads it: from the human who granted, over every hand, to what the tool judged.
//!
//! Explains what a bundle says; whether it follows is for [`super::replay`], which goes first.

use procura_verifier::claims::{HumanRef, Restriction};
use procura_verifier::decision::Cause;
use procura_verifier::feed::message::{FloorScope, Item};
use procura_verifier::ids::{HumanId, UtcMillis};
use procura_verifier::receipt::{Receipt, ReceiptArg, SignedReceipt};
use procura_verifier::revocation::RevokedWhat;
use procura_verifier::token::{Step as Block, UnverifiedToken};
use procura_verifier::wire::Canonical as _;
use serde::Serialize;

use super::bundle::Bundle;
use super::event::{self, Event};
use super::leaf::OpenedLeaf;

/// Which decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// By its id: the SHA-256 of the receipt's payload.
    Id([u8; 32]),
    /// By the leaf that holds its receipt.
    Leaf(u64),
}

impl std::str::FromStr for Which {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut id = [0; 32];
        match (hex::decode_to_slice(text, &mut id), text.parse()) {
            (Ok(()), _) => Ok(Self::Id(id)),
            (_, Ok(leaf)) => Ok(Self::Leaf(leaf)),
            _ => Err(format!("expected a decision's id of 64 hex digits, or the number of its leaf, got `{text}`")),
        }
    }
}

/// A decision and how it came about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// Its id, in hex.
    pub decision: String,
    /// The leaf with its receipt.
    pub leaf: u64,
    /// True if it allowed.
    pub allowed: bool,
    /// Why not.
    pub cause: Option<String>,
    /// From the human to the tool, in order.
    pub steps: Vec<Step>,
}

/// One step of the chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Step {
    /// The leaf that says so; none for what the token itself says.
    pub leaf: Option<u64>,
    /// When, by the authority's clock.
    pub at: Option<UtcMillis>,
    /// Who did what, in one sentence.
    pub sentence: String,
}

/// The explanation of a decision in a bundle; none if it holds no receipt of that name.
pub fn explain(bundle: &Bundle, which: Which) -> Option<Explanation> {
    let receipts = (0..).zip(bundle.leaves()).filter_map(|(n, l)| if let Event::Receipt(e) = &l.event { Some((n, l, e)) } else { None });
    let found = receipts.filter_map(|(n, l, e)| SignedReceipt::from_bytes(&e.receipt.0).ok().map(|r| (n, l, r)));
    let (leaf, recorded, signed) = found.into_iter().find(|(n, _, r)| match which {
        Which::Id(id) => r.id() == id,
        Which::Leaf(leaf) => *n == leaf,
    })?;
    let receipt = signed.claimed().ok()?;
    let token = UnverifiedToken::parse(&receipt.token).ok()?;
    let mut steps = granted(bundle, &token, leaf);
    steps.extend(carried(&token));
    steps.push(called(&receipt, &token));
    steps.extend(taken_back(bundle, &receipt, &token, leaf));
    steps.push(Step { leaf: Some(leaf), at: Some(recorded.at), sentence: judged(&receipt) });
    Some(Explanation { decision: hex::encode(signed.id()), leaf, allowed: receipt.verdict.is_ok(), cause: receipt.verdict.err().map(|c| c.to_string()), steps })
}

/// What the log says of the human, the grant and the mint.
fn granted(bundle: &Bundle, token: &UnverifiedToken, before: u64) -> Vec<Step> {
    let b = token.claimed();
    let mut steps = Vec::new();
    let issued = find(bundle, before, |e| matches!(e, Event::Issue(i) if i.tid == b.tid));
    let until = issued.map_or(before, |(n, _)| n);
    let grant = find(bundle, until, |e| matches!(e, Event::Delegation(d) if d.delegation == b.delegation));
    if let Some((n, OpenedLeaf { event: Event::Delegation(d), at, .. })) = grant {
        if let Some((n, OpenedLeaf { event: Event::SignIn(e), at, .. })) = find(bundle, n, |e| matches!(e, Event::SignIn(s) if s.human == d.human)) {
            steps.push(Step { leaf: Some(n), at: Some(*at), sentence: format!("{} signed in{}", e.human, how(e)) });
        }
        if let Some((n, OpenedLeaf { event: Event::Agent(e), at, .. })) = find(bundle, until, |e| matches!(e, Event::Agent(a) if a.agent == d.agent)) {
            steps.push(Step { leaf: Some(n), at: Some(*at), sentence: format!("{} answers for {}, which showed its key {}", e.owner, e.agent, e.key) });
        }
        if let Some((n, OpenedLeaf { event: Event::AgentKey(e), at, .. })) = find(bundle, until, |e| matches!(e, Event::AgentKey(k) if k.key == b.holder)) {
            steps.push(Step { leaf: Some(n), at: Some(*at), sentence: format!("{} followed with key {}", e.agent, e.key) });
        }
        steps.push(Step { leaf: Some(n), at: Some(*at), sentence: grant_sentence(d) });
    }
    if let Some((n, OpenedLeaf { event: Event::Issue(e), at, .. })) = issued {
        let sentence = format!("{} minted {} for its key {}, valid until {}", e.agent, e.tid, e.holder, e.expires);
        steps.push(Step { leaf: Some(n), at: Some(*at), sentence });
    }
    steps
}

fn how(e: &event::SignIn) -> String {
    if e.amr.is_empty() { String::new() } else { format!(", by {}", e.amr.join(" and ")) }
}

fn grant_sentence(d: &event::Delegation) -> String {
    let may: Vec<_> = d.capabilities.iter().map(ToString::to_string).collect();
    let at: Vec<_> = d.audiences.iter().map(ToString::to_string).collect();
    let version = if d.version == 1 { String::new() } else { format!(" (version {})", d.version) };
    format!("{} granted {}{version} to {}: {}; at {}, until {}", d.human, d.delegation, d.agent, may.join("; or "), at.join(", "), d.not_after)
}

/// What the token says of the hands it went through.
fn carried(token: &UnverifiedToken) -> Vec<Step> {
    let said = |sentence| Step { leaf: None, at: None, sentence };
    let mut holder = token.claimed().agent.to_string();
    let mut steps = Vec::new();
    for block in token.claimed_steps() {
        match block {
            Block::Narrow(all) => steps.push(said(format!("{holder} narrowed it: {}", only(all)))),
            Block::Link(link) => {
                let next = link.card.as_ref().map_or_else(|| format!("the bare key {}", link.holder), |c| c.claimed().agent.to_string());
                let narrowed = if link.restrictions.is_empty() { String::new() } else { format!(", narrowed: {}", only(&link.restrictions)) };
                steps.push(said(format!("{holder} passed it on ({}) to {next} with key {}{narrowed}", link.lid, link.holder)));
                holder = next;
            }
        }
    }
    steps
}

fn only(all: &[Restriction]) -> String {
    all.iter().map(restriction).collect::<Vec<_>>().join(", ")
}

/// A restriction in words.
pub fn restriction(r: &Restriction) -> String {
    let or = |items: Vec<String>| items.join(" or ");
    match r {
        Restriction::Until(secs) => format!("until {}", UtcMillis(secs.saturating_mul(1000))),
        Restriction::Audiences(a) => format!("at {}", or(a.iter().map(ToString::to_string).collect())),
        Restriction::ClassMax(class) => format!("data up to {class:?}"),
        // As a narrowing it takes the limits of before along: none of its own is not none at all.
        Restriction::Capabilities(c) => or(c
            .iter()
            .map(|c| match c.limits() {
                [] => format!("{}:{} on {}, within the limits of before", c.tool(), c.action(), c.resource()),
                _ => c.to_string(),
            })
            .collect()),
        Restriction::Limit(l) => l.to_string(),
    }
}

fn called(receipt: &Receipt, token: &UnverifiedToken) -> Step {
    let mut shown = Vec::new();
    for (name, arg) in &receipt.args {
        if let ReceiptArg::Disclosed { value, .. } = arg {
            shown.push(format!("{name} {value}"));
        }
    }
    let hidden = receipt.args.len() - shown.len();
    if hidden > 0 {
        shown.push(format!("{hidden} arguments not disclosed"));
    }
    let with = if shown.is_empty() { "without arguments".to_owned() } else { format!("with {}", shown.join(", ")) };
    let what = format!("{} on {} {with}", receipt.action, receipt.resource);
    let sentence = match &receipt.proof {
        Some(proof) => format!("key {} signed a call to {} of {}: {what}, at {}", token.claimed_holder(), receipt.tool, receipt.audience, proof.time),
        None => format!("somebody called {} of {} as bearer: {what}", receipt.tool, receipt.audience),
    };
    Step { leaf: None, at: None, sentence }
}

/// The leaf of the revocation that a denial names.
fn taken_back(bundle: &Bundle, receipt: &Receipt, token: &UnverifiedToken, before: u64) -> Option<Step> {
    let Err(Cause::Revoked(by)) = receipt.verdict else { return None };
    let b = token.claimed();
    let concerns = |item: &Item| match (by.what, item) {
        (RevokedWhat::Tid, Item::Tid { tid, .. }) => *tid == b.tid,
        (RevokedWhat::Ancestor, Item::Tid { tid, .. }) => b.ancestors.contains(tid),
        (RevokedWhat::Lid, Item::Lid { lid, .. }) => token.claimed_links().any(|l| l.lid == *lid),
        (RevokedWhat::HolderKey, Item::HolderKey { key }) => *key == b.holder || token.claimed_links().any(|l| l.holder == *key),
        (RevokedWhat::RootKey, Item::RootKey { .. }) | (RevokedWhat::Block, Item::Block { .. }) => true,
        (RevokedWhat::GlobalFloor, Item::Floor { scope: FloorScope::Global, .. }) => true,
        (RevokedWhat::TenantFloor, Item::Floor { scope: FloorScope::Tenant, .. }) => true,
        (RevokedWhat::HumanFloor, Item::Floor { scope: FloorScope::Human(id), .. }) => is(&b.human, *id, receipt),
        (RevokedWhat::AgentFloor, Item::Floor { scope: FloorScope::Agent(id), .. }) => {
            *id == b.agent || token.claimed_links().any(|l| l.card.as_ref().is_some_and(|c| c.claimed().agent == *id))
        }
        (RevokedWhat::DelegationFloor, Item::Floor { scope: FloorScope::Delegation(id), .. }) => *id == b.delegation,
        _ => false,
    };
    let revoked = |e: &Event| matches!(e, Event::Revoke(r) if Item::from_bytes(&r.item.0).is_ok_and(|i| concerns(&i)));
    let (n, leaf) = find(bundle, before, revoked)?;
    let Event::Revoke(e) = &leaf.event else { return None };
    Some(Step { leaf: Some(n), at: Some(leaf.at), sentence: format!("{} took it back by its {} (feed number {})", e.by, by.what.word(), by.seq) })
}

fn is(human: &HumanRef, id: HumanId, receipt: &Receipt) -> bool {
    *human == HumanRef::Id(id) || *human == HumanRef::pairwise(id, receipt.audience.service())
}

fn judged(receipt: &Receipt) -> String {
    let knew = match &receipt.relied {
        None => "knowing nothing of revocations".to_owned(),
        Some(r) => {
            let age = receipt.time.0.saturating_sub(r.utc.0);
            format!("knowing all revocations up to number {} of epoch {} as of {age} ms before", r.seq, r.epoch)
        }
    };
    match receipt.verdict {
        Ok(()) => format!("{} ({}) allowed it at {}, {knew}", receipt.audience, receipt.verifier, receipt.time),
        Err(cause) => format!("{} ({}) denied it at {}, {knew}: {cause}", receipt.audience, receipt.verifier, receipt.time),
    }
}

/// The last leaf before a place with such an event.
fn find(bundle: &Bundle, before: u64, is: impl Fn(&Event) -> bool) -> Option<(u64, &OpenedLeaf)> {
    let before = usize::try_from(before).ok()?;
    let leaves = bundle.leaves().get(..before)?;
    let (n, leaf) = leaves.iter().enumerate().rev().find(|(_, l)| is(&l.event))?;
    Some((n as u64, leaf))
}
