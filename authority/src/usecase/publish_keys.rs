//! The next key list: checked against the anchors and against what it would break, committed with its leaf, in force at once.

use std::sync::Arc;
use std::time::Duration;

use procura_verifier::ids::{Key, UtcMillis};
use procura_verifier::key_list::{KeyListError, KeyUse, ListedKey, UnverifiedKeyList};
use procura_verifier::wire::Canonical as _;

use super::parts::Rests as _;
use super::{Context, SignedOut, Unavailable, standing};
use crate::domain::human::Role;
use crate::domain::principal::Principal;
use crate::keys::change::{Problem, problems};
use crate::log::event::{Digest, Encoded, KeyListRecorded};
use crate::log::leaf::LeafError;
use crate::signer::file::KeyFileError;
use crate::store::{Change, Refused, Row};
use crate::writer::WriteError;

/// A key list in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// Its version.
    pub version: u64,
    /// SHA-256 of the signed list: heartbeats carry it.
    pub hash: [u8; 32],
    /// Where the log says so; none if it was in force before this was asked.
    pub leaf: Option<u64>,
}

/// Why the list in force stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Only the role admin publishes.
    #[error("only the role admin publishes key lists")]
    Forbidden,
    /// The anchors did not sign it, or not for this tenant.
    #[error(transparent)]
    KeyList(#[from] KeyListError),
    /// Old, or prepared from an older list.
    #[error("key list has version {got}, expected {expected}: prepare it again from the list in force")]
    Version {
        /// Its version.
        got: u64,
        /// The next one.
        expected: u64,
    },
    /// It would break something that was not named.
    #[error("{}", sentences(.0))]
    Problems(Vec<Problem>),
    /// The key folder cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// Killed since they signed in.
    #[error(transparent)]
    SignedOut(#[from] SignedOut),
    /// Try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

fn sentences(problems: &[Problem]) -> String {
    let one = |p: &Problem| format!("{} ({})", p.sentence, if p.can_be_forced { format!("--force {}", p.name) } else { "cannot be forced".to_owned() });
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Publishes a list. The same list again answers that it is in force: whoever lost the first answer may ask twice.
///
/// `forced` names the problems that are meant.
pub async fn publish(ctx: &Context, by: &Principal, signed: &UnverifiedKeyList, forced: &[String]) -> Result<Published, PublishError> {
    if !by.has(Role::Admin) {
        return Err(PublishError::Forbidden);
    }
    let now = ctx.now();
    ctx.keys.refresh(&*ctx.store, now).await.map_err(|e| Unavailable::Store(e.to_string()))?;
    let next = ctx.keys.anchors().accept(signed, &ctx.tenant)?;
    let held = ctx.keys.load();
    // One list of more signatures than another is the same list.
    if ctx.keys.signed().fingerprint() == signed.fingerprint() {
        return Ok(Published { version: held.payload().version, hash: *held.hash(), leaf: None });
    }
    let (got, expected) = (next.payload().version, held.payload().version + 1);
    if got != expected {
        return Err(PublishError::Version { got, expected });
    }
    ctx.signer.reload()?;
    let found = problems(held.payload(), next.payload(), now, |usage, key| ctx.signer.holds(usage, key) && !ctx.keys.is_killed(usage, key));
    let unnamed: Vec<_> = found.into_iter().filter(|p| !p.can_be_forced || !forced.contains(&p.name)).collect();
    if !unnamed.is_empty() {
        return Err(PublishError::Problems(unnamed));
    }
    let bytes = signed.to_bytes();
    let leaf = KeyListRecorded { version: got, hash: Digest(*next.hash()), key_list: Encoded(bytes.clone()) };
    let leaf = ctx.signer.key_list_leaf(&next, &leaf.into(), &ctx.tenant, now).map_err(|e: LeafError| Unavailable::Store(e.to_string()))?;
    let change = Change { requires: standing(by), rows: vec![Row::KeyList(got, bytes)], leaves: vec![leaf.into_bytes()], ..Change::default() };
    match ctx.writer.submit(change).await {
        Ok(written) => Ok(Published { version: got, hash: *next.hash(), leaf: Some(written.placed.leaves.start) }),
        Err(WriteError::Refused(Refused::Killed(_))) => Err(SignedOut.into()),
        Err(WriteError::Refused(Refused::KeyListMoved(expected))) => Err(PublishError::Version { got, expected }),
        Err(e) => Err(Unavailable::from_write(e).into()),
    }
}

/// One key, as people see it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Shown {
    /// What it signs.
    pub usage: KeyUse,
    /// The public key.
    pub key: Key,
    /// First moment of its window.
    pub from_ms: UtcMillis,
    /// Last moment.
    pub until_ms: UtcMillis,
    /// `dead`, `revoked` (a root key, by `procura revoke key`), `ended`, `alive` or `later`.
    pub state: &'static str,
    /// True if this authority can sign with it.
    pub at_hand: bool,
}

/// The keys of the list in force.
pub fn shown(ctx: &Context) -> Vec<Shown> {
    let (list, now) = (ctx.keys.load(), ctx.now());
    let state = |k: &ListedKey| match (list.is_dead(&k.key), now < k.from, k.until < now) {
        (true, ..) => "dead",
        _ if ctx.keys.is_killed(k.usage, &k.key) => "revoked",
        (_, true, _) => "later",
        (_, _, true) => "ended",
        _ => "alive",
    };
    let keys = list.payload().keys.iter();
    let show =
        |k: &ListedKey| Shown { usage: k.usage, key: k.key, from_ms: k.from, until_ms: k.until, state: state(k), at_hand: ctx.signer.holds(k.usage, &k.key) };
    keys.map(show).collect()
}

/// What people should mend before it stops work: a use whose last key ends within 30 days, or has none that can sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warnings {
    /// Each is one sentence.
    pub sentences: Vec<String>,
    /// True if feed, event or log key is missing at this moment: nothing can be taken back.
    pub cannot_take_back: bool,
    /// True if one of them is missing or ends within a week: then everything ends.
    pub urgent: bool,
}

impl Context {
    /// Until when there are keys, without a gap from now on, that log a revocation and tell it to verifiers. Nothing is minted
    /// that lives longer.
    pub fn takes_back_until(&self, now: UtcMillis) -> UtcMillis {
        let until = |usage| self.signs_until(usage, now).unwrap_or_default();
        [KeyUse::Event, KeyUse::Feed, KeyUse::Log].into_iter().map(until).min().unwrap_or_default()
    }

    /// True if a root key of the list in force was revoked by its public key.
    pub(super) fn a_root_key_was_killed(&self) -> bool {
        self.keys.load().of(KeyUse::Root).any(|k| self.keys.is_killed(KeyUse::Root, &k.key))
    }

    /// What to mend about keys.
    pub fn key_warnings(&self) -> Warnings {
        let now = self.now();
        let mut warnings = Warnings { sentences: Vec::new(), cannot_take_back: false, urgent: false };
        for usage in KeyUse::ALL {
            let until = self.signs_until(usage, now);
            warnings.cannot_take_back |= usage.takes_back() && until.is_none();
            warnings.urgent |= usage.takes_back() && until.is_none_or(|until| until < now.plus(URGENT_MS));
            warnings.sentences.extend(self.key_warning(usage, now));
        }
        warnings
    }

    /// What to mend about the keys of one use.
    pub(super) fn key_warning(&self, usage: KeyUse, now: UtcMillis) -> Option<String> {
        let name = usage.name();
        match self.signs_until(usage, now) {
            None if usage == KeyUse::Root && self.a_root_key_was_killed() => Some(
                "the root key was revoked and nothing is minted: publish a key list with a new root key (`procura keys prepare --rotate root …`)".to_owned(),
            ),
            None => Some(format!("no {name} key at hand is alive: publish a key list with a new one")),
            Some(until) if until < now.plus(WARN_MS) => {
                Some(format!("the last {name} key ends at {until}: publish a key list with a new one; {}", usage.without_it()))
            }
            Some(_) => None,
        }
    }

    /// Until when, without a gap from now on, there is a key of this use at hand.
    pub(super) fn signs_until(&self, usage: KeyUse, now: UtcMillis) -> Option<UtcMillis> {
        self.keys.until(usage, now, |key| self.signer.holds(usage, key))
    }
}

/// Says the warnings in the process's log, now and every hour, for as long as the context lives.
pub(super) fn keep_warning(ctx: &Arc<Context>) {
    let ctx = Arc::downgrade(ctx);
    tokio::spawn(async move {
        let mut hourly = tokio::time::interval(Duration::from_secs(3600));
        loop {
            hourly.tick().await;
            let Some(ctx) = ctx.upgrade() else { break };
            let warnings = ctx.key_warnings();
            for warning in &warnings.sentences {
                if warnings.urgent { tracing::error!(%warning, "keys.ending") } else { tracing::warn!(%warning, "keys.ending") }
            }
        }
    });
}

const WARN_MS: u64 = 30 * 24 * 3_600_000;
const URGENT_MS: u64 = 7 * 24 * 3_600_000;

#[cfg(test)]
mod tests;
