//! The decision: a verified token, a call, a proof and what is known of revocations become an allow or one cause.
//!
//! [`decide`] is synchronous, repeatable and spends nothing. It loads the freshness of the view first, looks up,
//! does everything slow, and reads the clock last (law 7): an allow says "at the last clock reading, nothing that
//! was known up to a moment at most the freshness bound ago stood against it".

use crate::call::{Arguments, Call, Value};
use crate::claims::{Block0, Capability, Limit, Restriction};
use crate::ids::{BootTime, Clock, FreezeId, UtcMillis};
use crate::key_list::{KeyList, KeyUse};
use crate::proof::Proven;
use crate::revocation::{Frozen, Lineage, Lookup, RevocationView, RevokedBy};
use crate::token::VerifiedToken;

/// Why not. One cause each: the first in this order (law 11).
///
/// Not `non_exhaustive`: a new cause should break whoever matches on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The bytes are not of the profile.
    Malformed,
    /// A signature does not verify, or its key is not alive in its window.
    Signature,
    /// The token is of another tenant than the resource.
    Tenant,
    /// The token or proof is for another service or instance.
    Audience,
    /// No valid proof by the last holder's key.
    Holder,
    /// Taken back.
    Revoked(RevokedBy),
    /// Before its validity.
    NotYetValid,
    /// After its validity.
    Expired,
    /// No capability covers tool, action and resource.
    Scope,
    /// An argument or the class of data is beyond a limit, or missing under one.
    Limit,
    /// Needs an approval that is not there.
    Approval,
    /// A freeze is in force.
    Frozen {
        /// The freeze.
        id: FreezeId,
    },
    /// What is known of revocations is older than the bound.
    Stale,
    /// The proof was spent, or is not for this instance's challenge and window.
    Replay,
    /// A budget does not suffice.
    Budget,
    /// The Datalog engine gave up; may be tried again.
    EngineLimit,
    /// This verifier cannot decide just now.
    Unavailable,
}

impl Cause {
    /// The word in receipts, logs, vectors and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Tenant => "tenant",
            Self::Audience => "audience",
            Self::Holder => "holder",
            Self::Revoked(_) => "revoked",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Scope => "scope",
            Self::Limit => "limit",
            Self::Approval => "approval",
            Self::Frozen { .. } => "frozen",
            Self::Stale => "stale",
            Self::Replay => "replay",
            Self::Budget => "budget",
            Self::EngineLimit => "engine_limit",
            Self::Unavailable => "unavailable",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Revoked(by) => write!(f, "revoked by {} at feed seq {}", by.what.word(), by.seq),
            Self::Frozen { id } => write!(f, "frozen by {id}"),
            other => f.write_str(other.word()),
        }
    }
}

/// What is asked, and what the presenter showed of its key. One value: a proof cannot be used for another call.
#[derive(Clone, Copy)]
pub enum Asked<'a> {
    /// With a proof: the call is the one that was proven.
    Proven(&'a Proven<'a>),
    /// Without: only for a bearer token, and only where the tool takes it.
    Bearer(&'a Call<'a>),
}

impl<'a> Asked<'a> {
    /// The call that is asked for.
    pub const fn call(&self) -> &'a Call<'a> {
        match self {
            Self::Proven(proven) => proven.call(),
            Self::Bearer(call) => call,
        }
    }
}

/// What the tool itself insists on, chosen by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToolPolicy {
    /// How old knowledge of revocations may be.
    pub freshness: Freshness,
    /// Whether bearer tokens are taken.
    pub bearer: Accept,
    /// Whether tokens that the presenter could still extend are taken.
    pub unsealed: Accept,
}

/// How old knowledge of revocations may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// At most 150 ms and whatever the token shortens it to: the promise of P4.
    Strict,
    /// At most so many milliseconds. Above 150 it takes effect only as far as block 0 says so too; the promise is then this bound.
    Bounded {
        /// The bound.
        ms: u32,
    },
    /// However old, once the view was whole: no promise at all. Takes effect only where block 0 says
    /// [`Block0::BEST_EFFORT_MS`]; any other token keeps its own bound.
    BestEffort,
}

/// The mode of freshness in force for a token at a tool: the lesser of what both say (law 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// A bound of at most 150 ms: the promise of P4.
    Strict {
        /// The bound.
        ms: u32,
    },
    /// A longer bound, which is then the promise.
    Bounded {
        /// The bound.
        ms: u32,
    },
    /// None.
    BestEffort,
}

impl Mode {
    /// The mode with this bound, or with none.
    pub const fn of(bound_ms: Option<u32>) -> Self {
        match bound_ms {
            Some(ms) if ms <= STRICT_MS => Self::Strict { ms },
            Some(ms) => Self::Bounded { ms },
            None => Self::BestEffort,
        }
    }

    /// The bound in milliseconds, if there is one.
    pub const fn bound_ms(self) -> Option<u32> {
        match self {
            Self::Strict { ms } | Self::Bounded { ms } => Some(ms),
            Self::BestEffort => None,
        }
    }

    /// The word in metrics, logs and vectors.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Strict { .. } => "strict",
            Self::Bounded { .. } => "bounded",
            Self::BestEffort => "best_effort",
        }
    }
}

/// Whether something is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accept {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl ToolPolicy {
    /// Strict freshness, proofs always, sealed tokens only.
    pub const STRICT: Self = Self { freshness: Freshness::Strict, bearer: Accept::No, unsealed: Accept::No };

    /// The mode in force for a token whose block 0 says so many milliseconds (law 7).
    pub const fn mode(&self, token_ms: u32) -> Mode {
        let tool_ms = match self.freshness {
            Freshness::Strict => STRICT_MS,
            Freshness::Bounded { ms } => ms,
            Freshness::BestEffort if token_ms == Block0::BEST_EFFORT_MS => return Mode::BestEffort,
            Freshness::BestEffort => u32::MAX,
        };
        Mode::of(Some(if token_ms < tool_ms { token_ms } else { tool_ms }))
    }
}

/// The outcome of [`decide`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Decision {
    /// Go ahead, and look at the clock again right before the effect.
    Allow(Allow),
    /// Do not.
    Deny(Cause),
}

/// An allow, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allow {
    /// The last moment of this machine's boot clock at which the effect may begin.
    pub valid_until: BootTime,
    /// Up to when everything was known; none where best effort allowed without.
    pub fresh_as_of: Option<BootTime>,
    /// Authority time of the decision.
    pub utc: UtcMillis,
    /// The mode in force.
    pub mode: Mode,
}

/// Decides a call: [`decide_at`] without the time.
pub fn decide(token: &VerifiedToken, asked: Asked<'_>, policy: &ToolPolicy, view: &impl RevocationView, clock: &dyn Clock, arrived: BootTime) -> Decision {
    decide_at(token, asked, policy, view, clock, arrived).0
}

/// Decides a call, and says at what authority time: what is spent and recorded after it goes by that very time, so that
/// an auditor derives the same verdict from the record.
///
/// `arrived` is when the request came in: a generation above the known floor is `stale` until the view is fresh as of
/// then, and `malformed` after (law 6). On `stale` the caller refreshes the view once and decides again.
pub fn decide_at(
    token: &VerifiedToken,
    asked: Asked<'_>,
    policy: &ToolPolicy,
    view: &impl RevocationView,
    clock: &dyn Clock,
    arrived: BootTime,
) -> (Decision, Option<UtcMillis>) {
    let known = Known::read(token, view, arrived);
    let early = before_time(token, asked, policy, &known.keys, known.lookup);
    let magnitude = within(token, asked.call());
    let now = clock.boot();
    let utc = view.utc(now);

    // L6: everything committed before the request came in is known, and still no floor is as high: the token lies.
    let lies = known.lookup == Lookup::Behind && known.fresh_as_of.is_some_and(|f| f >= arrived);
    let verdict = if lies { Err(Cause::Malformed) } else { early };
    let decision = match verdict.and_then(|()| known.at(token, policy, view, magnitude, now, utc)) {
        Ok(allow) => Decision::Allow(allow),
        Err(cause) => Decision::Deny(cause),
    };
    (decision, utc)
}

/// Whether a token that was allowed still would be, and until when: all that can change without a new call (law 7, effects that
/// last). Keys, revocations, expiry, freezes and freshness, in the order of law 11.
pub fn standing(token: &VerifiedToken, policy: &ToolPolicy, view: &impl RevocationView, clock: &dyn Clock) -> Result<Allow, Cause> {
    let known = Known::read(token, view, clock.boot());
    if !is_vouched_for(token, &known.keys) {
        return Err(Cause::Signature);
    }
    if let Lookup::Revoked(by) = known.lookup {
        return Err(Cause::Revoked(by));
    }
    let now = clock.boot();
    known.at(token, policy, view, Ok(()), now, view.utc(now))
}

/// What a decision reads of a view before it reads the clock.
struct Known {
    fresh_as_of: Option<BootTime>,
    lookup: Lookup,
    keys: std::sync::Arc<KeyList>,
    frozen: Option<Frozen>,
}

impl Known {
    /// `about` is a moment shortly before the decision.
    fn read(token: &VerifiedToken, view: &impl RevocationView, about: BootTime) -> Self {
        let lineage = lineage(token);
        // L7: the order of these reads is the promise. Freshness first: what it vouches for is in the sets that are read next.
        let fresh_as_of = view.fresh_as_of();
        let lookup = view.lookup(&lineage);
        Self { fresh_as_of, lookup, keys: view.key_list(), frozen: view.utc(about).map(|utc| view.frozen(&lineage, utc)) }
    }

    /// The verdict at the last reading of the clock, from validity on; `magnitude` is what is to be said of scope and limits.
    fn at(
        &self,
        token: &VerifiedToken,
        policy: &ToolPolicy,
        view: &impl RevocationView,
        magnitude: Result<(), Cause>,
        now: BootTime,
        utc: Option<UtcMillis>,
    ) -> Result<Allow, Cause> {
        // L11: what needs no time is said before `stale`, though there is no time yet.
        utc.map_or(Ok(()), |utc| in_time(token, utc))?;
        magnitude?;
        let utc = utc.ok_or(Cause::Stale)?;
        // A window opened or closed since it was looked at: what counts is the time that decides.
        let frozen = self.frozen.filter(|f| utc < f.holds_until).unwrap_or_else(|| view.frozen(&lineage(token), utc));
        if let Some(id) = frozen.by {
            return Err(Cause::Frozen { id });
        }
        let mode = policy.mode(token.block0().freshness_ms);
        let fresh_until = match mode.bound_ms() {
            Some(ms) => self.fresh_as_of.ok_or(Cause::Stale)?.plus_micros(u64::from(ms) * 1000),
            // Age is what best effort forgives: not that nothing was ever known.
            None if view.was_complete() => BootTime(u64::MAX),
            None => return Err(Cause::Stale),
        };
        // A generation that the feed never reached is no matter of age: something is missing for certain.
        if self.lookup != Lookup::Live || now > fresh_until {
            return Err(Cause::Stale);
        }
        let until = |end_ms: u64| now.plus_micros(end_ms.saturating_sub(utc.0).saturating_mul(1000));
        let valid_until = fresh_until.min(until(token.expires_secs().saturating_mul(1000))).min(until(frozen.holds_until.0));
        Ok(Allow { valid_until, fresh_as_of: self.fresh_as_of, utc, mode })
    }
}

/// What revocation is looked up by.
pub fn lineage(token: &VerifiedToken) -> Lineage<'_> {
    let b = token.block0();
    Lineage {
        tids: token.tids(),
        lids: token.lids(),
        blocks: token.block_ids(),
        holders: token.holders(),
        root: token.root(),
        human: b.human,
        agents: token.agents(),
        delegation: b.delegation,
        generations: b.generations,
    }
}

/// The causes that stand before any question of time: malformed to revoked. Replay of the log asks the same function.
pub fn before_time(token: &VerifiedToken, asked: Asked<'_>, policy: &ToolPolicy, keys: &KeyList, lookup: Lookup) -> Result<(), Cause> {
    let (b, call) = (token.block0(), asked.call());
    if policy.unsealed == Accept::No && !token.is_sealed() {
        return Err(Cause::Malformed);
    }
    // L2.
    if b.expires_secs - b.not_before_secs > keys.payload().max_ttl_secs {
        return Err(Cause::Malformed);
    }
    if !is_vouched_for(token, keys) {
        return Err(Cause::Signature);
    }
    if b.tenant != *call.tenant || keys.payload().tenant != b.tenant {
        return Err(Cause::Tenant);
    }
    let service = call.audience.service();
    let listed = b.audiences.contains(service) && token.narrowings().iter().all(|r| !matches!(r, Restriction::Audiences(a) if !a.contains(service)));
    if !listed {
        return Err(Cause::Audience);
    }
    match asked {
        // L5: the last holder, this token, and by its type this call.
        Asked::Proven(proof) if proof.holder() == token.last_holder() && proof.token_hash() == token.hash() => {}
        Asked::Bearer(_) if token.is_bearer() && policy.bearer == Accept::Yes => {}
        _ => return Err(Cause::Holder),
    }
    match lookup {
        Lookup::Revoked(by) => Err(Cause::Revoked(by)),
        Lookup::Live | Lookup::Behind => Ok(()),
    }
}

/// L1, L4: inside the windows of keys that live now: the token of its root key, each card of its card key.
fn is_vouched_for(token: &VerifiedToken, keys: &KeyList) -> bool {
    let b = token.block0();
    let inside = keys
        .find(KeyUse::Root, token.root())
        .is_some_and(|k| k.from.0 <= b.not_before_secs.saturating_mul(1000) && b.expires_secs.saturating_mul(1000) <= k.until.0);
    let vouched = |(key, expires_secs): &(_, u64)| keys.find(KeyUse::Card, key).is_some_and(|k| expires_secs.saturating_mul(1000) <= k.until.0);
    inside && token.card_keys().iter().all(vouched)
}

/// Not yet valid, or expired. Dates in tokens are whole seconds.
pub const fn in_time(token: &VerifiedToken, utc: UtcMillis) -> Result<(), Cause> {
    if utc.secs() < token.block0().not_before_secs {
        Err(Cause::NotYetValid)
    } else if utc.secs() >= token.expires_secs() {
        Err(Cause::Expired)
    } else {
        Ok(())
    }
}

/// Scope, then limits: block 0's capabilities and every narrowing of them.
pub fn within(token: &VerifiedToken, call: &Call<'_>) -> Result<(), Cause> {
    let mut limit = if call.data_class > token.class_max() { Err(Cause::Limit) } else { Ok(()) };
    let blocks = token.narrowings().iter().filter_map(|r| if let Restriction::Capabilities(c) = r { Some(c) } else { None });
    for capabilities in std::iter::once(&token.block0().capabilities).chain(blocks) {
        match any_permits(capabilities, call) {
            Err(Cause::Scope) => return Err(Cause::Scope),
            Err(cause) => limit = Err(cause),
            Ok(()) => {}
        }
    }
    for restriction in token.narrowings() {
        if let Restriction::Limit(l) = restriction
            && !satisfies(l, call.args)
        {
            limit = Err(Cause::Limit);
        }
    }
    limit
}

/// L8: one capability must permit all of it; limits of different ones never cross.
fn any_permits(capabilities: &[Capability], call: &Call<'_>) -> Result<(), Cause> {
    let mut cause = Cause::Scope;
    for c in capabilities {
        if c.tool() == call.tool && c.action() == call.action && c.resource().covers(call.resource) {
            if c.limits().iter().all(|l| satisfies(l, call.args)) {
                return Ok(());
            }
            cause = Cause::Limit;
        }
    }
    Err(cause)
}

fn satisfies(limit: &Limit, args: &Arguments) -> bool {
    let number = |name, unit: &crate::claims::Unit| match args.find(name) {
        Some(Value::Int(n)) if unit.as_str().is_empty() => Some(*n),
        Some(Value::Quantity { minor, unit: u }) if u == unit => Some(*minor),
        _ => None,
    };
    match limit {
        Limit::AtMost { arg, max, unit } => number(arg, unit).is_some_and(|n| n <= *max),
        Limit::AtLeast { arg, min, unit } => number(arg, unit).is_some_and(|n| n >= *min),
        Limit::OneOf { arg, values } => matches!(args.find(arg), Some(Value::Text(t)) if values.contains(t)),
    }
}

/// The freshness bound of the promise, in milliseconds.
pub const STRICT_MS: u32 = 150;
