//! Random tokens and calls from a seed: small words, so that they meet often; about half of the calls are allowed.

use procura_verifier::call::{Arguments, Value};
use procura_verifier::card::AgentCard;
use procura_verifier::claims::{Audience, Block0, Capability, DataClass, Hops, Limit, Name, Pattern, Resource, Restriction};
use procura_verifier::ids::{Lid, Tenant, Tid, UtcMillis};
use procura_verifier::vocabulary::LinkClaims;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::fixtures::{AGENT, CARD, Held, NOW_SECS, block0, card, key, public};

/// The source of randomness for a seed.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// A random token with what went into it.
pub struct Token {
    /// The token, unsealed.
    pub held: Held,
    /// Block 0.
    pub block0: Block0,
    /// What later blocks narrow, in order.
    pub restrictions: Vec<Restriction>,
    /// The links, in order.
    pub links: Vec<LinkClaims>,
    /// The holders, by number.
    pub holders: Vec<u8>,
}

/// An owned call with its time.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When.
    pub now: UtcMillis,
    /// The tenant of the resource.
    pub tenant: Tenant,
    /// Service and instance.
    pub audience: Audience,
    /// The tool.
    pub tool: Name,
    /// The action.
    pub action: Name,
    /// The resource.
    pub resource: Resource,
    /// The arguments.
    pub args: Arguments,
    /// The class of data.
    pub data_class: DataClass,
    /// Whether the last holder signs; else the one before it, or a stranger.
    pub signed_by_last: bool,
}

impl Asked {
    /// The call.
    pub fn call(&self) -> procura_verifier::call::Call<'_> {
        procura_verifier::call::Call {
            tenant: &self.tenant,
            audience: &self.audience,
            tool: &self.tool,
            action: &self.action,
            resource: &self.resource,
            args: &self.args,
            data_class: self.data_class,
        }
    }
}

const TOOLS: [&str; 2] = ["payments", "ledger"];
const ACTIONS: [&str; 2] = ["transfer", "read"];
const SERVICES: [&str; 3] = ["payments", "ledger", "service"];
const SEGMENTS: [&str; 4] = ["acct", "eu", "us", "7"];
const UNITS: [&str; 3] = ["", "EUR", "USD"];
const TEXTS: [&str; 5] = ["refund", "wage", "a\"b\\c", "caf\u{e9}", ""];
const CLASSES: [DataClass; 4] = [DataClass::Public, DataClass::Internal, DataClass::Confidential, DataClass::Restricted];

/// A token: 1 to 4 capabilities with up to 3 limits each, up to 3 later blocks.
pub fn token(r: &mut StdRng) -> Token {
    let mut capabilities: Vec<_> = (0..r.random_range(1..=4)).map(|_| capability(r)).collect();
    capabilities.sort();
    capabilities.dedup();
    let block = Block0 {
        tid: Tid::from_bytes(r.random()),
        ancestors: (0..r.random_range(0..3)).map(|_| Tid::from_bytes(r.random())).collect(),
        audiences: services(r),
        capabilities,
        class_max: *CLASSES[1..].choose(r).unwrap(),
        not_before_secs: NOW_SECS - r.random_range(0..600),
        expires_secs: NOW_SECS + r.random_range(60..3_600),
        depth: 3,
        hops: if r.random() { Hops::Any } else { Hops::Registered },
        ..block0()
    };
    let mut token = Token { held: Held::mint(&block), block0: block, restrictions: vec![], links: vec![], holders: vec![AGENT] };
    for _ in 0..r.random_range(0..=3) {
        if r.random_bool(0.5) {
            let restrictions: Vec<_> = (0..r.random_range(1..=2)).map(|_| restriction(r, &token.block0)).collect();
            token.held = token.held.narrow(&restrictions);
            token.restrictions.extend(restrictions);
        } else {
            token = link(r, token);
        }
    }
    token
}

fn link(r: &mut StdRng, mut token: Token) -> Token {
    let from = *token.holders.last().unwrap();
    let to = from + 1;
    let carded = token.block0.hops == Hops::Registered || r.random();
    let card = AgentCard { expires_secs: NOW_SECS + r.random_range(30..3_600), ..card(to) };
    let link = LinkClaims {
        lid: Lid::from_bytes(r.random()),
        holder: public(to),
        depth: token.block0.depth - 1 - u8::try_from(token.links.len()).unwrap(),
        card: carded.then(|| card.sign(&key(CARD))),
        restrictions: (0..r.random_range(0..=1)).map(|_| restriction(r, &token.block0)).collect(),
    };
    token.held = token.held.link(&link, from);
    token.restrictions.extend(link.restrictions.iter().cloned());
    token.links.push(link);
    token.holders.push(to);
    token
}

/// A restriction, mostly one that leaves something over.
pub fn restriction(r: &mut StdRng, block: &Block0) -> Restriction {
    match r.random_range(0..6) {
        0 => Restriction::Until(NOW_SECS + r.random_range(30..1_000)),
        1 => {
            let mut all: Vec<Name> = block.audiences.iter().cloned().chain(services(r)).collect();
            all.sort();
            all.dedup();
            Restriction::Audiences(all)
        }
        2 => Restriction::ClassMax(*CLASSES[1..].choose(r).unwrap()),
        3 => Restriction::Limit(limit(r)),
        _ => {
            let mut all: Vec<Capability> = (0..r.random_range(1..=2)).map(|_| block.capabilities.choose(r).unwrap().clone()).collect();
            if r.random_bool(0.3) {
                all.push(capability(r));
            }
            all.sort();
            all.dedup();
            Restriction::Capabilities(all)
        }
    }
}

fn services(r: &mut StdRng) -> Vec<Name> {
    let mut all: Vec<Name> = (0..r.random_range(1..=2)).map(|_| SERVICES.choose(r).unwrap().parse().unwrap()).collect();
    all.push("payments".parse().unwrap());
    all.sort();
    all.dedup();
    all
}

fn capability(r: &mut StdRng) -> Capability {
    let mut resource = path(r).to_string();
    if r.random_bool(0.7) {
        resource += "/*";
    }
    let mut limits: Vec<Limit> = (0..r.random_range(0..=3)).map(|_| limit(r)).collect();
    // One of a kind for each argument.
    limits.sort();
    limits.dedup_by(|a, b| a.arg() == b.arg() && std::mem::discriminant(a) == std::mem::discriminant(b));
    Capability::new(TOOLS.choose(r).unwrap().parse().unwrap(), ACTIONS.choose(r).unwrap().parse().unwrap(), resource.parse().unwrap(), limits).unwrap()
}

fn path(r: &mut StdRng) -> Resource {
    let segments: Vec<_> = std::iter::once("acct").chain((0..r.random_range(0..3)).map(|_| *SEGMENTS.choose(r).unwrap())).collect();
    segments.join("/").parse().unwrap()
}

fn limit(r: &mut StdRng) -> Limit {
    let unit = UNITS.choose(r).unwrap().parse().unwrap();
    match r.random_range(0..3) {
        0 => Limit::AtMost { arg: "amount".parse().unwrap(), max: bound(r, 20), unit },
        1 => Limit::AtLeast { arg: "amount".parse().unwrap(), min: bound(r, -20), unit },
        _ => {
            let mut values: Vec<String> = (0..r.random_range(1..=3)).map(|_| (*TEXTS.choose(r).unwrap()).to_owned()).collect();
            values.sort();
            values.dedup();
            Limit::OneOf { arg: "kind".parse().unwrap(), values }
        }
    }
}

/// Small numbers around `near`, and now and then the ends of the range.
fn bound(r: &mut StdRng, near: i64) -> i64 {
    match r.random_range(0..20) {
        0 => i64::MAX,
        1 => i64::MIN,
        _ => near + r.random_range(-15..=15),
    }
}

/// A call made to suit the token, then spoiled in one or two places about every second time.
pub fn asked(r: &mut StdRng, token: &Token) -> Asked {
    let narrowed = token.restrictions.iter().filter_map(|x| if let Restriction::Capabilities(c) = x { Some(c) } else { None }).next_back();
    let capability = narrowed.unwrap_or(&token.block0.capabilities).choose(r).unwrap();
    let resource = match capability.resource() {
        Pattern::Exact(exact) => exact.clone(),
        Pattern::Below(prefix) => format!("{prefix}/{}", SEGMENTS.choose(r).unwrap()).parse().unwrap(),
    };
    let anywhere = token.restrictions.iter().filter_map(|x| if let Restriction::Limit(l) = x { Some(l) } else { None });
    let limits: Vec<&Limit> = capability.limits().iter().chain(anywhere).collect();
    let last = token.restrictions.iter().filter_map(|x| if let Restriction::Until(t) = x { Some(*t) } else { None }).chain([token.block0.expires_secs]);
    let cards = token.links.iter().filter_map(|l| l.card.as_ref().map(|c| c.claimed().expires_secs));
    let ends = last.chain(cards).min().unwrap();
    let services: Vec<&Name> =
        token.block0.audiences.iter().filter(|a| token.restrictions.iter().all(|x| !matches!(x, Restriction::Audiences(l) if !l.contains(a)))).collect();
    let classes = token.restrictions.iter().filter_map(|x| if let Restriction::ClassMax(c) = x { Some(*c) } else { None });
    let mut asked = Asked {
        now: UtcMillis(r.random_range(token.block0.not_before_secs..ends) * 1_000 + r.random_range(0..1_000)),
        tenant: "acme".parse().unwrap(),
        audience: format!("{}/1", services.choose(r).unwrap()).parse().unwrap(),
        tool: capability.tool().clone(),
        action: capability.action().clone(),
        resource,
        args: args(r, &limits),
        data_class: classes.chain([token.block0.class_max]).min().unwrap(),
        signed_by_last: true,
    };
    if r.random_bool(SPOILED) {
        for _ in 0..r.random_range(1..=2) {
            spoil(r, &mut asked, token, ends);
        }
    }
    asked
}

/// Arguments that satisfy all the limits, where that can be.
fn args(r: &mut StdRng, limits: &[&Limit]) -> Arguments {
    let mut args = Arguments::default();
    let (mut low, mut high, mut in_unit) = (-30, 30, None);
    let mut texts: Vec<&str> = TEXTS.to_vec();
    for limit in limits {
        match limit {
            Limit::AtMost { max, unit, .. } => (high, in_unit) = (high.min(*max), Some(unit)),
            Limit::AtLeast { min, unit, .. } => (low, in_unit) = (low.max(*min), Some(unit)),
            Limit::OneOf { values, .. } => texts.retain(|t| values.iter().any(|v| v == t)),
        }
    }
    // The edges are where off-by-one lives.
    let n = match r.random_range(0..3) {
        0 => low,
        1 => high,
        _ => r.random_range(low.min(high)..=high.max(low)),
    };
    let unit = in_unit.cloned().unwrap_or_default();
    let value = if unit.as_str().is_empty() { Value::Int(n) } else { Value::Quantity { minor: n, unit } };
    args.insert("amount".parse().unwrap(), value).unwrap();
    if let Some(text) = texts.choose(r) {
        args.insert("kind".parse().unwrap(), Value::Text((*text).to_owned())).unwrap();
    }
    if r.random_bool(0.2) {
        args.insert("note".parse().unwrap(), Value::List(vec![Value::Null, Value::Bool(true)])).unwrap();
    }
    args
}

fn spoil(r: &mut StdRng, asked: &mut Asked, token: &Token, ends: u64) {
    match r.random_range(0..10) {
        0 => asked.now = UtcMillis(ends * 1_000 + r.random_range(0..2) * 500),
        1 => asked.now = UtcMillis(token.block0.not_before_secs * 1_000 - 1),
        2 => asked.tenant = "globex".parse().unwrap(),
        3 => asked.audience = format!("{}/1", SERVICES.choose(r).unwrap()).parse().unwrap(),
        4 => asked.tool = TOOLS.choose(r).unwrap().parse().unwrap(),
        5 => asked.action = ACTIONS.choose(r).unwrap().parse().unwrap(),
        6 => asked.resource = path(r),
        7 => asked.data_class = *CLASSES.choose(r).unwrap(),
        8 => asked.signed_by_last = false,
        _ => {
            let mut args = Arguments::default();
            if r.random_bool(0.8) {
                let value = match r.random_range(0..4) {
                    0 => Value::Text("20".into()),
                    1 => Value::Int(r.random_range(-40..40)),
                    _ => Value::Quantity { minor: r.random_range(-40..40), unit: UNITS[1..].choose(r).unwrap().parse().unwrap() },
                };
                args.insert("amount".parse().unwrap(), value).unwrap();
            }
            if r.random_bool(0.8) {
                let value = if r.random_bool(0.9) { Value::Text((*TEXTS.choose(r).unwrap()).to_owned()) } else { Value::Int(1) };
                args.insert("kind".parse().unwrap(), value).unwrap();
            }
            asked.args = args;
        }
    }
}

/// How often a call is spoiled: chosen so that allows and denies are in balance, which the differential test asserts.
const SPOILED: f64 = 0.45;
